"""A packed model whose codes, scales and float tensors gradients can move: what `learned` and the student `qat` train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeport.export.checkpoint import PackedTensor
from edgeport.export.quantize.latent import LatentTensor
from edgeport.export.recipe import Recipe
from edgeport.export.safetensors_file import SafetensorsFolder
from edgeport.export.source import SourceModel

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Trainable:
    """By Hugging Face name. latents: quantized tensors that move; floats: float32 ones that do; constants: what stays."""

    latents: dict[str, LatentTensor]
    floats: dict[str, torch.Tensor]
    constants: dict[str, torch.Tensor]

    def weights(self) -> dict[str, torch.Tensor]:
        """Every weight in float32 as it would be stored, with gradients to what moves."""
        latents = {name: latent.weight() for name, latent in self.latents.items()}
        return {**self.constants, **self.floats, **latents}

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What moves: NAME.values, NAME.factors where scales are learned, and NAME of a float tensor."""
        for name, latent in self.latents.items():
            yield f"{name}.values", latent.values
            if latent.factors.requires_grad:
                yield f"{name}.factors", latent.factors
        yield from self.floats.items()

    def packed(self) -> dict[str, npt.NDArray[Any]]:
        """Codes, scales and floats of what moves, as they are, named as in the checkpoint."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, latent in self.latents.items():
            arrays[f"{name}.codes"], arrays[f"{name}.scales"] = latent.packed()
        for name, values in self.floats.items():
            arrays[name] = values.detach().numpy().copy()
        return arrays


def trainable(source: SourceModel, recipe: Recipe, start: SafetensorsFolder, *, int8: bool) -> Trainable:
    """Parameters that start at what a solver left in `start`.

    What moves: tensors of few bits and float32 ones. What stays: 16-bit tensors, which are exact enough. The scales of INT8 are
    so coarse that a step of one costs more than learning could win; `int8` says whether its codes move.
    """
    import torch

    latents, floats, constants = {}, {}, {}
    for item in source.spec.tensors():
        scheme = recipe.scheme_for(item)
        if scheme.is_quantized:
            payload, scales = start.tensor(f"{item.name}.codes"), start.tensor(f"{item.name}.scales")
            packed = PackedTensor(item.name, item.shape, scheme, payload, scales)
            few_bits = scheme.bits < 8
            if few_bits or int8:
                values = source.tensor(item.name).astype(np.float32)
                latents[item.name] = LatentTensor(packed, values, learn_scales=few_bits)
            else:
                constants[item.name] = torch.from_numpy(packed.dequantize())
            continue
        values = torch.from_numpy(start.tensor(item.name).astype(np.float32))
        if scheme.kind == "f32":
            floats[item.name] = values.requires_grad_()
        else:
            constants[item.name] = values
    return Trainable(latents, floats, constants)
