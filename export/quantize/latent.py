"""A quantized weight that gradients can move: latent values in units of codes, and a factor on each scale.

Forward, codes are rounded and clipped and scales are put on the grid, so the network computes with exactly what will be
stored; backward, both roundings pass the gradient straight through (arXiv:1308.3432), and the scale's gradient is that of
learned step sizes (arXiv:1902.08153).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.export.checkpoint import PackedTensor, pack_codes
from edgeport.export.quantize.grid import Floats, round_to_grid
from edgeport.scheme import SCALE_SIGNIFICANT_BITS

if TYPE_CHECKING:
    import torch

_LEAN = 0.2
"""How far a latent value starts from its code towards the float weight, as a share of the way to the interval's border. All
the way would put every weight that error feedback moved on the border, where the first step undoes what the solver found."""


class LatentTensor:
    """values: [out_features, blocks, block] in units of codes; factors: [out_features, blocks] on the solver's scales, which
    stay 1 without `learn_scales`."""

    def __init__(self, packed: PackedTensor, source: Floats, *, learn_scales: bool = True) -> None:
        import torch

        rows, columns = packed.shape
        assert packed.scales is not None
        self.name, self.shape, self.bits = packed.name, packed.shape, packed.scheme.bits
        self._limit = 1 << (self.bits - 1)
        self.scales = torch.from_numpy(packed.scales.astype(np.float32))
        blocks = (rows, columns // packed.scheme.block, packed.scheme.block)
        codes = torch.from_numpy(packed.codes().astype(np.float32)).reshape(blocks)
        wanted = torch.from_numpy(np.ascontiguousarray(source)).reshape(blocks) / self.scales[:, :, None]
        self.values = (codes + _LEAN * (wanted - codes).clamp(-0.5, 0.5)).requires_grad_()
        self.factors = torch.ones_like(self.scales).requires_grad_(learn_scales)

    def weight(self) -> torch.Tensor:
        """[out_features, in_features] float32, as it would be stored, with gradients to values and factors."""
        inside = self.values.clamp(-self._limit - 0.5, self._limit - 0.5)
        codes = _straight_through(inside.round().clamp(-self._limit, self._limit - 1), inside)
        scales = self.scales * self.factors
        scales = _straight_through(self._on_grid(scales), scales)
        weight: torch.Tensor = (codes * scales[:, :, None]).reshape(self.shape)
        return weight

    def packed(self) -> tuple[Any, Any]:
        """(payload, scales) as `checkpoint.PackedTensor` has them."""
        codes = self.values.detach().round().clamp(-self._limit, self._limit - 1)
        payload = pack_codes(codes.reshape(self.shape).numpy().astype(np.int8), self.bits)
        return payload, self._on_grid(self.scales * self.factors).numpy().astype(np.float16)

    def _on_grid(self, scales: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.from_numpy(
            round_to_grid(scales.detach().contiguous().numpy(), SCALE_SIGNIFICANT_BITS[self.bits])
        )


def _straight_through(forward: torch.Tensor, backward: torch.Tensor) -> torch.Tensor:
    """The value of `forward` to the last bit, with the gradient of `backward`."""
    return forward.detach() + (backward - backward.detach())
