"""Reading samples (image bytes and texts) from tar shards by index, compared with `webdataset`, in one process.

    python benchmarks/reading.py [--samples 2000] [--rounds 7]

Both read the same tars (KEY.jpg, KEY.txt, KEY.json as `img2dataset` writes them) from a warm cache and decode no pixel. A round
runs every reader once, in an order that rotates; the median of the rounds is reported.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine_results import Figure, Peer, keep
from PIL import Image

from diptych.data.dataset import Pool
from diptych.data.read import read
from diptych.data.shards.build import build, open_built

SHARDS = 3
SIDES = (96, 224, 512)  # pixels: thumbnails, pictures stored at training size, photographs


def photographs(count: int, side: int) -> list[bytes]:
    """Square JPEGs: smooth noise compresses about as photographs do."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=80)
        made.append(file.getvalue())
    return made


def write_shards(folder: Path, samples: int, side: int) -> int:
    """Returns the mean size of an image in bytes."""
    images = photographs(50, side)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for i in range(shard, samples, SHARDS):
                fields = {
                    "caption": f"photograph number {i}",
                    "url": f"https://example.org/{i}.jpg",
                    "key": f"{i:09d}",
                    "status": "success",
                }
                members = {"jpg": images[i % len(images)], "txt": fields["caption"].encode(), "json": json.dumps(fields).encode()}
                for extension, data in members.items():
                    info = tarfile.TarInfo(f"{i:09d}.{extension}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return sum(map(len, images)) // len(images)


def ours(pool: Pool, rows: np.ndarray) -> int:
    """Whole samples: texts, extras, and the bytes of the image."""
    total = 0
    for row in rows.tolist():
        sample = pool[row]
        assert sample.image is not None
        total += len(sample.image.read()) + len(sample.texts[0].string)
    return total


def by_webdataset(tars: list[str]) -> int:
    import webdataset

    total = 0
    for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False):
        total += len(sample["jpg"]) + len(sample["txt"].decode()) + 0 * len(json.loads(sample["json"]))
    return total


def by_tarfile(tars: list[str]) -> int:
    total = 0
    for tar in tars:
        with tarfile.open(tar) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                data = file.read()
                total += len(data) if member.name.endswith(("jpg", "txt")) else 0 * len(json.loads(data))
    return total


def measure(readers: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each reader in each round; all must read the same number of bytes."""
    names = list(readers)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    totals = {name: readers[name]() for name in names}  # warms the cache
    if len(set(totals.values())) != 1:
        raise SystemExit(f"the readers do not agree: {totals}")
    for round_ in range(rounds):
        for name in (*names[round_ % len(names) :], *names[: round_ % len(names)]):
            start = time.perf_counter()
            readers[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def rows_of(seconds: dict[str, list[float]], samples: int, image_bytes: int) -> Iterator[dict[str, Any]]:
    base = statistics.median(seconds["webdataset, in order"])
    for name, times in seconds.items():
        median = statistics.median(times)
        yield {
            "image_bytes": image_bytes,
            "reader": name,
            "samples_per_second": round(samples / median),
            "microseconds": round(median / samples * 1e6, 1),
            "times_webdataset": round(base / median, 2),
            "slowest_over_fastest_round": round(max(times) / min(times), 2),
        }


def compare(place: Path, side: int, samples: int, rounds: int) -> list[dict[str, Any]]:
    """All readers on images of one size."""
    folder = place / f"tars-{side}"
    folder.mkdir()
    image_bytes = write_shards(folder, samples, side)
    tars = [str(path) for path in sorted(folder.glob("*.tar"))]
    foreign = read(folder)
    build(foreign, place / f"built-{side}", check=False)
    built = open_built(place / f"built-{side}")
    order = np.arange(samples)
    shuffled = np.random.default_rng(0).permutation(samples)
    readers: dict[str, Callable[[], int]] = {
        "webdataset, in order": lambda: by_webdataset(tars),
        "tarfile, in order": lambda: by_tarfile(tars),
        "diptych, foreign tars, in order": lambda: ours(foreign, order),
        "diptych, foreign tars, shuffled": lambda: ours(foreign, shuffled),
        "diptych, built, in order": lambda: ours(built, order),
        "diptych, built, shuffled": lambda: ours(built, shuffled),
    }
    return list(rows_of(measure(readers, rounds), samples, image_bytes))


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    rate = {(row["image_bytes"], row["reader"]): row["samples_per_second"] for row in rows}
    return [
        Figure(
            f"{reader.removeprefix('diptych, ')}, {size / 1000:.0f} kB",
            "samples/s",
            ours,
            (Peer("webdataset", rate[size, "webdataset, in order"]), Peer("tarfile", rate[size, "tarfile, in order"], best=True)),
            less=False,
        )
        for (size, reader), ours in rate.items()
        if reader.startswith("diptych")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = [row for side in SIDES for row in compare(Path(place), side, options.samples, options.rounds)]
    print(f"{options.samples:,} samples, median of {options.rounds} rounds")
    print(f"{'image kB':>8}  {'reader':34}{'samples/s':>12}{'us each':>10}{'x webdataset':>14}")
    for row in rows:
        kilo, each, ratio = int(str(row["image_bytes"])) / 1000, row["microseconds"], row["times_webdataset"]
        print(f"{kilo:>8.1f}  {row['reader']:34}{row['samples_per_second']:>12,}{each:>10}{ratio:>14}")
    keep("reading", {"samples": options.samples, "rounds": options.rounds, "rows": rows}, figures(rows))


if __name__ == "__main__":
    main()
