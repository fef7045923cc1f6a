"""The models of the chaos runs: one that is good, one that does what its inputs say, one that leaks."""

from pathlib import Path

_STEADY = """
import time
from headway import Model

class Steady(Model):
    def predict(self, inputs):
        time.sleep(0.004)  # so that something is under way whenever it is killed
        return [{"n": one["n"], "answer": (one["n"] ** 2 + 7) % 1000003} for one in inputs]
"""

_MOODY = """
import os, signal, time
from headway import InvalidInput, Model

class Moody(Model):
    def predict(self, inputs):
        kinds = [one["kind"] for one in inputs]
        if "crash" in kinds:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in kinds:
            while True:
                time.sleep(1)
        if "raise" in kinds:
            raise RuntimeError("as it was told to")
        if "memory" in kinds:
            raise MemoryError("as it was told to")
        time.sleep(0.2 if "slow" in kinds else 0.002)
        outputs = [self.one(one) for one in inputs]
        return outputs[:-1] if "short" in kinds else outputs

    def one(self, given):
        if given["kind"] == "refuse":
            return InvalidInput("as it was told to")
        answer = (given["n"] ** 2 + 7) % 1000003
        return {"n": given["n"], "answer": float("nan") if given["kind"] == "nan" else answer}
"""

_LEAKY = """
from headway import Model

class Leaky(Model):
    def load(self, context):
        self.kept = []

    def predict(self, inputs):
        self.kept.append(bytearray(b"x") * 1024 * 1024)
        return [{"n": one["n"], "answer": (one["n"] ** 2 + 7) % 1000003} for one in inputs]
"""

_FILES = {
    "steady": (_STEADY, "[batching]\nmax_batch_size = 32\n"),
    "moody": (_MOODY, "[batching]\nmax_batch_size = 8\n[limits]\ntimeout_s = 2\n"),
    "leaky": (_LEAKY, '[batching]\nmax_batch_size = 16\n[limits]\nmemory = "128MiB"\n'),
}


def write(folder: Path) -> None:
    """A models folder."""
    for name, (code, manifest) in _FILES.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(code)
        (folder / name / "model.toml").write_text(manifest)
