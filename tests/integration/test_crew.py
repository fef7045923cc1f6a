"""Who starts `headway up` again need not wait until its janitor is sure that the workers of before are dead."""

from pathlib import Path

from launch.crew import Crew
from storage.engine import Database
from storage.workers import Workers


def test_the_workers_of_an_up_that_was_killed_are_dead_at_once_for_the_next_one(
    database: Database, tmp_path: Path
) -> None:
    workers = Workers(database)
    before = Crew(tmp_path / "workers.json")
    died, followed = before.sign_on("cpu"), before.sign_on("cpu")
    for worker in (followed, "another's"):
        workers.register(worker, "cpu", "here", 1)
    assert died != followed
    assert before.ids == {followed}
    Crew(tmp_path / "workers.json").bury_predecessors(workers)
    assert workers.beats().keys() == {"another's"}


def test_a_crew_that_was_seen_to_leaves_nothing_behind(tmp_path: Path) -> None:
    crew = Crew(tmp_path / "workers.json")
    crew.sign_on("cpu")
    crew.disband()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_past_has_nobody_to_bury(database: Database, tmp_path: Path) -> None:
    workers = Workers(database)
    workers.register("another's", "cpu", "here", 1)
    Crew(tmp_path / "workers.json").bury_predecessors(workers)
    (tmp_path / "workers.json").write_bytes(b"cut o")
    Crew(tmp_path / "workers.json").bury_predecessors(workers)
    assert workers.beats().keys() == {"another's"}
