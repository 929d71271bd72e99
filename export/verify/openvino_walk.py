"""Steps through an OpenVINO graph: from a node to its sources, to its consumers, and over the norm behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgeport.export.verify.openvino_values import is_weight

Node = Any


@dataclass(frozen=True, slots=True)
class Norm:
    """x * (1 / sqrt(mean(x ** 2) + eps)) * weight."""

    hidden: Node
    weight: Node
    result: Node


def inputs(node: Node) -> list[Node]:
    return [item.get_source_output().get_node() for item in node.inputs()]


def source(node: Node, index: int) -> Node:
    return node.input(index).get_source_output().get_node()


def other(node: Node, known: Node) -> Node:
    first, second = inputs(node)
    return second if first.get_name() == known.get_name() else first


def consumers(node: Node) -> list[Node]:
    return [item.get_node() for output in node.outputs() for item in output.get_target_inputs()]


def downstream(start: Node) -> Iterator[Node]:
    """Breadth first over consumers."""
    queue, seen = [start], set()
    while queue:
        node = queue.pop(0)
        for consumer in consumers(node):
            if consumer.get_name() not in seen:
                seen.add(consumer.get_name())
                queue.append(consumer)
                yield consumer


def upstream(start: Node) -> Iterator[Node]:
    """Breadth first from `start` itself along what is computed, past caches, rotations and reshapes."""
    queue, seen = [start], {start.get_name()}
    while queue:
        node = queue.pop(0)
        yield node
        for item in inputs(node):
            if item.get_name() not in seen and not _is_side_input(item):
                seen.add(item.get_name())
                queue.append(item)


def norm_at(node: Node) -> Norm | None:
    """The norm whose last product `node` is."""
    if node.get_type_name() != "Multiply":
        return None
    weights = [item for item in inputs(node) if is_weight(item)]
    normals = [item for item in inputs(node) if item.get_type_name() == "Multiply" and not is_weight(item)]
    if len(weights) != 1 or len(normals) != 1:
        return None
    for divisor in inputs(normals[0]):
        if divisor.get_type_name() == "Divide" and source(divisor, 1).get_type_name() == "Sqrt":
            return Norm(other(normals[0], divisor), weights[0], node)
    return None


def norm_after(hidden: Node) -> Norm | None:
    """The norm of `hidden` itself."""
    for product in consumers(hidden):
        for result in consumers(product) if product.get_type_name() == "Multiply" else []:
            norm = norm_at(result)
            if norm is not None and norm.hidden.get_name() == hidden.get_name():
                return norm
    return None


def activated(node: Node) -> Node | None:
    """x of an activation of x, None for another node."""
    return source(node, 0) if node.get_type_name() in ("Swish", "Gelu", "Relu") else None


def _is_side_input(node: Node) -> bool:
    return node.get_type_name() in ("ReadValue", "Constant", "Cos", "Sin", "ShapeOf", "Parameter")
