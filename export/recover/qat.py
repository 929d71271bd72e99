"""Quantization-aware training: the network computes with exactly the codes and scales that will be shipped, and training moves
the latent values they are rounded from (straight-through, arXiv:1308.3432; learned step sizes, arXiv:1902.08153).

Latent values start at what a solver left; INT8 codes move too, their coarse scales do not; norms and biases move in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import EdgeportError, UsageError
from edgeport.export.checkpoint import Checkpoint, PackedTensor, tensor_digest
from edgeport.export.quantize.run import Calibration, any_quantized, quantize, write_checkpoint
from edgeport.export.quantize.solvers import AUTO, SOLVERS
from edgeport.export.quantize.tensor import FLOAT_DTYPES, QuantizedTensor, digest_of
from edgeport.export.quantize.trainable import Trainable, trainable
from edgeport.export.quantize.trained import TRAINED_FOLDER, write_float_folder
from edgeport.export.recipe import Recipe, load_recipe
from edgeport.export.recover.network import load_float_network
from edgeport.export.recover.student import Arrays, StudentOutput, StudentSettings, float_array
from edgeport.export.safetensors_file import DTYPES, SafetensorsFolder
from edgeport.export.source import SourceModel
from edgeport.progress import NO_PROGRESS

if TYPE_CHECKING:
    import torch

VALUE_RATE = 15.0
"""Steps of latent values, in units of an INT4 code, per unit of learning rate: 0.015 codes at a rate of 0.001. A code of n bits
is 2**(n - 4) times finer, and takes as many times more of them."""
FACTOR_RATE = FLOAT_RATE = 0.5
"""Of factors on scales, and of norms and biases."""
_BYTES_PER_PARAMETER = 40
"""float32 network, latent value, gradient, both moments of Adam, dequantized weight and what the rounding keeps for its gradient:
42 at the peak on a twin of 50M parameters, the process included."""


@dataclass(frozen=True, slots=True)
class QatSettings:
    """recipe: by name or a TOML file, and the one to export with; solver: where training starts, calibrated on `calibration`
    as `edgeport export` would be."""

    recipe: Recipe
    calibration: str = "auto"
    calibration_tokens: int = 32768


def read_qat_settings(options: Mapping[str, Any]) -> QatSettings:
    """Options `recipe`, `solver`, `calibration`, `calibration_tokens`. Raises UsageError with every problem."""
    problems = [
        f"unknown option {name!r}"
        for name in sorted(set(options) - {"recipe", "solver", "calibration", "calibration_tokens"})
    ]
    solver = options.get("solver", "gptaq")
    if solver not in SOLVERS:
        problems.append(f"unknown solver {solver!r}, solvers are {', '.join(SOLVERS)}")
    tokens = options.get("calibration_tokens", QatSettings.__dataclass_fields__["calibration_tokens"].default)
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        problems.append(f"calibration_tokens is {tokens!r}, expected a whole number above 0")
    recipe = None
    try:
        recipe = load_recipe(str(options.get("recipe", "int4")))
    except EdgeportError as error:
        problems.append(error.message)
    if problems or recipe is None:
        raise UsageError(
            "qat: " + "; ".join(problems),
            hint="options are recipe, solver, calibration and calibration_tokens",
        )
    assert solver != AUTO
    return QatSettings(replace(recipe, solver=solver), str(options.get("calibration", "auto")), tokens)


class QatStudent:
    """A `Student` of latent codes; `write` leaves float weights on the grid and the codes themselves."""

    def __init__(self, source: SourceModel, settings: StudentSettings) -> None:
        wanted = _checked(source, settings)
        self._source, self._recipe, self._rate = source, wanted.recipe, settings.learning_rate
        self._network = load_float_network(source).requires_grad_(False)
        self._parts = _started(source, wanted)

    @staticmethod
    def state_bytes(source: SourceModel, settings: StudentSettings) -> int:
        _checked(source, settings)  # a plan asks this first
        return _BYTES_PER_PARAMETER * source.spec.parameters()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Without weight decay: it would pull codes to zero and scales away from what they have to be."""
        latents = self._parts.latents.values()
        groups: list[dict[str, Any]] = [
            {"params": [latent.values for latent in latents if latent.bits == bits],
             "lr": self._rate * VALUE_RATE * 2 ** (bits - 4)}
            for bits in sorted({latent.bits for latent in latents})
        ]  # fmt: skip
        factors = [latent.factors for latent in latents if latent.factors.requires_grad]
        groups.append({"params": factors, "lr": self._rate * FACTOR_RATE})
        groups.append({"params": list(self._parts.floats.values()), "lr": self._rate * FLOAT_RATE})
        return [group | {"weight_decay": 0.0} for group in groups if group["params"]]

    def forward(self, tokens: torch.Tensor, *, hidden_states: bool) -> StudentOutput:
        from torch.func import functional_call

        arguments = {"use_cache": False, "output_hidden_states": hidden_states}
        output = functional_call(self._network, self._parts.weights(), (tokens,), arguments)
        return StudentOutput(output.logits, output.hidden_states)

    def arrays(self) -> Arrays:
        """What moves, and the solver's scales that factors are relative to: the solver need not give the same ones again."""
        scales = {f"{name}.scales": latent.scales for name, latent in self._parts.latents.items()}
        named = {**dict(self._parts.named_parameters()), **scales}
        return {name: float_array(tensor) for name, tensor in named.items()}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        import torch

        scales = {f"{name}.scales": latent.scales for name, latent in self._parts.latents.items()}
        with torch.no_grad():
            for name, tensor in {**dict(self._parts.named_parameters()), **scales}.items():
                tensor.copy_(torch.from_numpy(np.array(arrays[name], dtype=np.float32)))

    def write(self, folder: Path) -> None:
        """A stock folder in float32, codes times scales to the last bit, and the codes in `quantized`."""
        target = folder / TRAINED_FOLDER
        target.mkdir()
        write_checkpoint(self._source, self._recipe, target, self._results())
        write_float_folder(self._source, Checkpoint(target, self._source.spec), folder)

    def _results(self) -> Iterator[QuantizedTensor]:
        packed = self._parts.packed()
        for item in self._source.spec.tensors():
            scheme = self._recipe.scheme_for(item)
            if scheme.is_quantized:
                payload, scales = packed[f"{item.name}.codes"], packed[f"{item.name}.scales"]
                tensor = PackedTensor(item.name, item.shape, scheme, payload, scales)
                yield QuantizedTensor(payload, scales, digest_of(tensor))
                continue
            values = packed.get(item.name)
            if values is None:
                values = self._parts.constants[item.name].numpy()
            stored = values.astype(DTYPES[FLOAT_DTYPES[scheme.kind]])
            yield QuantizedTensor(stored, None, tensor_digest(stored.astype(np.float32)))


def _checked(source: SourceModel, settings: StudentSettings) -> QatSettings:
    wanted = read_qat_settings(settings.options)
    if settings.gradient_checkpointing:
        # A layer computed again in the backward pass would find the float weights, not the quantized ones.
        raise UsageError(
            "quantization-aware training cannot use gradient checkpointing",
            hint="use a smaller --micro-tokens",
        )
    if not any_quantized(source, wanted.recipe):
        raise UsageError(
            f"recipe {wanted.recipe.name!r} quantizes nothing of {source.name}", hint="use --kind full"
        )
    return wanted


def _started(source: SourceModel, wanted: QatSettings) -> Trainable:
    """Latents at the solver's codes. Solved again at every start, which costs minutes for large models and no state."""
    import torch

    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="edgeport-qat-") as work:
        calibration = None
        if SOLVERS[wanted.recipe.solver].needs != "nothing":
            from edgeport.export.calibrate.sources import load_calibration
            from edgeport.export.gate.heldout import find_heldout

            heldout = find_heldout(None, source)
            text = load_calibration(
                wanted.calibration,
                source,
                tokens=wanted.calibration_tokens,
                n_ctx=min(512, source.spec.context_length),
                heldout=None if heldout is None else heldout.path,
                progress=NO_PROGRESS,
            )
            calibration = Calibration(text, Path(work) / "calibration")
        folder = Path(work) / "checkpoint"
        folder.mkdir()
        quantize(
            source, wanted.recipe, folder, calibration=calibration, threads=threads, progress=NO_PROGRESS
        )
        # Copied: the folder goes away.
        return trainable(source, wanted.recipe, SafetensorsFolder(folder), int8=True)
