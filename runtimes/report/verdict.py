"""What the figures of an artifact mean, in sentences, worst first: a reader of the report should not have to find it.

Each sentence states numbers that stand in the manifest. Nothing is called good that was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgeport.errors import UsageError
from edgeport.manifest import Manifest, is_native
from edgeport.runtimes.bench.compare import dig, relative_speeds
from edgeport.runtimes.report.prediction import compared
from edgeport.runtimes.report.rows import ContainerRow, container_rows
from edgeport.runtimes.report.soak import lasted, violations
from edgeport.units import format_bytes

Kind = Literal["bad", "warning", "good"]
PERPLEXITY_LOSS_LIMIT = 0.10
"""A perplexity this much above the source's is pointed out."""
ORDER: tuple[Kind, ...] = ("bad", "warning", "good")


@dataclass(frozen=True, slots=True)
class Finding:
    kind: Kind
    text: str


def findings(manifest: Manifest) -> tuple[Finding, ...]:
    """At least one sentence each on weights, verification, size, quality and speed."""
    rows = container_rows(manifest)
    if not rows:
        return (Finding("bad", "The artifact holds no containers."),)
    found = [
        *_gate(manifest),
        _weights(manifest),
        _verified(rows),
        _size(manifest, rows),
        *_quality(rows),
        *_speed(manifest, rows),
        *_predicted(manifest),
        *_soak(manifest),
        *_draft(manifest),
    ]
    return tuple(sorted(found, key=lambda finding: ORDER.index(finding.kind)))


def headline(manifest: Manifest) -> str:
    """One line with the best of what was measured: `4 containers, up to 2.8x smaller, perplexity +3.9%, 44.7 tokens/s`."""
    rows = container_rows(manifest)
    parts = [f"{len(rows)} container{'' if len(rows) == 1 else 's'}"]
    ratios = [row.size_ratio for row in rows if row.size_ratio is not None]
    changes = [row.perplexity_change for row in rows if row.perplexity_change is not None]
    rates = [row.decode_tokens_per_s for row in rows if row.decode_tokens_per_s is not None]
    if ratios:
        parts.append(
            f"up to {max(ratios):.1f}x smaller" if max(ratios) >= 1 else "not smaller than the source"
        )
    if changes:
        parts.append(f"perplexity {max(changes):+.1%} at most")
    if rates:
        parts.append(f"up to {max(rates):.0f} tokens/s")
    return ", ".join(parts)


def _gate(manifest: Manifest) -> list[Finding]:
    """What the gate said; nothing where the export was not put before it."""
    verdict, reason = manifest.gate.get("verdict"), manifest.gate.get("reason")
    found = manifest.gate.get("lines")
    lines = [line for line in found if isinstance(line, Mapping)] if isinstance(found, (list, tuple)) else []
    if verdict is None:
        return []
    if verdict == "pass":
        return [Finding("good", f"The quality gate passed: {len(lines)} checks.")]
    if verdict != "fail":
        return [Finding("warning", f"The quality gate did not judge{f': {reason}' if reason else ''}.")]
    failed = [
        f"{line.get('container')} {line.get('name')} {line.get('measured_text')}, allowed {line.get('threshold_text')}"
        for line in lines
        if line.get("verdict") == "fail"
    ]
    return [
        Finding("bad", f"The quality gate said no: {'; '.join(failed) or reason or 'no reason recorded'}.")
    ]


def _weights(manifest: Manifest) -> Finding:
    portable = [entry for entry in manifest.containers if not is_native(entry.format)]
    others = [entry.format for entry in portable if entry.weights_id != manifest.weights_id]
    count = len(portable)
    if others:
        return Finding("warning", f"{_list(others)} holds other weights than the rest: damage.")
    if count < len(manifest.containers):
        own = [entry.format for entry in manifest.containers if is_native(entry.format)]
        shared = f"; the other {count} hold the same weights" if count > 1 else ""
        return Finding("good", f"{_list(own)}: weights of a scheme of its own{shared}.")
    if count == 1:
        return Finding("good", f"The container holds the weights {manifest.weights_id[:12]}.")
    return Finding("good", f"All {count} containers hold the same weights, {manifest.weights_id[:12]}.")


def _verified(rows: tuple[ContainerRow, ...]) -> Finding:
    missing = [row.format for row in rows if not row.verified]
    if missing:
        return Finding("warning", f"Not verified: {_list(missing)}. Run `edgeport verify`.")
    return Finding("good", "Every container was opened again and its weights were read back.")


def _size(manifest: Manifest, rows: tuple[ContainerRow, ...]) -> Finding:
    smallest = min(rows, key=lambda row: row.size_bytes)
    text = f"Smallest: {smallest.format} with {format_bytes(smallest.size_bytes)}"
    if smallest.size_ratio is None:
        return Finding("good", text + ".")
    source = format_bytes(manifest.source.size_bytes)
    if smallest.size_ratio < 1:
        return Finding("warning", f"{text}, larger than the source's {source}.")
    return Finding("good", f"{text}, {smallest.size_ratio:.1f} times smaller than the source's {source}.")


def _quality(rows: tuple[ContainerRow, ...]) -> list[Finding]:
    measured = [row for row in rows if row.perplexity is not None]
    found = []
    missing = [row.format for row in rows if row.perplexity is None]
    if missing:
        found.append(Finding("warning", f"Quality was not measured: {_list(missing)}. Run `edgeport eval`."))
    if not measured:
        return found
    changes = {row.format: row.perplexity_change for row in measured if row.perplexity_change is not None}
    agreement = [row.same_top1 for row in measured if row.same_top1 is not None]
    parts = [
        _span(
            "perplexity", [row.perplexity for row in measured if row.perplexity is not None], "{:.2f}".format
        )
    ]
    if changes:
        parts.append(_span("against the source", list(changes.values()), "{:+.1%}".format))
    if agreement:
        parts.append(_span("same next token as the source in", agreement, "{:.1%}".format))
    lossy = [name for name, change in changes.items() if change > PERPLEXITY_LOSS_LIMIT]
    kind: Kind = "warning" if lossy else "good"
    found.append(Finding(kind, f"Quality: {', '.join(parts)}."))
    return found


def _speed(manifest: Manifest, rows: tuple[ContainerRow, ...]) -> list[Finding]:
    records = {row.format: manifest.speed[row.format] for row in rows if row.decode_tokens_per_s is not None}
    if not records:
        return [Finding("warning", "Speed was not measured. Run `edgeport bench`.")]
    if len(records) == 1:
        ((name, record),) = records.items()
        return [Finding("good", f"Decodes {dig(record, 'decode.tokens_per_s'):.1f} tokens/s in {name}.")]
    try:
        relative = relative_speeds(records)
    except UsageError as error:
        return [Finding("warning", f"No fastest format: {error.message}.")]
    ranking = sorted(relative, key=lambda name: -relative[name])
    rate = dig(records[ranking[0]], "decode.tokens_per_s")
    others = ", ".join(f"{name} {relative[name]:.0%} of that" for name in ranking[1:])
    found = [Finding("good", f"Fastest: {ranking[0]} decodes {rate:.1f} tokens/s; {others}.")]
    noisy = [
        name for name in records if dig(records[name], "decode.noisy") or dig(records[name], "prefill.noisy")
    ]
    if noisy:
        text = f"The machine was busy while measuring {_list(noisy)}: repetitions differ by more than 5 %."
        found.append(Finding("warning", text))
    return found


def _predicted(manifest: Manifest) -> list[Finding]:
    """Whether what was measured lies where it was predicted; nothing where nothing was predicted."""
    found = compared(manifest)
    if not found:
        return []
    outside = [item for item in found if not item.inside]
    if outside:
        farthest = max(outside, key=lambda item: abs(math.log(item.measured / item.predicted)))
        text = (
            f"{len(outside)} of {len(found)} predicted figures lie outside their interval; the farthest: "
            f"{farthest.label} {farthest.figure}, {farthest.error:+.0%}."
        )
        return [Finding("warning", text)]
    return [Finding("good", f"All {len(found)} predicted figures were met: each lies in its interval.")]


def _soak(manifest: Manifest) -> list[Finding]:
    """One sentence per container that was soaked."""
    found = []
    for name, record in manifest.soak.items():
        verdict, broken = dig(record, "judgement.verdict"), violations(record)
        if broken:
            found.append(Finding("bad", f"Soak of {name}, {lasted(record)}: {'; '.join(broken)}."))
        elif verdict == "passed":
            found.append(
                Finding("good", f"Soak of {name}, {lasted(record)}: no leak, no drift, no wrong answer.")
            )
        elif verdict is not None:
            found.append(Finding("warning", f"Soak of {name}, {lasted(record)}: {verdict} to judge."))
    return found


def _span(label: str, values: list[float], shown: Callable[[float], str]) -> str:
    """`perplexity 12.3`, or `perplexity 12.3 to 12.5` when the formats differ by what is shown."""
    low, high = shown(min(values)), shown(max(values))
    return f"{label} {low}" if low == high else f"{label} {low} to {high}"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _draft(manifest: Manifest) -> list[Finding]:
    """A draft never changes the answers; whether it makes them faster is for its measured acceptance to tell."""
    draft = manifest.draft
    if draft is None:
        return []
    if draft.acceptance_rate is None or draft.tokens_per_step is None:
        return [
            Finding("warning", f"A draft stands in {draft.folder}; how often it is right was not measured.")
        ]
    return [
        Finding(
            "good",
            f"A draft in {draft.folder} proposes {draft.drafted_tokens} tokens at a time: {draft.acceptance_rate:.0%} accepted, "
            f"{draft.tokens_per_step:.1f} tokens for each pass of the model.",
        )
    ]
