"""Quantization-aware training: what is trained is what is shipped, to the last code, and it is nearer to its teacher."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from short_training import fine_tuned, repetitive_text

from edgeport.errors import UsageError
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.quantize.grid import is_on_grid
from edgeport.export.quantize.run import quantize
from edgeport.export.quantize.trained import TRAINED_FOLDER, find_trained
from edgeport.export.recipe import Recipe, load_recipe, parse_scheme
from edgeport.export.recover.distill import DistillJob, distill
from edgeport.export.recover.qat import QatStudent
from edgeport.export.recover.settings import settings_from
from edgeport.export.recover.student import StudentSettings
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import NO_PROGRESS

QUICK = {"solver": "rtn"}


@pytest.fixture(scope="module")
def source(tiny_llama_dir: Path) -> SourceModel:
    return open_source(str(tiny_llama_dir))


@pytest.fixture(scope="module")
def trained(source: SourceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder after a few steps; treat it as read-only."""
    folder = tmp_path_factory.mktemp("qat")
    fine_tuned(source, folder, kind="qat", options=QUICK)
    return folder / "out"


def recipe_of(solver: str, name: str = "int4") -> Recipe:
    return replace(load_recipe(name), solver=solver)


def quantized(model: Path, recipe: Recipe, folder: Path) -> Checkpoint:
    folder.mkdir()
    source = open_source(str(model))
    quantize(source, recipe, folder, threads=1, progress=NO_PROGRESS)
    return Checkpoint(folder, source.spec)


def test_float_weights_are_codes_times_scales(trained: Path) -> None:
    model = open_source(str(trained))
    codes = Checkpoint(trained / TRAINED_FOLDER, model.spec)
    assert json.loads((trained / "config.json").read_text())["dtype"] == "float32"
    for item in model.spec.tensors():
        packed, stored = codes.tensor(item.name), model.tensor(item.name)
        assert stored.dtype == np.float32
        if packed.scales is None:
            assert (stored == packed.payload).all()
            continue
        scales = np.repeat(packed.scales.astype(np.float64), packed.scheme.block, axis=1)
        assert (stored == packed.codes() * scales).all(), item.name
        assert is_on_grid(packed.scales.astype(np.float32), 7 if packed.scheme.bits == 4 else 4)


def test_the_folder_answers_as_the_student_does(source: SourceModel, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    student = QatStudent(source, StudentSettings(options=QUICK))
    generator = np.random.default_rng(0)
    arrays = {
        name: values + generator.uniform(-2, 2, values.shape).astype(np.float32) * name.endswith(".values")
        for name, values in student.arrays().items()
    }
    student.restore(arrays)
    student.write(tmp_path)
    tokens = torch.arange(40).reshape(2, 20)
    network = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    with torch.no_grad():
        wanted = student.forward(tokens, hidden_states=False).logits
        found = network(tokens).logits
    assert float((found - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


@pytest.mark.parametrize("solver", ["rtn", "gptaq", "auto"])
def test_trained_codes_are_taken_over_whatever_the_solver(solver: str, trained: Path, tmp_path: Path) -> None:
    found = quantized(trained, recipe_of(solver), tmp_path / "again")
    wanted = Checkpoint(trained / TRAINED_FOLDER, found.spec)
    assert found.weights_id == wanted.weights_id
    for name in found.names():
        assert (found.tensor(name).payload == wanted.tensor(name).payload).all()


def test_a_search_would_not_find_every_code_again(trained: Path, tmp_path: Path) -> None:
    """Why the codes are kept: if this ever fails, the folder `quantized` is not needed any more."""
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    shutil.rmtree(copy / TRAINED_FOLDER)
    found = quantized(copy, recipe_of("rtn"), tmp_path / "again")
    assert found.weights_id != Checkpoint(trained / TRAINED_FOLDER, found.spec).weights_id


def test_another_recipe_quantizes_the_float_weights(trained: Path, tmp_path: Path) -> None:
    model = open_source(str(trained))
    assert find_trained(model, recipe_of("rtn")) is not None
    assert find_trained(model, recipe_of("rtn", "int8")) is None
    wider = replace(recipe_of("rtn"), linear=parse_scheme("int4-g64"))
    assert find_trained(model, wider) is None
    assert quantized(trained, wider, tmp_path / "wider").names()


def test_codes_of_other_weights_are_refused(trained: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] += 0.01
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"layers\.1\.mlp\.up_proj\.weight .* were changed"):
        quantized(copy, recipe_of("rtn"), tmp_path / "again")


def test_training_comes_nearer_to_the_teacher(source: SourceModel, tmp_path: Path) -> None:
    """Starting from the solver's best, on the teacher's own answers."""
    document = {"kind": "qat", "options": {"calibration": "embedded", "calibration_tokens": 2048}}
    document |= {"alpha": 1.0, "steps": 30, "batch_tokens": 256, "micro_tokens": 256, "n_ctx": 32}
    document |= {"precision": "f32", "measure_steps": 10, "learning_rate": 1e-3}
    job = DistillJob(source, source, repetitive_text(source), settings_from(document))
    report = distill(job, tmp_path / "out", work=tmp_path / "work", threads=1, progress=NO_PROGRESS)
    assert report.held_loss_after < 0.8 * report.held_loss_before
    assert report.best_step > 0


def test_codes_scales_and_norms_move(source: SourceModel) -> None:
    import torch

    student = QatStudent(source, StudentSettings(options=QUICK))
    before = {name: values.copy() for name, values in student.arrays().items()}
    optimizer = torch.optim.AdamW(student.parameter_groups())
    tokens = torch.arange(40).reshape(2, 20)
    student.forward(tokens, hidden_states=False).logits.square().mean().backward()
    optimizer.step()
    after = student.arrays()
    for name, values in before.items():
        assert (after[name] != values).any() == (not name.endswith(".scales")), name
    assert "model.embed_tokens.weight.factors" not in after  # INT8: codes move, scales do not
    step = np.abs(
        after["model.embed_tokens.weight.values"] - before["model.embed_tokens.weight.values"]
    ).max()
    assert step == pytest.approx(0.001 * 15 * 16, rel=0.01)


def test_a_state_is_whole_even_if_the_solver_gave_other_scales(source: SourceModel, tmp_path: Path) -> None:
    first = QatStudent(source, StudentSettings(options=QUICK))
    other = QatStudent(
        source,
        StudentSettings(options={"solver": "imatrix", "calibration": "embedded", "calibration_tokens": 512}),
    )
    names = first.arrays()
    assert any((names[name] != other.arrays()[name]).any() for name in names if name.endswith(".scales"))
    other.restore({name: values.copy() for name, values in names.items()})
    for student, folder in ((first, "first"), (other, "other")):
        (tmp_path / folder).mkdir()
        student.write(tmp_path / folder)
    written = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("first", "other")]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"solver": "best"}, "unknown solver 'best'"),
        ({"solver": "auto"}, "unknown solver 'auto'"),
        ({"recipe": "int5"}, "unknown recipe 'int5'"),
        ({"calibration_tokens": 0}, "calibration_tokens is 0"),
        ({"rank": 4}, "unknown option 'rank'"),
        ({"recipe": "bf16", "solver": "rtn"}, "quantizes nothing"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], told: str, source: SourceModel) -> None:
    for step in (QatStudent, QatStudent.state_bytes):  # when planned, and when built
        with pytest.raises(UsageError, match=told):
            step(source, StudentSettings(options=options))


def test_gradient_checkpointing_is_refused(source: SourceModel) -> None:
    with pytest.raises(UsageError, match="gradient checkpointing"):
        QatStudent(source, StudentSettings(gradient_checkpointing=True, options=QUICK))
