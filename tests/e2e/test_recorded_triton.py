"""What the real Triton answered is what ours answers, but for what `expected.toml` explains."""

from pathlib import Path

from tests.dialects import comparing, ours, recording


def test_ours_answers_what_the_real_triton_answered(tmp_path: Path) -> None:
    recorded = [case for case in recording.recorded("triton").cases if not case.slow]
    with ours.running("triton", tmp_path, quick=True) as running:
        verdict = comparing.judge("triton", recorded, running.ask(recorded))
    assert not verdict.unexpected, "\n".join(map(str, verdict.unexpected))
