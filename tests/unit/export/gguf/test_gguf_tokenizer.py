"""Tokenizers: known ones are described and proven in llama.cpp, unknown ones refused, wrong ones found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader, TokenType
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from edgeport.errors import GateFailure, RuntimeFailure, UnsupportedModel
from edgeport.export.formats.gguf_pretokenizer import GPT2, LLAMA3, QWEN2, QWEN35, pre_tokenizer_name
from edgeport.export.formats.gguf_tokenizer import read_tokenizer
from edgeport.export.verify.token_parity import check_token_parity
from edgeport.export.verify.token_texts import TEXTS

VOCAB_SIZE = 1100
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def by_pattern(pattern: str) -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), BYTE_LEVEL])


def gpt2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def smollm() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2()])


KNOWN: dict[str, tuple[Callable[[], Any], bool, bool]] = {
    # llama.cpp's name: pre-tokenizer, ignore_merges, NFC
    "gpt-2": (gpt2, False, False),
    "smollm": (smollm, False, False),
    "llama-bpe": (lambda: by_pattern(LLAMA3), True, False),
    "dbrx": (lambda: by_pattern(LLAMA3), False, False),
    "qwen2": (lambda: by_pattern(QWEN2), False, True),
    "qwen35": (lambda: by_pattern(QWEN35), False, True),
}


def byte_level_tokenizer(
    pre_tokenizer: Any, *, ignore_merges: bool = False, composes: bool = False
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    if composes:
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 20,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS] * 2, trainer)
    tokenizer.add_tokens(["<tool_call>"])
    return tokenizer


def save(tokenizer: Tokenizer, directory: Path, **config: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", **config}))
    return directory


def edit(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("name", KNOWN)
def test_known_pre_tokenizers_are_named_and_proven(name: str, write_vocabulary, tmp_path: Path) -> None:
    make, ignore_merges, composes = KNOWN[name]
    tokenizer = byte_level_tokenizer(make(), ignore_merges=ignore_merges, composes=composes)
    directory = save(tokenizer, tmp_path / "model")
    description = read_tokenizer(directory, VOCAB_SIZE)
    assert (description.model, description.pre) == ("gpt2", name)
    lines = ["a line of calibration text, 2026", "und noch eine: naïve\n\tx += 1"]
    check_token_parity(write_vocabulary(directory, VOCAB_SIZE), directory, lines)


@pytest.mark.parametrize("wrong", ["qwen2", "smollm", "llama-bpe"])
def test_a_wrong_pre_tokenizer_name_is_found(wrong: str, write_vocabulary, tmp_path: Path) -> None:
    directory = save(byte_level_tokenizer(gpt2()), tmp_path / "model")
    with pytest.raises(GateFailure, match=r"v\.gguf: llama\.cpp cuts line \d+ differently"):
        check_token_parity(write_vocabulary(directory, VOCAB_SIZE, pre=wrong), directory)


def test_a_wrong_merge_is_found(write_vocabulary, tmp_path: Path) -> None:
    directory = save(byte_level_tokenizer(gpt2()), tmp_path / "model")
    first, *others = read_tokenizer(directory, VOCAB_SIZE).merges
    with pytest.raises(GateFailure, match="differently"):
        check_token_parity(write_vocabulary(directory, VOCAB_SIZE, merges=(*others, first)), directory)


def test_two_exchanged_tokens_are_found(write_vocabulary, tmp_path: Path) -> None:
    """Two tokens that no text yields, being steps on the way to longer ones: their bytes give them away."""
    tokenizer = byte_level_tokenizer(gpt2())
    directory = save(tokenizer, tmp_path / "model")
    description = read_tokenizer(directory, VOCAB_SIZE)
    seen = {index for text in TEXTS for index in tokenizer.encode(text).ids}
    normal = [index for index, kind in enumerate(description.types) if kind is TokenType.NORMAL]
    first, second = [index for index in normal if index not in seen][-2:]
    tokens = list(description.tokens)
    tokens[first], tokens[second] = tokens[second], tokens[first]
    with pytest.raises(GateFailure, match=f"token {first} reads b'.*' in llama.cpp, tokenizer.json has b'"):
        check_token_parity(write_vocabulary(directory, VOCAB_SIZE, tokens=tuple(tokens)), directory)


def test_a_difference_in_the_callers_lines_is_found(write_vocabulary, tmp_path: Path) -> None:
    """A tokenizer.json that drops letters the built-in texts never have in a row."""
    directory = save(byte_level_tokenizer(gpt2()), tmp_path / "model")
    path = write_vocabulary(directory, VOCAB_SIZE)
    edit(
        directory,
        lambda document: document.update(
            normalizer={"type": "Replace", "pattern": {"String": "zqx"}, "content": "q"}
        ),
    )
    check_token_parity(path, directory)
    with pytest.raises(GateFailure, match="'here zqx is': at token"):
        check_token_parity(path, directory, ["fine", "here zqx is"])


def test_a_file_that_is_no_gguf_is_refused_by_the_engine(tmp_path: Path) -> None:
    directory = save(byte_level_tokenizer(gpt2()), tmp_path / "model")
    path = tmp_path / "v.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(RuntimeFailure, match=r"does not load the vocabulary of v\.gguf"):
        check_token_parity(path, directory)


@pytest.mark.parametrize(
    ("pre_tokenizer", "match"),
    [
        (pre_tokenizers.Whitespace(), "pre_tokenizer Whitespace: it does not end in ByteLevel"),
        (by_pattern(r"\w+|\W+"), r"Split \+ ByteLevel: splits \\w\+\|\\W\+ with ignore_merges = false"),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), "add_prefix_space': True"),
        (pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), gpt2()]), r"Punctuation \+ ByteLevel"),
        (None, "pre_tokenizer none"),
    ],
)
def test_an_unknown_pre_tokenizer_is_refused_by_name(pre_tokenizer: Any, match: str) -> None:
    tokenizer = Tokenizer(models.BPE())
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    document = json.loads(tokenizer.to_str())["pre_tokenizer"]
    with pytest.raises(UnsupportedModel, match=match) as caught:
        pre_tokenizer_name(document, ignore_merges=False)
    assert "gpt-2, smollm, llama-bpe, dbrx, qwen2, qwen35" in str(caught.value.hint)


CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
SPELLINGS: dict[str, tuple[str, bool, str]] = {
    # spelling: pattern, ignore_merges, llama.cpp's name
    "line ends as characters": (LLAMA3.replace(r"\r", "\r").replace(r"\n", "\n"), True, "llama-bpe"),
    "the tokenizers library's": (
        GPT2.replace("'s|'t|'re|'ve|'m|'ll|'d", "'(?:[sdmt]|ll|ve|re)"),
        False,
        "gpt-2",
    ),
    "tiktoken's cl100k_base": (CL100K, False, "dbrx"),
    "digits one by one": (CL100K.replace("{1,3}", "{1}"), False, "qwen2"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_one_pattern_are_one(spelling: str, write_vocabulary, tmp_path: Path) -> None:
    """Another spelling gets the name, and llama.cpp cuts text as the tokenizers library reads that very spelling."""
    pattern, ignore_merges, name = SPELLINGS[spelling]
    directory = save(
        byte_level_tokenizer(by_pattern(pattern), ignore_merges=ignore_merges), tmp_path / "model"
    )
    assert read_tokenizer(directory, VOCAB_SIZE).pre == name
    check_token_parity(write_vocabulary(directory, VOCAB_SIZE), directory)


def test_what_lies_between_matches_may_go_when_nothing_does() -> None:
    tokenizer = Tokenizer(models.BPE())
    for pattern, name in ((LLAMA3, "llama-bpe"), (r"\p{N}", None)):
        removed = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
        steps = [removed, BYTE_LEVEL] if name else [removed, gpt2()]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        document = json.loads(tokenizer.to_str())["pre_tokenizer"]
        if name is None:  # only the digits would be left of a text
            with pytest.raises(UnsupportedModel, match="has no counterpart"):
                pre_tokenizer_name(document, ignore_merges=False)
        else:
            assert pre_tokenizer_name(document, ignore_merges=True) == name


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda d: d["model"].update(type="WordLevel"),
            "its model is WordLevel, supported are BPE, Unigram, WordPiece",
        ),
        (lambda d: d["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix is '</w>'"),
        (lambda d: d.update(normalizer={"type": "Lowercase"}), "no normalizer Lowercase"),
        (lambda d: d["added_tokens"][1].update(lstrip=True), "'<|im_start|>' has lstrip".replace("|", r"\|")),
        (
            lambda d: d["added_tokens"][1].update(id=VOCAB_SIZE),
            f"token id {VOCAB_SIZE}, the embedding has {VOCAB_SIZE} rows",
        ),
        (lambda d: d["model"]["vocab"].update({"[PAD1099]": 1098}), r"'\[PAD1099\]' to two token ids"),
    ],
)
def test_what_llama_cpp_has_no_notion_of_is_refused(change: Any, match: str, tmp_path: Path) -> None:
    directory = save(byte_level_tokenizer(gpt2()), tmp_path)
    edit(directory, change)
    with pytest.raises(UnsupportedModel, match=match):
        read_tokenizer(directory, VOCAB_SIZE)


def test_types_special_ids_and_fillers(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(gpt2())
    directory = save(tokenizer, tmp_path, bos_token={"content": "<|im_start|>"}, pad_token="<|endoftext|>")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    found = read_tokenizer(directory, VOCAB_SIZE)
    assert found.special_ids == {"bos": 1, "eos": 2, "pad": 0, "eot": 0}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7, 8]}))
    ends = read_tokenizer(directory, VOCAB_SIZE).special_ids
    assert (ends["eot"], ends["eom"]) == (7, 8)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7, 0, 8]}))
    ends = read_tokenizer(directory, VOCAB_SIZE).special_ids  # <|endoftext|> needs no key
    assert (ends["eot"], ends["eom"]) == (7, 8)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7, 8, 9]}))
    with pytest.raises(UnsupportedModel, match="a GGUF file can name two more ends"):
        read_tokenizer(directory, VOCAB_SIZE)
    assert (found.add_bos, found.add_eos) == (False, False)
    assert len(found.tokens) == VOCAB_SIZE == len(found.types)
    kinds = {
        text: found.types[found.tokens.index(text)]
        for text in ("<|im_end|>", "<tool_call>", "a", "[PAD1099]")
    }
    assert list(kinds.values()) == [
        TokenType.CONTROL,
        TokenType.USER_DEFINED,
        TokenType.NORMAL,
        TokenType.UNUSED,
    ]


def test_the_post_processor_decides_what_is_added(write_vocabulary, tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(gpt2())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    tokenizer.enable_padding(
        length=8
    )  # a training left-over in many files, which must not count as added tokens
    directory = save(tokenizer, tmp_path, add_bos_token=False)
    found = read_tokenizer(directory, VOCAB_SIZE)
    assert (found.add_bos, found.add_eos, found.special_ids["bos"]) == (True, True, 1)
    check_token_parity(write_vocabulary(directory, VOCAB_SIZE), directory)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> <|endoftext|> $A", special_tokens=[("<|im_start|>", 1), ("<|endoftext|>", 0)]
    )
    with pytest.raises(UnsupportedModel, match="adds one token before and one after at most"):
        read_tokenizer(save(tokenizer, tmp_path), VOCAB_SIZE)


def test_a_model_without_an_end_is_refused(tmp_path: Path) -> None:
    directory = save(byte_level_tokenizer(gpt2()), tmp_path, eos_token=None)
    with pytest.raises(UnsupportedModel, match="token 11"):
        read_tokenizer(directory, VOCAB_SIZE)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 2}))
    assert read_tokenizer(directory, VOCAB_SIZE).special_ids == {"eos": 2, "bos": 2}


def test_chat_templates_are_carried(write_vocabulary, tmp_path: Path, tiny_llama_dir: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tiny_llama_dir / name, tmp_path / name)
    text = (tmp_path / "chat_template.jinja").read_text(encoding="utf-8")
    assert read_tokenizer(tmp_path, 512).chat_templates == {"default": text}
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "chat_template": named})
    )
    fields = GGUFReader(write_vocabulary(tmp_path, 512)).fields
    assert fields["tokenizer.chat_template"].contents() == "D"
    assert fields["tokenizer.chat_template.tool_use"].contents() == "T"
    assert fields["tokenizer.chat_templates"].contents() == ["tool_use"]
