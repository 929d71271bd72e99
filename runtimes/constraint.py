"""Output held to a JSON schema, a grammar or a regular expression: a mask over the vocabulary at each token.

The automata are llguidance's (https://github.com/guidance-ai/llguidance), so every engine writes under the same rules. The
package is opened when the first constraint is made; docs/constrained.md says what schemas and grammars may hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeport.errors import RuntimeFailure
from edgeport.lazy import missing_extra

if TYPE_CHECKING:
    from edgeport.runtimes.tokenizer import Tokenizer

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """document: a JSON schema, or its text. The output is one line of JSON that satisfies it, with `, ` and `: `."""

    document: Mapping[str, Any] | str


@dataclass(frozen=True, slots=True)
class Grammar:
    """text: a grammar in llguidance's Lark dialect, whose first rule is `start`."""

    text: str


@dataclass(frozen=True, slots=True)
class Regex:
    """pattern: in Rust's regex syntax, without look-around; the whole output matches it."""

    pattern: str


Specification = JsonSchema | Grammar | Regex


class Constraint(Protocol):
    """What one text may still become. Made anew for each text."""

    def allowed(self) -> Mask:
        """Which tokens may come next [vocab_size of the tokenizer]; stop tokens where the text may end here."""
        ...

    def accept(self, token: int) -> None:
        """The next token of the text. Raises RuntimeFailure for one that was not allowed."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether nothing but a stop token can follow, or one was accepted."""
        ...

    def forced(self) -> Sequence[int]:
        """Tokens that the text goes on with as the tokenizer would cut it, as far as the rules leave no other text; may be empty."""
        ...

    def admits(self, tokens: Sequence[int]) -> int:
        """How many of `tokens`, from the first on, may come next one after the other."""
        ...


def constraint_for(specification: Specification, tokenizer: Tokenizer) -> Constraint:
    """Raises UsageError for rules that cannot be read or satisfied, MissingExtra when llguidance is not installed."""
    with missing_extra("constrained", purpose="constrained output"):
        import llguidance
    from edgeport.runtimes.constraint_rules import rules_of
    from edgeport.runtimes.constraint_vocabulary import vocabulary_of

    vocabulary = vocabulary_of(tokenizer)
    rules = rules_of(specification, vocabulary)
    return _Matcher(llguidance.LLMatcher(vocabulary, rules, log_level=0), vocabulary.vocab_size)


class _Matcher:
    """llguidance's matcher behind the protocol. One mask per token: it is kept until the next token is accepted."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size
        self._mask: Mask | None = None

    def allowed(self) -> Mask:
        if self._mask is None:
            packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            self._check()
            bits = np.unpackbits(packed, count=self._vocab_size, bitorder="little")
            self._mask = bits.view(np.bool_)
            if not self._mask.any():
                raise RuntimeFailure(
                    "no token of this vocabulary can follow under the constraint",
                    hint="allow characters that the model's tokenizer has",
                )
        return self._mask

    def accept(self, token: int) -> None:
        self._mask = None
        if not self._matcher.consume_token(token):
            self._check()
            raise RuntimeFailure(f"token {token} is not allowed by the constraint")

    @property
    def is_complete(self) -> bool:
        return bool(self._matcher.is_stopped())

    def forced(self) -> list[int]:
        return list(self._matcher.compute_ff_tokens())

    def admits(self, tokens: Sequence[int]) -> int:
        return int(self._matcher.validate_tokens(list(tokens)))

    def _check(self) -> None:
        """llguidance reports no error by itself: a matcher that gave up stays in that state."""
        if self._matcher.is_error():
            cause = str(self._matcher.get_error()).partition("\n")[0]
            raise RuntimeFailure(
                f"the constraint cannot be followed any further: {cause}",
                hint="simplify the schema or grammar",
            )
