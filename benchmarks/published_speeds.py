"""Published speeds of shipped devices beside what is predicted for them.

    python benchmarks/published_speeds.py                          # prints the tables
    python benchmarks/published_speeds.py --page docs/devices.md   # puts them into the page

The figures are the `[[published]]` entries of devices/data/*.toml; each names its source. One that made a constant of the speed
model or a field of its own device is marked `used` there; it tests nothing, stands in a table of its own and is not counted.
What cannot be predicted (a scheme or a model nobody describes) is listed with the reason. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from page_table import insert

from edgeport.devices.catalog import SHIPPED
from edgeport.devices.known_models import load_known
from edgeport.devices.profile import ENGINE_FORMATS, DeviceProfile, PublishedSpeed
from edgeport.devices.profile_file import read_profile
from edgeport.devices.speed import estimate_speed
from edgeport.devices.weights import precisions, weights_bytes
from edgeport.errors import UsageError
from edgeport.runtimes.bench.statistics import median
from edgeport.runtimes.report.card import markdown_table

DECODE, PREFILL = "decode", "prefill"
OTHER_NAMES = {"q5_k": "q5_k_m", "q4_k": "q4_k_m", "w4a16": "int4"}
"""llama.cpp's quantize takes Q5_K for Q5_K_M; W4A16 is compressed-tensors' name of packed INT4."""
DEPTH_TOKENS = 64
"""The mean depth of llama-bench's tg128; publishers rarely tell another."""
HEADERS = (
    "device",
    "model",
    "scheme",
    "engine",
    "figure",
    "published t/s",
    "predicted",
    "interval",
    "error",
    "holds",
    "source",
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One published figure in tokens per second and its prediction."""

    device: str
    published: PublishedSpeed
    figure: str
    tokens_per_s: float
    predicted: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """0.1: predicted a tenth too fast."""
        return self.predicted / self.tokens_per_s - 1

    @property
    def is_inside(self) -> bool:
        return self.low <= self.tokens_per_s <= self.high


@dataclass(frozen=True, slots=True)
class Unpredicted:
    device: str
    published: PublishedSpeed
    reason: str


def shipped_profiles() -> list[DeviceProfile]:
    """The catalogue's own, whatever the user's folder holds."""
    return [read_profile(path) for path in sorted(SHIPPED.glob("*.toml"))]


def compare(profiles: Iterable[DeviceProfile]) -> tuple[list[Pair], list[Unpredicted]]:
    pairs: list[Pair] = []
    left: list[Unpredicted] = []
    for profile in profiles:
        for published in profile.published:
            try:
                pairs += _pairs(profile, published)
            except UsageError as error:
                left.append(Unpredicted(profile.name, published, error.message))
    return pairs, left


def _pairs(profile: DeviceProfile, published: PublishedSpeed) -> list[Pair]:
    shape = load_known(published.model)
    format_name = ENGINE_FORMATS[published.engine]
    name = published.scheme.lower()
    precision = OTHER_NAMES.get(name, name)
    if precision not in precisions(format_name):
        raise UsageError(f"the scheme {published.scheme} is not one whose bytes are known")
    weights = weights_bytes(shape, precision, format_name)
    bits = 8 * weights.linear_bytes / shape.parameters_of(("linear", "expert", "convolution"))
    found = []
    for figure, value, depth in (
        (DECODE, published.decode_tokens_per_s, DEPTH_TOKENS),
        (PREFILL, published.prefill_tokens_per_s, 0),
    ):
        if value is None:
            continue
        estimate = estimate_speed(
            shape, weights.file_bytes, bits, profile, published.engine, depth=depth, on_gpu=published.on_gpu
        )
        expected, low, high = (
            getattr(estimate, f"{figure}{part}_tokens_per_s") for part in ("", "_low", "_high")
        )
        if expected is None:
            raise UsageError("nothing says how fast this device computes")
        found.append(Pair(profile.name, published, figure, value, expected, low, high))
    return found


def counted(pairs: Iterable[Pair]) -> list[Pair]:
    """Those that test a prediction."""
    return [pair for pair in pairs if not pair.published.used]


def text(pairs: Sequence[Pair], left: Sequence[Unpredicted]) -> str:
    """The summary and the tables, as Markdown."""
    free, used = counted(pairs), [pair for pair in pairs if pair.published.used]
    parts = [*(_summary(figure, free) for figure in (DECODE, PREFILL)), _table(free)]
    if used:
        parts += [
            "Figures that a constant of the model or a field of the device was made from. They test nothing.",
            _table(used),
        ]
    if left:
        parts.append("Not predicted:")
        parts.append("\n".join(sorted({_unpredicted(item) for item in left})))
    return "\n\n".join(parts)


def _summary(figure: str, pairs: Sequence[Pair]) -> str:
    chosen = [pair for pair in pairs if pair.figure == figure]
    if not chosen:
        return f"{figure.title()}: no figure."
    errors = [abs(pair.error) for pair in chosen]
    inside = sum(pair.is_inside for pair in chosen)
    devices = len({pair.device for pair in chosen})
    worst = max(chosen, key=lambda pair: abs(pair.error))
    kinds = {"processors": False, "GPUs": True}
    parts = {
        kind: [abs(pair.error) for pair in chosen if pair.published.on_gpu == on_gpu]
        for kind, on_gpu in kinds.items()
    }
    split = ", ".join(f"{len(part)} on {kind} {median(part):.0%}" for kind, part in parts.items() if part)
    return (
        f"{figure.title()}: {len(chosen)} figures on {devices} devices, median error {median(errors):.0%} ({split}), "
        f"{inside / len(chosen):.0%} inside the interval; the worst is {worst.error:+.0%} ({worst.device}, "
        f"{worst.published.model} {worst.published.scheme})."
    )


def _table(pairs: Sequence[Pair]) -> str:
    table = markdown_table(HEADERS[:-1], [_cells(pair) for pair in pairs])
    head, rule, *lines = table.splitlines()
    # The table's cells are escaped; links are added afterwards.
    linked = [f"{line} [link]({pair.published.source}) |" for line, pair in zip(lines, pairs, strict=True)]
    return "\n".join([f"{head} {HEADERS[-1]} |", f"{rule} --- |", *linked])


def _cells(pair: Pair) -> list[str]:
    published = pair.published
    return [
        pair.device,
        published.model,
        published.scheme,
        f"{published.engine}{' (GPU)' if published.on_gpu else ''}",
        pair.figure,
        f"{pair.tokens_per_s:g}",
        _rate(pair.predicted),
        f"{_rate(pair.low)} to {_rate(pair.high)}",
        f"{pair.error:+.0%}",
        "yes" if pair.is_inside else "no",
    ]


def _unpredicted(item: Unpredicted) -> str:
    return f"- {item.device}, {item.published.model} {item.published.scheme}: {item.reason} ([source]({item.published.source}))"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="Markdown page to put the tables into")
    given = parser.parse_args(arguments)
    whole = text(*compare(shipped_profiles()))
    if given.page is None:
        print(whole)
    else:
        insert(whole, given.page, Path(__file__).name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
