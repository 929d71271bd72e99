"""Our adapters beside each engine's own generate loop: the same file, threads, prompts and number of tokens, in one run.

    python benchmarks/decode.py ARTIFACT [--format gguf] [-p 512] [-n 128] [-r 5] [--rounds 2] [--json FILE]

Both sides decode greedily and both pay for picking the token. A repetition reads a prompt and picks a first token
("prefill"), then writes `n` more ("decode"). Each repetition has a prompt of its own, so that no side profits from a
prefix cache. Every measurement is a fresh process; sides take turns over the rounds, so that a slow minute hits both.
A ratio above 1 means that our adapter is faster. The interval is of a bootstrap over the repetitions (95 %).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import EdgeportError, UsageError
from edgeport.manifest import read_manifest, to_json
from edgeport.progress import Progress
from edgeport.runtimes.bench.environment import capture
from edgeport.runtimes.bench.measure import random_tokens
from edgeport.runtimes.bench.statistics import median, percentile
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.session import SessionOptions
from edgeport.runtimes.threads import thread_count
from edgeport.table import format_table

Timing = tuple[float, float]
"""Seconds of one repetition: prompt to first token, first token to last."""
BOOTSTRAPS = 2000
PEERS = {
    "gguf": ("llama_cpp.Llama", "llama_cpp_python", "llama-cpp-python"),
    "onnx": ("onnxruntime_genai.Generator", "onnxruntime_genai", "onnxruntime-genai"),
    "openvino": ("openvino_genai.LLMPipeline", "openvino_genai", "openvino-genai"),
}
"""Format: what is shown, the function below, the distribution."""


@dataclass(frozen=True, slots=True)
class Task:
    """What both sides get."""

    path: str
    format: str
    vocab_size: int
    n_prompt: int
    n_gen: int
    repetitions: int
    threads: int
    seed: int

    @property
    def context_length(self) -> int:
        return self.n_prompt + self.n_gen + 1

    def prompts(self) -> list[list[int]]:
        """One for the warm-up and one for each repetition."""
        return [
            random_tokens(self.n_prompt, self.vocab_size, seed=self.seed + index)
            for index in range(self.repetitions + 1)
        ]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Tokens per second of both sides (median) and ours over theirs."""

    ours: float
    own: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Result:
    format: str
    peer: str
    prefill: Ratio
    decode: Ratio
    ours_s: list[Timing]
    own_s: list[Timing]


def measure(side: str, task: dict[str, Any]) -> list[Timing]:
    """In the child: the repetitions of one side, without the warm-up."""
    job = Task(**task)
    loop = _adapter if side == "ours" else globals()["_" + PEERS[job.format][1]]
    run: Callable[[Sequence[int]], Timing] = loop(job)
    return [run(prompt) for prompt in job.prompts()][1:]


def _adapter(task: Task) -> Callable[[Sequence[int]], Timing]:
    options = SessionOptions(threads=task.threads, context_length=task.context_length)
    session = open_session(task.format, Path(task.path), options)

    def run(prompt: Sequence[int]) -> Timing:
        session.rewind(0)
        start = time.perf_counter()
        token = int(session.feed(prompt)[-1].argmax())
        first = time.perf_counter()
        for _ in range(task.n_gen):
            token = int(session.feed((token,))[-1].argmax())
        return first - start, time.perf_counter() - first

    return run


def _llama_cpp_python(task: Task) -> Callable[[Sequence[int]], Timing]:
    import llama_cpp

    model = llama_cpp.Llama(
        task.path,
        n_ctx=task.context_length,
        n_threads=task.threads,
        n_threads_batch=task.threads,
        verbose=False,
    )

    def run(prompt: Sequence[int]) -> Timing:
        model.reset()
        start = time.perf_counter()
        tokens = model.generate(list(prompt), temp=0.0, repeat_penalty=1.0)
        next(tokens)
        first = time.perf_counter()
        for _ in range(task.n_gen):
            next(tokens)
        return first - start, time.perf_counter() - first

    return run


def _onnxruntime_genai(task: Task) -> Callable[[Sequence[int]], Timing]:
    import onnxruntime_genai as genai

    config = genai.Config(str(Path(task.path).parent))
    options = {"session_options": {"intra_op_num_threads": task.threads}}
    config.overlay(json.dumps({"model": {"decoder": options}}))
    model = genai.Model(config)

    def run(prompt: Sequence[int]) -> Timing:
        parameters = genai.GeneratorParams(model)
        # min_length keeps the end-of-text token away
        parameters.set_search_options(
            max_length=task.context_length, min_length=task.context_length, do_sample=False
        )
        generator = genai.Generator(model, parameters)
        start = time.perf_counter()
        generator.append_tokens(list(prompt))
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(task.n_gen):
            generator.generate_next_token()
        last = time.perf_counter()
        if generator.token_count() != task.context_length:
            raise UsageError(f"Generator holds {generator.token_count()} tokens, not {task.context_length}")
        return first - start, last - first

    return run


def _openvino_genai(task: Task) -> Callable[[Sequence[int]], Timing]:
    import numpy as np
    import openvino
    import openvino_genai as genai

    pipeline = genai.LLMPipeline(str(Path(task.path).parent), "CPU", {"INFERENCE_NUM_THREADS": task.threads})
    config = genai.GenerationConfig()
    config.max_new_tokens = task.n_gen + 1
    config.ignore_eos = True
    config.do_sample = False

    def run(prompt: Sequence[int]) -> Timing:
        result = pipeline.generate(openvino.Tensor(np.array([prompt], np.int64)), config)
        metrics = result.perf_metrics
        if metrics.get_num_generated_tokens() != task.n_gen + 1:
            raise UsageError(
                f"LLMPipeline wrote {metrics.get_num_generated_tokens()} tokens, not {task.n_gen + 1}"
            )
        return metrics.get_ttft().mean / 1000, metrics.get_tpot().mean * task.n_gen / 1000

    return run


def compare(directory: Path, format_name: str, arguments: argparse.Namespace, progress: Progress) -> Result:
    """Both sides of one container, in turns."""
    manifest = read_manifest(directory)
    task = Task(
        path=str((directory / manifest.container(format_name).entry_point).resolve()),
        format=format_name,
        vocab_size=manifest.model.vocab_size,
        n_prompt=arguments.n_prompt,
        n_gen=arguments.n_gen,
        repetitions=arguments.repetitions,
        threads=thread_count(arguments.threads),
        seed=1,
    )
    if task.context_length > manifest.model.context_length:
        raise UsageError(
            f"{task.n_prompt} + {task.n_gen} tokens do not fit the model's context of {manifest.model.context_length}",
            hint="use a smaller -p or -n",
        )
    timings: dict[str, list[Timing]] = {"ours": [], "own": []}
    for number in range(arguments.rounds):
        for side in ("ours", "own") if number % 2 == 0 else ("own", "ours"):
            with progress.stage(f"{format_name}, round {number + 1}: {side}"):
                reply = run_isolated("decode:measure", {"side": side, "task": asdict(task)}, timeout_s=3600)
            timings[side] += [(float(first), float(rest)) for first, rest in reply]
    ours, own = timings["ours"], timings["own"]
    return Result(
        format=format_name,
        peer=PEERS[format_name][0],
        prefill=ratio(task.n_prompt, [first for first, _ in ours], [first for first, _ in own]),
        decode=ratio(task.n_gen, [rest for _, rest in ours], [rest for _, rest in own]),
        ours_s=ours,
        own_s=own,
    )


def ratio(tokens: int, ours_s: Sequence[float], own_s: Sequence[float]) -> Ratio:
    """Of medians; the interval resamples the repetitions of both sides."""
    generator = random.Random(0)
    resampled = [
        median(generator.choices(own_s, k=len(own_s))) / median(generator.choices(ours_s, k=len(ours_s)))
        for _ in range(BOOTSTRAPS)
    ]
    return Ratio(
        ours=tokens / median(ours_s),
        own=tokens / median(own_s),
        ratio=median(own_s) / median(ours_s),
        low=percentile(resampled, 2.5),
        high=percentile(resampled, 97.5),
    )


def table(results: Sequence[Result]) -> str:
    headers = [
        "format",
        "own loop",
        "prefill ours",
        "own",
        "ratio",
        "95 %",
        "decode ours",
        "own",
        "ratio",
        "95 %",
    ]
    rows = [[item.format, item.peer, *_cells(item.prefill), *_cells(item.decode)] for item in results]
    return format_table(headers, rows, right=set(range(2, len(headers))))


def _cells(found: Ratio) -> list[str]:
    return [
        f"{found.ours:.1f}",
        f"{found.own:.1f}",
        f"{found.ratio:.3f}",
        f"{found.low:.3f}-{found.high:.3f}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="ARTIFACT")
    parser.add_argument(
        "--format", action="append", choices=tuple(PEERS), help="default: all the artifact holds"
    )
    parser.add_argument("-p", "--n-prompt", type=int, default=512)
    parser.add_argument("-n", "--n-gen", type=int, default=128)
    parser.add_argument("-r", "--repetitions", type=int, default=5, help="per round, after a warm-up (5)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="default: the physical cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    arguments = parser.parse_args()
    held = [entry.format for entry in read_manifest(arguments.directory).containers]
    formats = arguments.format or [name for name in PEERS if name in held]
    environment = capture(["edgeport", "onnxruntime", "openvino", *(item[2] for item in PEERS.values())])
    results, failed = [], 0
    for format_name in formats:
        try:
            results.append(compare(arguments.directory, format_name, arguments, Progress()))
        except EdgeportError as error:
            failed += 1
            print(f"{format_name}: {error.message}", file=sys.stderr)
    if results:
        print(table(results))
        print(
            f"\ntokens/s; {environment.cpu_model}, {thread_count(arguments.threads)} threads, load {environment.load_average}"
        )
    if arguments.json:
        asked = {key: str(value) for key, value in vars(arguments).items()}
        document = {"arguments": asked, "environment": environment, "results": results}
        arguments.json.write_text(json.dumps(to_json(document), indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
