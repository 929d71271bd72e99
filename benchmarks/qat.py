"""What quantization-aware training wins over solvers that only calibrate: KL divergence to the source at equal bytes.

    python benchmarks/qat.py                                   # about an hour on two idle cores
    python benchmarks/qat.py --minutes 10 --learning-rate 5e-4 --solver gptaq
    python benchmarks/qat.py --page docs/qat.md                # put the table there

Every row is the same recipe, so the same bytes: codes from a solver, or trained from the codes of gptaq for so many minutes on the
source model's own answers (`edgeport distill --kind qat --alpha 1`). Text is text/calibration.txt and, for training, the library
of this Python, without what shares passages with text/heldout.txt. Measured on text/heldout.txt in windows of 512 tokens, every
token scored, in float32 on the dequantized weights: `edgeport eval` measures the same in each engine. Checkpoints are kept in
--work: a killed benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from page_table import insert

from edgeport.devices.probe import available_threads
from edgeport.export.calibrate.sources import load_calibration
from edgeport.export.checkpoint import CHECKPOINT_NAME, Checkpoint
from edgeport.export.mix.evaluate import Divergence, compare_weights
from edgeport.export.mix.weights import CheckpointWeights
from edgeport.export.quantize.run import Calibration, quantize
from edgeport.export.quantize.solvers import SOLVERS
from edgeport.export.quantize.trained import TRAINED_FOLDER
from edgeport.export.recipe import load_recipe
from edgeport.export.recover.corpus import load_training
from edgeport.export.recover.distill import DistillJob, distill
from edgeport.export.recover.settings import settings_from
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import Progress
from edgeport.table import format_table

ROOT = Path(__file__).resolve().parent.parent
N_CTX = 512
SOLVER_NAMES = ("rtn", "gptaq", "learned")


class Bench:
    """The model, its texts, and where finished checkpoints lie."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.work: Path = arguments.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.threads: int = arguments.threads or available_threads()
        self.progress = Progress(quiet=arguments.quiet)
        self.source: SourceModel = open_source(str(arguments.model))
        self.heldout: Path = arguments.model / "text" / "heldout.txt"

    def solved(self, solver: str) -> Path:
        """A checkpoint by a solver, made once."""
        folder = self.work / solver.replace("+", "-")
        if (folder / CHECKPOINT_NAME).is_file():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        calibration = None
        if SOLVERS[solver].needs != "nothing":
            text = load_calibration(
                "auto",
                self.source,
                tokens=self.arguments.calibration_tokens,
                n_ctx=N_CTX,
                heldout=self.heldout,
                progress=self.progress,
            )
            calibration = Calibration(text, self.work / f"pass-{folder.name}")
        recipe = replace(load_recipe(self.arguments.recipe), solver=solver)
        quantize(
            self.source, recipe, folder, calibration=calibration, threads=self.threads, progress=self.progress
        )
        return folder

    def trained(self, minutes: float) -> Path:
        """The codes that so many minutes of training end with; killed training goes on."""
        arguments = self.arguments
        name = f"qat-{arguments.start}-{minutes:g}-{arguments.learning_rate:g}"
        out = self.work / name
        if not out.is_dir():
            options = {
                "recipe": arguments.recipe,
                "solver": arguments.start,
                "calibration_tokens": arguments.calibration_tokens,
            }
            document = {"kind": "qat", "options": options, "alpha": 1.0, "minutes": minutes}
            settings = settings_from(document | {"learning_rate": arguments.learning_rate})
            text = load_training(
                self.source, settings, heldout=self.heldout, work=self.work / "text", progress=self.progress
            )
            job = DistillJob(self.source, self.source, text, settings)
            run = self.work / f"run-{name}"
            distill(job, out, work=run, threads=self.threads, progress=self.progress)
            shutil.rmtree(run)
        return out / TRAINED_FOLDER

    def measure(self, checkpoints: Mapping[str, Path]) -> dict[str, Divergence]:
        held = load_calibration(
            str(self.heldout),
            self.source,
            tokens=self.arguments.held_tokens,
            n_ctx=N_CTX,
            heldout=None,
            progress=self.progress,
        )
        weights = {
            name: CheckpointWeights(Checkpoint(folder, self.source.spec))
            for name, folder in checkpoints.items()
        }
        return compare_weights(
            self.source, weights, held.windows, threads=self.threads, progress=self.progress
        )


def table(found: Mapping[str, Divergence], sizes: Mapping[str, int]) -> str:
    """One row each; the ratio is to the first one."""
    first = next(iter(found.values())).mean_kl
    rows = [
        [name, f"{sizes[name]:,}", f"{item.mean_kl:.5f} ± {item.error:.5f}", f"{item.p99_kl:.4f}", f"{item.mean_kl / first:.3f}"]
        for name, item in found.items()
    ]  # fmt: skip
    headers = ["codes from", "bytes", "KL divergence", "99 %", "to rtn" if "rtn" in found else "ratio"]
    return format_table(headers, rows, right={1, 2, 3, 4})


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "reference", metavar="DIR")
    parser.add_argument("--recipe", default="int4")
    parser.add_argument(
        "--solver", action="append", choices=tuple(SOLVERS), help="default: rtn, gptaq, learned"
    )
    parser.add_argument(
        "--start", default="gptaq", choices=tuple(SOLVERS), help="training starts at its codes"
    )
    parser.add_argument("--minutes", action="append", type=float, help="of training; default: 5, 15")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--calibration-tokens", type=int, default=32768)
    parser.add_argument("--held-tokens", type=int, default=65536)
    parser.add_argument("--work", type=Path, default=Path("artifacts") / "qat-benchmark", metavar="DIR")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="put the table between the marks of this page"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args(words)
    bench = Bench(arguments)
    checkpoints = {name: bench.solved(name) for name in arguments.solver or SOLVER_NAMES}
    for minutes in arguments.minutes or (5.0, 15.0):
        checkpoints[f"{arguments.start}, then qat for {minutes:g} min"] = bench.trained(minutes)
    found = bench.measure(checkpoints)
    sizes = {name: Checkpoint(folder, bench.source.spec).size_bytes() for name, folder in checkpoints.items()}
    text = table(found, sizes)
    print(text)
    if arguments.page:
        insert(f"```text\n{text}\n```", arguments.page, "qat.py")
    if arguments.json:
        document = {name: asdict(item) | {"bytes": sizes[name]} for name, item in found.items()}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
