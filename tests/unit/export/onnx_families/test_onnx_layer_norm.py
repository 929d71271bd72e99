"""Layers of another make than Llama's: LayerNorm with biases, a feed-forward without a gate. Starcoder 2 has them, with a window.

No family of ours uses them yet, so the description is written here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx_twins import (
    TOLERANCE,
    PackedTwin,
    network_of,
    onnx_run,
    pack_source,
    relative_error,
    transformers_run,
    write_onnx,
)

from edgeport.export.canonical_weights import CanonicalWeights
from edgeport.export.checkpoint import Checkpoint, weights_id
from edgeport.export.families.config import read_decoder, read_windows
from edgeport.export.families.decoder import BlockStyle, DecoderSpec
from edgeport.export.families.storage import Storage
from edgeport.export.safetensors_file import SafetensorsFolder
from edgeport.export.source import SourceModel
from edgeport.export.verify.container import weight_digests

BLOCK = BlockStyle(norm="layer", norm_bias=True, gated=False, activation="gelu_tanh")
OTHER_NAMES = Storage(fused=(("mlp.c_fc", ("mlp.up_proj",)), ("mlp.c_proj", ("mlp.down_proj",))))


def starcoder2(model: Path, tokenizer_from: Path) -> DecoderSpec:
    import torch
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    config = Starcoder2Config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        max_position_embeddings=256,
        sliding_window=16,
        norm_epsilon=1e-3,
    )
    network = Starcoder2ForCausalLM(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(1 + noise if name.endswith("norm.weight") else noise)
    network.save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_bytes((tokenizer_from / name).read_bytes())
    found = json.loads((model / "config.json").read_text())
    spec = read_decoder(
        {**found, "rms_norm_eps": found["norm_epsilon"]},
        family="starcoder2",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        block=BLOCK,
    )
    windows = read_windows(found, spec.layers, lambda _: True)
    return dataclasses.replace(spec, storage=OTHER_NAMES, windows=windows, tied_embeddings=True)


@pytest.fixture(scope="module")
def twins(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PackedTwin]:
    model = tmp_path_factory.mktemp("starcoder2") / "model"
    spec = starcoder2(model, tiny_llama_dir)
    source = SourceModel(
        model, str(model), "starcoder2", spec, CanonicalWeights(SafetensorsFolder(model), spec)
    )
    made: dict[str, PackedTwin] = {}

    def pack(recipe: str) -> PackedTwin:
        if recipe not in made:
            made[recipe] = pack_source(source, recipe, tmp_path_factory.mktemp(recipe))
        return made[recipe]

    return pack


def test_logits_and_greedy_tokens_are_transformers(twins: Callable[[str], PackedTwin]) -> None:
    twin = twins("f32")
    expected, tokens = transformers_run(network_of(twin), twin.prompt())
    for pieces in (1, 2):
        found, chosen = onnx_run(twin.folder, twin.prompt(), pieces=pieces)
        assert relative_error(found, expected) < TOLERANCE and chosen == tokens


@pytest.mark.parametrize("recipe", ["f32", "int4"])
def test_the_weights_read_back(recipe: str, twins: Callable[[str], PackedTwin]) -> None:
    twin = twins(recipe)
    digests = weight_digests("onnx", str(twin.folder / "model.onnx"))
    assert weights_id(digests) == twin.checkpoint.weights_id


@pytest.mark.parametrize("change", [{"norm": "rms"}, {"activation": "relu"}], ids=str)
def test_a_forgotten_part_is_seen(
    change: dict[str, object], twins: Callable[[str], PackedTwin], tmp_path: Path
) -> None:
    twin = twins("f32")
    expected, _ = transformers_run(network_of(twin), twin.prompt())
    spec = dataclasses.replace(twin.checkpoint.spec, block=dataclasses.replace(BLOCK, **change))  # type: ignore[arg-type]
    folder = write_onnx(Checkpoint(twin.checkpoint.directory, spec), tmp_path / "onnx")
    found, _ = onnx_run(folder, twin.prompt())
    assert relative_error(found, expected) > 1e-3
