"""What is wrong with an ONNX model: what ONNX Runtime refuses to open, and what it opens and runs slowly.

Limits are those of onnxruntime 1.31; a newer one reads newer files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeport.devices.safetensors_header import LONGEST_NAME
from edgeport.runtimes.inspect.document import Problem, error, warning
from edgeport.runtimes.inspect.equal_bytes import StoredAt, are_equal
from edgeport.runtimes.inspect.onnx_header import Initializer, OnnxHeader
from edgeport.runtimes.inspect.onnx_weights import Graph, embedding, head

ONNX_RUNTIME = "onnxruntime 1.31"
NEWEST_IR_VERSION, NEWEST_OPSET = 13, 26
FUSED_ATTENTION = (
    "Attention", "DecoderMaskedMultiHeadAttention", "GroupQueryAttention", "MultiHeadAttention", "PackedAttention",
    "PackedMultiHeadAttention", "PagedAttention", "QAttention", "SparseAttention",
)  # fmt: skip


def load_problems(path: Path, header: OnnxHeader) -> Iterator[Problem]:
    """What keeps ONNX Runtime from opening the file."""
    newer = f"{ONNX_RUNTIME} reads up to"
    if header.ir_version > NEWEST_IR_VERSION:
        yield error(
            f"IR version {header.ir_version}, {newer} {NEWEST_IR_VERSION}",
            "update onnxruntime, or export with an older onnx package",
        )
    if header.opset > NEWEST_OPSET:
        yield error(
            f"opset {header.opset}, {newer} {NEWEST_OPSET}",
            "update onnxruntime, or export for an older opset",
        )
    yield from _external_problems(path.parent, header)
    for item in header.initializers.values():
        stored = item.raw[1] - item.raw[0] if item.raw is not None else None
        if stored is not None and stored != item.size_bytes and not item.type.startswith("type"):
            yield error(
                f"initializer {item.name!r:.80} has {stored} bytes, {item.type}{list(item.shape)} needs {item.size_bytes}",
                "export it again, or fetch it again",
            )
            return


def _external_problems(folder: Path, header: OnnxHeader) -> Iterator[Problem]:
    """Each file with data of initializers: it has to lie beside the model, and to be as long as they say."""
    ends: dict[str, list[int]] = {}
    for item in header.initializers.values():
        if item.external is None:
            continue
        place, length = item.external, item.external.length
        if place.offset < 0 or (length is not None and length != item.size_bytes):
            yield error(
                f"initializer {item.name!r:.80} lies at {place.offset} with {length} bytes, "
                f"{item.type}{list(item.shape)} needs {item.size_bytes}",
                "export it again, or fetch it again",
            )
            return
        ends.setdefault(place.location, []).append(place.offset + item.size_bytes)
    for location, stops in ends.items():
        yield from _data_file_problems(folder, location, stops)


def _data_file_problems(folder: Path, location: str, stops: list[int]) -> Iterator[Problem]:
    """stops: where its tensors end."""
    if not is_beside(location):
        yield error(
            f"{len(stops)} initializers lie in {location!r:.80}, outside of the model's folder",
            "do not open it: no exporter writes such a path",
        )
    elif not (folder / location).is_file():
        yield error(
            f"{location} is missing: {len(stops)} initializers lie in it",
            "copy or download it into the folder of the .onnx file, under this name",
        )
    elif (size := (folder / location).stat().st_size) < max(stops):
        beyond = sum(stop > size for stop in stops)
        yield error(
            f"{location} has {size} bytes, its initializers end at {max(stops)}: {beyond} of {len(stops)} are not whole",
            "the download or the copy was cut short: fetch the file again",
        )


def is_beside(location: str) -> bool:
    """Whether a relative path stays in the folder it starts from."""
    parts = Path(location).parts
    return (
        bool(parts)
        and max(map(len, parts)) <= LONGEST_NAME
        and not Path(location).is_absolute()
        and ".." not in parts
    )


def speed_problems(graph: Graph) -> Iterator[Problem]:
    """What ONNX Runtime runs, and not with its fast kernels."""
    operators = Counter(node.operator for node in graph.header.nodes)
    fused = sum(operators[name] for name in FUSED_ATTENTION)
    if operators["Softmax"] and not fused:
        yield warning(
            f"attention is not fused: {operators['Softmax']} Softmax nodes and no {FUSED_ATTENTION[2]} or {FUSED_ATTENTION[3]}",
            "export with edgeport or onnxruntime-genai's builder, or fuse it with onnxruntime.transformers.optimizer",
        )
    levels = Counter(
        node.attributes.get("accuracy_level", 0)
        for node in graph.header.nodes
        if node.operator == "MatMulNBits"
    )
    if levels[0]:
        yield warning(
            f"{levels[0]} of {levels.total()} MatMulNBits have accuracy_level 0: activations stay float, the slow kernels",
            "export with accuracy_level 4 (the builder's --extra_options accuracy_level=4)",
        )


def tied_problems(path: Path, graph: Graph, config: Mapping[str, Any]) -> Iterator[Problem]:
    """An output head that is the embedding, stored a second time."""
    table, matrix = embedding(graph), head(graph)
    if table is None or matrix is None or table.name == matrix.name:
        return
    places = [stored_at(path, item) for item in (table, matrix)]
    first, second = places
    is_repeated = first is not None and second is not None and are_equal(first, second)
    if is_repeated or config.get("tie_word_embeddings") is True:
        yield warning(
            f"the output head repeats the embedding: {matrix.size_bytes} bytes are stored beside {table.size_bytes}",
            "share one initializer (the builder's --extra_options shared_embeddings=true)",
        )


def stored_at(path: Path, item: Initializer) -> StoredAt | None:
    """Where the bytes of an initializer lie; None where that is not known, or not beside the model."""
    if item.raw is not None:
        return StoredAt(path, item.raw[0], item.raw[1] - item.raw[0])
    place = item.external
    if place is None or place.offset < 0 or not is_beside(place.location):
        return None
    return StoredAt(path.parent / place.location, place.offset, item.size_bytes)
