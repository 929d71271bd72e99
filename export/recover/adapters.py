"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) on the linears of a network, made and run by peft.

A weight W becomes W + (lora_alpha / rank) B A; A is drawn, B starts at zero, and only they are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError
from edgeport.export.families.decoder import DecoderSpec, TensorSpec
from edgeport.export.recover.student import Arrays, StudentSettings, float_array
from edgeport.lazy import missing_extra

if TYPE_CHECKING:
    import torch

ALL_LINEAR = "all-linear"
_PREFIX = "base_model.model."
_TRAINED_BYTES = 16
"""float32 weight, gradient and both of Adam's moments."""


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """rank: columns of B; lora_alpha: numerator of the scale; target: `all-linear`, or names of linears such as `q_proj`."""

    rank: int = 16
    lora_alpha: int = 32
    target: tuple[str, ...] = (ALL_LINEAR,)


def read_adapter_settings(options: Mapping[str, Any], spec: DecoderSpec) -> AdapterSettings:
    """Options `rank`, `lora_alpha`, `target` (a list, or names separated by commas). Raises UsageError with every problem."""
    default, problems = AdapterSettings(), []
    unknown = sorted(set(options) - {"rank", "lora_alpha", "target"})
    problems += [f"unknown option {name!r}" for name in unknown]
    rank, alpha = options.get("rank", default.rank), options.get("lora_alpha", default.lora_alpha)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= spec.hidden_size:
        problems.append(f"rank is {rank!r}, expected a whole number from 1 to {spec.hidden_size}")
    if isinstance(alpha, bool) or not isinstance(alpha, int) or alpha < 1:
        problems.append(f"lora_alpha is {alpha!r}, expected a whole number above 0")
    wanted = options.get("target", default.target)
    names = tuple(wanted.split(",")) if isinstance(wanted, str) else tuple(wanted)
    known = sorted({module_of(item).rsplit(".", 1)[-1] for item in _linears(spec)})
    wrong = [name for name in names if name not in known] if names != (ALL_LINEAR,) else []
    if wrong or not names:
        problems.append(
            f"target is {', '.join(map(str, names))!r}, expected {ALL_LINEAR} or {', '.join(known)}"
        )
    if problems:
        raise UsageError("adapters: " + "; ".join(problems), hint="options are rank, lora_alpha and target")
    return AdapterSettings(rank, alpha, names)


def adapted(spec: DecoderSpec, settings: AdapterSettings) -> list[TensorSpec]:
    """The weights that get an adapter: linears of the decoder, never the head."""
    every = settings.target == (ALL_LINEAR,)
    return [item for item in _linears(spec) if every or module_of(item).rsplit(".", 1)[-1] in settings.target]


def adapter_bytes(spec: DecoderSpec, settings: AdapterSettings) -> int:
    """Memory of the adapters in training."""
    return sum(_TRAINED_BYTES * settings.rank * sum(item.shape) for item in adapted(spec, settings))


def module_of(item: TensorSpec) -> str:
    """`model.layers.0.mlp.up_proj` of its weight."""
    return item.name.removesuffix(".weight")


class Adapters:
    """peft's model around a network, and what it trains; `network` is changed in place."""

    def __init__(self, network: Any, spec: DecoderSpec, settings: StudentSettings) -> None:
        with missing_extra("lora", purpose="training adapters"):
            import peft
        import torch

        wanted = read_adapter_settings(settings.options, spec)
        self._learning_rate, self._weight_decay = settings.learning_rate, settings.weight_decay
        self._adapted = {item.name for item in adapted(spec, wanted)}
        config = peft.LoraConfig(
            r=wanted.rank,
            lora_alpha=wanted.lora_alpha,
            target_modules=[module_of(item) for item in adapted(spec, wanted)],
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = peft.get_peft_model(network, config)
        self._parameters: dict[str, torch.Tensor] = {
            name: parameter for name, parameter in self.network.named_parameters() if parameter.requires_grad
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {
                "params": list(self._parameters.values()),
                "lr": self._learning_rate,
                "weight_decay": self._weight_decay,
            }
        ]

    def arrays(self) -> Arrays:
        return {name: float_array(parameter) for name, parameter in self._parameters.items()}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(torch.from_numpy(np.array(arrays[name], dtype=np.float32)))

    def merged(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """`values` of weight `name` with its adapter added in float32; as they are where there is none."""
        if name not in self._adapted:
            return values
        import torch

        module = self.network.get_submodule(_PREFIX + name.removesuffix(".weight"))
        with torch.no_grad():
            scale = module.scaling["default"]
            delta = scale * (module.lora_B["default"].weight @ module.lora_A["default"].weight)
        total: npt.NDArray[Any] = np.asarray(values, dtype=np.float32) + delta.numpy()
        return total


def _linears(spec: DecoderSpec) -> list[TensorSpec]:
    return [item for item in spec.tensors() if item.role == "linear"]
