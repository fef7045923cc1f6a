"""Headway: a queue for model predictions that batches by itself.

What a model author imports stands here; nothing in this package imports torch, Celery or the other packages.
"""

from headway.model import Context, InvalidInput, Item, Model

__version__ = "0.1.0"
__all__ = ["Context", "InvalidInput", "Item", "Model", "__version__"]
