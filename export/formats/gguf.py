"""GGUF: one file for llama.cpp and everything built on it, with the tokenizer inside.

Specification: ggml's docs/gguf.md. The file is written tensor by tensor, in pieces of a few rows, under another name, and
renamed when llama.cpp's own vocabulary has been seen to cut text as tokenizer.json does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from edgeport.errors import UnsupportedModel
from edgeport.export.checkpoint import Checkpoint, TensorRecord
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats import gguf_architecture
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.gguf_architecture import architecture
from edgeport.export.formats.gguf_blocks import (
    Bytes,
    joined_bytes,
    joined_shape,
    joined_type,
    packed_pieces,
)
from edgeport.export.formats.gguf_metadata import add_model, add_provenance, file_type
from edgeport.export.formats.gguf_sampling import add_sampling
from edgeport.export.formats.gguf_tensors import GgufTensor, derived_tensors, gguf_tensors
from edgeport.export.formats.gguf_tokenizer import add_tokenizer, read_tokenizer
from edgeport.export.verify.token_parity import check_token_parity, require_engine
from edgeport.scheme import TensorScheme

_NARROWEST_FEED_FORWARD = 32


class GgufFormat:
    """Packs a checkpoint as `NAME-Q4_0.gguf` (NAME-Q8_0, NAME-BF16 ...)."""

    name = "gguf"

    def reasons_against(self, spec: DecoderSpec, schemes: Sequence[TensorScheme], source: Path) -> list[str]:
        reasons = gguf_architecture.reasons_against(spec)
        if spec.head_dim % 2:
            reasons.append(f"head_dim is {spec.head_dim}, llama.cpp rotates pairs of features")
        narrowest = min(spec.layer_shape(layer).intermediate_size for layer in range(spec.layers))
        if narrowest < _NARROWEST_FEED_FORWARD:
            # llama.cpp's `deci` leaves a whole layer out whose feed-forward it takes for absent, and says nothing.
            reasons.append(
                f"a feed-forward width of {narrowest}, llama.cpp needs at least {_NARROWEST_FEED_FORWARD}"
            )
        if any(scheme.kind == "int2" for scheme in schemes):
            # Q2_K shares minima and 4-bit scales among 256 weights, TQ2_0 has three levels: neither holds these numbers.
            reasons.append(
                "GGML has no type of 2 bits with a scale per block; its own is the format gguf-q2_k"
            )
        try:
            read_tokenizer(source, spec.vocab_size)
        except UnsupportedModel as error:
            reasons.append(error.message)
        return reasons

    def write(self, checkpoint: Checkpoint, directory: Path, options: WriteOptions) -> Path:
        """Raises UnsupportedModel for a tokenizer llama.cpp cannot reproduce, GateFailure when it differs after all."""
        require_engine()
        label = file_type(checkpoint.spec, checkpoint.records)[1]
        path = directory / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', options.name)}-{label}.gguf"
        temporary = path.with_name(path.name + ".part")
        try:
            write_file(checkpoint, temporary, options)
            check_token_parity(temporary, checkpoint.source_directory)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(path)
        return path


def write_file(checkpoint: Checkpoint, path: Path, options: WriteOptions) -> None:
    """Write `path`, which nobody has checked. Raises UnsupportedModel for a tokenizer that cannot be described."""
    tokenizer = read_tokenizer(checkpoint.source_directory, checkpoint.spec.vocab_size)
    writer = GGUFWriter(path, architecture(checkpoint.spec))
    add_model(writer, checkpoint.spec, options.name)
    kind = file_type(checkpoint.spec, checkpoint.records)[0]
    add_provenance(writer, kind, checkpoint.weights_id, checkpoint.records)
    add_sampling(writer, checkpoint.source_directory)
    add_tokenizer(writer, tokenizer)
    try:
        _write_tensors(writer, checkpoint, options)
    except BaseException:
        writer.close()
        raise


def add_tensor_table(writer: GGUFWriter, spec: DecoderSpec, records: Mapping[str, TensorRecord]) -> None:
    """Name, shape, type and size of every tensor. records: by the checkpoint's names."""
    for tensor in gguf_tensors(spec):
        parts = [records[source] for source in tensor.sources]
        writer.add_tensor_info(
            tensor.name,
            joined_shape(parts),
            np.dtype(np.float32),
            joined_bytes(parts),
            raw_dtype=joined_type(parts),
        )
    for name, values in derived_tensors(spec).items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)


def _write_tensors(writer: GGUFWriter, checkpoint: Checkpoint, options: WriteOptions) -> None:
    """Header and key-values, every tensor's place, then the bytes of one tensor after the other."""
    add_tensor_table(writer, checkpoint.spec, {record.name: record for record in checkpoint.records})
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    tensors = list(gguf_tensors(checkpoint.spec))
    with options.progress.stage("gguf", total=len(tensors)) as stage:
        for tensor in tensors:
            _append(writer, _pieces(checkpoint, tensor))
            stage.advance()
    for values in derived_tensors(checkpoint.spec).values():
        _append(writer, [values.view(np.uint8)])
    writer.close()


def _pieces(checkpoint: Checkpoint, tensor: GgufTensor) -> Iterator[Bytes]:
    target = joined_type([checkpoint.record(source) for source in tensor.sources])
    for source in tensor.sources:
        yield from packed_pieces(checkpoint.tensor(source), target, tensor.rows)
        checkpoint.release(source)


def _append(writer: GGUFWriter, pieces: Iterable[Bytes]) -> None:
    """GGUFWriter.write_tensor_data wants the whole tensor in memory, so the pieces go to its stream directly."""
    assert writer.fout is not None
    stream = writer.fout[0]
    writer.write_padding(stream, stream.tell())
    for piece in pieces:
        stream.write(piece.data)
    writer.write_padding(stream, stream.tell())
