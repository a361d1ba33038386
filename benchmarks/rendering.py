"""Rendered worlds: images per second on one core, with and without ground truth, compared with a supersampling renderer and stored files.

    OMP_NUM_THREADS=1 python benchmarks/rendering.py [--scenes 200]

Each way handles the same scenes; the ways take turns within each round; shown are medians of the rounds. The supersampling
renderer draws the same shapes with PIL at four times the size and shrinks the picture: pixels only, no masks, no textures. "Stored"
reads the same pictures from PNG files in memory: what a training run would pay had they been rendered beforehand.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from machine_results import Figure, Peer, keep
from PIL import Image, ImageDraw

from diptych.core.image import BytesImage
from diptych.data.media.decode import decode, encode_png
from diptych.worlds import links, scenes
from diptych.worlds.scenes.cutouts import cutout
from diptych.worlds.scenes.layout import Scene
from diptych.worlds.scenes.rendering import RGB, background, render

ROUNDS, FACTOR = 5, 4


def supersampled(scene: Scene, size: int) -> np.ndarray:
    """The scene with polygons at four times the size, shrunk."""
    image = Image.fromarray(background(scene, size).astype(np.uint8)).resize((size * FACTOR,) * 2)
    draw = ImageDraw.Draw(image)
    for thing in sorted(scene.things, key=lambda t: t.depth):
        x, y, radius = (v * size * FACTOR for v in (thing.x, thing.y, thing.radius))
        if thing.label in ("circle", "ring", "moon"):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=RGB[thing.colour])
        else:
            corners = {"triangle": 3, "star": 10, "cross": 12}.get(thing.label, 4)
            turn = math.radians(thing.angle - 90)
            points = [
                (x + radius * math.cos(turn + a), y + radius * math.sin(turn + a))
                for a in np.arange(corners) * math.tau / corners
            ]
            draw.polygon(points, fill=RGB[thing.colour])
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def discs() -> list[Any]:
    """Stand-ins for cut-outs: what matters to the time is their size."""
    yy, xx = np.mgrid[:64, :64] - 31.5
    inside = (xx * xx + yy * yy) < 900
    made = []
    for number in range(20):
        rgba = np.zeros((64, 64, 4), np.uint8)
        rgba[inside] = (*np.random.default_rng(number).integers(0, 256, 3), 255)
        made.append(cutout(f"disc {number}", rgba))
    return made


def ways(count: int) -> dict[str, Callable[[], None]]:
    flat, large = scenes(count, seed=0), scenes(count, seed=0, size=128)
    pasted, linked = scenes(count, seed=0, look="cutouts", cutouts=discs()), links(count, seed=0)
    plans = [flat.world.scene(*row) for row in flat.rows]  # type: ignore[attr-defined]
    files = [BytesImage(encode_png(flat[row].image.pixels_HWC)) for row in range(count)]  # type: ignore[union-attr]

    def samples(data: Any) -> Callable[[], None]:
        return lambda: [data[row] for row in range(count)] and None

    return {
        "scenes 64 px: pixels, truth and texts": samples(flat),
        "scenes 64 px: pixels and masks": lambda: [render(plan, 64) for plan in plans] and None,
        "scenes 128 px: pixels, truth and texts": samples(large),
        "cut-outs 64 px: pixels, truth and texts": samples(pasted),
        "links 64 px: pixels, truth and text": samples(linked),
        "PIL, four times supersampled, 64 px: pixels": lambda: [supersampled(plan, 64) for plan in plans] and None,
        "stored PNG, 64 px: pixels": lambda: [decode(file) for file in files] and None,
    }


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    rate = {row["way"]: row["images_per_second"] for row in rows}
    peer = Peer("PIL, four times supersampled", rate["PIL, four times supersampled, 64 px: pixels"])
    return [
        Figure(way, "images/s", ours, (peer,), less=False) for way, ours in rate.items() if not way.startswith(("PIL", "stored"))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    count = parser.parse_args().scenes
    seconds: dict[str, list[float]] = {}
    todo = ways(count)
    for name, way in todo.items():
        way()  # warm
        seconds[name] = []
    for _ in range(ROUNDS):
        for name, way in todo.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    peer = statistics.median(seconds["PIL, four times supersampled, 64 px: pixels"])
    rows = []
    print(f"{'way':<46}{'images/s':>10}{'of PIL':>8}")
    for name, times in seconds.items():
        median = statistics.median(times)
        rows.append({"way": name, "images_per_second": count / median, "ratio_to_pil": peer / median, "rounds": times})
        print(f"{name:<46}{count / median:>10,.0f}{peer / median:>8.2f}")
    keep("rendering", {"scenes": count, "rows": rows}, figures(rows))


if __name__ == "__main__":
    main()
