"""When llama.cpp's attention on a processor is fused, and how much of a prompt is computed at once: one rule for the adapter
that runs it and for the memory that is predicted.

The fused kernel of the CPU goes through the cache row by row. Prompts are faster with it; a token some hundreds of tokens deep
is not, and the deeper the less. Without it the scores [heads, chunk, context] stand in memory in float32, so it is
left out only where they stay small.
"""

from __future__ import annotations

SCORE_BYTES = 16 * 2**20
CHUNKS = (256, 128, 64)
"""Tokens of a prompt at once without fused attention, the largest that fits; with less than the last it is fused. More than 256
is slower: scores of what comes later in the chunk are computed for nothing."""


def unfused_chunk(heads: int, context_length: int) -> int:
    """Tokens per chunk without fused attention; 0 where the scores of the smallest chunk would be too large."""
    room = SCORE_BYTES // (4 * max(1, heads) * max(1, context_length))
    return next((count for count in CHUNKS if count <= room), 0)


def score_bytes(heads: int, context_length: int) -> int:
    """What the scores take while a prompt is read; 0 where attention is fused."""
    return 4 * heads * min(unfused_chunk(heads, context_length), context_length) * context_length
