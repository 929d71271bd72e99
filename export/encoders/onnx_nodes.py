"""Nodes and constants of an ONNX graph under construction; constants go to the external data file as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edgeport.export.formats.onnx_weights import ExternalData

CONTRIB = "com.microsoft"


class GraphNodes:
    """`proto` is the list of nodes so far, in the order in which they can be computed."""

    def __init__(self, data: ExternalData) -> None:
        self.data = data
        self.proto: list[onnx.NodeProto] = []

    def add(
        self, operator: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: Any
    ) -> str:
        """A node with one output, whose name it also has; returns that."""
        self.proto.append(
            helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes)
        )
        return output

    def constant(self, name: str, values: npt.NDArray[Any], shape: Sequence[int] | None = None) -> str:
        return self.data.add(name, [values], values.shape if shape is None else shape)

    def integers(self, name: str, *values: int) -> str:
        return self.constant(name, np.array(values, dtype=np.int64))

    def to_float(self, name: str) -> str:
        """A cast that onnxruntime folds once when it loads: the file keeps 16 bits, the kernel gets 32."""
        return self.add("Cast", [name], f"{name}.float", to=TensorProto.FLOAT)
