"""KServe's ModelServer with estimators, as its scikit-learn runtime serves them; for the Python of its environment.

    python kserve_server.py MODELS HTTP_PORT NAME[=predict_proba] …

Each NAME has a file `MODELS/NAME/1/model.joblib`. The runtime is no package of its own: what it does between KServe's
two functions for inputs and outputs is written here.
"""

import sys
from pathlib import Path
from typing import Any

import joblib
import kserve
from kserve.errors import InferenceError
from kserve.utils.utils import get_predict_input, get_predict_response


class Estimator(kserve.Model):  # type: ignore[misc]
    def __init__(self, name: str, file: Path, method: str) -> None:
        super().__init__(name)
        self._call = getattr(joblib.load(file), method)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        try:
            return get_predict_response(payload, self._call(get_predict_input(payload)), self.name)
        except Exception as error:
            raise InferenceError(str(error)) from error


def main(models: str, port: str, *named: str) -> None:
    served = []
    for one in named:
        name, _, method = one.partition("=")
        served.append(Estimator(name, Path(models, name, "1", "model.joblib"), method or "predict"))
    kserve.ModelServer(http_port=int(port), enable_grpc=False).start(served)


if __name__ == "__main__":
    main(*sys.argv[1:])
