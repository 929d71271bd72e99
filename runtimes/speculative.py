"""Speculative decoding over two sessions: a small draft proposes tokens, the target judges them in one call.

Greedy text is the target's own: a proposal is kept while it is what the target would have taken. Sampled text follows the
target's distribution p whatever the draft's q is: a token drawn from q is kept with probability min(1, p/q), and replaced
by a draw from max(0, p - q) otherwise (Leviathan, Kalman, Matias 2023, arXiv:2211.17192, algorithm 1 and appendix A.1;
Chen et al. 2023, arXiv:2302.01318). What it saves depends on the engine and the text, so it is measured while it
runs (edgeport.runtimes.pace) and switched off where it loses.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes.pace import Pace
from edgeport.runtimes.sampling import GREEDY, Sampling, choose, draw, likeliest, weights
from edgeport.runtimes.session import Logits, Session

Probabilities = npt.NDArray[np.float64]
DEFAULT_DRAFTED_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How often a draft is right.

    rate: share of the judged proposals that the target kept, the paper's alpha; proposals after one that was rejected
    are judged by nobody. tokens_per_step: tokens of text per call of the target. Both are 0 before the first round.
    """

    rate: float
    tokens_per_step: float
    steps: int
    drafted: int
    judged: int
    accepted: int


class Draft:
    """A draft's session and what was counted of it, over all texts it helped to write.

    pace: measures whether it pays and switches it off where it does not; None keeps it on. Raises UsageError when the
    two models do not have one vocabulary.
    """

    def __init__(
        self,
        session: Session,
        target: Session,
        drafted_tokens: int = DEFAULT_DRAFTED_TOKENS,
        pace: Pace | None = None,
    ) -> None:
        if session.vocab_size != target.vocab_size:
            raise UsageError(
                f"the draft has a vocabulary of {session.vocab_size} tokens, the model one of {target.vocab_size}",
                hint="a draft must have the model's own tokenizer",
            )
        if drafted_tokens < 1:
            raise UsageError(f"drafted_tokens is {drafted_tokens}, it must be at least 1")
        self.session, self.drafted_tokens, self.pace = session, drafted_tokens, pace
        self._steps = self._drafted = self._judged = self._accepted = 0

    @property
    def is_off(self) -> bool:
        """Whether it was found to cost more than it brings."""
        return self.pace is not None and self.pace.is_off

    def acceptance(self) -> Acceptance:
        rate = self._accepted / self._judged if self._judged else 0.0
        tokens_per_step = (self._accepted + self._steps) / self._steps if self._steps else 0.0
        return Acceptance(rate, tokens_per_step, self._steps, self._drafted, self._judged, self._accepted)

    def count(self, drafted: int, accepted: int) -> None:
        """One call of the target that judged proposals."""
        self._steps += 1
        self._drafted += drafted
        self._accepted += accepted
        self._judged += min(accepted + 1, drafted)


def speculate(
    target: Session, draft: Draft, prompt: Sequence[int], sampling: Sampling, room: int
) -> Generator[tuple[int, Logits]]:
    """`room` tokens after `prompt`, each with the target's logits [vocab_size] it was chosen by.

    Each session may already hold a beginning of `prompt`, not always the same; what it holds is not fed again. The target
    then holds the prompt and all but the last token taken from here.
    """
    for session, who in ((target, "model"), (draft.session, "draft")):
        if session.position >= len(prompt):
            raise UsageError(
                f"the {who} is at position {session.position}, in a prompt of {len(prompt)} tokens",
                hint="rewind it to what it shares with the prompt, at most all but the last token",
            )
    text = _Text(target, draft, sampling, list(prompt))
    taken = 0
    try:
        yield text.first()
        taken = 1
        while taken < room:
            for choice in text.more(room - taken):
                taken += 1
                yield choice
    finally:
        # Someone who stopped within a round did not take all that the target holds; a closed session holds nothing.
        with suppress(RuntimeFailure):
            held = len(prompt) + max(taken, 1) - 1
            target.rewind(min(held, target.position))


def measure_acceptance(
    target: Session,
    draft: Session,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    *,
    drafted_tokens: int = DEFAULT_DRAFTED_TOKENS,
    sampling: Sampling = GREEDY,
) -> Acceptance:
    """Let the pair write `tokens` tokens after each prompt, each from the start of both sessions."""
    helper = Draft(draft, target, drafted_tokens)
    for prompt in prompts:
        target.rewind(0)
        draft.rewind(0)
        for _ in speculate(target, helper, prompt, sampling, tokens):
            pass
    return helper.acceptance()


class _Text:
    """One text being written. The target holds all of `seen` but its last token, the draft some beginning of that."""

    def __init__(self, target: Session, draft: Draft, sampling: Sampling, seen: list[int]) -> None:
        self._target, self._draft, self._sampling, self._seen = target, draft, sampling, seen
        self._generator = np.random.default_rng(sampling.seed)

    def first(self) -> tuple[int, Logits]:
        logits = self._target.feed(self._seen[self._target.position :])[-1]
        return self._take(choose(logits, self._sampling, self._seen, self._generator), logits)

    def more(self, room: int) -> list[tuple[int, Logits]]:
        """The next one to `room` tokens, from one call of the target."""
        pace, count = self._draft.pace, self._proposals(room)
        if count < 1 or (pace is not None and not pace.wants_draft):
            if pace is None or pace.is_off:
                return [self._plain()]
            with pace.plain():
                return [self._plain()]
        if pace is None:
            return self._round(count)
        with pace.drafted() as measured:
            choices = self._round(count)
            measured.tokens = len(choices)
        return choices

    def _proposals(self, room: int) -> int:
        """How many tokens to draft: the target adds one of its own, and both sessions must hold them."""
        held = len(self._seen)
        target, draft = self._target.context_length, self._draft.session.context_length
        return min(self._draft.drafted_tokens, room - 1, target - held, draft - held + 1)

    def _plain(self) -> tuple[int, Logits]:
        logits = self._target.feed(self._seen[-1:])[-1]
        return self._take(choose(logits, self._sampling, self._seen, self._generator), logits)

    def _round(self, count: int) -> list[tuple[int, Logits]]:
        proposals = self._propose(count)
        base = self._target.position
        rows = self._target.feed(
            [self._seen[-1], *(token for token, _ in proposals)], all_logits=True
        )  # [count + 1, vocab_size]
        choices: list[tuple[int, Logits]] = []
        for (token, drafted), logits in zip(proposals, rows, strict=False):
            chosen = self._judge(token, drafted, logits)
            choices.append(self._take(token if chosen is None else chosen, logits))
            if chosen is not None:
                break
        else:
            choices.append(
                self._take(choose(rows[-1], self._sampling, self._seen, self._generator), rows[-1])
            )
        accepted = len(choices) - 1
        self._draft.count(count, accepted)
        self._rewind(base + 1 + accepted)
        return choices

    def _propose(self, count: int) -> list[tuple[int, Probabilities | None]]:
        """Tokens the draft would write, each with the distribution [vocab_size] it was drawn from; None when greedy."""
        session, seen = self._draft.session, list(self._seen)
        pending = seen[session.position :]
        proposals: list[tuple[int, Probabilities | None]] = []
        for _ in range(count):
            logits = session.feed(pending)[-1]
            if self._sampling.temperature == 0:
                proposals.append((likeliest(logits, self._sampling, seen), None))
            else:
                drafted = _normalized(weights(logits, self._sampling, seen))
                proposals.append((draw(drafted, self._generator), drafted))
            pending = [proposals[-1][0]]
            seen += pending
        return proposals

    def _judge(self, token: int, drafted: Probabilities | None, logits: Logits) -> int | None:
        """None when the target keeps `token`, else what it takes in its place."""
        if drafted is None:
            wanted = likeliest(logits, self._sampling, self._seen)
            return None if wanted == token else wanted
        wished = _normalized(weights(logits, self._sampling, self._seen))
        if self._generator.random() * drafted[token] < wished[token]:
            return None
        left = np.maximum(wished - drafted, 0.0)
        # Nothing is left where the two are equal but for rounding.
        return draw(left if left.any() else wished, self._generator)

    def _rewind(self, position: int) -> None:
        for session in (self._target, self._draft.session):
            if session.position > position:
                session.rewind(position)

    def _take(self, token: int, logits: Logits) -> tuple[int, Logits]:
        self._seen.append(token)
        return token, logits


def _normalized(values: npt.NDArray[np.float32]) -> Probabilities:
    wide = values.astype(np.float64)
    return np.asarray(wide / wide.sum())
