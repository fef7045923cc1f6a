"""What an `Annotated` array or file may say beside its type."""

from workers.loaders.bentoml_sdk.descriptors import ContentType, DType, Shape

__all__ = ["ContentType", "DType", "Shape"]
