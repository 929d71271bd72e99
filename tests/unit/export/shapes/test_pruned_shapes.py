"""Uniform models in the sizes that pruning leaves: one weights_id, and every engine's logits are transformers' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeport.errors import UnsupportedModel
from edgeport.export.formats.table import FORMATS, get_format
from edgeport.export.source import open_source
from edgeport.export.verify.gguf_header import read_header
from edgeport.scheme import TensorScheme

TOLERANCE = 1e-4
INT4 = [TensorScheme("int4", 32)]
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "fewer heads than the hidden size has": (
        "Llama",
        {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16},
    ),
    "fewer heads, every bias, own head": (
        "Llama",
        {
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
        },
    ),
    "odd widths, tied": (
        "Llama",
        {
            "hidden_size": 224,
            "intermediate_size": 544,
            "num_attention_heads": 7,
            "num_key_value_heads": 1,
            "vocab_size": 3001,
            "tie_word_embeddings": True,
        },
    ),
    "odd widths, own head": (
        "Llama",
        {
            "hidden_size": 224,
            "intermediate_size": 544,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": 3001,
            "tie_word_embeddings": False,
        },
    ),
    "qwen2 with fewer heads": (
        "Qwen2",
        {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True},
    ),
}  # fmt: skip


def transformers_logits(model: Path, packed: Any, tokens: list[int]) -> npt.NDArray[np.float32]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=torch.float32).eval()
    names = list(packed.checkpoint.names())
    state = {name: torch.from_numpy(packed.checkpoint.tensor(name).dequantize().copy()) for name in names}
    loaded = network.load_state_dict(state, strict=False)
    assert not loaded.unexpected_keys and set(loaded.missing_keys) <= {"lm_head.weight"}
    network.tie_weights()
    with torch.no_grad():
        logits: npt.NDArray[np.float32] = network(torch.tensor([tokens])).logits[0].numpy()
    return logits


@pytest.mark.parametrize("shape", SHAPES)
def test_every_container_holds_the_same_weights_and_every_engine_the_same_logits(
    shape: str, save_model: Callable[..., Path], pack: Callable[[Path], Any], prompt: list[int]
) -> None:
    family, sizes = SHAPES[shape]
    model = save_model(family, **sizes)
    packed = pack(model)
    assert packed.identities() == dict.fromkeys(FORMATS, packed.checkpoint.weights_id)
    expected = transformers_logits(model, packed, prompt)
    for name in FORMATS:
        found = packed.logits(name, prompt)
        assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < TOLERANCE, name
    # llama.cpp's qwen2 has no heads but those that add up to the hidden size.
    assert read_header(packed.entry_points["gguf"]).metadata["general.architecture"] == "llama"
    genai = json.loads((packed.entry_points["onnx"].parent / "genai_config.json").read_text())
    decoder = genai["model"]["decoder"]
    head_dim = sizes.get("head_dim", 224 // 7)
    assert (decoder["head_size"], decoder["num_attention_heads"]) == (head_dim, sizes["num_attention_heads"])
    assert genai["model"]["type"] == family.lower()


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "narrow heads": ({"head_dim": 12}, "onnx", "head_dim 12 is not a multiple of 8"),
    "odd heads": ({"head_dim": 7}, "openvino", "head_dim 7 is odd"),
    "odd heads in llama.cpp": ({"head_dim": 7}, "gguf", "head_dim is 7"),
    "a narrow feed-forward": ({"intermediate_size": 16}, "gguf", "feed-forward width of 16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_engine_cannot_run_is_told(case: str, save_model: Callable[..., Path]) -> None:
    changes, name, told = REFUSED[case]
    model = save_model("Llama", **changes)
    source = open_source(str(model))
    reasons = get_format(name).reasons_against(source.spec, INT4, source.directory)
    assert any(told in reason for reason in reasons)


def test_weights_of_another_shape_than_the_config_are_refused(save_model: Callable[..., Path]) -> None:
    model = save_model("Llama", num_attention_heads=2, num_key_value_heads=1, head_dim=16)
    document = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(document | {"num_key_value_heads": 2}))
    with pytest.raises(UnsupportedModel, match=r"k_proj.weight is \[16, 64\], config.json says \[32, 64\]"):
        open_source(str(model))


@pytest.mark.parametrize("family", ["Llama", "DeciLM"])
def test_a_llama_that_transformers_would_not_open_is_refused(
    family: str, make_nas: Callable[..., Path], save_model: Callable[..., Path]
) -> None:
    model = save_model("Llama") if family == "Llama" else make_nas()
    document = json.loads((model / "config.json").read_text())
    for block in document.get("block_configs", []):
        block["attention"]["n_heads_in_group"] = 3
    changes = {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 16}
    (model / "config.json").write_text(json.dumps(document | changes))
    with pytest.raises(UnsupportedModel, match="hidden_size 64 is not a multiple of 3 heads"):
        open_source(str(model))
