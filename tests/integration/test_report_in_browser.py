"""The report of a real artifact in a real browser: on a phone, on a desk, in the dark and on paper; and each check says no.

Without a browser these are skipped, with the reason.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Browser, find_browser, started_browser
from page_checks import PAPER_WIDTH, problems

from edgeport.manifest import Manifest, read_manifest
from edgeport.runtimes.report.page import report_page

Edgeport = Callable[..., subprocess.CompletedProcess[str]]
LAYOUTS = {
    "phone": {"width": 360},
    "phone in the dark": {"width": 360, "dark": True},
    "desk": {"width": 1280},
    "desk in the dark": {"width": 1280, "dark": True},
    "paper": {"width": PAPER_WIDTH, "media": "print", "dark": True},
}
SECTIONS = [
    "Formats", "Size, quality and speed", "Gate", "Latency", "Memory", "Roofline", "Predicted and measured", "Soak", "Quality",
    "Measured on", "Model", "Recipe", "What the export took", "Files",
]  # fmt: skip
LONG_NAMES = ("gguf-q4_k_m", "gguf-iq4_xs-imatrix", "onnx", "openvino")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = find_browser()
    if binary is None:
        pytest.skip("no browser here: apt-get install chromium")
    with started_browser(binary, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def reports(
    llama_artifact: Path, tiny_llama_dir: Path, edgeport: Edgeport, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Pages: of an artifact as it is benchmarked, of one with long names and more formats, of an older manifest; and a plan's."""
    folder = tmp_path_factory.mktemp("report") / "artifact"
    shutil.copytree(llama_artifact, folder)
    done = edgeport("bench", folder, "--format", "gguf", "-p", "64", "-n", "16", "-r", "2")
    assert done.returncode == 0, done.stderr
    assert edgeport("report", folder).returncode == 0
    manifest = read_manifest(folder)
    pages = {"artifact": folder / "report.html"}
    for name, text in (("crowded", report_page(crowded(manifest))), ("older", report_page(older(manifest)))):
        pages[name] = folder / f"{name}.html"
        pages[name].write_text(text, encoding="utf-8")
    pages["plan"] = folder / "plan.html"
    assert edgeport("plan", tiny_llama_dir, "--html", pages["plan"]).returncode == 0
    return pages


def crowded(manifest: Manifest) -> Manifest:
    entry, record = manifest.container("gguf"), manifest.speed["gguf"]
    return dataclasses.replace(
        manifest,
        name="an-organization/A-Model-With-A-Name-Without-Any-Place-To-Break-It-Instruct-" + "x" * 60,
        containers=(
            *manifest.containers,
            *(dataclasses.replace(entry, format=name) for name in LONG_NAMES[:2]),
        ),
        speed={name: {**record, "format": name} for name in ("gguf", *LONG_NAMES)},
    )


def older(manifest: Manifest) -> Manifest:
    """As before benchmarks recorded timelines, distributions and predictions."""
    newer = ("memory_timeline", "predicted", "energy", "load_cold_ms")
    record = {key: value for key, value in manifest.speed["gguf"].items() if key not in newer}
    tokens = {key: value for key, value in record["inter_token"].items() if key != "percentiles_ms"}
    return dataclasses.replace(manifest, speed={"gguf": {**record, "inter_token": tokens}}, gate={}, cost={})


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("page", ["artifact", "crowded", "older", "plan"])
def test_nothing_is_wrong(browser: Browser, reports: dict[str, Path], page: str, layout: str) -> None:
    assert problems(browser, reports[page], **LAYOUTS[layout]) == []  # type: ignore[arg-type]
    assert browser.requests == [reports[page].as_uri()]


def test_all_sections_are_there(browser: Browser, reports: dict[str, Path]) -> None:
    browser.show(360)
    browser.open(reports["artifact"])
    assert browser.evaluate("[...document.querySelectorAll('h2')].map(head => head.textContent)") == SECTIONS
    assert browser.evaluate("document.querySelectorAll('svg').length") >= 6
    # a wide table scrolls in its box, and the page beside it does not
    assert browser.evaluate(
        "[...document.querySelectorAll('.scroll')].some(box => box.scrollWidth > box.clientWidth)"
    )


def test_it_prints_on_a_few_sheets(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["artifact"])
    document = browser.pdf()
    assert document.startswith(b"%PDF")
    assert 2 <= document.count(b"/Type /Page\n") <= 12


PLANTED = {
    "too wide": '<div style="width: 1500px">x</div>',
    "hidden": "<style>#memory { visibility: hidden }</style>",
    "cut off in a drawing": '<svg viewBox="0 0 9 9" width="90"><title>t</title><text x="5" y="5">much too long</text></svg>',
    "too pale": '<p style="color: #bbbbbb">hardly to be read</p>',
    "structure": "<h4>two levels below</h4>",
    "asked for": '<img src="http://127.0.0.1:9/tracker.png" alt="">',
    "complained": "<script>console.error('planted')</script>",
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_seen(
    browser: Browser, reports: dict[str, Path], name: str, tmp_path: Path
) -> None:
    page = tmp_path / "planted.html"
    text = reports["artifact"].read_text(encoding="utf-8")
    page.write_text(text.replace("</main>", f"{PLANTED[name]}</main>"), encoding="utf-8")
    assert any(problem.startswith(name) for problem in problems(browser, page, 360))


@pytest.mark.parametrize(
    ("planted", "seen"),
    [
        ("<style>@media print { .scroll table { width: 1000px } }</style>", "on paper: cut off"),
        ("<style>@media print { body { background: #14171b } }</style>", "on paper: BODY is"),
        (
            "<style>details::details-content { content-visibility: hidden !important }</style>",
            "on paper: folded away",
        ),
    ],
)
def test_a_fault_on_paper_is_seen(
    browser: Browser, reports: dict[str, Path], planted: str, seen: str, tmp_path: Path
) -> None:
    page = tmp_path / "planted.html"
    text = reports["artifact"].read_text(encoding="utf-8")
    page.write_text(text.replace("</main>", f"{planted}</main>"), encoding="utf-8")
    assert any(problem.startswith(seen) for problem in problems(browser, page, PAPER_WIDTH, media="print"))
