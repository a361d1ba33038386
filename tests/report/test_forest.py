"""The forest plot places means, intervals, seeds and controls where their numbers say, and names every verdict in words."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from diptych.report.forest import COLOURS, NARROW, WIDE, ControlMark, ForestLayout, ForestRow, forest_plot

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("layout", [WIDE, NARROW])
def test_every_number_is_where_it_belongs(layout: ForestLayout) -> None:
    spans = [
        ForestRow("clip", 2.0, (1.0, 3.0), "shown", (1.5, 2.5), (ControlMark("untrained <towers>", -1.0),)),
        ForestRow("siglip", -0.5, (-4.0, 3.0), "open"),
    ]
    tree = ET.fromstring(forest_plot(spans, layout=layout))
    middle = (layout.left + layout.width - layout.right) / 2
    unit = (layout.width - layout.left - layout.right) / 8  # the axis goes from -4 to 4, the longest interval
    circles = [float(dot.attrib["cx"]) for dot in tree.iter(f"{SVG}circle")]
    assert circles == pytest.approx([middle + 1.5 * unit, middle + 2.5 * unit], abs=0.06)
    bars = [line.attrib for line in tree.iter(f"{SVG}line") if line.attrib.get("stroke-width") == "4"]
    assert [float(bar["x1"]) for bar in bars] == pytest.approx([middle + unit, middle - 4 * unit], abs=0.06)
    assert [bar["stroke"] for bar in bars] == [COLOURS["shown"], COLOURS["open"]]
    tick = next(line for line in tree.iter(f"{SVG}line") if line.find(f"{SVG}title") is not None)
    assert float(tick.attrib["x1"]) == pytest.approx(middle - unit, abs=0.06)
    assert tick.findtext(f"{SVG}title") == "untrained <towers>"
    words = [text.text for text in tree.iter(f"{SVG}text")]
    assert {"clip", "siglip", "shown", "open"} <= set(words)


def test_what_lies_beyond_the_axis_is_drawn_at_its_edge() -> None:
    svg = forest_plot([ForestRow("far", 40.0, (30.0, 50.0), "shown", (45.0,))])
    assert max(float(x) for x in re.findall(r'c?x\d?="([\d.]+)"', svg)) <= WIDE.width
    ET.fromstring(forest_plot([]))


def test_words_stand_above_the_bars_of_a_narrow_plot() -> None:
    tree = ET.fromstring(forest_plot([ForestRow("a" * 40, 1.0, (0.5, 1.5), "equal within the margin")], layout=NARROW))
    words = {text.text: float(text.attrib["y"]) for text in tree.iter(f"{SVG}text")}
    (bar,) = [float(line.attrib["y1"]) for line in tree.iter(f"{SVG}line") if line.attrib.get("stroke-width") == "4"]
    assert words["a" * 40] == words["equal within the margin"] < bar - 7
    assert tree.attrib["viewBox"].startswith("0 0 360 ")
