"""What models written for MLServer import. A device process alone has it on its path.

`headway` serves their folders itself; this is the part of the Python interface that such models use, written anew to
the same names. Metrics are told the log; handlers at paths of their own are not served.
"""

from . import types
from .logging import log, register
from .model import MLModel
from .settings import ModelParameters, ModelSettings, Settings

#: The release whose interface this is.
__version__ = "1.7.1"

__all__ = ["MLModel", "ModelParameters", "ModelSettings", "Settings", "__version__", "log", "register", "types"]
