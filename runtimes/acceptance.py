"""How often proposed tokens are right: the two figures of speculative decoding, and what they are counted from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How often proposals are right.

    rate: share of the judged proposals that the target kept, the paper's alpha; proposals after one that was rejected
    are judged by nobody. tokens_per_step: tokens of text per call of the target. Both are 0 before the first round.
    """

    rate: float
    tokens_per_step: float
    steps: int
    drafted: int
    judged: int
    accepted: int


@dataclass(slots=True)
class Tally:
    """Counts over all texts that a proposer helped to write. steps: calls of the target that judged proposals."""

    steps: int = 0
    drafted: int = 0
    judged: int = 0
    accepted: int = 0

    def add(self, drafted: int, accepted: int) -> None:
        self.steps += 1
        self.drafted += drafted
        self.accepted += accepted
        self.judged += min(accepted + 1, drafted)

    def acceptance(self) -> Acceptance:
        rate = self.accepted / self.judged if self.judged else 0.0
        tokens_per_step = (self.accepted + self.steps) / self.steps if self.steps else 0.0
        return Acceptance(rate, tokens_per_step, self.steps, self.drafted, self.judged, self.accepted)
