"""What benchmarks/decode.py found: ratios with intervals, the aims, and the tables."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from decode_loops import Timing

from edgeport.runtimes.bench.statistics import median, percentile
from edgeport.table import format_table

BOOTSTRAPS = 2000
OWN_AIM, TUNED_AIM, BEST_AIM, ROOFLINE_AIM = 0.98, 1.0, 1.15, 0.70


@dataclass(frozen=True, slots=True)
class Ratio:
    """Tokens per second of two sides (medians) and the first over the second, with its 95 % interval."""

    ours: float
    peer: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Side:
    """One side's repetitions; `loop` is a key of decode_loops.LOOPS."""

    name: str
    loop: str
    n_prompt: int
    n_gen: int
    timings: tuple[Timing, ...]

    def seconds(self, phase: str) -> list[float]:
        return [timing[0 if phase == "prefill" else 1] for timing in self.timings]

    def tokens_per_s(self, phase: str) -> float:
        return (self.n_prompt if phase == "prefill" else self.n_gen) / median(self.seconds(phase))


@dataclass(frozen=True, slots=True)
class Result:
    """One container: all sides by name (`default`, `tuned`, `own`, `as it comes`), and the share of the bandwidth that decoding used."""

    model: str
    format: str
    sides: dict[str, Side]
    roofline_share: float | None


PHASES = ("prefill", "decode")


def ratio(ours: Side, peer: Side, phase: str) -> Ratio:
    """Of medians; the interval resamples the repetitions of both sides."""
    generator = random.Random(0)
    ours_s, peer_s = ours.seconds(phase), peer.seconds(phase)
    resampled = [
        median(generator.choices(peer_s, k=len(peer_s))) / median(generator.choices(ours_s, k=len(ours_s)))
        for _ in range(BOOTSTRAPS)
    ]
    return Ratio(
        ours=ours.tokens_per_s(phase),
        peer=peer.tokens_per_s(phase),
        ratio=ours.tokens_per_s(phase) / peer.tokens_per_s(phase),
        low=percentile(resampled, 2.5),
        high=percentile(resampled, 97.5),
    )


def table(results: Sequence[Result]) -> str:
    """Ours over the engine's own loop at the same threads, by its defaults and tuned."""
    headers = ["model", "format", "own loop"]
    for phase in PHASES:
        headers += [f"{phase} own", "ours", "ratio", "95 %", "tuned", "ratio"]
    headers.append("bandwidth")
    rows = [_row(item) for item in results]
    return format_table(headers, rows, right=set(range(3, len(headers))))


def _row(item: Result) -> list[str]:
    own, ours, tuned = item.sides["own"], item.sides["default"], item.sides.get("tuned")
    cells = [item.model, item.format, own.loop]
    for phase in PHASES:
        found = ratio(ours, own, phase)
        cells += [
            f"{found.peer:.1f}", f"{found.ours:.1f}", f"{found.ratio:.3f}", f"{found.low:.2f}-{found.high:.2f}",
        ]  # fmt: skip
        if tuned is None:
            cells += ["-", "-"]
        else:
            best = ratio(tuned, own, phase)
            cells += [f"{best.ours:.1f}", f"{best.ratio:.3f}"]
    share = "-" if item.roofline_share is None else f"{item.roofline_share:.0%}"
    return [*cells, share]


@dataclass(frozen=True, slots=True)
class Best:
    """Our fastest side of a model against the fastest peer as it comes."""

    model: str
    phase: str
    ours: str
    peer: str
    found: Ratio


def best(results: Sequence[Result]) -> list[Best]:
    rows = []
    for model in dict.fromkeys(item.model for item in results):
        for phase in PHASES:
            ours = [
                (f"{item.format} {name}", item.sides[name])
                for item in results
                if item.model == model
                for name in ("default", "tuned")
                if name in item.sides
            ]
            peers = [
                item.sides["as it comes"]
                for item in results
                if item.model == model and "as it comes" in item.sides
            ]
            if ours and peers:
                name, fastest = max(ours, key=lambda pair: pair[1].tokens_per_s(phase))
                peer = max(peers, key=lambda side: side.tokens_per_s(phase))
                rows.append(Best(model, phase, name, peer.loop, ratio(fastest, peer, phase)))
    return rows


def best_table(found: Sequence[Best]) -> str:
    headers = [
        "model",
        "test",
        "our fastest",
        "tokens/s",
        "fastest peer as it comes",
        "tokens/s",
        "ratio",
        "95 %",
    ]
    rows = [
        [
            item.model, item.phase, item.ours, f"{item.found.ours:.1f}", item.peer, f"{item.found.peer:.1f}",
            f"{item.found.ratio:.3f}", f"{item.found.low:.2f}-{item.found.high:.2f}",
        ]
        for item in found
    ]  # fmt: skip
    return format_table(headers, rows, right={3, 5, 6, 7})


def missed(
    results: Sequence[Result], found: Sequence[Best], roofline_models: Sequence[str] = ()
) -> list[str]:
    """Aims that were not reached, one line each; an interval that touches the aim is not counted as missed."""
    lines = []
    for item in results:
        for phase in PHASES:
            for name, aim in (("default", OWN_AIM), ("tuned", TUNED_AIM)):
                if name in item.sides:
                    got = ratio(item.sides[name], item.sides["own"], phase)
                    if got.high < aim:
                        lines.append(f"{item.model} {item.format} {phase} {name}: {got.ratio:.3f}, aim {aim}")
    lines += [
        f"{row.model} {row.phase}: our fastest is {row.found.ratio:.3f} of the fastest peer as it comes, aim {BEST_AIM}"
        for row in found
        if row.phase == "decode" and row.found.high < BEST_AIM
    ]
    for model in roofline_models:
        shares = [item.roofline_share for item in results if item.model == model and item.roofline_share]
        if shares and max(shares) < ROOFLINE_AIM:
            lines.append(f"{model}: {max(shares):.0%} of the memory bandwidth, aim {ROOFLINE_AIM:.0%}")
    return lines
