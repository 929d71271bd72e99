"""How a linear layer is computed in ONNX: from the checkpoint's weights, or in INT8 with activations scaled on the run or before.

All of them multiply alone; biases belong to the operators that follow (attention, BiasGelu, SkipLayerNormalization).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeport.devices.int8_range import Int8Range
from edgeport.export.checkpoint import PackedTensor, StoredTensors
from edgeport.export.formats.onnx_nodes import CONTRIB, GraphNodes

# Int8 activations: the fast kernels on every CPU, and the only 8-bit kernel on x86.
_ACCURACY_LEVEL = 4


class Linears(Protocol):
    """Emits products. `name` is the weight's in the checkpoint, [out_features, in_features]."""

    def operators(self, names: Sequence[str]) -> Mapping[str, int]:
        """How often which operator stands for the linear layers `names`, for the count."""
        ...

    def __call__(self, nodes: GraphNodes, name: str, hidden: str) -> str:
        """hidden [..., in_features] times the transposed weight -> the name of [..., out_features]."""
        ...


class StoredLinears:
    """The checkpoint's codes in MatMulNBits, its floats in FusedMatMul."""

    def __init__(self, checkpoint: StoredTensors) -> None:
        self._checkpoint = checkpoint

    def operators(self, names: Sequence[str]) -> Mapping[str, int]:
        quantized = sum(self._checkpoint.record(name).scheme.is_quantized for name in names)
        return {"MatMulNBits": quantized, "FusedMatMul": len(names) - quantized}

    def __call__(self, nodes: GraphNodes, name: str, hidden: str) -> str:
        tensor = self._checkpoint.tensor(name)
        module = name.removesuffix(".weight")
        output = _quantized(nodes, module, tensor, hidden) if tensor.scales is not None else None
        if output is None:
            weight = float_weight(nodes, name, tensor)
            output = nodes.add("FusedMatMul", [hidden, weight], f"{module}.product", domain=CONTRIB, transB=1)
        self._checkpoint.release(name)
        return output


class DynamicLinears:
    """INT8 codes with one scale per row; activations get a scale of their own in each call (DynamicQuantizeMatMul). What the
    checkpoint holds as codes stays as it is (StoredLinears)."""

    def __init__(self, checkpoint: StoredTensors, weights: Int8Range) -> None:
        self._checkpoint, self._range = checkpoint, weights
        self._stored = StoredLinears(checkpoint)

    def operators(self, names: Sequence[str]) -> Mapping[str, int]:
        return _with_stored(self._checkpoint, "DynamicQuantizeMatMul", names)

    def __call__(self, nodes: GraphNodes, name: str, hidden: str) -> str:
        if self._checkpoint.record(name).scheme.is_quantized:
            return self._stored(nodes, name, hidden)
        codes, scales = row_codes(self._checkpoint.tensor(name).dequantize(), self._range)
        self._checkpoint.release(name)
        stored = [
            nodes.constant(f"{name}_codes", np.ascontiguousarray(codes.T)),
            nodes.constant(f"{name}_scales", scales),
        ]
        output = f"{name.removesuffix('.weight')}.product"
        return nodes.add("DynamicQuantizeMatMul", [hidden, *stored], output, domain=CONTRIB)


class StaticLinears:
    """INT8 codes with one scale per row, activations with one scale and zero point from calibration: standard operators,
    QuantizeLinear, DequantizeLinear and MatMul, which onnxruntime joins to MatMulIntegerToFloat. What the checkpoint holds as
    codes stays as it is (StoredLinears).

    ranges: name of the weight -> least and greatest value of its input.
    """

    def __init__(
        self, checkpoint: StoredTensors, weights: Int8Range, ranges: Mapping[str, tuple[float, float]]
    ) -> None:
        self._checkpoint, self._range, self._ranges = checkpoint, weights, ranges
        self._stored = StoredLinears(checkpoint)
        self._quantized: dict[str, str] = {}

    def operators(self, names: Sequence[str]) -> Mapping[str, int]:
        return _with_stored(self._checkpoint, "MatMul", names)

    def __call__(self, nodes: GraphNodes, name: str, hidden: str) -> str:
        if self._checkpoint.record(name).scheme.is_quantized:
            return self._stored(nodes, name, hidden)
        codes, scales = row_codes(self._checkpoint.tensor(name).dequantize(), self._range)
        self._checkpoint.release(name)
        stored = [
            nodes.constant(f"{name}_codes", np.ascontiguousarray(codes.T)),
            nodes.constant(f"{name}_scales", scales),
            nodes.constant(f"{name}_zero_points", np.zeros(scales.shape, np.int8)),
        ]
        weight = nodes.add("DequantizeLinear", stored, f"{name}.dequantized", axis=1)
        activations = self._activations(nodes, name, hidden)
        return nodes.add("MatMul", [activations, weight], f"{name.removesuffix('.weight')}.product")

    def _activations(self, nodes: GraphNodes, name: str, hidden: str) -> str:
        """`hidden` through 8 bits and back; once for all layers that read it."""
        if hidden not in self._quantized:
            scale, zero_point = activation_scale(*self._ranges[name])
            parameters = [
                nodes.constant(f"{hidden}.scale", np.array(scale, np.float32)),
                nodes.constant(f"{hidden}.zero_point", np.array(zero_point, np.uint8)),
            ]
            codes = nodes.add("QuantizeLinear", [hidden, *parameters], f"{hidden}.codes")
            self._quantized[hidden] = nodes.add(
                "DequantizeLinear", [codes, *parameters], f"{hidden}.dequantized"
            )
        return self._quantized[hidden]


def _with_stored(checkpoint: StoredTensors, operator: str, names: Sequence[str]) -> Mapping[str, int]:
    stored = sum(checkpoint.record(name).scheme.is_quantized for name in names)
    return {operator: len(names) - stored, "MatMulNBits": stored}


def row_codes(
    weight: npt.NDArray[np.float32], weights: Int8Range
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric codes [out_features, in_features] in -limit..limit and scales [out_features]; a row of zeros has scale 1."""
    largest = np.abs(weight).max(axis=1)
    scales = np.where(largest > 0, largest / weights.limit, 1).astype(np.float32)
    codes = np.clip(np.rint(weight / scales[:, None]), -weights.limit, weights.limit)
    return codes.astype(np.int8), scales


def activation_scale(low: float, high: float) -> tuple[float, int]:
    """(scale, zero point) of uint8 codes over low..high, widened to hold zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / 255)) or 1.0
    return scale, min(max(round(-low / scale), 0), 255)


def float_weight(nodes: GraphNodes, name: str, tensor: PackedTensor) -> str:
    """A float tensor as the file has it, and in float32 for the kernel."""
    nodes.constant(name, tensor.payload, tensor.shape)
    return name if tensor.payload.dtype == np.float32 else nodes.to_float(name)


def _quantized(nodes: GraphNodes, module: str, tensor: PackedTensor, hidden: str) -> str:
    (rows, columns), scheme = tensor.shape, tensor.scheme
    assert tensor.scales is not None
    blocks = columns // scheme.block
    codes = nodes.constant(
        f"{module}.weight_codes", tensor.payload, [rows, blocks, scheme.block * scheme.bits // 8]
    )
    scales = nodes.to_float(nodes.constant(f"{module}.weight_scales", tensor.scales, [rows, blocks]))
    return nodes.add(
        "MatMulNBits",
        [hidden, codes, scales],
        f"{module}.product",
        domain=CONTRIB,
        K=columns,
        N=rows,
        bits=scheme.bits,
        block_size=scheme.block,
        accuracy_level=_ACCURACY_LEVEL,
    )
