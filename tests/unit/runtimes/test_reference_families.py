"""The numpy oracle against transformers for every family, plain and packed, past the sliding window."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeport.errors import ArtifactError, UnsupportedModel
from edgeport.runtimes import reference
from edgeport.runtimes.reference import ReferenceSession, open_session
from edgeport.runtimes.reference_config import FAMILIES, read_reference_config
from edgeport.runtimes.session import SessionOptions

Floats = npt.NDArray[np.float32]
Twin = Callable[[str], Path]
TWINS = (
    "llama", "llama3", "llama-biases", "mistral", "mistral-v0.3", "qwen2", "qwen2-window", "qwen3", "gemma2", "gemma2-27b",
    "gemma3", "phi3", "phi3-4k", "phi4-mini", "granite", "olmo2",
)  # fmt: skip
TOKENS = [int(token) for token in np.random.default_rng(5).integers(0, 256, 96)]
EXACT = 1e-4
MATTERS = 1e-2


@pytest.fixture
def twin(family_twin: Callable[..., Path]) -> Twin:
    return lambda name: family_twin(name, tokenizer="qwen2", dtype="float32")


def transformers_logits(folder: Path) -> Floats:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits: Floats = model(torch.tensor([TOKENS]), use_cache=False).logits[0].numpy()
    return logits


def reference_logits(folder: Path) -> Floats:
    """A prefill in two pieces, then one token after the other."""
    session = open_session(folder, SessionOptions(context_length=len(TOKENS)))
    try:
        rows = [session.feed(TOKENS[:40], all_logits=True), session.feed(TOKENS[40:64], all_logits=True)]
        rows += [session.feed([token]) for token in TOKENS[64:]]
        return np.concatenate(rows)
    finally:
        session.close()


def relative_error(found: Floats, expected: Floats) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def with_config(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    change(config)
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize("name", TWINS)
def test_logits_equal_transformers(name: str, twin: Twin) -> None:
    assert relative_error(reference_logits(twin(name)), transformers_logits(twin(name))) < EXACT


@pytest.mark.parametrize("name", ["phi3", "gemma3", "olmo2"])
def test_weights_read_again_for_each_layer_give_the_same_logits(
    name: str, twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "_TABLE_PIECE_ROWS", 100)
    monkeypatch.setattr(reference, "_CHUNK_TOKENS", 7)
    session = ReferenceSession(twin(name), SessionOptions(), keep_weights=False)
    streamed = session.feed(TOKENS, all_logits=True)
    session.close()
    assert relative_error(streamed, reference_logits(twin(name))) < 1e-5


@pytest.fixture
def packed(twin: Twin, tmp_path: Path) -> Callable[[str], tuple[Path, Any]]:
    """packed(name) -> the INT4 twin as compressed-tensors safetensors, and the checkpoint it was packed from."""

    def run(name: str) -> tuple[Path, Any]:
        from edgeport.export.checkpoint import Checkpoint
        from edgeport.export.formats.base import WriteOptions
        from edgeport.export.formats.safetensors import SafetensorsFormat
        from edgeport.export.quantize.run import quantize
        from edgeport.export.recipe import load_recipe
        from edgeport.export.source import open_source
        from edgeport.progress import NO_PROGRESS

        source = open_source(str(twin(name)))
        for folder in ("checkpoint", "safetensors"):
            (tmp_path / folder).mkdir()
        recipe = replace(load_recipe("int4"), solver="rtn")
        quantize(source, recipe, tmp_path / "checkpoint", threads=1, progress=NO_PROGRESS)
        checkpoint = Checkpoint(tmp_path / "checkpoint", source.spec)
        SafetensorsFormat().write(checkpoint, tmp_path / "safetensors", WriteOptions("t", 96, NO_PROGRESS))
        return tmp_path / "safetensors", checkpoint

    return run


@pytest.mark.parametrize("name", ["phi3", "gemma2", "gemma3", "qwen3", "granite", "olmo2"])
def test_packed_weights_equal_the_dequantized_model(
    name: str, packed: Callable[[str], tuple[Path, Any]], twin: Twin, tmp_path: Path
) -> None:
    """The dequantized model is written by hand as the family stores it, and opened by transformers."""
    from safetensors.numpy import load_file, save_file

    folder, checkpoint = packed(name)
    weights = {item: checkpoint.tensor(item).dequantize() for item in checkpoint.names()}
    plain = tmp_path / "plain"
    shutil.copytree(twin(name), plain)
    state = {}
    for item in load_file(plain / "model.safetensors"):
        parts = [item]
        if "qkv_proj" in item:
            parts = [item.replace("qkv_proj", f"{part}_proj") for part in "qkv"]
        elif "gate_up_proj" in item:
            parts = [item.replace("gate_up", part) for part in ("gate", "up")]
        offset = np.float32(name.startswith("gemma") and item.endswith("norm.weight"))
        state[item] = np.concatenate([weights[part] for part in parts]) - offset
    save_file(state, plain / "model.safetensors", metadata={"format": "pt"})
    expected = transformers_logits(plain)
    assert relative_error(reference_logits(folder), expected) < EXACT
    assert relative_error(reference_logits(twin(name)), expected) > MATTERS, (
        "rounding must matter in this test"
    )


def _set(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config.update(changes)


def _rope(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["rope_parameters"].update(changes)


def _local_base(config: dict[str, Any]) -> None:
    config["rope_parameters"]["sliding_attention"]["rope_theta"] = 1e6


def _switched_off(config: dict[str, Any]) -> None:
    config["use_sliding_window"] = False
    del config["layer_types"]


SETTINGS: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "window": ("mistral", _set(sliding_window=17)),
    "first layer that slides": ("qwen2-window", _set(layer_types=["sliding_attention"] * 2)),
    "switch of the window": ("qwen2-window", _switched_off),
    "window of phi": ("phi3-4k", _set(sliding_window=None)),
    "pattern of gemma 2": ("gemma2", _set(layer_types=["full_attention", "sliding_attention"])),
    "cap on scores": ("gemma2", _set(attn_logit_softcapping=None)),
    "cap on logits": ("gemma2", _set(final_logit_softcapping=None)),
    "scale of scores": ("gemma2", _set(query_pre_attn_scalar=64)),
    "local base": ("gemma3", _local_base),
    "pattern of gemma 3": ("gemma3", _set(layer_types=["full_attention"] * 6)),
    "scores": ("granite", _set(attention_multiplier=0.25)),
    "branches": ("granite", _set(residual_multiplier=1.0)),
    "embedding": ("granite", _set(embedding_multiplier=1.0)),
    "logits": ("granite", _set(logits_scaling=1.0)),
    "long context": ("phi3", _set(max_position_embeddings=1024)),
    "share that turns": ("phi4-mini", _rope(partial_rotary_factor=0.75, short_factor=[1.0] * 12)),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_changes_logits_as_in_transformers(setting: str, twin: Twin, tmp_path: Path) -> None:
    name, change = SETTINGS[setting]
    changed = with_config(twin(name), tmp_path / "changed", change)
    ours = reference_logits(changed)
    assert relative_error(ours, reference_logits(twin(name))) > MATTERS
    assert relative_error(ours, transformers_logits(changed)) < EXACT


def _without_layer_types(config: dict[str, Any]) -> None:
    del config["layer_types"]


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "qwen2-window"])
def test_files_without_layer_types_mean_the_same(name: str, twin: Twin, tmp_path: Path) -> None:
    older = with_config(twin(name), tmp_path / "older", _without_layer_types)
    assert read_reference_config(older) == read_reference_config(twin(name))


def test_older_spellings_of_gemma_3_mean_the_same(twin: Twin, tmp_path: Path) -> None:
    def spell(config: dict[str, Any]) -> None:
        ropes = config.pop("rope_parameters")
        config["rope_theta"] = ropes["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = ropes["sliding_attention"]["rope_theta"]

    older = with_config(twin("gemma3"), tmp_path / "older", spell)
    np.testing.assert_array_equal(reference_logits(older), reference_logits(twin("gemma3")))


def test_the_context_of_a_long_rope_is_that_of_its_short_factors(twin: Twin) -> None:
    assert read_reference_config(twin("phi3")).context_length == 128


REFUSED: dict[str, tuple[str, Callable[[dict[str, Any]], None], type[Exception], str]] = {
    "activation": ("gemma2", _set(hidden_activation="relu"), UnsupportedModel, "activation 'relu' in gemma2"),
    "family": ("llama", _set(model_type="opt"), UnsupportedModel, "model_type 'opt'"),
    "partial": ("llama", _set(partial_rotary_factor=0.5), UnsupportedModel, "partial_rotary_factor 0.5"),
    "factors": ("phi3", _rope(short_factor=[1.0]), UnsupportedModel, "short_factor has 1 values"),
    "kinds": ("gemma3", _set(layer_types=["chunked_attention"] * 6), UnsupportedModel, "layer_types"),
    "scaling": ("qwen3", _rope(rope_type="dynamic"), UnsupportedModel, "rope scaling 'dynamic'"),
    "size": ("qwen3", _set(hidden_size=0), ArtifactError, "hidden_size is 0"),
    "missing": ("qwen3", _rope(rope_type="linear"), ArtifactError, "KeyError.*factor"),
    "text": ("granite", _set(logits_scaling="large"), ArtifactError, "no configuration of a granite model"),
    "rope": ("llama", _set(rope_parameters=[1]), ArtifactError, "no configuration of a llama model"),
    "heads": ("phi3-4k", _set(head_dim=48), ArtifactError, "which are no heads of 48"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_run_is_refused(name: str, twin: Twin, tmp_path: Path) -> None:
    model, change, error, message = REFUSED[name]
    folder = with_config(twin(model), tmp_path / "other", change)
    with pytest.raises(error, match=message):
        open_session(folder, SessionOptions(context_length=8))


def test_every_family_of_the_exporter_has_its_oracle() -> None:
    """Golden answers are the oracle's: a family without one could not be verified."""
    from edgeport.export.families.table import FAMILIES as ARCHITECTURES

    others = {"decilm": "nemotron-nas", "gemma3": "gemma3_text"}
    names = [name.removesuffix("ForCausalLM").lower() for name in ARCHITECTURES]
    assert {others.get(name, name) for name in names} <= set(FAMILIES)
