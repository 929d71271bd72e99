"""Our adapters beside each engine's own generate loop: the same file, prompts and number of tokens, in one run.

    python benchmarks/decode.py ARTIFACT... [--twins smollm2-135m,qwen2.5-0.5b] [--format gguf] [-p 512] [-n 128] [-r 5]
                                [--rounds 2] [--tune] [--page docs/decode.md] [--json FILE] [--require]

Sides of each container: our adapter by its defaults; our adapter as `edgeport tune` set it (--tune runs it first); the
engine's own loop with the same threads (llama.cpp's C functions, onnxruntime-genai's Generator, openvino-genai's
LLMPipeline); and each peer as it comes, nothing said about threads (llama_cpp.Llama for GGUF). All decode greedily and pay
for picking the token. A repetition reads a prompt and picks a first token ("prefill"), then writes `n` more ("decode").
Each repetition has a prompt of its own, so that no side profits from a prefix cache. Every measurement is a fresh process;
sides take turns over the rounds, so that a slow minute hits all. A ratio above 1 means that our adapter is faster; the
interval is of a bootstrap over the repetitions (95 %). Use an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from decode_loops import Task
from decode_rows import PHASES, Best, Result, Side, best, best_table, missed, ratio, table
from page_table import insert
from plan_accuracy_measure import Setting, artifact_folder

from edgeport.errors import EdgeportError, UsageError
from edgeport.manifest import Manifest, read_manifest, to_json
from edgeport.progress import Progress
from edgeport.runtimes.bench.environment import Environment, capture
from edgeport.runtimes.bench.machine import read_bandwidth
from edgeport.runtimes.bench.roofline import mean_cache_entries, roofline
from edgeport.runtimes.bench.weights import bytes_read_per_token, read_tensors
from edgeport.runtimes.container import find_containers
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.threads import thread_count
from edgeport.runtimes.tuning.store import tuned_settings

OWN_LOOPS = {
    "gguf": "llama_decode",
    "onnx": "onnxruntime_genai.Generator",
    "openvino": "openvino_genai.LLMPipeline",
}
AS_IT_COMES = {**OWN_LOOPS, "gguf": "llama_cpp.Llama"}
TIMEOUT_S = 3600.0


def compare(directory: Path, format_name: str, given: argparse.Namespace, progress: Progress) -> Result:
    """All sides of one container, in turns; the order is turned round in every other round."""
    manifest = read_manifest(directory)
    path = directory / manifest.container(format_name).entry_point
    tasks = _tasks(manifest, directory, format_name, given)
    timings: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    for number in range(given.rounds):
        names = list(tasks) if number % 2 == 0 else list(reversed(tasks))
        for name in names:
            loop, task = tasks[name]
            with progress.stage(f"{manifest.name} {format_name}, round {number + 1}: {name}"):
                reply = run_isolated(
                    "decode_loops:measure", {"loop": loop, "task": asdict(task)}, timeout_s=TIMEOUT_S
                )
            timings[name] += [(float(first), float(rest)) for first, rest in reply]
    sides = {
        name: Side(name, loop, task.n_prompt, task.n_gen, tuple(timings[name]))
        for name, (loop, task) in tasks.items()
    }
    fastest = max(side.tokens_per_s("decode") for name, side in sides.items() if name in ("default", "tuned"))
    return Result(manifest.name, format_name, sides, _share(manifest, path, format_name, fastest, given))


def _tasks(
    manifest: Manifest, directory: Path, format_name: str, given: argparse.Namespace
) -> dict[str, tuple[str, Task]]:
    task = Task(
        path=str((directory / manifest.container(format_name).entry_point).resolve()),
        format=format_name,
        vocab_size=manifest.model.vocab_size,
        n_prompt=given.n_prompt,
        n_gen=given.n_gen,
        repetitions=given.repetitions,
        threads=thread_count(given.threads),
        seed=1,
        settings={},
    )
    if task.context_length > manifest.model.context_length:
        raise UsageError(
            f"{task.n_prompt} + {task.n_gen} tokens do not fit the model's context of {manifest.model.context_length}",
            hint="use a smaller -p or -n",
        )
    free = Task(**{**asdict(task), "threads": None})
    tasks = {"default": ("edgeport", task)}
    settings = _tuned(directory, format_name)
    if settings:
        tasks["tuned"] = ("edgeport", Task(**{**asdict(free), "settings": settings}))
    tasks["own"] = (OWN_LOOPS[format_name], task)
    tasks["as it comes"] = (AS_IT_COMES[format_name], free)
    return tasks


def _tuned(directory: Path, format_name: str) -> dict[str, Any]:
    """What `edgeport tune` found for this container here; nothing when it was not run, or found nothing better."""
    container = next(item for item in find_containers(directory) if item.format == format_name)
    settings = tuned_settings(container)
    return {} if settings is None else settings.chosen()


def _share(
    manifest: Manifest, path: Path, format_name: str, tokens_per_s: float, given: argparse.Namespace
) -> float | None:
    depth = mean_cache_entries(given.n_gen, given.n_prompt)
    return roofline(
        bytes_read_per_token(read_tensors(format_name, path)),
        manifest.model.kv_bytes_per_token * depth,
        tokens_per_s,
        bandwidth_bytes_per_s=given.bandwidth,
        cache_bytes=capture().last_level_cache_bytes,
    ).share


def tune(directory: Path, formats: Sequence[str]) -> None:
    """As a user would, in a process of its own."""
    command = [sys.executable, "-m", "edgeport", "tune", str(directory)]
    for name in formats:
        command += ["--format", name]
    subprocess.run(command, check=True)


def page(
    results: Sequence[Result], fastest: Sequence[Best], environment: Environment, given: argparse.Namespace
) -> str:
    """Markdown: ours over the own loop, then our fastest over the fastest peer."""
    lines = [
        f"{environment.cpu_model}, {thread_count(given.threads)} threads; a prompt of {given.n_prompt} tokens, {given.n_gen} written,"
        f" {given.rounds * given.repetitions} repetitions; medians in tokens/s; {given.bandwidth / 1e9:.1f} GB/s read bandwidth.",
        "",
        "| model | container | own loop | test | own | ours | ratio (95 %) | tuned | ratio (95 %) | bandwidth |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for item in results:
        for phase in PHASES:
            own = item.sides["own"]
            ours = ratio(item.sides["default"], own, phase)
            tuned = ratio(item.sides["tuned"], own, phase) if "tuned" in item.sides else None
            share = item.roofline_share if phase == "decode" else None
            lines.append(
                f"| {item.model} | {item.format} | {own.loop} | {phase} | {ours.peer:.1f} | {ours.ours:.1f} "
                f"| {ours.ratio:.2f} ({ours.low:.2f}-{ours.high:.2f}) "
                + (
                    f"| {tuned.ours:.1f} | {tuned.ratio:.2f} ({tuned.low:.2f}-{tuned.high:.2f}) "
                    if tuned
                    else "| - | - "
                )
                + (f"| {share:.0%} |" if share else "| - |")
            )
    lines += [
        "",
        "| model | test | our fastest | tokens/s | fastest peer as it comes | tokens/s | ratio (95 %) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in fastest:
        lines.append(
            f"| {row.model} | {row.phase} | {row.ours} | {row.found.ours:.1f} | {row.peer} | {row.found.peer:.1f} "
            f"| {row.found.ratio:.2f} ({row.found.low:.2f}-{row.found.high:.2f}) |"
        )
    return "\n".join(lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directories", type=Path, nargs="*", metavar="ARTIFACT")
    parser.add_argument(
        "--twins", default="", metavar="A,B", help="random-weight models of published shapes, made in --work"
    )
    parser.add_argument("--work", type=Path, default=Path("artifacts/decode"), metavar="DIR")
    parser.add_argument(
        "--format", action="append", choices=tuple(OWN_LOOPS), help="default: all the artifact holds"
    )
    parser.add_argument("-p", "--n-prompt", type=int, default=256)
    parser.add_argument("-n", "--n-gen", type=int, default=128)
    parser.add_argument("-r", "--repetitions", type=int, default=5, help="per round, after a warm-up (5)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="default: the physical cores")
    parser.add_argument("--tune", action="store_true", help="run `edgeport tune` on each artifact first")
    parser.add_argument("--page", type=Path, metavar="FILE", help="Markdown page to put the tables into")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--require", action="store_true", help="exit 1 when an aim is missed")
    given = parser.parse_args(arguments)
    given.twin_names = [name for name in given.twins.split(",") if name]
    if not given.directories and not given.twin_names:
        parser.error("name an artifact folder or --twins")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parse(arguments)
    setting = Setting(given.work, thread_count(given.threads), given.repetitions, tiny=False)
    twins = [artifact_folder(name, "int4", list(OWN_LOOPS), setting) for name in given.twin_names]
    distributions = ["llama-cpp-python", "onnxruntime-genai", "openvino-genai"]
    environment = capture(["edgeport", "onnxruntime", "openvino", *distributions])
    given.bandwidth = read_bandwidth(setting.threads, environment)
    results, failed = [], 0
    for directory in [*given.directories, *twins]:
        held = [entry.format for entry in read_manifest(directory).containers]
        formats = given.format or [name for name in OWN_LOOPS if name in held]
        if given.tune:
            tune(directory, formats)
        for format_name in formats:
            try:
                results.append(compare(directory, format_name, given, Progress()))
            except EdgeportError as error:
                failed += 1
                print(f"{directory} {format_name}: {error.message}", file=sys.stderr)
    if not results:
        return 1
    fastest = best(results)
    misses = missed(
        results, fastest, roofline_models=[item.model for item in results if "0.5b" in item.model]
    )
    print(table(results), best_table(fastest), sep="\n\n")
    print(f"\ntokens/s; {environment.cpu_model}, {setting.threads} threads, load {environment.load_average}")
    print("\n".join(f"aim missed: {line}" for line in dict.fromkeys(misses)) or "all aims met")
    if given.page:
        insert(page(results, fastest, environment, given), given.page, Path(__file__).name)
    if given.json:
        asked = {key: str(value) for key, value in vars(given).items()}
        document = {"arguments": asked, "environment": environment, "results": results, "missed": misses}
        given.json.write_text(json.dumps(to_json(document), indent=2) + "\n", encoding="utf-8")
    return 1 if failed or (given.require and misses) else 0


if __name__ == "__main__":
    sys.exit(main())
