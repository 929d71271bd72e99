"""`edgeport inspect PATH`: what an artifact holds, or what a model folder is, without opening an engine or torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeport.errors import UnsupportedModel, UsageError
from edgeport.lazy import missing_extra
from edgeport.manifest import MANIFEST_NAME, Manifest, read_manifest, to_json
from edgeport.table import format_table
from edgeport.units import format_bytes, format_count

SHOWN_ID_LENGTH = 12
UNKNOWN = "-"
# config.json's usual names, and GPT-2's.
SHAPE_KEYS = {
    "layers": ("num_hidden_layers", "n_layer"),
    "hidden_size": ("hidden_size", "n_embd"),
    "intermediate_size": ("intermediate_size", "n_inner"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "vocab_size": ("vocab_size",),
    "context_length": ("max_position_embeddings", "n_positions"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="an artifact folder, or a Hugging Face model folder")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments: argparse.Namespace) -> int:
    path: Path = arguments.path
    if (path / MANIFEST_NAME).is_file():
        manifest = read_manifest(path)
        document, text = to_json(manifest), artifact_text(manifest)
    elif (path / "config.json").is_file():
        document = model_document(path)
        text = model_text(document)
    else:
        raise UsageError(
            f"{path} holds neither {MANIFEST_NAME} nor config.json",
            hint="give a folder `edgeport export` wrote, or a model folder with config.json and *.safetensors",
        )
    print(json.dumps(document, indent=2) if arguments.json else text)
    return 0


def artifact_text(manifest: Manifest) -> str:
    """The facts of the whole artifact, then one line per container with everything that was measured."""
    from edgeport.runtimes.report.rows import COLUMNS, container_rows
    from edgeport.runtimes.report.stages import STAGE_COLUMNS, stage_cells

    model, source = manifest.model, manifest.source
    facts = [
        ("artifact", f"{manifest.name}, made {manifest.created}"),
        ("source", f"{source.name}, {format_bytes(source.size_bytes)} of {source.dtype}"),
        ("model", f"{model.family}, {format_count(model.parameters)} parameters, {model.layers} layers"),
        (
            "context",
            f"{model.context_length} tokens, {format_bytes(model.kv_bytes_per_token)} of KV cache each",
        ),
        ("recipe", f"{manifest.recipe.get('name', UNKNOWN)}, {model.bits_per_weight:.2f} bits per weight"),
        ("device", manifest.device),
        ("weights_id", manifest.weights_id),
    ]
    rows = [
        [cell(row) for _, cell in COLUMNS]
        + ["yes" if row.verified else "no", entry.weights_id[:SHOWN_ID_LENGTH]]
        for row, entry in zip(container_rows(manifest), manifest.containers, strict=True)
    ]
    headers = [title for title, _ in COLUMNS] + ["verified", "weights_id"]
    parts = [_facts_text(facts), format_table(headers, rows, right=range(1, len(COLUMNS)))]
    if stages := stage_cells(manifest):
        parts.append(format_table(STAGE_COLUMNS, stages, right=range(1, len(STAGE_COLUMNS))))
    return "\n\n".join(parts)


def model_document(path: Path) -> dict[str, Any]:
    """Family, shape, parameters, dtypes and tokenizer kind of a model folder, from headers alone."""
    config = _read_object(path / "config.json")
    with missing_extra("export", purpose="reading safetensors headers"):
        from edgeport.export.safetensors_file import SafetensorsFolder
    weights = SafetensorsFolder(path)
    parameters: dict[str, int] = {}
    size_bytes = 0
    for name in weights:
        entry = weights.entry(name)
        count = 1
        for extent in entry.shape:
            count *= extent
        parameters[entry.dtype.lower()] = parameters.get(entry.dtype.lower(), 0) + count
        size_bytes += entry.stop - entry.start
    shape = {
        field: next((config[key] for key in keys if config.get(key) is not None), None)
        for field, keys in SHAPE_KEYS.items()
    }
    reason = _reason_against_export(config)
    return {
        "name": path.resolve().name,
        "family": config.get("model_type"),
        "architectures": config.get("architectures", []),
        "parameters": sum(parameters.values()),
        "parameters_by_dtype": parameters,
        "size_bytes": size_bytes,
        "files": len(weights.paths),
        "tensors": sum(1 for _ in weights),
        **shape,
        "tied_embeddings": bool(config.get("tie_word_embeddings", False)),
        "quantization": (config.get("quantization_config") or {}).get("quant_method"),
        "tokenizer": _tokenizer_kind(path),
        "chat_template": _has_chat_template(path),
        "exportable": reason is None,
        "reason": reason,
    }


def _reason_against_export(config: Mapping[str, Any]) -> str | None:
    from edgeport.export.families.table import read_spec

    try:
        read_spec(config)
    except UnsupportedModel as error:
        return error.message
    return None


def _tokenizer_kind(path: Path) -> str | None:
    """`byte-level BPE, 49152 tokens` from tokenizer.json, else which other tokenizer file lies there."""
    if (path / "tokenizer.json").is_file():
        document = _read_object(path / "tokenizer.json")
        model = document.get("model") or {}
        kind = str(model.get("type") or "unknown")
        byte_level = "ByteLevel" in json.dumps([document.get("pre_tokenizer"), document.get("decoder")])
        vocabulary = len(model.get("vocab", ())) + sum(
            1 for token in document.get("added_tokens", ()) if token["content"] not in model.get("vocab", ())
        )
        return f"{'byte-level ' if byte_level else ''}{kind}, {vocabulary} tokens"
    for name, kind in (
        ("tokenizer.model", "SentencePiece"),
        ("vocab.txt", "WordPiece"),
        ("vocab.json", "BPE"),
    ):
        if (path / name).is_file():
            return f"{kind}, in {name} only"
    return None


def _has_chat_template(path: Path) -> bool:
    if any((path / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    tokenizer_config = path / "tokenizer_config.json"
    return tokenizer_config.is_file() and "chat_template" in _read_object(tokenizer_config)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path} is not a JSON object")
    return document


def model_text(document: Mapping[str, Any]) -> str:
    return _facts_text(list(_model_facts(document)))


def _model_facts(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    dtypes = ", ".join(f"{format_count(n)} {dtype}" for dtype, n in document["parameters_by_dtype"].items())
    yield "model", document["name"]
    yield "family", f"{document['family']} ({', '.join(document['architectures']) or UNKNOWN})"
    yield "parameters", f"{format_count(document['parameters'])}: {dtypes}"
    yield (
        "weights",
        f"{format_bytes(document['size_bytes'])}, {document['tensors']} tensors, {document['files']} files",
    )
    for field in SHAPE_KEYS:
        if document[field] is not None:
            yield field.replace("_", " "), str(document[field])
    yield "tied embeddings", "yes" if document["tied_embeddings"] else "no"
    if document["quantization"]:
        yield "quantization", document["quantization"]
    yield "tokenizer", document["tokenizer"] or "none found"
    yield "chat template", "yes" if document["chat_template"] else "no"
    yield "can be exported", "yes" if document["exportable"] else f"no: {document['reason']}"


def _facts_text(facts: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts)
