"""Checkpoint tensors as OpenVINO constants: the packed bytes are used where they lie, and decompressed by graph nodes.

u2, u4 or u8 codes [out, in / block, block] -> f16 -> minus the zero point -> times scale [out, in / block, 1] -> [out, in] -> f32,
exact in float16 because code and scale together have at most 11 significant bits (edgeport.scheme). This is the shape of
graph that NNCF writes (Convert, Subtract, Multiply, Reshape, Convert) and that the CPU plug-in turns into one compressed
FullyConnected instead of a float32 weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from edgeport.export.checkpoint import PackedTensor, StoredTensors

# openvino is not typed: nodes and outputs are whatever its opset returns.
Node = Any

_CODE_TYPES = {2: ov.Type.u2, 4: ov.Type.u4, 8: ov.Type.u8}
_FLOAT_TYPES = {"f32": ov.Type.f32, "f16": ov.Type.f16, "bf16": ov.Type.bf16}

# The smallest IR with a Convert that is marked as decompression.
_MARKED = """<net name="marked" version="11"><layers>
<layer id="0" name="half" type="Parameter" version="opset1"><data shape="1" element_type="f16"/>
<output><port id="0" precision="FP16"><dim>1</dim></port></output></layer>
<layer id="1" name="full" type="Convert" version="opset1"><data destination_type="f32"/>
<rt_info><attribute name="decompression" version="0"/></rt_info>
<input><port id="0" precision="FP16"><dim>1</dim></port></input>
<output><port id="1" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="2" name="result" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim></port></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/></edges></net>"""


class WeightNodes:
    """Makes each tensor's constants once. They share memory with the checkpoint: keep this object until the model is saved."""

    def __init__(self, checkpoint: StoredTensors) -> None:
        self._checkpoint = checkpoint
        self._kept: list[npt.NDArray[Any]] = []
        self._made: dict[str, Node] = {}
        self._decompression = _decompression_mark()

    def weight(self, name: str) -> Node:
        """A node with the tensor's values as float32 in its own shape; the same node for the same name."""
        if name not in self._made:
            tensor = self._checkpoint.tensor(name)
            self._made[name] = self._quantized(tensor) if tensor.scheme.is_quantized else self._float(tensor)
        return self._made[name]

    def vector(self, name: str, shape: Sequence[int]) -> Node:
        """A norm's weight or a bias as a plain float32 constant, which is what fusions of them look for."""
        values = self._checkpoint.tensor(name).dequantize().reshape(shape)
        return self._constant(values, shape, ov.Type.f32, name)

    def _quantized(self, tensor: PackedTensor) -> Node:
        rows, columns = tensor.shape
        block, bits, name = tensor.scheme.block, tensor.scheme.bits, tensor.name
        assert tensor.scales is not None
        codes = self._constant(tensor.payload, (rows, columns // block, block), _CODE_TYPES[bits], name)
        scales = self._constant(tensor.scales, (rows, columns // block, 1), ov.Type.f16, f"{name}/scale")
        zero = ops.constant(np.array(1 << (bits - 1), dtype=np.uint8), dtype=ov.Type.u8)
        zero.set_friendly_name(f"{name}/zero_point")
        centred = ops.subtract(ops.convert(codes, ov.Type.f16), ops.convert(zero, ov.Type.f16))
        blocks = ops.multiply(centred, scales)
        matrix = ops.reshape(blocks, ops.constant([rows, columns], dtype=ov.Type.i64), special_zero=False)
        return ops.convert(matrix, ov.Type.f32)

    def _float(self, tensor: PackedTensor) -> Node:
        constant = self._constant(tensor.payload, tensor.shape, _FLOAT_TYPES[tensor.scheme.kind], tensor.name)
        if tensor.scheme.kind == "f32":
            return constant
        widened = ops.convert(constant, ov.Type.f32)
        widened.set_rt_info(self._decompression, "decompression_0")
        return widened

    def _constant(self, values: npt.NDArray[Any], shape: Sequence[int], kind: Any, name: str) -> Node:
        # bytes, because numpy has neither u2, u4 nor bfloat16; the constant does not own its memory
        memory = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self._kept.append(memory)
        constant = ov.op.Constant(ov.Tensor(memory, list(shape), kind))
        constant.set_friendly_name(name)
        return constant


def _decompression_mark() -> Any:
    """The attribute that keeps a half-precision weight as it is at load time; unmarked, the CPU plug-in folds it to float32.

    Python can hand the attribute on but not make one, so it comes from a model that is read.
    """
    model = ov.Core().read_model(_MARKED.encode(), b"")
    return model.get_results()[0].input_value(0).get_node().get_rt_info()["decompression_0"]
