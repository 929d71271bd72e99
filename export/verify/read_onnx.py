"""Read the weights of an ONNX decoder back from its operators' own definitions (onnxruntime contrib operators).

Shares no code with the writer: it follows each consumer's inputs to initializers, so a node wired to another node's
tensor reads back as that other tensor. MatMulNBits: B uint8 [N, blocks, block * bits / 8], low bits first, zero point
2**(bits-1) when absent; GatherBlockQuantized the same along the last axis; FusedMatMul with transB: [N, K]. The head is what
`logits` comes from through scale and soft cap; rows are split by the attention that takes them, through norms and rotation or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx

from edgeport.errors import ArtifactError

Floats = npt.NDArray[np.float32]

_DTYPES = {
    onnx.TensorProto.UINT8: np.dtype(np.uint8),
    onnx.TensorProto.INT64: np.dtype(np.int64),
    onnx.TensorProto.FLOAT16: np.dtype(np.float16),
    onnx.TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    onnx.TensorProto.FLOAT: np.dtype(np.float32),
}
_AFTER_HEAD = ("Div", "Mul", "Tanh")
_BEFORE_ATTENTION = ("Reshape", "RotaryEmbedding", "SimplifiedLayerNormalization", "Split")
_NORMS = {
    "LayerNormalization": (1, 2),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2,),
}
"""Operator -> where among its inputs the weight and the bias stand; a bias may be missing."""


def read_weights(path: Path) -> Iterator[tuple[str, Floats]]:
    """(Hugging Face name, float32 values) of every weight; a head over the embedding's own bytes is not repeated.

    Raises ArtifactError naming the file and tensor when bytes are missing or the graph is not a decoder's.
    """
    graph = _Graph(path)
    for node in graph.nodes:
        if node.op_type == "GatherBlockQuantized":
            yield "model.embed_tokens.weight", graph.gather_table(node)
        elif node.op_type == "Gather" and graph.is_constant(node.input[0]):
            yield "model.embed_tokens.weight", graph.value(node.input[0])
        elif node.op_type in _NORMS:
            for name in (node.input[at] for at in _NORMS[node.op_type] if at < len(node.input)):
                yield name, graph.value(name)
        elif node.op_type in ("MatMulNBits", "FusedMatMul"):
            yield from _matmul(graph, node)
        elif node.op_type == "Add" and graph.is_constant(node.input[1]):
            yield from _split(graph, node.input[1].removesuffix(".bias"), graph.value(node.input[1]), "bias")


def _matmul(graph: _Graph, node: onnx.NodeProto) -> Iterator[tuple[str, Floats]]:
    is_float = node.op_type == "FusedMatMul"
    name = node.output[0].removesuffix(".product").removesuffix(".output") if is_float else node.name
    if node.output[0] == graph.head_product:
        if graph.place(node.input[1]) == graph.place(graph.embedding()):
            return  # tied: the very bytes of the embedding
        name = "lm_head"
    weights = graph.value(node.input[1]) if is_float else graph.nbits_table(node)
    yield from _split(graph, name, weights, "weight")
    if node.op_type == "MatMulNBits" and len(node.input) > 5 and node.input[5]:
        yield from _split(graph, name, graph.value(node.input[5]), "bias")


def _split(graph: _Graph, name: str, rows: Floats, suffix: str) -> Iterator[tuple[str, Floats]]:
    """Take a fused query-key-value matrix apart by the head counts of the layer's own attention operator."""
    if not name.endswith("qkv_proj"):
        yield f"{name}.{suffix}", rows
        return
    heads, kv_heads = graph.heads(f"{name}.output")
    head_dim = rows.shape[0] // (heads + 2 * kv_heads)
    start = 0
    for part, count in (("q_proj", heads), ("k_proj", kv_heads), ("v_proj", kv_heads)):
        stop = start + count * head_dim
        yield f"{name.removesuffix('qkv_proj')}{part}.{suffix}", rows[start:stop]
        start = stop


class _Graph:
    """model.onnx with its initializers resolved by hand from the external data file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf raises its own DecodeError, which has no stable base
            raise ArtifactError(f"{path} is not an ONNX model: {error}") from error
        self.nodes = list(model.graph.node)
        self._initializers = {item.name: item for item in model.graph.initializer}
        self._casts: dict[str, str] = {
            node.output[0]: node.input[0] for node in self.nodes if node.op_type == "Cast"
        }
        self._makers = {name: node for node in self.nodes for name in node.output if name}
        self.head_product = self._behind("logits", _AFTER_HEAD)
        attention = [node for node in self.nodes if node.op_type == "GroupQueryAttention"]
        if not attention:
            raise ArtifactError(
                f"{path} has no GroupQueryAttention: not a decoder written for onnxruntime-genai"
            )
        # By what the operator takes its queries from: layers may differ in their heads.
        self._attention = {self._behind(node.input[0], _BEFORE_ATTENTION): node for node in attention}

    def _behind(self, name: str, passed: Sequence[str]) -> str:
        """The first tensor behind `name` that no operator of `passed` makes; each of them changes its first input."""
        for _ in self.nodes:  # a damaged graph may run in a circle
            node = self._makers.get(name)
            if node is None or node.op_type not in passed or not node.input:
                break
            name = node.input[0]
        return name

    def heads(self, queries: str) -> tuple[int, int]:
        """(query heads, key-value heads) of the attention that reads `queries`, through the Add of a bias or not."""
        if queries not in self._attention:
            raise ArtifactError(f"{self.path}: no GroupQueryAttention reads {queries}")
        attributes = _attributes(self._attention[queries])
        return int(attributes["num_heads"]), int(attributes["kv_num_heads"])

    def is_constant(self, name: str) -> bool:
        return self._casts.get(name, name) in self._initializers

    def value(self, name: str) -> Floats:
        return self._raw(self._casts.get(name, name)).astype(np.float32)

    def nbits_table(self, node: onnx.NodeProto) -> Floats:
        attributes = _attributes(node)
        shape = int(attributes["N"]), int(attributes["K"])
        return self._table(node.input, shape, int(attributes["bits"]), int(attributes["block_size"]))

    def gather_table(self, node: onnx.NodeProto) -> Floats:
        attributes = _attributes(node)
        codes, scales = self._raw(node.input[0]), self.value(node.input[2])
        bits, block = int(attributes["bits"]), int(attributes["block_size"])
        inputs = [node.input[1], node.input[0], node.input[2]]
        return self._table(inputs, (codes.shape[0], scales.shape[1] * block), bits, block)

    def embedding(self) -> str:
        for node in self.nodes:
            if node.op_type in ("GatherBlockQuantized", "Gather") and self.is_constant(node.input[0]):
                return str(self._casts.get(node.input[0], node.input[0]))
        raise ArtifactError(f"{self.path} has no embedding")

    def place(self, name: str) -> tuple[str, ...]:
        """Where the bytes of an initializer are; equal for two names of the same bytes."""
        tensor = self._initializers[self._casts.get(name, name)]
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return tuple(f"{entry.key}={entry.value}" for entry in tensor.external_data)
        return (tensor.name,)

    def _table(self, inputs: Any, shape: tuple[int, int], bits: int, block: int) -> Floats:
        """codes [rows, blocks, block * bits / 8] and scales [rows, blocks] -> float32 [rows, columns]."""
        rows, columns = shape
        packed = self._raw(inputs[1]).reshape(rows, -1)
        if bits == 4:
            pairs = np.stack((packed & 15, packed >> 4), axis=-1)
            codes = pairs.reshape(rows, -1)[:, :columns].astype(np.float32) - 8
        elif bits == 2:
            fours = np.stack((packed & 3, packed >> 2 & 3, packed >> 4 & 3, packed >> 6), axis=-1)
            codes = fours.reshape(rows, -1)[:, :columns].astype(np.float32) - 2
        elif bits != 8:
            raise ArtifactError(f"{self.path}: {inputs[1]} has codes of {bits} bits, expected 2, 4 or 8")
        else:
            codes = packed[:, :columns].astype(np.float32) - 128
        scales = self.value(inputs[2]).reshape(rows, -1)
        return np.asarray(codes * np.repeat(scales, block, axis=1)[:, :columns], dtype=np.float32)

    def _raw(self, name: str) -> npt.NDArray[Any]:
        tensor = self._initializers[name]
        dtype, shape = _DTYPES[tensor.data_type], tuple(tensor.dims)
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return np.frombuffer(tensor.raw_data, dtype=dtype).reshape(shape)
        place = {entry.key: entry.value for entry in tensor.external_data}
        path, offset, length = (
            self.path.parent / place["location"],
            int(place["offset"]),
            int(place["length"]),
        )
        expected = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if not path.is_file() or path.stat().st_size < offset + length or length != expected:
            raise ArtifactError(
                f"{path}: initializer {name} needs bytes {offset}..{offset + expected}, the file does not hold them"
            )
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)


def _attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
