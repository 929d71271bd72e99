"""The page and the card: complete, self-contained, honest about gaps, and impossible to inject into."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgeport.cli import main
from edgeport.manifest import DraftEntry, Manifest, write_manifest
from edgeport.runtimes.report.card import card
from edgeport.runtimes.report.markup import VOID
from edgeport.runtimes.report.page import report_page
from edgeport.runtimes.report.rows import COLUMNS, NOT_MEASURED, container_rows
from edgeport.runtimes.report.verdict import findings, headline

EVIL = "<script>alert('1')</script>\"&"


class Page(HTMLParser):
    """Tags in order, text, attributes; raises on a tag that does not close what is open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for key, value in attrs if key in ("src", "href", "srcset", "data", "action")
        ]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def test_the_page_holds_every_figure(measured_manifest: Manifest) -> None:
    page = Page(report_page(measured_manifest))
    for figure in (
        "qwen-edge", "13.550 ± 0.090", "13.580 ± 0.090", "87.1%", "0.0412", "40.0 ± 0.4", "180.0 ± 1.0",
        "2.82x", "480 MiB", "2.4", "24 ms", "31 ms", "71%", "Cortex-A76", "unavailable", "ab" * 32,
        measured_manifest.weights_id, "raspberry-pi-5-8gb",
    ):  # fmt: skip
        assert figure in page.text, figure
    assert page.tags.count("svg") == 4
    assert "Fastest: gguf decodes 40.0 tokens/s; onnx 75% of that." in page.text


def test_a_newer_manifest_has_more_pictures(full_manifest: Manifest) -> None:
    page = Page(report_page(full_manifest))
    assert (
        page.tags.count("svg") == 11
    )  # and: latency, two timelines, roofline, prediction, memory and times of a soak
    for subject in ("Distribution of token times", "Memory over time", "Roofline", "Prediction", "Soak"):
        assert f"{subject}: not measured" not in page.text


def test_the_page_needs_nothing_else(full_manifest: Manifest) -> None:
    text = report_page(full_manifest)
    page = Page(text)
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert all(f'id="{link[1:]}"' in text for link in page.links)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.search(r"url\(|@import|https?:", text)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_verdict_comes_before_every_table(measured_manifest: Manifest) -> None:
    text = report_page(measured_manifest)
    assert text.index("verdict good") < text.index("<table")
    assert (
        headline(measured_manifest)
        == "2 containers, up to 2.8x smaller, perplexity +3.9% at most, up to 40 tokens/s"
    )


def test_strings_from_outside_are_escaped(measured_manifest: Manifest) -> None:
    container = dataclasses.replace(
        measured_manifest.containers[0],
        format=EVIL,
        files=(dataclasses.replace(measured_manifest.containers[0].files[0], path=EVIL),),
    )
    speed = dict(measured_manifest.speed["gguf"])
    speed["engine"] = EVIL
    speed["environment"] = {**speed["environment"], "cpu_model": EVIL}
    evil = dataclasses.replace(
        measured_manifest,
        name=EVIL,
        created=EVIL,
        device=EVIL,
        recipe={"name": EVIL, EVIL: EVIL},
        source=dataclasses.replace(measured_manifest.source, name=EVIL),
        tool_versions={EVIL: EVIL},
        containers=(container,),
        speed={EVIL: speed},
        quality={EVIL: {**measured_manifest.quality["gguf"], "runtime": EVIL}},
    )
    text = report_page(evil)
    assert "<script" not in text
    assert Page(text).text.count(EVIL) >= 8
    assert "<script" not in card(evil)


@pytest.mark.parametrize(
    "changes",
    [
        {"quality": {}, "speed": {}},
        {"quality": {"gguf": {}}, "speed": {"gguf": {}}},
        {"quality": {"gguf": {"perplexity": 13.5}}, "speed": {"gguf": {"decode": {"tokens_per_s": 40.0}}}},
        {"quality": {"gguf": {"perplexity": None}}, "speed": {"gguf": {"decode": None, "environment": {}}}},
        {"quality": {"gguf": {"perplexity": float("nan")}}, "speed": {"gguf": "broken"}},
        {"quality": {"gguf": None}, "speed": {"gguf": None}},
        {"containers": ()},
    ],
)
def test_missing_parts_are_said_to_be_missing(
    measured_manifest: Manifest, changes: dict[str, object]
) -> None:
    manifest = dataclasses.replace(measured_manifest, **changes)  # type: ignore[arg-type]
    page = Page(report_page(manifest))
    assert NOT_MEASURED in page.text.lower()
    assert "nan" not in re.findall(r"\w+", page.text.lower())
    assert "None" not in page.text
    assert any(finding.kind != "good" for finding in findings(manifest))
    assert card(manifest)


def test_unlike_speeds_get_no_winner(measured_manifest: Manifest) -> None:
    speed = {**measured_manifest.speed, "onnx": {**measured_manifest.speed["onnx"], "threads": 1}}
    manifest = dataclasses.replace(measured_manifest, speed=speed)
    texts = [finding.text for finding in findings(manifest)]
    assert any("No fastest format" in text and "threads: gguf 4, onnx 1" in text for text in texts)
    assert not any("Fastest" in text for text in texts)
    assert "Not comparable with each other: threads" in report_page(manifest)


@pytest.mark.parametrize(
    ("gate", "kind", "said"),
    [
        ({"verdict": "pass", "lines": [{}, {}]}, "good", "The quality gate passed: 2 checks."),
        (
            {
                "verdict": "fail",
                "lines": [
                    {"container": "gguf", "name": "perplexity", "measured_text": "+6 %", "threshold_text": "<= +5 %",
                     "verdict": "fail"},
                    {"container": "onnx", "name": "perplexity", "verdict": "pass"},
                ],
            },
            "bad",
            "The quality gate said no: gguf perplexity +6 %, allowed <= +5 %.",
        ),
        ({"verdict": "not judged", "reason": "no source"}, "warning", "The quality gate did not judge: no source."),
    ],
)  # fmt: skip
def test_the_gate_is_in_the_verdict_and_on_the_card(
    measured_manifest: Manifest, gate: dict[str, object], kind: str, said: str
) -> None:
    manifest = dataclasses.replace(measured_manifest, gate=gate)
    assert (kind, said) in [(finding.kind, finding.text) for finding in findings(manifest)]
    assert said.replace("<", "&lt;") in card(manifest)
    assert f'class="verdict {kind}"' in report_page(manifest)
    assert not any("gate" in finding.text for finding in findings(measured_manifest))


def test_page_and_card_say_the_same(full_manifest: Manifest) -> None:
    """Every figure of the table, every sentence of the verdict and the machine stand in both."""
    page, text = Page(report_page(full_manifest)), card(full_manifest)
    for row in container_rows(full_manifest):
        for title, render in COLUMNS:
            assert f"| {title} " in text
            assert f"| {render(row)} |" in text
            assert render(row) in page.texts
    for finding in findings(full_manifest):
        assert finding.text in page.texts
        assert f"- {finding.text}" in text.replace("&lt;", "<").replace("&gt;", ">").replace("\\", "")
    for fact in ("Cortex-A76", full_manifest.weights_id, full_manifest.device, full_manifest.source.name):
        assert fact in text
        assert fact in page.text


def test_a_draft_is_told_with_what_was_measured_of_it(measured_manifest: Manifest) -> None:
    measured = DraftEntry("draft", "ab" * 32, 4, acceptance_rate=0.69, tokens_per_step=2.6)
    unmeasured = DraftEntry("draft", "ab" * 32)
    told = dataclasses.replace(measured_manifest, draft=measured)
    assert any("69% accepted, 2.6 tokens" in finding.text for finding in findings(told))
    assert "69% accepted" in card(told)
    warned = [
        finding.text
        for finding in findings(dataclasses.replace(measured_manifest, draft=unmeasured))
        if finding.kind == "warning"
    ]
    assert any("was not measured" in text for text in warned)
    assert not any("draft" in finding.text for finding in findings(measured_manifest))


def test_bad_news_comes_first(measured_manifest: Manifest) -> None:
    containers = (
        dataclasses.replace(measured_manifest.containers[0], verified=False),
        dataclasses.replace(measured_manifest.containers[1], weights_id="ee" * 32),
    )
    quality = {"gguf": {**measured_manifest.quality["gguf"], "perplexity": 20.0}}
    found = findings(dataclasses.replace(measured_manifest, containers=containers, quality=quality))
    assert [finding.kind for finding in found] == sorted(
        (finding.kind for finding in found), key=["bad", "warning", "good"].index
    )
    text = " ".join(finding.text for finding in found if finding.kind == "warning")
    assert "onnx holds other weights" in text
    assert "Not verified: gguf" in text
    assert "+53.0%" in text
    assert "Quality was not measured: onnx" in text
    assert 'class="verdict warning"' in report_page(
        dataclasses.replace(measured_manifest, containers=containers)
    )


def test_rows_are_numbers_or_none(measured_manifest: Manifest) -> None:
    first = container_rows(measured_manifest)[0]
    assert (first.perplexity, first.decode_tokens_per_s, first.peak_memory_bytes) == (13.55, 40.0, 480 << 20)
    assert first.perplexity_change == pytest.approx(13.55 / 13.07 - 1)
    assert first.size_ratio == pytest.approx(988 / 350)
    bare = container_rows(dataclasses.replace(measured_manifest, quality={}, speed={}))[0]
    assert (bare.perplexity, bare.perplexity_change, bare.decode_tokens_per_s) == (None, None, None)


def test_the_card_has_a_head_hubs_can_read(measured_manifest: Manifest) -> None:
    yaml = pytest.importorskip("yaml")
    text = card(
        dataclasses.replace(
            measured_manifest, source=dataclasses.replace(measured_manifest.source, name='a: "b"')
        )
    )
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["base_model"] == 'a: "b"'
    assert "| gguf | 350 MiB | 2.82x | 13.550 ± 0.090 |" in body


def test_the_command_writes_both_and_prints_the_page(
    measured_manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(measured_manifest, tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "manifest.json", "report.html"]


def test_the_page_can_be_written_elsewhere(
    measured_manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, page = tmp_path / "artifact", tmp_path / "elsewhere.html"
    artifact.mkdir()
    write_manifest(measured_manifest, artifact)
    assert main(["report", str(artifact), "--output", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert page.read_text(encoding="utf-8") == report_page(measured_manifest)
    assert [path.name for path in artifact.iterdir()] == ["manifest.json"]
    assert main(["report", str(artifact), "--output", str(tmp_path / "missing" / "page.html")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("browser", ["true %s", "false %s"])
def test_the_page_is_shown_where_a_browser_is(
    measured_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser: str
) -> None:
    """In a process of its own: webbrowser reads BROWSER once. Without a browser that works the page is written all the same."""
    write_manifest(measured_manifest, tmp_path)
    monkeypatch.setenv("BROWSER", browser)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("true", "false"):  # and none of this machine's browsers
        (programs / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(programs))
    done = subprocess.run(
        [sys.executable, "-m", "edgeport", "report", tmp_path, "--open"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout == f"{tmp_path / 'report.html'}\n"
    assert ("open" in done.stderr) == (browser == "false %s")


def test_the_command_refuses_a_folder_without_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert "no manifest.json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
