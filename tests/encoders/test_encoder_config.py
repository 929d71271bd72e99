"""config.json to the shape of an encoder: what each family means by its fields, and everything wrong told at once."""

from __future__ import annotations

from typing import Any

import pytest

from edgeport.errors import UnsupportedModel
from edgeport.export.encoders.spec import POSITIONS, TOKEN_TYPES
from edgeport.export.encoders.table import ARCHITECTURES, is_encoder, read_encoder_spec

BERT: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "max_position_embeddings": 96,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}


def read(**changes: Any) -> Any:
    return read_encoder_spec({**BERT, **changes})[0]


def test_bert() -> None:
    spec = read()
    assert (spec.family, spec.head_dim, spec.context_length, spec.position_offset) == ("bert", 16, 96, 0)
    assert (spec.task, spec.labels, spec.pooler, spec.activation) == ("features", (), None, "gelu")
    shapes = {item.name: item.shape for item in spec.tensors()}
    assert shapes[POSITIONS] == (96, 64) and shapes[TOKEN_TYPES] == (2, 64)
    assert shapes["encoder.layer.1.output.dense.weight"] == (64, 128)
    assert not any("pooler" in name or "classifier" in name for name in shapes)


def test_the_number_of_parameters_is_that_of_transformers() -> None:
    import torch
    import transformers

    with torch.device("meta"):
        config = transformers.BertConfig(
            **{key: value for key, value in BERT.items() if key != "architectures"}
        )
        network = transformers.BertModel(config, add_pooling_layer=False)
    assert read().parameters() == sum(parameter.numel() for parameter in network.parameters())


def test_robertas_positions_begin_after_those_of_padding() -> None:
    spec = read(
        architectures=["RobertaModel"], pad_token_id=1, max_position_embeddings=514, type_vocab_size=1
    )
    assert (spec.position_offset, spec.context_length, spec.token_types) == (2, 512, 1)
    assert read(architectures=["XLMRobertaModel"], pad_token_id=0).position_offset == 1


def test_distilbert_has_names_of_its_own_and_no_token_types() -> None:
    own = {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "activation": "relu"}
    config = {"architectures": ["DistilBertForSequenceClassification"], "vocab_size": 9, **own}
    spec = read_encoder_spec({**config, "max_position_embeddings": 32})[0]
    assert (spec.token_types, spec.activation, spec.pooler) == (0, "relu", "relu")
    assert TOKEN_TYPES not in {item.name for item in spec.tensors()}


@pytest.mark.parametrize(
    ("name", "meaning"),
    [("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh"), ("relu", "relu"), ("gelu", "gelu")],
)
def test_activations(name: str, meaning: str) -> None:
    assert read(hidden_act=name).activation == meaning


def test_labels_are_in_the_order_of_the_logits_and_two_where_nobody_names_them() -> None:
    named = read(architectures=["BertForTokenClassification"], id2label={"1": "B", "0": "O", "2": "I"})
    assert (named.labels, named.pooler) == (("O", "B", "I"), None)
    plain = read(architectures=["BertForSequenceClassification"])
    assert (plain.labels, plain.pooler) == (("LABEL_0", "LABEL_1"), "tanh")


def test_everything_wrong_is_told_at_once() -> None:
    wrong = {
        "hidden_size": 66,
        "hidden_act": "mish",
        "position_embedding_type": "relative_key",
        "is_decoder": True,
        "pruned_heads": {"0": [1]},
        "auto_map": {"AutoModel": "modeling.py"},
        "num_hidden_layers": "two",
        "layer_norm_eps": -1,
        "quantization_config": {"quant_method": "awq"},
    }
    with pytest.raises(UnsupportedModel) as raised:
        read(**wrong)
    for word in (*wrong, "not a multiple of 4 heads", "mish", "relative_key"):
        told = {"hidden_size": "hidden_size 66", "quantization_config": "already quantized"}.get(word, word)
        assert told in raised.value.message


@pytest.mark.parametrize(
    "labels", [{"0": "a", "2": "b"}, {"x": "a"}, "ab"], ids=["gap", "no number", "no table"]
)
def test_labels_that_number_nothing_are_refused(labels: Any) -> None:
    with pytest.raises(UnsupportedModel, match="id2label"):
        read(architectures=["BertForSequenceClassification"], id2label=labels)


def test_a_table_of_positions_that_is_padding_alone_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="leaves no position"):
        read(architectures=["RobertaModel"], max_position_embeddings=2, pad_token_id=1)


@pytest.mark.parametrize("architectures", [["MPNetModel"], ["BertModel", "BertForMaskedLM"], [], None])
def test_other_architectures_are_named_and_so_is_what_is_supported(architectures: Any) -> None:
    with pytest.raises(UnsupportedModel) as raised:
        read(architectures=architectures)
    assert "XLMRobertaForTokenClassification" in (raised.value.hint or "")


def test_what_counts_as_an_encoder() -> None:
    assert all(is_encoder({"architectures": [name]}) for name in ARCHITECTURES)
    assert not is_encoder({"architectures": ["LlamaForCausalLM"]})
    assert not is_encoder({}) and not is_encoder({"architectures": "BertModel"})


STRANGE: tuple[Any, ...] = (None, -1, 0, 1.5, True, "", "x" * 1000, [], {}, [[]], 10**30, float("nan"))


@pytest.mark.parametrize("key", [*BERT, "id2label", "pad_token_id", "num_labels", "pruned_heads"])
@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:12])
def test_a_strange_value_is_read_or_refused_at_once(key: str, value: Any) -> None:
    """Never another error, and never more work than the file is worth."""
    for architecture in ("BertForSequenceClassification", "RobertaModel"):
        config = {**BERT, "architectures": [architecture], key: value}
        try:
            spec = read_encoder_spec(config)[0]
        except UnsupportedModel as refused:
            assert len(refused.message) < 2000
        else:
            assert len(list(spec.tensors())) < 1000
