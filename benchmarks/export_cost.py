"""What an export costs: edgeport's four containers beside three stock exporters, on one model, in one run.

    python benchmarks/export_cost.py --twin qwen2.5-0.5b            # writes a random-weight twin first
    python benchmarks/export_cost.py --model DIR --json cost.json

Every exporter runs in a process of its own, one after the other, each after the model's files were read once (warm page cache).
Time is wall clock from start to exit; memory is the peak of the summed resident set of the process and its children, sampled
every 20 ms, mapped files included, which counts against those who map. Peers, installed by `make peers`:

    builder       python -m onnxruntime_genai.models.builder -p int4 -e cpu              ONNX only
    optimum-cli   optimum-cli export openvino --weight-format int4 --sym --group-size 32   OpenVINO only
    llama.cpp     llama_model_quantize to Q4_0 from a bf16 GGUF that is made before the clock starts: its own converter is not
                  in any package, so this peer is given its conversion for free               GGUF only
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from edgeport.runtimes.bench.environment import capture
from edgeport.table import format_table
from edgeport.units import format_bytes

SAMPLE_INTERVAL_S = 0.02
ROOT = Path(__file__).resolve().parent.parent

QUANTIZE = """
import llama_cpp, sys
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype, parameters.nthread = 2, int(sys.argv[3])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), parameters))
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """One exporter's run. seconds and peak_rss_bytes are None when it failed; `detail` says why."""

    name: str
    containers: str
    seconds: float | None
    peak_rss_bytes: int | None
    output_bytes: int
    detail: str = ""


def measure(name: str, containers: str, command: Sequence[str], out: Path) -> Cost:
    """Run a command to its end while sampling its process tree."""
    log = out.with_suffix(".log")
    started = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT)
        peak = [0]
        sampler = threading.Thread(target=_sample, args=(process, peak), daemon=True)
        sampler.start()
        code = process.wait()
        seconds = time.perf_counter() - started
        sampler.join()
    if code != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return Cost(name, containers, None, None, 0, f"exit code {code}: {' '.join(tail)[:120]}")
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    return Cost(name, containers, seconds, peak[0], sum(path.stat().st_size for path in files))


def _sample(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for member in (root, *root.children(recursive=True)):
                total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        peak[0] = max(peak[0], total)
        time.sleep(SAMPLE_INTERVAL_S)


def peers(model: Path, work: Path, threads: int) -> list[tuple[str, str, list[str], Path, str]]:
    """(name, containers, command, output, package it needs)"""
    float_gguf = work / "bf16" / "gguf"
    source = next(float_gguf.glob("*.gguf"), float_gguf / "missing.gguf")
    python, quantized = sys.executable, work / "peer.gguf"
    builder = [
        python,
        "-m",
        "onnxruntime_genai.models.builder",
        "-i",
        str(model),
        "-o",
        str(work / "builder"),
    ]
    optimum = [str(Path(python).parent / "optimum-cli"), "export", "openvino", "-m", str(model)]
    return [
        ("onnxruntime-genai builder", "onnx", [*builder, "-p", "int4", "-e", "cpu", "-c", str(work / "cache")],
         work / "builder", "onnxruntime_genai"),
        ("optimum-cli", "openvino",
         [*optimum, "--task", "text-generation-with-past", "--weight-format", "int4", "--sym", "--group-size", "32",
          str(work / "optimum")], work / "optimum", "optimum.intel"),
        ("llama.cpp quantize", "gguf", [python, "-c", QUANTIZE, str(source), str(quantized), str(threads)], quantized,
         "llama_cpp"),
    ]  # fmt: skip


def edgeport_command(model: Path, out: Path, *extra: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "edgeport",
        "export",
        str(model),
        "--device",
        "edge",
        "-o",
        str(out),
        "--quiet",
        # Like for like: the peers round to nearest too, and judge nothing.
        "--solver",
        "rtn",
        "--no-gate",
        *extra,
    ]


def warm(model: Path) -> None:
    for path in model.glob("*.safetensors"):
        with path.open("rb") as stream:
            while stream.read(16 << 20):
                pass


def run(model: Path, work: Path, threads: int) -> list[Cost]:
    """All exporters on one model. edgeport twice: as a user runs it, and without opening what it wrote, as peers do."""
    subprocess.run(
        edgeport_command(model, work / "bf16", "--format", "gguf", "--recipe", "bf16", "--no-verify"), check=True, cwd=ROOT
    )  # fmt: skip
    warm(model)
    packed, verified = work / "packed", work / "verified"
    costs = [
        measure("edgeport, not verified", "all four", edgeport_command(model, packed, "--no-verify"), packed),
        measure("edgeport, verified", "all four", edgeport_command(model, verified), verified),
    ]
    for name, containers, command, out, package in peers(model, work, threads):
        if not _is_installed(package):
            costs.append(Cost(name, containers, None, None, 0, f"{package} is not installed: make peers"))
            continue
        warm(model)
        costs.append(measure(name, containers, command, out))
    return costs


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def summary(costs: Sequence[Cost]) -> str:
    """Table with the ratio of each peer's time to edgeport's unverified time for all four."""
    own = costs[0].seconds
    rows = []
    for cost in costs:
        if cost.seconds is None or cost.peak_rss_bytes is None or own is None:
            rows.append((cost.name, cost.containers, "-", "-", "-", cost.detail))
            continue
        rows.append(
            (
                cost.name,
                cost.containers,
                f"{cost.seconds:.1f} s",
                format_bytes(cost.peak_rss_bytes),
                format_bytes(cost.output_bytes),
                f"{cost.seconds / own:.2f}x",
            )
        )
    return format_table(
        ("exporter", "writes", "time", "peak memory", "output", "time ratio"), rows, right={2, 3, 4}
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, metavar="DIR", help="model folder")
    which.add_argument(
        "--twin", metavar="NAME", help="write this random-weight twin and use it (models/twins.py --list)"
    )
    parser.add_argument(
        "--threads", type=int, default=psutil.cpu_count(logical=False), help="for llama.cpp's quantize"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures and the environment here"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeport-cost-") as folder:
        work = Path(folder)
        model = arguments.model
        if model is None:
            model = work / arguments.twin
            subprocess.run(
                [sys.executable, "models/twins.py", arguments.twin, "-o", str(model)], check=True, cwd=ROOT
            )
        costs = run(model.resolve(), work, arguments.threads)
    print(summary(costs))
    if arguments.json:
        document = {"model": arguments.twin or str(arguments.model), "environment": asdict(capture()),
                    "costs": [asdict(cost) for cost in costs]}  # fmt: skip
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0 if all(cost.seconds is not None for cost in costs) else 1


if __name__ == "__main__":
    sys.exit(main())
