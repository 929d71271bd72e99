"""One line of the quality table, and the JSON lines it is kept in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

OURS, LLAMA_CPP, NNCF, BUILDER, BITSANDBYTES = (
    "edgeport",
    "llama.cpp",
    "NNCF",
    "genai builder",
    "bitsandbytes",
)
GROUPS = (OURS, LLAMA_CPP, NNCF, BUILDER, BITSANDBYTES)


@dataclass(frozen=True, slots=True)
class Row:
    """One quantized model in one container. Everything but name, group and engine is None when `failure` says why.

    name: method, as printed. variant: what rows of the same model in several containers share, empty for a model of its own.
    file_bytes: container without tokenizer files. weight_bytes: codes, scales and float tensors. quality: the fields of
    edgeport.export.evaluate.statistics.Quality. seconds: to make the container. float_weights: nothing was quantized, the
    row shows what the runtime itself costs. four_bit: the decoder's linears have 4-bit codes, most of them at least.
    """

    name: str
    group: str
    engine: str
    variant: str = ""
    float_weights: bool = False
    four_bit: bool = False
    file_bytes: int | None = None
    weight_bytes: int | None = None
    parameters: int | None = None
    seconds: float | None = None
    quality: dict[str, Any] = field(default_factory=dict)
    failure: str = ""

    @property
    def bits_per_weight(self) -> float:
        """Of the weights alone, over the model's parameters; a tied embedding counts once."""
        assert self.weight_bytes is not None and self.parameters
        return self.weight_bytes * 8 / self.parameters

    @property
    def kl(self) -> float:
        """Mean KL(source || container) in nats per token."""
        return float(self.quality["mean_kl_divergence"])

    @property
    def kl_error(self) -> float:
        return float(self.quality["kl_divergence_error"])

    @property
    def perplexity_loss(self) -> float:
        """Perplexity over the source's, minus 1."""
        return float(self.quality["perplexity_ratio"]) - 1


def measured(rows: Iterable[Row]) -> list[Row]:
    """Rows that are not failures."""
    return [row for row in rows if not row.failure]


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """The inverse of `write_rows`. Raises ValueError with the line's number for what is not a row."""
    rows = []
    known = {item.name for item in fields(Row)}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        document = json.loads(line)
        unknown = set(document) - known
        if unknown:
            raise ValueError(f"{path}:{number}: unknown keys {', '.join(sorted(unknown))}")
        rows.append(Row(**document))
    return rows
