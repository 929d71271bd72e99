"""Encoders: BERT, RoBERTa and XLM-RoBERTa, DistilBERT. They keep nothing of a sequence, so their caches are empty.

`architectures` says what stands on top: ...Model a pooler and no prefix on the names (sentence embedders), ...ForMaskedLM a head
over the vocabulary (also where the file names none), ...ForSequenceClassification a classifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeport.devices.architectures.fields import ConfigFields
from edgeport.devices.architectures.parts import Frame, divided_heads, linear, model_shape, norm, table
from edgeport.devices.shape import CacheShape, ModelShape, TensorShape

Head = Literal["Model", "ForMaskedLM", "ForSequenceClassification"]
HEADS: tuple[Head, ...] = ("Model", "ForMaskedLM", "ForSequenceClassification")
DEFAULT_LABELS = 2
NO_CACHE = CacheShape(0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Encoder:
    frame: Frame
    width: int
    head: Head
    labels: int
    tied: bool

    def prefix(self, name: str) -> str:
        return "" if self.head == "Model" else f"{name}."


def bert(fields: ConfigFields) -> ModelShape:
    """arXiv:1810.04805"""
    encoder = _read(fields)
    hidden, vocabulary = encoder.frame.hidden_size, encoder.frame.vocab_size
    types = fields.size("type_vocab_size", default=2)
    fields.check()

    def tensors() -> Iterator[TensorShape]:
        yield from _bert_body(encoder, encoder.prefix("bert"), types)
        if encoder.head != "ForMaskedLM":
            yield from linear(f"{encoder.prefix('bert')}pooler.dense", hidden, hidden, bias=True)
        if encoder.head == "ForSequenceClassification":
            yield from linear("classifier", encoder.labels, hidden, bias=True)
        if encoder.head == "ForMaskedLM":
            yield from linear("cls.predictions.transform.dense", hidden, hidden, bias=True)
            yield from norm("cls.predictions.transform.LayerNorm", hidden, bias=True)
            yield TensorShape("cls.predictions.bias", (vocabulary,), "bias")
            if not encoder.tied:
                yield table("cls.predictions.decoder", vocabulary, hidden, "head")

    return _shape(fields, encoder, tensors())


def roberta(fields: ConfigFields) -> ModelShape:
    """RoBERTa and XLM-RoBERTa (arXiv:1907.11692, arXiv:1911.02116); two rows of the position table are never used."""
    encoder = _read(fields)
    hidden, vocabulary = encoder.frame.hidden_size, encoder.frame.vocab_size
    types = fields.size("type_vocab_size", default=2)
    fields.check()

    def tensors() -> Iterator[TensorShape]:
        yield from _bert_body(encoder, encoder.prefix("roberta"), types)
        if encoder.head == "Model":
            yield from linear("pooler.dense", hidden, hidden, bias=True)
        if encoder.head == "ForSequenceClassification":
            yield from linear("classifier.dense", hidden, hidden, bias=True)
            yield from linear("classifier.out_proj", encoder.labels, hidden, bias=True)
        if encoder.head == "ForMaskedLM":
            yield from linear("lm_head.dense", hidden, hidden, bias=True)
            yield from norm("lm_head.layer_norm", hidden, bias=True)
            yield TensorShape("lm_head.bias", (vocabulary,), "bias")
            if not encoder.tied:
                yield table("lm_head.decoder", vocabulary, hidden, "head")

    return _shape(fields, encoder, tensors())


def distilbert(fields: ConfigFields) -> ModelShape:
    """arXiv:1910.01108; no pooler, no token types."""
    encoder = _read(fields, hidden="dim", layers="n_layers", heads="n_heads", width="hidden_dim")
    hidden, vocabulary = encoder.frame.hidden_size, encoder.frame.vocab_size
    fields.check()

    def tensors() -> Iterator[TensorShape]:
        prefix = encoder.prefix("distilbert")
        yield from _tables(encoder, f"{prefix}embeddings")
        for layer in range(encoder.frame.layers):
            name = f"{prefix}transformer.layer.{layer}"
            for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
                yield from linear(f"{name}.attention.{part}", hidden, hidden, layer, bias=True)
            yield from norm(f"{name}.sa_layer_norm", hidden, layer, bias=True)
            yield from linear(f"{name}.ffn.lin1", encoder.width, hidden, layer, bias=True)
            yield from linear(f"{name}.ffn.lin2", hidden, encoder.width, layer, bias=True)
            yield from norm(f"{name}.output_layer_norm", hidden, layer, bias=True)
        if encoder.head == "ForSequenceClassification":
            yield from linear("pre_classifier", hidden, hidden, bias=True)
            yield from linear("classifier", encoder.labels, hidden, bias=True)
        if encoder.head == "ForMaskedLM":
            yield from linear("vocab_transform", hidden, hidden, bias=True)
            yield from norm("vocab_layer_norm", hidden, bias=True)
            yield TensorShape("vocab_projector.bias", (vocabulary,), "bias")
            if not encoder.tied:
                yield table("vocab_projector", vocabulary, hidden, "head")

    return _shape(fields, encoder, tensors())


def _read(
    fields: ConfigFields,
    *,
    hidden: str = "hidden_size",
    layers: str = "num_hidden_layers",
    heads: str = "num_attention_heads",
    width: str = "intermediate_size",
) -> _Encoder:
    hidden_size, count = fields.size(hidden), fields.count(heads)
    frame = Frame(
        hidden_size=hidden_size,
        layers=fields.count(layers),
        heads=count,
        kv_heads=count,
        head_dim=divided_heads(fields, hidden_size, count),
        vocab_size=fields.size("vocab_size"),
        context_length=fields.size("max_position_embeddings"),
    )
    if fields.flag("is_decoder") or fields.flag("add_cross_attention"):
        fields.problem("is_decoder or add_cross_attention is true, supported are encoders")
    tied = fields.flag("tie_word_embeddings", default=True)
    labels = fields.value("id2label")
    count_of_labels = len(labels) if isinstance(labels, (dict, list)) and labels else None
    return _Encoder(
        frame=frame,
        width=fields.size(width),
        head=_head(fields),
        labels=count_of_labels or fields.count("num_labels", default=DEFAULT_LABELS),
        tied=tied,
    )


def _head(fields: ConfigFields) -> Head:
    named = fields.items("architectures")
    if not named:
        return "ForMaskedLM"
    for head in reversed(HEADS):
        if str(named[0]).endswith(head):
            return head
    fields.problem(f"architecture {named[0]!r:.60} is none of ...{', ...'.join(HEADS)}")
    return "ForMaskedLM"


def _bert_body(encoder: _Encoder, prefix: str, types: int) -> Iterator[TensorShape]:
    hidden = encoder.frame.hidden_size
    yield from _tables(encoder, f"{prefix}embeddings")
    yield table(f"{prefix}embeddings.token_type_embeddings", types, hidden, "position")
    for layer in range(encoder.frame.layers):
        name = f"{prefix}encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield from linear(f"{name}.attention.{part}", hidden, hidden, layer, bias=True)
        yield from norm(f"{name}.attention.output.LayerNorm", hidden, layer, bias=True)
        yield from linear(f"{name}.intermediate.dense", encoder.width, hidden, layer, bias=True)
        yield from linear(f"{name}.output.dense", hidden, encoder.width, layer, bias=True)
        yield from norm(f"{name}.output.LayerNorm", hidden, layer, bias=True)


def _tables(encoder: _Encoder, prefix: str) -> Sequence[TensorShape]:
    frame = encoder.frame
    return (
        table(f"{prefix}.word_embeddings", frame.vocab_size, frame.hidden_size),
        table(f"{prefix}.position_embeddings", frame.context_length, frame.hidden_size, "position"),
        *norm(f"{prefix}.LayerNorm", frame.hidden_size, bias=True),
    )


def _shape(fields: ConfigFields, encoder: _Encoder, tensors: Iterator[TensorShape]) -> ModelShape:
    caches = (NO_CACHE,) * encoder.frame.layers
    tied = encoder.tied and encoder.head == "ForMaskedLM"
    return model_shape(fields, encoder.frame, tensors, caches, intermediate_size=encoder.width, tied=tied)
