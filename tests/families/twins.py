"""Tiny random models of every decoder family, written by transformers' own classes with the family's kind of tokenizer.

    write_twin("gemma3", folder)                      what is published as Gemma 3, small
    write_twin("phi4-mini", folder, tokenizer="llama3", dtype="float32")

Tests take the session fixture `family_twin` (tests/conftest.py): family_twin("gemma3") is a folder to read. Every number that
a writer could forget differs from what forgetting it would give: windows are shorter than the test's text, scales are not 1,
caps bind, norms and biases are not neutral, a head is wider than hidden_size / heads where the family allows it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOKENIZERS = Path(__file__).resolve().parent / "tokenizers"
WEIGHT_STD = 0.2
WINDOW = 16
LONG_ROPE_CONTEXT = 128
SHAPE: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}


@dataclass(frozen=True, slots=True)
class Twin:
    """settings: of transformers' `classes` + "Config", over SHAPE. stored_norms: the value at which a stored norm weight does
    nothing. deep: what each half of a layer adds is divided by the root of their number, as in GPT-2's initialisation: many random
    layers on top of each other multiply every rounding otherwise."""

    classes: str
    tokenizer: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    stored_norms: float = 1.0
    deep: bool = False


def _rope(theta: float, **scaling: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **scaling}}


_LLAMA3_ROPE = _rope(
    500000.0,
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
# Published factors begin at 1 and grow with the wavelength; the long ones grow past 60 (Phi-3-mini-128k).
_SHORT_FACTORS = [1.0, 1.02, 1.05, 1.1, 1.25, 1.45, 1.8, 2.3, 2.5, 2.6, 2.65, 2.7]
_LONG_FACTORS = [1.02, 1.1, 1.35, 2.0, 4.5, 9.0, 17.0, 32.0, 48.0, 58.0, 63.0, 64.0]


def _long_rope(pairs: int) -> dict[str, Any]:
    return {
        **_rope(
            10000.0,
            rope_type="longrope",
            short_factor=_SHORT_FACTORS[:pairs],
            long_factor=_LONG_FACTORS[:pairs],
            original_max_position_embeddings=LONG_ROPE_CONTEXT,
        ),
        "original_max_position_embeddings": LONG_ROPE_CONTEXT,
    }


def _partial(settings: Mapping[str, Any], share: float) -> dict[str, Any]:
    return {
        **settings,
        "partial_rotary_factor": share,
        "rope_parameters": {**settings["rope_parameters"], "partial_rotary_factor": share},
    }


_TIED, _UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
_GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": WINDOW, **_TIED}
_GEMMA2 = {**_GEMMA, "attn_logit_softcapping": 4.0, "final_logit_softcapping": 3.0}
_GEMMA3_ROPE = {
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
}
_GEMMA3 = {**_GEMMA, **_GEMMA3_ROPE, "num_hidden_layers": 6}
_GRANITE = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.15,
    "residual_multiplier": 0.6,
    "logits_scaling": 2.5,
    **_TIED,
}

TWINS: Mapping[str, Twin] = {
    "llama": Twin("Llama", "llama2-spm", {**_TIED, **_rope(10000.0)}),
    "llama3": Twin("Llama", "llama3", {**_UNTIED, **_LLAMA3_ROPE}),
    "mistral": Twin("Mistral", "mistral-spm", {**_UNTIED, "head_dim": 32, "sliding_window": WINDOW}),
    "qwen2": Twin("Qwen2", "qwen2", {**_TIED, **_rope(1000000.0)}),
    "qwen3": Twin("Qwen3", "qwen2", {**_TIED, **_rope(1000000.0), "head_dim": 32}),
    "gemma2": Twin("Gemma2", "gemma-spm", _GEMMA2, stored_norms=0.0),
    "gemma3": Twin("Gemma3Text", "gemma-spm", _GEMMA3, stored_norms=0.0),
    "phi3": Twin("Phi3", "phi3-spm", {**_UNTIED, **_long_rope(8)}),
    # 128 / 4 heads of 32 features, of which 24 turn.
    "phi4-mini": Twin("Phi3", "phi4-mini", {**_TIED, "hidden_size": 128, **_partial(_long_rope(12), 0.75)}),
    "granite": Twin("Granite", "granite", {**_GRANITE, **_rope(10000.0)}),
    "olmo2": Twin("Olmo2", "olmo2", {**_UNTIED, **_rope(500000.0), "rms_norm_eps": 1e-6}),
    # What the same architectures are also published as.
    "llama-biases": Twin("Llama", "smollm", {**_UNTIED, "attention_bias": True, "mlp_bias": True}),
    "mistral-v0.3": Twin("Mistral", "mistral-spm", {**_UNTIED, "sliding_window": None}),
    "qwen2-window": Twin(
        "Qwen2",
        "qwen2",
        {**_UNTIED, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    # llama.cpp knows this one by its 46 layers, and scales its scores by hidden_size / heads.
    "gemma2-27b": Twin(
        "Gemma2",
        "gemma-spm",
        {**_GEMMA2, "query_pre_attn_scalar": 16, "num_hidden_layers": 46},
        stored_norms=0.0,
        deep=True,
    ),
    "phi3-4k": Twin("Phi3", "phi3-spm", {**_UNTIED, **_rope(10000.0), "sliding_window": WINDOW}),
}
FAMILIES: tuple[str, ...] = (
    "llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "phi4-mini", "granite", "olmo2",
)  # fmt: skip
VARIANTS: tuple[str, ...] = tuple(name for name in TWINS if name not in FAMILIES)


def write_twin(
    family: str, directory: Path, *, seed: int = 0, dtype: str = "bfloat16", tokenizer: str | None = None
) -> None:
    """Write a model folder as save_pretrained does: config, safetensors, tokenizer, generation_config.

    family: one of FAMILIES or VARIANTS. dtype: "bfloat16" or "float32". tokenizer: a kind of tokenizers/builders.py in the
    place of the family's own. The same arguments give the same weights.
    """
    import torch
    import transformers

    twin = TWINS[family]
    directory.mkdir(parents=True, exist_ok=True)
    vocab_size, ids, ends = _write_tokenizer(tokenizer or twin.tokenizer, directory)
    config = getattr(transformers, f"{twin.classes}Config")(
        **{**SHAPE, **twin.settings, **ids, "vocab_size": vocab_size}
    )
    kept = torch.random.get_rng_state()
    network = getattr(transformers, f"{_network_class(twin)}ForCausalLM")(config)
    torch.random.set_rng_state(kept)
    _draw(network, twin, seed)
    network.to(getattr(torch, dtype)).save_pretrained(directory)
    generation = json.dumps({**ids, "eos_token_id": ends}, indent=2)
    (directory / "generation_config.json").write_text(generation + "\n", encoding="utf-8")


def _network_class(twin: Twin) -> str:
    return twin.classes.removesuffix("Text")


def _draw(network: Any, twin: Twin, seed: int) -> None:
    """Every parameter around its neutral value: norms one (Gemma stores them less one), all others zero."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            neutral = twin.stored_norms if name.endswith("norm.weight") else 0.0
            parameter.copy_(neutral + torch.randn(parameter.shape, generator=generator) * WEIGHT_STD)
            if twin.deep and ".post_" in name:  # Gemma's norms behind attention and feed-forward
                share = (2 * network.config.num_hidden_layers) ** -0.5
                parameter.copy_((parameter + 1) * share - 1)


def _write_tokenizer(kind: str, directory: Path) -> tuple[int, dict[str, int | None], list[int]]:
    """Returns the vocabulary's size, the ids that config.json names, and the tokens that end a generation."""
    if str(TOKENIZERS) not in sys.path:
        sys.path.insert(0, str(TOKENIZERS))
    from builders import end_of_turn, write_tokenizer
    from tokenizers import Tokenizer

    vocab_size: int = write_tokenizer(kind, directory)
    settings = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    known = Tokenizer.from_file(str(directory / "tokenizer.json"))

    def number(token: Any) -> int | None:
        found = None if token is None else known.token_to_id(_text(token))
        return None if found is None else int(found)

    ids = {f"{name}_id": number(settings.get(name)) for name in ("bos_token", "eos_token", "pad_token")}
    ends = [ids["eos_token_id"], number(end_of_turn(kind))]
    return vocab_size, ids, [end for end in ends if end is not None]


def _text(token: Any) -> str:
    return token["content"] if isinstance(token, Mapping) else str(token)
