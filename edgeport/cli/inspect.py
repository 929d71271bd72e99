"""`edgeport inspect PATH`: what an artifact, a model folder or a model file holds, and what is wrong with it; no engine, no torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.cli.inspect_text import facts_text, inspection_text, problems_text
from edgeport.errors import EdgeportError
from edgeport.lazy import missing_extra
from edgeport.manifest import MANIFEST_NAME, Manifest, base_format, read_manifest, to_json
from edgeport.table import format_table
from edgeport.units import format_bytes, format_count

if TYPE_CHECKING:
    from edgeport.runtimes.inspect.document import EngineVerdict, Inspection

SHOWN_ID_LENGTH = 12
UNKNOWN = "-"
EXIT_PROBLEMS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="an artifact folder, a Hugging Face model folder, a folder of onnxruntime-genai, optimum or OpenVINO, or a .gguf, "
        ".onnx, .xml or .safetensors file; of any origin",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit with 1 when something is wrong; of an artifact, look into each container",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments: argparse.Namespace) -> int:
    """0; 1 with --check when a problem of severity `error` was found. UsageError for what cannot be read."""
    path: Path = arguments.path
    if (path / MANIFEST_NAME).is_file():
        return _artifact(path, arguments)
    found = _inspected(path)
    print(json.dumps(to_json(found), indent=2) if arguments.json else inspection_text(found))
    return EXIT_PROBLEMS if arguments.check and found.has_errors else 0


def _inspected(path: Path) -> Inspection:
    """With what `edgeport export` would say to a model folder."""
    from dataclasses import replace

    from edgeport.runtimes.inspect.open import inspect_path

    found = inspect_path(path)
    if found.kind != "safetensors":
        return found
    folder = path if path.is_dir() else path.parent
    return replace(found, engines=(*found.engines, _export_verdict(folder)))


def _export_verdict(folder: Path) -> EngineVerdict:
    """Of the configuration and the names of the files; tensors are compared with it when the model is exported."""
    from edgeport.runtimes.inspect.document import EngineVerdict

    try:
        with missing_extra("export", purpose="an export"):
            from edgeport.export.encoders.source import names_encoder
            from edgeport.export.encoders.table import ARCHITECTURES, read_encoder_spec
            from edgeport.export.source_config import check_weight_files, read_source_config, read_source_spec
        if names_encoder(str(folder)):
            read_encoder_spec(read_source_config(folder, ARCHITECTURES))
        else:
            read_source_spec(folder)
        check_weight_files(folder)
    except EdgeportError as error:
        return EngineVerdict("edgeport export", False, error.message)
    return EngineVerdict("edgeport export", True)


def _artifact(path: Path, arguments: argparse.Namespace) -> int:
    manifest = read_manifest(path)
    containers = _containers(path, manifest) if arguments.check else ()
    if arguments.json:
        document = to_json(manifest)
        print(
            json.dumps(
                {"manifest": document, "containers": to_json(containers)} if arguments.check else document,
                indent=2,
            )
        )
    else:
        print(artifact_text(manifest))
        for found in containers:
            print(f"\n{found.kind}: {problems_text(found.problems)}")
    return EXIT_PROBLEMS if any(found.has_errors for found in containers) else 0


def _containers(path: Path, manifest: Manifest) -> Sequence[Inspection]:
    """Each container, looked into as a file of anybody's."""
    from edgeport.runtimes.inspect.open import READERS

    return [
        READERS[kind](path / entry.entry_point)
        for entry in manifest.containers
        if (kind := base_format(entry.format)) in READERS
    ]


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
    parts = [facts_text(facts), format_table(headers, rows, right=range(1, len(COLUMNS)))]
    if stages := stage_cells(manifest):
        parts.append(format_table(STAGE_COLUMNS, stages, right=range(1, len(STAGE_COLUMNS))))
    return "\n\n".join(parts)
