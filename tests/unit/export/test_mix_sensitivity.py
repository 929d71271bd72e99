"""Sensitivity against whole models run by transformers, and over a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import UnsupportedModel
from edgeport.export.mix.evaluate import compare_weights, evaluate_recipe_kl
from edgeport.export.mix.groups import tensor_groups, with_assignment
from edgeport.export.mix.sensitivity import SENSITIVITY_NAME, SensitivityRun, read_sensitivity
from edgeport.export.mix.weights import QuickSolver, RecipeWeights
from edgeport.export.mix.windows import Windows
from edgeport.export.recipe import Recipe, load_recipe
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import NO_PROGRESS, Progress, Stage
from edgeport.scheme import TensorScheme

INT4, INT8 = TensorScheme("int4", 32), TensorScheme("int8", 32)


def make_windows(seed: int = 0) -> Windows:
    return np.random.default_rng(seed).integers(0, 512, size=(3, 48), dtype=np.int64)


def make_run(directory: Path, work: Path, **changes: object) -> SensitivityRun:
    source = open_source(str(directory))
    groups = tensor_groups(source.spec, replace(load_recipe("int4"), solver="rtn"), (INT4, INT8))
    work.mkdir(exist_ok=True)
    run = SensitivityRun(QuickSolver(source, None), groups, make_windows(), work, 1)
    return replace(run, **changes)  # type: ignore[arg-type]


def transformers_kl(source: SourceModel, recipe: Recipe, windows: Windows) -> float:
    """Whole models in torch, weights replaced by name, log-softmax in float64: nothing of the code under test but rtn."""
    import torch
    from transformers import AutoModelForCausalLM

    def log_probs(recipe: Recipe | None) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(source.directory, dtype=torch.float32).eval()
        if recipe is not None:
            from edgeport.export.quantize import rtn

            parameters = dict(model.named_parameters())
            for item in source.spec.tensors():
                scheme = recipe.scheme_for(item)
                if scheme.is_quantized:
                    values = source.tensor(item.name).astype(np.float32)
                    parameters[item.name].data = torch.from_numpy(rtn.solve(values, scheme).dequantize())
        with torch.inference_mode():
            return torch.log_softmax(model(torch.from_numpy(windows)).logits.double(), dim=-1)

    base, other = log_probs(None), log_probs(recipe)
    return float((base.exp() * (base - other)).sum(dim=-1).mean())


def only(recipe: Recipe, source: SourceModel, names: list[str], scheme: TensorScheme) -> Recipe:
    """`names` in `scheme`, everything else in the float32 of the test."""
    float32 = TensorScheme("f32")
    plain = replace(recipe, linear=float32, embedding=float32, head=float32)
    return with_assignment(plain, dict.fromkeys(names, scheme), source.spec)


@pytest.mark.parametrize("model", ["tiny_llama_dir", "tiny_qwen2_dir"])
def test_each_group_costs_what_the_whole_model_says(
    model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Tied and untied: the tied embedding counts at both ends."""
    run = make_run(request.getfixturevalue(model), tmp_path / "work")
    source = run.solver.source
    found = {group.name: group for group in run.measure(NO_PROGRESS).groups}
    ends = ["embedding"] if source.spec.tied_embeddings else ["embedding", "head"]
    for name in (*ends, "layers.0.qkv", "layers.1.down"):
        group = next(group for group in run.groups if group.name == name)
        names = [item.name for item in group.tensors]
        for scheme in (INT4, INT8):
            recipe = only(replace(load_recipe("int4"), solver="rtn"), source, names, scheme)
            expected = transformers_kl(source, recipe, run.windows)
            assert found[name].kl(scheme) == pytest.approx(expected, rel=1e-3), (name, scheme)
    assert all(group.kl(INT4) > 10 * group.kl(INT8) > 0 for group in found.values())


def test_end_to_end_kl_is_that_of_whole_models(tiny_qwen2_dir: Path) -> None:
    source, recipe, windows = (
        open_source(str(tiny_qwen2_dir)),
        replace(load_recipe("int4"), solver="rtn"),
        make_windows(1),
    )
    found = evaluate_recipe_kl(source, recipe, windows, threads=1)
    assert found.mean_kl == pytest.approx(transformers_kl(source, recipe, windows), rel=1e-4)
    assert found.tokens == windows.size
    solver = QuickSolver(source, None)
    float32 = only(recipe, source, [], INT4)
    mixes = {"four": RecipeWeights(solver, recipe), "none": RecipeWeights(solver, float32)}
    both = compare_weights(source, mixes, windows, threads=1)
    assert both["four"] == found
    assert 0 <= both["none"].mean_kl < 1e-14


def test_checkpoint_gives_the_same_kl_as_the_solver_that_made_it(
    tiny_llama_dir: Path, tmp_path: Path
) -> None:
    from edgeport.export.checkpoint import Checkpoint
    from edgeport.export.quantize.run import quantize

    source, recipe, windows = (
        open_source(str(tiny_llama_dir)),
        replace(load_recipe("int4"), solver="rtn"),
        make_windows(),
    )
    quantize(source, recipe, tmp_path, threads=1, progress=NO_PROGRESS)
    checkpoint = Checkpoint(tmp_path, source.spec)
    measured = evaluate_recipe_kl(source, recipe, windows, weights=checkpoint, threads=1)
    assert measured == evaluate_recipe_kl(source, recipe, windows, threads=1)


class _KilledAfter(Progress):
    """Raises what Ctrl-C raises when so many units of work are done."""

    def __init__(self, units: int) -> None:
        super().__init__(quiet=True)
        self.left = units

    def stage(self, title: str, total: float | None = None):  # type: ignore[no-untyped-def]
        outer = self
        context = super().stage(title, total)

        class _Context:
            def __enter__(self) -> Stage:
                stage = context.__enter__()

                def advance(count: float = 1) -> None:
                    outer.left -= 1
                    if outer.left < 0:
                        raise KeyboardInterrupt

                stage.advance = advance  # type: ignore[method-assign]
                return stage

            def __exit__(self, *exception: object) -> object:
                return context.__exit__(*exception)  # type: ignore[arg-type]

        return _Context()


def test_killed_half_way_goes_on_to_the_identical_result(tiny_llama_dir: Path, tmp_path: Path) -> None:
    whole = make_run(tiny_llama_dir, tmp_path / "whole").measure(NO_PROGRESS)
    work = tmp_path / "killed"
    for units in (1, 15, 25):  # before the first layer is done, in the second one, in the head
        with pytest.raises(KeyboardInterrupt):
            make_run(tiny_llama_dir, work).measure(_KilledAfter(units))
        assert not (work / SENSITIVITY_NAME).exists()
    kept = sorted(path.name for path in (work / "streams").glob("hidden-*.npy"))
    assert kept == ["hidden-0002.npy"]
    assert make_run(tiny_llama_dir, work).measure(NO_PROGRESS) == whole
    assert read_sensitivity(work / SENSITIVITY_NAME) == whole
    assert not (work / "streams").exists()


def test_measured_once_for_all_budgets_and_again_for_another_text(
    tiny_llama_dir: Path, tmp_path: Path
) -> None:
    run = make_run(tiny_llama_dir, tmp_path / "work")
    first = run.measure(NO_PROGRESS)
    # A second run does no work at all: the first unit of work would stop it.
    assert make_run(tiny_llama_dir, tmp_path / "work").measure(_KilledAfter(0)) == first
    other = make_run(tiny_llama_dir, tmp_path / "work", windows=make_windows(seed=5))
    assert other.saved() is None
    assert other.measure(NO_PROGRESS).groups != first.groups


def test_estimates_are_marked_and_of_the_right_size(tiny_llama_dir: Path, tmp_path: Path) -> None:
    full = make_run(tiny_llama_dir, tmp_path / "full").measure(NO_PROGRESS)
    low = make_run(tiny_llama_dir, tmp_path / "low", only_lowest=True).measure(NO_PROGRESS)
    for measured, estimated in zip(full.groups, low.groups, strict=True):
        assert [option.estimated for option in estimated.options] == [False, True]
        assert estimated.kl(INT4) == measured.kl(INT4)
        assert 1 / 3 < estimated.kl(INT8) / measured.kl(INT8) < 3, measured.name


def test_overflowing_model_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    directory = tmp_path / "model"
    shutil.copytree(tiny_llama_dir, directory)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.input_layernorm.weight"][:] = float("inf")
    save_file(tensors, path)
    with pytest.raises(UnsupportedModel, match="NaN or infinite"):
        make_run(directory, tmp_path / "work").measure(NO_PROGRESS)
