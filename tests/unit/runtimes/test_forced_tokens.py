"""Generation under a constraint, over sessions without an engine: where it ends, and what is proposed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from byte_vocabulary import STOP, ByteVocabulary

from edgeport.runtimes.constraint import Constraint, Regex, constraint_for
from edgeport.runtimes.draft_model import Draft
from edgeport.runtimes.forced_tokens import ForcedTokens
from edgeport.runtimes.generate import GenerationOptions, Token, generate
from edgeport.runtimes.lookup import PromptLookup
from edgeport.runtimes.penalties import History
from edgeport.runtimes.proposer import Proposer, Round
from edgeport.runtimes.sampling import GREEDY, Sampling

PROMPT = [1, 2, 3]


class Ranked:
    """A session that always likes bytes in the order z, y, ... a, then everything else, the stop token last."""

    context_length = 200

    def __init__(self, vocab_size: int = 257) -> None:
        self.vocab_size, self.fed, self.calls = vocab_size, list[int](), 0
        self._row = np.full(vocab_size, -50, np.float32)
        self._row[ord("a") : ord("z") + 1] = np.arange(26)
        self._row[STOP] = -100

    @property
    def position(self) -> int:
        return len(self.fed)

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> np.ndarray:
        self.fed += tokens
        self.calls += 1
        return np.stack([self._row] * (len(tokens) if all_logits else 1))

    def rewind(self, position: int) -> None:
        del self.fed[position:]

    def close(self) -> None:
        pass


def run(session: Ranked, pattern: str, **options: object) -> list[Token]:
    settings = GenerationOptions(constraint=Regex(pattern), **options)  # type: ignore[arg-type]
    return list(generate(session, ByteVocabulary(), PROMPT, settings))


def text_of(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("speculation", ["none", "auto", "lookup"])
def test_a_text_ends_where_nothing_can_follow(ignore: bool, speculation: str) -> None:
    session = Ranked()
    tokens = run(session, "begin: (one|two) end", ignore_stop_tokens=ignore, speculation=speculation)
    assert text_of(tokens) == "begin: two end" and tokens[-1].finish_reason == "stop"
    assert session.fed == PROMPT + list(b"begin: two en"), "no stop token had to be asked for"


def test_a_stop_token_ends_it_where_it_may_end() -> None:
    class Tired(Ranked):
        def __init__(self) -> None:
            super().__init__()
            self._row[STOP] = 100

    tokens = run(Tired(), "x+")
    assert [token.id for token in tokens] == [ord("x"), STOP] and tokens[-1].finish_reason == "stop"
    assert text_of(tokens) == "x"
    assert [token.id for token in run(Tired(), "x+", ignore_stop_tokens=True)] == [ord("x"), STOP]


def test_a_model_without_a_stop_token_ends_where_nothing_can_follow_or_its_tokens_do() -> None:
    class Endless(ByteVocabulary):
        stop_ids = frozenset()

        def is_stop(self, token: int) -> bool:
            return False

    for pattern, text, reason in (("x{3}", "xxx", "stop"), ("x+", "x" * 9, "length")):
        options = GenerationOptions(9, constraint=Regex(pattern))
        tokens = list(generate(Ranked(), Endless(), PROMPT, options))
        assert (text_of(tokens), tokens[-1].finish_reason) == (text, reason)


def test_forced_tokens_save_calls() -> None:
    pattern = "begin: (one|two) end"
    alone, forced = Ranked(), Ranked()
    run(alone, pattern, speculation="none")
    run(forced, pattern)
    # the prompt and b; "egin: " with t after it; "wo end"
    assert (alone.calls, forced.calls) == (14, 3)


def test_embeddings_padded_beyond_the_vocabulary_are_never_chosen() -> None:
    session = Ranked(300)
    session._row[280] = 1000
    assert text_of(run(session, "[a-c]{3}")) == "ccc"


def test_max_tokens_cuts_it() -> None:
    tokens = run(Ranked(), "abc{40}", max_tokens=5)
    assert text_of(tokens) == "abccc" and tokens[-1].finish_reason == "length"


def constrained(pattern: str, otherwise: Proposer | None) -> tuple[ForcedTokens, Constraint]:
    constraint = constraint_for(Regex(pattern), ByteVocabulary())
    return ForcedTokens(constraint, otherwise), constraint


def proposed(proposer: Proposer, text: str, sampling: Sampling = GREEDY) -> str:
    found = proposer.propose(History(list(text.encode())), sampling, np.random.default_rng(0), 9)
    return bytes(proposal.token for proposal in found).decode()


def test_a_lookup_is_asked_where_there_is_a_choice_and_cut_where_the_rules_end_it() -> None:
    lookup = PromptLookup(most=9)
    lookup.settle(Round(3, 3, 0, None))
    proposer, _ = constrained("(abc|xbd)+", lookup)
    assert proposed(proposer, "abcdabc") == "", "d cannot come first"
    assert proposed(proposer, "xabcqx") == "abc"
    proposer, _ = constrained("abc+", lookup)
    assert proposed(proposer, "xxxx") == "abc", "forced"


def test_a_draft_always_hears_what_came_of_its_proposals() -> None:
    """What the rules reject is cut from greedy proposals but for one; drawn ones stay, their distribution needs them."""
    session = Ranked()
    draft = Draft(session, Ranked(), 3)
    proposer, _ = constrained("(a|b)+", draft)
    for sampling, count in ((GREEDY, 1), (Sampling(temperature=1.0), 3)):
        session.rewind(0)
        assert len(proposer.propose(History([1, 2]), sampling, np.random.default_rng(0), 9)) == count
        proposer.settle(Round(count, 0, 1, None))
        assert session.position == 1
    assert draft.acceptance().steps == 2
