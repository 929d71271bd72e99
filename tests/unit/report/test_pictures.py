"""The report's pictures of one subject each: they show what the records hold, stay inside, and say when there is nothing."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from edgeport.devices.shape import shape_of
from edgeport.manifest import Manifest
from edgeport.runtimes.report.axes import log_ticks
from edgeport.runtimes.report.drawing import WIDTH
from edgeport.runtimes.report.intensity import decode_point, prompt_point, roofline_plot, roofline_section
from edgeport.runtimes.report.latency import cumulative, distributions, latency_section
from edgeport.runtimes.report.memory import memory_section, stage_beginnings, timeline_plot, timelines
from edgeport.runtimes.report.prediction import compared, prediction_plot, prediction_section
from edgeport.runtimes.report.soak import soak_section
from edgeport.runtimes.report.verdict import findings

Section = Callable[[Manifest], str]
SECTIONS: tuple[Section, ...] = (
    latency_section,
    memory_section,
    roofline_section,
    prediction_section,
    soak_section,
)


def places(picture: str) -> tuple[list[float], list[float], float]:
    """All coordinates of a drawing, and its height."""
    root = ElementTree.fromstring(picture)
    xs, ys = [], []
    for node in root.iter():
        xs += [float(node.attrib[key]) for key in ("x", "x1", "x2") if key in node.attrib]
        ys += [float(node.attrib[key]) for key in ("y", "y1", "y2") if key in node.attrib]
        for pair in node.attrib.get("points", "").split():
            x, y = map(float, pair.split(","))
            xs.append(x)
            ys.append(y)
    return xs, ys, float(root.attrib["viewBox"].split()[3])


def test_every_picture_stays_inside_and_has_a_title(full_manifest: Manifest) -> None:
    shape = shape_of(full_manifest.model)
    decoding, reading = (
        [
            (found, series)
            for series, name in enumerate(full_manifest.speed)
            if (found := point(full_manifest, shape, name))
        ]
        for point in (decode_point, prompt_point)
    )
    pictures = [
        cumulative(distributions(full_manifest)),
        *(timeline_plot(item, 400 << 20) for item in timelines(full_manifest)),
        roofline_plot(decoding, reading, [17.1e9]),
        prediction_plot(compared(full_manifest)),
    ]
    for picture in pictures:
        xs, ys, height = places(picture)
        assert min(xs) >= 0
        assert max(xs) <= WIDTH
        assert min(ys) >= 0
        assert max(ys) <= height
        assert ElementTree.fromstring(picture).find("title") is not None


def test_a_curve_rises_and_marks_its_percentiles(full_manifest: Manifest) -> None:
    items = distributions(full_manifest)
    assert [item.label for item in items] == ["gguf", "onnx"]
    root = ElementTree.fromstring(cumulative(items))
    lines = [node for node in root.iter("polyline") if len(node.attrib["points"].split()) == 101]
    for line in lines:
        points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        assert points == sorted(points, key=lambda point: (point[0], -point[1]))
    # twice as slow lies the same distance to the right everywhere, as the axis is logarithmic
    first, second = ([float(pair.split(",")[0]) for pair in line.attrib["points"].split()] for line in lines)
    apart = [b - a for a, b in zip(first, second, strict=True)]
    assert apart == pytest.approx([apart[0]] * 101, abs=0.2)
    assert lines[0].attrib.get("stroke-dasharray") != lines[1].attrib.get("stroke-dasharray")
    assert "gguf: 95 % within 100 ms" in "".join(root.itertext())


def test_a_format_looks_the_same_in_every_drawing(full_manifest: Manifest) -> None:
    """Also where a container before it has no record: colour, dashes and marker go by its place in the manifest."""
    alone = dataclasses.replace(full_manifest, speed={"onnx": full_manifest.speed["onnx"]})
    for manifest in (full_manifest, alone):
        for section in (latency_section(manifest), roofline_section(manifest)):
            drawing = section[section.index("<svg") : section.index("</svg>") + 6]
            named = [
                (before.attrib["class"].split()[-1], after.text)
                for before, after in pairwise(ElementTree.fromstring(drawing))
                if after.text in ("gguf", "onnx")
            ]
            assert ("series-1", "onnx") in named
            assert ("series-0", "gguf") in named or manifest is alone


@pytest.mark.parametrize(
    "broken",
    [[], [1.0] * 100, [0.0] * 101, [float("nan")] * 101, ["a"] * 101, list(range(101, 0, -1)), "text", None],
)
def test_what_is_not_a_distribution_is_not_drawn(full_manifest: Manifest, broken: Any) -> None:
    speed = copy.deepcopy(dict(full_manifest.speed))
    for record in speed.values():
        record["inter_token"]["percentiles_ms"] = broken
    manifest = dataclasses.replace(full_manifest, speed=speed)
    assert distributions(manifest) == []
    assert "Distribution of token times: not measured" in latency_section(manifest)


def test_memory_is_stacked_from_the_first_moment_to_the_last(full_manifest: Manifest) -> None:
    item = timelines(full_manifest)[0]
    assert stage_beginnings(item.moments) == [
        (0.0, "import"),
        (0.75, "load"),
        (1.5, "prompt"),
        (2.25, "decode"),
    ]
    root = ElementTree.fromstring(timeline_plot(item, 320 << 20))
    areas = {node.attrib["class"]: node.attrib["points"].split() for node in root.iter("polygon")}
    # both share the anonymous edge: what is on top begins where the other ends
    assert list(reversed(areas["area-mapped"][12:])) == areas["area-anonymous"][:12]
    grid = {
        node.text: float(node.attrib["y"]) - 4 for node in root.iter("text") if node.text in ("100", "300")
    }
    per_mib = (grid["100"] - grid["300"]) / 200
    top = float(areas["area-mapped"][11].split(",")[1])
    assert top == pytest.approx(grid["300"] - 20 * per_mib, abs=0.3)
    assert [node.text for node in root.iter("text") if node.text in ("import", "load", "prompt", "decode")] == [
        "import", "load", "prompt", "decode",
    ]  # fmt: skip


@pytest.mark.parametrize("broken", [[], [{"seconds": 1}], "text", [None], None])
def test_what_is_not_a_timeline_is_not_drawn(full_manifest: Manifest, broken: Any) -> None:
    speed = {name: {**record, "memory_timeline": broken} for name, record in full_manifest.speed.items()}
    manifest = dataclasses.replace(full_manifest, speed=speed)
    assert timelines(manifest) == []
    assert "Memory over time: not measured" in memory_section(manifest)


def test_the_roofline_is_operations_over_bytes(full_manifest: Manifest) -> None:
    shape = shape_of(full_manifest.model)
    point = decode_point(full_manifest, shape, "gguf")
    assert point is not None
    bytes_read = (300 << 20) + 12_288 * 64.5
    # two operations per weight; attention over 64 tokens adds 2 * 2 * heads * head_dim * 65 per layer
    operations = 2 * 494_032_768 + 24 * 4 * 14 * 64 * 65
    assert point.operations_per_byte == pytest.approx(operations / bytes_read, rel=1e-3)
    assert point.operations_per_s == pytest.approx(operations * 40.0, rel=1e-3)
    prompt = prompt_point(full_manifest, shape, "gguf")
    assert prompt is not None
    # all 512 tokens share one reading of the weights; llama.cpp computes the head for the last one only
    assert 300 < prompt.operations_per_byte / point.operations_per_byte < 512
    head = 151_936 * 896
    per_token = 2 * (494_032_768 - head) + 2 * head / 512 + 24 * 4 * 14 * 64 * 513 / 2
    assert prompt.operations_per_s == pytest.approx(per_token * 200.0, rel=1e-3)
    assert "24" in roofline_section(full_manifest)
    assert "74%" in roofline_section(full_manifest)  # 40 * bytes_read / 17.1e9


def test_errors_and_intervals_are_those_of_the_record(full_manifest: Manifest) -> None:
    found = {(item.label, item.figure): item for item in compared(full_manifest)}
    assert found["gguf", "decode"].error == pytest.approx(1 / 1.1 - 1)
    assert found["gguf", "decode"].inside
    assert found["gguf", "prefill"].error == pytest.approx(1.0)
    assert not found["gguf", "prefill"].inside
    assert found["gguf", "memory"].error == pytest.approx(480 / 500 - 1)
    text = prediction_section(full_manifest)
    assert "+100%, outside" in text
    assert "-9%" in text
    assert "From profile host: bandwidth measured here." in text
    root = ElementTree.fromstring(prediction_plot(compared(full_manifest)))
    classes = [node.attrib["class"].split()[0] for node in root.iter("polygon")]
    assert classes == ["marker", "hollow-marker", "marker"] * 2


def test_a_soak_tells_growth_drift_and_what_was_violated(full_manifest: Manifest) -> None:
    told = soak_section(full_manifest)
    for text in ("10 min", "passed", "+3.0 (-1.0 to +7.0)", "1.02x (0.99 to 1.05)", "Not measured: p95"):
        assert text in told
    assert told.count("<svg") == 2
    assert any(
        "Soak of gguf, 10 min" in item.text and item.kind == "good" for item in findings(full_manifest)
    )
    record = copy.deepcopy(dict(full_manifest.soak["gguf"]))
    record["judgement"] |= {"verdict": "failed", "violations": ["resident memory grows by 900 MiB per hour"]}
    record |= {"interrupted": True, "seconds": 60.0}
    broken = dataclasses.replace(full_manifest, soak={"gguf": record})
    assert 'class="bad">gguf: resident memory grows by 900 MiB per hour.' in soak_section(broken)
    worst = findings(broken)[0]
    assert worst.kind == "bad"
    assert "60.0 s of 10 min 0 s: resident memory grows" in worst.text


def test_the_verdict_says_where_a_prediction_failed(full_manifest: Manifest) -> None:
    texts = {item.text: item.kind for item in findings(full_manifest)}
    told = "2 of 6 predicted figures lie outside their interval; the farthest: gguf prefill, +100%."
    assert texts[told] == "warning"
    speed = copy.deepcopy(dict(full_manifest.speed))
    for record in speed.values():
        record["predicted"]["prefill_high_tokens_per_s"] = 1e9
    met = findings(dataclasses.replace(full_manifest, speed=speed))
    assert any(item.text.startswith("All 6 predicted figures were met") for item in met)


@pytest.mark.parametrize("section", SECTIONS)
def test_an_older_manifest_says_what_is_not_measured(measured_manifest: Manifest, section: Section) -> None:
    assert "not measured" in section(measured_manifest)
    assert "not measured" in section(dataclasses.replace(measured_manifest, speed={}))
    assert "not measured" in section(
        dataclasses.replace(measured_manifest, speed={"gguf": None, "onnx": "x"})
    )


def test_logarithmic_ticks_enclose_the_values() -> None:
    assert log_ticks([0.3, 12.0]) == [0.2, 0.5, 1, 2, 5, 10, 20]
    assert log_ticks([1.0, 1.0]) == [1, 2]
    assert log_ticks([1.0, 9e5]) == [1, 10, 100, 1e3, 1e4, 1e5, 1e6]
