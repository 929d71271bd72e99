"""Which engine of a device can run which model, and why others cannot."""

from __future__ import annotations

from collections.abc import Mapping

from edgeport.devices.int8_range import int8_range
from edgeport.devices.kv_cache import kv_bits_of
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.shape import ModelShape

CONVERTED = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3", "phi3", "granite", "olmo2", "nemotron-nas",
)  # fmt: skip
"""Families `edgeport export` writes: the ONNX and OpenVINO graphs exist for these. A test compares it with the exporter's table.

gemma3 is what a manifest calls Gemma 3's text model."""
ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert")
"""Families `edgeport export` writes by recipes of their own (docs/encoders.md), as onnx, openvino and gguf."""
OWN_GRAPHS = ("onnxruntime", "openvino", "reference")
"""Engines that run graphs edgeport writes itself; llama.cpp and vLLM bring their own for many families."""
MISSING: Mapping[str, tuple[str, ...]] = {"llama.cpp": ("opt",)}
"""Families an engine with graphs of its own does not have."""


def why_not(shape: ModelShape, profile: DeviceProfile, format_name: str, kv_bits: int | None) -> str:
    """Why no engine of the device runs the model from this format with such a cache; empty when one does."""
    engine = profile.engine_for(format_name)
    if engine is None:
        return f"'{profile.name}' has no engine for {format_name}; it has {', '.join(profile.engines)}"
    if engine in OWN_GRAPHS and shape.family not in CONVERTED and not _is_encoder_graph(shape, format_name):
        return f"edgeport writes no {format_name} graph of family '{shape.family}'; it does of {', '.join(CONVERTED)}"
    if shape.family in MISSING.get(engine, ()):
        return f"{engine} cannot run family '{shape.family}'"
    choices = kv_bits_of(engine)
    if kv_bits is not None and kv_bits not in choices:
        return f"{engine} keeps no KV cache in {kv_bits} bits; it does in {', '.join(map(str, choices))}"
    return ""


def export_note(shape: ModelShape) -> str:
    """What to know about getting the container; empty when `edgeport export` writes it."""
    if shape.family in CONVERTED:
        return ""
    if shape.family in ENCODERS:
        return (
            "an encoder: `edgeport export` writes it as onnx, openvino and gguf by recipes of its own (f16, int8, int4, "
            "int8-dynamic, int8-static)"
        )
    return (
        f"edgeport does not export family '{shape.family}' (it does {', '.join(CONVERTED)}): take the container from the "
        "engine's own converter; the figures are for the same bits per weight"
    )


def encoder_notes(shape: ModelShape, profile: DeviceProfile) -> tuple[str, ...]:
    """What the device's instruction sets mean for an encoder that computes in INT8."""
    if shape.family not in ENCODERS:
        return ()
    return (f"recipes int8-dynamic and int8-static: {int8_range(profile.architecture, profile.isa).reason}",)


def _is_encoder_graph(shape: ModelShape, format_name: str) -> bool:
    return shape.family in ENCODERS and format_name in ("onnx", "openvino")
