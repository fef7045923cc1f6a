"""With how many threads a model on a CPU computes. A clock and a torch of the tests' own."""

import sys
from types import SimpleNamespace

import pytest

from workers.cores import choose_threads


class Torch:
    """Computes in `seconds[threads]`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, threads: int, seconds: dict[int, float]) -> None:
        self.threads = threads
        self.now = 0.0
        self.calls = 0
        self._seconds = seconds
        module = SimpleNamespace(get_num_threads=lambda: self.threads, set_num_threads=self.set)
        monkeypatch.setitem(sys.modules, "torch", module)

    def set(self, threads: int) -> None:
        self.threads = threads

    def call(self) -> None:
        self.calls += 1
        self.now += self._seconds[self.threads]

    def choose(self) -> int | None:
        return choose_threads(self.call, lambda: self.now)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")


@pytest.mark.parametrize(
    ("with_four", "with_one", "chosen"),
    [(0.001, 0.0005, 1), (0.001, 0.0012, 1), (0.001, 0.003, 4), (0.004, 0.016, 4)],
)
def test_one_thread_is_taken_where_more_gain_next_to_nothing(
    monkeypatch: pytest.MonkeyPatch, with_four: float, with_one: float, chosen: int
) -> None:
    torch = Torch(monkeypatch, 4, {4: with_four, 1: with_one})
    assert torch.choose() == chosen == torch.threads


def test_what_takes_long_is_tried_once_and_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = Torch(monkeypatch, 4, {4: 0.1, 1: 0.1})
    assert (torch.choose(), torch.threads, torch.calls) == (4, 4, 1)


def test_a_number_that_the_model_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = Torch(monkeypatch, 3, {3: 0.001, 1: 0.001})
    assert (torch.choose(), torch.threads, torch.calls) == (None, 3, 0)


def test_without_torch_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert choose_threads(pytest.fail) is None
