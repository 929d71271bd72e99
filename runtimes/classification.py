"""Logits to labels: of a text, or of the characters of a text. The same over every engine.

Scores are those of transformers' pipelines: softmax over the labels, sigmoid of each where several may hold or there is only one,
the bare number for a regression (config.json's problem_type).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeport.errors import ArtifactError
from edgeport.runtimes.encoder import Encoder

Floats = npt.NDArray[np.float32]
REGRESSION, SEVERAL_LABELS = "regression", "multi_label_classification"


class Classifier(Encoder, Protocol):
    """An encoder with a head: `encode` gives its hidden states, `logits` what the head makes of them."""

    def logits(self, sequences: Sequence[Sequence[int]]) -> list[Floats]:
        """[labels] of each sequence, or [tokens, labels] where tokens are classified; the arrays are the caller's.

        Raises as `encode` does, and UnsupportedModel for a container without a head.
        """
        ...


@dataclass(frozen=True, slots=True)
class Classification:
    """label: the one of highest score. scores: of all labels, in the model's order."""

    label: str
    score: float
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TokenClassification:
    """Of the characters begin..end of a text, which are one token: `text` is text[begin:end]."""

    label: str
    score: float
    scores: Mapping[str, float]
    text: str
    begin: int
    end: int


def classify_logits(logits: Floats, labels: Sequence[str], problem_type: str | None) -> Classification:
    """`logits` [labels]. Raises ArtifactError when they are not as many as the labels."""
    if logits.shape != (len(labels),):
        raise ArtifactError(
            f"the model gives logits of shape {list(logits.shape)}, config.json names {len(labels)} labels",
            hint="export again, or put the model's own config.json beside the container",
        )
    values = scores_of(logits, problem_type)
    best = int(np.argmax(values))
    scores = {label: float(value) for label, value in zip(labels, values, strict=True)}
    return Classification(labels[best], float(values[best]), scores)


def scores_of(logits: Floats, problem_type: str | None) -> npt.NDArray[np.float64]:
    values = logits.astype(np.float64)
    if problem_type == REGRESSION:
        return values
    if problem_type == SEVERAL_LABELS or len(values) == 1:
        return np.asarray(1 / (1 + np.exp(-np.clip(values, -700, 700))))
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())
