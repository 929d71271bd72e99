"""Twins: published structure, honest shards, the same bytes every time, and loadable by transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import twins
from safetensors import safe_open
from tokenizers import Tokenizer

# Millions of parameters on the models' published pages.
PUBLISHED_MILLIONS = {
    "smollm2-135m": 134.5,
    "qwen2.5-0.5b": 494.0,
    "qwen3-0.6b": 596.0,
    "llama-3.2-1b": 1235.8,
    "qwen2.5-1.5b": 1543.7,
    "llama-3.1-8b": 8030.3,
}
ONE_PER_STRUCTURE = ("smollm2-135m", "qwen2.5-0.5b", "qwen3-0.6b", "llama-3.1-8b")


@pytest.mark.parametrize("name", PUBLISHED_MILLIONS)
def test_full_size_has_the_published_parameter_count(name: str) -> None:
    assert twins.parameter_count(name) / 1e6 == pytest.approx(PUBLISHED_MILLIONS[name], abs=0.06)


def test_every_shape_is_listed() -> None:
    assert set(twins.twin_names()) == set(PUBLISHED_MILLIONS)


@pytest.mark.parametrize("name", ONE_PER_STRUCTURE)
def test_loads_in_transformers_with_finite_logits(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = twins.write_twin(name, tmp_path / name, tiny=True)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report  # no key is missing, left over or of another shape
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("def f(x):\n    return x", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    assert logits.shape[-1] == model.config.vocab_size >= len(tokenizer)
    assert torch.isfinite(logits).all() and logits.float().std() > 0.01


@pytest.mark.parametrize("name", ONE_PER_STRUCTURE)
def test_transformers_uses_the_tokenizer_file_as_it_is(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = twins.write_twin(name, tmp_path / name, tiny=True)
    text = "def café(x12345):\n\n\treturn 'it''s'  # naïve 日本\r\n   "
    direct = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert loaded(text)["input_ids"] == direct
    assert loaded.decode(direct, skip_special_tokens=True) == text
    prompt = loaded.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert "hi" in prompt and "assistant" in prompt


def test_digits_follow_the_family(tmp_path: Path) -> None:
    def digits(name: str) -> list[str]:
        folder = twins.write_twin(name, tmp_path / name, tiny=True)
        return (
            Tokenizer.from_file(str(folder / "tokenizer.json"))
            .encode("12345", add_special_tokens=False)
            .tokens
        )

    assert digits("smollm2-135m") == list("12345")
    assert digits("qwen2.5-0.5b") == list("12345")
    assert all(len(token) <= 3 for token in digits("llama-3.2-1b"))


def test_only_llama_3_adds_a_bos(tmp_path: Path) -> None:
    for name, adds in (("llama-3.2-1b", True), ("qwen3-0.6b", False), ("smollm2-135m", False)):
        folder = twins.write_twin(name, tmp_path / name, tiny=True)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        first = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("x = 1").ids[0]
        assert (first == config["bos_token_id"]) is adds


def test_shards_are_what_the_index_says(tmp_path: Path) -> None:
    folder = twins.write_twin("llama-3.1-8b", tmp_path / "twin", tiny=True, shard_bytes=600_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 2 and {file.name for file in files} == set(index["weight_map"].values())
    found: dict[str, str] = {}
    total = 0
    for file in files:
        header_bytes = int.from_bytes(file.read_bytes()[:8], "little")
        header = json.loads(file.read_bytes()[8 : 8 + header_bytes])
        header.pop("__metadata__")
        data_bytes = sum(2 * math.prod(entry["shape"]) for entry in header.values())
        assert file.stat().st_size == 8 + header_bytes + data_bytes and header_bytes % 8 == 0
        total += data_bytes
        found |= dict.fromkeys(header, file.name)
        with safe_open(file, framework="numpy") as opened:  # the library's own reader agrees
            assert set(opened.keys()) == set(header)
    assert found == index["weight_map"] and total == index["metadata"]["total_size"]


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    def weights(folder: str, **options: int) -> bytes:
        path = twins.write_twin("qwen2.5-0.5b", tmp_path / folder, tiny=True, **options)
        return (path / "model.safetensors").read_bytes()

    assert weights("a") == weights("b")
    assert weights("a2", seed=1) != weights("b2", seed=2)


def test_a_tensor_does_not_depend_on_the_sharding(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    whole = twins.write_twin("llama-3.1-8b", tmp_path / "whole", tiny=True) / "model.safetensors"
    parts = twins.write_twin("llama-3.1-8b", tmp_path / "parts", tiny=True, shard_bytes=500_000)
    file = parts / json.loads((parts / "model.safetensors.index.json").read_text())["weight_map"][name]

    def values(path: Path) -> np.ndarray:
        with safe_open(path, framework="pt") as opened:
            return opened.get_tensor(name).float().numpy()

    assert np.array_equal(values(whole), values(file))
    assert 0.019 < values(whole).std() < 0.021


def test_layers_can_be_chosen(tmp_path: Path) -> None:
    folder = twins.write_twin("qwen3-0.6b", tmp_path / "twin", tiny=True, layers=3)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with safe_open(folder / "model.safetensors", framework="numpy") as opened:
        layers = {key.split(".")[2] for key in list(opened.keys()) if ".layers." in key}
    assert config["num_hidden_layers"] == 3 and layers == {"0", "1", "2"}


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="known: llama-3.1-8b"):
        twins.write_twin("gpt-5", tmp_path / "x")
    with pytest.raises(ValueError, match="at least 1"):
        twins.write_twin("qwen3-0.6b", tmp_path / "x", layers=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError):
        twins.write_twin("qwen3-0.6b", tmp_path / "full", tiny=True)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(twins, "write_values", fail)
    with pytest.raises(OSError, match="disk full"):
        twins.write_twin("qwen3-0.6b", tmp_path / "twin", tiny=True)
    assert list(tmp_path.iterdir()) == []
