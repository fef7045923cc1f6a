"""What the real Triton and TorchServe answered is what ours answer, but for what `expected.toml` explains."""

from collections.abc import Iterator

import pytest

from tests.dialects import comparing, ours, recording
from tests.dialects.ours import Ours


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    with ours.running(tmp_path_factory.mktemp("dialects")) as running:
        yield running


@pytest.mark.parametrize("system", ["triton", "torchserve"])
def test_ours_answers_what_the_real_server_answered(running: Ours, system: str) -> None:
    recorded = recording.recorded(system).cases
    verdict = comparing.judge(system, recorded, running.ask(system, recorded))
    assert not verdict.unexpected, "\n".join(map(str, verdict.unexpected))
    assert not verdict.stale, comparing.report(system, verdict)
