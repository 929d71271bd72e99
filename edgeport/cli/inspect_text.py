"""An inspection for people: what it is, which engine takes it, what is wrong with it and what helps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeport.units import format_bytes, format_count

if TYPE_CHECKING:
    from edgeport.runtimes.inspect.document import Inspection, Problem, Shapes

KINDS = {"gguf": "GGUF", "onnx": "ONNX", "openvino": "OpenVINO", "safetensors": "safetensors"}
UNKNOWN = "-"
SHOWN_TYPES = 6


def inspection_text(found: Inspection) -> str:
    sections = [facts_text(list(_facts(found))), "engines\n" + "\n".join(_engines(found))]
    sections.append(problems_text(found.problems))
    return "\n\n".join(sections)


def problems_text(problems: tuple[Problem, ...]) -> str:
    if not problems:
        return "no problems found"
    lines = [f"  {problem.severity}: {problem.what}\n    cure: {problem.cure}" for problem in problems]
    return "problems\n" + "\n".join(lines)


def facts_text(facts: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts)


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    bits = "" if found.bits_per_weight is None else f", {found.bits_per_weight:.2f} bits per weight"
    yield "model", found.name
    yield "kind", KINDS[found.kind]
    yield "family", found.family or "not told"
    yield "parameters", format_count(found.parameters) + bits
    yield "weights", f"{format_bytes(found.size_bytes)}: {_types(found)}"
    if found.quantization:
        yield "quantization", found.quantization
    yield from _shape_facts(found.shapes)
    tokenizer = found.tokenizer
    if tokenizer is None:
        yield "tokenizer", "none found"
    else:
        count = "" if tokenizer.size is None else f", {tokenizer.size} tokens"
        yield "tokenizer", f"{tokenizer.kind}{count}, in {tokenizer.file}"
    if found.chat_template is not None:
        yield "chat template", "yes" if found.chat_template else "no"
    yield "made by", found.made_by or "not told"


def _types(found: Inspection) -> str:
    shown = [
        f"{item.tensors} {item.type} ({format_bytes(item.size_bytes)})"
        for item in found.tensor_types[:SHOWN_TYPES]
    ]
    more = len(found.tensor_types) - SHOWN_TYPES
    return ", ".join(shown) + (f" and {more} more types" if more > 0 else "") or UNKNOWN


def _shape_facts(shapes: Shapes) -> Iterator[tuple[str, str]]:
    heads = UNKNOWN if shapes.heads is None else str(shapes.heads)
    parts = (
        ("layers", shapes.layers),
        ("hidden size", shapes.hidden_size),
        ("heads", f"{heads}, {_told(shapes.kv_heads)} for keys and values, {_told(shapes.head_dim)} wide"),
        ("intermediate size", shapes.intermediate_size),
        ("vocabulary", shapes.vocab_size),
        ("context", None if shapes.context_length is None else f"{shapes.context_length} tokens"),
    )
    yield from ((name, str(value)) for name, value in parts if value is not None)


def _told(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _engines(found: Inspection) -> Iterator[str]:
    width = max(len(item.engine) for item in found.engines)
    for item in found.engines:
        answer = "accepted" if item.accepted else "refused"
        reason = "" if not item.reason else (f", {item.reason}" if item.accepted else f": {item.reason}")
        yield f"  {item.engine:<{width}}  {answer}{reason}"
