"""Quality per byte on the reference model: edgeport's solvers and mixes beside four other quantizers, in one run.

    make peers                                                  # once: NNCF, optimum-intel
    python benchmarks/quality.py --out docs/quality.md          # everything; writes the table and docs/quality.png
    python benchmarks/quality.py --only llama.cpp --chunks 20   # a quick look at some rows

Every row is a container in its own runtime, compared with the source model in float32 on held-out text, by the conventions
of `edgeport eval`. Calibrated methods see the same windows of the same calibration text. Peers: llama.cpp's quantizer, NNCF,
onnxruntime-genai's builder, bitsandbytes. Rows are kept in the work folder: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from page_table import insert
from quality_aims import REFERENCE_0, REFERENCE_K, verdicts
from quality_jobs import Job, our_jobs, peer_jobs
from quality_material import Question, prepare
from quality_plot import plot
from quality_rows import LLAMA_CPP, Row, measured, read_rows, write_rows
from quality_run import run_jobs
from quality_table import markdown, markdown_verdicts

from edgeport.devices.probe import available_threads
from edgeport.export.quantize.solvers import SOLVERS
from edgeport.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
BUDGETS = (REFERENCE_0, REFERENCE_K)
"""llama.cpp's types whose bytes our mixes may spend, unless others are named."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parse(arguments)
    rows = read_rows(given.rows) if given.rows else _measure(given)
    if given.json:
        write_rows(rows, given.json)
    text = f"{markdown(rows)}\n\n{markdown_verdicts(verdicts(rows))}\n"
    if given.out:
        picture = given.out.with_suffix(".png")
        plot(rows, picture)
        insert(text, given.out, "quality.py")
    print(text)
    return 0 if measured(rows) else 1


def _measure(given: argparse.Namespace) -> list[Row]:
    question = Question(
        model=given.model,
        heldout=given.model / "text" / "heldout.txt",
        calibration=given.model / "text" / "calibration.txt",
        chunks=given.chunks,
        calibration_tokens=given.calibration_tokens,
        threads=given.threads,
    )
    bench = prepare(question, given.work, Progress())
    peers = peer_jobs(bench.material)
    rows = run_jobs(
        [job for job in peers if _wanted(job, given.only) or _is_budget(job, given.budgets)], bench
    )
    budgets = {
        row.name: row.weight_bytes * 8 / bench.parameters
        for row in measured(rows)
        if row.group == LLAMA_CPP and row.name in given.budgets and row.weight_bytes
    }
    ours = our_jobs(bench.material, budgets, given.solvers, given.mixed)
    return rows + run_jobs([job for job in ours if _wanted(job, given.only)], bench)


def _wanted(job: Job, only: str) -> bool:
    return only.lower() in f"{job.group} {job.name}".lower()


def _is_budget(job: Job, budgets: Sequence[str]) -> bool:
    return job.group == LLAMA_CPP and job.name in budgets


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = ",".join(SOLVERS)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "reference", metavar="DIR",
                        help="model folder with text/heldout.txt and text/calibration.txt")  # fmt: skip
    parser.add_argument("--only", default="", metavar="TEXT", help="jobs whose group and name hold this text")
    parser.add_argument(
        "--chunks", type=int, default=0, metavar="N", help="chunks of 512 tokens (default: all)"
    )
    parser.add_argument("--calibration-tokens", type=int, default=65536, metavar="N")
    parser.add_argument(
        "--solvers", type=_names, default=_names(names), metavar="A,B", help=f"default: {names}"
    )
    parser.add_argument("--mixed", type=_names, default=_names("gptq+imatrix"), metavar="A,B",
                        help="solvers of the mixed-precision rows (default: gptq+imatrix)")  # fmt: skip
    parser.add_argument("--budgets", type=_names, default=BUDGETS, metavar="A,B",
                        help=f"llama.cpp rows whose bytes the mixes may spend (default: {','.join(BUDGETS)})")  # fmt: skip
    parser.add_argument("--threads", type=int, default=available_threads(), metavar="N")
    parser.add_argument("--work", type=Path, default=ROOT / "artifacts" / "quality", metavar="DIR",
                        help="where models and finished rows are kept")  # fmt: skip
    parser.add_argument(
        "--rows", type=Path, metavar="FILE", help="make table and plot from JSON lines, measure nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON lines")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="Markdown page to put the table into; the plot goes beside it",
    )
    return parser.parse_args(arguments)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


if __name__ == "__main__":
    sys.exit(main())
