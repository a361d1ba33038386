"""Pictures of the documentation about grounding: GroundVLP's map and boxes on a rendered scene, and pairs of scenes with what is meant.

python scripts/grounding_pictures.py
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diptych.data.media.decode import decode, encode_png
from diptych.data.read.multi_context import FIELD
from diptych.pipelines.groundvlp import GroundVLP, ReferringExpression
from diptych.worlds.scenes.pairs import scene_pairs
from diptych.worlds.scenes.world import scenes

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests/helpers"))
from planted.graded_boxes import Looks, Proposes

OUT = Path(__file__).resolve().parents[1] / "docs/images"
SCALE, GAP, STRIP = 3, 6, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "groundvlp.png").write_bytes(encode_png(referred()))
    (options.out / "scene_pairs.png").write_bytes(encode_png(pairs()))


def referred() -> Any:
    """The answer to "the orange ring" in the second scene."""
    data = scenes(2, seed=0)
    finder = GroundVLP(Looks(data, 0), Proposes(data, 0), names=("thing",))
    image = data[1].image
    assert image is not None
    return finder.run(ReferringExpression(image, "the orange ring")).picture()


def pairs() -> Any:
    """The first positive pair of each style."""
    data = scene_pairs(40, seed=0)
    samples = [data[row] for row in range(len(data))]
    styles = ("referring", "comparison", "reasoning")
    chosen = [next(s for s in samples if s.extras[FIELD]["style"] == style and s.extras[FIELD]["positive"]) for style in styles]
    side = 64 * SCALE
    sheet = Image.new("RGB", (2 * side + GAP, len(chosen) * (side + STRIP + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, sample in enumerate(chosen):
        asked, top = sample.extras[FIELD], row * (side + STRIP + GAP)
        draw.multiline_text((2, top + 2), "\n".join(textwrap.wrap(asked["text"], 62)), fill="black", spacing=2)
        for place, (part, image) in enumerate(zip(sample.media["images"].parts, asked["images"], strict=True)):
            left = place * (side + GAP)
            picture = Image.fromarray(decode(part, exact=True)).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, top + STRIP))
            for box, group in zip(image["boxes"], image["groups"], strict=True):
                ends = [end * SCALE + (left if axis % 2 == 0 else top + STRIP) for axis, end in enumerate(box)]
                draw.rectangle(ends, outline=("red", "blue", "green")[(group - 1) % 3], width=2)
    return np.asarray(sheet)


if __name__ == "__main__":
    main()
