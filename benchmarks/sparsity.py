"""What zeros are worth: a model and its sparse copy, through every engine, in one run.

    python benchmarks/sparsity.py --model models/reference
    python benchmarks/sparsity.py --twin qwen2.5-0.5b --method magnitude --recipe int4     # writes a random-weight twin first
    python benchmarks/sparsity.py --model models/reference --page docs/sparsity.md          # puts the table there

The copy is made by `edgeport sparsify`; both are exported with `--solver rtn`, which maps zeros to zeros (solvers with error
feedback move some). Columns: bytes of the container's files, the same compressed (zip: deflate at level 6; zstd at level 3,
where that program is installed), and tokens per second. Sides take turns over the rounds, each in a fresh process, as
benchmarks/decode.py does it; a speed ratio above 1 means that the sparse copy is faster, with its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from decode import PEERS, Ratio, Task, Timing, ratio  # beside this script
from page_table import insert

from edgeport.manifest import read_manifest, to_json
from edgeport.progress import Progress
from edgeport.runtimes.bench.environment import capture
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.threads import thread_count
from edgeport.table import format_table
from edgeport.units import format_bytes

ROOT = Path(__file__).resolve().parent.parent
DENSE, SPARSE = "dense", "sparse"
_PIECE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Bytes:
    """Of all files of a container. zstd: None without that program."""

    stored: int
    zip: int
    zstd: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    """`decode` and `prefill`: the sparse copy (ours) over the dense model (own), in tokens per second."""

    recipe: str
    format: str
    dense: Bytes
    sparse: Bytes
    prefill: Ratio
    decode: Ratio


def edgeport(*words: str) -> None:
    """Run a command of this checkout; its output goes to stderr."""
    command = [sys.executable, "-m", "edgeport", *words, "--quiet"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)


def count_bytes(folder: Path) -> Bytes:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Bytes(
        sum(path.stat().st_size for path in files),
        sum(map(_deflated, files)),
        sum(map(_zstd, files)) if shutil.which("zstd") else None,
    )


def _deflated(path: Path) -> int:
    packer, size = zlib.compressobj(6), 0
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            size += len(packer.compress(piece))
    return size + len(packer.flush())


def _zstd(path: Path) -> int:
    with subprocess.Popen(["zstd", "-3", "-c", "-q", str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        size = 0
        while piece := process.stdout.read(_PIECE_BYTES):
            size += len(piece)
    if process.returncode:
        raise RuntimeError(f"zstd {path} ended with {process.returncode}")
    return size


def time_both(sides: dict[str, Path], name: str, arguments: argparse.Namespace) -> tuple[Ratio, Ratio]:
    """(prefill, decode) of the artifacts `sides` in the engine of format `name`, in turns."""
    timings: dict[str, list[Timing]] = {DENSE: [], SPARSE: []}
    for number in range(arguments.rounds):
        for side in (DENSE, SPARSE) if number % 2 == 0 else (SPARSE, DENSE):
            manifest = read_manifest(sides[side])
            task = Task(
                path=str((sides[side] / manifest.container(name).entry_point).resolve()),
                format=name,
                vocab_size=manifest.model.vocab_size,
                n_prompt=arguments.n_prompt,
                n_gen=arguments.n_gen,
                repetitions=arguments.repetitions,
                threads=thread_count(arguments.threads),
                seed=1,
            )
            reply: Any = run_isolated(
                "decode:measure", {"side": "ours", "task": asdict(task)}, timeout_s=3600
            )
            timings[side] += [(float(first), float(rest)) for first, rest in reply]
    columns = [
        (tokens, [item[part] for item in timings[SPARSE]], [item[part] for item in timings[DENSE]])
        for part, tokens in enumerate((arguments.n_prompt, arguments.n_gen))
    ]
    prefill, decode = (ratio(*column) for column in columns)
    return prefill, decode


def run(model: Path, work: Path, arguments: argparse.Namespace, progress: Progress) -> list[Finding]:
    sparse = work / "sparse-model"
    with progress.stage("sparsify"):
        sparsity = ["--method", arguments.method, "--pattern", arguments.pattern]
        amount = ["--sparsity", str(arguments.sparsity)] if arguments.pattern == "unstructured" else []
        edgeport("sparsify", str(model), *sparsity, *amount, "-o", str(sparse))
    found = []
    for recipe in arguments.recipe or ["bf16", "int4"]:
        sides = {}
        for side, folder in ((DENSE, model), (SPARSE, sparse)):
            sides[side] = work / f"{side}-{recipe}"
            with progress.stage(f"export {side} {recipe}"):
                formats = [word for name in arguments.format or PEERS for word in ("--format", name)]
                export = ["export", str(folder), "--recipe", recipe, "--solver", "rtn", *formats]
                edgeport(*export, "--no-gate", "--no-verify", "-o", str(sides[side]))
        for name in arguments.format or PEERS:
            with progress.stage(f"{name}, {recipe}"):
                prefill, decode = time_both(sides, name, arguments)
                sizes = [count_bytes(sides[side] / name) for side in (DENSE, SPARSE)]
            found.append(Finding(recipe, name, *sizes, prefill, decode))
        for folder in sides.values():
            shutil.rmtree(folder)
    return found


def table(found: Sequence[Finding]) -> str:
    headers = ["recipe", "format", "files dense", "sparse", "zip dense", "sparse", "zstd dense", "sparse",
               "decode dense", "sparse", "ratio", "95 %", "prefill ratio", "95 %"]  # fmt: skip
    rows = []
    for item in found:
        sizes = [
            format_bytes(value) if value is not None else "-"
            for kind in ("stored", "zip", "zstd")
            for value in (getattr(item.dense, kind), getattr(item.sparse, kind))
        ]
        rates = [f"{item.decode.own:.1f}", f"{item.decode.ours:.1f}"]
        rows.append([item.recipe, item.format, *sizes, *rates, *_ratio(item.decode), *_ratio(item.prefill)])
    return format_table(headers, rows, right=set(range(2, len(headers))))


def _ratio(found: Ratio) -> list[str]:
    return [f"{found.ratio:.3f}", f"{found.low:.3f}-{found.high:.3f}"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, metavar="DIR", help="model folder")
    which.add_argument("--twin", metavar="NAME", help="random-weight twin (models/twins.py --list)")
    parser.add_argument("--method", default="sparsegpt")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--pattern", default="unstructured")
    parser.add_argument("--recipe", action="append", metavar="NAME", help="default: bf16 and int4")
    parser.add_argument("--format", action="append", choices=tuple(PEERS), help="default: all three")
    parser.add_argument("-p", "--n-prompt", type=int, default=128)
    parser.add_argument("-n", "--n-gen", type=int, default=64)
    parser.add_argument("-r", "--repetitions", type=int, default=5, help="per round, after a warm-up (5)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="default: the physical cores")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="put the table between the marks of this page"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and environment there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeport-sparsity-") as folder:
        model = arguments.model or Path(folder) / arguments.twin
        if arguments.twin:
            script = [sys.executable, "models/twins.py", arguments.twin, "-o", str(model)]
            subprocess.run(script, check=True, cwd=ROOT, stdout=sys.stderr)
        found = run(model.resolve(), Path(folder), arguments, Progress())
    environment = capture(["edgeport", "onnxruntime", "openvino", "llama-cpp-python"])
    machine = (
        f"{environment.cpu_model}, {thread_count(arguments.threads)} threads, load {environment.load_average}"
    )
    text = f"{table(found)}\n\ntokens/s; {model.name}; {arguments.method}; {machine}"
    print(text)
    if arguments.page:
        insert(f"```text\n{text}\n```", arguments.page, "sparsity.py")
    if arguments.json:
        asked = {key: str(value) for key, value in vars(arguments).items()}
        document = {"arguments": asked, "environment": environment, "findings": found}
        arguments.json.write_text(json.dumps(to_json(document), indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
