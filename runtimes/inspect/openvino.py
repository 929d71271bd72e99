"""OpenVINO IRs of any exporter: optimum-intel, NNCF, ovc, edgeport; decoders and encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError
from edgeport.runtimes.inspect.document import (
    EngineVerdict,
    Inspection,
    Problem,
    Shapes,
    bits_per_weight,
    error,
    tensor_types,
    verdict,
    warning,
)
from edgeport.runtimes.inspect.equal_bytes import StoredAt, are_equal
from edgeport.runtimes.inspect.openvino_header import Layer, OpenVinoHeader, read_openvino_header
from edgeport.runtimes.inspect.openvino_weights import (
    Weight,
    constants,
    element_type,
    embedding,
    head,
    parameters,
    weights,
)
from edgeport.runtimes.inspect.side_files import (
    OPENVINO_TOKENIZER,
    TOKENIZER,
    SideFiles,
    first_known,
    read_side_files,
    shapes_of_config,
)
from edgeport.runtimes.inspect.tokenizer_files import (
    decoder_problems,
    has_chat_template,
    token_ids,
    tokenizer_facts,
    vocabulary_problems,
)

ENGINE, GENAI_ENGINE = "OpenVINO", "openvino-genai"
MODEL_NAME, DETOKENIZER = "openvino_model.xml", "openvino_detokenizer.xml"
OLDEST_IR, NEWEST_IR = 10, 11
OPENVINO = "openvino 2026.4"
_DECODER_INPUTS = {"input_ids", "attention_mask", "position_ids", "beam_idx"}
_ENCODER_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}


def inspect_openvino(path: Path) -> Inspection:
    """A folder with openvino_model.xml, or an .xml. Raises UsageError for what is no IR or is damaged."""
    file = path / MODEL_NAME if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"there is no {MODEL_NAME} in {path}", hint="name the .xml file itself")
    files = _with_tokenizer_notes(read_side_files(file.parent))
    header = read_openvino_header(file)
    matrices, is_decoder = weights(header), _is_decoder(header)
    table = embedding(header, matrices)
    shapes = first_known(_graph_shapes(header), shapes_of_config(files.config()))
    ids, rows = token_ids(files.get(TOKENIZER)), table.shape[0] if table else None
    refused = list(_load_problems(file, header))
    problems = [*refused, *files.problems, *_context_problems(shapes, is_decoder=is_decoder)]
    problems += _packing_problems(matrices)
    problems += _tied_problems(file, table, head(header))
    problems += decoder_problems(files, ids, rows) if is_decoder else vocabulary_problems(ids, rows)
    stored = [(element_type(layer), max(0, layer.size("size"))) for layer in _stored_once(header)]
    size_bytes = sum(size for _, size in stored)
    count = parameters(header, matrices)
    family = files.get("config.json").get("model_type")
    return Inspection(
        kind="openvino",
        name=file.parent.resolve().name if path.is_dir() else path.stem,
        family=family[:80] if isinstance(family, str) else None,
        parameters=count,
        shapes=shapes,
        size_bytes=size_bytes,
        bits_per_weight=bits_per_weight(size_bytes, count),
        tensor_types=tensor_types(stored),
        quantization=_quantization(header, matrices),
        tokenizer=tokenizer_facts(files, ids),
        chat_template=has_chat_template(files) if is_decoder else None,
        made_by=_made_by(header.notes),
        engines=_engines(header, files, [item.what for item in refused], is_decoder=is_decoder),
        problems=tuple(problems),
    )


def _with_tokenizer_notes(files: SideFiles) -> SideFiles:
    """openvino_tokenizer.xml carries the chat template and the special tokens in its notes."""
    if not files.has(OPENVINO_TOKENIZER):
        return files
    try:
        notes = read_openvino_header(files.folder / OPENVINO_TOKENIZER).notes
    except UsageError as failure:
        cure = "fetch it again, or convert the tokenizer again with convert_tokenizer"
        return replace(files, problems=(*files.problems, error(failure.message, cure)))
    found: dict[str, Any] = {
        key: int(notes[key])
        for key in ("bos_token_id", "eos_token_id")
        if notes.get(key, "").isascii() and notes.get(key, "").isdigit() and len(notes[key]) < 10
    }
    found["chat_template"] = notes.get("chat_template")
    return replace(files, documents={**files.documents, OPENVINO_TOKENIZER: found})


def _inputs(header: OpenVinoHeader) -> set[str]:
    """A parameter may have several names; the first that an engine would know counts."""
    found = set()
    for layer in header.layers.values():
        if layer.type == "Parameter":
            names = [name.strip() for item in layer.names for name in item.split(",") if name.strip()]
            known = [name for name in names if name in _DECODER_INPUTS | _ENCODER_INPUTS]
            found.add((known or names or [layer.name])[0])
    return found


def _is_decoder(header: OpenVinoHeader) -> bool:
    has_cache = any(layer.type == "ReadValue" for layer in header.layers.values())
    return has_cache or any(name.startswith("past_key") for name in _inputs(header))


def _graph_shapes(header: OpenVinoHeader) -> Shapes:
    """What the variables of the key-value cache and `logits` tell."""
    caches = [layer for layer in header.layers.values() if layer.type == "ReadValue" and layer.shapes]
    cache = caches[0].shapes[0] if caches else ()
    logits = next((_logits_shape(layer) for layer in header.layers.values() if _logits_shape(layer)), ())
    return Shapes(
        layers=len(caches) // 2 or None,
        kv_heads=_known(cache[1]) if len(cache) == 4 else None,
        head_dim=_known(cache[3]) if len(cache) == 4 else None,
        vocab_size=_known(logits[2]) if len(logits) == 3 else None,
    )


def _logits_shape(layer: Layer) -> tuple[int, ...]:
    is_logits = any(name.strip() == "logits" for names in layer.names for name in names.split(","))
    return layer.shapes[0] if is_logits and layer.shapes else ()


def _known(extent: int) -> int | None:
    return extent if extent > 0 else None


def _load_problems(file: Path, header: OpenVinoHeader) -> Iterator[Problem]:
    if not OLDEST_IR <= header.version <= NEWEST_IR:
        yield error(
            f"IR version {header.version}, {OPENVINO} reads {OLDEST_IR} and {NEWEST_IR}",
            "update openvino" if header.version > NEWEST_IR else "convert the model again",
        )
    weights_file = file.with_suffix(".bin")
    ends = [layer.size("offset") + layer.size("size") for layer in constants(header)]
    if not ends:
        return
    if not weights_file.is_file():
        yield error(
            f"{weights_file.name} is missing: {len(ends)} constants lie in it", "copy it beside the .xml"
        )
    elif (size := weights_file.stat().st_size) < max(ends):
        beyond = sum(end > size for end in ends)
        yield error(
            f"{weights_file.name} has {size} bytes, the .xml's constants end at {max(ends)}: {beyond} of {len(ends)} "
            "are not whole",
            "the download or the copy was cut short, or the two files are of two exports: fetch both again",
        )


def _context_problems(shapes: Shapes, *, is_decoder: bool) -> Iterator[Problem]:
    if is_decoder and shapes.context_length == 0:
        yield error(
            "the context length is 0: there is no room for a prompt",
            "set max_position_embeddings in config.json",
        )


def _packing_problems(matrices: list[Weight]) -> Iterator[Problem]:
    unpacked = [item for item in matrices if not item.stays_packed]
    if unpacked:
        size = sum(item.constant.size("size") for item in unpacked)
        kinds = ", ".join(sorted({element_type(item.constant) for item in unpacked}))
        yield warning(
            f"{len(unpacked)} packed matrices ({kinds}, {size} bytes) have no scale behind their conversion: OpenVINO turns "
            "them into f32 when it compiles the model",
            "compress with nncf.compress_weights, or export with edgeport: constant, Convert, Subtract, Multiply",
        )


def _tied_problems(file: Path, table: Layer | None, matrix: Layer | None) -> Iterator[Problem]:
    if table is None or matrix is None or table.number == matrix.number:
        return
    weights_file = file.with_suffix(".bin")
    places = [
        StoredAt(weights_file, max(0, layer.size("offset")), max(0, layer.size("size")))
        for layer in (table, matrix)
    ]
    if are_equal(*places):
        yield warning(
            f"the output head repeats the embedding: {places[1].size_bytes} bytes are stored and kept in memory twice",
            "export again with one constant for both (tie_word_embeddings in config.json)",
        )


def _stored_once(header: OpenVinoHeader) -> Iterator[Layer]:
    """Every constant; of those at one place of the .bin the first."""
    seen = set()
    for layer in constants(header):
        place = (layer.attributes.get("offset"), layer.attributes.get("size"))
        if place not in seen:
            seen.add(place)
            yield layer


def _quantization(header: OpenVinoHeader, matrices: list[Weight]) -> str | None:
    mode = header.notes.get("nncf/weight_compression/mode")
    if mode:
        group = header.notes.get("nncf/weight_compression/group_size", "")
        return f"NNCF {mode[:40]}" + (f" in groups of {group[:10]}" if group.isdigit() else "")
    packed = [
        (element_type(item.constant), item.constant.size("size")) for item in matrices if item.is_packed
    ]
    types = tensor_types(packed)
    return ", ".join(item.type for item in types) or None


def _made_by(notes: Mapping[str, str]) -> str | None:
    found = [
        f"{label} {notes[key][:80]}".strip()
        for key, label in (
            ("optimum/optimum_intel_version", "optimum-intel"),
            ("nncf/version", "NNCF"),
            ("conversion_parameters/framework", "from"),
            ("Runtime_version", "OpenVINO"),
        )
        if notes.get(key)
    ]
    return ", ".join([*(["edgeport"] if "edgeport/weights_id" in notes else []), *found]) or None


def _engines(
    header: OpenVinoHeader, files: SideFiles, refused: list[str], *, is_decoder: bool
) -> tuple[EngineVerdict, ...]:
    inputs = _inputs(header)
    if not is_decoder:
        foreign = sorted(inputs - _ENCODER_INPUTS)
        why = [f"its inputs are not an encoder's: {', '.join(foreign[:4])}"] if foreign else []
        return (verdict(ENGINE, [*refused, *why], "for embeddings or classes"),)
    return (
        verdict(ENGINE, [*refused, *_decoder_refusals(header, files, inputs)]),
        verdict(GENAI_ENGINE, [*refused, *_genai_refusals(files, inputs)]),
    )


def _decoder_refusals(header: OpenVinoHeader, files: SideFiles, inputs: set[str]) -> Iterator[str]:
    if any(name.startswith("past_key") for name in inputs):
        yield "its cache is in inputs, not in variables; export it as a stateful model (optimum-intel's default)"
    elif foreign := sorted(inputs - _DECODER_INPUTS):
        yield f"its inputs are not those of a decoder: {', '.join(foreign[:4])}"
    if not {"input_ids", "attention_mask"} <= inputs:
        yield "it has no inputs input_ids and attention_mask"
    if not files.has(TOKENIZER) and not files.has(OPENVINO_TOKENIZER):
        yield f"there is neither {TOKENIZER} nor {OPENVINO_TOKENIZER} beside it"


def _genai_refusals(files: SideFiles, inputs: set[str]) -> Iterator[str]:
    if not {"input_ids", "attention_mask", "beam_idx"} <= inputs:
        yield "it is no stateful decoder with beam_idx"
    missing = [name for name in (OPENVINO_TOKENIZER, DETOKENIZER) if not files.has(name)]
    if missing:
        yield f"there is no {' and no '.join(missing)} beside it: convert_tokenizer makes them"
