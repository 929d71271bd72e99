"""The hand-written plots: round ticks, everything inside the picture, no two labels on top of each other."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeport.runtimes.report.axes import decade_label, tick_label, ticks
from edgeport.runtimes.report.drawing import LABEL_HEIGHT, WIDTH
from edgeport.runtimes.report.markup import element
from edgeport.runtimes.report.plots import Bar, Point, bar_value, bars, scatter

CLUSTER = [
    Point("gguf", 352, 13.55, error=0.09),
    Point("onnx", 368, 13.58, error=0.09),
    Point("openvino", 365, 13.56, error=0.09),
    Point("safetensors", 366, 13.54, error=0.09),
    Point("source", 988, 13.07, reference=True),
]


def coordinates(picture: str) -> tuple[list[float], list[float], float]:
    root = ElementTree.fromstring(picture)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    assert width == WIDTH
    xs = [
        float(node.attrib[key])
        for node in root.iter()
        for key in ("x", "x1", "x2", "cx")
        if key in node.attrib
    ]
    ys = [
        float(node.attrib[key])
        for node in root.iter()
        for key in ("y", "y1", "y2", "cy")
        if key in node.attrib
    ]
    return xs, ys, height


@pytest.mark.parametrize("points", [CLUSTER, CLUSTER[:1], [Point("a", 1, 0.0), Point("b", 1, 0.0)]])
def test_scatter_stays_inside(points: list[Point]) -> None:
    xs, ys, height = coordinates(scatter(points, title="t", x_title="x", y_title="y"))
    assert min(xs) >= 0
    assert max(xs) <= WIDTH
    assert min(ys) >= 0
    assert max(ys) <= height


@pytest.mark.parametrize("count", [12, 24])
def test_a_long_column_of_labels_stays_inside(count: int) -> None:
    """Points close together at the top: their column moves down, and its labels closer together when it must."""
    points = [Point(f"point {at}", 100, 13.0 + 0.001 * at) for at in range(count)]
    points.append(Point("far below", 10, 1.0))
    _, ys, height = coordinates(scatter(points, title="t", x_title="x", y_title="y"))
    assert min(ys) >= 8
    assert max(ys) <= height


def test_labels_do_not_overlap() -> None:
    root = ElementTree.fromstring(scatter(CLUSTER, title="t", x_title="x", y_title="y"))
    labels = [node for node in root.iter("text") if node.text in {point.label for point in CLUSTER}]
    assert len(labels) == len(CLUSTER)
    for one, other in combinations(labels, 2):
        apart = abs(float(one.attrib["y"]) - float(other.attrib["y"]))
        assert apart >= LABEL_HEIGHT - 0.2 or {"source"} & {one.text, other.text}


def test_bars_are_as_long_as_their_values() -> None:
    root = ElementTree.fromstring(bars([Bar("a", 50), Bar("b", 100, 5)], title="t", unit="u"))
    short, long = (float(node.attrib["width"]) for node in root.iter("rect"))
    assert long == pytest.approx(2 * short, abs=0.2)
    assert [node.text for node in root.iter("text")][1:] == ["a", "50.0", "b", "100"]


@given(st.floats(min_value=-1e6, max_value=1e6), st.floats(min_value=0, max_value=1e6))
def test_ticks_enclose_the_data(low: float, span: float) -> None:
    found = ticks(low, low + span)
    step = found[1] - found[0]
    assert found[0] <= low + step * 1e-6
    assert found[-1] >= low + span - step * 1e-6
    assert 2 <= len(found) <= 7


def test_ticks_are_round() -> None:
    assert ticks(13.07, 13.67) == pytest.approx([13.0, 13.2, 13.4, 13.6, 13.8])
    assert ticks(352, 988, from_zero=True) == [0, 500, 1000]
    assert [tick_label(value, [13.0, 13.2]) for value in (13.0, 13.2)] == ["13.0", "13.2"]
    assert tick_label(1000, [0, 500]) == "1,000"


def test_decades_have_short_labels() -> None:
    labels = [decade_label(10.0**power) for power in range(-1, 10)]
    assert labels == ["0.1", "1", "10", "100", "1,000", "10,000", "100k", "1M", "10M", "100M", "1G"]


def test_values_have_as_many_digits_as_they_need() -> None:
    assert [bar_value(Bar("", value)) for value in (4.26, 42.61, 426.1, 4261)] == [
        "4.3",
        "42.6",
        "426",
        "4,261",
    ]


def test_markup_escapes_children_and_attributes() -> None:
    assert element("p", "<b>&", attributes={"title": '"<'}) == '<p title="&quot;&lt;">&lt;b&gt;&amp;</p>'
    assert element("p", element("b", "x"), attributes={"class": None}) == "<p><b>x</b></p>"
