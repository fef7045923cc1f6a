"""What the real TorchServe answered is what ours answers, but for what `expected.toml` explains."""

from pathlib import Path

from tests.dialects import comparing, ours, recording


def test_ours_answers_what_the_real_torchserve_answered(tmp_path: Path) -> None:
    recorded = [case for case in recording.recorded("torchserve").cases if not case.slow]
    with ours.running("torchserve", tmp_path, quick=True) as running:
        verdict = comparing.judge("torchserve", recorded, running.ask(recorded))
    assert not verdict.unexpected, "\n".join(map(str, verdict.unexpected))
