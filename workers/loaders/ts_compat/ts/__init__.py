"""What handlers of TorchServe import, where TorchServe is not installed. A device process alone has it on its path.

`headway` serves their archives itself; this is the part of the Python interface that the handlers in them use, written
anew to the same names. Where the real `ts` can be imported, that one is used.
"""

#: The release whose interface this is.
__version__ = "0.12.0"
