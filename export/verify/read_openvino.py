"""Read the weights of an OpenVINO decoder back from the graph alone (OpenVINO IR v11, opset 13).

Shares no code with the writer and does not believe names: a tensor is called what its place in the graph says. The
projections are found from each attention outwards (query, key, value backwards; output, gate, up, down forwards), so a
MatMul wired to another tensor reads back as a wrong q_proj. Constants are unpacked and decompressed here, in numpy, with
every operation rounded to the element type the graph gives it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import openvino as ov

from edgeport.errors import ArtifactError
from edgeport.export.verify.openvino_values import evaluate, is_weight, root_constant

Floats = npt.NDArray[np.float32]
Node = Any

MODEL_NAME = "openvino_model.xml"


def read_weights(path: Path) -> Iterator[tuple[str, Floats]]:
    """(Hugging Face name, float32 values) of every weight; a head over the embedding's own constant is not repeated.

    `path` is the folder or its openvino_model.xml. Raises ArtifactError naming the file and, where one is to blame, the
    tensor.
    """
    xml = path / MODEL_NAME if path.is_dir() else path
    _check_extents(xml)
    try:
        model = ov.Core().read_model(xml)
    except RuntimeError as error:
        raise ArtifactError(
            f"{xml} cannot be read by OpenVINO: {str(error).strip().splitlines()[-1]}"
        ) from error
    yield from _Decoder(xml, model).weights()


def _check_extents(xml: Path) -> None:
    """Every constant lies inside the .bin file and has the bytes its shape needs: told here with the tensor's name."""
    weights = xml.with_suffix(".bin")
    for file in (xml, weights):
        if not file.is_file():
            raise ArtifactError(f"{file} is missing")
    size_bytes = weights.stat().st_size
    try:
        for _, layer in ElementTree.iterparse(xml):
            data = layer.find("data") if layer.tag == "layer" and layer.get("type") == "Const" else None
            if data is None:
                continue
            stop = int(data.get("offset", "0")) + int(data.get("size", "0"))
            if stop > size_bytes:
                raise ArtifactError(
                    f"{weights}: tensor {layer.get('name')} needs bytes up to {stop}, the file has {size_bytes}"
                )
    except (ElementTree.ParseError, ValueError) as error:
        raise ArtifactError(f"{xml} is damaged: {error}") from error


class _Decoder:
    """Walks a decoder's graph from its attentions; raises ArtifactError where it is not the graph of a decoder."""

    def __init__(self, xml: Path, model: Any) -> None:
        self._xml = xml
        self._nodes = model.get_ordered_ops()

    def weights(self) -> Iterator[tuple[str, Floats]]:
        embedding = self._embedding()
        yield "model.embed_tokens.weight", self._values(embedding, "model.embed_tokens.weight")
        attentions = [node for node in self._nodes if node.get_type_name() == "ScaledDotProductAttention"]
        if not attentions:
            raise ArtifactError(f"{self._xml} has no ScaledDotProductAttention: not a stateful decoder")
        for layer, attention in enumerate(attentions):
            yield from self._layer(f"model.layers.{layer}.", attention)
        head = self._back(self._node_of("Result"), "MatMul", "lm_head")
        yield from self._norm("model.norm.weight", head)
        if root_constant(_input(head, 1)) != root_constant(embedding):
            yield "lm_head.weight", self._values(_input(head, 1), "lm_head.weight")

    def _layer(self, prefix: str, attention: Node) -> Iterator[tuple[str, Floats]]:
        names = ("q_proj", "k_proj", "v_proj")
        projections = [
            self._back(_input(attention, index), "MatMul", prefix + name) for index, name in enumerate(names)
        ]
        yield from self._norm(prefix + "input_layernorm.weight", projections[0])
        for name, node in zip(names, projections, strict=True):
            yield from self._linear(f"{prefix}self_attn.{name}", node)
        output = self._forward(attention, "MatMul", prefix + "o_proj")
        yield from self._linear(f"{prefix}self_attn.o_proj", output)
        down = self._down(output, prefix)
        gate, up = self._gate_and_up(down, prefix)
        yield from self._norm(prefix + "post_attention_layernorm.weight", gate)
        for name, node in (("gate_proj", gate), ("up_proj", up), ("down_proj", down)):
            yield from self._linear(f"{prefix}mlp.{name}", node)

    def _linear(self, name: str, product: Node) -> Iterator[tuple[str, Floats]]:
        """A MatMul's weight, and the bias when an Add with a constant is its only consumer."""
        yield f"{name}.weight", self._values(_input(product, 1), f"{name}.weight")
        consumers = _consumers(product)
        if len(consumers) == 1 and consumers[0].get_type_name() == "Add":
            constant = _other(consumers[0], product)
            if is_weight(constant):
                yield f"{name}.bias", self._values(constant, f"{name}.bias").reshape(-1)

    def _norm(self, name: str, consumer: Node) -> Iterator[tuple[str, Floats]]:
        """The constant factor of the Multiply that `consumer` takes its input from."""
        scaled = _input(consumer, 0)
        factors = [source for source in _inputs(scaled) if is_weight(source)]
        if scaled.get_type_name() != "Multiply" or len(factors) != 1:
            raise ArtifactError(
                f"{self._xml}: no norm with a weight where {name} belongs ({scaled.get_friendly_name()})"
            )
        yield name, self._values(factors[0], name).reshape(-1)

    def _embedding(self) -> Node:
        for node in self._nodes:
            if node.get_type_name() == "Gather" and is_weight(_input(node, 0)):
                source = _input(node, 1)
                while source.get_type_name() == "Convert":
                    source = _input(source, 0)
                if source.get_friendly_name() == "input_ids":
                    return _input(node, 0)
        raise ArtifactError(f"{self._xml} has no Gather of input_ids: model.embed_tokens.weight is missing")

    def _down(self, output: Node, prefix: str) -> Node:
        """o_proj, residual Add, norm, the two MatMuls, their product: then down_proj."""
        residual = self._forward(output, "Add", prefix + "o_proj's residual")
        if is_weight(_other(residual, output)):  # o_proj has a bias
            residual = self._forward(residual, "Add", prefix + "o_proj's residual")
        # The first MatMul downstream of a product of two MatMuls.
        for node in _downstream(residual):
            if node.get_type_name() == "MatMul" and _input(node, 0).get_type_name() == "Multiply":
                sources = _inputs(_input(node, 0))
                if len(sources) == 2 and any(_activated(source) is not None for source in sources):
                    return node
        raise ArtifactError(f"{self._xml}: no down_proj after {prefix}o_proj")

    def _gate_and_up(self, down: Node, prefix: str) -> tuple[Node, Node]:
        sources = _inputs(_input(down, 0))
        activated = [_activated(source) for source in sources]
        gates = [source for source in activated if source is not None]
        others = [source for source, gate in zip(sources, activated, strict=True) if gate is None]
        if len(gates) != 1 or len(others) != 1:
            raise ArtifactError(f"{self._xml}: {prefix}mlp is not silu(gate) * up")
        return self._back(gates[0], "MatMul", prefix + "gate_proj"), self._back(
            others[0], "MatMul", prefix + "up_proj"
        )

    def _back(self, node: Node, kind: str, purpose: str) -> Node:
        """The first node of a kind upstream along data inputs, past caches, rotations and reshapes."""
        queue, seen = [node], set()
        while queue:
            current = queue.pop(0)
            if current.get_type_name() == kind:
                return current
            for source in _inputs(current):
                if source.get_name() not in seen and not _is_side_input(source):
                    seen.add(source.get_name())
                    queue.append(source)
        raise ArtifactError(f"{self._xml}: no {kind} where {purpose} belongs")

    def _forward(self, node: Node, kind: str, purpose: str) -> Node:
        for consumer in _downstream(node):
            if consumer.get_type_name() == kind:
                return consumer
        raise ArtifactError(f"{self._xml}: no {kind} where {purpose} belongs")

    def _node_of(self, kind: str) -> Node:
        for node in self._nodes:
            if node.get_type_name() == kind:
                return node
        raise ArtifactError(f"{self._xml} has no {kind}")

    def _values(self, node: Node, name: str) -> Floats:
        if not is_weight(node):
            raise ArtifactError(
                f"{self._xml}: {name} is not made from constants ({node.get_friendly_name()})"
            )
        return evaluate(node, f"{self._xml}: {name}")


def _inputs(node: Node) -> list[Node]:
    return [item.get_source_output().get_node() for item in node.inputs()]


def _input(node: Node, index: int) -> Node:
    return node.input(index).get_source_output().get_node()


def _other(node: Node, known: Node) -> Node:
    first, second = _inputs(node)
    return second if first.get_name() == known.get_name() else first


def _consumers(node: Node) -> list[Node]:
    return [item.get_node() for output in node.outputs() for item in output.get_target_inputs()]


def _downstream(start: Node) -> Iterator[Node]:
    """Breadth first over consumers."""
    queue, seen = [start], set()
    while queue:
        node = queue.pop(0)
        for consumer in _consumers(node):
            if consumer.get_name() not in seen:
                seen.add(consumer.get_name())
                queue.append(consumer)
                yield consumer


def _is_side_input(node: Node) -> bool:
    return node.get_type_name() in ("ReadValue", "Constant", "Cos", "Sin", "ShapeOf", "Parameter")


def _activated(node: Node) -> Node | None:
    """x of Swish(x), None for another node."""
    return _input(node, 0) if node.get_type_name() == "Swish" else None
