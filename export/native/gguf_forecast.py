"""What a GGUF of llama.cpp's own scheme will really be: bytes, bits per weight, and where its name promises less."""

from __future__ import annotations

from collections import Counter

from gguf import GGMLQuantizationType as Type

from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats.gguf_tensors import derived_tensors
from edgeport.export.native.base import Forecast
from edgeport.export.native.gguf_mix import GgufMix, TensorType, tensor_types


def forecast(spec: DecoderSpec, label: str, mix: GgufMix, *, importance: bool) -> Forecast:
    """`label`: llama.cpp's name of the file type, e.g. Q4_K_M. Exact to the byte of the tensors' payload."""
    types = tensor_types(spec, mix, importance=importance)
    size_bytes = sum(item.size_bytes for item in types.values())
    size_bytes += sum(values.nbytes for values in derived_tensors(spec).values())
    bits = size_bytes * 8 / spec.parameters()
    return Forecast(size_bytes, bits, tuple(_notes(list(types.values()), label, bits)))


def _notes(types: list[TensorType], label: str, bits: float) -> list[str]:
    matrices = [item for item in types if item.wanted is not Type.F32]
    counts = Counter(item.stored.name for item in matrices)
    stored = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    notes = [f"{label} here is {stored}: {bits:.2f} bits per weight"]
    fallen = Counter(
        (item.wanted.name, item.stored.name) for item in matrices if item.wanted is not item.stored
    )
    if fallen:
        total = sum(fallen.values())
        told = ", ".join(f"{count} {wanted} -> {stored}" for (wanted, stored), count in fallen.most_common())
        notes.append(
            f"{total} of {len(matrices)} matrices fall back because 256 does not divide their rows: {told}; "
            f"{label} is really {bits:.2f} bits per weight"
        )
    return notes
