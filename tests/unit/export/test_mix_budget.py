"""Sizes agree with the plan's and with real files; impossible budgets are told with numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeport.errors import DoesNotFit, UsageError
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.table import get_format
from edgeport.export.mix.budget import (
    BITS,
    MixBudget,
    MixSearch,
    all_schemes,
    budget_limits,
    require_possible,
    stored_bytes,
    unspent,
)
from edgeport.export.mix.groups import assign, tensor_groups, with_assignment
from edgeport.export.mix.overhead import container_overhead
from edgeport.export.quantize.run import quantize
from edgeport.export.recipe import Recipe, load_recipe
from edgeport.export.request import checkpoint_bytes, packed_bytes
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import NO_PROGRESS
from edgeport.scheme import TensorScheme

INT4, INT8 = TensorScheme("int4", 32), TensorScheme("int8", 32)
CONTAINERS = ("gguf", "onnx", "openvino", "safetensors")
REFERENCE = Path(__file__).resolve().parents[3] / "models" / "reference"


def every_other(source: SourceModel, recipe: Recipe) -> dict[str, TensorScheme]:
    groups = tensor_groups(source.spec, recipe, (INT4, INT8))
    return assign(groups, [group.schemes[at % 2] for at, group in enumerate(groups)])


@pytest.mark.parametrize("model", ["tiny_llama_dir", "tiny_qwen2_dir"])
@pytest.mark.parametrize("block", [32, 64])
def test_sizes_are_those_of_the_plan(model: str, block: int, request: pytest.FixtureRequest) -> None:
    source = open_source(str(request.getfixturevalue(model)))
    recipe = replace(load_recipe("int4"), linear=TensorScheme("int4", block))
    mix = every_other(source, recipe)
    mixed = with_assignment(recipe, mix, source.spec)
    schemes = all_schemes(source.spec, recipe, mix)
    for container in CONTAINERS:
        expected = packed_bytes(source.spec, mixed, container)
        assert sum(stored_bytes(item, scheme, container) for item, scheme in schemes.items()) == expected
    total = sum(stored_bytes(item, scheme, BITS) for item, scheme in schemes.items())
    assert total == checkpoint_bytes(source.spec, mixed)


def check_overhead(source: SourceModel, recipe: Recipe, containers: tuple[str, ...], folder: Path) -> None:
    """Write each container and compare its files with the estimate made before; the error bar must hold and be small."""
    (folder / "checkpoint").mkdir()
    quantize(source, replace(recipe, solver="rtn"), folder / "checkpoint", threads=1, progress=NO_PROGRESS)
    checkpoint = Checkpoint(folder / "checkpoint", source.spec)
    for container in containers:
        overhead = container_overhead(source, load_recipe("int4"), container)
        target = folder / container
        target.mkdir()
        options = WriteOptions(source.name, source.spec.context_length, NO_PROGRESS)
        get_format(container).write(checkpoint, target, options)
        written = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        got = written - packed_bytes(source.spec, recipe, container)
        assert abs(got - overhead.size_bytes) <= overhead.error_bytes, (container, got, overhead)
        assert overhead.error_bytes < 0.06 * overhead.size_bytes + 5000 * source.spec.layers, container


@pytest.mark.parametrize("model", ["tiny_llama_dir", "tiny_qwen2_dir"])
def test_overhead_is_that_of_real_files(model: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source = open_source(str(request.getfixturevalue(model)))
    recipe = load_recipe("int4")
    mixed = with_assignment(recipe, every_other(source, recipe), source.spec)
    check_overhead(source, mixed, CONTAINERS, tmp_path)


@pytest.mark.slow
def test_overhead_is_that_of_real_files_of_the_reference_model(tmp_path: Path) -> None:
    source = open_source(str(REFERENCE))
    recipe = load_recipe("int4")
    mixed = with_assignment(recipe, every_other(source, recipe), source.spec)
    check_overhead(source, mixed, CONTAINERS, tmp_path)


def test_overhead_of_an_unknown_container_is_refused(tiny_llama_dir: Path) -> None:
    with pytest.raises(UsageError, match="gguf-q4_k_m"):
        container_overhead(open_source(str(tiny_llama_dir)), load_recipe("int4"), "gguf-q4_k_m")


def test_budget_is_one_of_two() -> None:
    with pytest.raises(UsageError, match="not both"):
        MixBudget(target_bits=4.6, target_bytes=10, formats=("gguf",))
    with pytest.raises(UsageError, match="not both"):
        MixBudget()
    with pytest.raises(UsageError, match="the budget is -1"):
        MixBudget(target_bits=-1)
    with pytest.raises(UsageError, match="the budget is nan"):
        MixBudget(target_bits=float("nan"))
    with pytest.raises(UsageError, match="size of a container"):
        MixBudget(target_bytes=10)


def test_bits_count_scales_and_norms(tiny_llama_dir: Path) -> None:
    source = open_source(str(tiny_llama_dir))
    recipe = load_recipe("int4")
    groups = tensor_groups(source.spec, recipe, (INT4, INT8))
    lowest = all_schemes(source.spec, recipe, assign(groups, [INT4] * len(groups)))
    norms = sum(item.shape[0] for item in source.spec.tensors() if item.role == "norm")
    bits = 4.5 + (32 - 4.5) * norms / source.spec.parameters()
    just = MixBudget(target_bits=bits + 1e-9)
    require_possible(source, just, budget_limits(source, recipe, just), lowest)
    below = MixBudget(target_bits=bits - 0.001)
    with pytest.raises(DoesNotFit, match=f"{bits:.3f}") as refusal:
        require_possible(source, below, budget_limits(source, recipe, below), lowest)
    named = MixBudget(target_bits=float((refusal.value.hint or "").split("--target-bits ")[1].split(";")[0]))
    require_possible(source, named, budget_limits(source, recipe, named), lowest)


def test_too_small_a_size_names_the_smallest_that_works(tiny_llama_dir: Path) -> None:
    source = open_source(str(tiny_llama_dir))
    recipe = load_recipe("int4")
    groups = tensor_groups(source.spec, recipe, (INT4, INT8))
    lowest = all_schemes(source.spec, recipe, assign(groups, [INT4] * len(groups)))
    budget = MixBudget(target_bytes=1000, formats=("onnx",))
    with pytest.raises(DoesNotFit, match="1000 B cannot hold onnx") as refusal:
        require_possible(source, budget, budget_limits(source, recipe, budget), lowest)
    least = int((refusal.value.hint or "").split("--target-size ")[1].split(";")[0])
    for size_bytes, possible in ((least, True), (least - 1, False)):
        named = MixBudget(target_bytes=size_bytes, formats=("onnx",))
        limits = budget_limits(source, recipe, named)
        if possible:
            require_possible(source, named, limits, lowest)
        else:
            with pytest.raises(DoesNotFit):
                require_possible(source, named, limits, lowest)


def test_more_than_the_highest_schemes_take_is_told(tiny_llama_dir: Path) -> None:
    source = open_source(str(tiny_llama_dir))
    recipe = load_recipe("int4")
    groups = tensor_groups(source.spec, recipe, (INT4, INT8))
    highest = all_schemes(source.spec, recipe, assign(groups, [INT8] * len(groups)))
    for bits, told in ((12.0, True), (6.0, False)):
        budget = MixBudget(target_bits=bits, search=MixSearch())
        note = unspent(source, budget, budget_limits(source, recipe, budget), highest)
        assert (note is not None) == told
