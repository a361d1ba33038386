"""Images per second through the frozen encoder of `locked`, with default settings, compared with plain PyTorch and with timm's own loop.

    python benchmarks/embedding.py [--images 96] [--size 112] [--rounds 3]

Photographs that scikit-learn ships, as JPEG of 640 x 427 pixels, to features, decoding and resizing included; then the tower alone, on
pixels that are there. "As started" is timm's EfficientNet-Lite0 as a user would write the loop (PIL, torchvision's transforms, float32,
one image after the other decoded, batches of 64); "at its best" is the same tower in channels-last. "Again" asks
for the same pictures once more, as `index build` does after training: features are found by what the images hold. ONNX Runtime obeys
no variable that makes a machine plain: `run_all.py --plain` keeps it to AVX2 by what CPUID answers.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from machine_results import Figure, Peer, keep
from PIL import Image
from sklearn.datasets import load_sample_images

from diptych.core.image import BytesImage
from diptych.models.io import weights
from diptych.models.io.frozen_engine import frozen_engine

BATCH = 64


def photos(count: int) -> list[bytes]:
    """JPEG files, each another crop."""
    files, rng = [], np.random.default_rng(0)
    whole = [Image.fromarray(image) for image in load_sample_images().images]
    for number in range(count):
        buffer, left = io.BytesIO(), int(rng.integers(0, 30))
        image = whole[number % len(whole)]
        image.crop((left, left, image.width, image.height)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def by_timm(files: list[bytes], size: int, *, channels_last: bool) -> Callable[[], Any]:
    from torchvision import transforms

    tower = weights.image("efficientnet-lite0", image_size=size).tower.net
    steps = transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    tower = tower.to(memory_format=layout)

    def run() -> Any:
        found = []
        with torch.inference_mode():
            for start in range(0, len(files), BATCH):
                rows = [steps(Image.open(io.BytesIO(data)).convert("RGB")) for data in files[start : start + BATCH]]
                found.append(tower.global_pool(tower.forward_features(torch.stack(rows).contiguous(memory_format=layout))))
        return torch.cat(found).numpy()

    return run


def ours(files: list[bytes], size: int, engine: Any, *, again: bool = False) -> Callable[[], Any]:
    encoder: Any = weights.image("efficientnet-lite0", image_size=size)
    sources = [BytesImage(data) for data in files]

    def run() -> Any:
        with frozen_engine(engine):
            if not again:
                encoder._known.clear()
            return encoder.encode_images(sources, batch_size=BATCH)

    return run


def tower(files: list[bytes], size: int, engine: Any) -> Callable[[], Any]:
    encoder: Any = weights.image("efficientnet-lite0", image_size=size)
    image_BCHW = encoder._pixels([BytesImage(data) for data in files[:32]])

    def run() -> Any:
        with frozen_engine(engine):
            return encoder._encoded(image_BCHW)

    return run


def measured(ways: dict[str, tuple[int, Callable[[], Any]]], rounds: int) -> list[dict[str, Any]]:
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _, run in ways.values():
        run()  # imports, an export, the first pass
    for _ in range(rounds):
        for name, (_, run) in ways.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - used)
    rows = []
    for name, (count, _) in ways.items():
        row = {"way": name, "images_a_second": count / statistics.median(wall[name])}
        rows.append({**row, "images_a_cpu_second": count / statistics.median(cpu[name])})
        print(f"{name:40}{row['images_a_second']:>12,.1f} images/s{rows[-1]['images_a_cpu_second']:>12,.1f} a processor second")
    return rows


def figures(rows: list[dict[str, Any]], size: int) -> list[Figure]:
    found = []
    for key, unit in (("images_a_second", "images/s"), ("images_a_cpu_second", "images a processor second")):
        rate = {row["way"]: row[key] for row in rows}
        peers = (
            Peer("timm, as started", rate["timm, as started"]),
            Peer("timm, channels-last", rate["timm, channels-last"], best=True),
        )
        found.append(Figure(f"JPEG files to features, {size} px", unit, rate["ours"], peers, less=False))
        found.append(Figure(f"the same files again, {size} px", unit, rate["ours, again"], peers, less=False))
        alone = (Peer("PyTorch, channels-last", rate["the tower alone, PyTorch"], best=True),)
        found.append(Figure(f"the tower alone, {size} px", unit, rate["the tower alone"], alone, less=False))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--size", type=int, default=112, help="side of the image that the tower gets: 112 is what `locked` takes")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    files = photos(options.images)
    with tempfile.TemporaryDirectory(prefix="embedding-") as folder:
        os.environ["DIPTYCH_CACHE"] = folder  # neither features nor an export of before
        ways = {
            "timm, as started": (len(files), by_timm(files, options.size, channels_last=False)),
            "timm, channels-last": (len(files), by_timm(files, options.size, channels_last=True)),
            "ours, PyTorch": (len(files), ours(files, options.size, "torch")),
            "ours": (len(files), ours(files, options.size, "auto")),
            "ours, again": (len(files), ours(files, options.size, "auto", again=True)),
            "the tower alone, PyTorch": (32, tower(files, options.size, "torch")),
            "the tower alone": (32, tower(files, options.size, "auto")),
        }
        difference = float(np.abs(ways["the tower alone"][1]() - ways["the tower alone, PyTorch"][1]()).max())
        rows = measured(ways, options.rounds)
    print(f"largest difference between the engines: {difference:.1e}")
    found = {"torch_threads": torch.get_num_threads(), "size": options.size, "difference": difference, "rows": rows}
    keep("embedding", found, figures(rows, options.size))


if __name__ == "__main__":
    main()
