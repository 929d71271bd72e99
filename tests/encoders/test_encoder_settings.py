"""sentence-transformers' files: pooling, unit length and the longest text as they say, everything else refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from encoder_twins import add_sentence_files

from edgeport.errors import ArtifactError, UnsupportedModel
from edgeport.runtimes.encoder_settings import read_encoder_settings

CONFIG = {"architectures": ["BertModel"], "model_type": "bert"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def modules(folder: Path, *names: str) -> None:
    items = [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{name}" if number else "",
            "type": f"st.models.{name}",
        }
        for number, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(items))


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_and_unit_length(pooling: str, normalize: bool, folder: Path) -> None:
    add_sentence_files(folder, pooling, normalize=normalize, max_length=77)
    settings = read_encoder_settings(folder)
    assert (settings.pooling, settings.normalize, settings.max_length) == (pooling, normalize, 77)
    assert settings.origin == "modules.json"


def test_a_plain_model_gets_sentence_transformers_default(folder: Path) -> None:
    settings = read_encoder_settings(folder)
    assert (settings.pooling, settings.normalize, settings.max_length) == ("mean", False, None)
    assert "default" in settings.origin


def test_the_newer_spelling_of_a_pooling(folder: Path) -> None:
    add_sentence_files(folder)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    assert read_encoder_settings(folder).pooling == "last"


@pytest.mark.parametrize(
    "document",
    [
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_weightedmean_tokens": True},
        {"pooling_mode": ["mean", "max"]},
        {},
    ],
    ids=["two", "weighted", "list", "none"],
)
def test_other_poolings_are_refused(document: Any, folder: Path) -> None:
    add_sentence_files(folder)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(document))
    with pytest.raises(UnsupportedModel, match="pooling"):
        read_encoder_settings(folder)


def test_every_module_that_is_not_known_is_named(folder: Path) -> None:
    add_sentence_files(folder)
    modules(folder, "Transformer", "Pooling", "Dense", "LayerNorm")
    with pytest.raises(UnsupportedModel) as raised:
        read_encoder_settings(folder)
    assert "Dense in 2_Dense" in raised.value.message and "LayerNorm in 3_LayerNorm" in raised.value.message


@pytest.mark.parametrize(
    "names", [(), ("Pooling", "Transformer"), ("Transformer",), ("Transformer", "Normalize", "Pooling")]
)
def test_another_order_is_refused(names: tuple[str, ...], folder: Path) -> None:
    modules(folder, *names)
    with pytest.raises(UnsupportedModel, match="order"):
        read_encoder_settings(folder)


def test_a_transformer_in_a_folder_of_its_own_is_refused_by_that_name(folder: Path) -> None:
    add_sentence_files(folder)
    items = json.loads((folder / "modules.json").read_text())
    items[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(items))
    with pytest.raises(UnsupportedModel, match="0_Transformer"):
        read_encoder_settings(folder)


@pytest.mark.parametrize("text", ["{", '{"a": 1}', '["x"]', "[{}]"])
def test_damaged_modules(text: str, folder: Path) -> None:
    (folder / "modules.json").write_text(text)
    with pytest.raises(ArtifactError, match="modules.json"):
        read_encoder_settings(folder)


def test_the_longest_text_is_the_tokenizers_where_nobody_else_says(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 300}')
    assert read_encoder_settings(folder).max_length == 300
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    assert read_encoder_settings(folder).max_length is None


def test_lower_casing_is_read(folder: Path) -> None:
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8, "do_lower_case": true}')
    settings = read_encoder_settings(folder)
    assert settings.lower_case and settings.max_length == 8


def test_labels_of_a_classifier(folder: Path) -> None:
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {"1": "b", "0": "a"}}
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": "regression"}))
    settings = read_encoder_settings(folder)
    assert settings.task == "sequence-classification" and settings.labels == ("a", "b")
    assert settings.problem_type == "regression"
    del config["id2label"]
    (folder / "config.json").write_text(json.dumps(config))
    assert read_encoder_settings(folder).labels == ("LABEL_0", "LABEL_1")
