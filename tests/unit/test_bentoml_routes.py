"""Which routes there are, what is behind a path, and how refusals read."""

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from api.dialects.bentoml import description, errors, requests, routes
from api.problems import Problem
from api.registry import ModelView
from headway import bentoml, envelopes
from headway.bentoml import store
from headway.errors import ItemCode, ItemError
from headway.manifest import Batching, Manifest, Tensor
from headway.notices import Ended
from headway.registry import Version
from headway.states import Status


def view(name: str, framework: str, manifest: Manifest) -> ModelView:
    row = Version(
        model=name, version="1", state="ready", reason=None, framework=framework, path="/", sha256="",
        manifest=manifest, created_at=0, loaded_at=1, placements=[],
    )  # fmt: skip
    return ModelView.of(name, [row])


def api(name: str, **more: Any) -> bentoml.Route:
    return bentoml.Route(name=name, route=f"/{name}", input={}, output={}, **more)


def service(*apis: bentoml.Route, name: str = "svc") -> Manifest:
    said = bentoml.Routes(name=name, routes=list(apis), timeout_s=7.0)
    return Manifest(config={"bentoml": msgspec.to_builtins(said)})


def stored(*methods: str) -> Manifest:
    call = store.Call("bentoml.sklearn", methods[0], list(methods))
    inputs = {"data": Tensor("float64", (-1, 2))}
    return Manifest(items="joined", inputs=inputs, config={store.CALL: msgspec.to_builtins(call)})


def serving(**models: tuple[str, Manifest]) -> Any:
    views = {name: view(name, *said) for name, said in sorted(models.items())}
    return SimpleNamespace(registry=SimpleNamespace(views=views))


def test_apis_of_a_service_are_at_their_routes_and_tasks_have_verbs() -> None:
    there = serving(flowers=("bentoml.service", service(api("classify"), api("study", is_task=True))))
    found = routes.find(there, "/classify")
    assert found is not None
    assert (found[0].model, found[0].api, found[0].timeout_s, found[1]) == ("flowers", "classify", 7.0, "")
    assert routes.find(there, "/classify/submit") is None
    verbs = [routes.find(there, f"/study/{verb}") for verb in ("submit", "status", "get", "retry", "cancel", "stop")]
    assert [None if one is None else one[1] for one in verbs] == ["submit", "status", "get", "retry", "cancel", None]
    assert routes.find(there, "/flowers/study/get") is not None
    assert routes.find(there, "/flowers") is None


def test_of_two_services_with_a_route_the_first_by_name_has_it_and_no_model_takes_one_away() -> None:
    there = serving(
        a=("bentoml.service", service(api("predict"))),
        b=("bentoml.service", service(api("predict"))),
        predict=("onnx", Manifest()),
        iris=("bentoml", stored("predict", "predict_proba")),
    )
    table = routes.table(there)
    assert table.paths["/predict"].model == "a"
    assert table.paths["/b/predict"].model == "b"
    assert table.paths["/iris"].method is None
    assert table.paths["/predict_proba"].model == "iris"
    assert [(name, found.route.route) for name, found in table.listed.items()] == [
        ("b_predict", "/b/predict"),
        ("iris", "/iris"),
        ("iris_predict", "/iris/predict"),
        ("iris_predict_proba", "/iris/predict_proba"),
        ("predict", "/predict"),
        ("predict_proba", "/predict_proba"),
    ]


def test_a_method_that_two_models_have_is_at_neither_s_bare_route() -> None:
    there = serving(iris=("bentoml", stored("predict")), wine=("bentoml", stored("predict")))
    assert routes.find(there, "/predict") is None
    assert routes.find(there, "/wine/predict") is not None


def test_the_schema_has_the_service_s_name_only_where_it_is_alone() -> None:
    alone = serving(flowers=("bentoml.service", service(api("classify"))))
    assert description._name(routes.table(alone)) == "svc"
    both = serving(flowers=("bentoml.service", service(api("classify"))), other=("onnx", Manifest()))
    assert description._name(routes.table(both)) == "headway"


def test_declared_arrays_are_tensors_in_the_schema_without_the_method_of_a_stored_model() -> None:
    inputs = {"x": Tensor("bfloat16", (3,)), "n": Tensor("int8"), "s": Tensor("string"), "t": Tensor("string", (2,))}
    outputs = {"y": Tensor("float32", (1,)), "z": Tensor("bool")}
    there = serving(m=("onnx", Manifest(inputs=inputs, outputs=outputs, batching=Batching(max_batch_size=1))))
    route = routes.table(there).listed["m"].route
    kinds = {name: (one.get("type"), one.get("dtype")) for name, one in route.input["properties"].items()}
    assert kinds == {"x": ("tensor", "float32"), "n": ("tensor", None), "s": (None, None), "t": ("array", None)}
    assert list(route.output["properties"]) == ["y", "z"]
    manifest = stored("predict", "predict_proba")
    manifest = msgspec.structs.replace(
        manifest, inputs={**manifest.inputs, store.METHOD: Tensor("string", (-1,), optional=True)}
    )
    there = serving(iris=("bentoml", manifest))
    assert list(routes.table(there).listed["iris"].route.input["properties"]) == ["data"]


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ({"a": [[1, 2], [3, 4]], "b": [5, 6]}, [{"a": [1, 2], "b": 5}, {"a": [3, 4], "b": 6}]),
        ({"a": [[1, 2]], "b": [5, 6]}, None),
        ({"a": [[1, 2]]}, None),
        ({"a": [], "b": []}, None),
        ([1], None),
    ],
)
def test_rows_are_cut_where_every_array_has_as_many(value: Any, rows: Any) -> None:
    manifest = Manifest(inputs={"a": Tensor("float32", (2,)), "b": Tensor("float32")})
    assert requests._rows(manifest, value) == rows


def test_more_rows_than_a_request_may_have_are_refused() -> None:
    with pytest.raises(errors.Refused) as refused:
        requests._rows(Manifest(inputs={"a": Tensor("float32")}), [1.0] * (requests.MOST_ROWS + 1))
    assert refused.value.answer.status == 400


def said(error: Exception) -> tuple[int, Any]:
    answer = errors.answer(error)
    return answer.status, json.loads(answer.body)


@pytest.mark.parametrize(
    ("problem", "status", "body"),
    [
        (Problem.of("unauthenticated"), 401, {"error": "Authorization error"}),
        (Problem.of("forbidden"), 403, {"error": "Authorization error"}),
        (Problem.of("queue_full"), 429, {"error": "Too many requests"}),
        (Problem.of("rate_limited"), 429, {"error": "Too many requests"}),
        (Problem.unavailable("SQL"), 503, errors.UNEXPECTED),
        (Problem("payload_too_large", "It is large."), 413, {"error": "It is large."}),
        (ValueError("a defect"), 500, errors.UNEXPECTED),
    ],
)
def test_a_refusal_of_headway_s_reads_as_bentoml_says_such_things(
    problem: Exception, status: int, body: dict[str, str]
) -> None:
    assert said(problem) == (status, body)


def test_what_does_not_fit_is_placed_as_pydantic_does() -> None:
    problem = Problem("validation_failed", "…", errors=[{"pointer": "/data/0", "detail": "has length 3"}])
    detail = [{"type": "value_error", "loc": ["data", 0], "msg": "Value error, has length 3"}]
    assert said(problem) == (400, {"error": "1 validation error for Input", "detail": detail})


def ended(error: ItemError | None, status: Status = Status.FAILED) -> Ended:
    return Ended(status, 2, None, 1, 0, 1, 1, 1, None, False, error)


@pytest.mark.parametrize(
    ("end", "status", "body"),
    [
        (ended(ItemError(ItemCode.MODEL_ERROR, "ValueError: secret")), 500, errors.UNEXPECTED),
        (ended(ItemError(ItemCode.WORKER_LOST, "gone")), 500, errors.UNEXPECTED),
        (ended(ItemError(ItemCode.INVALID_INPUT, "is no good")), 400, [{"error": "is no good"}]),
        (ended(ItemError(ItemCode.UNAVAILABLE, "later")), 503, errors.UNEXPECTED),
        (
            ended(ItemError(ItemCode.EXECUTION_TIMEOUT, "late")),
            504,
            {"error": "Not able to process the request in 2.5 seconds"},
        ),
        (ended(ItemError(ItemCode.INVALID_INPUT, envelopes.refusal(422, '[{"error": "x"}]'))), 422, [{"error": "x"}]),
        (ended(None, Status.EXPIRED), 503, errors.UNEXPECTED),
        (ended(None, Status.CANCELED), 503, {"error": "the prediction was canceled"}),
    ],
)
def test_how_a_prediction_failed_is_told_in_bentoml_s_words(end: Ended, status: int, body: Any) -> None:
    answer = errors.failure(end, 2.5)
    assert (answer.status, json.loads(answer.body)) == (status, body)
