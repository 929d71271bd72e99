"""The float32 network of a source model, for teacher and student alike."""

from __future__ import annotations

from typing import Any

from edgeport.errors import UnsupportedModel
from edgeport.export.families.storage import require_plain
from edgeport.export.recover.attention import use_chunked_attention
from edgeport.export.source import SourceModel
from edgeport.lazy import missing_extra


def load_float_network(source: SourceModel, *, gradient_checkpointing: bool = False) -> Any:
    """The float32 model without dropout: the same tokens give the same logits, in training too.

    gradient_checkpointing: keep one hidden state per layer and compute a layer again in the backward pass.
    Raises UnsupportedModel for a folder that transformers does not open.
    """
    with missing_extra("eval", purpose="distillation"):
        import torch
        from transformers.utils import logging

        from edgeport.export.families.network import load_network
    logging.disable_progress_bar()
    require_plain(source.spec.storage, source.spec.family, "training")
    try:
        network = load_network(source.directory, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise UnsupportedModel(f"transformers cannot open {source.directory}: {error}") from error
    for module in network.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    if not any(map(source.spec.window, range(source.spec.layers))):
        use_chunked_attention(network)  # it knows no window
    if gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
        network.train()  # transformers checkpoints in training mode only
    return network


def freeze(network: Any, precision: str) -> Any:
    """A network that only answers: no gradients, and weights of linears stored as they are multiplied.

    Under autocast a frozen weight would be rounded again for each batch; norms and the residual stream stay in float32.
    """
    import torch

    network.requires_grad_(False)
    if precision != "bf16":
        return network
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            # A parameter of its own: the embedding that a head is tied to keeps its float32 values.
            module.weight = torch.nn.Parameter(module.weight.to(torch.bfloat16), requires_grad=False)
            if module.bias is not None:
                module.bias = torch.nn.Parameter(module.bias.to(torch.bfloat16), requires_grad=False)
    return network
