"""README.md of an artifact: the model card, short, with the same table as the report.

The head is what model hubs read: https://huggingface.co/docs/hub/model-cards (base_model_relation: quantized).
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from edgeport.manifest import Manifest, base_format
from edgeport.runtimes.bench.compare import dig
from edgeport.runtimes.bench.environment import UNAVAILABLE
from edgeport.runtimes.report.rows import COLUMNS, container_rows
from edgeport.runtimes.report.verdict import findings
from edgeport.units import format_bytes, format_count

CARD_NAME = "README.md"
OPENED_BY = {
    "gguf": "llama.cpp, Ollama, llama-cpp-python",
    "onnx": "ONNX Runtime, onnxruntime-genai",
    "openvino": "OpenVINO, openvino-genai",
    "safetensors": "vLLM, transformers (compressed-tensors)",
}


def write_card(manifest: Manifest, directory: Path) -> Path:
    """Write `directory/README.md` whole or not at all."""
    path = Path(directory) / CARD_NAME
    temporary = path.with_suffix(".md.tmp")
    temporary.write_text(card(manifest), encoding="utf-8")
    temporary.replace(path)
    return path


def card(manifest: Manifest) -> str:
    model, source = manifest.model, manifest.source
    about = (
        f"{source.name} ({model.family}, {format_count(model.parameters)} parameters), quantized once with recipe "
        f"{manifest.recipe.get('name', 'unnamed')} to {model.bits_per_weight:.2f} bits per weight and packed for each "
        f"engine; made for {manifest.device} on {manifest.created}."
    )
    figures = markdown_table(
        [title for title, _ in COLUMNS],
        [[render(row) for _, render in COLUMNS] for row in container_rows(manifest)],
    )
    folders = markdown_table(
        ["folder", "size", "opens in"],
        [
            [
                entry.entry_point.partition("/")[0],
                format_bytes(entry.size_bytes),
                OPENED_BY.get(base_format(entry.format), "its own engine"),
            ]
            for entry in manifest.containers
        ],
    )
    sections = [
        _head(manifest),
        f"# {_inline(manifest.name)}",
        _inline(about),
        "\n".join(f"- {_inline(finding.text)}" for finding in findings(manifest)),
        "## Figures",
        figures,
        _machine(manifest),
        "## Containers",
        folders,
        f"All figures, the recipe and the sha256 of each file: `manifest.json`. weights_id: `{manifest.weights_id}`.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(manifest: Manifest) -> str:
    lines = [
        "---",
        f"base_model: {_quoted(manifest.source.name)}",
        "base_model_relation: quantized",
        "pipeline_tag: text-generation",
        "tags:",
        "- edgeport",
        *(f"- {_quoted(entry.format)}" for entry in manifest.containers),
        "---",
    ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """A JSON string is a YAML string: a name with quotes or colons cannot break the head, nor can a tag slip in."""
    return json.dumps(text).replace("<", "\\u003c")


def _machine(manifest: Manifest) -> str:
    """Where the speeds were measured, when they were."""
    machines = sorted(
        {
            f"{dig(record, 'environment.cpu_model') or UNAVAILABLE}, {dig(record, 'threads')} threads"
            for record in manifest.speed.values()
        }
    )
    return f"Speed and memory on {_inline('; '.join(machines))}." if machines else ""


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(
        "| " + " | ".join(cell if cell == "---" else _inline(cell) for cell in line) + " |" for line in lines
    )


def _inline(text: str) -> str:
    """One line that is neither markup nor a table border."""
    for character in "\\`*_[]|":
        text = text.replace(character, "\\" + character)
    return " ".join(html.escape(text, quote=False).split())
