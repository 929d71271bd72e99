"""Mixed precision at several budgets: KL divergence predicted and measured, beside mixes that measure nothing.

    python benchmarks/mixed_precision.py                              # the reference model, bits 4.5 to 6
    python benchmarks/mixed_precision.py --model DIR --bits 4.6,5 --json mixes.json

Sensitivity and input statistics come from the calibration text, every KL in the table from the held-out text: a float32
forward pass on dequantized weights, all tokens scored. Weights are quantized by `rtn`, or by `imatrix` with --solver.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgeport.errors import DoesNotFit
from edgeport.export.calibrate.run import collect_statistics
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.families.decoder import TensorSpec
from edgeport.export.mix.budget import (
    BITS,
    MixBudget,
    MixSearch,
    budget_limits,
    require_possible,
    stored_bytes,
)
from edgeport.export.mix.choose import MixTask, naive_mixes, solve_budget
from edgeport.export.mix.evaluate import Divergence, compare_weights
from edgeport.export.mix.groups import Assignment, assign, tensor_groups
from edgeport.export.mix.sensitivity import SensitivityRun
from edgeport.export.mix.weights import Floats, QuickSolver, Rows
from edgeport.export.mix.windows import split_windows
from edgeport.export.recipe import load_recipe
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import Progress
from edgeport.scheme import TensorScheme
from edgeport.table import format_table

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Line:
    """One mix at one budget; predicted_kl is None for a mix that measured nothing."""

    target_bits: float
    mix: str
    bits_per_weight: float
    size_bytes: int
    predicted_kl: float | None
    kl: Divergence


@dataclass(frozen=True, slots=True)
class SharedWeights:
    """A mix whose quantized tensors are shared with all others: each tensor is solved once per scheme."""

    solver: QuickSolver
    schemes: Mapping[str, TensorScheme]
    solved: dict[tuple[str, str], Floats] = field(repr=False)

    def values(self, item: TensorSpec, rows: Rows | None = None) -> Floats:
        key = (item.name, str(self.schemes[item.name]))
        if key not in self.solved:
            self.solved[key] = self.solver.quantized(item, self.schemes[item.name])
        return self.solved[key] if rows is None else self.solved[key][rows]


def read_text(source: SourceModel, path: Path, *, n_ctx: int, tokens: int) -> CalibrationText:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source.directory / "tokenizer.json"))
    ids = np.array(tokenizer.encode(path.read_text(encoding="utf-8")).ids, dtype=np.int64)
    windows = ids[: min(len(ids), tokens) // n_ctx * n_ctx].reshape(-1, n_ctx)
    return CalibrationText(windows, path.name, hashlib.sha256(windows.tobytes()).hexdigest())


def measure(options: argparse.Namespace, work: Path) -> list[Line]:
    progress = Progress()
    source = open_source(str(options.model))
    recipe = replace(load_recipe("int4"), solver=options.solver)
    text = read_text(source, options.text, n_ctx=512, tokens=options.calibration_tokens)
    statistics = None
    if options.solver != "rtn":
        statistics = collect_statistics(source, text, work, threads=options.threads, progress=progress)
    solver = QuickSolver(source, statistics)
    search = MixSearch(per_tensor=not options.groups, windows=options.windows)
    groups = tensor_groups(source.spec, recipe, search.schemes, per_tensor=not options.groups)
    split = split_windows(
        text, search=search.windows, check=1, n_ctx=search.n_ctx, vocab_size=source.spec.vocab_size
    )
    sensitivity = SensitivityRun(solver, groups, split.search, work, options.threads).measure(progress)
    mixes: dict[tuple[float, str], Assignment] = {}
    predicted = {}
    for bits in options.bits:
        budget = MixBudget(target_bits=bits, search=search)
        task = MixTask(source, recipe, budget, work, options.threads)
        limits = budget_limits(source, recipe, budget)
        lowest = assign(groups, [group.schemes[0] for group in groups])
        try:
            require_possible(source, budget, limits, task.resolve(lowest))
        except DoesNotFit as error:
            print(f"{error.message}: left out; {error.hint}")
            continue
        solution = solve_budget(groups, sensitivity, limits, task)
        chosen = [group.schemes[at] for group, at in zip(groups, solution.chosen, strict=True)]
        mixes[bits, "searched"] = assign(groups, chosen)
        predicted[bits, "searched"] = solution.loss
        mixes |= {(bits, name): mix for name, mix in naive_mixes(groups, limits, task).items()}
    solved: dict[tuple[str, str], Floats] = {}
    schemes = {
        key: {item.name: scheme for item, scheme in task.resolve(mix).items()} for key, mix in mixes.items()
    }
    # Mixes that came out the same at two budgets are run once.
    runs = {json.dumps({name: str(scheme) for name, scheme in mix.items()}): mix for mix in schemes.values()}
    weights = {name: SharedWeights(solver, mix, solved) for name, mix in runs.items()}
    heldout = read_text(source, options.heldout, n_ctx=256, tokens=options.heldout_windows * 256).windows
    found = compare_weights(source, weights, heldout, threads=options.threads, progress=progress)
    items = {item.name: item for item in source.spec.tensors()}
    lines = []
    for key, mix in schemes.items():
        size_bytes = sum(stored_bytes(items[name], scheme, BITS) for name, scheme in mix.items())
        kl = found[json.dumps({name: str(scheme) for name, scheme in mix.items()})]
        bits = size_bytes * 8 / source.spec.parameters()
        lines.append(Line(*key, bits, size_bytes, predicted.get(key), kl))
    return lines


def print_table(lines: list[Line]) -> None:
    rows = [
        [
            f"{line.target_bits:g}",
            line.mix,
            f"{line.bits_per_weight:.3f}",
            f"{line.size_bytes:,}",
            "" if line.predicted_kl is None else f"{1000 * line.predicted_kl:.2f}",
            f"{1000 * line.kl.mean_kl:.2f} ± {1000 * line.kl.error:.2f}",
            f"{1000 * line.kl.p99_kl:.1f}",
        ]
        for line in lines
    ]
    headers = ["target", "mix", "bits", "bytes", "predicted KL x1000", "measured KL x1000", "99 %"]
    print(format_table(headers, rows, right=(0, 2, 3, 4, 5, 6)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    reference = ROOT / "models" / "reference"
    parser.add_argument("--model", type=Path, default=reference)
    parser.add_argument("--text", type=Path, default=reference / "text" / "calibration.txt")
    parser.add_argument("--heldout", type=Path, default=reference / "text" / "heldout.txt")
    parser.add_argument("--solver", choices=("rtn", "imatrix"), default="rtn")
    parser.add_argument("--groups", action="store_true", help="one scheme for q, k, v and for gate, up")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--calibration-tokens", type=int, default=1 << 20)
    parser.add_argument("--heldout-windows", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--work", type=Path, help="keep sensitivity.json here, so that other budgets cost little"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--bits",
        type=lambda text: [float(part) for part in text.split(",")],
        default="4.5,4.52,4.6,4.8,5.0,5.3,6.0",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeport-mix-") as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        lines = measure(options, work)
    print_table(lines)
    if options.json:
        from edgeport.manifest import to_json

        options.json.write_text(
            json.dumps([to_json(line) for line in lines], indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
