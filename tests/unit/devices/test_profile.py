"""What a profile says of itself: the memory a model may take, and where engines run."""

from __future__ import annotations

import dataclasses

from edgeport.devices.catalog import load_profile
from edgeport.devices.profile import DeviceProfile, GpuPart

GIB = 2**30


def with_gpu(profile: DeviceProfile, gpu: GpuPart | None) -> DeviceProfile:
    return dataclasses.replace(profile, gpu=gpu)


def test_memory_without_a_gpu_is_usable_ram(pi5: DeviceProfile) -> None:
    assert pi5.available_bytes(on_gpu=False) == pi5.available_bytes(on_gpu=True) == 7 * GIB
    assert not pi5.runs_on_gpu("llama.cpp")


def test_cards_have_memory_of_their_own(pi5: DeviceProfile) -> None:
    two = with_gpu(pi5, GpuPart("card", 2, 24 * GIB, 10**12))
    assert two.available_bytes(on_gpu=True) == int(2 * 24 * GIB * 0.9)
    assert two.available_bytes(on_gpu=False) == 7 * GIB


def test_shared_memory_is_not_counted_twice(pi5: DeviceProfile) -> None:
    """The GPU gets the smaller of its share and of what the system leaves; the processor gets all of that."""
    shared = GpuPart("shared", 1, 8 * GIB, 10**11, shares_ram=True, usable_share=0.5)
    assert with_gpu(pi5, shared).available_bytes(on_gpu=True) == 4 * GIB
    greedy = dataclasses.replace(shared, usable_share=1.0)
    assert with_gpu(pi5, greedy).available_bytes(on_gpu=True) == 7 * GIB
    assert with_gpu(pi5, greedy).available_bytes(on_gpu=False) == 7 * GIB


def test_engines_that_use_the_gpu() -> None:
    mac = load_profile("macbook-m1-8gb")
    assert mac.runs_on_gpu("llama.cpp")
    assert not mac.runs_on_gpu("onnxruntime")
    assert mac.available_bytes(on_gpu=True) == 5 * GIB, "two thirds of 8 GiB, but the system leaves five"
