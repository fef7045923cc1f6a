"""No package of ours turns data into code: read from the sources, so that nobody forgets it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("headway", "api", "workers", "batching", "storage", "launch")

#: Reading their data runs what stands in it.
UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "pandas"}
#: Where they stand all the same: what model.toml trusts, and what keeps torch from it.
ALLOWED = {
    "workers/loaders/pickled.py",
    "workers/loaders/estimators.py",
    "workers/loaders/kserve.py",  # makes data frames, and reads none
    "workers/loaders/mlserver_compat/mlserver/codecs/pandas.py",  # as well
    "workers/loaders/archives.py",
    "workers/loaders/bentoml_pickles.py",
    "workers/loaders/torchserve.py",  # only to tell what torch refuses
    "workers/loaders/ts_compat/ts/torch_handler/base_handler.py",  # weights only, unless model.toml trusts them
}


def findings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (f"imports {name.name}" for name in names if name.name.split(".")[0] in UNPICKLERS)
            case ast.ImportFrom(module=str(module), level=0) if module.split(".")[0] in UNPICKLERS:
                yield f"imports {module}"
            case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__" as name)):
                yield f"calls {name}"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="yaml"), attr="load" | "unsafe_load" | "full_load")):
                yield "reads YAML that names classes"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=keywords):
                if not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in keywords):
                    yield "calls torch.load without weights_only=True"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="load"), keywords=keywords):
                if any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in keywords):
                    yield "lets numpy unpickle"
            case ast.Call(func=ast.Attribute(attr="system" | "popen"), args=[_, *_]) if "os." in ast.unparse(node):
                yield f"starts a shell: {ast.unparse(node)}"
            case ast.keyword(arg="shell", value=value) if ast.unparse(value) != "False":
                yield "starts a shell"
            case ast.keyword(arg="trust_remote_code", value=value) if ast.unparse(value) != "False":
                yield "trusts remote code"
            case ast.keyword(arg="accept_content" | "task_serializer" | "result_serializer", value=value):
                if "json" not in ast.unparse(value):
                    yield f"takes messages that are {ast.unparse(value)}"


def test_no_package_turns_data_into_code() -> None:
    found = {
        (file.relative_to(ROOT).as_posix(), finding)
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        for finding in findings(file.read_text(encoding="utf-8"))
    }
    assert {file for file, _ in found} <= ALLOWED, found
    trusted = "calls torch.load without weights_only=True"
    assert {finding for _, finding in found} == {"imports pickle", "imports joblib", "imports pandas", trusted}
    assert {file for file, finding in found if finding == trusted} == {
        "workers/loaders/bentoml_pickles.py",
        "workers/loaders/ts_compat/ts/torch_handler/base_handler.py",
    }


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import joblib.numpy_pickle", "eval(x)", "exec(x)",
        "__import__(x)", "yaml.load(x)", "torch.load(x)", "torch.load(x, weights_only=False)",
        "np.load(x, allow_pickle=True)", "os.system(x)", "subprocess.run(x, shell=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)", "Celery(accept_content=['pickle'])",
    ],
)  # fmt: skip
def test_each_way_is_seen(source: str) -> None:
    assert list(findings(source))


def test_what_is_harmless_is_passed_over() -> None:
    source = "torch.load(x, weights_only=True)\nnp.load(x, allow_pickle=False)\nyaml.safe_load(x)\nre.compile(x)\n"
    assert list(findings(source)) == []
