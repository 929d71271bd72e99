"""Products of an ONNX decoder with the checkpoint's weights: linear layers, the embedding's rows, the output head.

Operators of com.microsoft: MatMulNBits and GatherBlockQuantized for codes, FusedMatMul for float weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeport.export.checkpoint import Checkpoint, PackedTensor
from edgeport.export.families.decoder import EMBEDDING, HEAD
from edgeport.export.formats.onnx_nodes import CONTRIB, GraphNodes

# Int8 activations: the fast kernels on every CPU, and the only 8-bit kernel on x86.
_ACCURACY_LEVEL = 4


class Linears:
    """Each tensor of the checkpoint is read once and released. A tied head names the embedding's bytes."""

    def __init__(self, checkpoint: Checkpoint, nodes: GraphNodes) -> None:
        self._checkpoint = checkpoint
        self._nodes = nodes

    def same_scheme(self, modules: Sequence[str]) -> bool:
        """Whether the weights of `modules` can be rows of one matrix."""
        return len({self._checkpoint.record(f"{module}.weight").scheme for module in modules}) == 1

    def product(self, name: str, modules: Sequence[str], hidden: str) -> str:
        """`hidden` times the rows of all `modules` (same scheme), plus their biases; `name` is that of the product."""
        tensors = [self._checkpoint.tensor(f"{module}.weight") for module in modules]
        output = self._matmul(name, tensors, hidden, self._bias(name, modules), output=f"{name}.output")
        for module in modules:
            self._checkpoint.release(f"{module}.weight")
        return output

    def embedding(self) -> str:
        """The rows of input_ids, [batch, sequence, hidden_size]."""
        tensor = self._checkpoint.tensor(EMBEDDING)
        if tensor.scales is None:
            weight = self._float_weight(EMBEDDING, [tensor.payload], tensor.shape)
            return self._nodes.add("Gather", [weight, "input_ids"], "embedding", axis=0)
        codes = self._nodes.constant(f"{EMBEDDING}_codes", tensor.payload)
        scales = self._nodes.to_float(self._nodes.constant(f"{EMBEDDING}_scales", tensor.scales))
        return self._nodes.add(
            "GatherBlockQuantized",
            [codes, "input_ids", scales],
            "embedding",
            domain=CONTRIB,
            bits=tensor.scheme.bits,
            block_size=tensor.scheme.block,
            gather_axis=0,
            quantize_axis=1,
        )

    def head(self, hidden: str, output: str) -> str:
        """`hidden` times the head, [batch, sequence, vocab_size], under the name `output`."""
        if not self._checkpoint.spec.tied_embeddings:
            self._matmul("lm_head", [self._checkpoint.tensor(HEAD)], hidden, "", output=output)
            self._checkpoint.release(HEAD)
            return output
        tensor = self._checkpoint.tensor(EMBEDDING)
        if tensor.scales is None:
            weight = EMBEDDING if tensor.payload.dtype == np.float32 else f"{EMBEDDING}.float"
            return self._float_matmul(hidden, weight, "", output)
        rows, columns = tensor.shape
        block = tensor.scheme.block
        shape = [rows, columns // block, block * tensor.scheme.bits // 8]
        codes = self._nodes.data.alias("lm_head.weight_codes", f"{EMBEDDING}_codes", shape)
        inputs = [hidden, codes, f"{EMBEDDING}_scales.float"]
        self._quantized_matmul("lm_head", inputs, tensor, rows, output)
        self._checkpoint.release(EMBEDDING)
        return output

    def _bias(self, name: str, modules: Sequence[str]) -> str:
        names = [f"{module}.bias" for module in modules]
        if names[0] not in self._checkpoint:
            return ""
        values = [self._checkpoint.tensor(item).dequantize() for item in names]
        return self._nodes.data.add(f"{name}.bias", values, [sum(value.size for value in values)])

    def _matmul(
        self, name: str, tensors: Sequence[PackedTensor], hidden: str, bias: str, *, output: str
    ) -> str:
        rows, columns = sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1]
        scheme = tensors[0].scheme
        payload = [tensor.payload for tensor in tensors]
        if not scheme.is_quantized:
            weight = self._float_weight(f"{name}.weight", payload, (rows, columns))
            return self._float_matmul(hidden, weight, bias, output)
        blocks = columns // scheme.block
        data = self._nodes.data
        codes = data.add(f"{name}.weight_codes", payload, [rows, blocks, scheme.block * scheme.bits // 8])
        parts = [tensor.scales for tensor in tensors if tensor.scales is not None]
        scales = self._nodes.to_float(data.add(f"{name}.weight_scales", parts, [rows, blocks]))
        inputs = [hidden, codes, scales, *(("", "", bias) if bias else ())]
        return self._quantized_matmul(name, inputs, tensors[0], rows, output)

    def _quantized_matmul(
        self, name: str, inputs: Sequence[str], like: PackedTensor, rows: int, output: str
    ) -> str:
        return self._nodes.add(
            "MatMulNBits",
            inputs,
            output,
            name=name,
            domain=CONTRIB,
            K=like.shape[1],
            N=rows,
            bits=like.scheme.bits,
            block_size=like.scheme.block,
            accuracy_level=_ACCURACY_LEVEL,
        )

    def _float_matmul(self, hidden: str, weight: str, bias: str, output: str) -> str:
        """The weight stays [out_features, in_features]: no second copy in another order, and a tied head can share it."""
        product = f"{output}.product" if bias else output
        self._nodes.add("FusedMatMul", [hidden, weight], product, domain=CONTRIB, transB=1)
        return self._nodes.add("Add", [product, bias], output) if bias else output

    def _float_weight(self, name: str, payload: Sequence[Any], shape: Sequence[int]) -> str:
        self._nodes.data.add(name, payload, shape)
        return name if payload[0].dtype == np.float32 else self._nodes.to_float(name)
