"""One generate loop over any session: sample, stream text, stop. Every engine is used through this one."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes.generation_defaults import PLAIN, GenerationDefaults, SamplingChanges
from edgeport.runtimes.sampling import Sampling, choose, log_probability
from edgeport.runtimes.session import Logits, Session
from edgeport.runtimes.speculative import Draft, speculate
from edgeport.runtimes.text_stream import StopStrings, TextStream
from edgeport.runtimes.tokenizer import Tokenizer

FinishReason = Literal["stop", "length", "context"]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    text: what became certain with it; it may be empty (half a character) and belong to earlier tokens.
    logprob: ln p under the engine's raw logits, when asked for. finish_reason: on the last token only; `stop` is a stop
    token (which has no text of its own) or a stop string, `length` is max_tokens, `context` a full context before that.
    """

    id: int
    text: str
    logprob: float | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to write one text. What is left out is the model's own (edgeport.runtimes.generation_defaults).

    max_tokens: None means the model's own (256 where it says nothing), or fewer where the context ends earlier; a number
    must fit the context. sampling: None means the model's own, SamplingChanges change single fields of that, a Sampling is
    taken exactly as it is. stop: the text ends before any of these. ignore_stop_tokens: go on after the model says it is
    done (for benchmarks). prompt_cache: what the prompt shares with the text before is not computed again.
    """

    max_tokens: int | None = None
    sampling: Sampling | SamplingChanges | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    ignore_stop_tokens: bool = False
    prompt_cache: bool = True

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {self.max_tokens}")


def generate(
    session: Session,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    options: GenerationOptions,
    draft: Draft | None = None,
    defaults: GenerationDefaults = PLAIN,
) -> Generator[Token]:
    """Yield what follows `prompt` as it comes; the session then holds the prompt and all but the last of these tokens.

    The session may already hold a beginning of `prompt` (its position says how much, at most all but the last token),
    which is not computed again. draft: a smaller model that proposes tokens (see edgeport.runtimes.speculative).
    defaults: what `options` leaves open.

    Raises RuntimeFailure at once when prompt and max_tokens do not fit the context: nothing is cut in silence. Stopping
    early (closing the iterator) leaves the session usable.
    """
    if not len(prompt):
        raise UsageError("the prompt is empty", hint="give at least one token to continue")
    if session.position >= len(prompt):
        raise UsageError(
            f"the session is at position {session.position}, in a prompt of {len(prompt)} tokens",
            hint="rewind it to what it shares with the prompt, at most all but the last token",
        )
    sampling, room = defaults.sampling_for(options.sampling), _room(session, prompt, options, defaults)
    choices = (
        _choices(session, prompt, sampling, room.tokens)
        if draft is None
        else speculate(session, draft, prompt, sampling, room.tokens)
    )
    return _tokens(choices, tokenizer, options, room)


@dataclass(frozen=True, slots=True)
class _Room:
    """tokens: how many may be generated. reason: why the last of them is the last."""

    tokens: int
    reason: FinishReason


def _choices(
    session: Session, prompt: Sequence[int], sampling: Sampling, room: int
) -> Generator[tuple[int, Logits]]:
    """`room` tokens, each with the logits [vocab_size] it was chosen from; a token is fed when the next is asked for."""
    generator = np.random.default_rng(sampling.seed)
    seen = list(prompt)
    pending: Sequence[int] = prompt[session.position :]
    for _ in range(room):
        logits = session.feed(pending)[-1]
        token = choose(logits, sampling, seen, generator)
        seen.append(token)
        pending = [token]
        yield token, logits


def _tokens(
    choices: Generator[tuple[int, Logits]], tokenizer: Tokenizer, options: GenerationOptions, room: _Room
) -> Generator[Token]:
    with closing(choices):
        yield from _texts(choices, tokenizer, options, room)


def _texts(
    choices: Iterator[tuple[int, Logits]], tokenizer: Tokenizer, options: GenerationOptions, room: _Room
) -> Iterator[Token]:
    text, stops = TextStream(tokenizer), StopStrings(options.stop)
    for count, (token, logits) in enumerate(choices, start=1):
        logprob = log_probability(logits, token) if options.logprobs else None
        ended = tokenizer.is_stop(token) and not options.ignore_stop_tokens
        piece = stops.push("" if ended else text.push(token))
        last = ended or count == room.tokens or stops.found is not None
        if last:
            piece += stops.push(text.finish()) + stops.finish()
        stopped = ended or stops.found is not None
        yield Token(token, piece, logprob, ("stop" if stopped else room.reason) if last else None)
        if last:
            return


def _room(
    session: Session, prompt: Sequence[int], options: GenerationOptions, defaults: GenerationDefaults
) -> _Room:
    """The last token is never fed, so it needs no place."""
    free = session.context_length - len(prompt) + 1
    wanted = options.max_tokens
    if wanted is None:
        wanted = min(defaults.max_tokens, max(free, 1))
    if wanted > free:
        need = len(prompt) + wanted - 1
        raise RuntimeFailure(
            f"a prompt of {len(prompt)} tokens and {wanted} new ones need a context of {need}, this session has {session.context_length}",
            hint="ask for fewer tokens, shorten the prompt, or open the model with a larger context_length",
        )
    full = options.max_tokens is None and wanted < defaults.max_tokens
    return _Room(wanted, "context" if full else "length")
