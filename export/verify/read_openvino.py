"""Read the weights of an OpenVINO decoder back from the graph alone (OpenVINO IR v11, opset 13).

Shares no code with the writer and does not believe names: a tensor is called what its place in the graph says. The
projections are found from each attention outwards (query, key, value backwards; output, gate, up, down forwards), so a
MatMul wired to another tensor reads back as a wrong q_proj; a norm is called after what it stands between. Constants are
unpacked and decompressed here, in numpy, with every operation rounded to the element type the graph gives it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import openvino as ov

from edgeport.errors import ArtifactError
from edgeport.export.verify.openvino_values import evaluate, is_weight, root_constant
from edgeport.export.verify.openvino_walk import (
    Norm,
    activated,
    consumers,
    downstream,
    inputs,
    norm_after,
    norm_at,
    other,
    source,
    upstream,
)

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


@dataclass(frozen=True, slots=True)
class _Attention:
    """Where one layer's attention takes and gives: ScaledDotProductAttention, or two products around a Softmax."""

    query: Node
    key: Node
    value: Node
    mixed: Node


class _Decoder:
    """Walks a decoder's graph from its attentions; raises ArtifactError where it is not the graph of a decoder."""

    def __init__(self, xml: Path, model: Any) -> None:
        self._xml = xml
        self._nodes = model.get_ordered_ops()

    def weights(self) -> Iterator[tuple[str, Floats]]:
        embedding = self._embedding()
        yield "model.embed_tokens.weight", self._values(embedding, "model.embed_tokens.weight")
        attentions = list(self._attentions())
        if not attentions:
            raise ArtifactError(f"{self._xml} has no ScaledDotProductAttention: not a stateful decoder")
        for layer, attention in enumerate(attentions):
            yield from self._layer(f"model.layers.{layer}.", attention)
        head = self._back(self._node_of("Result"), "MatMul", "lm_head")
        last = norm_at(source(head, 0))
        if last is None:
            raise ArtifactError(f"{self._xml}: no norm with a weight where model.norm.weight belongs")
        yield from self._norm("model.norm", last)
        if root_constant(source(head, 1)) != root_constant(embedding):
            yield "lm_head.weight", self._values(source(head, 1), "lm_head.weight")

    def _attentions(self) -> Iterator[_Attention]:
        for node in self._nodes:
            if node.get_type_name() == "ScaledDotProductAttention":
                yield _Attention(source(node, 0), source(node, 1), source(node, 2), node)
            elif node.get_type_name() == "Softmax":
                scores = self._back(node, "MatMul", "the scores of an attention")
                mixed = self._forward(node, "MatMul", "the values of an attention")
                yield _Attention(source(scores, 0), source(scores, 1), source(mixed, 1), mixed)

    def _layer(self, prefix: str, attention: _Attention) -> Iterator[tuple[str, Floats]]:
        taken = {"q_proj": attention.query, "k_proj": attention.key, "v_proj": attention.value}
        products = {name: self._back(node, "MatMul", prefix + name) for name, node in taken.items()}
        yield from self._norm(prefix + "input_layernorm", norm_at(source(products["q_proj"], 0)))
        for name, product in products.items():
            yield from self._linear(f"{prefix}self_attn.{name}", product)
        yield from self._norm(prefix + "self_attn.q_norm", _norm_before_product(attention.query))
        yield from self._norm(prefix + "self_attn.k_norm", _norm_before_product(attention.key))
        output = self._forward(attention.mixed, "MatMul", prefix + "o_proj")
        yield from self._linear(f"{prefix}self_attn.o_proj", output)
        yield from self._feed_forward(prefix, output)

    def _feed_forward(self, prefix: str, output: Node) -> Iterator[tuple[str, Floats]]:
        """From o_proj to the layer's end. One norm behind o_proj takes the name of the one before the feed-forward."""
        after_attention, residual = self._residual(output, prefix + "o_proj")
        down = self._down(residual, prefix)
        gate, up = self._gate_and_up(down, prefix)
        for name, node in (("gate_proj", gate), ("up_proj", up), ("down_proj", down)):
            yield from self._linear(f"{prefix}mlp.{name}", node)
        before = norm_at(source(gate, 0))
        after, _ = self._residual(down, prefix + "down_proj")
        yield from self._norm(prefix + "post_attention_layernorm", after_attention or before)
        if after_attention:
            yield from self._norm(prefix + "pre_feedforward_layernorm", before)
        yield from self._norm(prefix + "post_feedforward_layernorm", after)

    def _linear(self, name: str, product: Node) -> Iterator[tuple[str, Floats]]:
        """A MatMul's weight, and the bias when an Add with a constant is its only consumer."""
        yield f"{name}.weight", self._values(source(product, 1), f"{name}.weight")
        users = consumers(product)
        if len(users) == 1 and users[0].get_type_name() == "Add":
            constant = other(users[0], product)
            if is_weight(constant):
                yield f"{name}.bias", self._values(constant, f"{name}.bias").reshape(-1)

    def _norm(self, name: str, norm: Norm | None) -> Iterator[tuple[str, Floats]]:
        """Nothing where the graph has none: the missing name is told by whoever compares."""
        if norm is not None:
            yield f"{name}.weight", self._values(norm.weight, f"{name}.weight").reshape(-1)

    def _embedding(self) -> Node:
        for node in self._nodes:
            if node.get_type_name() == "Gather" and is_weight(source(node, 0)):
                indices = source(node, 1)
                while indices.get_type_name() == "Convert":
                    indices = source(indices, 0)
                if indices.get_friendly_name() == "input_ids":
                    return source(node, 0)
        raise ArtifactError(f"{self._xml} has no Gather of input_ids: model.embed_tokens.weight is missing")

    def _residual(self, product: Node, purpose: str) -> tuple[Norm | None, Node]:
        """The addition to the residual stream behind a projection; a bias, a norm and a scale may stand between."""
        node, found = product, None
        while True:
            norm = norm_after(node)
            if norm is not None:
                node, found = norm.result, norm
                continue
            steps = [user for user in consumers(node) if user.get_type_name() in ("Add", "Multiply")]
            if len(steps) != 1:
                raise ArtifactError(f"{self._xml}: no Add where {purpose}'s residual belongs")
            if steps[0].get_type_name() == "Add" and not is_weight(other(steps[0], node)):
                return found, steps[0]
            node = steps[0]

    def _down(self, residual: Node, prefix: str) -> Node:
        """The first MatMul downstream of an activation's product with something else."""
        for node in downstream(residual):
            if node.get_type_name() == "MatMul" and source(node, 0).get_type_name() == "Multiply":
                factors = inputs(source(node, 0))
                if len(factors) == 2 and any(activated(item) is not None for item in factors):
                    return node
        raise ArtifactError(f"{self._xml}: no down_proj after {prefix}o_proj")

    def _gate_and_up(self, down: Node, prefix: str) -> tuple[Node, Node]:
        factors = inputs(source(down, 0))
        gates = [gate for gate in map(activated, factors) if gate is not None]
        others = [item for item in factors if activated(item) is None]
        if len(gates) != 1 or len(others) != 1:
            raise ArtifactError(f"{self._xml}: {prefix}mlp is not activation(gate) * up")
        gate = self._back(gates[0], "MatMul", prefix + "gate_proj")
        return gate, self._back(others[0], "MatMul", prefix + "up_proj")

    def _back(self, node: Node, kind: str, purpose: str) -> Node:
        """The first node of a kind upstream along data inputs."""
        for item in upstream(node):
            if item.get_type_name() == kind:
                return item
        raise ArtifactError(f"{self._xml}: no {kind} where {purpose} belongs")

    def _forward(self, node: Node, kind: str, purpose: str) -> Node:
        for consumer in downstream(node):
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


def _norm_before_product(heads: Node) -> Norm | None:
    """The norm that rotated heads went through on their way from their projection."""
    for node in upstream(heads):
        if node.get_type_name() == "MatMul":
            return None
        norm = norm_at(node)
        if norm is not None:
            return norm
    return None
