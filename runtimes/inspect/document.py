"""What an inspection tells, the same for every kind of file; fields are the keys of `edgeport inspect --json`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
"""error: it does not run, or gives wrong text. warning: it runs, slower, larger or not in every way."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """None where no file says. heads, kv_heads, intermediate_size: of the widest layer. context_length: in tokens."""

    layers: int | None = None
    hidden_size: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    vocab_size: int | None = None
    context_length: int | None = None


@dataclass(frozen=True, slots=True)
class TensorType:
    """All stored tensors of one element type, under the name the format has for it."""

    type: str
    tensors: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """kind: `byte-level BPE`, `SentencePiece`, ... size: tokens, None where the file does not tell without a parser."""

    kind: str
    size: int | None
    file: str


@dataclass(frozen=True, slots=True)
class EngineVerdict:
    """Whether an engine takes the file, as far as its headers tell. reason: why not, or what accepted it needs."""

    engine: str
    accepted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """what: the finding with its numbers. cure: what to do about it."""

    severity: Severity
    what: str
    cure: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """One model. kind: gguf, onnx, openvino or safetensors. parameters: weights as they are before packing; a matrix that
    two operators share counts once, one that is stored twice counts twice.

    size_bytes: of the stored tensors. bits_per_weight: of these over the parameters. made_by: the tools that left a name.
    quantization: in the file's own words. chat_template: None for a model that is no decoder.
    """

    kind: str
    name: str
    family: str | None
    parameters: int
    shapes: Shapes
    size_bytes: int
    bits_per_weight: float | None
    tensor_types: tuple[TensorType, ...]
    quantization: str | None
    tokenizer: TokenizerFacts | None
    chat_template: bool | None
    made_by: str | None
    engines: tuple[EngineVerdict, ...]
    problems: tuple[Problem, ...]

    @property
    def has_errors(self) -> bool:
        return any(problem.severity == "error" for problem in self.problems)


def error(what: str, cure: str) -> Problem:
    return Problem("error", what, cure)


def warning(what: str, cure: str) -> Problem:
    return Problem("warning", what, cure)


def tensor_types(stored: Iterable[tuple[str, int]]) -> tuple[TensorType, ...]:
    """(element type, bytes) of each tensor, summed; the type with most bytes first."""
    found: dict[str, tuple[int, int]] = {}
    for kind, size_bytes in stored:
        count, total = found.get(kind, (0, 0))
        found[kind] = (count + 1, total + size_bytes)
    rows = (TensorType(kind, count, total) for kind, (count, total) in found.items())
    return tuple(sorted(rows, key=lambda row: (-row.size_bytes, row.type)))


def bits_per_weight(size_bytes: int, parameters: int) -> float | None:
    return round(8 * size_bytes / parameters, 4) if parameters else None


def verdict(engine: str, problems: Iterable[str], note: str = "") -> EngineVerdict:
    """Refused for the first of `problems`, else accepted."""
    reason = next(iter(problems), None)
    return EngineVerdict(engine, False, reason) if reason else EngineVerdict(engine, True, note)
