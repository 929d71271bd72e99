"""Every kind of tokenizer in every container: 2,000 lines cut token by token as tokenizer.json has it, or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import (
    KINDS,
    QUICK_KINDS,
    REFUSED_KINDS,
    ROWS,
    Tokenizers,
    WriteVocabulary,
    end_of_turn,
    write_tokenizer,
)
from corpus import LINES, corpus
from results import RESULTS, result
from tokenizers import Tokenizer

from edgeport.errors import GateFailure, UnsupportedModel
from edgeport.export.formats.gguf_tokenizer import read_tokenizer
from edgeport.export.verify.token_limits import token_limits
from edgeport.export.verify.token_parity import check_token_parity
from edgeport.export.verify.tokens import check_tokens, golden_texts
from edgeport.runtimes.llama_vocabulary import LlamaVocabulary
from edgeport.runtimes.tokenizer import FileTokenizer


def document_of(directory: Path) -> dict[str, Any]:
    loaded = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def lines_for(directory: Path) -> list[str]:
    return corpus([token["content"] for token in document_of(directory)["added_tokens"]])


def test_the_lines_are_the_same_ones_every_time() -> None:
    assert corpus() == corpus() and len(corpus()) == LINES
    assert len(set(corpus())) > 0.9 * LINES


@pytest.mark.parametrize("kind", [*KINDS, *REFUSED_KINDS])
def test_a_kind_is_written_the_same_every_time(kind: str, tokenizer_of: Tokenizers, tmp_path: Path) -> None:
    size = write_tokenizer(kind, tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (tokenizer_of(kind) / "tokenizer.json").read_bytes()
    assert size == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size() <= ROWS


@pytest.mark.parametrize("kind", [item.kind for item in RESULTS if item.container == "gguf"])
def test_gguf(kind: str, tokenizer_of: Tokenizers, vocabulary_file: WriteVocabulary) -> None:
    directory, expected = tokenizer_of(kind), result(kind, "gguf")
    if expected.outcome == "refused":
        with pytest.raises(UnsupportedModel, match=expected.reason):
            read_tokenizer(directory, ROWS)
        return
    limits = token_limits(document_of(directory))
    assert ", ".join(limit.name for limit in limits) == expected.reason
    assert (expected.outcome == "limited") == bool(limits)
    path = vocabulary_file(directory)
    check_token_parity(path, directory, lines_for(directory))
    told = check_tokens("gguf", path, golden_texts(directory)[:3])
    assert all(limit.what in told for limit in limits) and ("llama.cpp" in told) == bool(limits)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "llama2-spm", "gemma-spm", "phi3-spm"])
def test_gguf_reads_back_the_same_text(
    kind: str, tokenizer_of: Tokenizers, vocabulary_file: WriteVocabulary
) -> None:
    """Tokens to text: Gemma keeps a space at the beginning, Llama 2 takes away the one it put there."""
    directory = tokenizer_of(kind)
    own, container = FileTokenizer(directory), LlamaVocabulary(vocabulary_file(directory))
    hidden = (
        "<|fim_suffix|>",
        "<|fim_prefix|>",
        "</s>",
    )  # llama.cpp shows no token of these names, special or not
    for line in (line for line in lines_for(directory)[:500] if not any(name in line for name in hidden)):
        tokens = own.encode(line, add_special_tokens=False)
        assert container.decode(tokens) == own.decode(tokens), line


def test_every_kind_has_a_result() -> None:
    assert {item.kind for item in RESULTS if item.container == "gguf"} == {*KINDS, *REFUSED_KINDS}


@pytest.mark.parametrize(
    "kind",
    ["gemma-spm", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("llama3", "phi3-spm", "qwen2"))],
)
def test_every_end_of_the_family_ends_a_text(
    kind: str, tokenizer_of: Tokenizers, vocabulary_file: WriteVocabulary, tmp_path: Path
) -> None:
    """generation_config.json lists the end of a turn beside the end of a text."""
    directory = tmp_path / "model"
    shutil.copytree(tokenizer_of(kind), directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    names = [document_of_settings(directory)["eos_token"], end_of_turn(kind)]
    stops = [tokenizer.token_to_id(name) for name in names]
    assert None not in stops
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    path = vocabulary_file(directory)
    check_token_parity(path, directory)
    ordinary = tokenizer.encode("the", add_special_tokens=False).ids[-1]
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [*stops, ordinary]}))
    with pytest.raises(GateFailure, match="would not stop at"):
        check_token_parity(path, directory)
    check_token_parity(vocabulary_file(directory), directory)


def document_of_settings(directory: Path) -> dict[str, Any]:
    loaded = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def faults_of(kind: str, directory: Path) -> list[dict[str, Any]]:
    """Descriptions that are wrong in one thing, as a careless converter would write them."""
    found = read_tokenizer(directory, ROWS)
    if found.model == "gpt2":
        wrong = "gpt-2" if found.pre != "gpt-2" else "qwen2"
        return [{"pre": wrong}, {"merges": found.merges[1:]}, {"add_bos": not found.add_bos}]
    if found.model == "llama":
        best = max(range(len(found.tokens)), key=lambda at: (found.tokens[at] == "\u2581t", at))
        scores = tuple(-1e6 if at == best else score for at, score in enumerate(found.scores))
        return [{"scores": scores}, {"add_space_prefix": not found.add_space_prefix}]
    if found.model == "t5":
        at = found.tokens.index("\u2581the")
        scores = tuple(-40.0 if index == at else score for index, score in enumerate(found.scores))
        return [{"scores": scores}, {"precompiled_charsmap": found.precompiled_charsmap[:0]}]
    assert found.normalizer is not None and found.model == "bert", kind
    other = type(found.normalizer)(not found.normalizer.lowercase, not found.normalizer.strip_accents)
    return [{"normalizer": other}, {"special_ids": {**found.special_ids, "unk": 0}}]


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("llama3", 0),
        ("llama2-spm", 0),
        ("unigram", 0),
        ("wordpiece", 0),
        *(
            pytest.param(kind, number, marks=pytest.mark.slow)
            for kind, number in [
                ("llama3", 1),
                ("llama3", 2),
                ("granite", 0),
                ("granite", 1),
                ("gemma-spm", 0),
                ("gemma-spm", 1),
                ("llama2-spm", 1),
                ("unigram", 1),
                ("wordpiece", 1),
            ]
        ),
    ],
)
def test_a_planted_fault_is_found(
    kind: str, number: int, tokenizer_of: Tokenizers, vocabulary_file: WriteVocabulary
) -> None:
    directory = tokenizer_of(kind)
    for fault in faults_of(kind, directory)[number : number + 1]:
        with pytest.raises(GateFailure, match="cuts line"):
            check_token_parity(vocabulary_file(directory, **fault), directory, lines_for(directory))


@pytest.mark.parametrize(
    ("kind", "faults"), [("phi3-spm", {"model_name": ""}), ("roberta", {"pre": "gpt-2"})]
)
def test_a_token_that_takes_whitespace_along_has_to_be_told(
    kind: str, faults: dict[str, Any], tokenizer_of: Tokenizers, vocabulary_file: WriteVocabulary
) -> None:
    directory = tokenizer_of(kind)
    with pytest.raises(GateFailure, match="cuts line"):
        check_token_parity(vocabulary_file(directory, **faults), directory)


def test_a_models_name_does_not_change_how_its_text_is_cut(
    tokenizer_of: Tokenizers, vocabulary_file: WriteVocabulary
) -> None:
    """llama.cpp takes "phi-3" in the name for a statement about the tokenizer, and fails where it has no </s>."""
    directory = tokenizer_of("llama3")
    check_token_parity(vocabulary_file(directory, name="My-Phi-3-like Modern-BERT"), directory)


@pytest.mark.parametrize("kind", QUICK_KINDS)
def test_the_runtimes_own_tokenizer_is_tokenizer_json(kind: str, tokenizer_of: Tokenizers) -> None:
    """ONNX and packed safetensors carry tokenizer.json itself; the runtime reads it with the library that defines it."""
    directory = tokenizer_of(kind)
    lines = lines_for(directory)
    reference = Tokenizer.from_file(str(directory / "tokenizer.json"))
    own = FileTokenizer(directory)
    for around in (True, False):
        expected = [item.ids for item in reference.encode_batch(lines, add_special_tokens=around)]
        assert [own.encode(line, add_special_tokens=around) for line in lines] == expected
