"""One generate loop over any session: sample, stream text, stop. Every engine is used through this one."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes.sampling import GREEDY, Sampling, choose, log_probability
from edgeport.runtimes.session import Logits, Session
from edgeport.runtimes.speculative import Draft, speculate
from edgeport.runtimes.text_stream import StopStrings, TextStream
from edgeport.runtimes.tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]
DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    text: what became certain with it; it may be empty (half a character) and belong to earlier tokens.
    logprob: ln p under the engine's raw logits, when asked for. finish_reason: on the last token only; `stop` is a stop
    token (which has no text of its own) or a stop string, `length` is max_tokens or a full context.
    """

    id: int
    text: str
    logprob: float | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """max_tokens: None means up to 256, or fewer where the context ends earlier; a number must fit the context.

    stop: the text ends before any of these. ignore_stop_tokens: go on after the model says it is done (for benchmarks).
    """

    max_tokens: int | None = None
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    ignore_stop_tokens: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {self.max_tokens}")


def generate(
    session: Session,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    options: GenerationOptions,
    draft: Draft | None = None,
) -> Iterator[Token]:
    """Append `prompt` to the session and yield tokens as they come; the session then holds all but the last of them.

    draft: a smaller model at the same position that proposes tokens (see edgeport.runtimes.speculative).

    Raises RuntimeFailure at once when prompt and max_tokens do not fit the context: nothing is cut in silence. Stopping
    early (closing the iterator) leaves the session usable.
    """
    room = _room(session, prompt, options.max_tokens)
    if draft is None:
        return _tokens(_choices(session, prompt, options.sampling, room), tokenizer, options, room)
    return _tokens(speculate(session, draft, prompt, options.sampling, room), tokenizer, options, room)


def _choices(
    session: Session, prompt: Sequence[int], sampling: Sampling, room: int
) -> Generator[tuple[int, Logits]]:
    """`room` tokens, each with the logits [vocab_size] it was chosen from; a token is fed when the next is asked for."""
    generator = np.random.default_rng(sampling.seed)
    seen = list(prompt)
    pending: Sequence[int] = prompt
    for _ in range(room):
        logits = session.feed(pending)[-1]
        token = choose(logits, sampling, seen, generator)
        seen.append(token)
        pending = [token]
        yield token, logits


def _tokens(
    choices: Generator[tuple[int, Logits]], tokenizer: Tokenizer, options: GenerationOptions, room: int
) -> Iterator[Token]:
    with closing(choices):
        yield from _texts(choices, tokenizer, options, room)


def _texts(
    choices: Iterator[tuple[int, Logits]], tokenizer: Tokenizer, options: GenerationOptions, room: int
) -> Iterator[Token]:
    text, stops = TextStream(tokenizer), StopStrings(options.stop)
    for count, (token, logits) in enumerate(choices, start=1):
        logprob = log_probability(logits, token) if options.logprobs else None
        ended = tokenizer.is_stop(token) and not options.ignore_stop_tokens
        piece = stops.push("" if ended else text.push(token))
        last = ended or count == room or stops.found is not None
        if last:
            piece += stops.push(text.finish()) + stops.finish()
        yield Token(token, piece, logprob, _reason(ended or stops.found is not None) if last else None)
        if last:
            return


def _reason(stopped: bool) -> FinishReason:
    return "stop" if stopped else "length"


def _room(session: Session, prompt: Sequence[int], max_tokens: int | None) -> int:
    """How many tokens may be generated; the last one is never fed, so it needs no place."""
    free = session.context_length - session.position - len(prompt) + 1
    wanted = min(DEFAULT_MAX_TOKENS, max(free, 1)) if max_tokens is None else max_tokens
    if wanted > free:
        need = session.position + len(prompt) + wanted - 1
        raise RuntimeFailure(
            f"a prompt of {len(prompt)} tokens and {wanted} new ones need a context of {need}, this session has {session.context_length}",
            hint="ask for fewer tokens, shorten the prompt, or open the model with a larger context_length",
        )
    return wanted
