"""What a container holds beside its weights: tokenizer, graph, headers. Known before anything is quantized, to some bytes.

What can be made without weights is made and weighed: GGUF's header with its vocabulary, OpenVINO's converted tokenizer. Copied
files are counted. Graphs grow by the same amount with every layer; those constants were measured on artifacts of 2, 6 and 24 layers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeport.errors import UsageError
from edgeport.export.checkpoint import TensorRecord
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats.tokenizer_files import copy_tokenizer
from edgeport.export.recipe import Recipe
from edgeport.export.source import SourceModel

INLINE_BYTES = 1024
"""The ONNX writer keeps smaller tensors in the graph."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """Bytes beyond `packed_bytes`: at most `size_bytes` + `error_bytes`, at least `size_bytes` - `error_bytes`."""

    size_bytes: int
    error_bytes: int

    @property
    def most_bytes(self) -> int:
        return self.size_bytes + self.error_bytes


def container_overhead(source: SourceModel, recipe: Recipe, container: str) -> Overhead:
    """Raises UsageError for a container whose overhead is not known, UnsupportedModel for a tokenizer it cannot hold."""
    if container not in _OVERHEADS:
        raise UsageError(
            f"--target-size cannot tell the size of {container!r}",
            hint=f"it can for {', '.join(_OVERHEADS)}; --target-bits holds for every format",
        )
    return _OVERHEADS[container](source, recipe)


def _gguf(source: SourceModel, recipe: Recipe) -> Overhead:
    """Key-values, vocabulary and tensor table by the writer's own functions; tensors are padded to 32 bytes."""
    from gguf import GGUFWriter

    from edgeport.export.formats.gguf import add_tensor_table
    from edgeport.export.formats.gguf_architecture import architecture
    from edgeport.export.formats.gguf_blocks import joined_bytes, stored_bytes
    from edgeport.export.formats.gguf_metadata import add_model, add_provenance, file_type
    from edgeport.export.formats.gguf_tensors import derived_tensors, gguf_tensors
    from edgeport.export.formats.gguf_tokenizer import add_tokenizer, read_tokenizer

    spec, records = source.spec, _records(source.spec, recipe)
    with tempfile.TemporaryDirectory(prefix="edgeport-overhead-") as folder:
        path = Path(folder) / "header.gguf"
        writer = GGUFWriter(path, architecture(spec))
        try:
            add_model(writer, spec, source.name)
            add_provenance(writer, file_type(spec, records.values())[0], "0" * 64, list(records.values()))
            add_tokenizer(writer, read_tokenizer(source.directory, spec.vocab_size))
            add_tensor_table(writer, spec, records)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        finally:
            writer.close()
        header_bytes = path.stat().st_size
    joined = [joined_bytes([records[name] for name in tensor.sources]) for tensor in gguf_tensors(spec)]
    derived = [values.nbytes for values in derived_tensors(spec).values()]
    widened_bytes = sum(joined) - sum(map(stored_bytes, records.values()))  # rows of two types in one tensor
    rest_bytes = widened_bytes + sum(derived) + sum(-size % 32 for size in (*joined, *derived))
    # The text that counts schemes is some bytes longer for a mix.
    return Overhead(header_bytes + rest_bytes + 128, 256 + 2 * spec.head_dim)


def _onnx(source: SourceModel, recipe: Recipe) -> Overhead:
    spec = source.spec
    aligned = sum(_alignment_bytes(size) for size in _piece_sizes(spec, recipe))
    # A tensor beyond the inline size has a file, an offset and a length. q, k and v of different schemes are three products
    # instead of one, which is most of the error.
    external = sum(size > INLINE_BYTES for size in _piece_sizes(spec, recipe))
    graph = Overhead(2_600 + 4_700 * spec.layers + 80 * external, 600 + 1_500 * spec.layers)
    return _sum(_copied(source), Overhead(1_400, 200), graph, _half(aligned))


def _openvino(source: SourceModel, recipe: Recipe) -> Overhead:
    """The converted tokenizer is the same file that the export will write."""
    from edgeport.export.formats.openvino_tokenizer import TokenizerConversion

    del recipe
    spec = source.spec
    with tempfile.TemporaryDirectory(prefix="edgeport-overhead-") as folder:
        with TokenizerConversion(source.directory, Path(folder)):
            pass
        converted_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
    config_bytes = (source.directory / "config.json").stat().st_size
    graph = Overhead(34_500 + 85_500 * spec.layers, 4_000 + 4_500 * spec.layers)
    return _sum(_copied(source), Overhead(converted_bytes + config_bytes, 64), graph)


def _safetensors(source: SourceModel, recipe: Recipe) -> Overhead:
    """Three header entries and a shape of 16 bytes for each packed tensor, and its name in config.json."""
    del recipe
    config_bytes = (source.directory / "config.json").stat().st_size
    tensors = sum(1 for _ in source.spec.tensors())
    header = Overhead(400 * tensors, 150 * tensors)
    return _sum(_copied(source), header, Overhead(config_bytes + 1_000 + 40 * tensors, 1_000 + 40 * tensors))


_OVERHEADS: Mapping[str, Callable[[SourceModel, Recipe], Overhead]] = {
    "gguf": _gguf,
    "onnx": _onnx,
    "openvino": _openvino,
    "safetensors": _safetensors,
}


def _records(spec: DecoderSpec, recipe: Recipe) -> dict[str, TensorRecord]:
    schemes = {item.name: recipe.scheme_for(item) for item in spec.tensors()}
    return {
        item.name: TensorRecord(item.name, item.shape, schemes[item.name].kind, schemes[item.name].block, "")
        for item in spec.tensors()
    }


def _copied(source: SourceModel) -> Overhead:
    with tempfile.TemporaryDirectory(prefix="edgeport-overhead-") as folder:
        copy_tokenizer(source.directory, Path(folder))
        return Overhead(sum(path.stat().st_size for path in Path(folder).iterdir()), 0)


def _piece_sizes(spec: DecoderSpec, recipe: Recipe) -> list[int]:
    """Codes and scales of each tensor, as the ONNX writer appends them."""
    sizes = []
    for item in spec.tensors():
        scheme = recipe.scheme_for(item)
        count = int(np.prod(item.shape, dtype=np.int64))
        sizes.append(count * scheme.bits // 8)
        if scheme.is_quantized:
            sizes.append(count // scheme.block * 2)
    return sizes


def _alignment_bytes(size_bytes: int) -> int:
    """The most that is skipped before a tensor: large ones start on a page. Twice the size is what a mix may make of it."""
    if size_bytes <= INLINE_BYTES:
        return 0
    return 4096 if 2 * size_bytes >= 1 << 20 else 64


def _half(most_bytes: int) -> Overhead:
    return Overhead(most_bytes // 2, most_bytes - most_bytes // 2)


def _sum(*parts: Overhead) -> Overhead:
    return Overhead(sum(part.size_bytes for part in parts), sum(part.error_bytes for part in parts))
