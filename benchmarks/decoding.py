"""JPEG decoding to a 224-pixel training crop and to an evaluation image, compared with webdataset's PIL decoder and PIL resizing.

    python benchmarks/decoding.py [--images 12] [--rounds 7]

The photos that scikit-learn ships, saved as JPEG (quality 90) at several sizes. Both sides run alternately on one thread and
draw the same boxes; ours lie on the smaller decoded image, whose sides and boxes are rounded to its own pixels, so that the crops are
shifted by a fraction of a pixel ("mean diff" in levels); time is the median over rounds.
"resize" is the step after decoding alone, on equal pixels.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from machine_results import Figure, Peer, keep
from PIL import Image
from sklearn.datasets import load_sample_images
from webdataset.autodecode import imagehandler

from diptych.core.image import BytesImage
from diptych.core.randomness import keyed_rng
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess, crop_box, random_crop, resized

SIDE = 224
SIZES = ((512, 341), (1024, 683), (1224, 816))
SCALE, RATIO = (0.9, 1.0), (0.75, 4 / 3)
Step = Callable[[Any, int], np.ndarray]


def photos(width: int, height: int, count: int) -> list[bytes]:
    """JPEGs of real photos, each cut out at another place so that no two are equal."""
    encoded = []
    for number in range(count):
        photo = Image.fromarray(load_sample_images().images[number % 2])
        margin = number // 2
        part = photo.crop((margin, margin, photo.width, photo.height)).resize((width, height), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        part.save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    return encoded


def peer_training(data: bytes, number: int) -> np.ndarray:
    image = imagehandler("pil")("jpg", data)
    top, left, height, width = crop_box(image.height, image.width, keyed_rng(number), SCALE, RATIO)
    part = image.crop((left, top, left + width, top + height))
    return np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def our_training(data: bytes, number: int) -> np.ndarray:
    return random_crop(decode(BytesImage(data), min_side=SIDE), SIDE, keyed_rng(number), SCALE, RATIO)


def peer_evaluation(data: bytes, number: int) -> np.ndarray:
    return Preprocess(SIDE).square(np.asarray(imagehandler("pil")("jpg", data)))


def our_evaluation(data: bytes, number: int) -> np.ndarray:
    return Preprocess(SIDE).square(decode(BytesImage(data), exact=True))


def peer_resize(pixels: np.ndarray, number: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def our_resize(pixels: np.ndarray, number: int) -> np.ndarray:
    return resized(pixels, SIDE)


def seconds(step: Step, items: list[Any]) -> float:
    start = time.perf_counter()
    for number, item in enumerate(items):
        step(item, number)
    return (time.perf_counter() - start) / len(items)


def compare(what: str, size: tuple[int, int], ours: Step, peer: Step, items: list[Any], rounds: int) -> dict[str, Any]:
    times = [(seconds(ours, items), seconds(peer, items)) for _ in range(rounds + 1)][1:]
    our_ms, peer_ms = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    difference = np.mean([np.abs(ours(i, n).astype(int) - peer(i, n).astype(int)).mean() for n, i in enumerate(items)])
    return {
        "what": what,
        "size": f"{size[0]}x{size[1]}",
        "ours_ms": our_ms,
        "peer_ms": peer_ms,
        "ratio": peer_ms / our_ms,
        "mean_difference_levels": float(difference),
    }


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    return [
        Figure(f"{row['what']}, {row['size']}", "ms", row["ours_ms"], (Peer("webdataset and PIL", row["peer_ms"]),))
        for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"{'what':<12}{'size':>10}{'ours ms':>10}{'peer ms':>10}{'ratio':>8}{'mean diff':>11}")
    for size in SIZES:
        encoded = photos(*size, options.images)
        pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).copy() for data in encoded]
        for what, ours, peer, items in (
            ("training", our_training, peer_training, encoded),
            ("evaluation", our_evaluation, peer_evaluation, encoded),
            ("resize", our_resize, peer_resize, pixels),
        ):
            row = compare(what, size, ours, peer, items, options.rounds)
            rows.append(row)
            numbers = f"{row['ours_ms']:>10.2f}{row['peer_ms']:>10.2f}{row['ratio']:>7.2f}x{row['mean_difference_levels']:>11.2f}"
            print(f"{what:<12}{row['size']:>10}{numbers}", flush=True)
    keep("decoding", {"rows": rows}, figures(rows))


if __name__ == "__main__":
    main()
