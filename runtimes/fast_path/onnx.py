"""ONNX Runtime: the executed nodes are in its profile, the weights and attributes in the file.

Spec: onnxruntime ContribOperators.md (MatMulNBits, GatherBlockQuantized, GroupQueryAttention).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.devices.cpu import read_cpu
from edgeport.errors import ArtifactError
from edgeport.manifest import to_json
from edgeport.runtimes.engine_settings import check_settings, settings_from
from edgeport.runtimes.fast_path.engine_log import stderr_to
from edgeport.runtimes.fast_path.kernel import Kernel
from edgeport.runtimes.fast_path.onnx_file import Node, OnnxFile, Weight, read_onnx
from edgeport.runtimes.fast_path.onnx_kernels import Product, product_kernel
from edgeport.runtimes.fast_path.onnx_run import Executed, profile_one_token
from edgeport.runtimes.fast_path.report import (
    ATTENTION,
    CONVERSION,
    LOOKUP,
    MATRIX,
    EngineFindings,
    KernelGroup,
    and_more,
    kernel_group,
    largest_first,
)
from edgeport.runtimes.model_config import read_json

_BLOCK_PRODUCT = "MatMulNBits"
_FLOAT_PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "TransposeMatMul")
_INT8_PRODUCTS = (
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "QGemm",
    "QAttention",
)
_LOOKUPS = ("Gather", "GatherBlockQuantized", "EmbedLayerNormalization")
_FUSED_ATTENTION = ("GroupQueryAttention", "MultiHeadAttention", "Attention", "PagedAttention", "QAttention")
_BIAS_INPUT = {"MatMulNBits": 5, "Gemm": 2}
"""Where a bias stands among a product's inputs; nothing of its weights comes after it."""
_FUSION = re.compile(r"/\w*Fusion/?$")
"""What ONNX Runtime appends to the name of a node it fused with another."""
_FEW_CASTS = 2
"""A cast of an input or of the logits is no concern; one around each operator is."""


@dataclass(frozen=True, slots=True)
class Graph:
    """The file, and what ran. nodes: by name; ONNX Runtime calls those without one after operator and index."""

    file: OnnxFile
    executed: Sequence[Executed]
    nodes: Mapping[str, Node]

    def node_of(self, ran: Executed) -> Node | None:
        return self.nodes.get(ran.name) or self.nodes.get(_FUSION.sub("", ran.name))

    def weights_of(self, ran: Executed) -> tuple[Weight, ...]:
        """Codes, scales and zero points, or numbers; no bias."""
        node = self.node_of(ran)
        if node is None:
            return ()
        inputs = node.inputs[: _BIAS_INPUT.get(node.operator)]
        return tuple(weight for name in inputs for weight in self.file.weights_behind(name))


def inspect(path: str, settings: Mapping[str, Any], log: str) -> Any:
    """In the child: run the graph once. No setting of this engine chooses kernels. Returns EngineFindings as JSON."""
    import onnxruntime

    check_settings(settings_from(settings), "onnx")
    file = model_file(Path(path))
    with stderr_to(Path(log)):
        executed = profile_one_token(file)
    content = read_onnx(file)
    graph = Graph(content, executed, named_nodes(content))
    groups = [*product_groups(graph, read_cpu().isa), *_conversions(graph)]
    return to_json(EngineFindings(f"ONNX Runtime {onnxruntime.__version__}", largest_first(groups)))


def named_nodes(file: OnnxFile) -> dict[str, Node]:
    return {node.name or f"{node.operator}_{index}": node for index, node in enumerate(file.nodes)}


def model_file(path: Path) -> Path:
    """The .onnx of a container folder, as the adapter finds it, or the only one there."""
    if path.is_file():
        return path
    named = read_json(path / "genai_config.json").get("model", {}).get("decoder", {}).get("filename")
    files = [path / named] if named else sorted(path.glob("*.onnx"))
    if len(files) != 1 or not files[0].is_file():
        raise ArtifactError(f"expected one .onnx in {path}, found {len(files)}", hint="name the file itself")
    return files[0]


def product_groups(graph: Graph, isa: Collection[str]) -> list[KernelGroup]:
    found: dict[tuple[str, str, Kernel], list[Executed]] = {}
    for ran in graph.executed:
        for role, kind, kernel in _kernels(graph, ran, isa):
            found.setdefault((role, kind, kernel), []).append(ran)
    return [
        kernel_group(
            role,
            kind,
            len(items),
            _stored_bytes(graph, items),
            kernel,
            _evidence(items),
        )
        for (role, kind, kernel), items in found.items()
    ]


def _kernels(graph: Graph, ran: Executed, isa: Collection[str]) -> Iterator[tuple[str, str, Kernel]]:
    """Role, tensor type and kernel of a node that ran, when it is one that matters."""
    weights = [weight for weight in graph.weights_of(ran) if weight.is_matrix]
    if ran.operator == _BLOCK_PRODUCT:
        product = _product(graph, ran)
        blocks = f", blocks of {product.block}" if product.block else ""
        yield MATRIX, f"INT{product.bits}{blocks}", product_kernel(product, isa)
    elif ran.operator == "DequantizeLinear" and weights:
        yield MATRIX, weights[0].type, _EXPANDED
    elif ran.operator in _INT8_PRODUCTS and (weights or graph.node_of(ran) is None):
        yield MATRIX, weights[0].type if weights else "INT8", Kernel(f"INT8 GEMM ({ran.operator})", True)
    elif ran.operator in _FLOAT_PRODUCTS and weights and _dequantizer(graph, ran) is None:
        yield MATRIX, weights[0].type, Kernel(f"float32 SGEMM ({ran.operator})", True)
    elif ran.operator in _LOOKUPS and weights:
        yield LOOKUP, weights[0].type, Kernel(f"row lookup ({ran.operator})", True)
    elif ran.operator == "Softmax":
        yield ATTENTION, "cache", _UNFUSED
    if ran.operator in _FUSED_ATTENTION:
        yield ATTENTION, "cache", Kernel(f"fused ({ran.operator})", True)


_EXPANDED = Kernel(
    "expanded to float32 on every call (DequantizeLinear)",
    False,
    "DequantizeLinear was not fused with the product behind it",
    "write MatMulNBits nodes: `edgeport export`, onnxruntime-genai's builder, or MatMulNBitsQuantizer with QOperator",
)
_UNFUSED = Kernel(
    "two products and a softmax",
    False,
    "attention is spelt out in the graph, and ONNX Runtime did not fuse it",
    "export with GroupQueryAttention or MultiHeadAttention, or run onnxruntime.transformers.optimizer",
)


def _product(graph: Graph, ran: Executed) -> Product:
    """Inputs of the operator: activations, codes, scales, zero points, g_idx. Codes that a kernel packed are not in the profile."""
    packed = ran.input_types[1:2] != ("uint8",)
    node = graph.node_of(ran)
    if node is None or node.operator != _BLOCK_PRODUCT:
        return _fused_product(graph, ran, packed)
    _, _, _, zero_points, order = (*node.inputs, "", "", "")[:5]
    stored = graph.file.weights.get(zero_points)
    return Product(
        node.attributes.get("bits", 4),
        node.attributes.get("block_size", 0),
        node.attributes.get("accuracy_level", 0),
        packed,
        reordered=bool(order),
        float_zero_points=stored is not None and stored.type != "UINT8",
    )


def _fused_product(graph: Graph, ran: Executed, packed: bool) -> Product:
    """ONNX Runtime made it from DequantizeLinear and MatMul, and gave it the name of the MatMul."""
    codes = next((weight for weight in graph.weights_of(ran) if weight.is_matrix), None)
    bits = 4 if codes is None or codes.type in ("INT4", "UINT4") else 8
    maker = _dequantizer(graph, ran)
    return Product(bits, maker.attributes.get("block_size", 0) if maker else 0, None, packed)


def _dequantizer(graph: Graph, ran: Executed) -> Node | None:
    node = graph.node_of(ran)
    found = (graph.file.makers.get(name) for name in (node.inputs if node else ()))
    return next((item for item in found if item and item.operator == "DequantizeLinear"), None)


def _stored_bytes(graph: Graph, items: Iterable[Executed]) -> int:
    stored = {weight.name: weight.size_bytes for ran in items for weight in graph.weights_of(ran)}
    return sum(stored.values())


def _evidence(items: Sequence[Executed]) -> str:
    first = items[0]
    left = ", ".join(first.input_types) or "none"
    provider = first.provider or "no provider"
    return f"profile: {first.operator} {and_more(first.name, len(items))} on {provider}, inputs left: {left}"


def _conversions(graph: Graph) -> list[KernelGroup]:
    """Casts that ONNX Runtime itself put around operators it has in float32 only."""
    casts = [
        ran
        for ran in graph.executed
        if ran.operator == "Cast" and ran.name not in graph.nodes and "float16" in ran.input_types
    ]
    if len(casts) <= _FEW_CASTS:
        return []
    operators = Counter(ran.operator for ran in graph.executed).most_common(3)
    seen = ", ".join(f"{count} {name}" for name, count in operators)
    return [
        KernelGroup(
            CONVERSION,
            "FLOAT16",
            len(casts),
            0,
            "float32 kernels between casts",
            False,
            "float16 activations: the CPU provider computes in float32 and converts before and after",
            "export the graph with float32 activations (the weights may stay 4 or 8 bits)",
            f"profile: {seen}",
        )
    ]
