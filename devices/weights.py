"""How many bytes the weights of a model take in one container at one precision.

`int4`, `int8`, `int2`, `f16`, `bf16` and `f32` are what our recipes of that name write, exact to the byte of the tensors: INT4
means INT8 for embedding and head; norms and biases are float32. The others are llama.cpp's own file types, in GGUF alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeport.devices.gguf_types import FILE_TYPES, ggml_type, in_features
from edgeport.devices.profile_keys import nearest
from edgeport.devices.shape import ModelShape, TensorShape
from edgeport.errors import UsageError
from edgeport.scheme import TensorScheme

FORMATS = ("gguf", "onnx", "openvino", "safetensors")
INT8 = TensorScheme("int8", 32)
F16, F32 = TensorScheme("f16"), TensorScheme("f32")
SCHEMES: Mapping[str, tuple[TensorScheme, TensorScheme]] = {
    "int2": (TensorScheme("int2", 32), INT8),
    "int4": (TensorScheme("int4", 32), INT8),
    "int8": (INT8, INT8),
    "f16": (F16, F16),
    "bf16": (TensorScheme("bf16"), TensorScheme("bf16")),
    "f32": (F32, F32),
}
"""By precision: of matrices, and of embedding and head."""
STORED = "stored"
"""The precision of a file that is there already: each tensor as its header says."""
SHAPE_RECORD_BYTES = 16
"""compressed-tensors keeps the two sizes of a packed matrix beside it."""
GGUF_BYTES_PER_TOKEN = 32
"""Token, type and merge in a GGUF's metadata, with their lengths: 23 to 61 seen, the latter in Llama 3 with its many merges."""
GRAPH_BYTES: Mapping[str, tuple[int, int, int]] = {
    "onnx": (2_000, 5_650, 4_100),
    "openvino": (33_000, 83_200, 60_000),
}
"""Of the graph beside the weights: once, per layer with quantized weights, per layer with floats (our files of 2 to 24 layers)."""
SAFETENSORS_BYTES_PER_TENSOR = 120


@dataclass(frozen=True, slots=True)
class WeightsEstimate:
    """Bytes by what decides how an engine holds them.

    linear_bytes: matrices of the layers, experts and convolutions. head_bytes: 0 where the head is the embedding.
    metadata_bytes: what the model's files hold beside the weights: vocabulary, graph or header, about.
    """

    format: str
    precision: str
    linear_bytes: int
    embedding_bytes: int
    head_bytes: int
    other_bytes: int
    metadata_bytes: int
    parameters: int

    @property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return self.linear_bytes + self.embedding_bytes + self.head_bytes + self.other_bytes

    @property
    def file_bytes(self) -> int:
        return self.size_bytes + self.metadata_bytes

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.size_bytes / max(1, self.parameters)


def precisions(format_name: str) -> tuple[str, ...]:
    """What `weights_bytes` knows for a format, the finest last."""
    _require_format(format_name)
    ours = ("int2", "int4", "int8", "bf16", "f16", "f32")
    if format_name != "gguf":
        return ours
    return (*FILE_TYPES, *ours[1:])


def weights_bytes(shape: ModelShape, precision: str, format_name: str) -> WeightsEstimate:
    """Bytes of `shape` stored at `precision`. Raises UsageError for what the format cannot hold."""
    allowed = (*precisions(format_name), STORED)
    if precision not in allowed:
        raise UsageError(
            f"{format_name} holds no '{precision}'{nearest(precision, allowed)}",
            hint=f"precisions of {format_name}: {', '.join(allowed)}",
        )
    if precision == STORED and any(tensor.bits is None for tensor in shape.tensors):
        raise UsageError(f"no file says how '{shape.name}' is stored", hint="name a precision")
    parts = {"linear": 0, "embedding": 0, "head": 0, "other": 0}
    for tensor in shape.tensors:
        parts[_part(tensor)] += tensor_bytes(tensor, shape, precision, format_name)
    return WeightsEstimate(
        format=format_name,
        precision=precision,
        linear_bytes=parts["linear"],
        embedding_bytes=parts["embedding"],
        head_bytes=parts["head"],
        other_bytes=parts["other"],
        metadata_bytes=_metadata_bytes(shape, precision, format_name),
        parameters=shape.parameters,
    )


def tensor_bytes(tensor: TensorShape, shape: ModelShape, precision: str, format_name: str) -> int:
    """Bytes of one tensor (all `count` of them), codes and scales together."""
    if precision == STORED:
        return round(tensor.parameters * (tensor.bits or 0) / 8)
    if precision in FILE_TYPES:
        return round(tensor.parameters * ggml_type(tensor, shape, precision).bits_per_weight / 8)
    scheme = _scheme(tensor, shape, precision, format_name)
    packed = format_name == "safetensors" and scheme.is_quantized
    extra = SHAPE_RECORD_BYTES * tensor.count if packed else 0
    return round(tensor.parameters * scheme.bits_per_weight / 8) + extra


def _scheme(tensor: TensorShape, shape: ModelShape, precision: str, format_name: str) -> TensorScheme:
    matrices, tables = SCHEMES[precision]
    if len(tensor.shape) == 1 or tensor.role in ("norm", "bias", "router"):
        return F32
    if tensor.role in ("position", "convolution", "other"):
        return matrices if not matrices.is_quantized else F16
    wanted = tables if tensor.role in ("embedding", "head") else matrices
    if not wanted.is_quantized:
        return wanted
    if in_features(tensor, shape) % wanted.block:
        return F16
    # Neither transformers nor vLLM loads a packed embedding.
    return F16 if format_name == "safetensors" and tensor.role == "embedding" else wanted


def _metadata_bytes(shape: ModelShape, precision: str, format_name: str) -> int:
    if format_name == "gguf":
        return GGUF_BYTES_PER_TOKEN * shape.vocab_size
    if format_name == "safetensors":
        return SAFETENSORS_BYTES_PER_TENSOR * sum(tensor.count for tensor in shape.tensors)
    once, quantized, floats = GRAPH_BYTES[format_name]
    return once + shape.layers * (quantized if precision in ("int2", "int4", "int8") else floats)


def _part(tensor: TensorShape) -> str:
    if tensor.role in ("embedding", "head"):
        return tensor.role
    return "linear" if tensor.role in ("linear", "expert", "convolution") else "other"


def _require_format(format_name: str) -> None:
    if format_name not in FORMATS:
        raise UsageError(
            f"unknown format '{format_name}'{nearest(format_name, FORMATS)}",
            hint=f"formats: {', '.join(FORMATS)}",
        )
