"""bitsandbytes' own schemes for the torch runtime: NF4 with double quantization (arXiv:2305.14314) and LLM.int8
(arXiv:2208.07339), as a folder that stock transformers opens with `from_pretrained`.

transformers loads the source with a BitsAndBytesConfig and saves what it holds, in a child process: its modules and
bitsandbytes' kernels decide every byte. Linear layers of the decoder are quantized; embedding and head stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError
from edgeport.export.families.decoder import DecoderSpec, TensorSpec
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.tokenizer_files import copy_tokenizer
from edgeport.export.native.base import Forecast
from edgeport.export.source import SourceModel
from edgeport.lazy import missing_extra
from edgeport.runtimes.isolation import run_isolated
from edgeport.units import format_bytes

NF4_BLOCK, NESTED_BLOCK = 64, 256
"""Weights per absmax, and absmax values per absmax of their own."""
_MAPS_BYTES = 4 * 16 + 4 * 256
_STATE_BYTES = 168  # a JSON text of block sizes, dtype, shape and one number; a few bytes more or less
_PROCESS_BYTES = 650 << 20
"""What python with torch, transformers and bitsandbytes takes before the first weight."""
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_SHARD = "4GB"


@dataclass(frozen=True, slots=True)
class BitsAndBytes:
    """One scheme of bitsandbytes; `bits` is 4 for NF4 and 8 for LLM.int8."""

    name: str
    bits: int

    @property
    def base(self) -> str:
        return "bitsandbytes"

    @property
    def needs_statistics(self) -> bool:
        return False

    def reasons_against(self, source: SourceModel) -> list[str]:
        if source.spec.family == "nemotron-nas":
            return ["transformers builds the layers of nemotron-nas only with code from the folder"]
        if not source.spec.storage.is_plain:
            return [
                f"the folder of family {source.spec.family} stores other tensors than those that are compared"
            ]
        dtype = float_dtype(source.spec)
        if dtype not in _ITEM_BYTES:
            return [f"config.json asks for dtype {dtype}, bitsandbytes computes in {', '.join(_ITEM_BYTES)}"]
        stored = {source.weights.entry(item.name).dtype for item in source.spec.tensors()}
        if stored != {_STORED[dtype]}:
            # Embedding, head and norms are kept as they are, and a cast would change them.
            return [f"config.json says {dtype}, the weights are stored as {', '.join(sorted(stored))}"]
        return []

    def forecast(self, spec: DecoderSpec) -> Forecast:
        item_bytes = _ITEM_BYTES.get(float_dtype(spec), 2)
        tensors = list(spec.tensors())
        size_bytes = sum(self._stored_bytes(item, item_bytes) for item in tensors)
        weights = sum(_count(item) for item in tensors)
        kept = sum(_count(item) for item in tensors if item.role in ("embedding", "head"))
        source_bytes = weights * item_bytes
        return Forecast(
            size_bytes=size_bytes,
            bits_per_weight=size_bytes * 8 / weights,
            notes=(
                f"embedding and head stay in {float_dtype(spec)}: {kept / weights:.0%} of the weights",
                f"made by transformers in a process of its own, with up to "
                f"{format_bytes(_PROCESS_BYTES + source_bytes + 2 * size_bytes)} of memory",
                "opens in transformers with bitsandbytes installed; its weights are not those of the other containers",
            ),
        )

    def write(
        self, source: SourceModel, statistics: Path | None, directory: Path, options: WriteOptions
    ) -> Path:
        """Write config.json, model*.safetensors and the tokenizer; returns config.json's path.

        Raises MissingExtra without bitsandbytes, RuntimeFailure when transformers fails.
        """
        del statistics  # both schemes round to nearest
        arguments = {
            "model": str(source.directory),
            "target": str(directory),
            "bits": self.bits,
            "dtype": float_dtype(source.spec),
        }
        with options.progress.stage(self.name):
            run_isolated("edgeport.export.native.bitsandbytes:quantize_folder", arguments, timeout_s=None)
            copy_tokenizer(source.directory, directory, for_transformers=True)
        return directory / "config.json"

    def _stored_bytes(self, item: TensorSpec, item_bytes: int) -> int:
        count = _count(item)
        if item.role != "linear":
            return count * item_bytes
        if self.bits == 8:
            return count + 4 * item.shape[0] + 1  # codes, a float32 scale per row, a byte naming the layout
        blocks = -(-count // NF4_BLOCK)
        nested = 4 * -(-blocks // NESTED_BLOCK)
        return -(-count // 2) + blocks + nested + _MAPS_BYTES + _STATE_BYTES


NF4 = BitsAndBytes("bitsandbytes-nf4", 4)
INT8 = BitsAndBytes("bitsandbytes-int8", 8)


def float_dtype(spec: DecoderSpec) -> str:
    """torch's name of the type that what is not quantized is stored and NF4 is multiplied in: the source's own."""
    return str(spec.config.get("dtype") or spec.config.get("torch_dtype") or "float32")


def _count(item: TensorSpec) -> int:
    count = 1
    for size in item.shape:
        count *= size
    return count


def quantize_folder(model: str, target: str, bits: int, dtype: str) -> None:
    """In a child process: load the folder `model` quantized and save it into the folder `target`."""
    with missing_extra("bitsandbytes", purpose="writing bitsandbytes' formats"):
        import accelerate  # noqa: F401
        import bitsandbytes  # noqa: F401
        import torch
        from transformers import AutoModelForCausalLM

    float_type = getattr(torch, dtype)
    network = AutoModelForCausalLM.from_pretrained(
        model,
        quantization_config=_config(bits, float_type),
        dtype=float_type,
        device_map={"": "cpu"},
        local_files_only=True,
        use_safetensors=True,
    )
    network.save_pretrained(target, max_shard_size=_SHARD)
    for path in Path(target).iterdir():
        path.chmod(0o644)  # safetensors makes its files readable by their owner alone


def _config(bits: int, float_type: Any) -> Any:
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    if bits != 4:
        raise UsageError(f"bitsandbytes has no scheme of {bits} bits", hint="it has 4 and 8")
    return nf4_config(float_type)


def nf4_config(float_type: Any) -> Any:
    """transformers' configuration of NF4 with double quantization; products are taken in `float_type`."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=float_type,
    )
