"""How many weights the tensors of a safetensors folder stand for: packed ones are counted as they are before packing.

Layouts: compressed-tensors (`weight_packed`, `weight_shape`), GPTQ and AWQ (`qweight`, `qzeros`, `scales`, `g_idx`), bitsandbytes
(`weight.absmax`, `weight.quant_state...`, `SCB`), MXFP4 (`_blocks`, `_scales`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.devices.safetensors_header import StoredTensor
from edgeport.runtimes.inspect.side_files import mapping, size

_BESIDE = re.compile(
    r"(weight_scale(_2|_inv)?|input_scale|output_scale|weight_zero_point|input_zero_point|weight_shape|weight_g_idx|"
    r"weight_global_scale|input_global_scale|qzeros|(?<!\w)scales|g_idx|absmax|quant_map|nested_absmax|nested_quant_map|"
    r"quant_state\.\w+|SCB|weight_format|_scales|rotary_emb\.inv_freq)$"
)
"""What belongs to packed weights and is none, and tables of rotary positions."""
_WORD_BITS = 32
_NF4_MARKS = (".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4")
WEIGHT_TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F4", "I8", "U8")


@dataclass(frozen=True, slots=True)
class FolderTensor:
    """A tensor and the file it lies in."""

    path: Path
    stored: StoredTensor


def parameters(tensors: Mapping[str, FolderTensor], quantization: Mapping[str, Any]) -> int:
    """quantization: config.json's quantization_config, empty without one."""
    return sum(_weights(name, tensors, quantization) for name in tensors)


def _weights(name: str, tensors: Mapping[str, FolderTensor], quantization: Mapping[str, Any]) -> int:
    stored = tensors[name].stored
    elements = _product(stored.shape)
    if name.endswith(".weight_packed"):
        return _stored_shape(tensors.get(name.replace("_packed", "_shape"))) or elements
    if name.endswith(".qweight"):
        return elements * _WORD_BITS // (size(quantization.get("bits")) or 4)
    if name.endswith("_blocks") and stored.dtype == "U8":
        return 2 * elements
    if _BESIDE.search(name) or stored.dtype not in WEIGHT_TYPES:
        return 0
    is_nf4 = stored.dtype == "U8" and any(
        f"{name.removesuffix('.weight')}{mark}" in tensors for mark in _NF4_MARKS
    )
    return 2 * elements if is_nf4 else elements


def _stored_shape(tensor: FolderTensor | None) -> int:
    """The product of a `weight_shape`: two or three numbers of the file; 0 where they are not there or make no sense."""
    if tensor is None or tensor.stored.dtype not in ("I64", "I32") or tensor.stored.size_bytes > 32:
        return 0
    width = 8 if tensor.stored.dtype == "I64" else 4
    try:
        with tensor.path.open("rb") as stream:
            stream.seek(tensor.stored.begin)
            raw = stream.read(tensor.stored.size_bytes)
    except OSError:
        return 0
    numbers = [
        int.from_bytes(raw[at : at + width], "little", signed=True) for at in range(0, len(raw), width)
    ]
    return _product(numbers) if numbers and all(0 < number < 1 << 31 for number in numbers) else 0


def quantization_label(config: Mapping[str, Any]) -> str | None:
    """`compressed-tensors pack-quantized, 4 bit in groups of 32`, in the words of quantization_config."""
    found = mapping(config.get("quantization_config"))
    if not found:
        return None
    method = found.get("quant_method")
    words = [method if isinstance(method, str) else "unnamed method", found.get("format")]
    schemes = dict(_schemes(found))
    shown = ", ".join(
        f"{bits} bit" + (f" in groups of {group}" if group else "")
        for bits, group in sorted(schemes.items())[:4]
    )
    return " ".join(word[:40] for word in words if isinstance(word, str)) + (f", {shown}" if shown else "")


def _schemes(quantization: Mapping[str, Any]) -> Iterable[tuple[int, int | None]]:
    """(bits, group size) of each group of layers."""
    groups = mapping(quantization.get("config_groups"))
    for group in groups.values():
        scheme = mapping(mapping(group).get("weights"))
        if (bits := size(scheme.get("num_bits"))) is not None:
            yield bits, size(scheme.get("group_size"))
    bits = size(quantization.get("bits", quantization.get("w_bit")))
    bits = 4 if bits is None and quantization.get("load_in_4bit") is True else bits
    bits = 8 if bits is None and quantization.get("load_in_8bit") is True else bits
    if bits is not None:
        yield bits, size(quantization.get("group_size", quantization.get("q_group_size")))


def _product(sizes: Iterable[int]) -> int:
    count = 1
    for item in sizes:
        count *= item
    return count
