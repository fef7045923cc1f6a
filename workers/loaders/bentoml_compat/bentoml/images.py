"""What a service says of the image that it would be built into: nothing of it is needed here."""

from typing import Any


class Image:
    """Every call of it is answered by itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self


PythonImage = Image

__all__ = ["Image", "PythonImage"]
