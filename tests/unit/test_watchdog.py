"""When a watchdog ends its process: a duty is silent, and nothing that it needs is away."""

import math
import threading
from collections.abc import Callable

import pytest

from workers.watchdog import Service, Sign, Watchdog


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A duty that needs SQL, looked at every second."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.away = False
        self.since = self.clock.now
        self.more_s = 0.0
        self.sql = Service("sql", self._answer, silent_s=20, clock=self.clock)
        self.sql.ask()
        self.watchdog = Watchdog(threading.Event(), silent_s=20, clock=self.clock)
        self.watchdog.watch(lambda: [Sign("the feed", self.since, self.more_s)], self.sql)

    def _answer(self) -> None:
        if self.away:
            raise ConnectionError

    def passes(self, seconds: int, *, alive: bool = False, ask: bool = True, look: bool = True) -> Sign | None:
        """What the watchdog found at last. `alive`: the duty shows signs; `ask`: the service was asked."""
        found = None
        for _ in range(seconds):
            self.clock.now += 1
            if ask:
                self.sql.ask()
            if alive:
                self.since = self.clock.now
            if look:
                found = self.watchdog.stuck() or found
        return found


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_duty_that_shows_signs_of_life_is_left_alone(scene: Scene) -> None:
    assert scene.passes(300, alive=True) is None


def test_a_silent_duty_is_found_after_its_time_and_not_before(scene: Scene) -> None:
    assert scene.passes(20) is None
    assert scene.passes(1) == Sign("the feed", 1000.0)


def test_a_duty_of_which_nothing_is_expected_may_be_silent(scene: Scene) -> None:
    scene.since = math.inf
    assert scene.passes(300) is None


def test_a_duty_may_have_more_time_than_others(scene: Scene) -> None:
    scene.more_s = 100.0
    assert scene.passes(120) is None
    assert scene.passes(1) is not None


@pytest.mark.parametrize("how", ["it refuses", "it hangs"])
def test_while_a_service_is_away_nobody_is_stuck_and_then_the_count_begins_again(scene: Scene, how: str) -> None:
    scene.passes(10)
    scene.away = True
    assert scene.passes(100, ask=how == "it refuses") is None
    scene.away = False
    assert scene.passes(20) is None
    assert scene.passes(2) is not None


def test_after_a_pause_of_the_whole_process_the_count_begins_again(scene: Scene) -> None:
    scene.passes(10)
    scene.passes(60, look=False)
    assert scene.passes(20) is None
    assert scene.passes(2) is not None


@pytest.mark.parametrize(("stopping", "expected"), [(False, 70), (True, 0)])
def test_a_process_that_ends_because_of_a_duty_says_so_by_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, stopping: bool, expected: int
) -> None:
    """One that was asked to stop does not: what goes wrong in a drain is no news."""
    limited: list[Callable[[], None]] = []
    monkeypatch.setattr("headway.stopping.limit", lambda: limited.append(print))
    asked = threading.Event()
    watchdog = Watchdog(asked)
    if stopping:
        asked.set()
    watchdog.fail("the feed has ended")
    assert (watchdog.exit_code, len(limited), asked.is_set()) == (expected, 1 - stopping, True)
