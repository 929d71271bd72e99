"""A whole answer: a stream read to its end."""

from __future__ import annotations

import time
from dataclasses import dataclass

from edgeport.errors import RuntimeFailure
from edgeport.runtimes.generate import FinishReason
from edgeport.runtimes.token_stream import TokenStream
from edgeport.runtimes.tokenizer import Message


@dataclass(frozen=True, slots=True)
class Completion:
    """ttft_ms: the prompt fed and the first token chosen, tokenization and waiting excluded; decode excludes that token.

    cached_tokens: tokens of the prompt that were not computed again. dropped_messages: what was left out of a conversation.
    logprobs, top_logprobs: as on each Token, where they were asked for.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    ttft_ms: float
    decode_tokens_per_s: float | None
    cached_tokens: int = 0
    dropped_messages: tuple[Message, ...] = ()
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None


def complete(stream: TokenStream) -> Completion:
    """Read `stream` to its end. Raises RuntimeFailure when it was cancelled before that."""
    tokens, times = [], []
    for token in stream:
        tokens.append(token)
        times.append(time.perf_counter())
    if not tokens or tokens[-1].finish_reason is None or stream.begun_s is None:
        raise RuntimeFailure("the text was cancelled before its end")
    logprobs = tuple(token.logprob for token in tokens if token.logprob is not None)
    rivals = tuple(token.top_logprobs for token in tokens if token.top_logprobs is not None)
    decode_s = times[-1] - times[0]
    return Completion(
        text="".join(token.text for token in tokens),
        tokens=tuple(token.id for token in tokens),
        finish_reason=tokens[-1].finish_reason,
        prompt_tokens=stream.prompt_tokens,
        ttft_ms=(times[0] - stream.begun_s) * 1000,
        decode_tokens_per_s=(len(times) - 1) / decode_s if decode_s > 0 else None,
        cached_tokens=stream.cached_tokens,
        dropped_messages=stream.dropped_messages,
        logprobs=logprobs or None,
        top_logprobs=rivals or None,
    )
