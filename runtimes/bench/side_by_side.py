"""Compare two containers, artifacts or settings: two live processes take turns as A B B A, and a ratio with an interval comes out.

Each round starts both processes anew, in the other order, because where memory happened to lie is part of a process' speed.
While one works the other waits for its turn and holds its model in memory.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from edgeport.errors import UsageError
from edgeport.manifest import base_format, to_json
from edgeport.progress import NO_PROGRESS, Progress
from edgeport.runtimes.bench.container_roofline import roofline_or_none
from edgeport.runtimes.bench.environment import Environment
from edgeport.runtimes.bench.live_child import LiveChild
from edgeport.runtimes.bench.machine import Machine, engine_version, read_machine
from edgeport.runtimes.bench.measure import NANOSECONDS, Workload, label
from edgeport.runtimes.bench.paired_ratio import Block, PairedRatio, paired_ratio, require_blocks
from edgeport.runtimes.bench.roofline import Roofline, mean_cache_entries
from edgeport.runtimes.bench.side import Side
from edgeport.runtimes.bench.statistics import NOISY_VARIATION, coefficient_of_variation, median
from edgeport.runtimes.engines import ENGINES
from edgeport.runtimes.session import SessionOptions

BLOCKS = 10
ROUNDS = 2
_TARGET = "edgeport.runtimes.bench.side_child:repetitions"


@dataclass(frozen=True, slots=True)
class ComparedSide:
    """load_ms: of each round's process. roofline: of decoding at the median rate, None where it was not measured."""

    side: Side
    engine: str
    engine_version: str | None
    load_ms: tuple[float, ...]
    roofline: Roofline | None


@dataclass(frozen=True, slots=True)
class ComparedTest:
    """One test. found.ratio: A's rate over B's. samples: all repetitions in the order they were made."""

    test: str
    a_tokens_per_s: float
    b_tokens_per_s: float
    found: PairedRatio
    a_variation: float
    b_variation: float
    noisy: bool
    a_samples_ns: tuple[int, ...]
    b_samples_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """notes: what else differs between the sides, and what makes the figures doubtful."""

    a: ComparedSide
    b: ComparedSide
    tests: tuple[ComparedTest, ...]
    blocks: int
    measured_at: str
    environment: Environment
    notes: tuple[str, ...]


def compare_sides(
    a: Side, b: Side, workload: Workload, *, blocks: int = BLOCKS, progress: Progress = NO_PROGRESS
) -> Comparison:
    """workload.repetitions is not used: each of the `blocks` has two of each side. Raises RuntimeFailure when a side fails."""
    require_blocks(blocks)
    for side in (a, b):
        need, room = workload.context_length, side.context_length or side.largest_context
        if need > min(room, side.largest_context):
            raise UsageError(
                f"{need} tokens do not fit the context of {room} of '{side.label}'",
                hint="use a smaller -p, -n or -d",
            )
    measured_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    machines = {
        threads: read_machine([a.format, b.format], threads, progress=progress)
        for threads in dict.fromkeys((a.threads, b.threads))
    }
    environment = machines[a.threads].environment
    found, loads = _take_turns((a, b), workload, blocks, progress)
    tests = tuple(_compared(test, workload, found[test]) for test in _tests(workload))
    written = tests[-1:] if workload.n_gen else ()
    a_rates, b_rates = [test.a_tokens_per_s for test in written], [test.b_tokens_per_s for test in written]
    return Comparison(
        a=_compared_side(a, workload, loads[0], a_rates, machines[a.threads]),
        b=_compared_side(b, workload, loads[1], b_rates, machines[b.threads]),
        tests=tests,
        blocks=blocks,
        measured_at=measured_at,
        environment=environment,
        notes=tuple(_notes(a, b, tests)),
    )


def _take_turns(
    sides: tuple[Side, Side], workload: Workload, blocks: int, progress: Progress
) -> tuple[dict[str, list[Block]], tuple[list[float], list[float]]]:
    """The blocks of each test, and the milliseconds each side took to load."""
    tests = _tests(workload)
    loads: tuple[list[float], list[float]] = ([], [])
    found: dict[str, list[Block]] = {test: [] for test in tests}
    rounds = min(ROUNDS, blocks)
    with progress.stage("compare, blocks", total=blocks) as stage:
        for number in range(rounds):
            with ExitStack() as stack:
                order = sides if number % 2 == 0 else sides[::-1]
                opened = {id(side): stack.enter_context(_open(side, workload)) for side in order}
                a, b = (opened[id(side)] for side in sides)
                for child, load_ms in zip((a, b), loads, strict=True):
                    load_ms.append(child.next() / 1e6)
                    for test in tests:  # to warm up
                        child.next(test)
                for index in range(blocks * number // rounds, blocks * (number + 1) // rounds):
                    for test in tests:
                        found[test].append(_block(a, b, test, a_first=index % 2 == 0))
                    stage.advance()
    return found, loads


def _block(a: LiveChild, b: LiveChild, test: str, *, a_first: bool) -> Block:
    """A B B A, or B A A B."""
    outer, inner = (a, b) if a_first else (b, a)
    first, second, third, fourth = (int(child.next(test)) for child in (outer, inner, inner, outer))
    ends, middle = (first, fourth), (second, third)
    return Block(ends, middle) if a_first else Block(middle, ends)


def _open(side: Side, workload: Workload) -> LiveChild:
    options = SessionOptions(
        threads=side.threads,
        context_length=side.context_length or workload.context_length,
        settings=side.settings,
    )
    arguments = {
        "format_name": side.format,
        "path": str(side.path),
        "workload": to_json(workload),
        "options": to_json(options),
    }
    return LiveChild(_TARGET, arguments)


def _tests(workload: Workload) -> tuple[str, ...]:
    asked = {"prompt": workload.n_prompt, "generation": workload.n_gen}
    return tuple(test for test, tokens in asked.items() if tokens)


def _compared(test: str, workload: Workload, blocks: list[Block]) -> ComparedTest:
    is_prompt = test == "prompt"
    tokens = workload.n_prompt if is_prompt else workload.n_gen
    a_ns = tuple(sample for block in blocks for sample in block.a_ns)
    b_ns = tuple(sample for block in blocks for sample in block.b_ns)
    variations = coefficient_of_variation(a_ns), coefficient_of_variation(b_ns)
    return ComparedTest(
        test=label(
            workload.n_prompt if is_prompt else 0, 0 if is_prompt else tokens, n_depth=workload.n_depth
        ),
        a_tokens_per_s=NANOSECONDS * tokens / median(a_ns),
        b_tokens_per_s=NANOSECONDS * tokens / median(b_ns),
        found=paired_ratio(blocks),
        a_variation=variations[0],
        b_variation=variations[1],
        noisy=max(variations) > NOISY_VARIATION,
        a_samples_ns=a_ns,
        b_samples_ns=b_ns,
    )


def _compared_side(
    side: Side, workload: Workload, load_ms: list[float], rates: list[float], machine: Machine
) -> ComparedSide:
    """rates: of decoding, empty where it was not measured."""
    depth = mean_cache_entries(workload.n_gen, workload.n_depth)
    found = [
        roofline_or_none(side.format, side.path, side.kv_bytes_per_token * depth, rate, machine)
        for rate in rates
    ]
    engine = ENGINES[base_format(side.format)].name
    return ComparedSide(
        side, engine, engine_version(side.format), tuple(load_ms), found[0] if found else None
    )


def _notes(a: Side, b: Side, tests: tuple[ComparedTest, ...]) -> list[str]:
    notes = []
    if a.weights_id != b.weights_id:
        notes.append(f"the sides hold different weights: {a.weights_id[:12]} and {b.weights_id[:12]}")
    noisy = [f"{test.test} ({max(test.a_variation, test.b_variation):.0%})" for test in tests if test.noisy]
    if noisy:
        notes.append(f"noisy, the interval is wide because of it: {', '.join(noisy)}")
    return notes
