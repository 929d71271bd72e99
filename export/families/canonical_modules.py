"""transformers' modules rebuilt so that a network's parameters are a spec's canonical tensors, by name and by value.

Everything that runs a source in torch (layerwise solvers, distillation, evaluation) then finds `self_attn.q_proj` in every
family, and a norm's weight is what the norm multiplies with. The arithmetic is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from edgeport.export.families.decoder import DecoderSpec


class ScalingNorm(torch.nn.Module):  # type: ignore[misc]
    """RMSNorm of x [..., width] in float32, times `weight` [width], as Gemma's with its one added."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        wide = hidden.float()
        normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normal * self.weight.float()).type_as(hidden)


class Joined(torch.nn.Module):  # type: ignore[misc]
    """Several linears over one input, their outputs [..., rows] one after the other. The linears belong to another module."""

    def __init__(self, parts: tuple[torch.nn.Linear, ...]) -> None:
        super().__init__()
        self.parts = parts  # a tuple is no submodule: names stay the owner's

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(hidden) for part in self.parts], dim=-1)


def make_canonical(network: Any, spec: DecoderSpec) -> Any:
    """Replace, in place, what the family stores otherwise; weights follow, also when they are on the meta device."""
    for index, layer in enumerate(network.model.layers):
        for stored, parts in spec.storage.fused:
            _split(layer, stored, parts, dict(_rows(spec, index)))
    if spec.storage.norm_offset:
        for name, module in list(network.model.named_modules()):
            if name.endswith("norm") and hasattr(module, "weight"):
                weight = module.weight.detach().float() + spec.storage.norm_offset
                network.model.set_submodule(name, ScalingNorm(weight, float(module.eps)))
    return network


def _rows(spec: DecoderSpec, index: int) -> Iterator[tuple[str, int]]:
    prefix = f"model.layers.{index}."
    for item in spec.layer_tensors(index):
        if item.role == "linear":
            yield item.name.removeprefix(prefix).removesuffix(".weight"), item.shape[0]


def _split(layer: Any, stored: str, parts: tuple[str, ...], rows: dict[str, int]) -> None:
    whole = layer.get_submodule(stored)
    pieces = whole.weight.detach().split([rows[part] for part in parts])
    linears = []
    for part, piece in zip(parts, pieces, strict=True):
        linear = torch.nn.Linear(piece.shape[1], piece.shape[0], bias=False, device="meta")
        linear.weight = torch.nn.Parameter(piece)
        layer.set_submodule(part, linear.train(whole.training))
        linears.append(linear)
    layer.set_submodule(stored, Joined(tuple(linears)))
