"""How near a container's answers are to those of the float model: cosines of tokens and of pooled vectors, labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.runtimes.pooling import pool

WORST_FACTOR = 5
"""A single text may be this many times as far from the float model as the mean may: one text that is lost shows."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncoderAgreement:
    """Cosines with the float model: of the states of all tokens, and of the texts' pooled vectors; relative_error of the states,
    ||got - want|| / ||want|| over all of them. same_label: share of the classified texts or tokens, None for features."""

    texts: int
    tokens: int
    mean_token_cosine: float
    least_token_cosine: float
    mean_pooled_cosine: float
    least_pooled_cosine: float
    relative_error: float
    same_label: float | None = None


def compare_states(
    got: Sequence[Floats], want: Sequence[Floats], pooling: str, same_label: float | None = None
) -> EncoderAgreement:
    """States [tokens, hidden_size] of each text. What is not finite counts as the opposite direction."""
    tokens = np.concatenate([cosines(left, right) for left, right in zip(got, want, strict=True)])
    pooled = np.concatenate(
        [
            cosines(pool(left, pooling)[None], pool(right, pooling)[None])
            for left, right in zip(got, want, strict=True)
        ]
    )
    difference = np.sqrt(sum(float(np.square(a - b).sum()) for a, b in zip(got, want, strict=True)))
    length = np.sqrt(sum(float(np.square(b).sum()) for b in want))
    error = float(difference / max(float(length), 1e-30))
    return EncoderAgreement(
        texts=len(want),
        tokens=len(tokens),
        mean_token_cosine=float(tokens.mean()),
        least_token_cosine=float(tokens.min()),
        mean_pooled_cosine=float(pooled.mean()),
        least_pooled_cosine=float(pooled.min()),
        relative_error=error if np.isfinite(error) else 1e30,  # JSON has no infinity
        same_label=same_label,
    )


def same_labels(got: Sequence[Floats], want: Sequence[Floats]) -> float:
    """Share of rows [..., labels] with the same largest logit."""
    hits = [
        np.atleast_1d(left.argmax(axis=-1) == right.argmax(axis=-1))
        for left, right in zip(got, want, strict=True)
    ]
    return float(np.concatenate(hits).mean())


def cosines(left: Floats, right: Floats) -> npt.NDArray[np.float64]:
    """Of each row; -1 where one is not finite or has no length."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (a * b).sum(axis=1) / lengths
    return np.where(np.isfinite(found), found, -1.0)


def objections(found: Mapping[str, Any], threshold: float) -> list[str]:
    """Why an agreement (as JSON) is not good enough; empty when it is."""
    worst = 1 - WORST_FACTOR * (1 - threshold)
    demands = (
        ("mean_token_cosine", threshold),
        ("mean_pooled_cosine", threshold),
        ("least_pooled_cosine", worst),
    )
    # not `<`: a NaN must not pass
    return [
        f"{name.replace('_', ' ')} {found[name]:.5f} is below {least:g}"
        for name, least in demands
        if not found[name] >= least
    ]


def agreement_text(found: Mapping[str, Any]) -> str:
    label = found.get("same_label")
    return (
        f"cosine of {found['tokens']} tokens {found['mean_token_cosine']:.5f}, of {found['texts']} pooled texts "
        f"{found['mean_pooled_cosine']:.5f} (least {found['least_pooled_cosine']:.5f})"
        + (f", same label {label:.0%}" if label is not None else "")
    )
