"""The calibration pass: what it gathers, what it quantizes, that a killed one resumes to the same bytes, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgeport.errors import DoesNotFit, RecipeError, UnsupportedModel
from edgeport.export.calibrate.run import collect_statistics
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.quantize.learned import Learner, LearnSettings, require_memory
from edgeport.export.quantize.run import Calibration, quantize
from edgeport.export.recipe import Recipe, load_recipe, parse_scheme
from edgeport.export.safetensors_file import SafetensorsFile, SafetensorsFolder
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import NO_PROGRESS

CALIBRATED = ("imatrix", "gptq", "gptq+imatrix", "gptaq", "awq", "awq+gptq")


def text_of(source: SourceModel, windows: int = 6, n_ctx: int = 48) -> CalibrationText:
    generator = np.random.default_rng(3)
    tokens = generator.integers(0, source.spec.vocab_size, (windows, n_ctx))
    return CalibrationText(tokens, "random tokens", f"random {windows}x{n_ctx}")


def recipe_of(solver: str, embedding: str = "int8") -> Recipe:
    scheme = parse_scheme(embedding)
    return replace(load_recipe("int4"), solver=solver, embedding=scheme, head=scheme)


def solved(source: SourceModel, recipe: Recipe, folder: Path) -> Checkpoint:
    directory = folder / "checkpoint"
    directory.mkdir(parents=True)
    quantize(
        source,
        recipe,
        directory,
        calibration=Calibration(text_of(source), folder / "work"),
        threads=1,
        progress=NO_PROGRESS,
    )
    return Checkpoint(directory, source.spec)


def last_hidden(source: SourceModel, weights: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Logits of transformers' own model with some weights replaced, on the calibration text."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(source.directory, dtype=torch.float32)
    with torch.inference_mode():
        for name, values in weights.items():
            network.get_parameter(name).copy_(torch.from_numpy(values))
        logits: npt.NDArray[np.float32] = network(torch.from_numpy(text_of(source).windows)).logits.numpy()
    return logits


@pytest.fixture(params=["tiny_llama_dir", "tiny_qwen2_dir"])
def source(request: pytest.FixtureRequest) -> SourceModel:
    return open_source(str(request.getfixturevalue(request.param)))


def test_statistics_are_those_of_transformers_own_forward(source: SourceModel, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    text = text_of(source)
    found = SafetensorsFile(collect_statistics(source, text, tmp_path, threads=1, progress=NO_PROGRESS))
    network = AutoModelForCausalLM.from_pretrained(source.directory, dtype=torch.float32)
    seen: dict[str, npt.NDArray[np.float64]] = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_forward_pre_hook(
                lambda _, arguments, name=name: seen.update({name: arguments[0].double().numpy()})
            )
    with torch.inference_mode():
        network(torch.from_numpy(text.windows))
    assert len(seen) == 7 * source.spec.layers
    for name, inputs in seen.items():
        vectors = inputs.reshape(-1, inputs.shape[-1])
        square, magnitude = (vectors**2).mean(axis=0), np.abs(vectors).mean(axis=0)
        np.testing.assert_allclose(found.tensor(f"{name}.weight.second_moment"), square, rtol=1e-4)
        np.testing.assert_allclose(found.tensor(f"{name}.weight.mean_magnitude"), magnitude, rtol=1e-4)


@pytest.mark.parametrize("solver", CALIBRATED)
def test_calibrated_solvers_disturb_the_logits_less_than_rounding(
    solver: str, source: SourceModel, tmp_path: Path
) -> None:
    """On the text they were calibrated on, where they must: random weights know no other text."""
    wanted = last_hidden(source, {})

    def error(name: str) -> float:
        checkpoint = solved(source, recipe_of(name), tmp_path / name)
        weights = {tensor: checkpoint.tensor(tensor).dequantize() for tensor in checkpoint.names()}
        return float(np.square(last_hidden(source, weights) - wanted).mean())

    slack = 1.1 if solver in ("imatrix", "awq") else 0.8
    assert error(solver) < slack * error("rtn")


def test_a_tied_int4_embedding_is_solved_for_the_head_too(tmp_path: Path) -> None:
    """On the reference model: a random one has no words its head tells apart by direction."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    source, name = open_source("models/reference"), "model.embed_tokens.weight"
    tokenizer = Tokenizer.from_file("models/reference/tokenizer.json")

    def windows(text: str, count: int) -> npt.NDArray[np.int64]:
        path = Path("models/reference/text") / text
        return np.array(tokenizer.encode(path.read_text(encoding="utf-8")).ids[: count * 256]).reshape(
            count, 256
        )

    held = torch.from_numpy(windows("heldout.txt", 6))
    network = AutoModelForCausalLM.from_pretrained(source.directory, dtype=torch.float32)
    with torch.inference_mode():
        wanted = torch.log_softmax(network(held).logits, dim=-1)

    def divergence(solver: str) -> float:
        only = replace(load_recipe("f16"), solver=solver, embedding=parse_scheme("int4"))
        text = CalibrationText(windows("calibration.txt", 24), "calibration.txt", "24x256")
        directory = tmp_path / solver
        directory.mkdir()
        calibration = Calibration(text, tmp_path / f"work-{solver}")
        quantize(source, only, directory, calibration=calibration, threads=1, progress=NO_PROGRESS)
        table = Checkpoint(directory, source.spec).tensor(name).dequantize()
        with torch.inference_mode():
            network.get_parameter(name).copy_(torch.from_numpy(table))
            got = torch.log_softmax(network(held).logits, dim=-1)
        return float((wanted.exp() * (wanted - got)).sum(dim=-1).mean())

    assert divergence("gptq") < 0.8 * divergence("rtn")


KILLED = """
import os, sys
sys.path[:0] = {path!r}
from pathlib import Path
import edgeport.export.quantize.calibrated as calibrated
from tests_of_calibrated import recipe_of, solved, open_source
calls = 0
original = calibrated.set_weight
def dies(*arguments):
    global calls
    calls += 1
    if calls == 10:
        os._exit(9)
    original(*arguments)
calibrated.set_weight = dies
solved(open_source({source!r}), recipe_of({solver!r}, "int4"), Path({folder!r}))
"""


@pytest.mark.parametrize("solver", ["gptq", "gptaq"])
def test_a_killed_pass_resumes_to_the_same_bytes(solver: str, tiny_llama_dir: Path, tmp_path: Path) -> None:
    """The child dies in the middle of layer 1: layer 0 must not be solved again, and nothing may differ."""
    source = open_source(str(tiny_llama_dir))
    whole = solved(source, recipe_of(solver, "int4"), tmp_path / "whole")
    folder = tmp_path / "killed"
    (tmp_path / "tests_of_calibrated.py").write_text(Path(__file__).read_text(encoding="utf-8"))
    program = KILLED.format(
        path=[str(tmp_path), *sys.path], source=str(tiny_llama_dir), solver=solver, folder=str(folder)
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert child.returncode == 9, child.stderr
    first_layer = folder / "work" / "solve" / "layer-0001.safetensors"
    written = first_layer.stat().st_mtime_ns
    assert not (folder / "work" / "solve" / "layer-0002.safetensors").exists()
    (folder / "checkpoint").rmdir()
    resumed = solved(source, recipe_of(solver, "int4"), folder)
    assert first_layer.stat().st_mtime_ns == written
    assert resumed.weights_id == whole.weights_id


def test_another_recipe_does_not_resume(tiny_llama_dir: Path, tmp_path: Path) -> None:
    source = open_source(str(tiny_llama_dir))
    first = solved(source, recipe_of("gptq"), tmp_path)
    (tmp_path / "checkpoint").rename(tmp_path / "other")
    second = solved(source, recipe_of("imatrix"), tmp_path)
    assert first.weights_id != second.weights_id


def test_activations_that_overflow_are_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_dir, folder)
    weights = {
        name: values.astype(np.float32) for name, values in load_file(folder / "model.safetensors").items()
    }
    weights["model.layers.0.mlp.up_proj.weight"][:] = 1e30
    weights["model.layers.0.mlp.gate_proj.weight"][:] = 1e30
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    recipe = replace(recipe_of("gptq"), overrides={"*.0.mlp.*": parse_scheme("f32")})
    with pytest.raises(UnsupportedModel, match="NaN or infinite"):
        solved(open_source(str(folder)), recipe, tmp_path)


def test_calibrated_solver_without_text_is_refused(source: SourceModel, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs calibration text"):
        quantize(source, recipe_of("gptq"), tmp_path, threads=1, progress=NO_PROGRESS)


def test_a_recipe_without_codes_needs_no_text(source: SourceModel, tmp_path: Path) -> None:
    recipe = replace(load_recipe("f16"), solver="gptq")
    quantize(source, recipe, tmp_path, threads=1, progress=NO_PROGRESS)
    assert (tmp_path / "checkpoint.json").is_file()


@pytest.fixture
def started(tiny_llama_dir: Path, tmp_path: Path) -> Iterator[tuple[SourceModel, Recipe, SafetensorsFolder]]:
    source, recipe = open_source(str(tiny_llama_dir)), recipe_of("gptq", "int4")
    solved(source, recipe, tmp_path)
    yield source, recipe, SafetensorsFolder(tmp_path / "work" / "solve")


SHORT = LearnSettings(steps=20, batch_tokens=96, measure_steps=5, value_rate=0.01)


def test_learning_lowers_the_divergence_on_windows_it_has_not_seen(
    started: tuple[SourceModel, Recipe, SafetensorsFolder], tmp_path: Path
) -> None:
    source, recipe, start = started
    text = text_of(source, windows=24)
    before = Learner(source, recipe, text, start, replace(SHORT, steps=0))
    before.run(tmp_path / "before", progress=NO_PROGRESS)
    learner = Learner(source, recipe, text, start, SHORT)
    result = SafetensorsFile(learner.run(tmp_path / "after", progress=NO_PROGRESS))
    assert learner.divergence < before.divergence
    assert "model.layers.1.mlp.down_proj.weight.codes" in result.entries


def test_learning_that_makes_worse_keeps_the_start(
    started: tuple[SourceModel, Recipe, SafetensorsFolder], tmp_path: Path
) -> None:
    source, recipe, start = started
    wild = replace(SHORT, value_rate=5.0, factor_rate=1.0)
    learner = Learner(source, recipe, text_of(source), start, wild)
    result = SafetensorsFile(learner.run(tmp_path / "learn", progress=NO_PROGRESS))
    name = "model.layers.0.mlp.up_proj.weight.codes"
    assert np.array_equal(result.tensor(name), start.tensor(name))


def test_interrupted_learning_resumes_to_the_same_bytes(
    started: tuple[SourceModel, Recipe, SafetensorsFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, recipe, start = started
    text = text_of(source)
    whole = Learner(source, recipe, text, start, SHORT).run(tmp_path / "whole", progress=NO_PROGRESS)
    stopped = Learner(source, recipe, text, start, SHORT)
    original = stopped._learn_batch

    def stops() -> None:
        if stopped._step == 13:
            raise KeyboardInterrupt
        original()

    monkeypatch.setattr(stopped, "_learn_batch", stops)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(tmp_path / "stopped", progress=NO_PROGRESS)
    resumed = Learner(source, recipe, text, start, SHORT).run(tmp_path / "stopped", progress=NO_PROGRESS)
    assert resumed.read_bytes() == whole.read_bytes()


def test_learning_a_model_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DoesNotFit, match="'learned' needs") as caught:
        require_memory(8_000_000_000, 16 << 30)
    assert "gptaq" in str(caught.value.hint)
