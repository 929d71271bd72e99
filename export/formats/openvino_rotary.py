"""Rotary position embeddings in the form that RoPEFusion recognises: x * cos + concat(-x2, x1) * sin, rotate-half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from edgeport.export.families.decoder import RopeSpec
from edgeport.export.formats.openvino_constants import LAST, factor, scaled, vector
from edgeport.export.formats.rope import inverse_frequencies

Node = Any


@dataclass(frozen=True, slots=True)
class Rotation:
    """cosine, sine: [batch, 1, seq, width], both halves of the width alike; width: how many leading features turn."""

    cosine: Node
    sine: Node
    width: int


class Rotations:
    """One per kind of rotary embedding, each drawn once. position_ids: [batch, seq] i64."""

    def __init__(self, position_ids: Node, head_dim: int) -> None:
        self._positions = ops.convert(ops.unsqueeze(position_ids, vector(2)), ov.Type.f32)
        self._head_dim = head_dim
        self._drawn: dict[RopeSpec, Rotation] = {}

    def of(self, rope: RopeSpec) -> Rotation:
        if rope not in self._drawn:
            self._drawn[rope] = self._draw(rope)
        return self._drawn[rope]

    def _draw(self, rope: RopeSpec) -> Rotation:
        """Angles are float32 products, as in transformers."""
        frequencies = inverse_frequencies(rope, self._head_dim).astype(np.float32)
        name = "rope_inverse_frequencies" + (f".{len(self._drawn)}" if self._drawn else "")
        constant = ops.constant(frequencies.reshape(1, 1, -1), name=name)
        angles = ops.multiply(self._positions, constant)
        doubled = ops.concat([angles, angles], axis=-1)
        cosine, sine = (scaled(node, rope.attention_factor) for node in (ops.cos(doubled), ops.sin(doubled)))
        return Rotation(
            ops.unsqueeze(cosine, vector(1)), ops.unsqueeze(sine, vector(1)), 2 * len(frequencies)
        )


def rotate(heads: Node, rotation: Rotation, head_dim: int) -> Node:
    """heads [batch, heads, seq, head_dim]; features behind the rotation's width stay as they are."""
    if rotation.width == head_dim:
        return _turn(heads, rotation)
    turned = _turn(_features(heads, 0, rotation.width), rotation)
    return ops.concat([turned, _features(heads, rotation.width, LAST)], axis=-1)


def _turn(heads: Node, rotation: Rotation) -> Node:
    half = rotation.width // 2
    negative = ops.multiply(_features(heads, half, LAST), factor(-1.0, 4))
    swapped = ops.concat([negative, _features(heads, 0, half)], axis=-1)
    return ops.add(ops.multiply(heads, rotation.cosine), ops.multiply(swapped, rotation.sine))


def _features(heads: Node, begin: int, end: int) -> Node:
    return ops.slice(heads, vector(begin), vector(end), vector(1), vector(3))
