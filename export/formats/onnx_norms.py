"""Norms of an ONNX decoder, joined with the sum before them where there is one.

RMSNorm (arXiv:1910.07467): SimplifiedLayerNormalization and, with the sum, SkipSimplifiedLayerNormalization. LayerNorm
(arXiv:1607.06450): LayerNormalization and SkipLayerNormalization, with or without biases.
Spec: onnxruntime ContribOperators.md; ONNX Operators.md, LayerNormalization-17.
"""

from __future__ import annotations

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.formats.onnx_nodes import CONTRIB, GraphNodes


class Norms:
    """Over the last axis. `module` is the canonical name of the norm, without `.weight`; `name` is that of the result."""

    def __init__(self, checkpoint: Checkpoint, nodes: GraphNodes) -> None:
        self._checkpoint = checkpoint
        self._nodes = nodes
        self._epsilon = checkpoint.spec.rms_norm_eps
        self._is_rms = checkpoint.spec.block.norm == "rms"

    def rms(self, name: str, module: str, values: str) -> str:
        """An RMSNorm, whatever the norms of the layers are."""
        inputs = [values, self._constant(f"{module}.weight")]
        return self._nodes.add(
            "SimplifiedLayerNormalization", inputs, name, axis=-1, epsilon=self._epsilon, stash_type=1
        )

    def plain(self, name: str, module: str, values: str) -> str:
        if self._is_rms:
            return self.rms(name, module, values)
        inputs = [values, *self._parameters(module)]
        return self._nodes.add(
            "LayerNormalization", inputs, name, axis=-1, epsilon=self._epsilon, stash_type=1
        )

    def of_sum(self, name: str, module: str, branch: str, residual: str) -> tuple[str, str]:
        """(normalized sum, the sum itself). Without a residual, at the first norm of all, `branch` is the sum."""
        if not residual:
            return self.plain(name, module, branch), branch
        self._nodes.add_wide(
            "SkipSimplifiedLayerNormalization" if self._is_rms else "SkipLayerNormalization",
            [branch, residual, *self._parameters(module)],
            [name, "", "", f"{name}.residual"],
            domain=CONTRIB,
            epsilon=self._epsilon,
        )
        return name, f"{name}.residual"

    def _parameters(self, module: str) -> list[str]:
        names = [f"{module}.weight", f"{module}.bias"]
        return [self._constant(name) for name in names if name in self._checkpoint]

    def _constant(self, name: str) -> str:
        return self._nodes.constant(name, self._checkpoint.tensor(name).dequantize())
