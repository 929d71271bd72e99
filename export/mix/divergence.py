"""KL divergence between the source's next-token distribution and that of perturbed hidden states, per token, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeport.export.calibrate.layerwise import LayerwiseModel
from edgeport.export.families.decoder import EMBEDDING, FINAL_NORM, HEAD

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_PIECE_VALUES = 1 << 23
"""Logits at a time: 64 MiB in float64."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What comes after the last layer of one stream: its hidden states [windows, n_ctx, hidden_size], and the final norm
    and head [vocab_size, hidden_size] where they are not the source's."""

    hidden: Floats
    norm: Floats | None = None
    head: Floats | None = None


def head_name(model: LayerwiseModel) -> str:
    """The tensor that the head multiplies with."""
    return EMBEDDING if model.source.spec.tied_embeddings else HEAD


def kl_of_streams(
    model: LayerwiseModel, base: Floats, streams: Sequence[Floats], advance: Callable[[float], None]
) -> list[Doubles]:
    """KL(source || stream) of each token, [windows * n_ctx] nats, for streams that end in the source's own norm and head.

    Differences of logits are taken before the head, so that the small perturbations of 8 bits are not lost in float32's
    rounding of large logits. `advance` is told how many streams' worth of work was done.
    """
    import torch

    head = model.head_weight()
    base_rows = base.reshape(-1, base.shape[-1])
    parts: list[list[Doubles]] = [[] for _ in streams]
    with torch.inference_mode():
        for piece in _pieces(len(base_rows), head.shape[0]):
            before = _normed(model, base_rows[piece], None)
            products = before @ head.T
            probabilities = torch.softmax(_final(model, products), dim=1)
            for number, stream in enumerate(streams):
                after = _normed(model, stream.reshape(base_rows.shape)[piece], None)
                change = _final_change(model, products, (after - before) @ head.T)
                parts[number].append(_divergence(probabilities, change))
                advance(len(before) / len(base_rows))
    return [np.concatenate(part) for part in parts]


def kl_of_ending(model: LayerwiseModel, base: Floats, ending: Ending) -> Doubles:
    """The same for one stream with a norm or a head of its own."""
    import torch

    head = model.head_weight()
    other = head if ending.head is None else torch.from_numpy(ending.head)
    base_rows = base.reshape(-1, base.shape[-1])
    rows = ending.hidden.reshape(base_rows.shape)
    parts = []
    with torch.inference_mode():
        for piece in _pieces(len(rows), head.shape[0]):
            products = _normed(model, base_rows[piece], None) @ head.T
            change = _normed(model, rows[piece], ending.norm) @ other.T - products
            probabilities = torch.softmax(_final(model, products), dim=1)
            parts.append(_divergence(probabilities, _final_change(model, products, change)))
    return np.concatenate(parts)


def _pieces(rows: int, vocab_size: int) -> list[slice]:
    step = max(_PIECE_VALUES // vocab_size, 1)
    return [slice(start, start + step) for start in range(0, rows, step)]


def _normed(model: LayerwiseModel, rows: Floats, norm: Floats | None) -> torch.Tensor:
    import torch

    replaced = None if norm is None else {FINAL_NORM: norm}
    return model.final_norm(torch.from_numpy(np.array(rows)), replaced)


def _final(model: LayerwiseModel, products: torch.Tensor) -> torch.Tensor:
    """Logits in float64 from the products of the head."""
    import torch

    spec = model.source.spec
    logits = products.double() * spec.logit_scale
    cap = spec.logit_softcap
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _final_change(model: LayerwiseModel, products: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """What `change` of the products does to the logits; without a cap it is only scaled, and stays float32."""
    spec = model.source.spec
    if spec.logit_softcap is None:
        return change * spec.logit_scale
    return _final(model, products.double() + change.double()) - _final(model, products)


def _divergence(probabilities: torch.Tensor, change: torch.Tensor) -> Doubles:
    """KL(p || q) with q = p exp(change) / sum(p exp(change)) is log(sum(p exp(change))) - sum(p change); rows are tokens."""
    import torch

    change = change.double()
    columns = probabilities[:, None, :]
    mean_change = torch.bmm(columns, change[:, :, None]).reshape(-1)
    grown = torch.bmm(columns, change.exp_()[:, :, None]).reshape(-1)
    kl: Doubles = (grown.log() - mean_change).numpy()
    # KL is not negative; rounding in float64 may leave -1e-16 where nothing changed. NaN must stay NaN.
    return np.where(kl < 0, 0.0, kl)
