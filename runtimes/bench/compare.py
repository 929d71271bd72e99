"""Compare measurements, or refuse: a ratio of unlike things is worse than none.

Works on the records as they stand in a manifest, so that those of another machine or another day are checked too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeport.errors import UsageError

MUST_AGREE: tuple[tuple[str, str], ...] = (
    ("weights_id", "weights"),
    ("threads", "threads"),
    ("context_length", "context length"),
    ("n_prompt", "prompt length"),
    ("n_gen", "generated length"),
    ("n_depth", "depth"),
    ("environment.cpu_model", "CPU"),
)


def differences(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What keeps these records apart, e.g. `threads: gguf 2, onnx 4`; empty when they may be compared."""
    found = []
    for path, label in MUST_AGREE:
        values = {name: dig(record, path) for name, record in records.items()}
        if len({repr(value) for value in values.values()}) > 1:
            found.append(
                f"{label}: " + ", ".join(f"{name} {_short(value)}" for name, value in values.items())
            )
    return found


def relative_speeds(records: Mapping[str, Mapping[str, Any]], *, test: str = "decode") -> dict[str, float]:
    """Tokens per second of each record over the fastest one. Raises UsageError when they are not alike."""
    unlike = differences(records)
    if unlike:
        raise UsageError(
            "these measurements cannot be compared: " + "; ".join(unlike),
            hint="measure them again in one run of `edgeport bench`, with the same weights and settings",
        )
    rates = {name: dig(record, f"{test}.tokens_per_s") for name, record in records.items()}
    measured = {name: float(value) for name, value in rates.items() if value}
    fastest = max(measured.values(), default=1.0)
    return {name: value / fastest for name, value in measured.items()}


def dig(record: Any, path: str) -> Any:
    """`dig(record, "memory.after_load.resident_bytes")`, None as soon as a part is missing."""
    for key in path.split("."):
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


def _short(value: Any) -> str:
    text = "not recorded" if value is None else str(value)
    return text if len(text) <= 24 else text[:12] + "…"
