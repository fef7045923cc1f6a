"""Ensembles in `config.pbtxt`: steps, each a model, joined by tensors that they write and read.

What can be said of one configuration by itself is checked here, what its steps' models have to do with it where those
are known (`api.ensembles`), both in Triton's words and in its order.
"""

from collections.abc import Mapping
from typing import Any

from headway.errors import ManifestError
from headway.manifest import Step

PLATFORM = "ensemble"

_Config = Mapping[str, Any]


def is_one(config: _Config) -> bool:
    """Raises ManifestError for what is half an ensemble."""
    name, scheduled = config["name"], config.get("ensemble_scheduling") is not None
    if config["platform"] != PLATFORM:
        if scheduled:
            raise ManifestError(
                f"ensemble scheduling cannot be set for model '{name}' whose platform is not {PLATFORM}"
            )
        return False
    if config["backend"]:
        raise ManifestError(f"Ensemble model '{name}' must have platform type '{PLATFORM}' and empty backend type")
    if not scheduled:
        raise ManifestError(f"ensemble scheduling must be set for ensemble {name} whose platform is {PLATFORM}")
    return True


def steps(config: _Config) -> tuple[Step, ...]:
    """In the order in which they can begin. Raises ManifestError."""
    name = config["name"]
    for key in ("instance_group", "optimization"):
        if config.get(key):
            raise ManifestError(f"{key.replace('_', ' ')} should not be specified for ensemble '{name}'")
    if config["model_warmup"]:
        raise ManifestError(f"model_warmup can not be specified for ensemble '{name}'")
    found = _steps(name, config["ensemble_scheduling"]["step"])
    return _connected(config, found)


def _steps(name: str, said: list[dict[str, Any]]) -> list[Step]:
    if not said:
        raise ManifestError(f"must specify 'step' for ensemble '{name}'")
    found: list[Step] = []
    written: set[str] = set()
    for number, one in enumerate(said):
        for key in ("model_name", "input_map", "output_map"):
            if not one[key]:
                raise ManifestError(f"must specify '{key}' in step {number} of ensemble '{name}'")
        if one.get("model_namespace"):
            raise ManifestError(f"step {number} of ensemble '{name}' has a model_namespace, and there is one here")
        for tensor in one["output_map"].values():
            if tensor in written:
                raise ManifestError(
                    f"ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{name}' "
                    f"step {number}"
                )
            written.add(tensor)
        version = one["model_version"]
        found.append(
            Step(
                model=one["model_name"],
                version=None if version == -1 else str(version),
                inputs=dict(one["input_map"]),
                outputs=dict(one["output_map"]),
            )
        )
    return found


def _connected(config: _Config, steps: list[Step]) -> tuple[Step, ...]:
    """In an order in which each step's tensors are there before it. Raises ManifestError where there is none."""
    name = config["name"]
    given = {one["name"] for one in config["input"]}
    wanted = {one["name"] for one in config["output"]}
    read = {tensor for step in steps for tensor in step.inputs.values()}
    written = {tensor for step in steps for tensor in step.outputs.values()}
    if twice := sorted(given & written):
        raise ManifestError(f"ensemble tensor '{twice[0]}' is an input of ensemble '{name}', and no step may write it")
    for one in config["input"]:
        if one["name"] not in read | wanted:
            raise ManifestError(f"ensemble input '{one['name']}' for ensemble {name} is not used")
    for one in config["output"]:
        if one["name"] not in written | given:
            raise ManifestError(f"ensemble output '{one['name']}' for ensemble {name} is not used")
    there, ordered, rest = set(given), list[Step](), list(steps)
    while ready := [step for step in rest if there.issuperset(step.inputs.values())]:
        ordered += ready
        there |= {tensor for step in ready for tensor in step.outputs.values()}
        rest = [step for step in rest if step not in ready]
    for one in config["output"]:
        if one["name"] not in there:
            missing = sorted(read - there)[0]
            raise ManifestError(
                f"output '{one['name']}' for ensemble '{name}' is not written: at least one of its depending tensors, "
                f"'{missing}', is not connected"
            )
    if unused := sorted((written - read - wanted) | {tensor for step in rest for tensor in step.outputs.values()}):
        raise ManifestError(f"ensemble tensor '{unused[0]}' is unused in ensemble '{name}'")
    return tuple(ordered)
