"""The nodes and constants of an ONNX graph under construction; constants go to the external data file as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edgeport.export.formats.onnx_weights import ExternalData

CONTRIB = "com.microsoft"
"""The domain of onnxruntime's own operators."""


class GraphNodes:
    """`proto` is the list of nodes so far, in the order in which they can be computed."""

    def __init__(self, data: ExternalData) -> None:
        self.data = data
        self.proto: list[onnx.NodeProto] = []

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str,
        *,
        name: str = "",
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """A node with one output, whose name it also has when it gets no other; returns the output."""
        node = helper.make_node(operator, inputs, [output], name=name or output, domain=domain, **attributes)
        self.proto.append(node)
        return output

    def add_wide(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """A node with several outputs, named as the first; an empty output is one that is not wanted."""
        node = helper.make_node(operator, inputs, outputs, name=outputs[0], domain=domain, **attributes)
        self.proto.append(node)

    def constant(self, name: str, values: npt.NDArray[Any], shape: Sequence[int] | None = None) -> str:
        return self.data.add(name, [values], values.shape if shape is None else shape)

    def integers(self, name: str, *values: int) -> str:
        return self.constant(name, np.array(values, dtype=np.int64))

    def scalar(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, dtype=np.float32))

    def scaled(self, values: str, factor: float, output: str) -> str:
        """`values` times a number, or `values` themselves for 1."""
        if factor == 1.0:
            return values
        return self.add("Mul", [values, self.scalar(f"{output}.factor", factor)], output)

    def to_float(self, name: str) -> str:
        """A cast that onnxruntime folds once when it loads: the file keeps 16 bits, the kernel gets 32."""
        return self.add("Cast", [name], f"{name}.float", to=TensorProto.FLOAT)
