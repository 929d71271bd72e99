"""Tiny tokenizers in the very tokenizer.json layout of the real families: normalizer, pre-tokenizer, model, post-processor,
decoder, added tokens and their flags are those of the named model; only the vocabulary is small.

    vocab_size = write_tokenizer("gemma-spm", folder)

Everything is deterministic: byte-level and WordPiece vocabularies are trained (one thread, no sampling), SentencePiece ones
are counted here. No `__init__.py` may lie in this folder: it would hide the `tokenizers` package.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charsmap import charsmap
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

Tokenizers = Callable[[str], Path]
"""kind -> folder of its files."""
WriteVocabulary = Callable[..., Path]
"""Folder of a tokenizer's files -> GGUF file with nothing but its vocabulary."""

ROWS = 1280  # an embedding that every kind fits
SPACE = "\u2581"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
QWEN2_PATTERN = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_CASED_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O_PATTERN = _CASED % (_CONTRACTIONS + "?", _CONTRACTIONS + "?") + r"|\p{N}{1,3}" + _CASED_REST
TEKKEN_PATTERN = _CASED % ("", "") + r"|\p{N}" + _CASED_REST

TRAINING_TEXT: tuple[str, ...] = (
    "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs, and don't stop!",
    "def fibonacci(n: int) -> int:\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n\n",
    "class Shape:\n\tdef area(self) -> float:\n\t\traise NotImplementedError\n",
    "for index, value in enumerate(values):\n    if value is None:\n        continue\n    total += value * 12345\n",
    "import os\nimport sys\n\nwith open(path, encoding='utf-8') as stream:\n    text = stream.read()\n",
    "It's true that they're here, we've seen it, I'll go, she'd know, and I'm sure. IT'S LATE.",
    "Größe, naïve café, Ångström and Straße; el niño, l'école, œuvre, señor.",
    "Привет, мир! Это проверка. Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم",
    "你好，世界！今天是星期天。日本語のテストです。한국어 문장입니다. สวัสดี नमस्ते दुनिया",
    "0 1 2 3 10 42 100 123 1234 2026 3.14159 1,000,000 0xFF 50%",
    "😀 😃 👍 ❤ ✓ → … — “quoted” ‘single’ «angled»",
    '{"key": [1, 2.5, null, true], "text": "a value"} <b>bold</b> $x^2$ #tag @user http://example.org/a?b=c&d=e',
    "What time is it in the morning? Tell me about the history of the city and its people in three sentences.",
    "once upon a time there was a little girl who lived in a village near the forest with her mother and father",
)

_PADDING = "".join(chr(code) for code in range(0x20, 0x7F))  # every printable ASCII character is a token


@dataclass(frozen=True, slots=True)
class _Added:
    content: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


@dataclass(frozen=True, slots=True)
class _Layout:
    """A finished tokenizer.json, and what tokenizer_config.json says of it."""

    document: dict[str, Any]
    settings: Mapping[str, Any]
    end_of_turn: str | None = None
    template: str | None = None


@dataclass(frozen=True, slots=True)
class _ByteLevel:
    """What tells one byte-level BPE tokenizer from another. `first` tokens have the lowest ids, `last` the highest."""

    pre_tokenizer: Callable[[], Any]
    settings: Mapping[str, Any]
    first: Sequence[_Added] = ()
    last: Sequence[_Added] = ()
    composes: bool = False
    ignore_merges: bool = False
    around: tuple[str | None, str | None] = (None, None)
    roberta: bool = False
    end_of_turn: str | None = None
    template: str | None = None
    size: int = 640
    unreachable: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


# Templates of the families, without the branches for tools
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n{{ message['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI3_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
LLAMA2_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %} {{ message['content'] }}"
    "{{ eos_token }}{% else %}[INST] {{ message['content'] }} [/INST]{% endif %}{% endfor %}"
)
GRANITE_TEMPLATE = (
    "{% for message in messages %}<|start_of_role|>{{ message['role'] }}<|end_of_role|>{{ message['content'] }}"
    "<|end_of_text|>\n{% endfor %}{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)


def write_tokenizer(kind: str, directory: Path, *, chat_template: str | None = None) -> int:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja into `directory`.

    `kind` is one of KINDS or of REFUSED_KINDS. `chat_template` replaces the family's own; "" writes none. generation_config.json
    is the caller's; `end_of_turn` says what belongs there. Returns the vocabulary's size, added tokens included: the least
    number of rows an embedding needs.
    """
    layout = _LAYOUTS[kind]()
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "tokenizer.json", layout.document)
    special = {name: text for name, text in layout.settings.items() if name.endswith("_token")}
    _write_json(
        directory / "tokenizer_config.json", {**layout.settings, "clean_up_tokenization_spaces": False}
    )
    _write_json(directory / "special_tokens_map.json", special)
    template = layout.template if chat_template is None else chat_template
    if template:
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return _size(layout.document)


def end_of_turn(kind: str) -> str | None:
    """The token that ends an assistant's answer beside eos_token, which the family's generation_config.json lists too."""
    return _LAYOUTS[kind]().end_of_turn


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")


def _vocabulary(document: Mapping[str, Any]) -> dict[str, int]:
    vocab = document["model"]["vocab"]
    if isinstance(vocab, Mapping):
        return dict(vocab)
    return {text: index for index, (text, _) in enumerate(vocab)}


def _size(document: Mapping[str, Any]) -> int:
    ids = [*_vocabulary(document).values(), *(token["id"] for token in document["added_tokens"])]
    return max(ids) + 1


def _added_tokens(document: dict[str, Any], tokens: Sequence[_Added]) -> None:
    """Give `document` its added tokens: a text of the vocabulary keeps its id, others follow the last one."""
    ids = _vocabulary(document)
    following = max(ids.values()) + 1
    entries = []
    for token in tokens:
        if token.content not in ids:
            ids[token.content] = following
            following += 1
        flags = {"lstrip": token.lstrip, "rstrip": token.rstrip, "normalized": token.normalized}
        entries.append(
            {
                "id": ids[token.content],
                "content": token.content,
                "single_word": False,
                **flags,
                "special": token.special,
            }
        )
    document["added_tokens"] = sorted(entries, key=lambda entry: int(entry["id"]))


# ---- byte-level BPE -------------------------------------------------------------------------------------------------


def _plain() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits_first() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _plain()])


def _by_pattern(pattern: str, behavior: str = "isolated", invert: bool = False) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), behavior, invert)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _byte_level(description: _ByteLevel) -> _Layout:
    tokenizer = Tokenizer(models.BPE(ignore_merges=description.ignore_merges))
    tokenizer.pre_tokenizer = description.pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=description.size,
        special_tokens=[token.content for token in description.first],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    if description.composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    document = json.loads(tokenizer.to_str())
    vocab = document["model"]["vocab"]
    vocab.update({text: len(vocab) + at for at, text in enumerate(description.unreachable)})
    _added_tokens(document, [*description.first, *description.last])
    _surround(document, description.around, roberta=description.roberta)
    return _Layout(
        document, {**description.settings, **description.extra}, description.end_of_turn, description.template
    )


def _surround(document: dict[str, Any], around: tuple[str | None, str | None], *, roberta: bool) -> None:
    """The post-processor that puts a token before and after a text."""
    ids = _vocabulary(document) | {token["content"]: token["id"] for token in document["added_tokens"]}
    before, after = around
    if roberta:
        assert before is not None and after is not None
        document["post_processor"] = {
            "type": "RobertaProcessing",
            "sep": [after, ids[after]],
            "cls": [before, ids[before]],
            "trim_offsets": True,
            "add_prefix_space": False,
        }
        return
    used = [token for token in around if token is not None]
    if not used:
        document["post_processor"] = json.loads(_with_byte_level_processor())["post_processor"]
        return
    pieces = [{"SpecialToken": {"id": before, "type_id": 0}}] if before else []
    pieces += [{"Sequence": {"id": "A", "type_id": 0}}]
    pieces += [{"SpecialToken": {"id": after, "type_id": 0}}] if after else []
    second = [{"Sequence": {"id": "B", "type_id": 1}}, *([pieces[-1]] if after else [])]
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": [*pieces, *second],
        "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in used},
    }


def _with_byte_level_processor() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer.to_str()


def _gpt2() -> _Layout:
    end = "<|endoftext|>"
    settings = {"bos_token": end, "eos_token": end, "unk_token": end, "tokenizer_class": "GPT2Tokenizer"}
    return _byte_level(_ByteLevel(_plain, settings, last=[_Added(end, normalized=True)]))


def _llama3() -> _Layout:
    names = [
        "begin_of_text",
        "end_of_text",
        "finetune_right_pad_id",
        "start_header_id",
        "end_header_id",
        "eom_id",
        "eot_id",
    ]
    settings = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return _byte_level(
        _ByteLevel(
            lambda: _by_pattern(LLAMA3_PATTERN),
            settings,
            last=[_Added(f"<|{name}|>") for name in names],
            ignore_merges=True,
            around=("<|begin_of_text|>", None),
            end_of_turn="<|eot_id|>",
            template=LLAMA3_TEMPLATE,
        )
    )


def _qwen2() -> _Layout:
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer"}
    special = [
        _Added(f"<|{name}|>")
        for name in ("endoftext", "im_start", "im_end", "object_ref_start", "vision_pad")
    ]
    ordinary = [
        _Added(text, special=False)
        for text in ("<tool_call>", "</tool_call>", "<think>", "</think>", "<|fim_prefix|>", "<|fim_suffix|>")
    ]
    return _byte_level(
        _ByteLevel(
            lambda: _by_pattern(QWEN2_PATTERN),
            settings,
            last=[*special, *ordinary],
            composes=True,
            unreachable=[
                "</s>"
            ],  # an ordinary token of the real vocabulary, over which the pattern never lets a word reach
            end_of_turn="<|endoftext|>",
            template=CHATML,
        )
    )


def _smollm() -> _Layout:
    end = "<|endoftext|>"
    names = [
        end,
        "<|im_start|>",
        "<|im_end|>",
        "<repo_name>",
        "<file_sep>",
        "<issue_start>",
        "<empty_output>",
    ]
    settings = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": end,
        "tokenizer_class": "GPT2Tokenizer",
    }
    return _byte_level(
        _ByteLevel(_digits_first, settings, first=[_Added(name) for name in names], template=CHATML)
    )


def _olmo2() -> _Layout:
    end = "<|endoftext|>"
    special = [_Added(text) for text in (end, "<|fim_prefix|>", "<|im_start|>", "<|im_end|>", "<|pad|>")]
    ordinary = [
        _Added(text, special=False)
        for text in ("|||PHONE_NUMBER|||", "|||EMAIL_ADDRESS|||", "<|extra_id_0|>")
    ]
    settings = {
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "pad_token": "<|pad|>",
        "tokenizer_class": "GPT2Tokenizer",
    }
    return _byte_level(
        _ByteLevel(
            lambda: _by_pattern(LLAMA3_PATTERN, "removed", invert=True),
            settings,
            last=[*special, *ordinary],
            template=CHATML,
        )
    )


def _granite() -> _Layout:
    end = "<|end_of_text|>"
    names = [end, "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<reponame>"]
    settings = {
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "tokenizer_class": "GPT2Tokenizer",
    }
    return _byte_level(
        _ByteLevel(
            _digits_first,
            settings,
            first=[_Added(name) for name in names],
            last=[_Added(f"<|{name}|>") for name in ("start_of_role", "end_of_role", "tool_call")],
            template=GRANITE_TEMPLATE,
        )
    )


def _opt() -> _Layout:
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    settings = {
        "bos_token": "</s>",
        "eos_token": "</s>",
        "unk_token": "</s>",
        "pad_token": "<pad>",
        "tokenizer_class": "GPT2Tokenizer",
    }
    first = [_Added(name, normalized=True) for name in names]
    return _byte_level(_ByteLevel(_plain, settings, first=first, around=("</s>", None)))


def _roberta() -> _Layout:
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "tokenizer_class": "RobertaTokenizer",
    }
    first = [_Added(name, normalized=True) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    mask = _Added("<mask>", lstrip=True)
    return _byte_level(
        _ByteLevel(_plain, settings, first=first, last=[mask], around=("<s>", "</s>"), roberta=True)
    )


def _phi4_mini() -> _Layout:
    end = "<|endoftext|>"
    settings = {
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "tokenizer_class": "GPT2Tokenizer",
    }
    turns = [_Added(f"<|{name}|>", rstrip=True) for name in ("end", "user", "assistant", "system")]
    return _byte_level(
        _ByteLevel(
            lambda: _by_pattern(GPT4O_PATTERN, "removed", invert=True),
            settings,
            last=[_Added(end), *turns],
            end_of_turn="<|end|>",
            template=PHI3_TEMPLATE.replace("\n", ""),
        )
    )


def _tekken() -> _Layout:
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "<pad>"]
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return _byte_level(
        _ByteLevel(
            lambda: _by_pattern(TEKKEN_PATTERN),
            settings,
            first=[_Added(name) for name in names],
            ignore_merges=True,
            around=("<s>", None),
            template=LLAMA2_TEMPLATE,
        )
    )


# ---- SentencePiece --------------------------------------------------------------------------------------------------


def _words(text: str) -> list[str]:
    return [SPACE + word for word in text.split()]


def _common_pieces(count: int, longest: int = 8) -> list[str]:
    """The `count` most frequent pieces of two and more characters; every piece is the join of two others or characters."""
    frequency: Counter[str] = Counter()
    for word in (word for text in TRAINING_TEXT for word in _words(text)):
        for start in range(len(word)):
            for end in range(start + 2, min(len(word), start + longest) + 1):
                frequency[word[start:end]] += 1
    # a longer piece never comes before its parts: they are at least as frequent, and shorter
    return sorted(frequency, key=lambda piece: (-frequency[piece], len(piece), piece))[:count]


def _characters() -> list[str]:
    counted = Counter("".join(TRAINING_TEXT).replace(" ", SPACE) + _PADDING.replace(" ", ""))
    return [text for text in sorted(counted, key=lambda text: (-counted[text], text)) if text not in "\n\t"]


def _merges(vocab: Mapping[str, int], scores: Mapping[str, float]) -> list[list[str]]:
    """Every split of every piece into two pieces, best score first: transformers' convert_slow_tokenizer orders them so."""
    found = []
    for piece, score in scores.items():
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        pairs = [pair for pair in splits if pair[0] in vocab and pair[1] in vocab]
        found += [(score, pair) for pair in sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))]
    found.sort(key=lambda item: (item[0], len(item[1][0]), len(item[1][1])), reverse=True)
    return [list(pair) for _, pair in found]


def _sentencepiece(
    first: Sequence[str], runs: Sequence[str], pieces: int, *, prefix: bool, gemma: bool = False
) -> dict[str, Any]:
    """BPE with byte fallback: `first` tokens, then `runs` (user-defined pieces, score 0), bytes, pieces and characters."""
    learnt = [*_common_pieces(pieces), *_characters()]
    learnt = [piece for piece in learnt if piece not in runs]
    names = [*first, *runs, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt]
    vocab = {text: index for index, text in enumerate(names)}
    scores = dict.fromkeys(runs, 0.0) | {piece: -1.0 - rank for rank, piece in enumerate(learnt)}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    steps = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [prepend, replace]} if prefix else replace,
        "pre_tokenizer": split if gemma else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [*steps, strip] if prefix else steps},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _merges(vocab, scores),
        },
    }


_LLAMA2_SETTINGS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "tokenizer_class": "LlamaTokenizer",
}


def _llama2_spm() -> _Layout:
    document = _sentencepiece(["<unk>", "<s>", "</s>"], [], 420, prefix=True)
    _added_tokens(document, [_Added(name) for name in ("<unk>", "<s>", "</s>")])
    _surround(document, ("<s>", None), roberta=False)
    return _Layout(document, _LLAMA2_SETTINGS, None, LLAMA2_TEMPLATE)


def _mistral_spm() -> _Layout:
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[control_8]", "[control_9]"]
    document = _sentencepiece(names, [], 420, prefix=True)
    _added_tokens(document, [_Added(name) for name in names])
    _surround(document, ("<s>", None), roberta=False)
    return _Layout(document, _LLAMA2_SETTINGS, None, LLAMA2_TEMPLATE)


def _phi3_spm() -> _Layout:
    document = _sentencepiece(["<unk>", "<s>", "</s>"], [], 420, prefix=True)
    turns = [
        "assistant",
        "placeholder1",
        "placeholder2",
        "placeholder3",
        "placeholder4",
        "system",
        "end",
        "placeholder5",
    ]
    tokens = [
        *(_Added(name) for name in ("<unk>", "<s>")),
        _Added("</s>", special=False, rstrip=True),
        _Added("<|endoftext|>"),
        *(_Added(f"<|{name}|>", rstrip=True) for name in [*turns, "placeholder6", "user"]),
    ]
    _added_tokens(document, tokens)
    _surround(document, ("<s>", None), roberta=False)
    settings = {**_LLAMA2_SETTINGS, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    return _Layout(document, settings, "<|end|>", PHI3_TEMPLATE)


def _gemma_spm() -> _Layout:
    control = ["<pad>", "<eos>", "<bos>", "<unk>"]
    ordinary = ["<mask>", "<2mass>", "[@BOS@]", *(f"<unused{index}>" for index in range(4))]
    turns = ["<start_of_turn>", "<end_of_turn>"]
    tags = [
        f"<{mark}{name}>"
        for name in ("table", "tr", "td", "h1", "b", "i", "ul", "li", "code")
        for mark in ("", "/")
    ]
    runs = ["\n" * count for count in range(1, 9)] + [SPACE * count for count in range(2, 17)] + tags
    tabs = ["\t" * count for count in range(1, 5)]
    document = _sentencepiece([*control, *ordinary, *turns], [*runs, *tabs], 420, prefix=False, gemma=True)
    tokens = [
        *(_Added(name) for name in control),
        *(_Added(name, special=False) for name in ordinary),
        *(_Added(name) for name in turns),
        *(_Added(text, special=False) for text in [*runs, *tabs]),
    ]
    _added_tokens(document, tokens)
    _surround(document, ("<bos>", None), roberta=False)
    settings = {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "tokenizer_class": "GemmaTokenizer",
    }
    return _Layout(document, settings, "<end_of_turn>", GEMMA_TEMPLATE)


def _llama2_resaved() -> _Layout:
    """Llama 2's as transformers 5 saves it: the prefix only where a text begins."""
    layout = _llama2_spm()
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
    return _Layout({**layout.document, "normalizer": None, "pre_tokenizer": metaspace}, layout.settings)


# ---- Unigram --------------------------------------------------------------------------------------------------------


def _single(value: float) -> float:
    """Rounded to 32 bits, in which SentencePiece stores its scores."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def _unigram(first: Sequence[str], last: Sequence[str], unknown: str, *, split_first: bool) -> dict[str, Any]:
    """Pieces with log probabilities. `first` and `last` are special and have score 0, as SentencePiece stores them."""
    pieces = _common_pieces(700)
    counted = Counter("".join(word for text in TRAINING_TEXT for word in _words(text)))
    counted.update(_PADDING.replace(" ", ""))
    words = Counter(word for text in TRAINING_TEXT for word in _words(text))
    frequency = {piece: sum(word.count(piece) * count for word, count in words.items()) for piece in pieces}
    frequency |= {text: counted[text] for text in sorted(counted)}
    total = sum(frequency.values())
    ranked = sorted(frequency, key=lambda piece: (-frequency[piece], piece))
    scored = [[piece, _single(math.log(frequency[piece] / total))] for piece in ranked]
    vocab = [*([text, 0.0] for text in first), *scored, *([text, 0.0] for text in last)]
    spaces = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    words_first = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, spaces]}
    several = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    precompiled = {"type": "Precompiled", "precompiled_charsmap": charsmap()}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": precompiled
        if split_first
        else {"type": "Sequence", "normalizers": [precompiled, several]},
        "pre_tokenizer": words_first if split_first else spaces,
        "post_processor": None,
        "decoder": spaces,
        "model": {
            "type": "Unigram",
            "unk_id": [text for text, _ in vocab].index(unknown),
            "vocab": vocab,
            "byte_fallback": False,
        },
    }


def _xlm_roberta() -> _Layout:
    document = _unigram(["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"], "<unk>", split_first=True)
    names = [_Added(name) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    _added_tokens(document, [*names, _Added("<mask>", lstrip=True)])
    _surround(document, ("<s>", "</s>"), roberta=False)
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "tokenizer_class": "XLMRobertaTokenizer",
    }
    return _Layout(document, settings)


def _t5() -> _Layout:
    extra = [f"<extra_id_{index}>" for index in range(7, -1, -1)]
    document = _unigram(["<pad>", "</s>", "<unk>"], extra, "<unk>", split_first=True)
    _added_tokens(document, [_Added(name) for name in ["<pad>", "</s>", "<unk>", *extra]])
    _surround(document, (None, "</s>"), roberta=False)
    settings = {
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "tokenizer_class": "T5Tokenizer",
    }
    return _Layout(document, settings)


# ---- WordPiece ------------------------------------------------------------------------------------------------------


def _wordpieces(normalizer: Any, pre_tokenizer: Any) -> list[str]:
    """Characters, at the beginning of a word and within one, then frequent pieces; the library's trainer breaks ties by chance."""
    found: Counter[str] = Counter()
    for text in [*TRAINING_TEXT, " ".join(_PADDING)]:
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)):
            for start in range(len(word)):
                for end in range(start + 1, min(len(word), start + 7) + 1):
                    found["##" * bool(start) + word[start:end]] += 1
    single = [piece for piece in found if len(piece.removeprefix("##")) == 1]
    ranked = sorted(found, key=lambda piece: (-found[piece], piece))
    return [*sorted(single), *ranked[:700]]


def _wordpiece(*, lowercase: bool) -> _Layout:
    names = ["[PAD]", *(f"[unused{index}]" for index in range(4)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    document = json.loads(tokenizer.to_str())
    pieces = dict.fromkeys([*names, *_wordpieces(tokenizer.normalizer, tokenizer.pre_tokenizer)])
    document["model"]["vocab"] = {piece: index for index, piece in enumerate(pieces)}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    _added_tokens(document, [_Added(name) for name in special])
    _surround(document, ("[CLS]", "[SEP]"), roberta=False)
    settings = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
        "do_lower_case": lowercase,
        "tokenizer_class": "BertTokenizer",
    }
    return _Layout(document, settings)


_LAYOUTS: dict[str, Callable[[], _Layout]] = {
    "gpt2": _gpt2,
    "llama3": _llama3,
    "qwen2": _qwen2,
    "smollm": _smollm,
    "olmo2": _olmo2,
    "granite": _granite,
    "opt": _opt,
    "roberta": _roberta,
    "llama2-spm": _llama2_spm,
    "mistral-spm": _mistral_spm,
    "gemma-spm": _gemma_spm,
    "phi3-spm": _phi3_spm,
    "wordpiece": lambda: _wordpiece(lowercase=True),
    "wordpiece-cased": lambda: _wordpiece(lowercase=False),
    "unigram": _xlm_roberta,
    "t5": _t5,
    "phi4-mini": _phi4_mini,
    "tekken": _tekken,
    "llama2-resaved": _llama2_resaved,
}

REFUSED_KINDS: tuple[str, ...] = ("phi4-mini", "tekken", "llama2-resaved")
"""What no description of llama.cpp's holds exactly."""

KINDS: tuple[str, ...] = tuple(kind for kind in _LAYOUTS if kind not in REFUSED_KINDS)

QUICK_KINDS: tuple[str, ...] = ("llama3", "granite", "gemma-spm", "phi3-spm", "unigram", "wordpiece")
"""One of each way a tokenizer can be; tests of the others are marked slow where every kind costs a process."""
