"""Adapters: what is merged is W + alpha/rank B A of the source's float weights, and training them lowers the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from short_training import fine_tuned, moved

from edgeport.errors import UsageError
from edgeport.export.recover.lora import LoraStudent
from edgeport.export.recover.student import StudentSettings
from edgeport.export.source import SourceModel, open_source


@pytest.fixture(scope="module")
def source(tiny_qwen2_dir: Path) -> SourceModel:
    return open_source(str(tiny_qwen2_dir))


def test_merged_weights_are_the_formula(source: SourceModel, tmp_path: Path) -> None:
    student = moved(LoraStudent(source, StudentSettings(options={"rank": 4, "lora_alpha": 12})))
    arrays = student.arrays()
    student.write(tmp_path)
    merged = open_source(str(tmp_path))
    for item in source.spec.tensors():
        found, before = merged.tensor(item.name), source.tensor(item.name)
        assert found.dtype == before.dtype
        if item.role != "linear":
            assert (found == before).all(), item.name
            continue
        module = item.name.removesuffix(".weight")
        down = next(values for name, values in arrays.items() if f"{module}.lora_A" in name)
        up = next(values for name, values in arrays.items() if f"{module}.lora_B" in name)
        expected = before.astype(np.float64) + 12 / 4 * up.astype(np.float64) @ down
        assert found.astype(np.float64) == pytest.approx(expected, rel=2**-7, abs=1e-6), item.name
        assert (found != before).mean() > 0.5


def test_the_merged_folder_answers_as_the_student_does(source: SourceModel, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    student = moved(LoraStudent(source, StudentSettings()))
    tokens = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        wanted = student.forward(tokens, hidden_states=False).logits
        student.write(tmp_path)
        network = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, local_files_only=True)
        original = AutoModelForCausalLM.from_pretrained(source.directory, dtype=torch.float32)
        found, before = network(tokens).logits, original(tokens).logits
    distance = float((found - wanted).norm() / wanted.norm())
    assert distance < 0.02  # bf16 rounding of the sum
    assert float((before - wanted).norm() / wanted.norm()) > 10 * distance


def test_targets_choose_what_is_adapted(source: SourceModel, tmp_path: Path) -> None:
    student = moved(LoraStudent(source, StudentSettings(options={"target": "q_proj,down_proj"})))
    student.write(tmp_path)
    merged = open_source(str(tmp_path))
    changed = {
        item.name
        for item in source.spec.tensors()
        if (merged.tensor(item.name) != source.tensor(item.name)).any()
    }
    expected = {
        f"model.layers.{layer}.{name}.weight"
        for layer in range(2)
        for name in ("self_attn.q_proj", "mlp.down_proj")
    }
    assert changed == expected


def test_a_start_is_repeatable_and_a_state_restorable(source: SourceModel) -> None:
    first, second = (LoraStudent(source, StudentSettings(seed=3)).arrays() for _ in range(2))
    other = LoraStudent(source, StudentSettings(seed=4)).arrays()
    assert all((first[name] == second[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)
    student = moved(LoraStudent(source, StudentSettings(seed=3)), seed=9)
    kept = {name: values.copy() for name, values in student.arrays().items()}
    moved(student, seed=10)
    student.restore(kept)
    assert all((student.arrays()[name] == kept[name]).all() for name in kept)


def test_memory_is_counted_without_loading(source: SourceModel) -> None:
    student = LoraStudent(source, StudentSettings(options={"rank": 4}))
    trained = sum(values.size for values in student.arrays().values())
    counted = LoraStudent.state_bytes(source, StudentSettings(options={"rank": 4}))
    assert counted == 4 * source.spec.parameters() + 16 * trained


@pytest.mark.parametrize("options", [None, {"rank": 4, "target": "q_proj,v_proj"}])
def test_fine_tuning_without_a_teacher_learns(
    options: dict[str, Any] | None, source: SourceModel, tmp_path: Path
) -> None:
    report = fine_tuned(source, tmp_path, kind="lora", options=options)
    assert report.held_cross_entropy_after < report.held_cross_entropy_before - 0.1
    document = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert document["settings"]["kind"] == "lora" and document["teacher"] is None
    open_source(str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 4.5}, "rank is 4.5"),
        ({"lora_alpha": True}, "lora_alpha is True"),
        ({"target": "lm_head"}, "target is 'lm_head'"),
        ({"dropout": 0.1}, "unknown option 'dropout'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], told: str, source: SourceModel) -> None:
    with pytest.raises(UsageError, match=told):
        LoraStudent(source, StudentSettings(options=options))
