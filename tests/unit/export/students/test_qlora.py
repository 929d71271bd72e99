"""Adapters over NF4: right gradients after a measurement, and a merge into the float weights that says what it changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from short_training import fine_tuned, moved

from edgeport.errors import UnsupportedModel
from edgeport.export.recover.lora import LoraStudent
from edgeport.export.recover.qlora import MERGE_NAME, QloraStudent
from edgeport.export.recover.student import StudentSettings
from edgeport.export.source import SourceModel, open_source

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def source(tiny_llama_dir: Path) -> SourceModel:
    return open_source(str(tiny_llama_dir))


def test_the_base_is_in_four_bits(source: SourceModel) -> None:
    import torch

    student, plain = (kind(source, StudentSettings()) for kind in (QloraStudent, LoraStudent))
    tokens = torch.arange(30).reshape(1, 30)
    with torch.no_grad():
        found, exact = (item.forward(tokens, hidden_states=False).logits for item in (student, plain))
    distance = float((found - exact).norm() / exact.norm())
    assert 0.01 < distance < 0.5
    assert QloraStudent.state_bytes(source, StudentSettings()) < LoraStudent.state_bytes(
        source, StudentSettings()
    )


@pytest.mark.parametrize("measured_first", [False, True])
def test_gradients_are_those_of_the_dequantized_base(source: SourceModel, measured_first: bool) -> None:
    """bitsandbytes has kernels without a backward pass, and a forward pass under no_grad can switch to them."""
    import torch
    from bitsandbytes.functional import dequantize_4bit

    settings = StudentSettings(options={"rank": 4})
    student, plain = QloraStudent(source, settings), LoraStudent(source, settings)
    for item in (student, plain):
        moved(item)
    modules = dict(student._adapters.network.named_modules())
    with torch.no_grad():
        for name, module in plain._adapters.network.named_modules():
            base = modules[name]
            if type(base).__name__ == "Linear4bit":
                module.weight.copy_(dequantize_4bit(base.weight.data, base.weight.quant_state))
    tokens = torch.arange(30).reshape(1, 30)
    gradients = []
    for item in (student, plain):
        if measured_first:
            with torch.no_grad():
                item.forward(tokens, hidden_states=False)
        item.forward(tokens, hidden_states=False).logits.logsumexp(-1).square().mean().backward()
        parameters = item.parameter_groups()[0]["params"]
        gradients.append(np.concatenate([parameter.grad.reshape(-1).numpy() for parameter in parameters]))
    assert np.linalg.norm(gradients[1]) > 0
    assert np.linalg.norm(gradients[0] - gradients[1]) < 1e-3 * np.linalg.norm(gradients[1])


def test_adapters_are_merged_into_the_float_weights(source: SourceModel, tmp_path: Path) -> None:
    """The same adapters give the same folder, whatever they were trained over."""
    folders = []
    for kind in (QloraStudent, LoraStudent):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        moved(kind(source, StudentSettings())).write(folder)
        folders.append(folder)
    assert (folders[0] / "model.safetensors").read_bytes() == (folders[1] / "model.safetensors").read_bytes()


def test_fine_tuning_learns_and_tells_what_the_merge_changed(source: SourceModel, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    report = fine_tuned(source, tmp_path, kind="qlora", options={"rank": 8})
    assert report.held_cross_entropy_after < report.held_cross_entropy_before - 0.1
    document = json.loads((tmp_path / "out" / MERGE_NAME).read_text())
    assert document["kl_divergence"] > 1e-4 and document["tokens"] == 64
    assert document["cross_entropy_trained"] == pytest.approx(report.held_cross_entropy_after, rel=1e-3)
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokens = (torch.tensor([5, 17])[:, None] * 7 + torch.arange(32)) % source.spec.vocab_size
    with torch.no_grad():
        logits = network(tokens).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
    assert document["cross_entropy_merged"] == pytest.approx(float(loss), rel=1e-3)


def test_layers_of_different_sizes_are_refused(source: SourceModel) -> None:
    spec = replace(source.spec, family="nemotron-nas")
    with pytest.raises(UnsupportedModel, match="cannot be loaded in NF4") as caught:
        QloraStudent(replace(source, spec=spec), StudentSettings())
    assert "--kind lora" in str(caught.value.hint)
