"""Norms of an ONNX decoder, joined with the sum before them where there is one (SkipSimplifiedLayerNormalization)."""

from __future__ import annotations

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.formats.onnx_nodes import CONTRIB, GraphNodes


class Norms:
    """RMSNorm (arXiv:1910.07467) over the last axis; `weight` is the canonical name of what it multiplies with."""

    def __init__(self, checkpoint: Checkpoint, nodes: GraphNodes) -> None:
        self._checkpoint = checkpoint
        self._nodes = nodes
        self._epsilon = checkpoint.spec.rms_norm_eps

    def plain(self, name: str, weight: str, values: str) -> str:
        inputs = [values, self._weight(weight)]
        return self._nodes.add(
            "SimplifiedLayerNormalization", inputs, name, axis=-1, epsilon=self._epsilon, stash_type=1
        )

    def of_sum(self, name: str, weight: str, branch: str, residual: str) -> tuple[str, str]:
        """(normalized sum, the sum itself). Without a residual, at the first norm of all, `branch` is the sum."""
        if not residual:
            return self.plain(name, weight, branch), branch
        self._nodes.add_wide(
            "SkipSimplifiedLayerNormalization",
            [branch, residual, self._weight(weight)],
            [name, "", "", f"{name}.residual"],
            domain=CONTRIB,
            epsilon=self._epsilon,
        )
        return name, f"{name}.residual"

    def _weight(self, name: str) -> str:
        return self._nodes.constant(name, self._checkpoint.tensor(name).dequantize())
