"""Writing a text over a session: one token per call, or several where something proposes them and the target judges.

Greedy text is the target's own: a proposal is kept while it is what the target would have taken. Sampled text follows the
target's distribution p whatever the draft's q is: a token drawn from q is kept with probability min(1, p/q), and replaced
by a draw from max(0, p - q) otherwise (Leviathan, Kalman, Matias 2023, arXiv:2211.17192, algorithm 1 and appendix A.1;
Chen et al. 2023, arXiv:2302.01318). A proposal that was not drawn is kept when the target draws it too: that happens with
probability p as well, and the random numbers are those of a text without proposals, so the text is the same.
A constraint holds for the target; who proposes need not know of it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing, suppress

import numpy as np

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes.acceptance import Acceptance
from edgeport.runtimes.constraint import Constraint
from edgeport.runtimes.draft_model import DEFAULT_DRAFTED_TOKENS, Draft
from edgeport.runtimes.penalties import History
from edgeport.runtimes.proposer import Proposal, Proposer, Round
from edgeport.runtimes.sampling import GREEDY, Mask, Sampling, choose, distribution
from edgeport.runtimes.session import Logits, Session

Choice = tuple[int, Logits]
"""A token and the target's logits [vocab_size] it was chosen by."""


def write(
    session: Session,
    history: History,
    sampling: Sampling,
    room: int,
    constraint: Constraint | None = None,
    proposer: Proposer | None = None,
) -> Generator[Choice]:
    """Up to `room` tokens after the prompt in `history`, which grows with them; fewer where the constraint is complete.

    The session may hold a beginning of the prompt, which is not fed again. However far the caller goes, the session then
    holds the prompt and all but the last token taken from here. Raises UsageError when it holds the whole prompt already.
    """
    if session.position >= len(history.tokens):
        raise UsageError(
            f"the session is at position {session.position}, in a prompt of {len(history.tokens)} tokens",
            hint="rewind it to what it shares with the prompt, at most all but the last token",
        )
    text = _Text(session, history, sampling, constraint, proposer)
    yield text.step()
    room -= 1
    while room > 0 and not text.is_complete:
        with closing(text.more(room)) as choices:
            for choice in choices:
                room -= 1
                yield choice


def measure_acceptance(
    target: Session,
    draft: Session,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    *,
    drafted_tokens: int = DEFAULT_DRAFTED_TOKENS,
    sampling: Sampling = GREEDY,
) -> Acceptance:
    """Write `tokens` tokens after each prompt with both; the text of the target is what the figures are of."""
    helper = Draft(draft, target, drafted_tokens)
    for prompt in prompts:
        target.rewind(0)
        draft.rewind(0)
        for _ in write(target, History(prompt), sampling, tokens, proposer=helper):
            pass
    return helper.acceptance()


class _Text:
    """One text being written. Between two tokens the target holds all of the history but its last token."""

    def __init__(
        self,
        target: Session,
        history: History,
        sampling: Sampling,
        constraint: Constraint | None,
        proposer: Proposer | None,
    ) -> None:
        self._target, self._history, self._sampling = target, history, sampling
        self._constraint, self._proposer = constraint, proposer
        self._generator = np.random.default_rng(sampling.seed)

    @property
    def is_complete(self) -> bool:
        return self._constraint is not None and self._constraint.is_complete

    def step(self) -> Choice:
        """The next token, from the target alone."""
        logits = self._feed()
        return self._take(self._choose(logits)), logits

    def _feed(self) -> Logits:
        """Logits [vocab_size] after all of the history."""
        logits: Logits = self._target.feed(self._history.tokens[self._target.position :])[-1]
        return logits

    def more(self, room: int) -> Generator[Choice]:
        """The next one to `room` tokens, from one call of the target."""
        proposer = self._proposer
        if proposer is None:
            yield self.step()
            return
        begin = proposer.clock()
        # the target adds a token of its own, and the proposals need a place in its context
        count = min(room - 1, self._target.context_length - len(self._history.tokens))
        if count > 0:
            proposals = proposer.propose(self._history, self._sampling, self._generator, count)
            if proposals:
                yield from self._round(proposer, proposals, begin)
                return
        logits = self._feed()
        # choosing costs the same per token either way and is in neither time
        proposer.stepped_alone(proposer.clock() - begin)
        yield self._take(self._choose(logits)), logits

    def _round(self, proposer: Proposer, proposals: Sequence[Proposal], begin: float) -> Generator[Choice]:
        """Judged one by one as they are asked for: whoever stops has taken back what was not asked for."""
        fed = [self._history.tokens[-1], *(proposal.token for proposal in proposals)]
        rows = self._target.feed(fed, all_logits=True)  # [len(proposals) + 1, vocab_size]
        seconds = proposer.clock() - begin
        kept, is_whole = 0, False
        try:
            for proposal, logits in zip(proposals, rows, strict=False):
                token = self._take(self._judge(proposal, logits))
                kept += token == proposal.token
                is_whole = token != proposal.token or self.is_complete
                yield token, logits
                if is_whole:
                    return
            token, is_whole = self._take(self._choose(rows[-1])), True
            yield token, rows[-1]
        finally:
            with suppress(RuntimeFailure):  # a closed session holds nothing
                begin = proposer.clock()
                position = len(self._history.tokens) - 1
                if self._target.position > position:
                    self._go_back(position)
                seconds += proposer.clock() - begin
                proposer.settle(Round(len(proposals), kept, position, seconds if is_whole else None))

    def _go_back(self, position: int) -> None:
        try:
            self._target.rewind(position)
        except RuntimeFailure:
            # A recurrent state or a cut window cannot go back part of the way: read the text again, and propose no more.
            self._proposer = None
            self._target.rewind(0)

    def _judge(self, proposal: Proposal, logits: Logits) -> int:
        """The proposal's token when the target keeps it, else what it takes in its place."""
        drafted = proposal.distribution
        if drafted is None:
            return self._choose(logits)
        wished = distribution(logits, self._sampling, self._history, self._allowed())
        likely = wished.probability(proposal.token)
        if self._generator.random() * drafted.probability(proposal.token) < likely:
            return proposal.token
        return wished.beyond(drafted).draw(self._generator)

    def _choose(self, logits: Logits) -> int:
        return choose(logits, self._sampling, self._history, self._generator, self._allowed())

    def _allowed(self) -> Mask | None:
        if self._constraint is None:
            return None
        mask, size = self._constraint.allowed(), self._target.vocab_size
        if mask.size == size:
            return mask
        fitted = np.zeros(size, np.bool_)  # embeddings are often padded beyond the tokenizer's last token
        fitted[: mask.size] = mask[:size]
        return fitted

    def _take(self, token: int) -> int:
        self._history.append(token)
        if self._constraint is not None:
            self._constraint.accept(token)
        return token
