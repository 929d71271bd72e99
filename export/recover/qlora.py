"""QLoRA (Dettmers et al. 2023, arXiv:2305.14314): adapters trained over linears in NF4 with double quantization.

The 4 bits are for the memory of training alone: adapters are added to the source's own float weights, and the recipe
quantizes the sum once. Adding them to the 4-bit weights would round twice, on a grid that no container here holds. What the
adapters were trained beside is then not what they are merged into; `merge.json` says how far the two are apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from edgeport.errors import UnsupportedModel
from edgeport.export.families.nemotron_nas import MODEL_TYPE as NEMOTRON_NAS
from edgeport.export.families.storage import require_plain
from edgeport.export.recover.adapters import Adapters, adapter_bytes, read_adapter_settings
from edgeport.export.recover.folder import write_folder
from edgeport.export.recover.network import load_float_network
from edgeport.export.recover.student import Arrays, StudentOutput, StudentSettings
from edgeport.export.source import SourceModel, open_source
from edgeport.lazy import missing_extra

if TYPE_CHECKING:
    import torch

MERGE_NAME = "merge.json"
_NF4_BYTES = 0.52
"""4 bits, an 8-bit absmax per 64 weights, a float32 one per 256 of those."""
_FLOAT_BYTES = 4


class QloraStudent:
    """A `Student` of adapters over an NF4 base; embedding, head and norms stay in float32. Options as of `lora`."""

    def __init__(self, source: SourceModel, settings: StudentSettings) -> None:
        self._source = source
        read_adapter_settings(settings.options, source.spec)  # before anything is loaded
        network = load_nf4_network(source, gradient_checkpointing=settings.gradient_checkpointing)
        self._adapters = Adapters(network, source.spec, settings)
        self._measured_on: torch.Tensor | None = None

    @staticmethod
    def state_bytes(source: SourceModel, settings: StudentSettings) -> int:
        wanted = read_adapter_settings(settings.options, source.spec)
        size = adapter_bytes(source.spec, wanted)
        for item in source.spec.tensors():
            count = item.shape[0] * (item.shape[1] if len(item.shape) > 1 else 1)
            size += round(count * (_NF4_BYTES if item.role == "linear" else _FLOAT_BYTES))
        return size

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self._adapters.parameter_groups()

    def forward(self, tokens: torch.Tensor, *, hidden_states: bool) -> StudentOutput:
        import torch

        if self._measured_on is None and not torch.is_grad_enabled():
            self._measured_on = tokens.clone()  # of the held windows: nothing is trained on them
        output = self._adapters.network(tokens, use_cache=False, output_hidden_states=hidden_states)
        return StudentOutput(output.logits, output.hidden_states)

    def arrays(self) -> Arrays:
        return self._adapters.arrays()

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._adapters.restore(arrays)

    def write(self, folder: Path) -> None:
        """The source's float weights with the adapters added in float32, and `merge.json` beside them."""
        source = self._source
        write_folder(source, folder, lambda name: self._adapters.merged(name, source.tensor(name)))
        if self._measured_on is not None:
            document = self._distance(folder, self._measured_on)
            (folder / MERGE_NAME).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    def _distance(self, folder: Path, tokens: torch.Tensor) -> dict[str, Any]:
        """Cross entropies of base, trained and merged network on held windows, and KL(trained || merged), per token."""
        import torch

        with torch.no_grad():
            trained = torch.log_softmax(self.forward(tokens, hidden_states=False).logits.float(), dim=-1)
            merged_network = load_float_network(open_source(str(folder)))
            merged = torch.log_softmax(merged_network(tokens, use_cache=False).logits, dim=-1)
            divergence = (trained.exp() * (trained - merged)).sum(dim=-1).mean()
        return {
            "trained_over": "nf4, double quantization",
            "merged_into": "the source's float weights",
            "kl_divergence": float(divergence),
            "cross_entropy_trained": _cross_entropy(trained, tokens),
            "cross_entropy_merged": _cross_entropy(merged, tokens),
            "tokens": tokens.numel(),
        }


def load_nf4_network(source: SourceModel, *, gradient_checkpointing: bool = False) -> Any:
    """The network with its decoder's linears in NF4, computing in float32 (bf16 under autocast).

    Raises MissingExtra without bitsandbytes, UnsupportedModel for what transformers cannot open.
    """
    with missing_extra("bitsandbytes", purpose="training over 4-bit weights"):
        import accelerate  # noqa: F401
        import bitsandbytes
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        from edgeport.export.native.bitsandbytes import nf4_config
    logging.disable_progress_bar()
    if source.spec.family == NEMOTRON_NAS:
        raise UnsupportedModel(
            f"{source.directory}: layers of different sizes cannot be loaded in NF4",
            hint="use --kind lora, which trains over the float weights",
        )
    require_plain(source.spec.storage, source.spec.family, "training")
    try:
        network = AutoModelForCausalLM.from_pretrained(
            source.directory,
            quantization_config=nf4_config(torch.float32),
            dtype=torch.float32,
            device_map={"": "cpu"},
            local_files_only=True,
            use_safetensors=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UnsupportedModel(f"transformers cannot open {source.directory} in NF4: {error}") from error
    for module in network.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            # Outside training mode the first forward pass repacks the weight for a kernel without a backward pass: after one
            # measurement under no_grad, gradients would be silently wrong (seen with 0.50.2 on AVX512-BF16).
            module.train()
    network.requires_grad_(False)
    if gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
        network.train()  # transformers checkpoints in training mode only
    return network


def _cross_entropy(log_probabilities: torch.Tensor, tokens: torch.Tensor) -> float:
    """Mean over all but the first token of each window, in nats."""
    found = log_probabilities[:, :-1].gather(-1, tokens[:, 1:, None])
    return -float(found.mean())
