"""Causal attention for training on a processor, where every window is full and nothing is padded.

torch's flash kernel for processors takes a large part of a small model's step. Here each chunk of queries sees only its own
prefix, which halves the work, and the query heads of one key-value head share one matrix product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ATTENTION_NAME = "edgeport_chunked_causal"
_CHUNK = 128


def use_chunked_attention(network: Any) -> None:
    """Let all of a network's layers compute attention here. They are called without a mask then."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, chunked_causal_attention)
    network.set_attn_implementation(ATTENTION_NAME)


def chunked_causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """query [batch, heads, n_ctx, head_dim], key and value [batch, kv_heads, n_ctx, head_dim] -> [batch, n_ctx, heads, head_dim].

    The signature is transformers' AttentionInterface; Vaswani et al. 2017 (arXiv:1706.03762), grouped queries after
    Ainslie et al. 2023 (arXiv:2305.13245).
    """
    import torch

    batch, heads, length, size = query.shape
    kv_heads = key.shape[1]
    grouped = (query * scaling).reshape(batch, kv_heads, heads // kv_heads, length, size)
    pieces = []
    for start in range(0, length, _CHUNK):
        stop = min(start + _CHUNK, length)
        rows = grouped[:, :, :, start:stop].reshape(batch, kv_heads, -1, size)
        scores = (rows @ key[:, :, :stop].transpose(-1, -2)).view(batch, kv_heads, -1, stop - start, stop)
        future = torch.ones(stop - start, stop, dtype=torch.bool).triu(start + 1)
        weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1).to(value.dtype).flatten(2, 3)
        pieces.append((weights @ value[:, :, :stop]).view(batch, heads, stop - start, size))
    return torch.cat(pieces, dim=2).transpose(1, 2), None
