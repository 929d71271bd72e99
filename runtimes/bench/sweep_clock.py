"""How long the rest of a sweep will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeport.runtimes.bench.statistics import median
from edgeport.runtimes.bench.sweep import Combination


@dataclass(slots=True)
class SweepClock:
    """Seconds that are left, from what the rows so far took: tokens over their rates, and what every process costs besides."""

    repetitions: int
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    _beside_s: list[float] = field(default_factory=list)

    def add(self, row: Combination, tokens_per_s: float, seconds: float) -> None:
        if row.n_prompt:
            self.prefill_tokens_per_s = tokens_per_s
        else:
            self.decode_tokens_per_s = tokens_per_s
        computed = self._computing_s(row)
        if computed is not None:
            self._beside_s.append(max(0.0, seconds - computed))

    def left_s(self, rows: Sequence[Combination]) -> float | None:
        """None while a kind of test among `rows` has not been seen."""
        computing = [self._computing_s(row) for row in rows]
        if not self._beside_s or None in computing:
            return None
        return sum(value or 0.0 for value in computing) + len(rows) * median(self._beside_s)

    def _computing_s(self, row: Combination) -> float | None:
        # a prompt is read once cold, once to warm up, and then repeated
        prompt_tokens = row.n_depth + (self.repetitions + 2) * row.n_prompt
        written = self.repetitions * row.n_gen
        prefill, decode = self.prefill_tokens_per_s, self.decode_tokens_per_s
        if (prompt_tokens and prefill is None and decode is None) or (written and decode is None):
            return None
        # where no prompt was timed, one token at a time is the most a token can cost
        reading = prompt_tokens / (prefill or decode or 1.0)
        return reading + (written / decode if decode else 0.0)
