"""Where calibration text comes from, and how it becomes windows of tokens."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UnsupportedModel, UsageError
from edgeport.export.calibrate.overlap import refuse_overlap
from edgeport.export.calibrate.reading import read_dataset, read_path
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.source import SourceModel
from edgeport.lazy import missing_extra
from edgeport.progress import Progress

AUTO, EMBEDDED, SELF = "auto", "embedded", "self"
EMBEDDED_SLICES = ("code", "documentation", "languages", "numbers", "prose")
SEED = 0
_SOURCE_TEXT = "text/calibration.txt"
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([^:]+))?(?::([^:]+))?")
_LEAST_READ_BYTES = 8 << 20
_BYTES_PER_TOKEN = 32
"""Read this much per wanted token and at least 8 MiB; from longer text evenly spread slices are taken."""
_ENCODED_CHARACTERS = 1 << 18
"""Tokenized at a time, cut at line ends: the library keeps some hundred bytes per token while it works."""
_HELDOUT_BYTES = 64 << 20

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Text:
    """name: for the manifest and for messages, as the user gave it."""

    text: str
    name: str


def load_calibration(
    wanted: str, source: SourceModel, *, tokens: int, n_ctx: int, heldout: Path | None, progress: Progress
) -> CalibrationText:
    """Windows of `n_ctx` tokens, about `tokens` in all, from a source by name:

    a UTF-8 file (.jsonl: its field "text") or a folder of them; a folder with parquet files; a data set id
    `owner/name[:split[:column]]`, the only case that touches the network; "embedded", the slices that come with edgeport;
    "self", sampled from the model; "auto", the model folder's text/calibration.txt or else the embedded slices.

    Windows are spread evenly over the text and do not overlap; a begin token, where the tokenizer adds one, replaces the
    first token of each. Fewer windows than wanted are said so in `origin`. Raises UsageError for unreadable text, for text
    shorter than one window, for n_ctx beyond the model's context, and when the windows share passages with the text
    in `heldout`; UnsupportedModel for token ids that the model has no embedding for.
    """
    _check_sizes(source, tokens, n_ctx)
    count = -(-tokens // n_ctx)
    tokenizer = _tokenizer(source)
    if wanted == SELF:
        text = _sampled(source, count, n_ctx, progress)
    else:
        found = _read(wanted, source, max(_LEAST_READ_BYTES, _BYTES_PER_TOKEN * tokens))
        with progress.stage("tokenize", total=len(found.text)) as stage:
            ids = _encode(tokenizer, found.text, stage.advance)
        begin = _begin_tokens(tokenizer)
        text = _cut(ids, begin, count, n_ctx, found.name)
    _check_range(text.windows, tokenizer, source)
    if heldout is not None:
        decoded = [tokenizer.decode(window.tolist()) for window in text.windows]
        refuse_overlap(
            decoded, read_path(heldout, _HELDOUT_BYTES), origin=text.origin, heldout_name=heldout.name
        )
    return text


def _check_sizes(source: SourceModel, tokens: int, n_ctx: int) -> None:
    context = source.spec.context_length
    if not 2 <= n_ctx <= context:
        raise UsageError(
            f"calibration windows of {n_ctx} tokens: the model's context is {context}",
            hint=f"take windows of 2 to {context} tokens",
        )
    if tokens < 1:
        raise UsageError(f"calibration on {tokens} tokens", hint="65536 tokens is usual")


def _read(wanted: str, source: SourceModel, most_bytes: int) -> _Text:
    if wanted == AUTO:
        beside = source.directory / _SOURCE_TEXT
        if beside.is_file():
            return _Text(read_path(beside, most_bytes), f"{_SOURCE_TEXT} of the source model")
        wanted = EMBEDDED
    if wanted == EMBEDDED:
        return _Text(embedded_text(), "embedded text")
    path = Path(wanted)
    if path.is_dir() and any(path.rglob("*.parquet")):
        return _Text(read_dataset(wanted, "train", None, most_bytes), wanted)
    if path.exists():
        return _Text(read_path(path, most_bytes), wanted)
    match = _HUB_ID.fullmatch(wanted)
    if match is None or wanted.startswith("."):
        raise UsageError(
            f"no calibration text {wanted!r}",
            hint="give a file, a folder, owner/name[:split[:column]] of a hub data set, embedded, self or auto",
        )
    name, split, column = match.groups()
    return _Text(read_dataset(name, split or "train", column, most_bytes), wanted)


def embedded_text() -> str:
    """The slices in edgeport/export/calibrate/data; each says in its first line whose it is."""
    folder = resources.files("edgeport.export.calibrate") / "data"
    texts = [(folder / f"{name}.txt").read_text(encoding="utf-8") for name in EMBEDDED_SLICES]
    return "\n\n".join(text.partition("\n")[2] for text in texts)


def _sampled(source: SourceModel, count: int, n_ctx: int, progress: Progress) -> CalibrationText:
    from edgeport.devices.probe import available_threads
    from edgeport.export.calibrate.sample import sample_tokens

    windows = sample_tokens(source, count, n_ctx, SEED, available_threads(), progress)
    return _text(windows, f"sampled from the model, seed {SEED}: {count} windows of {n_ctx} tokens")


def _tokenizer(source: SourceModel) -> Any:
    with missing_extra("export", purpose="tokenizing"):
        from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(source.directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _encode(tokenizer: Any, text: str, advance: Any) -> Tokens:
    """Token ids [tokens] without special ones."""
    ids: list[Tokens] = []
    for start, stop in _line_pieces(text):
        encoded = tokenizer.encode(text[start:stop], add_special_tokens=False)
        ids.append(np.array(encoded.ids, dtype=np.int64))
        advance(stop - start)
    return np.concatenate(ids) if ids else np.empty(0, dtype=np.int64)


def _line_pieces(text: str) -> list[tuple[int, int]]:
    pieces = []
    start = 0
    while start < len(text):
        stop = min(start + _ENCODED_CHARACTERS, len(text))
        if stop < len(text):
            stop = text.rfind("\n", start, stop) + 1 or stop
        pieces.append((start, stop))
        start = stop
    return pieces


def _begin_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text."""
    encoded = tokenizer.encode("a")
    ordinary = list(encoded.special_tokens_mask).index(0)
    return list(encoded.ids[:ordinary])


def _cut(ids: Tokens, begin: list[int], count: int, n_ctx: int, name: str) -> CalibrationText:
    """At most `count` windows, the first at the text's start and the last at its end."""
    if len(ids) < n_ctx:
        raise UsageError(
            f"calibration text {name} has {len(ids)} tokens, one window takes {n_ctx}",
            hint="give a longer text, or shorter windows",
        )
    fitting = min(count, len(ids) // n_ctx)
    starts = np.linspace(0, len(ids) - n_ctx, fitting).astype(np.int64)
    windows = np.stack([ids[start : start + n_ctx] for start in starts])  # [windows, n_ctx]
    windows[:, : len(begin)] = begin
    fewer = f" ({count} were wanted)" if fitting < count else ""
    return _text(windows, f"{name}: {fitting} windows of {n_ctx} tokens{fewer} out of {len(ids)} tokens")


def _text(windows: Tokens, origin: str) -> CalibrationText:
    return CalibrationText(
        windows,
        origin,
        hashlib.sha256(windows.astype("<i8").tobytes() + str(windows.shape).encode()).hexdigest(),
    )


def _check_range(windows: Tokens, tokenizer: Any, source: SourceModel) -> None:
    size = source.spec.vocab_size
    if windows.size and not 0 <= windows.min() <= windows.max() < size:
        beyond = int(windows.max())
        raise UnsupportedModel(
            f"the tokenizer gives token {beyond} ({tokenizer.id_to_token(beyond)!r}), the model has embeddings 0 to {size - 1}",
            hint="tokenizer.json and the weights do not belong together; resize the model's embedding to the tokenizer",
        )
