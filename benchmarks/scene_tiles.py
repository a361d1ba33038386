"""Tiles per second from a large GeoTIFF, compared with a plain loop over `rasterio` windows, and memory by size of the scene.

    python benchmarks/scene_tiles.py [--side 10000] [--tile 512] [--rounds 3]

The scene has three bands of 8 or 16 bits in blocks of 256 pixels, compressed by deflate. Both read the same windows in the same order and
give uint8 [H, W, 3]; of 16 bits both stretch by the same percentiles of the whole scene. A round runs both, in turn; the median is
reported. Memory is the most that a process of its own held after any tile, less what it held before it opened the scene, for a quarter of
the side and for all of it. GDAL keeps decoded blocks, by default up to a twentieth of the machine's memory; the loop is measured with that
default ("plain") and with the bound that ours has ("bounded").
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from machine_results import Figure, Peer, keep
from rasterio.transform import from_origin
from rasterio.windows import Window

from diptych.data.media.scene_file import CACHE, SceneFile

PERCENTILES, SAMPLED = (2, 98), 1024
BITS = (8, 16)
MEMORY = """
import json, resource, sys
sys.path.insert(0, {folder!r})
import scene_tiles
def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
before = held()
tiles = getattr(scene_tiles, sys.argv[2])(sys.argv[1], int(sys.argv[3]))
print(json.dumps((max(held() for _ in tiles) - before) / 2**20))
"""


def write_scene(path: Path, side: int, bits: int) -> None:
    """Smooth noise, a strip of blocks at a time."""
    rng = np.random.default_rng(0)
    profile: dict[str, Any] = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": f"uint{bits}"}
    where = {"crs": "EPSG:32630", "transform": from_origin(500_000, 4_500_000, 0.5, 0.5)}
    with rasterio.open(
        path, "w", **profile, **where, tiled=True, blockxsize=256, blockysize=256, compress="deflate", zlevel=1
    ) as file:
        for top in range(0, side, 256):
            rows = min(256, side - top)
            coarse = rng.integers(0, 1 << (bits - 1), (3, rows // 16 + 1, side // 16 + 1))
            smooth = coarse.repeat(16, 1).repeat(16, 2)[:, :rows, :side]
            file.write(
                (smooth + rng.integers(0, 1 << (bits - 3), smooth.shape)).astype(f"uint{bits}"), window=Window(0, top, side, rows)
            )


def ours(path: str, tile: int) -> Iterator[npt.NDArray[np.uint8]]:
    with SceneFile.open(path) as scene:
        for part in scene.tiles(tile):
            yield part.pixels_HWC


def plain(path: str, tile: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The loop that one writes by hand."""
    with rasterio.open(path) as file:
        low_C, high_C = np.zeros(3), np.full(3, 255.0)
        if file.dtypes[0] != "uint8":
            step = max(1, max(file.shape) // SAMPLED)
            small = file.read([1, 2, 3], out_shape=(3, file.height // step, file.width // step))
            low_C, high_C = np.percentile(small.reshape(3, -1), PERCENTILES, axis=1)
        starts = [[*range(0, length - tile, tile), length - tile] for length in file.shape]
        for top in starts[0]:
            for left in starts[1]:
                value_HWC = file.read([1, 2, 3], window=Window(left, top, tile, tile)).transpose(1, 2, 0)
                if file.dtypes[0] != "uint8":
                    share = np.clip((value_HWC - low_C) / (high_C - low_C), 0, 1)
                    value_HWC = np.rint(share * 255).astype(np.uint8)
                yield np.ascontiguousarray(value_HWC)


def bounded(path: str, tile: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The same with the bound on GDAL's cache that ours has."""
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        yield from plain(path, tile)


READERS: dict[str, Callable[[str, int], Iterator[npt.NDArray[np.uint8]]]] = {"ours": ours, "plain": plain, "bounded": bounded}


def rates(path: Path, tile: int, rounds: int) -> dict[str, tuple[int, float]]:
    """Number of tiles and median seconds of each reader; all have to give the same pixels."""
    sums = {name: [int(part.sum(dtype=np.int64)) for part in read(str(path), tile)] for name, read in READERS.items()}
    if any(sums[name] != sums["plain"] for name in READERS):
        raise SystemExit("the readers do not give the same tiles")
    seconds: dict[str, list[float]] = {name: [] for name in READERS}
    for round_ in range(rounds):
        for name in (*READERS,) if round_ % 2 else (*READERS,)[::-1]:
            start = time.process_time()
            for _ in READERS[name](str(path), tile):
                pass
            seconds[name].append(time.process_time() - start)
    return {name: (len(sums[name]), statistics.median(times)) for name, times in seconds.items()}


def grown(path: Path, reader: str, tile: int) -> float:
    """MiB that a process grows by while it reads all tiles."""
    program = MEMORY.format(folder=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), reader, str(tile)], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for bits in BITS:
            paths = {side: Path(folder, f"{side}-{bits}.tif") for side in (options.side // 4, options.side)}
            for side, path in paths.items():
                write_scene(path, side, bits)
            measured = rates(paths[options.side], options.tile, options.rounds)
            for reader, (count, seconds) in measured.items():
                growth = {side: grown(path, reader, options.tile) for side, path in paths.items()}
                quarter, whole = (round(value, 1) for value in growth.values())
                rate = round(count / seconds, 1)
                rows.append(
                    {
                        "bits": bits,
                        "reader": reader,
                        "tiles_per_processor_second": rate,
                        "mib_quarter": quarter,
                        "mib_whole": whole,
                    }
                )
                print(f"{bits:>2} bits  {reader:6}{rate:>9,} tiles/s of processor  grows by {quarter:,} and {whole:,} MiB")
            rate_of = {row["reader"]: row["tiles_per_processor_second"] for row in rows if row["bits"] == bits}
            peers = (Peer("rasterio loop", rate_of["plain"], best=True), Peer("loop, same cache", rate_of["bounded"]))
            figures.append(Figure(f"{bits} bits", "tiles/s", rate_of["ours"], peers, less=False))
    settings = {"side": options.side, "tile": options.tile, "rounds": options.rounds}
    keep("scene_tiles", {**settings, "rows": rows}, figures)


if __name__ == "__main__":
    main()
