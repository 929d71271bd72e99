"""One generate loop over any session: sample, stream text, stop. Every engine is used through this one."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes.constraint import Constraint, Specification, constraint_for
from edgeport.runtimes.forced_tokens import ForcedTokens
from edgeport.runtimes.generation_defaults import PLAIN, GenerationDefaults, SamplingChanges
from edgeport.runtimes.penalties import History
from edgeport.runtimes.proposer import Proposer
from edgeport.runtimes.sampling import Sampling, log_probability, top_log_probabilities
from edgeport.runtimes.session import Session
from edgeport.runtimes.speculative import Choice, write
from edgeport.runtimes.text_stream import StopStrings, TextStream
from edgeport.runtimes.tokenizer import Tokenizer

FinishReason = Literal["stop", "length", "context"]
Speculation = Literal["auto", "none", "lookup"]
SPECULATIONS: tuple[Speculation, ...] = ("auto", "none", "lookup")


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    text: what became certain with it; it may be empty (half a character) and belong to earlier tokens.
    logprob: ln p under the engine's raw logits, when asked for. finish_reason: on the last token only; `stop` is a stop
    token (which has no text of its own), a stop string or a constraint after which nothing can follow, `length` is
    max_tokens, `context` a full context before that. top_logprobs: the likeliest tokens and their ln p, likeliest first.
    """

    id: int
    text: str
    logprob: float | None = None
    finish_reason: FinishReason | None = None
    top_logprobs: tuple[tuple[int, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to write one text. What is left out is the model's own (edgeport.runtimes.generation_defaults).

    max_tokens: None means the model's own (256 where it says nothing), or fewer where the context ends earlier; a number
    must fit the context. sampling: None means the model's own, SamplingChanges change single fields of that, a Sampling is
    taken exactly as it is. stop: the text ends before any of these. ignore_stop_tokens: go on after the model says it is
    done (for benchmarks). prompt_cache: what the prompt shares with the text before is not computed again. top_logprobs: how
    many of the likeliest tokens to name beside each, with logprobs. constraint: what the text must be (docs/constrained.md);
    stop tokens then end it wherever it may end. speculation: who may propose tokens (docs/drafts.md): `auto` the draft that was
    opened with the model, but not for sampled text with a seed; `lookup` what followed the same words before; `none` nobody.
    """

    max_tokens: int | None = None
    sampling: Sampling | SamplingChanges | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    ignore_stop_tokens: bool = False
    prompt_cache: bool = True
    top_logprobs: int = 0
    constraint: Specification | None = None
    speculation: Speculation = "auto"

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if self.top_logprobs < 0 or (self.top_logprobs and not self.logprobs):
            raise UsageError(f"top_logprobs is {self.top_logprobs}", hint="0 or more, and with logprobs")
        if self.speculation not in SPECULATIONS:
            raise UsageError(f"speculation is {self.speculation!r}", hint=f"one of {', '.join(SPECULATIONS)}")


def generate(
    session: Session,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    options: GenerationOptions,
    proposer: Proposer | None = None,
    defaults: GenerationDefaults = PLAIN,
) -> Generator[Token]:
    """Yield what follows `prompt` as it comes; the session then holds the prompt and all but the last of these tokens.

    The session may already hold a beginning of `prompt` (its position says how much, at most all but the last token),
    which is not computed again. proposer: who proposes tokens (edgeport.runtimes.proposer), unless `options` forbid it.
    defaults: what `options` leaves open.

    Raises RuntimeFailure at once when prompt and max_tokens do not fit the context: nothing is cut in silence. Stopping
    early (closing the iterator) leaves the session usable.
    """
    room = room_for(session.context_length, len(prompt), options, defaults)
    if session.position >= len(prompt):
        raise UsageError(
            f"the session is at position {session.position}, in a prompt of {len(prompt)} tokens",
            hint="rewind it to what it shares with the prompt, at most all but the last token",
        )
    sampling = defaults.sampling_for(options.sampling)
    constraint = None if options.constraint is None else constraint_for(options.constraint, tokenizer)
    if options.speculation == "none":
        proposer = None
    elif constraint is not None:
        proposer = ForcedTokens(constraint, proposer)
    choices = write(session, History(prompt), sampling, room.tokens, constraint, proposer)
    return _tokens(choices, _Ends(tokenizer, options, room, constraint))


@dataclass(frozen=True, slots=True)
class Room:
    """tokens: how many may be generated. reason: why the last of them is the last."""

    tokens: int
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class _Ends:
    """All that can end a text."""

    tokenizer: Tokenizer
    options: GenerationOptions
    room: Room
    constraint: Constraint | None

    def is_stop(self, token: int) -> bool:
        ignored = self.options.ignore_stop_tokens and self.constraint is None
        return not ignored and self.tokenizer.is_stop(token)

    @property
    def is_complete(self) -> bool:
        return self.constraint is not None and self.constraint.is_complete


def _tokens(choices: Generator[Choice], ends: _Ends) -> Generator[Token]:
    with closing(choices):
        yield from _texts(choices, ends)


def _texts(choices: Iterator[Choice], ends: _Ends) -> Generator[Token]:
    options, text, stops = ends.options, TextStream(ends.tokenizer), StopStrings(ends.options.stop)
    for count, (token, logits) in enumerate(choices, start=1):
        logprob = log_probability(logits, token) if options.logprobs else None
        likeliest = top_log_probabilities(logits, options.top_logprobs) if options.top_logprobs else None
        ended = ends.is_stop(token)
        piece = stops.push("" if ended else text.push(token))
        stopped = ended or stops.found is not None or ends.is_complete
        last = stopped or count == ends.room.tokens
        if last:
            piece += stops.push(text.finish()) + stops.finish()
        reason = ("stop" if stopped or stops.found is not None else ends.room.reason) if last else None
        yield Token(token, piece, logprob, reason, likeliest)
        if last:
            return


def room_for(
    context_length: int, prompt_tokens: int, options: GenerationOptions, defaults: GenerationDefaults = PLAIN
) -> Room:
    """How much may follow a prompt; the last token is never fed, so it needs no place.

    Raises UsageError for an empty prompt, RuntimeFailure where it does not fit with what was asked for.
    """
    if not prompt_tokens:
        raise UsageError("the prompt is empty", hint="give at least one token to continue")
    free = context_length - prompt_tokens + 1
    wanted = options.max_tokens
    if wanted is None:
        wanted = min(defaults.max_tokens, max(free, 1))
    if wanted > free:
        need = prompt_tokens + wanted - 1
        raise RuntimeFailure(
            f"a prompt of {prompt_tokens} tokens and {wanted} new ones need a context of {need}, this session has {context_length}",
            hint="ask for fewer tokens, shorten the prompt, or open the model with a larger context_length",
        )
    full = options.max_tokens is None and wanted < defaults.max_tokens
    return Room(wanted, "context" if full else "length")
