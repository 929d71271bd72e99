"""The bits a folder's files really store for the tensors that its config.json describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgeport.devices.safetensors_header import ELEMENT_BITS, StoredTensor
from edgeport.devices.shape import ModelShape, TensorShape

PACKED, SCALE, ZERO = "_packed", "_scale", "_zero_point"
"""compressed-tensors stores X.weight as X.weight_packed, X.weight_scale and so on."""


def with_stored_bits(shape: ModelShape, stored: Sequence[StoredTensor]) -> ModelShape:
    """`shape` with `bits` of every tensor that the files hold under its name, plain or packed."""
    by_name = {tensor.name: tensor for tensor in stored}
    tensors = tuple(replace(tensor, bits=_bits(tensor, by_name)) for tensor in shape.tensors)
    return replace(shape, tensors=tensors)


def _bits(tensor: TensorShape, stored: Mapping[str, StoredTensor]) -> float | None:
    name = tensor.name.replace("*", "0")
    if name in stored:
        return float(ELEMENT_BITS[stored[name].dtype])
    parts = [stored[name + suffix] for suffix in (PACKED, SCALE, ZERO) if name + suffix in stored]
    if not parts:
        return None
    return 8 * sum(part.size_bytes for part in parts) / (tensor.parameters / tensor.count)
