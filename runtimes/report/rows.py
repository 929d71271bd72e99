"""What the manifest says of each container, as one row of numbers: the table of the export, the report and the card.

A part that was not measured is None and shown as "not measured"; nothing is computed from defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from edgeport.manifest import Manifest
from edgeport.runtimes.bench.compare import dig
from edgeport.units import format_bytes

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class ContainerRow:
    format: str
    verified: bool
    size_bytes: int
    size_ratio: float | None
    """Source size over container size: 3.9 means a quarter of the source."""
    perplexity: float | None
    perplexity_error: float | None
    base_perplexity: float | None
    same_top1: float | None
    mean_kl_divergence: float | None
    prefill_tokens_per_s: float | None
    prefill_deviation: float | None
    decode_tokens_per_s: float | None
    decode_deviation: float | None
    peak_memory_bytes: int | None

    @property
    def perplexity_change(self) -> float | None:
        """0.02 means 2 % worse than the source."""
        if self.perplexity is None or not self.base_perplexity:
            return None
        return self.perplexity / self.base_perplexity - 1


def container_rows(manifest: Manifest) -> tuple[ContainerRow, ...]:
    """One row per container, in the manifest's order."""
    rows = []
    for entry in manifest.containers:
        quality, speed = manifest.quality.get(entry.format), manifest.speed.get(entry.format)
        source_bytes = manifest.source.size_bytes
        rows.append(
            ContainerRow(
                format=entry.format,
                verified=entry.verified,
                size_bytes=entry.size_bytes,
                size_ratio=source_bytes / entry.size_bytes if source_bytes and entry.size_bytes else None,
                perplexity=number(quality, "perplexity"),
                perplexity_error=number(quality, "perplexity_error"),
                base_perplexity=number(quality, "base_perplexity"),
                same_top1=number(quality, "same_top1"),
                mean_kl_divergence=number(quality, "mean_kl_divergence"),
                prefill_tokens_per_s=number(speed, "prefill.tokens_per_s"),
                prefill_deviation=number(speed, "prefill.standard_deviation"),
                decode_tokens_per_s=number(speed, "decode.tokens_per_s"),
                decode_deviation=number(speed, "decode.standard_deviation"),
                peak_memory_bytes=peak_memory_bytes(speed),
            )
        )
    return tuple(rows)


Column = tuple[str, Callable[[ContainerRow], str]]

COLUMNS: tuple[Column, ...] = (
    ("format", lambda row: row.format),
    ("size", lambda row: format_bytes(row.size_bytes)),
    ("ratio", lambda row: f"{row.size_ratio:.2f}x" if row.size_ratio is not None else "unknown"),
    ("perplexity", lambda row: with_error(row.perplexity, row.perplexity_error, digits=3)),
    ("top-1", lambda row: shown(row.same_top1, "{:.1%}")),
    ("KL", lambda row: shown(row.mean_kl_divergence, "{:.4f}")),
    ("prefill t/s", lambda row: with_error(row.prefill_tokens_per_s, row.prefill_deviation, digits=1)),
    ("decode t/s", lambda row: with_error(row.decode_tokens_per_s, row.decode_deviation, digits=1)),
    ("peak memory", lambda row: size(row.peak_memory_bytes)),
)
"""Column title and cell: the one table that the export prints and both documents hold."""


def shown(value: float | None, pattern: str) -> str:
    return NOT_MEASURED if value is None else pattern.format(value)


def with_error(value: float | None, error: float | None, *, digits: int) -> str:
    """`12.345 ± 0.067`, without the second part when it is not known."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if error is not None else "")


def size(count: float | None) -> str:
    return NOT_MEASURED if count is None else format_bytes(count)


def number(record: object, path: str) -> float | None:
    """A finite number at `path`; a flag, a text or a gap is None."""
    value = dig(record, path)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def peak_memory_bytes(record: object) -> int | None:
    """The most that was ever resident, over loading, the prompt and the tokens after it."""
    moments = ("after_load", "after_prompt", "after_decode")
    values = [number(record, f"memory.{moment}.peak_resident_bytes") for moment in moments]
    return max((int(value) for value in values if value is not None), default=None)
