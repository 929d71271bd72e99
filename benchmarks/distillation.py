"""What distillation wins back of what pruning lost, beside plain fine-tuning for the same time, on held-out text.

    python benchmarks/distillation.py                                # about an hour on two idle cores
    python benchmarks/distillation.py --page docs/distillation.md    # and put table and picture there
    python benchmarks/distillation.py --minutes 1 --ways distillation --alpha 0.5 --learning-rate 1e-3   # try settings

The reference model is pruned with `edgeport prune`'s defaults, then trained from there once for each way and each length:
every run is one of its own with a learning rate that has come down when it ends. Trained on text/calibration.txt and the library
of this Python without what shares passages with text/heldout.txt, measured on text/heldout.txt as llama.cpp measures (chunks of
512 tokens, the second half scored), in float32. Rows are kept in --work: a killed benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from page_table import insert

from edgeport.devices.probe import available_threads
from edgeport.export.evaluate.chunks import chunk_text
from edgeport.export.methods import CalibrationWish
from edgeport.export.prune.perplexity import window_perplexity
from edgeport.export.prune.publish import PruneRequest, make_prune_plan, run_prune
from edgeport.export.prune.settings import parse_amount
from edgeport.export.prune.settings import settings_from as prune_settings
from edgeport.export.recover.corpus import load_training
from edgeport.export.recover.distill import DistillJob, distill
from edgeport.export.recover.settings import settings_from
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
N_CTX = 512
LENGTHS = (0.1, 0.25, 0.5, 1.0)
WAYS: Mapping[str, Mapping[str, Any]] = {"distillation": {}, "fine-tuning": {"alpha": 0.0}}
_COLOURS = {"distillation": ("o", "#0072B2"), "fine-tuning": ("s", "#D55E00")}  # Okabe and Ito's


@dataclass(frozen=True, slots=True)
class Row:
    """One trained model; minutes 0 are the ends: `original` and `pruned`. curve: (seconds, perplexity on text held back)."""

    way: str
    minutes: float
    parameters: int
    perplexity: float
    tokens: int = 0
    steps: int = 0
    stopped_by: str = ""
    curve: tuple[tuple[float, float], ...] = ()


class Bench:
    """The models, the texts, and what is measured already."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.work: Path = arguments.work
        self.progress = Progress(quiet=arguments.quiet)
        self.threads: int = arguments.threads or available_threads()
        self.teacher = open_source(str(arguments.model))
        self.heldout = arguments.model / "text" / "heldout.txt"
        self.work.mkdir(parents=True, exist_ok=True)
        chunks = chunk_text(self.heldout, arguments.model, n_ctx=N_CTX, most_chunks=1 << 20).chunks
        self.chunks: npt.NDArray[np.int64] = np.array(chunks, dtype=np.int64)

    def pruned(self) -> SourceModel:
        """The student, made once for each pruning."""
        amounts = {name: getattr(self.arguments, name) for name in ("ffn", "heads", "layers")}
        wanted = {name: parse_amount(text) for name, text in amounts.items() if text}
        name = "-".join(f"{key}-{value}" for key, value in wanted.items())
        out = self.work / f"pruned-{name}"
        if not out.exists():
            request = PruneRequest(
                str(self.arguments.model),
                out,
                prune_settings(wanted),
                calibration=CalibrationWish("auto", 32768, N_CTX),
                threads=self.threads,
            )
            run_prune(request, make_prune_plan(request), self.progress)
        return open_source(str(out))

    def ends(self, student: SourceModel) -> list[Row]:
        rows = []
        for name, model in (("original", self.teacher), ("pruned", student)):
            kept = self.work / f"{model.fingerprint()[:16]}.json"
            if not kept.exists():
                _write(kept, asdict(Row(name, 0.0, model.spec.parameters(), self._perplexity(model))))
            rows.append(_read(kept))
        return rows

    def train(self, way: str, minutes: float, student: SourceModel) -> Row:
        document = {**_given(self.arguments), **WAYS[way], "minutes": minutes}
        key = json.dumps([document, student.fingerprint(), self.threads], sort_keys=True)
        name = f"{way}-{minutes:g}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        kept, out = self.work / f"{name}.json", self.work / name
        if kept.exists():
            return _read(kept)
        settings = settings_from(document)
        text = load_training(
            self.teacher, settings, heldout=self.heldout, work=self.work / "text", progress=self.progress
        )
        teacher = self.teacher if settings.loss().needs_teacher else None
        job = DistillJob(teacher, student, text, settings)
        if out.exists():  # killed between the end of a training and its measurement
            report = json.loads((out / "provenance.json").read_text(encoding="utf-8"))["report"]
        else:
            work = self.work / f"{name}-work"
            report = asdict(distill(job, out, work=work, threads=self.threads, progress=self.progress))
        model = open_source(str(out))
        curve = tuple((entry["seconds"], math.exp(entry["held_cross_entropy"])) for entry in report["curve"])
        row = Row(
            way,
            minutes,
            model.spec.parameters(),
            self._perplexity(model),
            report["tokens"],
            report["steps"],
            report["stopped_by"],
            curve,
        )
        _write(kept, asdict(row))
        return row

    def _perplexity(self, model: SourceModel) -> float:
        return window_perplexity(model, self.chunks, threads=self.threads, progress=self.progress)


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    names = (
        "alpha",
        "temperature",
        "learning_rate",
        "batch_tokens",
        "seed",
        "hidden_weight",
        "text",
        "text_tokens",
    )
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _write(path: Path, document: Mapping[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(document), encoding="utf-8")
    part.replace(path)


def _read(path: Path) -> Row:
    document = json.loads(path.read_text(encoding="utf-8"))
    curve = tuple((seconds, perplexity) for seconds, perplexity in document["curve"])
    return Row(**(document | {"curve": curve}))


def won_back(row: Row, ends: Sequence[Row]) -> float:
    """Share of the perplexity that pruning lost; above 1 the model is better than the original."""
    original, pruned = ends
    return (pruned.perplexity - row.perplexity) / (pruned.perplexity - original.perplexity)


def table(ends: Sequence[Row], rows: Sequence[Row]) -> str:
    original, pruned = ends
    lines = [
        f"Original: {original.parameters / 1e6:.2f}M parameters, perplexity {original.perplexity:.3f}. "
        f"Pruned: {pruned.parameters / 1e6:.2f}M, {pruned.perplexity:.3f}.",
        "",
        "| trained by | minutes | tokens | perplexity | of the loss won back |",
        "|---|---:|---:|---:|---:|",
    ]
    best = {
        minutes: min(row.perplexity for row in rows if row.minutes == minutes)
        for minutes in {row.minutes for row in rows}
    }
    for row in sorted(rows, key=lambda item: (item.minutes, item.perplexity)):
        number = f"{row.perplexity:.3f}"
        shown = f"**{number}**" if row.perplexity == best[row.minutes] else number
        lines.append(
            f"| {row.way} | {row.minutes:g} | {row.tokens / 1e6:.2f}M | {shown} | {won_back(row, ends):.0%} |"
        )
    return "\n".join(lines)


def plot(ends: Sequence[Row], rows: Sequence[Row], path: Path) -> None:
    """Perplexity on held-out text against training time, and the course of the longest runs on text held back from training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), constrained_layout=True)
    for end, style in zip(ends, ("--", ":"), strict=True):
        left.axhline(end.perplexity, color="black", linestyle=style, linewidth=1, label=end.way)
    for way, (marker, colour) in _COLOURS.items():
        mine = sorted((row for row in rows if row.way == way), key=lambda row: row.minutes)
        if not mine:
            continue
        minutes = [0.0, *(row.minutes for row in mine)]
        left.plot(
            minutes,
            [ends[1].perplexity, *(row.perplexity for row in mine)],
            marker=marker,
            color=colour,
            label=way,
        )
        seconds, perplexities = zip(*mine[-1].curve, strict=True)
        right.plot([value / 60 for value in seconds], perplexities, color=colour, label=way)
    left.set_title("after a run of that length, on held-out text")
    right.set_title("during the longest run, on text held back")
    for axes in (left, right):
        axes.set_xlabel("minutes of training")
        axes.set_ylabel("perplexity")
        axes.grid(True, alpha=0.25)
        axes.legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "reference")
    parser.add_argument("--minutes", type=float, default=20.0, help="of the longest run")
    parser.add_argument(
        "--lengths", type=float, nargs="+", default=LENGTHS, help="of the runs, as shares of --minutes"
    )
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS))
    parser.add_argument("--ffn", default="0.75", help="feed-forward width kept")
    parser.add_argument("--heads", default="", help="attention heads kept")
    parser.add_argument("--layers", default="", help="layers kept")
    for name, kind in (
        ("alpha", float),
        ("temperature", float),
        ("learning-rate", float),
        ("hidden-weight", float),
    ):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--text", nargs="+", help="sources of training text (default: auto python)")
    parser.add_argument("--text-tokens", type=int, help="at most so many from each source")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "distillation")
    parser.add_argument("--page", type=Path, help="Markdown file with the table's markers")
    parser.add_argument(
        "--plot", type=Path, help="picture to write (default: beside the page, under its name)"
    )
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(words)
    bench = Bench(arguments)
    student = bench.pruned()
    ends = bench.ends(student)
    rows = []
    for share in sorted(arguments.lengths):
        for way in arguments.ways:
            row = bench.train(way, share * arguments.minutes, student)
            print(
                f"{way}, {row.minutes:g} min: {row.perplexity:.4f}, {won_back(row, ends):.0%} won back",
                file=sys.stderr,
                flush=True,
            )
            rows.append(row)
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps([asdict(row) for row in (*ends, *rows)], indent=2) + "\n", encoding="utf-8"
        )
    text = table(ends, rows)
    print(text)
    if arguments.page is not None:
        insert(text, arguments.page, "distillation.py")
    picture = arguments.plot or (arguments.page.with_suffix(".png") if arguments.page else None)
    if picture is not None:
        plot(ends, rows, picture)


if __name__ == "__main__":
    main()
