"""Pictures of what small trained models answer: DesCo asked by a right and by a wrong description, FIBER's map of a text weighed by
GroundVLP, and both on real photographs, which they were never trained for.

Each model learns a few scenes by heart in a minute or two, and the scenes that are shown are among them: the pictures show what the answers
look like, and on photographs how such a model fails. No score is to be read from them.

python scripts/grounding_pictures_trained.py --only desco
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import diptych as dp
from diptych.claims.cells.relations.invented_names import asked, small
from diptych.core.grounding import PhraseBoxes
from diptych.core.image import ArrayImage
from diptych.core.scene_graph import Region, SceneGraph
from diptych.data.media.decode import Pixels, decode, encode_png
from diptych.pipelines.groundvlp import GroundVLP, ReferringExpression
from diptych.recipes.grounding.fiber import FIBER
from diptych.report.drawing import Label, Outline, PictureOverlay, label_size, palette, pixels
from diptych.worlds.scenes.invented import described, invented, look_of
from diptych.worlds.scenes.world import scenes

OUT = Path(__file__).resolve().parents[1] / "docs/images"
SIDE, STRIP, GAP, SHOWN = 300, 40, 8, 3
SCENES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", choices=("desco", "fiber"), default=None)
    parser.add_argument("--steps", type=int, default=250)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, draw in (("desco", desco), ("fiber", fiber)):
        if options.only in (None, name):
            for file, picture in draw(options.steps).items():
                (options.out / f"{file}.png").write_bytes(encode_png(picture))


def desco(steps: int) -> dict[str, Pixels]:
    """A scene asked for one of its things by its description and by one that is wrong in a word; three photographs."""
    data = invented(SCENES, seed=0).to_pool()
    recipe = small(
        encoder_layers=1, fusion_before=(0,), decoder_layers=1, queries=6, classes=3, text_length=56, reads="pieces", drop_name=1.0,
        steps=steps, warmup=50.0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        dp.train(recipe, data=data, out=Path(folder) / "run", seed=0, hold_out=0)
        model: Any = dp.load(Path(folder) / "run")
        sample = data[1]
        name = sample.regions[0].label
        looks = [look_of(name), look_of(described(look_of(name))["similar objects"][0])]
        assert sample.image is not None
        answers = [row[0] for row in model.ground([sample.image] * 2, [asked(name, look) for look in looks])]
        words = [f"a kind of thing, {', '.join(look)}" for look in looks]
        scene = [boxes_over(decode(sample.image, exact=True), words[n], answers[n]) for n in range(2)]
        photos = []
        for photo in photographs():
            (row,) = model.ground([ArrayImage(photo)], [asked(name, ("red", "plain", "circle"))])
            photos.append(boxes_over(photo, "a kind of thing, red, plain, circle", row[0]))
    return {"desco": beside(scene), "desco_photographs": beside(photos)}


def fiber(steps: int) -> dict[str, Pixels]:
    """GroundVLP on FIBER's maps, with boxes of the things in a scene and of nothing in particular on photographs."""
    data = scenes(SCENES, seed=0, lengths=("short",), paraphrases=0, negatives=False).to_pool()
    recipe = replace(
        FIBER.tiny(), caption=0.0, mlm=0.0, swin_patch=8, swin_width=48, swin_depths=(2, 2), swin_heads=(2, 4), swin_window=4,
        text_width=64, text_layers=3, text_length=16, fused_layers=2, width=64, pieces=320, queue=0, batch_size=SCENES, steps=steps,
        lr=2e-3, warmup=30.0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        dp.train(recipe, data=data, out=Path(folder) / "run", seed=0, hold_out=0)
        model: Any = dp.load(Path(folder) / "run")
        sample = data[1]
        assert sample.image is not None
        region = sample.regions[0]
        text = f"the {region.attributes[0]} {region.label}"
        scene = _referred(model, sample.image, text, [r.box for r in sample.regions])
        photos = [_referred(model, ArrayImage(photo), "the red star", _tiles(photo)) for photo in photographs()]
    return {"fiber": scene, "fiber_photographs": halved(beside(photos))}


def _referred(model: Any, image: Any, text: str, boxes: list[Any]) -> Pixels:
    class Given:
        name = "given boxes"

        def detect(self, images: Any, *, objects: Any, relations: Any = ()) -> list[SceneGraph]:
            return [SceneGraph(tuple(Region(box, "thing") for box in boxes))]

    return GroundVLP(model, Given(), names=("thing",)).run(ReferringExpression(image, text)).picture()


def _tiles(picture: Pixels) -> list[tuple[float, float, float, float]]:
    """Three times three boxes."""
    height, width = (side / 3 for side in picture.shape[:2])
    return [(x * width, y * height, (x + 1) * width, (y + 1) * height) for y in range(3) for x in range(3)]


def photographs() -> list[Pixels]:
    """An astronaut (NASA; scikit-image), a temple (danielbuechele) and a flower (vultilion; both CC BY 2.0, scikit-learn), 480 wide."""
    from skimage import data as images
    from sklearn.datasets import load_sample_images

    found = [images.astronaut(), *load_sample_images().images]
    return [np.asarray(Image.fromarray(photo).convert("RGB").resize(_size(photo.shape))) for photo in found]


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    share = 480 / max(shape[:2])
    return round(shape[1] * share), round(shape[0] * share)


def boxes_over(picture: Pixels, words: str, found: PhraseBoxes) -> Pixels:
    """The picture with the best boxes, the first one strong, their scores, and the words below."""
    scale = SIDE / max(picture.shape[:2])
    height, width = (round(size * scale) for size in picture.shape[:2])
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    canvas = Image.new("RGB", (width, SIDE + STRIP), palette()["panel"])
    canvas.paste(Image.fromarray(picture).resize((width, height), how), (0, 0))
    drawing = PictureOverlay(width, SIDE + STRIP, picture_HWC=np.asarray(canvas), fixed=True)
    for place in reversed(range(min(SHOWN, len(found.score_N)))):
        x0, y0, x1, y1 = (float(end) * scale for end in found.box_N4[place])
        drawing.shapes.append(
            Outline((x0, y0, x1, y1), "s0" if not place else "s2", 3.0 if not place else 1.0, dashed=bool(place))
        )
    best = float(found.score_N[0]) if len(found.score_N) else 0.0
    lines = [words, f"best box: {best:.3f}"]
    size = min(13.0, 13.0 * (width - 8) / max(1.0, label_size(lines)[0]))
    drawing.shapes.append(Label((width / 2, SIDE + STRIP / 2), tuple((line, "ink") for line in lines), size=size))
    return pixels(drawing)


def beside(pictures: list[Pixels]) -> Pixels:
    """In a row, on white."""
    tallest = max(len(picture) for picture in pictures)
    parts = [np.pad(p, ((0, tallest - len(p)), (0, GAP), (0, 0)), constant_values=255) for p in pictures]
    return np.concatenate(parts, 1)[:, :-GAP]


def halved(picture: Pixels) -> Pixels:
    """Half as wide and high."""
    height, width = picture.shape[:2]
    return np.asarray(Image.fromarray(picture).resize((width // 2, height // 2), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
