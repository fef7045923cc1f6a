"""What the real Triton and TorchServe answered is what ours answer, but for what `expected.toml` explains."""

from collections.abc import Iterator

import pytest

from tests.dialects import comparing, ours, recording
from tests.dialects.ours import Ours

SYSTEMS = ["triton", "triton_streams", "torchserve"]  # in this order: the first's index has none of the second's models


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    with ours.running(SYSTEMS, tmp_path_factory.mktemp("dialects"), quick=True) as running:
        yield running


@pytest.mark.parametrize("system", SYSTEMS)
def test_ours_answers_what_the_real_server_answered(running: Ours, system: str) -> None:
    recorded = [case for case in recording.recorded(system).cases if not case.slow]
    verdict = comparing.judge(system, recorded, running.ask(system, recorded))
    assert not verdict.unexpected, "\n".join(map(str, verdict.unexpected))
