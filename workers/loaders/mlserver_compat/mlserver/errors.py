"""What a model raises to answer with a status of its choice; 400 where it chooses none."""


class MLServerError(Exception):
    def __init__(self, msg: str, status_code: int = 400) -> None:
        super().__init__(msg)
        self.status_code = status_code


class InferenceError(MLServerError):
    pass


class InvalidModelURI(MLServerError):
    def __init__(self, name: str, model_uri: str | None = None) -> None:
        said = f" ({model_uri})" if model_uri else ""
        super().__init__(f"Invalid URI specified for model {name}{said}", 422)


class ModelParametersMissing(MLServerError):
    def __init__(self, model_name: str) -> None:
        super().__init__(f"Parameters missing for model {model_name}")
