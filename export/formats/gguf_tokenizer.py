"""The tokenizer part of a GGUF file, read from tokenizer.json and the files beside it.

llama.cpp has its own tokenizers, so what is written here is a description that has to make them behave the same.
Nothing is guessed: what cannot be described exactly is refused, and edgeport.export.verify.token_parity compares the
finished file with the `tokenizers` library. Keys and token types: ggml's gguf.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType
from gguf.constants import Keys
from tokenizers import Tokenizer

from edgeport.errors import UnsupportedModel
from edgeport.export.formats.gguf_pretokenizer import pre_tokenizer_name
from edgeport.export.formats.gguf_sentencepiece import is_sentencepiece, sentencepiece_scores, space_prefix
from edgeport.export.formats.gguf_special_tokens import chat_templates, special_ids


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """model: llama.cpp's kind, "gpt2" (byte-level BPE: merges, pre) or "llama" (SentencePiece BPE: scores).

    special_ids: key of gguf.md without prefix and suffix (bos, eos, eot, unk, pad) -> token id.
    chat_templates: name -> Jinja text; the usual one is "default".
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    scores: tuple[float, ...]
    merges: tuple[str, ...]
    special_ids: Mapping[str, int]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    chat_templates: Mapping[str, str]


def read_tokenizer(directory: Path, vocab_size: int) -> GgufTokenizer:
    """Describe `directory`/tokenizer.json for an embedding of `vocab_size` rows. Raises UnsupportedModel."""
    document = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    model = document["model"]
    _refuse_untranslatable(document)
    merges = [tuple(item.split(" ")) if isinstance(item, str) else tuple(item) for item in model["merges"]]
    sentencepiece = is_sentencepiece(document)
    tokens, types = _vocabulary(document, vocab_size, byte_tokens=sentencepiece)
    prefix, suffix = _added_around_text(Tokenizer.from_str(json.dumps(document)))
    return GgufTokenizer(
        model="llama" if sentencepiece else "gpt2",
        pre="default" if sentencepiece else _byte_level_name(document),
        tokens=tokens,
        types=types,
        scores=sentencepiece_scores(tokens, types, merges) if sentencepiece else (),
        merges=() if sentencepiece else tuple(" ".join(pair) for pair in merges),
        special_ids=special_ids(directory, tokens, prefix, suffix),
        add_bos=bool(prefix),
        add_eos=bool(suffix),
        add_space_prefix=sentencepiece and space_prefix(document),
        chat_templates=chat_templates(directory),
    )


def add_tokenizer(writer: GGUFWriter, tokenizer: GgufTokenizer) -> None:
    """Write every key, also those whose value is llama.cpp's default: the defaults depend on `pre`."""
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
    if tokenizer.model == "llama":
        writer.add_add_space_prefix(tokenizer.add_space_prefix)
    for name, template in tokenizer.chat_templates.items():
        named = Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name)
        writer.add_string(Keys.Tokenizer.CHAT_TEMPLATE if name == "default" else named, template)
    writer.add_array(Keys.Tokenizer.CHAT_TEMPLATES, sorted(set(tokenizer.chat_templates) - {"default"}))


_SPECIAL_KEYS = {
    "bos": Keys.Tokenizer.BOS_ID,
    "eos": Keys.Tokenizer.EOS_ID,
    "eot": Keys.Tokenizer.EOT_ID,
    "unk": Keys.Tokenizer.UNK_ID,
    "pad": Keys.Tokenizer.PAD_ID,
}


def _refuse_untranslatable(document: Mapping[str, Any]) -> None:
    """What llama.cpp's tokenizers have no notion of, each told by name."""
    model = document["model"]
    problems = []
    if model["type"] != "BPE":
        problems.append(f"its model is {model['type']}, supported is BPE")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            problems.append(f"{key} is {model[key]!r}")
    for token in document.get("added_tokens", ()):
        for flag in ("lstrip", "rstrip", "single_word"):
            if token.get(flag):
                problems.append(f"added token {token['content']!r} has {flag}")
    if problems:
        raise UnsupportedModel(f"llama.cpp cannot hold this tokenizer.json: {'; '.join(problems[:5])}")


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


def _vocabulary(
    document: Mapping[str, Any], vocab_size: int, *, byte_tokens: bool
) -> tuple[tuple[str, ...], tuple[TokenType, ...]]:
    """Token texts and types by id; ids without a token up to `vocab_size` are unused fillers."""
    vocab: dict[str, int] = document["model"]["vocab"]
    added = document.get("added_tokens", [])
    last = max([*vocab.values(), *(token["id"] for token in added)])
    if last >= vocab_size:
        raise UnsupportedModel(
            f"tokenizer.json has token id {last}, the embedding has {vocab_size} rows",
            hint="resize the model's embeddings to the tokenizer, or take the tokenizer the model was trained with",
        )
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [TokenType.UNUSED] * vocab_size
    for text, index in vocab.items():
        is_byte = byte_tokens and len(text) == 6 and text.startswith("<0x")
        tokens[index], types[index] = text, TokenType.BYTE if is_byte else TokenType.NORMAL
    for token in added:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    unknown = document["model"].get("unk_token")
    if byte_tokens and unknown in vocab:
        types[vocab[unknown]] = TokenType.UNKNOWN
    repeated = [text for text, count in Counter(tokens).items() if count > 1]
    if repeated:
        raise UnsupportedModel(
            f"tokenizer.json gives {repeated[0]!r} to two token ids, llama.cpp refuses that"
        )
    return tuple(tokens), tuple(types)


def _added_around_text(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids the post-processor really puts before and after a text."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    at = next((at for at in range(len(full)) if full[at : at + len(plain)] == plain), None)
    if at is None or at > 1 or len(full) - at - len(plain) > 1:
        raise UnsupportedModel(
            f"tokenizer.json turns tokens {plain} into {full}; llama.cpp adds one token before and one after at most"
        )
    return full[:at], full[at + len(plain) :]
