"""config.json of the cut model: a stock configuration of a stock architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeport.errors import UnsupportedModel
from edgeport.export.families.table import read_spec

_QWEN2_ONLY = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")


def changed_config(config: Mapping[str, Any], changes: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """`config` with `changes`; leaves as llama where qwen2 cannot be run, and says so in `notes`."""
    changed = dict(config) | dict(changes)
    layers = int(changed["num_hidden_layers"])
    if isinstance(changed.get("layer_types"), list):
        if len(set(changed["layer_types"])) > 1:
            raise UnsupportedModel(
                "layer_types names more than one kind of attention: such a model is not pruned"
            )
        changed["layer_types"] = changed["layer_types"][:1] * layers
    if "max_window_layers" in changed:
        changed["max_window_layers"] = min(int(changed["max_window_layers"]), layers)
    spec = read_spec(changed)
    if spec.family == "qwen2" and spec.heads * spec.head_dim != spec.hidden_size:
        notes.append(
            f"leaves as llama with biases: {spec.heads} heads of {spec.head_dim} are not the hidden width {spec.hidden_size}, "
            "which llama.cpp's qwen2 refuses; the arithmetic is the same, o_proj's new bias is zero"
        )
        return _as_llama(changed)
    return changed


def _as_llama(config: Mapping[str, Any]) -> dict[str, Any]:
    """Qwen2 without a sliding window is Llama with biases on q, k and v; plan_prune has refused the window."""
    kept = {key: value for key, value in config.items() if key not in _QWEN2_ONLY}
    return kept | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": True,
        "mlp_bias": False,
    }
