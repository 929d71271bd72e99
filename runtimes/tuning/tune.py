"""Coordinate search over an engine's settings: each change is measured in turns with the best so far, in live child processes.

A change is taken when the interval of its ratio lies above 1 and it gains at least MINIMUM_GAIN; one that moves the logits beyond
the quality class is refused, whatever it gains. At the end what was found is measured against the adapter's own choice, and
is kept only if it wins there too: many comparisons make a lucky one likely.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeport.errors import EdgeportError, UsageError
from edgeport.progress import NO_PROGRESS, Progress
from edgeport.runtimes.bench.live_child import LiveChild
from edgeport.runtimes.bench.paired_ratio import FEWEST_BLOCKS, Block, PairedRatio, paired_ratio
from edgeport.runtimes.container import Container
from edgeport.runtimes.engine_settings import EngineSettings, check_settings
from edgeport.runtimes.tuning.candidates import Candidate, Objective, candidates
from edgeport.runtimes.tuning.difference import Difference, difference
from edgeport.runtimes.tuning.store import Tried, Tuned, identity, read_host_key

MINIMUM_GAIN = 1.02
BLOCKS = max(6, FEWEST_BLOCKS)
MOST_BLOCKS = 2 * BLOCKS
"""For a change that seems faster and is not yet outside of the noise."""
FEWEST_SECONDS = 5.0
_SEEN_IN_THE_LOGITS = {"flash_attention", "inference_precision", "dynamic_quantization_group"}
"""Where one of these gives the same bits, the adapter does it anyway; a cache of another type can be as exact and still faster."""
TARGET = "edgeport.runtimes.tuning.measured:serve"
_LAST_COMPARISON = 0.2
"""Share of the time that is kept for the comparison with the adapter's own choice."""
_REPETITION_SHARE = 0.004
"""Of the time a tuning may take, how long one repetition should be: about ten candidates with twenty repetitions each."""


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """seconds: in all, opening included. depth: tokens in the cache before those that are timed. allow_coarser: also try
    settings that keep the cache or the activations with fewer bits."""

    objective: Objective = "both"
    seconds: float = 50.0
    context_length: int | None = None
    depth: int = 256
    allow_coarser: bool = False
    logical_processors: int | None = None

    def __post_init__(self) -> None:
        if self.seconds < FEWEST_SECONDS:
            raise UsageError(f"{self.seconds:g} s are too few", hint=f"give {FEWEST_SECONDS:g} or more")


@dataclass(frozen=True, slots=True)
class _Work:
    """Tokens of one repetition, so that each test takes about as long."""

    prompt: int
    generated: int
    depth: int


@dataclass(frozen=True, slots=True)
class _Children:
    """How live children are started, where they write, and what ends them all."""

    target: str
    folder: Path
    stack: ExitStack


class _Side:
    """A live child with its settings, and where its logits lie."""

    def __init__(self, child: LiveChild, settings: EngineSettings, folder: Path) -> None:
        self.child, self.settings = child, settings
        child.next()
        self.probe = Path(child.next({"test": "probe", "folder": str(folder)})["file"])

    def nanoseconds(self, test: str, tokens: int, depth: int) -> int:
        return int(self.child.next({"test": test, "tokens": tokens, "depth": depth})["ns"])


def tune(
    container: Container, options: TuneOptions, *, target: str = TARGET, progress: Progress = NO_PROGRESS
) -> Tuned:
    """Measure and return what is best here; nothing is remembered yet. Raises RuntimeFailure when the file cannot be run.

    target: the child's side, for tests that plant a slow setting around it.
    """
    start = time.monotonic()
    host = read_host_key(container.format)
    found = list(
        candidates(
            container.format,
            options.objective,
            cores=host.cores,
            logical=options.logical_processors or host.cores,
            allow_coarser=options.allow_coarser,
        )
    )
    with TemporaryDirectory(prefix="edgeport-tune-") as folder, ExitStack() as stack:
        search = _Search(container, options, _Children(target, Path(folder), stack), start)
        with progress.stage(f"tune {container.format}", total=len(found)) as stage:
            for candidate in found:
                search.consider(candidate)
                stage.advance()
        gain = search.confirm()
    kept = search.best.settings.chosen() if gain.verdict == "faster" else {}
    return Tuned(
        artifact=container.manifest.name if container.manifest else container.path.name,
        format=container.format,
        weights_id=identity(container),
        objective=options.objective,
        host=host,
        settings=kept,
        gain=gain.ratio if kept else 1.0,
        low=gain.low if kept else 1.0,
        high=gain.high if kept else 1.0,
        seconds=time.monotonic() - start,
        measured_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        tried=tuple(search.tried),
        not_tried=search.not_tried,
    )


class _Search:
    """The best so far, what was tried, and how much time is left."""

    def __init__(self, container: Container, options: TuneOptions, children: _Children, start: float) -> None:
        self._container, self._options, self._children = container, options, children
        self._deadline = start + options.seconds * (1 - _LAST_COMPARISON)
        self._context_length = _context_length(container, options)
        self.tried: list[Tried] = []
        self.not_tried = 0
        begin = time.monotonic()
        self._defaults = self.best = self._open(EngineSettings())
        self._work = self._size()
        self._last_seconds = time.monotonic() - begin

    def consider(self, candidate: Candidate) -> None:
        """Measure one change beside the best so far, and take it when it wins."""
        if time.monotonic() + self._last_seconds > self._deadline:
            self.not_tried += 1
            return
        begin = time.monotonic()
        settings = replace(self.best.settings, **candidate.changes)
        try:
            side = self._open(check_settings(settings, self._container.format))
        except EdgeportError as error:
            self.tried.append(Tried(candidate.changes, f"cannot run: {error.message.splitlines()[0]}"))
            return
        apart = difference(self._defaults.probe, side.probe)
        if not (apart.is_same_class or self._options.allow_coarser):
            self._note(candidate, "changes the text too much", None, apart)
            side.child.close()
            return
        if (
            set(candidate.changes) <= _SEEN_IN_THE_LOGITS
            and difference(self.best.probe, side.probe).largest == 0
        ):
            self._note(candidate, "what it does anyway", None, apart)
            side.child.close()
            return
        found = self._compare(side, self.best)
        taken = found.verdict == "faster" and found.ratio >= MINIMUM_GAIN
        self._note(candidate, "taken" if taken else found.verdict, found, apart)
        loser = self.best if taken else side
        self.best = side if taken else self.best
        if loser is not self._defaults:
            loser.child.close()
        self._last_seconds = time.monotonic() - begin

    def confirm(self) -> PairedRatio:
        """The best against the adapter's own choice."""
        if self.best is self._defaults:
            return PairedRatio(1.0, 1.0, 1.0, "no difference seen")
        return self._compare(self.best, self._defaults)

    def _open(self, settings: EngineSettings) -> _Side:
        arguments = {
            "format_name": self._container.format,
            "path": str(self._container.path),
            "settings": settings.chosen(),
            "context_length": self._context_length,
        }
        children = self._children
        child = children.stack.enter_context(
            LiveChild(children.target, arguments, timeout_s=self._options.seconds * 4)
        )
        return _Side(child, settings, children.folder)

    def _size(self) -> _Work:
        """From one try of each test, after a warm-up: as many tokens as fill a repetition."""
        wanted_ns = self._options.seconds * _REPETITION_SHARE * 1e9
        depth = min(self._options.depth, self._context_length // 2)
        room = self._context_length - depth
        for _ in range(2):
            prompt_ns = self.best.nanoseconds("prefill", min(32, room), 0) / min(32, room)
            token_ns = self.best.nanoseconds("decode", min(8, room), depth) / min(8, room)
        prompt = max(16, min(room, int(wanted_ns / prompt_ns)))
        return _Work(prompt, max(4, min(room, int(wanted_ns / token_ns))), depth)

    def _compare(self, a: _Side, b: _Side) -> PairedRatio:
        """A's rate over B's, in blocks of A B B A."""
        for side in (a, b):
            self._repetition(side)
        blocks = [self._block(a, b) for _ in range(BLOCKS)]
        found = paired_ratio(blocks)
        while (
            found.verdict == "no difference seen"
            and found.ratio >= MINIMUM_GAIN
            and len(blocks) < MOST_BLOCKS
            and time.monotonic() < self._deadline
        ):
            blocks.append(self._block(a, b))
            found = paired_ratio(blocks)
        return found

    def _block(self, a: _Side, b: _Side) -> Block:
        first_a, first_b = self._repetition(a), self._repetition(b)
        second_b, second_a = self._repetition(b), self._repetition(a)
        return Block((first_a, second_a), (first_b, second_b))

    def _repetition(self, side: _Side) -> int:
        work, objective = self._work, self._options.objective
        total = 0
        if objective != "decode":
            total += side.nanoseconds("prefill", work.prompt, 0)
        if objective != "prefill":
            total += side.nanoseconds("decode", work.generated, work.depth)
        return total

    def _note(self, candidate: Candidate, verdict: str, found: PairedRatio | None, apart: Difference) -> None:
        self.tried.append(
            Tried(
                changes=candidate.changes,
                verdict=verdict,
                ratio=found.ratio if found else None,
                low=found.low if found else None,
                high=found.high if found else None,
                mean_kl_divergence=apart.mean_kl_divergence,
                same_top1=apart.same_top1,
                largest_difference=apart.largest,
            )
        )


def _context_length(container: Container, options: TuneOptions) -> int:
    largest = container.manifest.model.context_length if container.manifest else 2048
    return min(options.context_length or 1024, largest)


def choose_tunable(containers: Sequence[Container], names: Sequence[str]) -> list[Container]:
    """The containers to tune: those named, else all with an engine that has settings. Raises UsageError."""
    from edgeport.runtimes.engine_settings import ENGINE_FIELDS
    from edgeport.runtimes.engines import unavailable_because

    held: dict[str, Any] = {container.format: container for container in containers}
    unknown = [name for name in names if name not in held]
    if unknown:
        raise UsageError(f"no {unknown[0]!r} container here", hint=f"there is {', '.join(held)}")
    chosen = [held[name] for name in names] or [
        item for item in containers if ENGINE_FIELDS.get(item.format.partition("-")[0])
    ]
    usable = [item for item in chosen if names or unavailable_because(item.format) is None]
    if not usable:
        raise UsageError("nothing here can be tuned", hint="install an engine, or name a format")
    return usable
