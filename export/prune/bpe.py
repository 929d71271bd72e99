"""A byte-level BPE tokenizer.json with fewer tokens, which cuts text of the kept tokens into exactly the same pieces.

Why it does: BPE applies, of all adjacent pairs, the merge of lowest rank. Every merge on the way to a kept token is kept with
its rank, and no merge is added, so as long as a text only has kept tokens the merge applied next is the same one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from edgeport.errors import UnsupportedModel

Document = dict[str, Any]
_PROCESSORS = ("TemplateProcessing", "ByteLevel", "Sequence", "RobertaProcessing", "BertProcessing")


def require_byte_level_bpe(tokenizer: Mapping[str, Any]) -> None:
    """Raises UnsupportedModel, with the reason, for what cannot be trimmed here."""
    model = tokenizer["model"]
    reasons = []
    if model.get("type") != "BPE":
        reasons.append(f"its model is {model.get('type')}")
    else:
        if model.get("byte_fallback"):
            reasons.append("it falls back to bytes, as sentencepiece models do")
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            reasons.append("it marks word ends")
        if not _has_byte_level(tokenizer):
            reasons.append("it does not work on bytes")
    other = [kind for kind in _processor_kinds(tokenizer.get("post_processor")) if kind not in _PROCESSORS]
    if other:
        reasons.append(f"its post-processor is {other[0]}")
    if reasons:
        raise UnsupportedModel(
            f"the vocabulary cannot be trimmed: only byte-level BPE can, and of this tokenizer {'; '.join(reasons)}",
            hint="leave out --vocabulary",
        )


def _has_byte_level(tokenizer: Mapping[str, Any]) -> bool:
    pre = tokenizer.get("pre_tokenizer") or {}
    parts = pre.get("pretokenizers", [pre])
    return any(part.get("type") == "ByteLevel" for part in parts)


def _processor_kinds(processor: Mapping[str, Any] | None) -> list[str]:
    if processor is None:
        return []
    inner = [kind for part in processor.get("processors", ()) for kind in _processor_kinds(part)]
    return [str(processor.get("type")), *inner]


def closed_tokens(tokenizer: Mapping[str, Any], used: Collection[int]) -> list[int]:
    """`used`, the bytes' own tokens, added tokens, and all that lies on the way to any of them; ids, ascending."""
    vocabulary: Mapping[str, int] = tokenizer["model"]["vocab"]
    by_id = {number: token for token, number in vocabulary.items()}
    ranks = {pair: rank for rank, pair in enumerate(_pairs(tokenizer["model"]["merges"]))}
    kept = {number for token, number in vocabulary.items() if len(token) == 1}
    kept |= {int(item["id"]) for item in tokenizer.get("added_tokens", ())}
    kept |= {vocabulary[token] for token in (tokenizer["model"].get("unk_token"),) if token in vocabulary}
    for number in used:
        kept.add(number)
        if number in by_id:
            kept.update(vocabulary[part] for part in way_to(by_id[number], ranks) if part in vocabulary)
    return sorted(kept)


def way_to(token: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Every piece that BPE makes while it builds `token` from single characters."""
    pieces, made = list(token), []
    while len(pieces) > 1:
        rank, place = min(
            (ranks.get(pair, len(ranks)), place)
            for place, pair in enumerate(zip(pieces, pieces[1:], strict=False))
        )
        if rank == len(ranks):
            break  # no merge leads further: the token is only found whole
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
        made.append(pieces[place])
    return made


def trimmed(tokenizer: Mapping[str, Any], renamed: Mapping[int, int]) -> Document:
    """tokenizer.json with the tokens in `renamed` (old id -> new id) alone."""
    model = tokenizer["model"]
    vocabulary = {token: renamed[number] for token, number in model["vocab"].items() if number in renamed}
    merges = [
        merge
        for merge, (left, right) in zip(model["merges"], _pairs(model["merges"]), strict=True)
        if left in vocabulary and right in vocabulary and left + right in vocabulary
    ]
    added = [item | {"id": renamed[int(item["id"])]} for item in tokenizer.get("added_tokens", ())]
    document = dict(tokenizer) | {
        "model": model
        | {"vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1])), "merges": merges},
        "added_tokens": sorted(added, key=lambda item: int(item["id"])),
        "post_processor": _renamed_processor(tokenizer.get("post_processor"), renamed),
    }
    if tokenizer.get("padding"):
        document["padding"] = tokenizer["padding"] | {"pad_id": renamed[int(tokenizer["padding"]["pad_id"])]}
    return document


def _renamed_processor(processor: Any, renamed: Mapping[int, int]) -> Any:
    if processor is None:
        return None
    changed = dict(processor)
    if "processors" in changed:
        changed["processors"] = [_renamed_processor(part, renamed) for part in changed["processors"]]
    for key in ("sep", "cls"):
        if key in changed:
            token, number = changed[key]
            changed[key] = [token, renamed[int(number)]]
    if changed.get("type") == "TemplateProcessing":
        changed["special_tokens"] = {
            token: item | {"ids": [renamed[int(number)] for number in item["ids"]]}
            for token, item in changed["special_tokens"].items()
        }
    return changed


def _pairs(merges: Iterable[Any]) -> list[tuple[str, str]]:
    """Older files write a merge as "left right", newer ones as two strings."""
    found = []
    for merge in merges:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        found.append((left, right))
    return found
