"""How large an installation is that only runs a model, and how long its import and load take: one engine extra at a time.

    python benchmarks/embedded_size.py ARTIFACT                            # prints the tables
    python benchmarks/embedded_size.py ARTIFACT --page docs/embedding.md   # puts them into the page

Builds the wheel, and installs it with each extra into a virtual environment of its own. ARTIFACT is loaded there with the one engine
that is installed, and writes eight tokens. Times are medians over fresh processes after one that is not counted, on the machine
that the text names; they mean nothing while something else runs on it. Sizes are those of the packages' files as pip installs
them, bytecode included, without Python itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedded import EXTRAS, Environment, build_wheel, make_environment, stream_in
from page_table import insert

from edgeport.manifest import read_manifest
from edgeport.runtimes.bench.environment import capture
from edgeport.runtimes.bench.statistics import median
from edgeport.runtimes.report.card import markdown_table
from edgeport.units import format_bytes

TOKENS = 8
FEWEST_REPETITIONS = 5
LARGEST_PACKAGES = 6
HEADERS = ("extra", "packages", "installed", "import edgeport.runtimes", "load", "engine")


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds are medians. total_bytes: of all packages."""

    extra: str
    packages: dict[str, int]
    total_bytes: int
    import_s: float
    load_s: float
    engine: str


def measure(environment: Environment, artifact: Path, repetitions: int) -> Measured:
    """Raises RuntimeError where the environment cannot run the artifact, or holds what it must not."""
    answers = [stream_in(environment, artifact, TOKENS) for _ in range(repetitions + 1)][1:]
    for answer in answers:
        if answer["installed"] or answer["imported_early"] or len(answer["tokens"]) > TOKENS:
            raise RuntimeError(f"{environment.extra}: not a clean environment: {answer}")
    return Measured(
        environment.extra,
        environment.package_bytes,
        environment.total_bytes,
        median([answer["import_s"] for answer in answers]),
        median([answer["load_s"] for answer in answers]),
        answers[0]["engine"],
    )


def tables(rows: Sequence[Measured], where: str) -> str:
    """Markdown: one row per extra, and the largest packages of each."""
    cells = [
        [
            f"edgeport[{row.extra}]",
            str(len(row.packages)),
            format_bytes(row.total_bytes),
            f"{row.import_s * 1000:.0f} ms",
            f"{row.load_s * 1000:.0f} ms",
            row.engine,
        ]
        for row in rows
    ]
    largest = [
        [
            f"edgeport[{row.extra}]",
            ", ".join(
                f"{name} {format_bytes(size)}" for name, size in list(row.packages.items())[:LARGEST_PACKAGES]
            ),
        ]
        for row in rows
    ]
    return "\n\n".join(
        [markdown_table(HEADERS, cells), markdown_table(("extra", "largest packages"), largest), where]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("artifact", type=Path, help="an artifact folder with all of gguf, onnx and openvino")
    parser.add_argument("--repetitions", type=int, default=7, metavar="N")
    parser.add_argument("--page", type=Path, help="put the tables between the markers of this page")
    arguments = parser.parse_args()
    if arguments.repetitions < FEWEST_REPETITIONS:
        parser.error(
            f"--repetitions {arguments.repetitions} is too few for a median: {FEWEST_REPETITIONS} or more"
        )
    manifest = read_manifest(arguments.artifact)
    machine, rows = capture(), []
    with tempfile.TemporaryDirectory(prefix="edgeport-embedded-") as folder:
        wheel = build_wheel(Path(folder))
        for extra in EXTRAS:
            print(f"installing edgeport[{extra}]", file=sys.stderr, flush=True)
            environment = make_environment(wheel, extra, Path(folder) / extra)
            rows.append(measure(environment, arguments.artifact, arguments.repetitions))
    where = (
        f"Medians of {arguments.repetitions} fresh processes with warm files, loading {manifest.name} "
        f"({manifest.model.parameters / 1e6:.1f}M parameters); {machine.cpu_model}, {machine.cores} cores, "
        f"{machine.operating_system}, Python {machine.python}; load at the start "
        f"{'unavailable' if machine.load_average is None else f'{machine.load_average:g}'}."
    )
    text = tables(rows, where)
    if arguments.page:
        insert(text, arguments.page, "embedded_size.py")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
