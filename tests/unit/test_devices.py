"""Which devices there are."""

import pytest

from headway.errors import SettingsError
from launch.devices import choose, parse_nvidia_smi, visible

LISTING = """\
GPU 0: NVIDIA H200 (UUID: GPU-aaaa1111-0000-0000-0000-000000000000)
GPU 1: NVIDIA H200 (UUID: GPU-bbbb2222-0000-0000-0000-000000000000)
  MIG 3g.71gb     Device  0: (UUID: MIG-cccc3333-0000-0000-0000-000000000000)
"""
UUIDS = ["GPU-aaaa1111-0000-0000-0000-000000000000", "GPU-bbbb2222-0000-0000-0000-000000000000"]


def test_every_gpu_of_nvidia_smi_is_found_and_its_slices_are_not_gpus() -> None:
    assert parse_nvidia_smi(LISTING) == UUIDS
    assert parse_nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n") == []


@pytest.mark.parametrize(
    ("cuda_visible_devices", "devices"),
    [
        (None, ["cuda:0", "cuda:1"]),
        ("1,0", ["cuda:1", "cuda:0"]),
        ("GPU-bbbb", ["cuda:1"]),
        ("GPU-", []),  # fits both: CUDA refuses it too
        ("1,-1,0", ["cuda:1"]),
        ("7", []),
        ("", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(cuda_visible_devices: str | None, devices: list[str]) -> None:
    assert visible(UUIDS, cuda_visible_devices) == devices


def test_a_list_is_taken_as_it_stands() -> None:
    assert choose("cuda:0, cuda:3", {}) == ["cuda:0", "cuda:3"]
    assert choose("mps", {}) == ["mps"]


def test_auto_without_a_visible_gpu_is_the_cpu() -> None:
    assert choose("auto", {"CUDA_VISIBLE_DEVICES": ""}) == ["cpu"]


@pytest.mark.parametrize("wanted", ["", "gpu", "cuda", "cuda:01", "cuda:-1", "cpu,cpu", "cpu,"])
def test_what_is_no_device_is_refused(wanted: str) -> None:
    with pytest.raises(SettingsError):
        choose(wanted, {})
