"""A folder of a real layout is read whole, heads that nobody needs are left out, and every disagreement is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgeport.errors import UnsupportedModel, UsageError
from edgeport.export.encoders.source import names_encoder, open_encoder_source
from edgeport.export.encoders.spec import POSITIONS, WORDS

Twins = Callable[..., Path]
FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert")
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")


@pytest.fixture
def changed(twin: Twins, tmp_path: Path) -> Path:
    """A copy of the BERT twin, to be spoilt."""
    return Path(shutil.copytree(twin("bert"), tmp_path / "bert"))


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_every_head_is_read(family: str, head: str, twin: Twins) -> None:
    folder = twin(family, head)
    source = open_encoder_source(str(folder))
    stored = load_file(folder / "model.safetensors")
    for item in source.spec.tensors():
        assert source.tensor(item.name).shape == item.shape
        whole = stored[source.names[item.name]]
        np.testing.assert_array_equal(source.tensor(item.name), whole[len(whole) - item.shape[0] :])
    assert names_encoder(str(folder))
    assert source.facts().dtype == "f32" and len(source.fingerprint()) == 64


def test_robertas_first_rows_of_positions_are_left_out(twin: Twins) -> None:
    source = open_encoder_source(str(twin("roberta")))
    assert source.spec.position_offset == 2
    whole = source.weights.tensor(source.names[POSITIONS])
    assert len(whole) == len(source.tensor(POSITIONS)) + 2
    np.testing.assert_array_equal(source.tensor(POSITIONS)[0], whole[2])


def test_names_from_tensorflow_and_a_prefix(changed: Path) -> None:
    def rename(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            tensors[f"bert.{old}"] = tensors.pop(name)
        tensors["cls.predictions.bias"] = np.zeros(3, np.float32)
        tensors["bert.embeddings.position_ids"] = np.arange(4)

    rewrite(changed, rename)
    source = open_encoder_source(str(changed))
    assert source.names["embeddings.LayerNorm.bias"] == "bert.embeddings.LayerNorm.beta"


def test_missing_foreign_and_misshapen_tensors_are_all_told(changed: Path) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        del tensors["encoder.layer.0.output.dense.bias"]
        tensors["encoder.layer.7.output.dense.bias"] = np.zeros(3, np.float32)
        tensors[WORDS] = tensors[WORDS][:-1]

    rewrite(changed, spoil)
    with pytest.raises(UnsupportedModel) as raised:
        open_encoder_source(str(changed))
    for told in ("layer.0.output.dense.bias is missing", "layer.7", f"{WORDS} is ["):
        assert told in raised.value.message


def test_integers_for_weights_are_refused(changed: Path) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors[WORDS] = tensors[WORDS].astype(np.int8)

    rewrite(changed, spoil)
    with pytest.raises(UnsupportedModel, match="I8"):
        open_encoder_source(str(changed))


def test_a_folder_without_a_tokenizer_is_refused(changed: Path) -> None:
    (changed / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModel, match="tokenizer.json"):
        open_encoder_source(str(changed))


def test_pickled_weights_are_not_read(changed: Path) -> None:
    (changed / "model.safetensors").rename(changed / "pytorch_model.bin")
    with pytest.raises(UsageError, match="safetensors"):
        open_encoder_source(str(changed))


def test_a_decoder_and_a_broken_folder_are_no_encoders(tmp_path: Path) -> None:
    assert not names_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    assert not names_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    assert not names_encoder(str(tmp_path)) and not names_encoder("owner/name")


def test_the_fingerprint_sees_pooling_and_weights(changed: Path) -> None:
    first = open_encoder_source(str(changed)).fingerprint()
    rewrite(changed, lambda tensors: tensors.update({WORDS: tensors[WORDS] + 1}))
    second = open_encoder_source(str(changed)).fingerprint()
    (changed / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    third = open_encoder_source(str(changed)).fingerprint()
    assert len({first, second, third}) == 3
