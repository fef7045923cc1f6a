"""Which errors end a device process, and which of those are nobody's fault. Simulated: there is no GPU here."""

import sys
from types import SimpleNamespace

import pytest

from workers import accelerator


def torch(monkeypatch: pytest.MonkeyPatch, *, uses_cuda: bool, spoilt: bool = False) -> type[Exception]:
    """A torch whose CUDA context works, or fails at every call; the class of its errors."""

    def synchronize() -> None:
        if spoilt:
            raise RuntimeError("CUDA error: the context is spoilt")

    class AcceleratorError(RuntimeError):
        pass

    cuda = SimpleNamespace(is_initialized=lambda: uses_cuda, synchronize=synchronize)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, AcceleratorError=AcceleratorError))
    return AcceleratorError


def of(module: str, text: str) -> Exception:
    """An exception of another framework."""
    kind: type[Exception] = type("Fail", (Exception,), {"__module__": module})
    return kind(text)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("Triton Error [CUDA]: device-side assert triggered"),
        ValueError("whatever, but the context fails after it"),
    ],
)
def test_while_torch_uses_cuda_its_context_says_whether_it_is_spoilt(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    torch(monkeypatch, uses_cuda=True, spoilt=True)
    assert accelerator.verdict(error, "cuda:0") == "spoilt"
    torch(monkeypatch, uses_cuda=True, spoilt=False)
    assert accelerator.verdict(error, "cuda:0") is None


def test_a_device_that_is_gone_is_told_from_a_context_that_is_spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    error = torch(monkeypatch, uses_cuda=True, spoilt=True)
    assert accelerator.verdict(error("CUDA error: uncorrectable ECC error encountered"), "cuda:0") == "gone"
    assert accelerator.verdict(error("CUDA error: an illegal memory access was encountered"), "cuda:0") == "spoilt"


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (of("onnxruntime.capi.onnxruntime_pybind11_state", "CUDA failure 700: an illegal memory access"), "spoilt"),
        (of("onnxruntime.capi.onnxruntime_pybind11_state", "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT"), None),
        (of("cupy_backends.cuda.api.runtime", "cudaErrorLaunchFailure: unspecified launch failure"), "spoilt"),
        (of("jaxlib.xla_extension", "INTERNAL: CUDA_ERROR_ECC_UNCORRECTABLE"), "gone"),
        (RuntimeError("No CUDA GPUs are available"), "gone"),
        (RuntimeError("CUDA error: device-side assert triggered"), "spoilt"),
        (RuntimeError("the weather is bad"), None),
        (ValueError("no such word: device-side assert triggered"), None),
        (KeyError("no such word: device-side assert triggered"), None),
        (MemoryError(), None),
    ],
)
def test_other_frameworks_are_believed_by_their_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, verdict: str | None
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert accelerator.verdict(error, "cuda:0") == verdict


def test_what_a_client_has_sent_ends_no_process_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert accelerator.verdict(RuntimeError("echo: device-side assert triggered"), "cpu") is None
