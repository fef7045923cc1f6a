"""Which errors of a device mean that a process can compute nothing on it any more.

CUDA's errors are sticky: after an illegal access, a failed assert or an uncorrectable bit every later call of the same
process fails, whosoever input it has. Only a new process helps; and where the device itself is gone or broken, that
does not either, and nobody's input is to blame.

Asked is torch where it uses CUDA: it says whether its context still works. Other frameworks (ONNX Runtime, CuPy, JAX,
Triton) have only their words. Words of Python's own exceptions count on a CUDA device alone, and never those of a
ValueError and its like, which repeat what a client has sent.
"""

import sys

#: How a device process exits that has lost its device.
LOST = 74  # EX_IOERR

#: The context is spoilt, by what was computed as likely as not.
_SPOILT = (
    "illegal memory access",
    "illegaladdress",
    "illegal_address",
    "device-side assert",
    "error_assert",
    "unspecified launch failure",
    "launch_failed",
    "launchfailure",
    "misaligned address",
    "misalignedaddress",
    "misaligned_address",
    "illegal instruction",
    "illegalinstruction",
    "illegal_instruction",
    "invalid program counter",
    "invalid_pc",
    "invalid address space",
    "invalid_address_space",
    "hardware stack error",
    "hardware_stack_error",
    "launch timed out",
    "launch_timeout",
    "context is destroyed",
    "context_is_destroyed",
)
#: The device is gone, or broken.
_GONE = (
    "uncorrectable ecc",
    "ecc_uncorrectable",
    "eccuncorrectable",
    "uncorrectable nvlink",
    "nvlink_uncorrectable",
    "no cuda-capable device",
    "cudaerrornodevice",
    "cuda_error_no_device",
    "no cuda gpus are available",
    "devices are busy or unavailable",
    "devicesunavailable",
    "device_unavailable",
    "gpu is lost",
    "device is lost",
    "device_lost",
    "fallen off the bus",
    "system not yet initialized",
    "system_not_ready",
    "driver shutting down",
    "unknown error",
)


def verdict(error: BaseException, device: str) -> str | None:
    """What an exception of the model says of `device` (cpu, cuda:0): None, "spoilt" or "gone"."""
    words = _words(error)
    if _torch_uses_cuda():
        return ("gone" if _says(words, _GONE) else "spoilt") if _is_spoilt() else None
    if not _speaks_for_a_device(error, device):
        return None
    return "gone" if _says(words, _GONE) else "spoilt" if _says(words, _SPOILT) else None


def synchronize() -> None:
    """Kernels run behind the call; what goes wrong in them should be this call's error, and their time its time."""
    if _torch_uses_cuda():
        sys.modules["torch"].cuda.synchronize()


def _torch_uses_cuda() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _is_spoilt() -> bool:
    """Whether the context fails by itself: cuBLAS, cuDNN and drivers raise plain RuntimeErrors, good and bad ones."""
    try:
        sys.modules["torch"].cuda.synchronize()
    except Exception:
        return True
    return False


def _speaks_for_a_device(error: BaseException, device: str) -> bool:
    of = type(error).__module__.partition(".")[0]
    if of == "builtins":
        return type(error) is RuntimeError and device.startswith("cuda")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.AcceleratorError):
        return True
    return of in ("onnxruntime", "cupy", "cupy_backends", "jax", "jaxlib", "triton", "tensorrt", "numba", "pycuda")


def _words(error: BaseException) -> str:
    try:
        return str(error)[:10_000].lower()
    except Exception:  # a model's exception class may be as broken as the model
        return ""


def _says(words: str, any_of: tuple[str, ...]) -> bool:
    return any(one in words for one in any_of)
