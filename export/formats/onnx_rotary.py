"""Rotary position embedding of an ONNX decoder: tables of cosine and sine, and who turns queries and keys by them.

GroupQueryAttention does it itself where its kernel can: on heads of a multiple of 16 features, of which a multiple of 16 turn (its
caches are then narrower than half a head). Elsewhere RotaryEmbedding of com.microsoft stands before it.
Spec: onnxruntime ContribOperators.md; group_query_attention_helper.h (what the widths must be).
"""

from __future__ import annotations

import numpy as np

from edgeport.export.families.decoder import DecoderSpec, RopeSpec
from edgeport.export.formats.onnx_nodes import CONTRIB, GraphNodes
from edgeport.export.formats.rope import inverse_frequencies

_FUSED_MULTIPLE = 16


class Rotary:
    """Tables are made when a layer first asks for them: one pair for each way of turning that the layers have."""

    def __init__(self, spec: DecoderSpec, nodes: GraphNodes) -> None:
        self._spec = spec
        self._nodes = nodes
        self._tables: dict[RopeSpec, tuple[str, str]] = {}
        self._positions = ""

    def turns_inside_attention(self, rope: RopeSpec) -> bool:
        widths = (self._spec.head_dim, self._turning(rope))
        return not any(width % _FUSED_MULTIPLE for width in widths)

    def tables(self, rope: RopeSpec) -> tuple[str, str]:
        """Cosine and sine [context_length, turning features / 2], times the attention factor.

        Positions times frequencies, all constant: onnxruntime folds the tables when it loads, the file stays small.
        """
        if rope not in self._tables:
            self._tables[rope] = self._make_tables(rope, f"_{len(self._tables)}" if self._tables else "")
        return self._tables[rope]

    def turn(self, values: str, heads: int, rope: RopeSpec, output: str) -> str:
        """[batch, sequence, heads * head_dim] -> the same, turned by its positions."""
        turning = self._turning(rope)
        return self._nodes.add(
            "RotaryEmbedding",
            [values, self._position_ids(), *self.tables(rope)],
            output,
            domain=CONTRIB,
            interleaved=0,
            num_heads=heads,
            # The operator takes the width of a head from the tables when this is 0.
            rotary_embedding_dim=0 if turning == self._spec.head_dim else turning,
        )

    def _turning(self, rope: RopeSpec) -> int:
        return rope.rotary_dim or self._spec.head_dim

    def _make_tables(self, rope: RopeSpec, suffix: str) -> tuple[str, str]:
        frequencies = inverse_frequencies(rope, self._spec.head_dim).astype(np.float32)
        constant = self._nodes.constant(f"rope.frequencies{suffix}", frequencies, [1, frequencies.size])
        angles = self._nodes.add("Mul", [self._position_column(), constant], f"rope.angles{suffix}")
        names = []
        for operator, name in (("Cos", f"cos_cache{suffix}"), ("Sin", f"sin_cache{suffix}")):
            plain = name if rope.attention_factor == 1.0 else f"{name}.unscaled"
            turned = self._nodes.add(operator, [angles], plain)
            names.append(self._nodes.scaled(turned, rope.attention_factor, name))
        return names[0], names[1]

    def _position_column(self) -> str:
        """[context_length, 1] float32."""
        column = "rope.position_column"
        if self._tables:
            return column
        limits = (("start", 0), ("limit", self._spec.context_length), ("step", 1))
        bounds = [self._nodes.scalar(f"rope.{name}", value) for name, value in limits]
        positions = self._nodes.add("Range", bounds, "rope.positions")
        return self._nodes.add("Unsqueeze", [positions, self._nodes.integers("rope.column", 1)], column)

    def _position_ids(self) -> str:
        """[batch, sequence] int64: a sequence goes on where its attention mask says it ended, or begins at 0.

        Padding behind a shorter sequence of a batch makes `lengths` smaller than the chunk.
        """
        if not self._positions:
            add = self._nodes.add
            integers = self._nodes.integers
            length = add("Shape", ["input_ids"], "rope.chunk_length", start=1, end=2)
            past = add("Sub", ["lengths", length], "rope.past")
            begin = add("Max", [past, integers("rope.zero", 0)], "rope.begin")
            begins = add("Unsqueeze", [begin, integers("rope.last_axis", 1)], "rope.begin_column")
            scalar = add("Squeeze", [length], "rope.chunk_length_scalar")
            bounds = [
                self._nodes.constant("rope.first", np.array(0, np.int64)),
                scalar,
                self._nodes.constant("rope.one", np.array(1, np.int64)),
            ]
            steps = add("Range", bounds, "rope.chunk_positions")
            self._positions = add("Add", [begins, steps], "rope.position_ids")
        return self._positions
