"""Bytes of weights against mean KL divergence: our curve and the peers' points, in one picture that a printer can hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quality_rows import BITSANDBYTES, BUILDER, LLAMA_CPP, NNCF, OURS, Row, measured

# Okabe and Ito's colours, which stay apart for colour-blind eyes; shapes say the same again.
_STYLES = {
    OURS: ("o", "#0072B2"),
    LLAMA_CPP: ("s", "#D55E00"),
    NNCF: ("^", "#009E73"),
    BUILDER: ("D", "#CC79A7"),
    BITSANDBYTES: ("v", "#E69F00"),
}


def frontier(rows: Sequence[Row]) -> list[Row]:
    """Rows that no row of fewer or equal bytes beats, in order of bytes."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda item: (item.weight_bytes or 0, item.kl)):
        if not kept or row.kl < kept[-1].kl:
            kept.append(row)
    return kept


def plot(rows: Sequence[Row], path: Path) -> None:
    """Write the picture (PNG, or what the suffix says). Our models are drawn as their GGUF files, one point a model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [
        row for row in measured(rows) if not row.float_weights and (row.group != OURS or row.engine == "gguf")
    ]
    figure, axes = pyplot.subplots(figsize=(9, 6), constrained_layout=True)
    for group, (marker, colour) in _STYLES.items():
        members = [row for row in shown if row.group == group]
        if members:
            sizes, losses = [_megabytes(row) for row in members], [row.kl for row in members]
            axes.scatter(sizes, losses, s=42, marker=marker, color=colour, label=group, zorder=3)
    ours = frontier([row for row in shown if row.group == OURS])
    axes.plot(
        [_megabytes(row) for row in ours], [row.kl for row in ours], color=_STYLES[OURS][1], linewidth=1.5
    )
    _annotate(axes, shown, {id(row) for row in ours})
    axes.set_yscale("log")
    axes.set_xlabel("weights, MB (1,000,000 bytes)")
    axes.set_ylabel("mean KL divergence from the source, nats per token (less is better)")
    axes.set_title("Quality per byte on the reference model, held-out text, each in its own runtime")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _annotate(axes: object, rows: Sequence[Row], ours: set[int]) -> None:
    """Names at the points; of our own models only those on the curve, or nothing would be readable."""
    for row in rows:
        if row.group != OURS or id(row) in ours:
            axes.annotate(  # type: ignore[attr-defined]
                row.name, (_megabytes(row), row.kl), xytext=(5, 3), textcoords="offset points", fontsize=6.5
            )


def _megabytes(row: Row) -> float:
    return (row.weight_bytes or 0) / 1e6
