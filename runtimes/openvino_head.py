"""The output head of an OpenVINO decoder: the product of hidden states with the vocabulary's rows, seen from its result."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino.opset13 as operators

from edgeport.errors import UnsupportedModel

ROWS = "rows"
"""The input that `gather_rows` adds."""

_BETWEEN = ("Add", "Convert", "Divide", "Multiply", "Reshape", "Result", "Squeeze", "Tanh", "Unsqueeze")
"""What may stand between the head's product and the result: a bias, a scale, soft capping, conversions."""


def head_product(result: Any) -> Any:
    """The MatMul whose first input are hidden states, behind the model's Result node. Raises UnsupportedModel."""
    node = result
    while node.get_type_name() in _BETWEEN:
        node = _computed(node)
    if node.get_type_name() != "MatMul":
        names = ", ".join(repr(name) for name in sorted(result.output(0).get_names()))
        raise UnsupportedModel(
            f"no output head behind {names or 'the result'}: it has the shape {result.get_output_partial_shape(0)} "
            f"and comes from {node.get_type_name()}"
        )
    return node


def gather_rows(model: Any, axis: int) -> None:
    """Put a gather before the head: logits are then computed of the tokens in the new input `rows` [n] i64 alone.

    axis: that of the tokens in the head's hidden states. Raises UnsupportedModel.
    """
    product = head_product(model.get_results()[0])
    rows = operators.parameter([-1], np.int64, name=ROWS)
    rows.output(0).set_names({ROWS})
    hidden = operators.gather(product.input_value(0), rows, operators.constant(axis, np.int64))
    product.input(0).replace_source_output(hidden.output(0))
    model.add_parameters([rows])
    model.validate_nodes_and_infer_types()


def _computed(node: Any) -> Any:
    """The input that is not a constant: scales and caps stand on either side of a product."""
    sources = [port.get_source_output().get_node() for port in node.inputs()]
    return next((source for source in sources if not _is_constant(source)), sources[0])


def _is_constant(node: Any) -> bool:
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")
