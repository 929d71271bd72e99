"""Special token ids and chat templates, from the files beside tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeport.errors import UnsupportedModel

# What ends a text for llama.cpp by its name alone (src/llama-vocab.cpp): such a token needs no key
_KNOWN_ENDS = frozenset(
    {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<eos>",
    }
)


def special_ids(
    directory: Path, tokens: Sequence[str], prefix: list[int], suffix: list[int]
) -> dict[str, int]:
    """bos, eos, eot, eom, unk, pad, sep, mask by tokenizer_config.json, then special_tokens_map.json, then config.json.

    eot and eom are what generation_config.json (or config.json) stops at beside eos. Raises UnsupportedModel for a tokenizer
    without an end, and for more ends than a GGUF file can name.
    """
    ids = {text: index for index, text in enumerate(tokens)}
    names = [_json(directory / name) for name in ("tokenizer_config.json", "special_tokens_map.json")]
    config, generation = _json(directory / "config.json"), _json(directory / "generation_config.json")
    found: dict[str, int] = {}
    for kind in ("bos", "eos", "unk", "pad", "sep", "mask"):
        texts = [_content(document.get(f"{kind}_token")) for document in names]
        by_text = [ids[text] for text in texts if text is not None and text in ids]
        by_id = [index for index in _id_list(config.get(f"{kind}_token_id")) if index < len(ids)]
        if by_text or by_id:
            found[kind] = (by_text + by_id)[0]
    if "eos" not in found and not suffix:
        raise UnsupportedModel(
            "no end-of-text token: llama.cpp would stop at token 11 instead",
            hint="set eos_token in tokenizer_config.json",
        )
    if suffix:
        found["eos"] = suffix[0]
    # without a bos llama.cpp takes token 11; the end-of-text token separates documents, as in GPT-2
    found["bos"] = prefix[0] if prefix else found.get("bos", found["eos"])
    stops = _id_list(generation.get("eos_token_id", config.get("eos_token_id")))
    return found | _other_ends(found["eos"], stops, tokens)


def _other_ends(eos: int, stops: Sequence[int], tokens: Sequence[str]) -> dict[str, int]:
    """eot and eom: an end llama.cpp knows by name first, then those it has to be told."""
    others = [index for index in dict.fromkeys(stops) if index != eos and index < len(tokens)]
    known = [index for index in others if tokens[index] in _KNOWN_ENDS]
    untold = [index for index in others if index not in known]
    named = [*known[:1], *untold]
    if len(named) > 2 and known:
        named = untold
    if len(named) > 2:
        raise UnsupportedModel(
            f"generation_config.json ends a text at {[tokens[index] for index in others]} beside {tokens[eos]!r}, "
            "a GGUF file can name two more ends",
            hint="shorten eos_token_id in generation_config.json",
        )
    return dict(zip(("eot", "eom"), named, strict=False))


def _content(token: Any) -> str | None:
    """tokenizer_config.json names a token as text or as {"content": text}."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None


def _id_list(value: Any) -> list[int]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int)]


def chat_templates(directory: Path) -> dict[str, str]:
    """Where transformers looks: tokenizer_config.json, chat_template.jinja, chat_template.json."""
    jinja = directory / "chat_template.jinja"
    template = _json(directory / "tokenizer_config.json").get("chat_template")
    if template is None and jinja.is_file():
        template = jinja.read_text(encoding="utf-8")
    if template is None:
        template = _json(directory / "chat_template.json").get("chat_template")
    if isinstance(template, list):
        return {str(item["name"]): str(item["template"]) for item in template}
    return {"default": template} if isinstance(template, str) else {}


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    return document if isinstance(document, dict) else {}
