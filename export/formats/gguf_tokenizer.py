"""The tokenizer part of a GGUF file, read from tokenizer.json and the files beside it.

llama.cpp has its own tokenizers, so what is written here is a description that has to make them behave the same.
Nothing is guessed: what cannot be described exactly is refused, and edgeport.export.verify.token_parity compares the
finished file with the `tokenizers` library. One module describes each kind: gguf_pretokenizer (byte-level BPE), gguf_sentencepiece,
gguf_unigram, gguf_wordpiece. Keys and token types: ggml's gguf.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType
from gguf.constants import Keys

from edgeport.errors import UnsupportedModel
from edgeport.export.formats.gguf_added_tokens import (
    Stripping,
    marked_name,
    partitioned,
    refuse_untranslatable,
    stripping,
)
from edgeport.export.formats.gguf_pretokenizer import pre_tokenizer_name
from edgeport.export.formats.gguf_sentencepiece import is_sentencepiece, sentencepiece_scores, space_prefix
from edgeport.export.formats.gguf_special_tokens import chat_templates, special_ids
from edgeport.export.formats.gguf_unigram import precompiled_charsmap, unigram_scores, unknown_piece
from edgeport.export.formats.gguf_vocabulary import SPACE, added_around_text, vocabulary
from edgeport.export.formats.gguf_wordpiece import (
    BertNormalizer,
    bert_normalizer,
    refuse_bare_text,
    wordpiece_tokens,
)
from edgeport.export.verify.token_limits import LIMITS_KEY, token_limits


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """model: llama.cpp's kind, "gpt2" (byte-level BPE: merges, pre), "llama" (SentencePiece BPE: scores), "t5" (Unigram:
    scores, precompiled_charsmap) or "bert" (WordPiece: normalizer).

    special_ids: key of gguf.md without prefix and suffix (bos, eos, eot, eom, unk, pad, sep, mask) -> token id.
    chat_templates: name -> Jinja text; the usual one is "default".
    model_name: what general.name has to hold, because llama.cpp goes by it; "" when it does not.
    limits: what llama.cpp is known to cut otherwise with such a tokenizer, in words.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    special_ids: Mapping[str, int]
    add_bos: bool
    add_eos: bool
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    add_space_prefix: bool = False
    precompiled_charsmap: bytes = b""
    normalizer: BertNormalizer | None = None
    model_name: str = ""
    limits: tuple[str, ...] = ()
    chat_templates: Mapping[str, str] = field(default_factory=dict)


def read_tokenizer(directory: Path, vocab_size: int) -> GgufTokenizer:
    """Describe `directory`/tokenizer.json for an embedding of `vocab_size` rows. Raises UnsupportedModel."""
    document = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    kind = document["model"]["type"]
    if kind == "BPE":
        _refuse_bpe_options(document["model"])
    elif kind not in _READERS:
        supported = ", ".join(_READERS)
        raise UnsupportedModel(
            f"llama.cpp cannot hold this tokenizer.json: its model is {kind}, supported are {supported}"
        )
    found = _READERS[kind](directory, document, vocab_size)
    refuse_untranslatable(document)
    return replace(found, limits=tuple(limit.what for limit in token_limits(document)))


def _read_bpe(directory: Path, document: Mapping[str, Any], vocab_size: int) -> GgufTokenizer:
    model = document["model"]
    merges = [tuple(item.split(" ")) if isinstance(item, str) else tuple(item) for item in model["merges"]]
    if is_sentencepiece(document):
        return _read_sentencepiece(directory, document, vocab_size, merges)
    pre = _byte_level_name(document)
    marks = stripping(document, pre)
    tokens, types = vocabulary(document, vocab_size)
    before, after = added_around_text(document)
    return GgufTokenizer(
        model="gpt2",
        pre=marks.pre or pre,
        tokens=tokens,
        types=types,
        special_ids=special_ids(directory, tokens, before, after),
        add_bos=bool(before),
        add_eos=bool(after),
        merges=tuple(" ".join(pair) for pair in merges),
        model_name=marks.model_name,
        chat_templates=chat_templates(directory),
    )


def _read_sentencepiece(
    directory: Path, document: Mapping[str, Any], vocab_size: int, merges: list[tuple[str, ...]]
) -> GgufTokenizer:
    unknown = document["model"].get("unk_token")
    tokens, types = vocabulary(document, vocab_size, unknown=unknown, byte_tokens=True)
    before, after = added_around_text(document)
    marks: Stripping = stripping(document, "default")
    return GgufTokenizer(
        model="llama",
        pre="default",
        tokens=tokens,
        types=types,
        special_ids=special_ids(directory, tokens, before, after),
        add_bos=bool(before),
        add_eos=bool(after),
        scores=sentencepiece_scores(tokens, types, merges, partitioned(document, SPACE)),
        add_space_prefix=space_prefix(document),
        model_name=marks.model_name,
        chat_templates=chat_templates(directory),
    )


def _read_unigram(directory: Path, document: Mapping[str, Any], vocab_size: int) -> GgufTokenizer:
    """Whitespace beside a token never counts here: it ends a word, no more."""
    unknown = unknown_piece(document)
    charsmap = precompiled_charsmap(document)
    tokens, types = vocabulary(document, vocab_size, unknown=unknown)
    before, after = added_around_text(document)
    return GgufTokenizer(
        model="t5",
        pre="default",
        tokens=tokens,
        types=types,
        special_ids=special_ids(directory, tokens, before, after) | {"unk": tokens.index(unknown)},
        add_bos=bool(before),
        add_eos=bool(after),
        scores=unigram_scores(document, tokens, types),
        add_space_prefix=True,
        precompiled_charsmap=charsmap,
        chat_templates=chat_templates(directory),
    )


def _read_wordpiece(directory: Path, document: Mapping[str, Any], vocab_size: int) -> GgufTokenizer:
    """Whitespace beside a token never counts here either."""
    normalizer = bert_normalizer(document)
    tokens, types = vocabulary(document, vocab_size)
    before, after = added_around_text(document)
    refuse_bare_text(before, after)
    spelled = wordpiece_tokens(document, tokens, types)
    ids = special_ids(directory, tokens, before, after)
    unknown = tokens.index(document["model"]["unk_token"])
    return GgufTokenizer(
        model="bert",
        pre="default",
        tokens=spelled,
        types=types,
        special_ids=ids | {"unk": unknown, "sep": after[0]},
        add_bos=True,
        add_eos=True,
        normalizer=normalizer,
        chat_templates=chat_templates(directory),
    )


_READERS: dict[str, Callable[[Path, Mapping[str, Any], int], GgufTokenizer]] = {
    "BPE": _read_bpe,
    "Unigram": _read_unigram,
    "WordPiece": _read_wordpiece,
}


def add_tokenizer(writer: GGUFWriter, tokenizer: GgufTokenizer) -> None:
    """Write every key, also those whose value is llama.cpp's default: the defaults depend on `pre`.

    A general.name that is there already is changed where llama.cpp goes by it.
    """
    writer.add_tokenizer_model(tokenizer.model)
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    writer.add_token_scores(tokenizer.scores)
    writer.add_token_merges(tokenizer.merges)
    for kind, token in tokenizer.special_ids.items():
        writer.add_uint32(_SPECIAL_KEYS[kind], token)
    writer.add_add_bos_token(tokenizer.add_bos)
    writer.add_add_eos_token(tokenizer.add_eos)
    if tokenizer.model in ("llama", "t5"):
        writer.add_add_space_prefix(tokenizer.add_space_prefix)
    if tokenizer.model == "t5":
        writer.add_remove_extra_whitespaces(True)
        writer.add_precompiled_charsmap(tokenizer.precompiled_charsmap)
    if tokenizer.normalizer is not None:
        # no constants in gguf-py for these two: src/llama-arch.cpp
        writer.add_bool("tokenizer.ggml.normalizer.lowercase", tokenizer.normalizer.lowercase)
        writer.add_bool("tokenizer.ggml.normalizer.strip_accents", tokenizer.normalizer.strip_accents)
    for name, template in tokenizer.chat_templates.items():
        named = Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name)
        writer.add_string(Keys.Tokenizer.CHAT_TEMPLATE if name == "default" else named, template)
    writer.add_array(Keys.Tokenizer.CHAT_TEMPLATES, sorted(set(tokenizer.chat_templates) - {"default"}))
    if tokenizer.limits:
        writer.add_string(LIMITS_KEY, "; ".join(tokenizer.limits))
    _mark_name(writer, tokenizer.model_name)


def _mark_name(writer: GGUFWriter, mark: str) -> None:
    given = writer.kv_data[0].pop(Keys.General.NAME, None)
    name = marked_name("" if given is None else str(given.value), mark)
    if name:
        writer.add_name(name)


_SPECIAL_KEYS = {
    "bos": Keys.Tokenizer.BOS_ID,
    "eos": Keys.Tokenizer.EOS_ID,
    "eot": Keys.Tokenizer.EOT_ID,
    "eom": Keys.Tokenizer.EOM_ID,
    "unk": Keys.Tokenizer.UNK_ID,
    "pad": Keys.Tokenizer.PAD_ID,
    "sep": Keys.Tokenizer.SEP_ID,
    "mask": Keys.Tokenizer.MASK_ID,
}


def _refuse_bpe_options(model: Mapping[str, Any]) -> None:
    """What llama.cpp's BPE has no notion of, each told by name."""
    options = ["dropout", "continuing_subword_prefix", "end_of_word_suffix"]
    if model.get("byte_fallback"):
        options.append("ignore_merges")
    problems = [f"{key} is {model[key]!r}" for key in options if model.get(key)]
    if problems:
        raise UnsupportedModel(f"llama.cpp cannot hold this tokenizer.json: {'; '.join(problems)}")


def _byte_level_name(document: Mapping[str, Any]) -> str:
    normalizer = document.get("normalizer")
    # llama.cpp does not normalize: NFC is the identity on text that is composed already, as nearly all is
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise UnsupportedModel(
            f"llama.cpp has no normalizer {normalizer.get('type')}, supported are none and NFC"
        )
    return pre_tokenizer_name(
        document.get("pre_tokenizer"), ignore_merges=bool(document["model"].get("ignore_merges"))
    )
