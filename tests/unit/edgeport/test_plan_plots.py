"""The plan's pictures: points lie where their figures say, on or under their device's line, and nothing leaves the frame."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from edgeport.cli.plan_plots import (
    DeviceLine,
    MemoryBar,
    Prediction,
    memory_plot,
    roof,
    roofline_plot,
)
from edgeport.runtimes.report.axes import LogAxis, decades

POINTS = [
    Prediction("pi", 400e6, 25.0, 18.0, 32.0, fits=True),
    Prediction("card", 4.7e9, 128.0, 90.0, 210.0, fits=False),
]
LINES = [DeviceLine("pi, 17.1 GB/s", 17.1e9), DeviceLine("card, 1008 GB/s", 1008e9)]


def numbers(picture: str, *keys: str) -> list[float]:
    root = ElementTree.fromstring(picture)
    return [float(node.attrib[key]) for node in root.iter() for key in keys if key in node.attrib]


def test_a_point_at_the_roof_lies_on_its_line() -> None:
    at_roof = Prediction("pi", 1e9, 17.1, 10.0, 17.1, fits=True)
    root = ElementTree.fromstring(roofline_plot([at_roof], LINES[:1]))
    (circle,) = (node for node in root.iter("circle"))
    line = next(node for node in root.iter("line") if node.attrib["class"] == "lead")
    x1, y1, x2, y2 = (float(line.attrib[key]) for key in ("x1", "y1", "x2", "y2"))
    x, y = float(circle.attrib["cx"]), float(circle.attrib["cy"])
    on_line = y1 + (y2 - y1) * (x - x1) / (x2 - x1)
    assert y == pytest.approx(on_line, abs=0.5)


def test_slower_than_the_roof_is_below_it_and_not_fitting_is_hollow() -> None:
    picture = roofline_plot(POINTS, LINES)
    root = ElementTree.fromstring(picture)
    assert [node.attrib["class"] for node in root.iter("circle")] == ["mark", "hollow"]
    slow = ElementTree.fromstring(
        roofline_plot([Prediction("pi", 1e9, 5.0, 4.0, 17.1, fits=True)], LINES[:1])
    )
    line = next(node for node in slow.iter("line") if node.attrib["class"] == "lead")
    circle = next(slow.iter("circle"))
    assert float(circle.attrib["cy"]) > min(float(line.attrib["y1"]), float(line.attrib["y2"]))


def test_nothing_is_drawn_outside_the_frame() -> None:
    picture = roofline_plot(POINTS, [*LINES, DeviceLine("far away", 1e15)])
    assert all(0 <= value <= 360 for value in numbers(picture, "x1", "x2", "cx"))
    assert all(0 <= value <= 300 for value in numbers(picture, "y1", "y2", "cy"))
    assert "far away" not in picture, "its line passes outside"


def test_axes_are_whole_decades() -> None:
    assert decades([3.0, 40.0]) == [1.0, 10.0, 100.0]
    assert decades([10.0]) == [10.0, 100.0]
    axis = LogAxis(1, 100, 0, 200)
    assert (axis.at(1), axis.at(10), axis.at(100)) == (0, 100, 200)


def test_a_roof_is_cut_where_it_leaves() -> None:
    assert roof(DeviceLine("d", 100.0), LogAxis(1, 100, 0, 1), LogAxis(1, 10, 1, 0)) == ((10, 10), (100, 1))
    assert roof(DeviceLine("d", 1e9), LogAxis(1, 100, 0, 1), LogAxis(1, 10, 1, 0)) is None


def test_bars_are_as_long_as_their_parts_and_end_at_the_mark_when_full() -> None:
    root = ElementTree.fromstring(memory_plot([MemoryBar("a", (600, 200, 100, 100), 1000)]))
    widths = [float(node.attrib["width"]) for node in root.iter("rect")]
    assert widths[0] == pytest.approx(3 * widths[1], abs=0.3)
    last = list(root.iter("rect"))[-1]
    (mark,) = (node for node in root.iter("line"))
    assert float(last.attrib["x"]) + float(last.attrib["width"]) == pytest.approx(
        float(mark.attrib["x1"]), abs=0.3
    )


def test_a_bar_that_needs_too_much_passes_its_mark() -> None:
    root = ElementTree.fromstring(memory_plot([MemoryBar("a", (900, 200, 0, 0), 1000)]))
    end = max(float(node.attrib["x"]) + float(node.attrib["width"]) for node in root.iter("rect"))
    assert end > float(next(root.iter("line")).attrib["x1"]) + 5


def test_labels_cannot_inject() -> None:
    assert "<script>" not in memory_plot([MemoryBar("<script>", (1, 1, 1, 1), 5)])
