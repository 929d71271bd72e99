"""SentencePiece-type vocabularies (Llama 2, TinyLlama): exact ones are described by scores and proven, others refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import TokenType
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgeport.errors import GateFailure, UnsupportedModel
from edgeport.export.formats.gguf_sentencepiece import sentencepiece_scores
from edgeport.export.formats.gguf_tokenizer import read_tokenizer
from edgeport.export.formats.gguf_vocabulary import SPACE
from edgeport.export.verify.token_parity import check_token_parity
from edgeport.export.verify.token_texts import TEXTS
from edgeport.runtimes.constraint import JsonSchema, constraint_for
from edgeport.runtimes.llama_vocabulary import LlamaVocabulary
from edgeport.runtimes.tokenizer import FileTokenizer

VOCAB_SIZE = 1200
SPECIAL = ["<unk>", "<s>", "</s>"]
LEGACY = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])


def sentencepiece_tokenizer(*, closed: bool = True) -> Tokenizer:
    """A trained BPE with byte fallback; `closed` lists every split of every token as a merge, as transformers does."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = LEGACY
    words = ["".join(character for character in text if 0x20 <= ord(character) < 0x250) for text in TEXTS]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False)
    trained.train_from_iterator([word for text in words for word in text.split(" ")], trainer)
    model = json.loads(trained.to_str())["model"]
    learnt = [tuple(pair) for pair in model["merges"]]
    pieces = [text for text in model["vocab"] if text not in SPECIAL]
    ordered = [text for text in pieces if len(text) == 1] + [left + right for left, right in learnt]
    names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *dict.fromkeys(ordered)]
    vocab = {text: index for index, text in enumerate(names)}
    splits = [(text[:cut], text[cut:]) for text in names[259:] for cut in range(1, len(text))]
    merges = [pair for pair in splits if pair[0] in vocab and pair[1] in vocab] if closed else learnt
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = LEGACY
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def save(tokenizer: Tokenizer, directory: Path) -> Path:
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "unk_token": "<unk>"}))
    return directory


def test_a_converted_vocabulary_is_proven(write_vocabulary, tmp_path: Path) -> None:
    directory = save(sentencepiece_tokenizer(), tmp_path)
    found = read_tokenizer(directory, VOCAB_SIZE)
    assert (found.model, found.pre, found.add_space_prefix) == ("llama", "default", True)
    assert found.special_ids == {"bos": 1, "eos": 2, "unk": 0}
    assert found.types[:4] == (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, TokenType.BYTE)
    check_token_parity(
        write_vocabulary(directory, VOCAB_SIZE), directory, ["a line of calibration text, 2026"]
    )


@pytest.mark.parametrize("step", ["normalizer", "pre_tokenizer", "both"])
def test_a_vocabulary_without_space_prefix_is_proven(step: str, write_vocabulary, tmp_path: Path) -> None:
    tokenizer = sentencepiece_tokenizer()
    if step in ("normalizer", "both"):
        tokenizer.normalizer = normalizers.Replace(" ", SPACE)
        if step == "both":  # Gemma's: nothing is left to split at
            tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        document = json.loads(tokenizer.to_str())
        document["normalizer"] = None
        tokenizer = Tokenizer.from_str(json.dumps(document))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    directory = save(tokenizer, tmp_path)
    assert not read_tokenizer(directory, VOCAB_SIZE).add_space_prefix
    check_token_parity(write_vocabulary(directory, VOCAB_SIZE), directory)


@pytest.mark.parametrize(
    "wrong", [{"add_space_prefix": False}, {"add_bos": False}, {"scores": (0.0,) * VOCAB_SIZE}]
)
def test_a_wrong_description_is_found(wrong: dict[str, Any], write_vocabulary, tmp_path: Path) -> None:
    directory = save(sentencepiece_tokenizer(), tmp_path)
    with pytest.raises(GateFailure, match=r"llama\.cpp cuts line \d+ differently"):
        check_token_parity(write_vocabulary(directory, VOCAB_SIZE, **wrong), directory)


def test_merges_that_scores_cannot_say_are_refused(tmp_path: Path) -> None:
    directory = save(sentencepiece_tokenizer(closed=False), tmp_path)
    with pytest.raises(
        UnsupportedModel, match=r"llama.cpp would join .* which is no merge of this tokenizer.json"
    ):
        read_tokenizer(directory, VOCAB_SIZE)


def scores_of(merges: list[tuple[str, str]], cut_out: tuple[str, ...] = ()) -> dict[str, float]:
    formed = [left + right for left, right in merges]
    names = list(dict.fromkeys([*(f"<0x{byte:02X}>" for byte in range(256)), *"abc", SPACE, *formed]))
    types = [TokenType.NORMAL] * len(names)
    return dict(zip(names, sentencepiece_scores(names, types, merges, cut_out), strict=True))


def test_merges_mixed_between_tokens_are_refused() -> None:
    """One score for a token cannot say that one way to form it comes before, another after, some other token."""
    mixed = [("a", "bc"), ("b", "c"), ("a", "b"), ("ab", "c")]
    with pytest.raises(UnsupportedModel, match="merges that form 'abc' are mixed with those of other tokens"):
        scores_of(mixed)
    assert scores_of(sorted(mixed, key=lambda pair: len("".join(pair))))["abc"] == -2
    assert scores_of(mixed, cut_out=("abc",))["bc"] == -1  # no text ever holds "abc" then


def test_runs_of_one_character_may_be_mixed_among_themselves() -> None:
    runs = [(SPACE * left, SPACE * right) for left in (3, 2, 1) for right in (3, 2, 1) if left + right <= 4]
    assert scores_of([*runs, ("a", "b")])[SPACE * 4] == 0
    with pytest.raises(UnsupportedModel, match="are mixed with those of other tokens"):
        scores_of([*runs[:2], ("a", "b"), *runs[2:]])


def test_a_missing_byte_token_is_refused(tmp_path: Path) -> None:
    directory = save(sentencepiece_tokenizer(), tmp_path)
    path = directory / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"<0x7F>"', '"nothing"'), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="<0x7F> is missing"):
        read_tokenizer(directory, VOCAB_SIZE)


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_whitespace_rules_llama_cpp_does_not_have_are_refused(scheme: str, tmp_path: Path) -> None:
    document = json.loads(sentencepiece_tokenizer().to_str())
    document["normalizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    with pytest.raises(UnsupportedModel, match="no whitespace rule") as caught:
        read_tokenizer(save(tokenizer, tmp_path), VOCAB_SIZE)
    assert "original tokenizer.json" in str(caught.value.hint)


def test_a_constraint_allows_the_same_tokens_as_in_tokenizer_json(write_vocabulary, tmp_path: Path) -> None:
    """A SentencePiece text begins with a space that no JSON has; bytes without a character have tokens of their own."""
    tokenizer = sentencepiece_tokenizer()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    directory = save(tokenizer, tmp_path)
    both = FileTokenizer(directory), LlamaVocabulary(write_vocabulary(directory, VOCAB_SIZE))
    text = '{"name": "Zoé 😀", "kind": "</s>"}'
    schema = JsonSchema(
        {
            "type": "object",
            "properties": {"name": {"type": "string"}, "kind": {"const": "</s>"}},
            "required": ["name", "kind"],
            "additionalProperties": False,
        }
    )
    first, second = (constraint_for(schema, vocabulary) for vocabulary in both)
    written = b""
    while not second.is_complete:
        size = min(first.allowed().size, second.allowed().size)
        assert (first.allowed()[:size] == second.allowed()[:size]).all()
        pieces = both[1].token_bytes()
        left = text.encode()[len(written) :]
        token = next(
            token
            for token in np.flatnonzero(second.allowed()).tolist()
            if pieces[token] is not None and left.startswith(pieces[token])
        )
        first.accept(token)
        second.accept(token)
        written += pieces[token] or b""
    assert written.decode() == text and first.is_complete
