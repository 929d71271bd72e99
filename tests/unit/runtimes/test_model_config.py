"""The small files beside the weights: what they say, and that a strange value is an error of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeport.errors import ArtifactError
from edgeport.runtimes.model_config import read_context_length, read_json, read_stop_ids
from edgeport.runtimes.onnx_config import read_onnx_config
from edgeport.runtimes.safetensors_reader import SafetensorsReader


def write(folder: Path, name: str, document: Any) -> None:
    (folder / name).write_text(document if isinstance(document, str) else json.dumps(document))


def test_generation_config_wins(tmp_path: Path) -> None:
    assert read_context_length(tmp_path) == 2048 and read_stop_ids(tmp_path) == ()
    write(tmp_path, "config.json", {"max_position_embeddings": 512, "eos_token_id": 3})
    assert read_context_length(tmp_path) == 512 and read_stop_ids(tmp_path) == (3,)
    write(tmp_path, "generation_config.json", {"eos_token_id": [1, 2]})
    assert read_stop_ids(tmp_path) == (1, 2)


@pytest.mark.parametrize("value", [[1], {}, "many", float("inf"), float("nan")])
def test_a_value_that_is_no_number(value: Any, tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"max_position_embeddings": value, "eos_token_id": [value]})
    for read in (read_context_length, read_stop_ids):
        with pytest.raises(ArtifactError, match="expected a number"):
            read(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "5"])
def test_a_damaged_file(text: str, tmp_path: Path) -> None:
    write(tmp_path, "config.json", text)
    with pytest.raises(ArtifactError, match=r"config\.json"):
        read_json(tmp_path / "config.json")


def test_an_index_of_shards_that_is_none(tiny_llama_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tiny_llama_dir / "model.safetensors")
    for text in ("[" * 100_000, "{}", "[]", "{"):
        write(tmp_path, "model.safetensors.index.json", text)
        with pytest.raises(ArtifactError, match="no usable weight_map"):
            SafetensorsReader(tmp_path)


def test_an_onnx_folder_is_described_by_either_file(tmp_path: Path) -> None:
    assert read_onnx_config(tmp_path) == {}
    config = {"num_attention_heads": 8, "hidden_size": 256, "vocab_size": 100, "max_position_embeddings": 512}
    write(tmp_path, "config.json", config)
    model = read_onnx_config(tmp_path)["model"]
    assert model["decoder"] == {"head_size": 32, "num_key_value_heads": 8}
    assert (model["vocab_size"], model["context_length"]) == (100, 512)
    write(tmp_path, "genai_config.json", {"model": {"vocab_size": 7}})
    assert read_onnx_config(tmp_path) == {"model": {"vocab_size": 7}}
