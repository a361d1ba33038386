"""Page of a learning-rate range test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from diptych.core.disk.files import write_atomic
from diptych.report import page
from diptych.report.curves import LineSeries, legend, line_chart


def rate_range_page(path: Path, points: Sequence[tuple[float, float, float]], steepest: float, lowest: float) -> Path:
    """Write the curve of losses over the learning rate, whose axis is logarithmic.

    points  (learning rate, loss, smoothed loss)
    """
    raw = LineSeries("loss", tuple((math.log10(rate), loss) for rate, loss, _ in points), 5)
    smooth = LineSeries("smoothed", tuple((math.log10(rate), mean) for rate, _, mean in points), 0)
    # The curve that explodes would flatten all before it: it is drawn up to twice the loss at the begin.
    top = 2 * max(points[0][2], min(mean for _, _, mean in points))
    shown = [LineSeries(s.name, tuple(p for p in s.points if p[1] <= top or top <= 0), s.colour) for s in (raw, smooth)]
    cards = [(f"{lowest:.2g}", "rate of the smallest loss")]
    if math.isfinite(steepest):
        cards.insert(0, (f"{steepest:.2g}", "rate of the steepest fall"))
    names = [(s.name, s.colour) for s in shown]
    sections = [
        page.Section("Result", (page.cards(cards),)),
        page.Section("Loss", (line_chart("loss over the learning rate", shown, x_label="log10 of lr"), legend(names))),
    ]
    write_atomic(path, page.page("Learning-rate range test", "The rate grows by a constant factor at each step.", sections))
    return path
