"""The feed-forward of an ONNX decoder: down(activation(gate(x)) * up(x)), or without a gate down(activation(up(x)))."""

from __future__ import annotations

from edgeport.export.families.decoder import Activation, BlockStyle
from edgeport.export.formats.onnx_linears import Linears
from edgeport.export.formats.onnx_nodes import CONTRIB, GraphNodes

_OPERATORS: dict[Activation, tuple[str, str]] = {
    "gelu_tanh": ("FastGelu", CONTRIB),
    "gelu": ("Gelu", CONTRIB),
    "relu": ("Relu", ""),
}
"""Operator and domain; SiLU has none, onnxruntime joins its two nodes."""


def add_feed_forward(nodes: GraphNodes, linears: Linears, block: BlockStyle, prefix: str, hidden: str) -> str:
    """[batch, sequence, hidden_size] -> the same; `prefix` is that of the layer's tensors, `model.layers.N.`."""
    gate, up, down = (f"{prefix}mlp.{name}_proj" for name in ("gate", "up", "down"))
    first = gate if block.gated else up
    opened = _activated(nodes, block.activation, linears.product(first, [first], hidden))
    if block.gated:
        opened = nodes.add("Mul", [opened, linears.product(up, [up], hidden)], f"{prefix}mlp.product")
    return linears.product(down, [down], opened)


def _activated(nodes: GraphNodes, activation: Activation, values: str) -> str:
    if activation == "silu":
        sigmoid = nodes.add("Sigmoid", [values], f"{values}.sigmoid")
        return nodes.add("Mul", [values, sigmoid], f"{values}.silu")
    operator, domain = _OPERATORS[activation]
    return nodes.add(operator, [values], f"{values}.{activation}", domain=domain)
