"""A smaller model with the same vocabulary that proposes tokens."""

from __future__ import annotations

import time

import numpy as np

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes.acceptance import Acceptance, Tally
from edgeport.runtimes.pace import Pace
from edgeport.runtimes.penalties import History
from edgeport.runtimes.proposer import Clock, Proposal, Round
from edgeport.runtimes.sampling import Sampling, distribution, likeliest
from edgeport.runtimes.session import Session

DEFAULT_DRAFTED_TOKENS = 4


class Draft:
    """A draft's session and what was counted of it, over all texts it helped to write; a Proposer.

    The session holds a beginning of the text, not always the one the target holds. pace: measures whether it pays and
    switches it off where it does not; None keeps it on. Raises UsageError when the two models do not have one vocabulary.
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
        self.clock: Clock = time.perf_counter if pace is None else pace.clock
        self._tally = Tally()

    @property
    def is_off(self) -> bool:
        """Whether it was found to cost more than it brings."""
        return self.pace is not None and self.pace.is_off

    def acceptance(self) -> Acceptance:
        return self._tally.acceptance()

    def propose(
        self, history: History, sampling: Sampling, generator: np.random.Generator, count: int
    ) -> list[Proposal]:
        if self.pace is not None and not self.pace.wants_proposals:
            return []
        if self.session.position >= len(history.tokens):
            raise UsageError(
                f"the draft is at position {self.session.position}, in a text of {len(history.tokens)} tokens",
                hint="rewind it to what it shares with the prompt, at most all but the last token",
            )
        # it feeds the text and all proposals but the last
        count = min(count, self.drafted_tokens, self.session.context_length - len(history.tokens) + 1)
        proposals: list[Proposal] = []
        pending = history.tokens[self.session.position :]
        while len(proposals) < count:
            logits = self.session.feed(pending)[-1]
            if sampling.temperature == 0:
                proposals.append(Proposal(likeliest(logits, sampling, history)))
            else:
                drafted = distribution(logits, sampling, history)
                proposals.append(Proposal(drafted.draw(generator), drafted))
            pending = [proposals[-1].token]
            history.append(proposals[-1].token)
        history.take_back(len(proposals))
        return proposals

    def settle(self, judged: Round) -> None:
        self._tally.add(judged.drafted, judged.kept)
        begin = self.clock()
        if self.session.position > judged.position:
            self._go_back(judged.position)
        if self.pace is not None and judged.seconds is not None:
            self.pace.add_round(judged.tokens, judged.seconds + self.clock() - begin)

    def _go_back(self, position: int) -> None:
        try:
            self.session.rewind(position)
        except RuntimeFailure:  # some models cannot go back part of the way: this one reads the text again
            self.session.rewind(0)

    def stepped_alone(self, seconds: float) -> None:
        if self.pace is not None:
            self.pace.add_plain(seconds)
