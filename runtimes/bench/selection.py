"""Which containers of an artifact are measured here, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeport.errors import MissingExtra
from edgeport.manifest import ContainerEntry, Manifest, base_format
from edgeport.runtimes.engines import unavailable_because

UNTIMED = {
    "safetensors": "the numpy reference is there to be exact; no speed is claimed for it",
    "bitsandbytes": "torch opens it, which no device needs",
}
"""Left out unless asked for by name."""


@dataclass(frozen=True, slots=True)
class Skipped:
    format: str
    reason: str


def choose_containers(
    manifest: Manifest, formats: Sequence[str] | None
) -> tuple[list[ContainerEntry], list[Skipped]]:
    """Those to measure, and those left out with the reason. What is asked for by name must be possible."""
    if formats:
        entries = [manifest.container(name) for name in dict.fromkeys(formats)]
        reasons = {entry.format: unavailable_because(entry.format) for entry in entries}
        missing = [reason for reason in reasons.values() if reason]
        if missing:
            raise MissingExtra("; ".join(missing))
        return entries, []
    chosen, skipped = [], []
    for entry in manifest.containers:
        reason = UNTIMED.get(base_format(entry.format)) or unavailable_because(entry.format)
        if reason is None:
            chosen.append(entry)
        else:
            skipped.append(Skipped(entry.format, reason))
    if not chosen:
        reasons_text = (
            "; ".join(f"{item.format}: {item.reason}" for item in skipped) or "it holds no containers"
        )
        raise MissingExtra(
            f"nothing of '{manifest.name}' can be timed here: {reasons_text}",
            hint="install an engine, or name a container with --format",
        )
    return chosen, skipped
