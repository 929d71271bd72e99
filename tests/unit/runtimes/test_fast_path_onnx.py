"""Which kernels ONNX Runtime takes: small graphs, run by it under its profiler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeport.errors import ArtifactError, EdgeportError, RuntimeFailure
from edgeport.manifest import from_json
from edgeport.runtimes.fast_path.onnx import inspect
from edgeport.runtimes.fast_path.onnx_file import read_onnx
from edgeport.runtimes.fast_path.onnx_kernels import Product, product_kernel
from edgeport.runtimes.fast_path.report import ATTENTION, MATRIX, EngineFindings, KernelGroup

K, N = 64, 48
RANDOM = np.random.default_rng(7)
WEIGHT = RANDOM.normal(size=(K, N)).astype(np.float32)
CODES = RANDOM.integers(-8, 8, size=(K, N)).astype(np.int8)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto],
    kind: int = TensorProto.FLOAT,
) -> Path:
    inputs = [helper.make_tensor_value_info("x", kind, ["batch", "sequence", K])]
    outputs = [helper.make_tensor_value_info("y", kind, None)]
    graph = helper.make_graph(list(nodes), "g", inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def array(name: str, values: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)


def block_product(
    path: Path,
    *,
    bits: int = 4,
    level: int = 4,
    zero_points: str = "",
    order: bool = False,
    name: str = "product",
) -> Path:
    """One MatMulNBits in blocks of 32."""
    blocks = K // 32
    weights = [
        array("codes", RANDOM.integers(0, 255, size=(N, blocks, 4 * bits)).astype(np.uint8)),
        array("scales", np.full(N * blocks, 0.01, np.float32)),
    ]
    if zero_points == "integer":
        weights.append(array("zeros", np.full(N * -(-blocks * bits // 8), 0x88, np.uint8)))
    if zero_points == "float":
        weights.append(array("zeros", np.full(N * blocks, 8, np.float32)))
    if order:
        weights.append(array("order", (np.arange(K) // 32).astype(np.int32)))
    inputs = ["x", "codes", "scales", "zeros" if zero_points else "", "order" if order else ""]
    while not inputs[-1]:
        inputs.pop()
    node = helper.make_node(
        "MatMulNBits",
        inputs,
        ["y"],
        name=name,
        domain="com.microsoft",
        K=K,
        N=N,
        bits=bits,
        block_size=32,
        accuracy_level=level,
    )
    return save(path, [node], weights)


def inspected(path: Path) -> list[KernelGroup]:
    found: EngineFindings = from_json(EngineFindings, inspect(str(path), {}, str(path.with_suffix(".log"))))
    assert found.engine.startswith("ONNX Runtime")
    return list(found.groups)


def stored_bytes(path: Path) -> int:
    """By the onnx package."""
    graph = onnx.load(path).graph
    return sum(numpy_helper.to_array(item).nbytes for item in graph.initializer)


@pytest.mark.parametrize("options", [{}, {"bits": 8}, {"zero_points": "integer"}, {"name": ""}])
def test_packed_blocks_are_fast(options: dict[str, object], tmp_path: Path) -> None:
    path = block_product(tmp_path / "model.onnx", **options)
    (group,) = inspected(path)
    assert group.fast and group.role == MATRIX and "INT8 activations" in group.kernel
    assert group.tensor_type == f"INT{options.get('bits', 4)}, blocks of 32"
    assert group.size_bytes == stored_bytes(path) and "MatMulNBits" in group.evidence


@pytest.mark.parametrize(
    ("options", "kernel", "cause"),
    [
        ({"level": 1}, "float32 products", "accuracy_level 1"),
        ({"level": 0}, "float32 products", "accuracy_level 0"),
        ({"bits": 8, "level": 0}, "expanded to float32 on every call", "INT8 kernel only"),
        ({"zero_points": "float"}, "expanded to float32 on every call", "zero points in float"),
        ({"order": True}, "expanded to float32 on every call", "g_idx"),
        ({"level": 1, "name": ""}, "float32 products", "accuracy_level 1"),
    ],
)
def test_slow_blocks_are_named_with_their_cause(
    options: dict[str, object], kernel: str, cause: str, tmp_path: Path
) -> None:
    (group,) = inspected(block_product(tmp_path / "model.onnx", **options))
    assert not group.fast and group.kernel.startswith(kernel) and cause in group.cause and group.cure
    # The engine itself: codes it has not packed are still an input of the node when it runs.
    assert ("uint8" in group.evidence) == kernel.startswith("expanded")


def test_a_fused_dequantize_linear_is_fast_and_one_that_is_left_is_slow(tmp_path: Path) -> None:
    scales, zeros = array("scales", np.full(N, 0.01, np.float32)), array("zeros", np.zeros(N, np.int8))
    unpack = helper.make_node("DequantizeLinear", ["codes", "scales", "zeros"], ["w"], name="unpack", axis=1)
    fused = [unpack, helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    left = [unpack, helper.make_node("Einsum", ["x", "w"], ["y"], name="product", equation="bsk,kn->bsn")]
    weights = [array("codes", CODES), scales, zeros]
    (fast,) = inspected(save(tmp_path / "fused.onnx", fused, weights))
    (slow,) = inspected(save(tmp_path / "left.onnx", left, weights))
    assert fast.fast and fast.tensor_type.startswith("INT8") and "MatMulNBits product" in fast.evidence
    assert not slow.fast and slow.tensor_type == "INT8" and "DequantizeLinear" in slow.kernel
    assert fast.size_bytes == slow.size_bytes == CODES.nbytes + 5 * N


def test_four_bit_codes_keep_their_width_through_the_fusion(tmp_path: Path) -> None:
    codes = helper.make_tensor("codes", TensorProto.INT4, [K, N], CODES.ravel().tolist())
    scales = array("scales", np.full((K // 32, N), 0.01, np.float32))
    nodes = [
        helper.make_node(
            "DequantizeLinear", ["codes", "scales"], ["w"], name="unpack", axis=0, block_size=32
        ),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
    ]
    (group,) = inspected(save(tmp_path / "model.onnx", nodes, [codes, scales]))
    assert group.fast and group.tensor_type == "INT4, blocks of 32"
    assert group.size_bytes == K * N // 2 + 4 * N * K // 32


def test_attention_that_is_spelt_out_is_slow(tmp_path: Path) -> None:
    parts = [helper.make_node("MatMul", ["x", f"w{name}"], [name], name=name) for name in "qkv"]
    rest = [
        helper.make_node("Transpose", ["k"], ["kt"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["shares"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["y"], name="mix"),
    ]
    weights = [array(f"w{name}", WEIGHT) for name in "qkv"]
    groups = {
        group.role: group for group in inspected(save(tmp_path / "model.onnx", [*parts, *rest], weights))
    }
    assert not groups[ATTENTION].fast and "Softmax softmax" in groups[ATTENTION].evidence
    assert groups[MATRIX].fast and groups[MATRIX].count == 3 and groups[MATRIX].tensor_type == "FLOAT"


def test_float16_weights_are_found_behind_the_engines_casts(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    path = save(tmp_path / "model.onnx", nodes, [array("w", WEIGHT.astype(np.float16))], TensorProto.FLOAT16)
    (group,) = inspected(path)
    assert group.tensor_type == "FLOAT16" and group.size_bytes == 2 * K * N and "SGEMM" in group.kernel


def test_the_reader_agrees_with_the_onnx_package(tmp_path: Path) -> None:
    path = block_product(tmp_path / "model.onnx", zero_points="integer", order=True)
    graph, read = onnx.load(path).graph, read_onnx(path)
    assert [(node.name, node.operator, list(node.inputs)) for node in read.nodes] == [
        (node.name, node.op_type, list(node.input)) for node in graph.node
    ]
    assert read.nodes[0].attributes == {item.name: item.i for item in graph.node[0].attribute}
    assert {name: weight.shape for name, weight in read.weights.items()} == {
        item.name: tuple(item.dims) for item in graph.initializer
    }


def test_files_that_cannot_run_are_errors_of_ours(tmp_path: Path) -> None:
    path = block_product(tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(EdgeportError):
        inspected(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="expected one .onnx"):
        inspected(tmp_path / "empty")
    unknown = [helper.make_node("NoSuchOperator", ["x"], ["y"], name="odd")]
    with pytest.raises(RuntimeFailure, match="NoSuchOperator"):
        inspected(save(tmp_path / "odd.onnx", unknown, []))


@pytest.mark.parametrize(
    ("isa", "fast", "word"),
    [
        (("avx2",), True, "AVX2"),
        (("avx2", "avx_vnni"), True, "AVX2-VNNI"),
        (("neon", "dotprod"), True, "NEON dotprod"),
        (("neon",), False, "no INT8 instructions"),
    ],
)
def test_the_unit_of_other_processors(isa: tuple[str, ...], fast: bool, word: str) -> None:
    kernel = product_kernel(Product(4, 32, 4, packed=True), isa)
    assert kernel.fast == fast and word in kernel.name + kernel.cause
