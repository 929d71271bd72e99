"""What was chosen and why, as plain values for the manifest and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeport.export.mix.evaluate import Divergence
from edgeport.export.recipe import Recipe
from edgeport.manifest import to_json
from edgeport.table import format_table
from edgeport.units import format_bytes


@dataclass(frozen=True, slots=True)
class OptionLine:
    """size_bytes: as the checkpoint stores it. kl: nats per token of this group alone in this scheme."""

    scheme: str
    size_bytes: int
    kl: float
    estimated: bool


@dataclass(frozen=True, slots=True)
class GroupLine:
    name: str
    tensors: int
    chosen: str
    options: tuple[OptionLine, ...]


@dataclass(frozen=True, slots=True)
class Contender:
    """A whole mix run from end to end. size_bytes and bits_per_weight are the checkpoint's."""

    name: str
    bits_per_weight: float
    size_bytes: int
    kl: Divergence


@dataclass(frozen=True, slots=True)
class MixReport:
    """predicted_kl: the sum over the groups of the searched mix. kept: which contender the recipe is.

    container_bytes: for --target-size the expected size of each container's files, and error_bytes either way.
    solver: what quantized for the measurements; the export's own solver may do better, and the gate measures that.
    """

    budget: Mapping[str, Any]
    groups: tuple[GroupLine, ...]
    predicted_kl: float
    exact: bool
    contenders: tuple[Contender, ...]
    kept: str
    container_bytes: Mapping[str, Mapping[str, int]]
    search_tokens: int
    check_tokens: int
    solver: str
    text_origin: str
    notes: tuple[str, ...]

    def to_document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        document: dict[str, Any] = to_json(self)
        return document


@dataclass(frozen=True, slots=True)
class MixChoice:
    """recipe: the given one with the mix as overrides of exact tensor names."""

    recipe: Recipe
    report: MixReport


def format_report(report: MixReport) -> str:
    """Contenders first, then the groups; KL in thousandths of a nat per token."""
    parts = [_contenders(report), _groups(report.groups)]
    parts += [f"note: {note}" for note in report.notes]
    return "\n\n".join(parts)


def _contenders(report: MixReport) -> str:
    rows = [
        [
            ("* " if item.name == report.kept else "  ") + item.name,
            f"{item.bits_per_weight:.3f}",
            format_bytes(item.size_bytes),
            f"{1000 * item.kl.mean_kl:.3f} ± {1000 * item.kl.error:.3f}",
            f"{1000 * item.kl.p99_kl:.2f}",
        ]
        for item in report.contenders
    ]
    table = format_table(["mix", "bits", "weights", "KL x1000", "99 %"], rows, right=(1, 2, 3, 4))
    predicted = f"predicted KL of the searched mix: {1000 * report.predicted_kl:.3f} x1000"
    return f"{table}\n{predicted}; measured on {report.check_tokens} other tokens with solver {report.solver}"


def _groups(groups: Sequence[GroupLine]) -> str:
    schemes = list(dict.fromkeys(option.scheme for group in groups for option in group.options))
    rows = []
    for group in groups:
        found = {option.scheme: option for option in group.options}
        cells = [_kl_cell(found.get(scheme)) for scheme in schemes]
        size = format_bytes(found[group.chosen].size_bytes) if group.chosen in found else "-"
        rows.append([group.name, group.chosen, size, *cells])
    headers = ["group", "chosen", "bytes", *(f"KL {scheme} x1000" for scheme in schemes)]
    return format_table(headers, rows, right=range(2, len(headers)))


def _kl_cell(option: OptionLine | None) -> str:
    if option is None:
        return "-"
    return f"{1000 * option.kl:.4f}" + (" (estimated)" if option.estimated else "")
