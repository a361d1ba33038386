"""A canvas as In-Image Learning gives it to a model: a solved example with its cue on top, the question below.

    python examples/canvas.py docs/images/canvas.png

No model is asked; `diptych run i2l` does that.
"""

from __future__ import annotations

import sys
from pathlib import Path

from diptych.core.sample import Sample
from diptych.data.canvas.compose import Lettering, stacked, with_text
from diptych.data.canvas.demonstrations import Demonstration
from diptych.data.canvas.reading import read_lines
from diptych.data.media.decode import decode, encode_png
from diptych.worlds.scenes.world import scenes

QUESTION = "Which colour has the largest thing?"
SIDE = 300


def largest(sample: Sample) -> int:
    """The place of the thing with the largest box."""
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (region.box for region in sample.regions)]
    return areas.index(max(areas))


def main(out: Path) -> list[str]:
    """Writes the canvas and gives the text that can be read from its pixels."""
    shown, asked = (scenes(40, seed=3, split="test", size=SIDE, max_objects=4)[row] for row in (12, 36))
    assert shown.image is not None
    assert asked.image is not None
    region = shown.regions[largest(shown)]
    demo = Demonstration(
        shown.image,
        QUESTION,
        rationale=f"The framed {region.label} takes up more room than any other thing.",
        answer=region.attributes[0],
        cues=(region.box,),
    )
    lettering = Lettering()
    question = with_text(decode(asked.image, exact=True), QUESTION, lettering)
    canvas = stacked([demo.draw(lettering), question.pixels_HWC])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(encode_png(canvas))
    return [text for _, text in read_lines(canvas, lettering)]


if __name__ == "__main__":
    print("\n".join(main(Path(sys.argv[1] if len(sys.argv) > 1 else "canvas.png"))))
