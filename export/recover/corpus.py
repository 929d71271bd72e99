"""Training text: windows of tokens in a memory-mapped file, without what a held-out text shares with them."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError
from edgeport.export.calibrate.overlap import shared_passages
from edgeport.export.calibrate.reading import read_path
from edgeport.export.calibrate.sources import SELF, load_calibration
from edgeport.export.recover.python_text import python_text
from edgeport.export.recover.settings import DistillSettings
from edgeport.export.source import SourceModel
from edgeport.lazy import missing_extra
from edgeport.progress import Progress

PYTHON = "python"
_SELF_TOKENS = 1 << 17
"""At most this much is sampled from a model: it writes slower than it reads by two orders of magnitude."""
_HELD_RUNS = 8
"""Held windows come in this many runs of neighbours: a window whose neighbours are trained on is half known."""
_HELDOUT_BYTES = 64 << 20

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TrainingText:
    """windows: token ids [windows, n_ctx], memory-mapped; held: the numbers of those that are measured on, ascending.

    origin: one line per source; left_out: windows that shared a passage with the held-out text; sha256: of the token ids.
    """

    windows: Tokens
    held: npt.NDArray[np.int64]
    origin: tuple[str, ...]
    left_out: int
    sha256: str

    @property
    def trained(self) -> npt.NDArray[np.int64]:
        """The numbers of all other windows."""
        return np.setdiff1d(np.arange(len(self.windows)), self.held)

    def facts(self) -> dict[str, Any]:
        return {
            "origin": list(self.origin),
            "windows": len(self.windows) - len(self.held),
            "held_windows": len(self.held),
            "n_ctx": int(self.windows.shape[1]),
            "left_out_windows": self.left_out,
            "sha256": self.sha256,
        }


def load_training(
    source: SourceModel, settings: DistillSettings, *, heldout: Path | None, work: Path, progress: Progress
) -> TrainingText:
    """Tokenize `settings.text`, leave out what shares passages with `heldout`, and hold some windows back for measuring.

    A source is what `load_calibration` knows, or `python`, the library of the running interpreter. The result stays in
    `work` and is used again while sources, tokenizer and held-out text are the same. Raises UsageError as
    `load_calibration` does, and when what is left is too little to train on.
    """
    work.mkdir(parents=True, exist_ok=True)
    key = training_key(source, settings, heldout)
    facts_path, tokens_path = work / "text.json", work / "text.npy"
    facts = _read_facts(facts_path, key)
    if facts is None:
        facts_path.unlink(missing_ok=True)
        facts = _write_text(source, settings, heldout, tokens_path, progress) | {"key": key}
        part = facts_path.with_name("text.json.part")
        part.write_text(json.dumps(facts), encoding="utf-8")
        part.replace(facts_path)
    windows: Tokens = np.load(tokens_path, mmap_mode="r")
    held = held_windows(len(windows), max(settings.held_tokens // windows.shape[1], 1))
    return TrainingText(windows, held, tuple(facts["origin"]), facts["left_out"], facts["sha256"])


def held_windows(windows: int, wanted: int) -> npt.NDArray[np.int64]:
    """Which windows are measured on: `wanted`, at most a tenth, in up to _HELD_RUNS evenly spread runs.

    Raises UsageError for fewer than two windows.
    """
    if windows < 2:
        raise UsageError(
            f"training text has {windows} windows, at least 2 are needed", hint="give more --text"
        )
    count = max(1, min(wanted, windows // 10))
    runs = min(_HELD_RUNS, count)
    chosen: list[int] = []
    for run in range(runs):
        length = count // runs + (run < count % runs)
        middle = (2 * run + 1) * windows // (2 * runs)
        first = max(0, middle - length // 2)
        chosen.extend(range(first, first + length))
    return np.array(chosen, dtype=np.int64)


def batch_windows(text: TrainingText, step: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """The numbers of the `count` windows of a step: a permutation per epoch that depends on (seed, epoch) alone."""
    trained = text.trained
    places = np.arange(step * count, (step + 1) * count)
    found = np.empty(count, dtype=np.int64)
    epochs = places // len(trained)
    for epoch in np.unique(epochs).tolist():
        order = np.random.default_rng((seed, epoch)).permutation(len(trained))
        within = epochs == epoch
        found[within] = trained[order[places[within] % len(trained)]]
    return found


def _write_text(
    source: SourceModel, settings: DistillSettings, heldout: Path | None, path: Path, progress: Progress
) -> dict[str, Any]:
    loaded = [_load(name, source, settings, path.parent, progress) for name in settings.text]
    windows = np.concatenate([item for item, _ in loaded])
    keep = np.ones(len(windows), dtype=np.bool_)
    if heldout is not None:
        keep = ~_shares_passages(windows, source, heldout, progress)
    kept = windows[keep]
    if len(kept) < 2:
        raise UsageError(
            f"{len(windows) - len(kept)} of {len(windows)} training windows share passages with {heldout}",
            hint="give other --text: what is measured on must not be trained on",
        )
    part = path.with_name("text.part")
    with part.open("wb") as stream:
        np.save(stream, kept)
    part.replace(path)
    return {
        "origin": [origin for _, origin in loaded],
        "left_out": int((~keep).sum()),
        "sha256": hashlib.sha256(kept.tobytes()).hexdigest(),
    }


def _load(
    name: str, source: SourceModel, settings: DistillSettings, work: Path, progress: Progress
) -> tuple[Tokens, str]:
    """(windows [windows, n_ctx], origin) of one source."""
    wanted, tokens = name, settings.text_tokens
    if name == PYTHON:
        file = work / "python.txt"
        file.write_text(python_text(), encoding="utf-8")
        wanted = str(file)
    elif name == SELF:
        tokens = min(tokens, _SELF_TOKENS)
    text = load_calibration(
        wanted, source, tokens=tokens, n_ctx=settings.n_ctx, heldout=None, progress=progress
    )
    origin = (
        text.origin.replace(wanted, f"library of Python {sys.version.split()[0]}")
        if name == PYTHON
        else text.origin
    )
    return text.windows.astype(np.int32), origin


def _shares_passages(
    windows: Tokens, source: SourceModel, heldout: Path, progress: Progress
) -> npt.NDArray[np.bool_]:
    """[windows]: whether a window has a passage of 50 letters and digits of the held-out text, a notice of licence apart."""
    with missing_extra("export", purpose="comparing texts"):
        from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(source.directory / "tokenizer.json"))
    known = read_path(heldout, _HELDOUT_BYTES)
    found = np.zeros(len(windows), dtype=np.bool_)
    with progress.stage("compare with the held-out text", total=len(windows)) as stage:
        for number, (_, passages) in enumerate(shared_passages(_decoded(tokenizer, windows), known)):
            found[number] = bool(passages)
            stage.advance()
    return found


def _decoded(tokenizer: Any, windows: Tokens) -> Iterator[str]:
    for window in windows:
        yield tokenizer.decode(window.tolist())


def training_key(source: SourceModel, settings: DistillSettings, heldout: Path | None) -> str:
    """Changes when the windows would: what is not a file or a folder here is known by its name alone."""
    wanted = asdict(settings)
    parts = [str(wanted[name]) for name in ("text", "text_tokens", "n_ctx")]
    parts.append(hashlib.sha256((source.directory / "tokenizer.json").read_bytes()).hexdigest())
    if PYTHON in settings.text:
        parts.append(sys.version)
    if any(name in ("auto", SELF) for name in settings.text):
        parts.append(source.fingerprint())
    named = [Path(name) for name in settings.text] + [source.directory / "text/calibration.txt"]
    for path in [*named, *([heldout] if heldout else [])]:
        parts.extend(_file_marks(path))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _file_marks(path: Path) -> Sequence[str]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    marks = []
    for file in files:
        if file.is_file():
            stat = file.stat()
            marks.append(f"{file} {stat.st_size} {stat.st_mtime_ns}")
    return marks or [f"{path} is no file"]


def _read_facts(path: Path, key: str) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and facts.get("key") == key else None
