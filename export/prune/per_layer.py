"""Feed-forward widths that differ from layer to layer: channels are ranked over the whole model.

Scores of channels are lengths of what they add to the hidden state, in the same units in every layer, and their squares add
up; on the reference model that was better than shares of what a layer's channels add together. The model leaves as
Nemotron-NAS (families/nemotron_nas.py), which llama.cpp and vLLM run; transformers knows it only through code in the folder,
which is never run here.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.families.nemotron_nas import MODEL_TYPE
from edgeport.export.prune.method import Scores

_REPLACED = ("intermediate_size", "num_key_value_heads")


def spread_widths(scores: Sequence[Scores], total: int, snap: int) -> list[int]:
    """scores [layers][intermediate_size] -> a multiple of `snap` for each layer, at least one; the sum is `total`.

    Blocks of `snap` channels, best first within their layer, go to the layers where they carry most.
    """
    values = [_block_values(layer, snap) for layer in scores]
    widths = [snap] * len(scores)
    waiting = [(-blocks[1], layer) for layer, blocks in enumerate(values) if len(blocks) > 1]
    heapq.heapify(waiting)
    for _ in range(total // snap - len(scores)):
        _, layer = heapq.heappop(waiting)
        widths[layer] += snap
        done = widths[layer] // snap
        if done < len(values[layer]):
            heapq.heappush(waiting, (-values[layer][done], layer))
    return widths


def _block_values(scores: Scores, snap: int) -> list[float]:
    squares = np.sort(scores**2)[::-1]
    count = len(squares) // snap
    return [float(value) for value in squares[: count * snap].reshape(count, snap).sum(axis=1)]


def nas_config(config: Mapping[str, Any], source: DecoderSpec, widths: Sequence[int]) -> dict[str, Any]:
    """config.json with one block per layer; biases are those of the source, which need not be llama's."""
    kept = {key: value for key, value in config.items() if key not in _REPLACED}
    group = int(config["num_attention_heads"]) // int(
        config.get("num_key_value_heads") or config["num_attention_heads"]
    )
    return kept | {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": MODEL_TYPE,
        "attention_bias": source.output_bias,
        "qkv_bias": source.qkv_bias,
        "mlp_bias": source.mlp_bias,
        "head_dim": source.head_dim,
        "block_configs": [
            {"attention": {"n_heads_in_group": group}, "ffn": {"intermediate_size": width}}
            for width in widths
        ],
    }
