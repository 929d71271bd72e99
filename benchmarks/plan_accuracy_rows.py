"""Rows of the accuracy benchmark: what was measured, what was predicted, the errors and the aims. Nothing here measures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from edgeport.runtimes.bench.statistics import median

MEMORY, DECODE, PREFILL = "memory", "decode", "prefill"


@dataclass(frozen=True, slots=True)
class Case:
    """What is compared: one container of one twin, with a context of so many tokens."""

    model: str
    precision: str
    format: str
    context_length: int

    @property
    def slug(self) -> str:
        return f"{self.model}-{self.precision}-{self.format}-{self.context_length}"


@dataclass(frozen=True, slots=True)
class Measured:
    """peak_bytes: largest resident size of a process that loads the container and reads a prompt that fills the context.

    Rates are means over the repetitions, at the depth that fills the context. variation: the larger one of both tests.
    engine: name and version. weights_id: of the container, so that a row of other weights is not taken for this one's.
    """

    peak_bytes: int
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    variation: float
    file_bytes: int
    engine: str
    weights_id: str


@dataclass(frozen=True, slots=True)
class Interval:
    expected: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Predicted:
    """prefill None: nothing says how fast the device computes."""

    peak_bytes: int
    decode: Interval
    prefill: Interval | None


@dataclass(frozen=True, slots=True)
class Others:
    """What other estimators say of the same case; None: not installed, or it says nothing of it."""

    accelerate_bytes: int | None
    bandwidth_only_tokens_per_s: float
    llmfit_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Row:
    case: Case
    measured: Measured
    predicted: Predicted
    others: Others


@dataclass(frozen=True, slots=True)
class Aim:
    """Largest absolute errors allowed, as fractions of what was measured."""

    figure: str
    median: float
    worst: float


AIMS = (Aim(MEMORY, 0.05, 0.10), Aim(DECODE, 0.15, 0.25))


@dataclass(frozen=True, slots=True)
class Spread:
    """The distribution of one error. inside: share of the measurements within the predicted interval, None without one."""

    figure: str
    of: str
    count: int
    median: float
    worst: float
    worst_case: str
    inside: float | None = None


def relative_error(predicted: float, measured: float) -> float:
    """0.1: predicted a tenth too much. Raises ValueError when nothing was measured."""
    if measured <= 0:
        raise ValueError(f"an error relative to a measurement of {measured}")
    return predicted / measured - 1


def memory_error(row: Row) -> float:
    return relative_error(row.predicted.peak_bytes, row.measured.peak_bytes)


def decode_error(row: Row) -> float:
    return relative_error(row.predicted.decode.expected, row.measured.decode_tokens_per_s)


def prefill_error(row: Row) -> float | None:
    if row.predicted.prefill is None:
        return None
    return relative_error(row.predicted.prefill.expected, row.measured.prefill_tokens_per_s)


def accelerate_error(row: Row) -> float | None:
    found = row.others.accelerate_bytes
    return None if found is None else relative_error(found, row.measured.peak_bytes)


def bandwidth_only_error(row: Row) -> float:
    return relative_error(row.others.bandwidth_only_tokens_per_s, row.measured.decode_tokens_per_s)


def llmfit_error(row: Row) -> float:
    return relative_error(row.others.llmfit_tokens_per_s, row.measured.decode_tokens_per_s)


Error = Callable[[Row], float | None]
OURS: tuple[tuple[str, Error], ...] = (
    (MEMORY, memory_error),
    (DECODE, decode_error),
    (PREFILL, prefill_error),
)
THEIRS: tuple[tuple[str, str, Error], ...] = (
    (MEMORY, "accelerate estimate-memory", accelerate_error),
    (DECODE, "bandwidth / file size", bandwidth_only_error),
    (DECODE, "llmfit's formula", llmfit_error),
)


def spreads(rows: Sequence[Row]) -> list[Spread]:
    """Ours over all rows and per format, then the others'; a figure nobody predicted is left out."""
    found = []
    formats = list(dict.fromkeys(row.case.format for row in rows))
    for figure, error in OURS:
        for of, chosen in [("all", rows)] + [
            (name, [row for row in rows if row.case.format == name]) for name in formats
        ]:
            found += _spread(figure, of, chosen, error, _inside(figure, chosen))
    for figure, name, error in THEIRS:
        found += _spread(figure, name, rows, error, None)
    return found


def _spread(figure: str, of: str, rows: Iterable[Row], error: Error, inside: float | None) -> list[Spread]:
    errors = [(value, row.case.slug) for row in rows if (value := error(row)) is not None]
    if not errors:
        return []
    worst, case = max(errors, key=lambda item: abs(item[0]))
    middle = median([abs(value) for value, _ in errors])
    return [Spread(figure, of, len(errors), middle, abs(worst), case, inside)]


def _inside(figure: str, rows: Sequence[Row]) -> float | None:
    pairs = {
        MEMORY: [],
        DECODE: [(row.predicted.decode, row.measured.decode_tokens_per_s) for row in rows],
        PREFILL: [
            (row.predicted.prefill, row.measured.prefill_tokens_per_s)
            for row in rows
            if row.predicted.prefill
        ],
    }[figure]
    return sum(interval.holds(value) for interval, value in pairs) / len(pairs) if pairs else None


def missed(found: Sequence[Spread], aims: Sequence[Aim] = AIMS) -> list[str]:
    """One line per aim that is not met; an aim without rows is missed too."""
    lines = []
    for aim in aims:
        spread = next((item for item in found if item.figure == aim.figure and item.of == "all"), None)
        if spread is None:
            lines.append(f"{aim.figure}: nothing was measured")
            continue
        for name, value, allowed in (
            ("median", spread.median, aim.median),
            ("worst", spread.worst, aim.worst),
        ):
            if value > allowed:
                lines.append(f"{aim.figure}: {name} error {value:.1%}, at most {allowed:.0%} was aimed at")
    return lines


def keep(measured: Measured, path: Path) -> None:
    """Write one measurement; it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(asdict(measured), indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def kept(path: Path, *, weights_id: str, engine: str) -> Measured | None:
    """A measurement of these weights by this version of the engine, or None: then it has to be made."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or set(document) != {item.name for item in fields(Measured)}:
        return None
    found = Measured(**document)
    return found if (found.weights_id, found.engine) == (weights_id, engine) else None
