"""Refinement of windows by a localiser, within the windows of a language model, or within the whole log (LifelongMemory, 2312.05269).

The paper runs a trained localiser inside the windows. As a substitute, this module uses the similarity of each caption to the
question: the window is the run of captions with the largest sum of similarities above the overall mean, so that it ends where the
captions change. Any `Localiser` can be passed instead.

Letters: N captions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from diptych.pipelines._memory.caption_log import TimedCaption
from diptych.pipelines._memory.replies import Window, WindowReply

Localiser = Callable[[str, Sequence[TimedCaption]], Window]
"""A question and the captions that may hold its answer -> a window in frames."""
Floats = npt.NDArray[np.float64]


def merged(windows: Sequence[Window], pad: float) -> list[Window]:
    """Widens windows by `pad` frames on both sides, sorts them by time and merges those that meet.

    >>> merged([(100, 120), (0, 10), (15, 30)], 5)
    [(-5, 35), (95, 125)]
    """
    out: list[Window] = []
    for start, end in sorted((start - pad, end + pad) for start, end in windows):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def refined(
    reply: WindowReply, question: str, memory: Sequence[TimedCaption], localise: Localiser, *, pad: float, sure: int
) -> tuple[Window, ...]:
    """Windows with the localiser's first, then those of the model.

    sure  confidence from which the localiser keeps to the model's windows; below, without one, or without a window it sees the whole log
    """
    keeps = bool(reply.windows) and reply.confidence is not None and reply.confidence >= sure
    inside: Sequence[TimedCaption] = memory
    if keeps:
        wide = merged(reply.windows, pad)
        inside = [one for one in memory if any(start <= one.end and one.start <= end for start, end in wide)] or memory
    best = localise(question, inside)
    return (best, *(window for window in reply.windows if window != best))


def strongest_run(score_N: Floats) -> tuple[int, int]:
    """First and last index of the run with the largest sum, the first on a tie; the best single index if no value is above 0.

    >>> strongest_run(np.array([-1.0, 2.0, -0.5, 1.0, -3.0, 1.0]))
    (1, 3)
    """
    best, running = (-np.inf, 0, 0), (0.0, 0)
    for number, score in enumerate(score_N.tolist()):
        total, start = running if running[0] > 0 else (0.0, number)
        running = (total + score, start)
        if running[0] > best[0]:
            best = (running[0], start, number)
    return best[1], best[2]
