"""The device process with real processes: what a model may do to it, and what the worker then sees."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from headway.errors import ItemCode, ManifestError
from headway.manifest import read
from headway.model import Context
from headway.testing import wait_until
from headway.types import Outcome
from headway.versions import scan_model
from launch import check, scaffold
from workers import loaders
from workers.executor import DeviceHung, DeviceLost, Executor, LoadFailed, Reply, Said

ROOT = Path(__file__).resolve().parents[2]

OBEDIENT = """
import ctypes, os, subprocess, sys, threading, time
import numpy as np
from headway import InvalidInput, Model

class Obedient(Model):
    def load(self, context):
        self.context = context
        print("loaded", context.device)

    def predict(self, inputs, context):
        return [self.do(value, item.id) for value, item in zip(inputs, context.items, strict=True)]

    def do(self, value, id_):
        match value:
            case "exit": os._exit(3)
            case "segfault": ctypes.string_at(0)
            case "hang": threading.Event().wait()
            case "print": print("x" * 200_000); os.write(1, b"y" * 200_000)
            case "raise": raise ValueError("asked to")
            case "return": return InvalidInput("asked to")
            case "nan": return float("nan")
            case "array": return np.arange(3, dtype=np.float32)
            case "config": return self.context.config["config"]
            case "environment": return {k: os.environ.get(k) for k in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")}
            case "settings": return [name for name in os.environ if name.startswith(("HEADWAY_", "FLOWER_"))]
            case "torch": return "torch" in sys.modules
            case "path": return sys.path[0]
            case "child":
                return subprocess.Popen(["sleep", "300"], close_fds=False).pid
        return [id_, value]
"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Executor]]:
    """Writes a model folder and makes its executor; ends every process that a test leaves behind."""
    made: list[Executor] = []

    def serve(model_py: str | None = OBEDIENT, toml: str = "", device: str = "cpu") -> Executor:
        folder = tmp_path / "models" / f"m{len(made)}"
        (folder / "1").mkdir(parents=True, exist_ok=True)
        (folder / "model.toml").write_text(toml, encoding="utf-8")
        if model_py is not None:
            (folder / "1" / "model.py").write_text(textwrap.dedent(model_py), encoding="utf-8")
        made.append(Executor(model=folder.name, version="1", path=folder / "1", manifest=read(folder), device=device))
        return made[-1]

    yield serve
    for executor in made:
        executor.kill()


def run(executor: Executor, *values: Any, call_id: int = 1) -> list[Outcome]:
    executor.submit(call_id, [(f"id-{index}", msgspec.json.encode(value)) for index, value in enumerate(values)])
    reply = executor.receive()
    assert reply.call_id == call_id
    return reply.outcomes


def answers(outcomes: list[Outcome]) -> list[Any]:
    return [msgspec.json.decode(o.output) if o.output is not None else o.error and o.error.code for o in outcomes]


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie that nobody reaps has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_each_item_gets_its_own_answer_and_a_bad_one_fails_alone(serve: Callable[..., Executor]) -> None:
    executor = serve()
    loaded = executor.load()
    assert (loaded.framework, loaded.inputs) == ("python", {})
    assert loaded.memory_bytes is not None
    outcomes = run(executor, "a", "raise", "return", "nan", "array", "b")
    assert answers(outcomes) == [
        ["id-0", "a"], ItemCode.MODEL_ERROR, ItemCode.INVALID_INPUT, ItemCode.OUTPUT_INVALID, [0, 1, 2], ["id-5", "b"],
    ]  # fmt: skip
    assert outcomes[1].error is not None
    assert outcomes[1].error.message == "ValueError: asked to"
    assert [o.batch_size for o in run(executor, *"abc", call_id=2)] == [3, 3, 3]


def test_a_thousand_batches_with_one_poison_each_cost_ten_more_passes_at_most(serve: Callable[..., Executor]) -> None:
    model_py = """
        from headway import Model

        class Counts(Model):
            passes = 0

            def predict(self, inputs):
                self.passes += 1
                if "poison" in inputs:
                    raise ValueError("poison")
                return [self.passes] * len(inputs)
    """
    executor = serve(model_py)
    executor.load()
    batches, size = 1000, 32
    chance = random.Random(5)
    places = [chance.randrange(size) for _ in range(batches)]
    for number, place in enumerate(places):
        outcomes = run(executor, *("poison" if index == place else 1 for index in range(size)), call_id=number)
        assert [index for index, one in enumerate(outcomes) if one.error is not None] == [place]
    (passes,) = answers(run(executor, 1, call_id=batches))
    extra = (passes - 1) / batches - 1
    print(f"{extra:.2f} extra forward passes a batch")
    assert extra <= 10


def test_a_reply_says_how_many_did_not_fit_into_memory(serve: Callable[..., Executor]) -> None:
    model_py = """
        from headway import Model

        class Narrow(Model):
            def predict(self, inputs):
                if len(inputs) > 4 or "huge" in inputs:
                    raise MemoryError("no room")
                return inputs
    """
    executor = serve(model_py)
    executor.load()

    def reply_to(*values: Any) -> Reply:
        executor.submit(1, [(str(index), msgspec.json.encode(value)) for index, value in enumerate(values)])
        return executor.receive()

    assert reply_to(1, 2, 3, 4).too_many is None
    crowded = reply_to(*range(24))
    assert crowded.too_many == 6
    assert answers(crowded.outcomes) == list(range(24))
    alone = reply_to("huge")  # says nothing of how many there may be
    assert (alone.too_many, answers(alone.outcomes)) == (None, [ItemCode.OUT_OF_MEMORY])


def test_two_calls_in_flight_are_answered_in_order(serve: Callable[..., Executor]) -> None:
    executor = serve()
    executor.load()
    big = [(str(index), msgspec.json.encode("z" * 1_000_000)) for index in range(8)]  # more than a pipe holds
    executor.submit(1, big)
    executor.submit(2, big)
    assert [executor.receive().call_id, executor.receive().call_id] == [1, 2]


READS_AHEAD = """
import gc, time
from headway import Model

class ReadsAhead(Model):
    def predict(self, inputs, context):
        if inputs == ["look"]:
            context.items[0].emit("waiting")
            give_up = time.monotonic() + 10
            while not (seen := [one for one in gc.get_objects() if type(one) is list and one[:1] == ["ma" + "rk"]]):
                if time.monotonic() > give_up: break
            return [len(seen)]
        if inputs == ["wait"]:
            item, = context.items
            item.emit("waiting")
            while not item.canceled(): time.sleep(0.005)
            return inputs
        kinds = [value.pop() for value in inputs]
        inputs.clear()
        if "raise" in kinds: raise ValueError("asked to")
        return kinds
"""


def of_16_kib(first: str, last: str) -> bytes:
    return msgspec.json.encode([first, "x" * 16_384, last])


def test_while_the_model_is_at_a_call_the_inputs_of_the_next_are_decoded(serve: Callable[..., Executor]) -> None:
    executor = serve(READS_AHEAD)
    executor.load()
    executor.submit(1, [("a", b'"look"')])
    assert isinstance(executor.hear(60), Said)
    executor.submit(2, [(id_, of_16_kib("mark", "ok")) for id_ in "bcd"])
    ((seen,), answered) = answers(executor.receive().outcomes), answers(executor.receive().outcomes)
    assert seen >= 1
    assert answered == ["ok"] * 3


def test_what_was_decoded_ahead_is_given_once_and_to_nobody_who_was_canceled_meanwhile(
    serve: Callable[..., Executor],
) -> None:
    executor = serve(READS_AHEAD)
    executor.load()
    executor.submit(1, [("first", b'"wait"')])
    assert isinstance(executor.hear(60), Said)
    bodies = {
        "fine": of_16_kib("", "fine"), "guilty": of_16_kib("", "raise"), "broken": b"[", "gone": of_16_kib("", "gone"),
        "bytes": bytes(16_384), "last": of_16_kib("", "last"),
    }  # fmt: skip
    executor.submit(2, list(bodies.items()), {"bytes": "application/octet-stream"})
    executor.cancel(2, ["gone"])
    executor.cancel(1, ["first"])
    executor.receive()
    second = executor.receive().outcomes
    assert [one.id for one in second] == list(bodies)
    assert [one.id for one in second if one.canceled] == ["gone"]
    # Halves are decoded anew, or they would be given lists that the model has emptied; and bytes cannot be popped.
    assert answers(second) == [
        "fine", ItemCode.MODEL_ERROR, ItemCode.INVALID_INPUT, None, ItemCode.MODEL_ERROR, "last",
    ]  # fmt: skip
    assert second[1].error is not None
    assert second[1].error.message == "ValueError: asked to"


def test_a_cancel_that_finds_no_room_is_sent_once_there_is_some(serve: Callable[..., Executor]) -> None:
    executor = serve(READS_AHEAD)
    executor.load()
    executor.submit(1, [("first", b'"wait"')])
    assert isinstance(executor.hear(60), Said)
    assert executor.pid is not None
    os.kill(executor.pid, signal.SIGSTOP)
    executor.submit(2, [(id_, of_16_kib("", id_)) for id_ in "abcdef"])  # more than leaves a socket writable
    executor.cancel(1, ["first"])
    os.kill(executor.pid, signal.SIGCONT)
    assert [one.canceled for one in executor.receive().outcomes] == [True]
    assert answers(executor.receive().outcomes) == list("abcdef")


CHATTY = """
import threading, time
from headway import Model

class Chatty(Model):
    def predict(self, inputs, context):
        self.kept = getattr(self, "kept", None) or context.items[0]
        return [self.do(value, item) for value, item in zip(inputs, context.items, strict=True)]

    def do(self, value, item):
        match value:
            case ["emit", *partials]:
                for partial in partials: item.emit(partial)
            case ["progress", count]:
                for n in range(count): item.progress((n + 1) / count, f"step {n + 1}")
            case ["threads", count]:
                threads = [threading.Thread(target=item.emit, args=(n,)) for n in range(count)]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
            case "raise": raise ValueError("asked to")
            case "large":
                try: item.emit("x" * 300_000)
                except ValueError as error: return str(error)
            case "late":
                self.kept.emit("late"), self.kept.progress(0.5)
                return self.kept.canceled()
            case "flood":
                for n in range(200): item.emit("y" * 200_000)
            case "wait":
                item.emit("waiting")
                while not item.canceled(): time.sleep(0.005)
            case "wait and raise":
                item.emit("waiting")
                while not item.canceled(): time.sleep(0.005)
                raise RuntimeError("canceled")
            case "deaf":
                item.emit("waiting"); time.sleep(0.3)
        return value
"""


def heard(executor: Executor) -> tuple[list[tuple[str, str, Any]], list[Outcome]]:
    """Everything up to the next reply."""
    sayings: list[tuple[str, str, Any]] = []
    while not isinstance(answer := executor.hear(60), Reply):
        if answer is not None:  # None: it was woken, or looks again whether a cancel can be sent
            sayings += [(id_, what, msgspec.json.decode(json) if json else None) for id_, what, json in answer.sayings]
    return sayings, answer.outcomes


def asked(executor: Executor, *values: Any, call_id: int = 1) -> None:
    executor.submit(call_id, [(f"id-{index}", msgspec.json.encode(value)) for index, value in enumerate(values)])


def test_what_a_model_emits_arrives_in_order_before_the_reply_and_of_progress_the_last(
    serve: Callable[..., Executor],
) -> None:
    executor = serve(CHATTY)
    executor.load()
    asked(executor, ["emit", 1, {"two": [2.5]}, None], ["progress", 1000], ["threads", 50])
    sayings, outcomes = heard(executor)
    assert [said for id_, _, said in sayings if id_ == "id-0"] == [1, {"two": [2.5]}, None]
    progress = [said for _, what, said in sayings if what == "progress"]
    assert progress[0] == {"fraction": 0.001, "message": "step 1"}
    assert progress[-1] == {"fraction": 1.0, "message": "step 1000"}
    assert len(progress) < 20
    assert sorted(said for id_, _, said in sayings if id_ == "id-2") == list(range(50))
    assert len(outcomes) == 3


def test_more_than_a_pipe_holds_is_emitted_while_the_worker_is_busy_elsewhere(serve: Callable[..., Executor]) -> None:
    executor = serve(CHATTY)
    executor.load()
    asked(executor, "flood")
    sayings, _ = heard(executor)
    assert len(sayings) == (8 * 1024 * 1024) // 200_002  # all that one attempt may


def test_a_partial_output_that_is_too_large_is_refused_and_what_is_said_after_the_call_is_not_heard(
    serve: Callable[..., Executor],
) -> None:
    executor = serve(CHATTY)
    executor.load()
    asked(executor, "large")
    sayings, outcomes = heard(executor)
    assert answers(outcomes) == ["the partial output is 300,002 bytes of JSON, and may have 262,144 at most"]
    asked(executor, "late", call_id=2)  # the item of the first call
    more, outcomes = heard(executor)
    assert sayings + more == []
    assert answers(outcomes) == [False]


def test_what_was_emitted_is_not_emitted_twice_when_a_batch_is_split(serve: Callable[..., Executor]) -> None:
    executor = serve(CHATTY)
    executor.load()
    asked(executor, ["emit", 1, 1, 2], ["emit", 3], "raise", ["emit", 4])
    sayings, outcomes = heard(executor)
    assert [(id_, said) for id_, _, said in sayings] == [
        ("id-0", 1),
        ("id-0", 1),
        ("id-0", 2),
        ("id-1", 3),
        ("id-3", 4),
    ]
    assert answers(outcomes)[2] is ItemCode.MODEL_ERROR


@pytest.mark.parametrize("way", ["wait", "wait and raise"])
def test_an_item_whose_cancel_the_model_was_told_ends_canceled_and_its_mates_succeed(
    serve: Callable[..., Executor], way: str
) -> None:
    executor = serve(CHATTY)
    executor.load()
    asked(executor, "a", way, "b")
    first = executor.hear(30)
    assert isinstance(first, Said)
    executor.cancel(1, ["id-1"])
    sayings, outcomes = heard(executor)
    assert sayings == [("id-1", "canceled", None)]
    assert [one.canceled for one in outcomes] == [False, True, False]
    assert answers([outcomes[0], outcomes[2]]) == ["a", "b"]


def test_an_item_that_is_canceled_before_its_call_begins_is_not_computed(serve: Callable[..., Executor]) -> None:
    executor = serve(CHATTY)
    executor.load()
    asked(executor, "deaf", call_id=1)
    asked(executor, ["emit", "computed"], "b", call_id=2)
    assert isinstance(executor.hear(30), Said)  # the first has begun
    executor.cancel(2, ["id-0"])
    executor.cancel(1, ["id-0"])  # it does not ask, so its answer counts
    _, (deaf,) = heard(executor)
    assert answers([deaf]) == ["deaf"]
    executor.cancel(1, ["id-0"])  # over: means nothing
    sayings, outcomes = heard(executor)
    assert sayings == []
    assert [one.canceled for one in outcomes] == [True, False]


def test_a_wait_for_what_a_process_says_ends_in_time_or_when_it_is_woken(serve: Callable[..., Executor]) -> None:
    executor = serve(CHATTY)
    executor.load()
    assert executor.hear(0.01) is None
    executor.wake()
    assert executor.hear(60) is None
    asked(executor, "a")
    assert heard(executor)[0] == []


def test_a_cancel_does_not_wait_for_a_process_that_does_not_read(serve: Callable[..., Executor]) -> None:
    executor = serve(CHATTY)
    executor.load()
    assert executor.pid is not None
    os.kill(executor.pid, signal.SIGSTOP)
    stuck = threading.Thread(target=asked, args=(executor, "x" * 10_000_000))
    stuck.start()
    wait_until(executor._sending.locked, what="the pipe to be full")
    executor.cancel(1, ["id-0"])
    executor.wake()
    assert executor.hear(60) is None
    os.kill(executor.pid, signal.SIGCONT)
    stuck.join(30)
    assert len(heard(executor)[1]) == 1


def test_what_a_model_prints_stays_out_of_the_conversation(serve: Callable[..., Executor]) -> None:
    executor = serve()
    executor.load()
    assert answers(run(executor, "print", "a")) == [["id-0", "print"], ["id-1", "a"]]


@pytest.mark.parametrize(
    ("deed", "said"), [("exit", "exited with code 3"), ("segfault", f"signal {signal.SIGSEGV.value} ")]
)
def test_a_crash_is_seen_at_once_and_told_how(serve: Callable[..., Executor], deed: str, said: str) -> None:
    executor = serve()
    executor.load()
    with pytest.raises(DeviceLost, match=said):
        run(executor, "a", deed)
    with pytest.raises(DeviceLost):
        executor.submit(2, [("id", b"1")])
    executor.kill()
    fresh = serve()
    fresh.load()
    assert answers(run(fresh, "a")) == [["id-0", "a"]]


def test_a_hang_is_seen_after_the_timeout_also_behind_a_call_that_was_fine(serve: Callable[..., Executor]) -> None:
    executor = serve(toml="[limits]\ntimeout_s = 0.3")
    executor.load()
    executor.submit(1, [("a", b'"a"')])
    executor.submit(2, [("b", b'"hang"')])
    assert executor.receive().call_id == 1
    with pytest.raises(DeviceHung, match=r"0\.3 s"):
        executor.receive()
    pid = executor.pid
    executor.kill()
    assert pid is not None
    assert gone(pid)


def test_a_hang_is_seen_though_the_worker_was_waiting_before_the_call(serve: Callable[..., Executor]) -> None:
    executor = serve(toml="[limits]\ntimeout_s = 0.3")
    executor.load()
    seen: list[BaseException] = []

    def receive() -> None:
        try:
            executor.receive()
        except DeviceHung as error:
            seen.append(error)

    waiting = threading.Thread(target=receive)
    waiting.start()
    executor.submit(1, [("a", b'"hang"')])
    waiting.join(10)
    assert len(seen) == 1


@pytest.mark.parametrize("end", ["kill", "close"])
def test_whoever_waits_for_a_reply_learns_that_the_process_was_ended(serve: Callable[..., Executor], end: str) -> None:
    executor = serve()
    executor.load()
    seen: list[BaseException] = []

    def receive() -> None:
        try:
            executor.receive()
        except DeviceLost as error:
            seen.append(error)

    waiting = threading.Thread(target=receive)
    waiting.start()
    getattr(executor, end)()
    waiting.join(10)
    assert len(seen) == 1
    with pytest.raises(DeviceLost):
        executor.submit(1, [])
    executor.close()  # twice does no harm


def test_a_model_that_ignores_a_polite_end_is_killed(serve: Callable[..., Executor]) -> None:
    executor = serve()
    executor.load()
    pid = executor.pid
    executor.submit(1, [("a", b'"hang"')])
    executor.close()
    assert pid is not None
    assert gone(pid)


def test_a_helper_of_the_model_dies_with_it_and_hides_no_crash(serve: Callable[..., Executor]) -> None:
    executor = serve()
    executor.load()
    ((helper),) = answers(run(executor, "child"))
    assert not gone(helper)
    assert executor.pid is not None
    os.kill(executor.pid, signal.SIGKILL)
    with pytest.raises(DeviceLost, match=r"signal 9"):
        executor.receive()
    executor.kill()
    wait_until(lambda: gone(helper), what="the helper's end")


def test_the_process_dies_with_its_worker(serve: Callable[..., Executor], tmp_path: Path) -> None:
    serve()
    worker = """
        import sys, threading
        from pathlib import Path
        from headway.manifest import read
        from workers.executor import Executor
        folder = Path(sys.argv[1])
        executor = Executor(model="m", version="1", path=folder / "1", manifest=read(folder), device="cpu")
        loading = threading.Thread(target=executor.load)  # a thread that ends: the process must outlive that one
        loading.start(); loading.join()
        executor.submit(1, [("a", b'"a"')]); executor.receive()
        executor.submit(2, [("a", b'"hang"')])
        print(executor.pid, flush=True)
        threading.Event().wait()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(worker), str(tmp_path / "models" / "m0")],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.kill()
    wait_until(lambda: gone(child), what="the device process's end")


@pytest.mark.parametrize(
    ("model_py", "toml", "said"),
    [
        ("class A(:", "", r"SyntaxError: .*model\.py, line 1"),
        ("import nowhere", "", r"ModuleNotFoundError: .*'nowhere' \(model\.py, line 1\)"),
        ("x = 1", "", r"no subclass of headway\.Model"),
        ("from headway import Model\nclass A(Model): pass", "", "abstract"),
        ("import sys\nsys.exit(4)", "", r"SystemExit: 4"),
        ("import os\nos._exit(4)", "", "exited with code 4"),
        (
            "from headway import Model\nclass A(Model):\n    predict = print\nclass B(Model):\n    predict = print",
            "",
            'A and B: say which one, .*"model:A"',
        ),
        ("from headway import Model\nclass A(Model):\n    async def predict(self, inputs): ...", "", "async"),
        (OBEDIENT, "[model]\nexample = 'raise'", r"\[model\] example fails in a batch of 1: .*asked to"),
        (OBEDIENT, "[model]\nentry = 'model:Nobody'", "model:Nobody"),
        (None, "", r"no MAR-INF/MANIFEST\.json, .*model\.py"),
    ],
    ids=[
        "syntax",
        "import",
        "empty",
        "abstract",
        "sys.exit",
        "os._exit",
        "two",
        "async",
        "example",
        "entry",
        "no file",
    ],
)
def test_a_broken_model_says_why_it_does_not_load(
    serve: Callable[..., Executor], model_py: str | None, toml: str, said: str
) -> None:
    executor = serve(model_py, toml)
    with pytest.raises(LoadFailed, match=said):
        executor.load(timeout_s=30)
    assert executor.pid is not None
    assert gone(executor.pid)


def test_a_load_that_takes_too_long_is_given_up(serve: Callable[..., Executor]) -> None:
    executor = serve("import threading\nthreading.Event().wait()")
    with pytest.raises(LoadFailed, match="within"):
        executor.load(timeout_s=1)
    assert executor.pid is not None
    assert gone(executor.pid)


def test_an_unknown_device_is_refused(serve: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadFailed, match="gpu7"):
        serve(device="gpu7").load()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(LoadFailed, match="cuda:2"):
        serve(device="cuda:2").load()


@pytest.mark.parametrize(("visible", "seen"), [(None, "1"), ("4,5", "5"), ("GPU-a,GPU-b", "GPU-b")])
def test_a_process_is_pinned_before_it_could_import_a_framework(
    serve: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch, visible: str | None, seen: str
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    executor = serve(device="cuda:1")
    executor.load()
    assert answers(run(executor, "environment", "torch")) == [
        {"CUDA_VISIBLE_DEVICES": seen, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        False,
    ]


def test_a_model_is_given_no_password_of_ours(serve: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_DATABASE_URL", "postgresql://headway:secret@db/headway")
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "operator:secret")
    executor = serve()
    executor.load()
    assert answers(run(executor, "settings")) == [[]]


def test_the_cpu_sees_no_gpu_and_a_plain_model_no_torch(serve: Callable[..., Executor]) -> None:
    executor = serve(toml="[config]\nthreshold = 0.5")
    executor.load()
    environment, torch, path, config = answers(run(executor, "environment", "torch", "path", "config"))
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert torch is False
    assert path.endswith("/models/m0/1")
    assert config == {"threshold": 0.5}


def test_typed_inputs_arrive_as_arrays_and_one_that_does_not_fit_fails_alone(serve: Callable[..., Executor]) -> None:
    model_py = """
        from headway import Model

        class Doubles(Model):
            def predict(self, inputs):
                return [{"dtype": str(i["x"].dtype), "doubled": i["x"] * 2} for i in inputs]
    """
    executor = serve(model_py, '[inputs.x]\ndtype = "float32"\nshape = [2]')
    executor.load()
    fine = {"dtype": "float32", "doubled": [2.0, 4.0]}
    outcomes = run(executor, {"x": [1, 2]}, {"x": [1, 2, 3]}, [1, 2])
    assert answers(outcomes) == [fine, ItemCode.INVALID_INPUT, fine]
    assert outcomes[1].error is not None
    assert outcomes[1].error.message.startswith("/x has length 3")


def test_an_entry_names_a_class_of_a_package_in_the_version_folder(serve: Callable[..., Executor]) -> None:
    executor = serve(None, "[model]\nentry = 'net.model:Net'")
    package = executor._path / "net"
    package.mkdir()
    (package / "words.py").write_text("HELLO = 'hello'", encoding="utf-8")
    (package / "model.py").write_text(
        "from headway import Model\nfrom net.words import HELLO\n"
        "class Net(Model):\n    def predict(self, inputs):\n        return [HELLO for _ in inputs]\n",
        encoding="utf-8",
    )
    executor.load()
    assert answers(run(executor, 1)) == ["hello"]


# ── graphs ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported once for all tests below: free.pt2, fixed.pt2, few.pt2 (up to 8), script.pt."""
    import torch
    from torch.export import Dim, export, save

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"scaled": x * scale, "total": x.sum(dim=1)}

    class Sum(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(dim=1)

    folder = tmp_path_factory.mktemp("graphs")
    batch, length = Dim("batch"), Dim("length", max=64)
    args = (torch.zeros(2, 5), torch.zeros(2, 1))
    free = export(Net(), args, dynamic_shapes={"x": {0: batch, 1: length}, "scale": {0: batch}})
    save(free, folder / "free.pt2")
    save(export(Sum(), (torch.zeros(2, 5),)), folder / "fixed.pt2")
    save(export(Sum(), (torch.zeros(2, 5),), dynamic_shapes={"x": {0: Dim("b", max=8)}}), folder / "few.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(Sum(), torch.zeros(2, 3)).save(folder / "script.pt")  # type: ignore[no-untyped-call]
    return folder


def put(executor: Executor, source: Path, name: str) -> Executor:
    (executor._path / name).write_bytes(source.read_bytes())
    return executor


def test_an_exported_graph_says_what_it_takes_and_serves_items_of_unequal_lengths(
    serve: Callable[..., Executor], graphs: Path
) -> None:
    executor = put(serve(None), graphs / "free.pt2", "model.pt2")
    loaded = executor.load()
    assert loaded.framework == "torch.export"
    assert {name: (t.dtype, t.shape) for name, t in loaded.inputs.items()} == {
        "x": ("float32", (-1,)),
        "scale": ("float32", (1,)),
    }
    assert {name: (t.dtype, t.shape) for name, t in loaded.outputs.items()} == {
        "scaled": ("float32", (-1,)),
        "total": ("float32", ()),
    }
    outcomes = run(
        executor,
        {"x": [1, 2], "scale": [2]},
        {"x": [1, 2, 3], "scale": [0.5]},
        {"x": [[1]], "scale": [1]},
        {"x": [5, 6], "scale": [1e38]},
        {"x": [3, 4], "scale": [1]},
    )
    assert answers(outcomes) == [
        {"scaled": [2, 4], "total": 3},
        {"scaled": [0.5, 1, 1.5], "total": 6},
        ItemCode.INVALID_INPUT,
        ItemCode.OUTPUT_INVALID,
        {"scaled": [3, 4], "total": 7},
    ]


@pytest.mark.parametrize(
    ("graph", "toml", "said"),
    [
        ("fixed.pt2", "", "fixed batch size.*torch.export.Dim"),
        ("few.pt2", "", "max_batch_size = 8"),
        ("free.pt2", "[inputs.y]\ndtype = 'float32'", "the graph takes x, scale"),
        (
            "free.pt2",
            "[inputs.x]\ndtype = 'float64'\nshape = [-1]\n[inputs.scale]\ndtype = 'float32'\nshape = [1]",
            r"\[inputs.x\] declares float64",
        ),
        ("script.pt", "", "TorchScript, which does not say what it takes"),
        ("rubbish", "", "zip"),
    ],
    ids=["fixed", "few", "names", "dtype", "script", "rubbish"],
)
def test_a_graph_that_cannot_be_served_says_why(
    serve: Callable[..., Executor], graphs: Path, graph: str, toml: str, said: str
) -> None:
    (graphs / "rubbish").write_bytes(b"rubbish")
    executor = put(serve(None, toml), graphs / graph, "model.pt" if graph == "script.pt" else "model.pt2")
    with pytest.raises(Exception, match=said):  # in this process, which has torch already
        loaders.load(executor._manifest, Context(path=executor._path, device="cpu", config={}))


def test_a_refused_graph_reaches_the_worker_as_a_reason(serve: Callable[..., Executor], graphs: Path) -> None:
    with pytest.raises(LoadFailed, match="exported with a fixed batch size"):
        put(serve(None), graphs / "fixed.pt2", "model.pt2").load()


def test_torchscript_is_served_with_declared_inputs_and_named_outputs(
    serve: Callable[..., Executor], graphs: Path
) -> None:
    toml = "[inputs.values]\ndtype = 'float32'\nshape = [3]\n[outputs.total]\ndtype = 'float32'"
    executor = put(serve(None, toml), graphs / "script.pt", "model.pt")
    assert executor.load().framework == "torchscript"
    assert answers(run(executor, [1, 2, 3], {"values": [4, 5, 6]}, [1, 2])) == [
        {"total": 6}, {"total": 15}, ItemCode.INVALID_INPUT,
    ]  # fmt: skip


def test_torch_values_are_sent_and_its_out_of_memory_is_told_apart(serve: Callable[..., Executor]) -> None:
    model_py = """
        import torch
        from headway import Model

        class Torch(Model):
            def predict(self, inputs):
                if "huge" in inputs:
                    torch.empty(10**15)
                return [{"t": torch.tensor([1.5, 2.0], dtype=torch.bfloat16, requires_grad=True), "s": torch.tensor(3)}
                        for _ in inputs]
    """
    executor = serve(model_py)
    executor.load()
    fine = {"t": [1.5, 2.0], "s": 3}
    assert answers(run(executor, 1, "huge", 2)) == [fine, ItemCode.OUT_OF_MEMORY, fine]


# ── init and check ────────────────────────────────────────────────────────────────────────────────────────────────


def checked(folder: Path) -> tuple[int, str]:
    console = Console(file=StringIO(), width=160)
    code = check.run(folder, "cpu", console)
    assert isinstance(console.file, StringIO)
    return code, console.file.getvalue()


def test_what_init_writes_works_as_it_is_and_is_never_overwritten(tmp_path: Path) -> None:
    folder = scaffold.create(tmp_path / "models", "2nd-model.v1")
    code, printed = checked(folder)
    assert code == 0, printed
    assert "features: float32 [4]" in printed
    assert "2nd-model.v1@1 works" in printed
    with pytest.raises(ManifestError, match="exists already"):
        scaffold.create(tmp_path / "models", "2nd-model.v1")
    with pytest.raises(ManifestError, match="no model name"):
        scaffold.create(tmp_path / "models", "../away")
    assert [found.error for found in scan_model(folder)] == [None]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('asked to')", "asked to"),
        ("return inputs if len(inputs) == 1 else None", "a batch of 32 only works in parts"),
    ],
    ids=["raises", "cannot batch"],
)
def test_check_fails_with_the_reason(tmp_path: Path, body: str, said: str) -> None:
    folder = scaffold.create(tmp_path, "m")
    (folder / "1" / "model.py").write_text(
        f"from headway import Model\nclass M(Model):\n    def predict(self, inputs):\n        {body}\n"
    )
    code, printed = checked(folder)
    assert code == 1
    assert said in printed
    assert checked(tmp_path / "nowhere")[0] == 1
