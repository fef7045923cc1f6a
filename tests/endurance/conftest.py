"""Long proofs, for `make endurance` and not for `make test`.

ENDURANCE=0.1 makes each a tenth as long. What was measured is printed: run them with -s.
"""

import os
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def sized() -> Callable[[int], int]:
    """A number of the full size, as large as it is to be this time."""
    part = float(os.environ.get("ENDURANCE", "1"))
    return lambda full: max(1, round(full * part))
