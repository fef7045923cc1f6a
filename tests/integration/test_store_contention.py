"""Many at once, on both stores: nothing shared, nothing starved, nothing locked up."""

import json
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from headway.clock import new_id
from headway.states import Status
from headway.testing import new_prediction
from headway.types import Outcome
from storage.engine import Database
from storage.predictions import Predictions
from storage.returning import Returned
from storage.running import Finished
from storage.turnstile import Turnstile
from storage.workers import Workers

ROWS = 1_600

CLAIMER = """
import sys
from headway import broker
from headway.clock import new_id
from headway.types import Outcome
from storage.engine import Database
from storage.predictions import Predictions
from storage.running import Finished
from storage.workers import Workers

url, worker, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
database = Database.open(url)
predictions = Predictions(database)
Workers(database).register(worker, "cpu", "host", 1)
line = broker.line("digits", "1", 5)

def step():
    hints = predictions.oldest_queued(line, 40)
    claim = new_id()
    ids = [row.id for row in predictions.claim(claim, worker, [hint.id for _, hint in hints], "digits", "1")]
    outcomes = [Outcome(id=id_, output=b"1") for id_ in ids]
    ended = predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=bool(ids))])
    assert ended.keys() == set(ids)
    sys.stdout.write("".join(id_ + "\\n" for id_ in ids))  # one write: threads must not mix their lines
    return bool(hints)

def work(_):
    while step():
        pass

step()  # everyone has had a share before they race for the rest
print("ready", flush=True)
sys.stdin.readline()
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(threads) as pool:
    list(pool.map(work, range(threads)))
database.close()
"""


def until_ready(process: "subprocess.Popen[str]") -> list[str]:
    """The ids a claimer took before the race."""
    assert process.stdout is not None
    return [line.strip() for line in iter(process.stdout.readline, "ready\n")]


def test_claimers_in_threads_and_processes_never_share_a_row(store: Any, database_url: str) -> None:
    ids: list[str] = []
    for _ in range(ROWS // 200):
        ids += store.submitted(200)

    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, database_url, name, "3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("p1", "p2")
    ]
    first = [until_ready(process) for process in processes]
    outputs = [process.communicate("go\n", timeout=60) for process in processes]

    assert [process.returncode for process in processes] == [0, 0], outputs
    taken = [[*before, *output.split()] for before, (output, _) in zip(first, outputs, strict=True)]
    assert sorted(taken[0] + taken[1]) == sorted(ids)
    assert store.predictions.count_by_status() == {Status.SUCCEEDED: ROWS}
    assert store.count("claims") == 0


def test_finishes_of_interleaved_claims_do_not_deadlock(store: Any) -> None:
    ids = store.submitted(240)
    dice = random.Random(7)

    def work(n: int) -> None:
        mine = ids[n::4]
        for _ in range(8):
            pairs = [store.claimed(part) for part in (mine[::2], mine[1::2])]
            finished, returned = [], []
            for claim, rows in pairs:
                dice.shuffle(rows)
                finished.append(
                    Finished(claim=claim, outcomes=[Outcome(id=r.id, output=b"1") for r in rows[5:]], settled=False)
                )
                returned.append((claim, [Returned(id=row.id) for row in rows[:5]]))
            ended = store.predictions.finish(finished)
            assert len(ended) == sum(len(one.outcomes) for one in finished)
            for claim, rows in returned:
                store.predictions.give_back(claim, rows, True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))

    assert store.count("claims") == 0
    assert sum(store.predictions.count_by_status().values()) == 240


def test_a_busy_submitter_does_not_starve_a_worker(store: Any, database_url: str) -> None:
    """A few writers that never pause, in two processes; each of another's transactions still gets its turn soon."""
    hammer = (
        "import sys, threading\n"
        "from headway.testing import new_prediction\n"
        "from storage.engine import Database\n"
        "from storage.predictions import Predictions\n"
        "database = Database.open(sys.argv[1])\n"
        "predictions = Predictions(database)\n"
        "stop = threading.Event()\n"
        "def work():\n"
        "    while not stop.is_set():\n"
        "        predictions.insert([new_prediction(line='headway:other@1:1') for _ in range(16)])\n"
        "threads = [threading.Thread(target=work) for _ in range(2)]\n"
        "[thread.start() for thread in threads]\n"
        "print('busy', flush=True)\n"
        "sys.stdin.read()\n"
        "stop.set()\n"
        "[thread.join() for thread in threads]\n"
        "database.close()\n"
    )
    ids = store.submitted(60)
    process = subprocess.Popen(
        [sys.executable, "-c", hammer, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"busy\n"
        waits = []
        for id_ in ids:
            start = time.monotonic()
            claim, rows = store.claimed([id_])
            assert store.finished(claim, [row.id for row in rows]) == {id_}
            waits.append(time.monotonic() - start)
    finally:
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert sorted(waits)[len(waits) // 2] < 0.5
    assert max(waits) < 3


def test_a_killed_holder_frees_the_turnstile(tmp_path: Path) -> None:
    holder = (
        "import sys\n"
        "from storage.turnstile import Turnstile\n"
        "with Turnstile(sys.argv[1]).passed():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    file = str(tmp_path / "file.db")
    process = subprocess.Popen([sys.executable, "-c", holder, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    turnstile = Turnstile(file)
    passed = threading.Event()

    def wait() -> None:
        with turnstile.passed():
            passed.set()

    waiting = threading.Thread(target=wait)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        waiting.start()
        assert not passed.wait(0.1)
    finally:
        process.kill()
        process.communicate()
    assert passed.wait(5)
    waiting.join()
    turnstile.close()


def test_the_turn_is_one_at_a_time_and_is_shared_evenly_by_threads(tmp_path: Path) -> None:
    turnstile = Turnstile(str(tmp_path / "file.db"))
    inside = 0
    turns: list[int] = []
    begun = threading.Barrier(4)

    def work(n: int) -> None:
        nonlocal inside
        begun.wait(5)
        while len(turns) < 400:
            with turnstile.passed():
                inside += 1
                assert inside == 1
                turns.append(n)
                time.sleep(0.0002)  # what a transaction takes; the others wait meanwhile
                inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    turnstile.close()

    assert min(turns.count(n) for n in range(4)) > 40


def test_an_error_within_the_turn_frees_it(tmp_path: Path) -> None:
    turnstile = Turnstile(str(tmp_path / "file.db"))
    with pytest.raises(ValueError, match="inside"), turnstile.passed():
        raise ValueError("inside")
    with turnstile.passed():
        pass
    turnstile.close()


def test_finishing_successes_rewrites_no_index_on_postgresql(postgres_url: str) -> None:
    database = Database.open(postgres_url)
    predictions = Predictions(database)
    Workers(database).register("w1", "cpu", "host", 1)
    rows = [new_prediction() for _ in range(256)]
    predictions.insert(rows)
    claims = {}
    for start in range(0, 256, 32):
        claim = new_id()
        claims[claim] = predictions.claim(claim, "w1", [row.id for row in rows[start : start + 32]], "digits", "1")
    fences = [{"id": row.id, "claim": claim, "status": 3} for claim, taken in claims.items() for row in taken]

    with database.write() as connection:
        database.run(connection, "finish", rows=json.dumps(fences), outputs=[b"[0.5]"] * 256, claims="{}")
        updated, hot = connection.exec_driver_sql(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'predictions'"
        ).one()
    database.close()

    assert updated == 256
    assert hot > 0.5 * updated  # nearly all, if outputs are short and pages have room; none, if an index were touched
