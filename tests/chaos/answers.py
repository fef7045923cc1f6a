"""What each input comes to: known answers and known failures, for models, callers and the checker alike.

A kind is what an input does to its model. The models themselves (`tests/chaos/models.py`) know nothing of this file:
their arithmetic is written twice on purpose.
"""

MODULUS = 1_000_003

#: kind → how such an input may end: (status, error code). Whatever of the machine is killed, an item that needs the
#: device for itself may be blamed for it now and then, so those with few attempts may end by any loss of the device.
_LOSSES = frozenset({("failed", "worker_lost"), ("failed", "execution_timeout")})
ENDS: dict[str, frozenset[tuple[str, str | None]]] = {
    "good": frozenset({("succeeded", None)}),
    "slow": frozenset({("succeeded", None)}),  # takes a while
    "raise": frozenset({("failed", "model_error")}),
    "refuse": frozenset({("failed", "invalid_input")}),
    "short": frozenset({("failed", "output_invalid")}),  # the model's answer has one output too few
    "nan": frozenset({("failed", "output_invalid")}),
    "memory": frozenset({("failed", "out_of_memory")}) | _LOSSES,
    "crash": _LOSSES,  # the device process ends
    "hang": _LOSSES,  # it never answers
}
#: These cost a process, and are given few attempts.
DEADLY = ("memory", "crash", "hang")


def answer(number: int) -> dict[str, int]:
    """The output for an input that succeeds; `n` tells whose it is."""
    return {"n": number, "answer": (number * number + 7) % MODULUS}
