"""model-settings.json as a model sees it; keys that are nobody's own are there as well."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from .types import MetadataTensor


class ModelParameters(BaseModel):
    model_config = ConfigDict(extra="allow")

    uri: str | None = None
    version: str | None = None
    environment_tarball: str | None = None
    format: str | None = None
    content_type: str | None = None
    extra: dict[str, Any] | None = {}


class ModelSettings(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str = ""
    implementation: Any = None
    platform: str = ""
    versions: list[str] = []
    inputs: list[MetadataTensor] = []
    outputs: list[MetadataTensor] = []
    max_batch_size: int = 0
    max_batch_time: float = 0.0
    parameters: ModelParameters | None = None

    @property
    def version(self) -> str | None:
        return None if self.parameters is None else self.parameters.version


class Settings(BaseModel):
    """settings.json."""

    model_config = ConfigDict(extra="allow")

    server_name: str = "mlserver"
    debug: bool = False
    parallel_workers: int = 0
