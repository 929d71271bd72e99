"""The inverse plan agrees with the forward one: what it says fits does, and the next size does not."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest

from edgeport.devices.catalog import load_profile
from edgeport.devices.known_models import load_known
from edgeport.devices.memory import Workload
from edgeport.devices.plan import Wish, plan_device
from edgeport.devices.plan_containers import container_of
from edgeport.devices.plan_known import device_sizes
from edgeport.devices.plan_place import place
from edgeport.devices.plan_sizes import ladder, llama_like, size_limit
from edgeport.devices.profile import DeviceProfile

GIB = 2**30
LLAMAS = ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "llama-3.1-70b")


def with_ram(gib: float) -> DeviceProfile:
    return dataclasses.replace(
        load_profile("edge"), ram_bytes=round(2 * gib * GIB), usable_ram_bytes=round(gib * GIB)
    )


def test_the_ladder_rises_in_small_steps() -> None:
    sizes = [llama_like(*rung).parameters for rung in ladder()[::20]]
    assert sizes == sorted(set(sizes)) and sizes[0] < 50e6 and sizes[-1] > 500e9
    steps = [
        llama_like(*larger).parameters / llama_like(*smaller).parameters
        for smaller, larger in pairwise(ladder()[:120])
    ]
    assert min(steps) > 1 and max(steps) < 1.12


def test_rungs_are_near_published_models_of_their_size() -> None:
    assert llama_like(4096, 32).parameters == pytest.approx(load_known("llama-3.1-8b").parameters, rel=0.001)
    assert llama_like(8192, 80).parameters == pytest.approx(load_known("llama-3.1-70b").parameters, rel=0.001)


@pytest.mark.parametrize("precision", ["int4", "f16"])
@pytest.mark.parametrize("gib", [0.5, 3, 24])
def test_the_limit_fits_and_the_next_size_does_not(gib: float, precision: str) -> None:
    profile, workload = with_ram(gib), Workload(4096)
    limit = size_limit(profile, "gguf", "llama.cpp", precision, workload)
    assert limit.row is not None and limit.row.fits and limit.row.speed is not None
    rungs = ladder()
    index = next(i for i, rung in enumerate(rungs) if llama_like(*rung).parameters == limit.parameters)
    larger = llama_like(*rungs[index + 1])
    assert not place(larger, container_of(larger, "gguf", precision), "llama.cpp", workload, profile).fits


@pytest.mark.parametrize("gib", [1.5, 4, 8, 64])
def test_known_llamas_fit_below_the_limit_and_not_above(gib: float) -> None:
    """Within the ladder's own steps, a real model of the family is on the side of the limit that the forward plan says."""
    profile = with_ram(gib)
    limit = size_limit(profile, "gguf", "llama.cpp", "int4", Workload(2048)).parameters
    for name in LLAMAS:
        shape = load_known(name)
        wish = Wish(context_length=2048, formats=("gguf",), precisions=("int4",))
        best = plan_device(shape, profile, wish).best
        assert best is not None
        if not 0.88 < shape.parameters / limit < 1.12:
            assert best.fits == (shape.parameters < limit), name


def test_more_bits_and_longer_contexts_leave_smaller_models() -> None:
    sizes = device_sizes(with_ram(4), Wish(formats=("gguf",), precisions=("int4", "f16")))
    table = {(limit.precision, limit.context_length): limit.parameters for limit in sizes.limits}
    for precision in ("int4", "f16"):
        row = [table[precision, context] for context in (2048, 8192, 32768)]
        assert row == sorted(row, reverse=True)
    for context in (2048, 8192, 32768):
        assert table["int4", context] > 1.5 * table["f16", context]


def test_nothing_fits_and_everything_fits() -> None:
    none = size_limit(with_ram(0.05), "gguf", "llama.cpp", "int4", Workload(2048))
    assert (none.parameters, none.row) == (0, None)
    top = size_limit(with_ram(10_000), "gguf", "llama.cpp", "int4", Workload(2048))
    assert top.is_top and top.parameters > 500e9


def test_known_models_are_listed_by_size_with_the_forward_plan_s_row() -> None:
    profile = with_ram(3)
    sizes = device_sizes(profile, Wish(context_length=2048, formats=("gguf",), every_row=False))
    parameters = [item.parameters for item in sizes.known]
    assert parameters == sorted(parameters) and sizes.fits
    table = {item.model: item for item in sizes.known}
    forward = plan_device(load_known("llama-3.2-3b"), profile, Wish(context_length=2048, formats=("gguf",)))
    assert table["llama-3.2-3b"].row == forward.best
    too_large = table["llama-3.1-8b"].row
    assert too_large is not None and too_large.verdict == "no" and not too_large.advice.helps
    assert "512 tokens" in table["bert-base"].reason and table["bert-base"].row is None
