"""What a handler is told of its model and of the requests of a call, and where it says what to reply with."""

from collections.abc import Iterator, Mapping
from typing import Any


class Headers(dict[str, Any]):
    """Of a request; a name is found however it is written."""

    def __init__(self, headers: Mapping[str, Any]) -> None:
        super().__init__(headers)
        self._spelled = {name.lower(): name for name in headers}

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(self._spelled.get(str(name).lower(), name), default)

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(self._spelled.get(str(name).lower(), name))

    def __contains__(self, name: object) -> bool:
        return str(name).lower() in self._spelled


class RequestProcessor:
    """One request: its headers, and status and headers of its reply."""

    def __init__(self, request_header: Mapping[str, Any]) -> None:
        self._request = Headers(request_header)
        self._status = 200
        self._phrase: str | None = None
        self._reply: dict[str, str] = {}

    def get_request_property(self, key: str) -> Any:
        return self._request.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        return self._request

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        self._status, self._phrase = code, reason_phrase

    def get_response_status_code(self) -> int:
        return self._status

    def get_response_status_phrase(self) -> str | None:
        return self._phrase

    def add_response_property(self, key: str, value: str) -> None:
        self._reply[key] = value

    def get_response_headers(self) -> dict[str, str]:
        return self._reply

    def get_response_header(self, key: str) -> str | None:
        return self._reply.get(key)


class Context:
    """One for a model; `request_ids` and `request_processor` are those of the call under way."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any],
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self.model_yaml_config = model_yaml_config or {}
        self.metrics = metrics
        self.request_ids: dict[int, str] | None = None
        self.request_processor: list[RequestProcessor] | None = None
        self.stopping_criteria: Any = None
        self.header_key_sequence_id = "ts_request_sequence_id"
        self.header_key_sequence_start = "ts_request_sequence_start"
        self.header_key_sequence_end = "ts_request_sequence_end"
        self.system_properties = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }

    def _of(self, index: int) -> RequestProcessor:
        if self.request_processor is None:
            raise RuntimeError("no request is under way")
        return self.request_processor[index]

    def _all(self) -> Iterator[RequestProcessor]:
        yield from self.request_processor or ()

    def get_request_id(self, idx: int = 0) -> str | None:
        return None if self.request_ids is None else self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        return self._of(idx).get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        return self._of(idx).get_request_properties()

    def get_sequence_id(self, idx: int) -> Any:
        return self._of(idx).get_request_property(self.header_key_sequence_id)

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        return self.get_response_headers(idx).get("content-type")

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self._of(idx).add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        return self._of(idx).get_response_headers()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        if self.request_processor is not None:
            self._of(idx).report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        for request in self._all():
            request.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        request = self._of(idx)
        return request.get_response_status_code(), request.get_response_status_phrase()
