"""One generate loop over any session: sample, stream text, stop. Every engine is used through this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes.sampling import GREEDY, Sampling, choose, log_probability
from edgeport.runtimes.session import Session
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
    session: Session, tokenizer: Tokenizer, prompt: Sequence[int], options: GenerationOptions
) -> Iterator[Token]:
    """Append `prompt` to the session and yield tokens as they come; the session then holds all but the last of them.

    Raises RuntimeFailure at once when prompt and max_tokens do not fit the context: nothing is cut in silence. Stopping
    early (closing the iterator) leaves the session usable.
    """
    room = _room(session, prompt, options.max_tokens)
    return _tokens(session, tokenizer, prompt, options, room)


def _tokens(
    session: Session, tokenizer: Tokenizer, prompt: Sequence[int], options: GenerationOptions, room: int
) -> Iterator[Token]:
    generator = np.random.default_rng(options.sampling.seed)
    text, stops = TextStream(tokenizer), StopStrings(options.stop)
    seen = list(prompt)
    logits = session.feed(prompt)[-1]
    for count in range(1, room + 1):
        token = choose(logits, options.sampling, seen, generator)
        logprob = log_probability(logits, token) if options.logprobs else None
        seen.append(token)
        ended = tokenizer.is_stop(token) and not options.ignore_stop_tokens
        piece = stops.push("" if ended else text.push(token))
        last = ended or count == room or stops.found is not None
        if last:
            piece += stops.push(text.finish()) + stops.finish()
        yield Token(token, piece, logprob, _reason(ended or stops.found is not None) if last else None)
        if last:
            return
        logits = session.feed([token])[-1]


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
