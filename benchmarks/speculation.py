"""What proposals bring on code completion: the same prompts, greedy, with and without, and whether the text was the same.

    python benchmarks/speculation.py ARTIFACT [--format gguf] [-p 256] [-n 128] [--prompts 12] [--exact] [--json FILE]

Prompts are pieces of models/reference/text/heldout.txt, or of --text. Each is one block, written four times in the order
with, without, without, with, so that a slow minute hits both sides. Timed is what comes after the first token. A format is
one fresh process; lookup and draft decide there by themselves when they are on, as they do under `edgeport.runtimes.load`.
A ratio above 1 means that proposals are faster; its 95 % interval is edgeport.runtimes.bench.paired_ratio's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import EdgeportError, UsageError
from edgeport.manifest import read_manifest, to_json
from edgeport.progress import Progress
from edgeport.runtimes.acceptance import Acceptance
from edgeport.runtimes.bench.environment import capture
from edgeport.runtimes.bench.paired_ratio import FEWEST_BLOCKS, Block, PairedRatio, paired_ratio
from edgeport.runtimes.bench.statistics import median
from edgeport.runtimes.container import Container, find_containers
from edgeport.runtimes.draft_model import Draft
from edgeport.runtimes.drafts import open_draft
from edgeport.runtimes.engine_settings import EngineSettings
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.lookup import PromptLookup, adaptive_lookup
from edgeport.runtimes.penalties import History
from edgeport.runtimes.sampling import GREEDY
from edgeport.runtimes.session import Session, SessionOptions
from edgeport.runtimes.speculative import write
from edgeport.runtimes.threads import thread_count
from edgeport.runtimes.tokenizer import open_tokenizer
from edgeport.table import format_table

TEXT = Path(__file__).resolve().parents[1] / "models" / "reference" / "text" / "heldout.txt"


@dataclass(frozen=True, slots=True)
class Task:
    """What one process measures. flash_attention: None is the adapter's own choice."""

    folder: str
    format: str
    text: str
    n_prompt: int
    n_gen: int
    prompts: int
    threads: int
    exact: bool
    flash_attention: bool | None


@dataclass(frozen=True, slots=True)
class Result:
    """Of one format and one proposer. same_texts: prompts whose four texts were all equal."""

    format: str
    proposer: str
    ratio: PairedRatio
    with_tokens_per_s: float
    without_tokens_per_s: float
    acceptance: Acceptance
    is_off: bool
    same_texts: int
    prompts: int


def measure(task: dict[str, Any]) -> list[dict[str, Any]]:
    """In the child: every proposer there is, one after the other."""
    job = Task(**task)
    container = next(item for item in find_containers(Path(job.folder)) if item.format == job.format)
    options = SessionOptions(
        job.threads, job.n_prompt + job.n_gen, job.exact, EngineSettings(flash_attention=job.flash_attention)
    )
    session = open_session(container.format, container.path, options)
    draft = open_draft(container, session, open_tokenizer(container), options)
    prompts = cut_prompts(container, job)
    warm_up(session, prompts[0])
    proposers: dict[str, PromptLookup | Draft] = {"lookup": adaptive_lookup()}
    if draft is not None:
        proposers["draft"] = draft
    results = [compare(job, name, proposer, session, prompts) for name, proposer in proposers.items()]
    return [to_json(result) for result in results]


def cut_prompts(container: Container, task: Task) -> list[list[int]]:
    """Pieces of the text at equal distances, each to the end of a line where it has one."""
    text = Path(task.text).read_text(encoding="utf-8")
    tokenizer = open_tokenizer(container)
    distance = len(text) // task.prompts
    prompts = []
    for begin in range(0, distance * task.prompts, distance):
        tokens = tokenizer.encode(text[begin : begin + 16 * task.n_prompt])
        prompts.append(tokens[: task.n_prompt])
    if min(map(len, prompts)) < task.n_prompt:
        raise UsageError(f"{task.text} is too short for prompts of {task.n_prompt} tokens")
    return prompts


def warm_up(session: Session, prompt: Sequence[int]) -> None:
    for _ in write(session, History(prompt), GREEDY, 16):
        pass


def compare(
    task: Task, name: str, proposer: PromptLookup | Draft, session: Session, prompts: Sequence[Sequence[int]]
) -> Result:
    blocks, same = [], 0
    for prompt in prompts:
        runs = [run(session, prompt, task.n_gen, helper) for helper in (proposer, None, None, proposer)]
        times = [nanoseconds for nanoseconds, _ in runs]
        blocks.append(Block((times[0], times[3]), (times[1], times[2])))
        same += all(tokens == runs[1][1] for _, tokens in runs)
    decoded = task.n_gen - 1
    return Result(
        format=task.format,
        proposer=name,
        ratio=paired_ratio(blocks),
        with_tokens_per_s=decoded / median([time_ns for block in blocks for time_ns in block.a_ns]) * 1e9,
        without_tokens_per_s=decoded / median([time_ns for block in blocks for time_ns in block.b_ns]) * 1e9,
        acceptance=proposer.acceptance(),
        is_off=proposer.is_off,
        same_texts=same,
        prompts=len(prompts),
    )


def run(
    session: Session, prompt: Sequence[int], count: int, proposer: PromptLookup | Draft | None
) -> tuple[int, list[int]]:
    """Nanoseconds from the first token to the last, and the tokens."""
    session.rewind(0)
    if isinstance(proposer, Draft):
        proposer.session.rewind(0)
    choices = write(session, History(prompt), GREEDY, count, proposer=proposer)
    tokens = [next(choices)[0]]
    begin = time.perf_counter_ns()
    tokens += [token for token, _ in choices]
    return time.perf_counter_ns() - begin, tokens


def table(results: Sequence[dict[str, Any]]) -> str:
    headers = [
        "format",
        "proposer",
        "without",
        "with",
        "ratio",
        "95 %",
        "kept",
        "tokens/step",
        "same text",
        "",
    ]
    rows = []
    for item in results:
        ratio, found = item["ratio"], item["acceptance"]
        rows.append(
            [
                item["format"],
                item["proposer"],
                f"{item['without_tokens_per_s']:.1f}",
                f"{item['with_tokens_per_s']:.1f}",
                f"{ratio['ratio']:.3f}",
                f"{ratio['low']:.3f}-{ratio['high']:.3f}",
                f"{found['rate']:.0%}",
                f"{found['tokens_per_step']:.2f}",
                f"{item['same_texts']}/{item['prompts']}",
                "switched off" if item["is_off"] else "",
            ]
        )
    return format_table(headers, rows, right=set(range(2, 9)))


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="ARTIFACT")
    parser.add_argument("--format", action="append", help="default: all the artifact holds but safetensors")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("-p", "--n-prompt", type=int, default=256)
    parser.add_argument("-n", "--n-gen", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=12, help=f"{FEWEST_BLOCKS} or more (12)")
    parser.add_argument("--threads", type=int, help="default: the physical cores")
    parser.add_argument("--exact", action="store_true", help="the engine's most exact arithmetic")
    parser.add_argument(
        "--flash-attention",
        action=argparse.BooleanOptionalAction,
        help="llama.cpp: with it several tokens in a call get the bits of single ones (default: the adapter's choice)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    arguments = parser.parse_args()
    if arguments.prompts < FEWEST_BLOCKS:
        parser.error(f"--prompts is {arguments.prompts}, an interval needs {FEWEST_BLOCKS} or more")
    return arguments


def main() -> int:
    arguments = arguments_of()
    held = [item.format for item in find_containers(arguments.directory)]
    formats = arguments.format or [name for name in held if name != "safetensors"]
    environment = capture(["edgeport", "onnxruntime", "openvino", "llama-cpp-python"])
    results, failed = [], 0
    for name in formats:
        task = Task(
            folder=str(arguments.directory.resolve()),
            format=name,
            text=str(arguments.text.resolve()),
            n_prompt=arguments.n_prompt,
            n_gen=arguments.n_gen,
            prompts=arguments.prompts,
            threads=thread_count(arguments.threads),
            exact=arguments.exact,
            flash_attention=arguments.flash_attention if name.startswith("gguf") else None,
        )
        try:
            with Progress().stage(name):
                results += run_isolated("speculation:measure", {"task": asdict(task)}, timeout_s=3600)
        except EdgeportError as error:
            failed += 1
            print(f"{name}: {error.message}", file=sys.stderr)
    if results:
        print(table(results))
        print(f"\ntokens/s; {environment.cpu_model}, {thread_count(arguments.threads)} threads, "
              f"load {environment.load_average}")  # fmt: skip
    if arguments.json:
        model = read_manifest(arguments.directory).model
        asked = {key: str(value) for key, value in vars(arguments).items()}
        document = {"arguments": asked, "environment": environment, "model": model, "results": results}
        arguments.json.write_text(json.dumps(to_json(document), indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
