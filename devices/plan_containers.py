"""The containers a plan is about: a model stored in a format at a precision, or the files that exist already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeport.devices.open_shape import open_shape
from edgeport.devices.shape import ModelShape, TensorShape
from edgeport.devices.weights import (
    FORMATS,
    STORED,
    WeightsEstimate,
    precisions,
    tensor_bytes,
    weights_bytes,
)
from edgeport.manifest import MANIFEST_NAME, ContainerEntry, Manifest, base_format, is_native, read_manifest

USUAL = ("f16", "int8", "q4_k_m", "int4")
"""What a plan shows when no precision is named, in the formats that have it, the largest first."""
SMALLER = ("f32", "bf16", "f16", "q8_0", "int8", "q6_k", "q5_k_m", "q4_k_m", "int4", "q3_k_m")
"""What is advised instead of more bits. Two bits are left out: they need training to be of use."""
SCALE_BITS, FLOAT_BITS = 0.5, 12
"""A 16-bit scale per block of 32 weights; weights of more bits have none."""
WEIGHT_FILES = (".gguf", ".data", ".bin", ".safetensors")


@dataclass(frozen=True, slots=True)
class Container:
    """bits: of the decoder's matrices without their scales. file_bytes: all tensors. is_file: it exists, and stays as it is."""

    format: str
    precision: str
    weights: WeightsEstimate
    bits: float
    is_file: bool = False

    @property
    def file_bytes(self) -> int:
        return self.weights.file_bytes

    def tensor_bytes(self, tensor: TensorShape, shape: ModelShape) -> int:
        return tensor_bytes(tensor, shape, self.precision, self.format)


def container_of(shape: ModelShape, format_name: str, precision: str, *, is_file: bool = False) -> Container:
    """`shape` stored in a format. Raises UsageError for a precision the format cannot hold."""
    weights = weights_bytes(shape, precision, format_name)
    matrices = shape.parameters_of(("linear", "expert", "convolution"))
    stored = 8 * weights.linear_bytes / max(1, matrices)
    bits = stored if stored >= FLOAT_BITS else stored - SCALE_BITS
    return Container(format_name, precision, weights, round(bits, 2), is_file)


def precisions_of(format_name: str) -> tuple[str, ...]:
    """What a plan shows of a format unasked."""
    return tuple(name for name in USUAL if name in precisions(format_name))


def all_precisions() -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for format_name in FORMATS for name in precisions(format_name)))


def smaller_precisions(shape: ModelShape, container: Container) -> tuple[str, ...]:
    """Precisions of the same format that take fewer bytes, the largest first; none for a file."""
    if container.is_file:
        return ()
    known = precisions(container.format)
    sizes = {
        name: weights_bytes(shape, name, container.format).size_bytes for name in SMALLER if name in known
    }
    smaller = [name for name, size in sizes.items() if size < container.weights.size_bytes]
    return tuple(sorted(smaller, key=lambda name: -sizes[name]))


def open_model(text: str) -> tuple[ModelShape, tuple[Container, ...]]:
    """The shape of what the user named, and its containers when it is one: an artifact, a GGUF file, a packed checkpoint.

    Float checkpoints have none: they are still to be converted, and a plan chooses the precision.
    """
    shape = open_shape(text)
    path = Path(text).expanduser()
    if (path / MANIFEST_NAME).is_file():
        return _without_bits(shape), _of_artifact(shape, read_manifest(path))
    if all(tensor.bits is not None for tensor in shape.tensors):
        if path.suffix == ".gguf" or (path.is_dir() and any(path.glob("*.gguf"))):
            return shape, (container_of(shape, "gguf", STORED, is_file=True),)
        found = container_of(shape, "safetensors", STORED, is_file=True)
        if found.bits < FLOAT_BITS:
            return shape, (found,)
    return _without_bits(shape), ()


def _without_bits(shape: ModelShape) -> ModelShape:
    """The same tensors, to be stored anew."""
    return replace(shape, tensors=tuple(replace(tensor, bits=None) for tensor in shape.tensors))


def _of_artifact(shape: ModelShape, manifest: Manifest) -> tuple[Container, ...]:
    shape = _without_bits(shape)
    return tuple(
        _of_entry(shape, entry, _precision(entry.format, str(manifest.recipe.get("linear", "int4"))))
        for entry in manifest.containers
        if base_format(entry.format) in FORMATS
    )


def _of_entry(shape: ModelShape, entry: ContainerEntry, precision: str) -> Container:
    """The recipe's bits with the size of the files: a mix gives some layers more."""
    size = sum(
        item.size_bytes
        for item in entry.files
        if Path(item.path).suffix in WEIGHT_FILES and "tokenizer" not in item.path
    )
    return of_size(shape, base_format(entry.format), precision, size)


def of_size(shape: ModelShape, format_name: str, precision: str, size_bytes: int) -> Container:
    """A container of this many bytes; what differs from the precision's own size is counted to the decoder's matrices."""
    found = container_of(shape, format_name, precision, is_file=True)
    more = size_bytes - found.file_bytes
    weights = replace(found.weights, linear_bytes=max(1, found.weights.linear_bytes + more))
    return replace(found, weights=weights)


def _precision(format_name: str, linear: str) -> str:
    """`gguf-q4_k_m` is q4_k_m; a recipe's `int4-g32` is int4."""
    if is_native(format_name):
        return format_name.partition("-")[2]
    return linear.partition("-")[0]


def of_format(containers: Sequence[Container], format_name: str) -> list[Container]:
    return [item for item in containers if item.format == format_name]
