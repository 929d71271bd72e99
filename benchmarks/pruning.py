"""What each way of pruning costs in held-out perplexity, before any recovery: scores beside cruder ones, and chance.

    python benchmarks/pruning.py                         # the reference model; some minutes
    python benchmarks/pruning.py --page docs/pruning.md  # and put the table there

Chosen on the model's text/calibration.txt, measured on its text/heldout.txt as llama.cpp measures (chunks of 512 tokens, the
second half scored), in float32, on --chunks chunks spread evenly over the text.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from page_table import insert

from edgeport.export.calibrate.sources import load_calibration
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.evaluate.chunks import chunk_text
from edgeport.export.prune.perplexity import window_perplexity
from edgeport.export.prune.plan import plan_prune
from edgeport.export.prune.run import prune
from edgeport.export.prune.settings import settings_from
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import NO_PROGRESS

ROOT = Path(__file__).resolve().parent.parent
N_CTX = 512
WIDTH_WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("activation, reconstructed", {}),
    ("activation", {"reconstruct": False}),
    ("magnitude", {"reconstruct": False, "importance": "magnitude"}),
    ("random", {"reconstruct": False, "importance": "random"}),
)
FFN_WAYS = (*WIDTH_WAYS, ("activation, reconstructed, per layer", {"per_layer": True}))
LAYER_WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("block influence", {}),
    ("last", {"importance": "last"}),
    ("random", {"importance": "random"}),
)
CUTS: tuple[tuple[str, dict[str, Any], tuple[tuple[str, dict[str, Any]], ...]], ...] = (
    ("feed-forward width 0.75", {"ffn": 0.75}, FFN_WAYS),
    ("feed-forward width 0.5", {"ffn": 0.5}, FFN_WAYS),
    ("attention heads 0.5", {"heads": 0.5}, WIDTH_WAYS),
    ("hidden width 0.875", {"embedding": 0.875}, WIDTH_WAYS[1:]),
    ("hidden width 0.75", {"embedding": 0.75}, WIDTH_WAYS[1:]),
    ("layers 5 of 6", {"layers": 5}, LAYER_WAYS),
    ("layers 4 of 6", {"layers": 4}, LAYER_WAYS),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One cut model, or the source with `cut` and `way` saying so."""

    cut: str
    way: str
    parameters: int
    perplexity: float


@dataclass(frozen=True, slots=True)
class Material:
    source: SourceModel
    text: CalibrationText
    heldout: npt.NDArray[np.int64]
    threads: int


def load_material(model: Path, tokens: int, most_chunks: int, threads: int) -> Material:
    source = open_source(str(model))
    heldout = model / "text" / "heldout.txt"
    text = load_calibration("auto", source, tokens=tokens, n_ctx=N_CTX, heldout=heldout, progress=NO_PROGRESS)
    chunks = chunk_text(heldout, model, n_ctx=N_CTX, most_chunks=1 << 20).chunks
    count = min(most_chunks, len(chunks))
    chosen = np.arange(count) * len(chunks) // count
    return Material(source, text, np.array(chunks, dtype=np.int64)[chosen], threads)


def measure(material: Material, work: Path, done: list[Row], only: str) -> Iterator[Row]:
    """The source first, then the cuts whose name starts with `only`; scores are made once and kept in `work`."""
    source = material.source
    known = {(row.cut, row.way): row for row in done}
    yield known.get(("none", "the source")) or Row(
        "none", "the source", source.spec.parameters(), _perplexity(material, source)
    )
    for cut, amount, ways in CUTS:
        for way, settings in ways:
            if (cut, way) in known:
                yield known[cut, way]
                continue
            if not cut.startswith(only):
                continue
            plan = plan_prune(source, settings_from(amount | settings))
            with tempfile.TemporaryDirectory(dir=work) as folder:
                out = Path(folder) / "cut"
                prune(
                    plan,
                    material.text,
                    out,
                    work=work / "prune",
                    threads=material.threads,
                    progress=NO_PROGRESS,
                )
                found = _perplexity(material, open_source(str(out)))
            yield Row(cut, way, plan.spec.parameters(), found)


def table(rows: list[Row], material: Material) -> str:
    """Markdown; the best way of each cut is bold."""
    base = rows[0]
    best = {
        cut: min(row.perplexity for row in rows if row.cut == cut)
        for cut in dict.fromkeys(row.cut for row in rows)
    }
    lines = [
        f"`{material.source.name}`: {base.parameters / 1e6:.2f}M parameters, {base.perplexity:.3f} on {len(material.heldout)} "
        f"chunks of {N_CTX} tokens. Scored on {material.text.windows.size} tokens.",
        "",
        "| kept | chosen by | parameters | perplexity | ratio |",
        "|---|---|---:|---:|---:|",
    ]
    for row in rows[1:]:
        number = f"{row.perplexity:.3f}"
        shown = f"**{number}**" if row.perplexity == best[row.cut] else number
        lines.append(
            f"| {row.cut} | {row.way} | {row.parameters / 1e6:.2f}M | {shown} | {row.perplexity / base.perplexity:.3f} |"
        )
    return "\n".join(lines)


def _perplexity(material: Material, model: SourceModel) -> float:
    return window_perplexity(model, material.heldout, threads=material.threads, progress=NO_PROGRESS)


def _read(path: Path | None) -> list[Row]:
    if path is None or not path.is_file():
        return []
    return [Row(**item) for item in json.loads(path.read_text(encoding="utf-8"))]


def _write(path: Path, rows: list[Row]) -> None:
    document = [{name: getattr(row, name) for name in Row.__dataclass_fields__} for row in rows]
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "reference")
    parser.add_argument("--tokens", type=int, default=32768, help="of calibration text")
    parser.add_argument("--chunks", type=int, default=48, help="of held-out text, at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", type=Path, help="Markdown file with the table's markers")
    parser.add_argument("--only", default="", help="measure cuts whose name starts so: layers")
    parser.add_argument("--json", type=Path, help="keep the rows there; what it holds is not measured again")
    arguments = parser.parse_args()
    material = load_material(arguments.model, arguments.tokens, arguments.chunks, arguments.threads)
    rows: list[Row] = []
    done = _read(arguments.json)
    with tempfile.TemporaryDirectory() as work:
        for row in measure(material, Path(work), done, arguments.only):
            print(f"{row.cut}, {row.way}: {row.perplexity:.3f}", file=sys.stderr, flush=True)
            rows.append(row)
            if arguments.json is not None:
                _write(arguments.json, rows)
    text = table(rows, material)
    print(text)
    if arguments.page is not None:
        insert(text, arguments.page, "pruning.py")


if __name__ == "__main__":
    main()
