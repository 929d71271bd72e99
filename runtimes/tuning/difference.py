"""How far the logits of two settings are apart, from log-probabilities for the same text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

QUALITY_CLASS_KL = 0.01
"""Mean divergence in nats up to which two settings count as the same quality: below what an 8-bit weight costs the file."""


@dataclass(frozen=True, slots=True)
class Difference:
    """mean_kl_divergence: nats, of the changed settings from the adapter's own. same_top1: share of positions that agree."""

    mean_kl_divergence: float
    same_top1: float
    largest: float
    """Of all log-probabilities above -16, the largest change."""

    @property
    def is_same_class(self) -> bool:
        return self.mean_kl_divergence <= QUALITY_CLASS_KL


def difference(reference: Path, changed: Path) -> Difference:
    """Of two files with log-probabilities [positions, vocab_size]."""
    import numpy as np

    p, q = np.load(reference), np.load(changed)
    seen = p > -16.0
    divergence = np.where(seen, np.exp(p) * (p - q), 0.0).sum(axis=1)
    return Difference(
        mean_kl_divergence=max(0.0, float(divergence.mean())),
        same_top1=float((p.argmax(axis=1) == q.argmax(axis=1)).mean()),
        largest=float(np.abs(p - q)[seen].max()),
    )
