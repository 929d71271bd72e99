"""The two aims, computed from the rows: half of Q4_K_M's KL divergence in its bytes, and the best 4-bit model in Q4_0's.

Bytes are those of the weights, so that no container is charged for a vocabulary or a rotary table that another one keeps
elsewhere. Our KL divergence is that of one model: where several containers hold it, the GGUF file's, which runs in the same
engine as llama.cpp's types; the 4-bit peers are compared with the container that runs in their own engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quality_rows import OURS, Row, measured

REFERENCE_K, REFERENCE_0 = "Q4_K_M + imatrix", "Q4_0"
MOST_KL_RATIO = 0.5
MOST_PERPLEXITY_LOSS = 0.005


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line below the table; met: None when a row it needs is missing."""

    text: str
    met: bool | None


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Aim 1 and its margin, then aim 2 against every 4-bit peer and against the source."""
    usable = measured(rows)
    found = {row.name: row for row in usable if row.group != OURS}
    first, second = found.get(REFERENCE_K), found.get(REFERENCE_0)
    lines = [_half_of(first, usable)] if first else [Verdict(f"no row {REFERENCE_K!r}", None)]
    if second is None:
        return [*lines, Verdict(f"no row {REFERENCE_0!r}", None)]
    return [*lines, *_ahead_of_peers(second, usable)]


def best_within(rows: Sequence[Row], weight_bytes: int, engine: str) -> Row | None:
    """Our row of the least KL divergence in at most so many bytes of weights, in one engine."""
    fitting = [
        row
        for row in measured(rows)
        if row.group == OURS and row.engine == engine and (row.weight_bytes or 0) <= weight_bytes
    ]
    return min(fitting, key=lambda row: row.kl, default=None)


def _half_of(reference: Row, rows: Sequence[Row]) -> Verdict:
    budget = reference.weight_bytes or 0
    best = best_within(rows, budget, reference.engine)
    if best is None:
        return Verdict(f"nothing of ours fits in {budget:,} bytes, those of {reference.name}", None)
    ratio = best.kl / reference.kl
    error = ratio * math.hypot(best.kl_error / best.kl, reference.kl_error / reference.kl)
    text = (
        f"At no more bytes than {reference.name} ({budget:,}): {best.name} with {best.weight_bytes:,} bytes has "
        f"{ratio:.2f} ± {error:.2f} of its mean KL divergence ({best.kl:.5f} to {reference.kl:.5f}; the aim is at most "
        f"{MOST_KL_RATIO:g})"
    )
    return Verdict(text, ratio <= MOST_KL_RATIO)


def _ahead_of_peers(reference: Row, rows: Sequence[Row]) -> list[Verdict]:
    budget = reference.weight_bytes or 0
    lines = []
    peers = [row for row in rows if row.group != OURS and row.four_bit]
    for peer in sorted(peers, key=lambda row: row.kl):
        engine = peer.engine if best_within(rows, budget, peer.engine) else reference.engine
        best = best_within(rows, budget, engine)
        if best is not None:
            text = (
                f"At Q4_0's bytes: {best.name} in {engine} ({best.kl:.5f}) has {best.kl / peer.kl:.2f} of the KL divergence of "
                f"{peer.group} {peer.name} ({peer.kl:.5f}, {peer.weight_bytes:,} bytes)"
            )
            lines.append(Verdict(text, best.kl < peer.kl))
    best = best_within(rows, budget, reference.engine)
    if best is None:
        return [Verdict(f"nothing of ours fits in Q4_0's {budget:,} bytes", None)]
    loss, error = best.perplexity_loss, float(best.quality["perplexity_ratio_error"])
    text = (
        f"At Q4_0's bytes ({budget:,}): {best.name} with {best.weight_bytes:,} bytes has a perplexity of "
        f"{100 * loss:+.2f} ± {100 * error:.2f} % to the source's (the aim is at most {100 * MOST_PERPLEXITY_LOSS:g} % more)"
    )
    return [*lines, Verdict(text, loss <= MOST_PERPLEXITY_LOSS)]
