"""The gated feed-forward of an ONNX decoder: down(activation(gate(x)) * up(x))."""

from __future__ import annotations

from edgeport.export.families.decoder import Activation
from edgeport.export.formats.onnx_linears import Linears
from edgeport.export.formats.onnx_nodes import CONTRIB, GraphNodes

_OPERATORS: dict[Activation, tuple[str, str]] = {
    "gelu_tanh": ("FastGelu", CONTRIB),
    "gelu": ("Gelu", CONTRIB),
    "relu": ("Relu", ""),
}
"""Operator and domain; SiLU has none, onnxruntime joins its two nodes."""


def add_feed_forward(
    nodes: GraphNodes, linears: Linears, activation: Activation, prefix: str, hidden: str
) -> str:
    """[batch, sequence, hidden_size] -> the same; `prefix` is that of the layer's tensors, `model.layers.N.`."""
    gate, up, down = (f"{prefix}mlp.{name}_proj" for name in ("gate", "up", "down"))
    opened = _activated(nodes, activation, linears.product(gate, [gate], hidden))
    product = nodes.add("Mul", [opened, linears.product(up, [up], hidden)], f"{prefix}mlp.product")
    return linears.product(down, [down], product)


def _activated(nodes: GraphNodes, activation: Activation, values: str) -> str:
    if activation == "silu":
        sigmoid = nodes.add("Sigmoid", [values], f"{values}.sigmoid")
        return nodes.add("Mul", [values, sigmoid], f"{values}.silu")
    operator, domain = _OPERATORS[activation]
    return nodes.add(operator, [values], f"{values}.{activation}", domain=domain)
