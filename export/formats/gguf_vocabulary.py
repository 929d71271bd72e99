"""Token texts and types by id, and the tokens a post-processor puts around a text, as tokenizer.json has them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gguf import TokenType
from tokenizers import Tokenizer

from edgeport.errors import UnsupportedModel

SPACE = "\u2581"


def model_pieces(document: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Text and id of every token of the model, without the added ones. Unigram counts its ids from the list's order."""
    vocab = document["model"]["vocab"]
    if isinstance(vocab, Mapping):
        return list(vocab.items())
    return [(str(entry[0]), index) for index, entry in enumerate(vocab)]


def vocabulary(
    document: Mapping[str, Any], vocab_size: int, *, unknown: str | None = None, byte_tokens: bool = False
) -> tuple[tuple[str, ...], tuple[TokenType, ...]]:
    """Texts and types by id; ids without a token up to `vocab_size` are unused fillers.

    `unknown` is the token that stands for what is in no token; `byte_tokens` says that `<0x0A>` stands for a byte. Raises
    UnsupportedModel for more tokens than rows, and for a text that two ids share.
    """
    pieces = model_pieces(document)
    added = document.get("added_tokens", [])
    last = max([*(index for _, index in pieces), *(token["id"] for token in added)])
    if last >= vocab_size:
        raise UnsupportedModel(
            f"tokenizer.json has token id {last}, the embedding has {vocab_size} rows",
            hint="resize the model's embeddings to the tokenizer, or take the tokenizer the model was trained with",
        )
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [TokenType.UNUSED] * vocab_size
    for text, index in pieces:
        is_byte = byte_tokens and len(text) == 6 and text.startswith("<0x")
        tokens[index], types[index] = text, TokenType.BYTE if is_byte else TokenType.NORMAL
    for token in added:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        if byte_tokens and not token["special"] and set(token["content"]) == {SPACE}:
            # Gemma's runs of spaces: as an added token each would read back as the character it is written with
            types[token["id"]] = TokenType.NORMAL
    for text, index in pieces:
        if text == unknown:
            types[index] = TokenType.UNKNOWN
    refuse_repeated(tokens)
    return tuple(tokens), tuple(types)


def refuse_repeated(tokens: Sequence[str]) -> None:
    repeated = next((text for text, count in Counter(tokens).items() if count > 1), None)
    if repeated is not None:
        raise UnsupportedModel(f"tokenizer.json gives {repeated!r} to two token ids, llama.cpp refuses that")


def added_around_text(document: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """The ids the post-processor really puts before and after a text. Raises UnsupportedModel for more than one."""
    tokenizer = Tokenizer.from_str(json.dumps(document))
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
