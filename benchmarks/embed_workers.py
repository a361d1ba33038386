"""Embeddings of rendered pictures by one process, by two of `torchrun` and by two actors of Ray: the same files, byte for byte.

    python benchmarks/embed_workers.py [--pictures 100000] [--only torchrun ray] [--folder FOLDER]

Scenes of 64 pixels are rendered and built once, and embedded by an untrained clip of the smallest size. One thread each, so that two
workers use what two threads would. A second call on the same --folder takes what is there. Prints seconds, processor seconds of the command
with its workers (Ray's are not its children, and are not counted) and whether every file is equal; exit status 1 where one is not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from diptych.data.dataset import Pool
from diptych.data.shards.build import build
from diptych.recipes.contrastive.clip import CLIP
from diptych.worlds.address import open_data

SIDE = 64
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
WAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "one process": ((), ()),
    "torchrun": (TORCHRUN, ()),
    "ray": ((), ("--engine", "ray", "--workers", "2")),
}
"""What stands before the command, and options after it."""


def made(folder: Path, pictures: int) -> tuple[Path, Path]:
    """Folders of the model and of the data."""
    model, data = folder / "model", folder / f"scenes-{pictures}"
    if not model.exists():
        recipe = CLIP.tiny().prepare(open_data(f"world:scenes?n=16&size={SIDE}"))
        recipe.deploy(recipe.model()).save(model)
    if not data.exists():
        scenes = open_data(f"world:scenes?n={pictures}&size={SIDE}")
        build(Pool.from_samples(scenes[row] for row in range(pictures)), data)
    return model, data


def embed(way: str, model: Path, data: Path, out: Path) -> dict[str, float]:
    """Seconds, processor seconds and pictures of one command."""
    before, options = WAYS[way]
    words = [sys.executable, *before, "-m", "diptych", "embed", str(model), str(data), str(out), *options, "--json"]
    start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DIPTYCH_DEVICE": "cpu"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{way}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = json.loads(done.stdout.splitlines()[-1])["computed"]
    processor = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return {"seconds": time.perf_counter() - start, "processor_seconds": processor, "pictures": computed}


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every file, by its path in the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--only", nargs="+", choices=tuple(WAYS)[1:], default=list(WAYS)[1:], help="beside one process")
    parser.add_argument("--folder", type=Path, help="of model, data and embeddings; else one that is removed at the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="embed-workers-") as temporary:
        folder = options.folder or Path(temporary)
        model, data = made(folder, options.pictures)
        equal, first = list[bool](), dict[str, bytes]()
        for way in ("one process", *options.only):
            with tempfile.TemporaryDirectory(dir=folder) as out:
                row, written = embed(way, model, data, Path(out)), contents(Path(out))
            first = first or written
            equal.append(written == first)
            print(
                f"{way:<12}{row['pictures']:>9,} pictures{row['seconds']:>8.1f} s{row['processor_seconds']:>8.1f} processor seconds  "
                f"{len(written)} files, {'equal' if equal[-1] else 'NOT equal'}",
                flush=True,
            )
    raise SystemExit(not all(equal))


if __name__ == "__main__":
    main()
