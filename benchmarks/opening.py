"""Opening and drawing from a generated data set of many rows with memory-mapped columns, in several processes at once.

    python benchmarks/opening.py [--rows 10000000] [--processes 8] [--folder DIR]
    python benchmarks/opening.py --built 40000        # a built folder of so many small pictures, without its mapped columns and with them

Prints one page: seconds to open, memory of each process (what is its own, and with its share of the pages that all have), seconds for 200
batches of 256 rows in the order of training, and that processes agree and go on in the middle of an epoch exactly. Seconds are those of the
processor, which other programs do not change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

STEPS, BATCH = 200, 256


def generate(folder: Path, rows: int) -> None:
    """The columns of so many samples, each an image in a tar and a text. The tars are not there: no picture is decoded."""
    from diptych.data.dataset import Pool
    from diptych.data.mapped import write_mapped
    from diptych.data.media.images import Slices
    from diptych.data.ragged import Ragged
    from diptych.data.texts import Texts

    folder.mkdir(parents=True, exist_ok=True)
    number_N = pa.array(np.arange(rows))
    uid = pc.binary_join_element_wise("web-", pc.cast(number_N, pa.string()), "")
    text = pc.binary_join_element_wise(
        "a caption of picture number ", pc.cast(number_N, pa.string()), ", as long as most are", ""
    )
    same = pa.array([""]).take(pa.array(np.zeros(rows, np.int8)))
    table = pa.table([text, same, pa.array(["alt"]).take(pa.array(np.zeros(rows, np.int8)))], ["string", "language", "origin"])
    images = Slices((folder / "shards/00000.tar",), np.zeros(rows, np.int32), np.arange(rows) * 1024, np.full(rows, 1024), uid)
    texts = Texts(Ragged(np.arange(rows + 1), table))
    write_mapped(Pool("generated", {"uid": uid}, texts, images, fingerprint=f"generated {rows}"), folder)


def measure(folder: Path, start: int) -> dict[str, float | str | int]:
    """One process: opens, draws, and says what it took."""
    from diptych.data.load.computed_order import default_order
    from diptych.data.load.order import span
    from diptych.data.mapped import open_mapped

    before = memory()
    begun = time.process_time()
    pool = open_mapped(folder)
    opened = time.process_time() - begun
    after = memory()
    digest, begun = hashlib.sha256(), time.process_time()
    for step in range(start, STEPS):
        _, row_S = span(0, len(pool), step * BATCH, (step + 1) * BATCH, order=default_order(len(pool)))
        for row in row_S.tolist():
            sample = pool[row]
            if step >= STEPS // 2:
                digest.update(f"{sample.uid} {sample.texts[0].string}".encode())
    drawn = memory()
    return {
        "open_seconds": opened,
        "draw_seconds": time.process_time() - begun,
        "own_mib": drawn["own"] - before["own"],
        "shared_mib": drawn["share"] - before["share"],
        "own_after_open_mib": after["own"] - before["own"],
        "whole_process_mib": drawn["share"],
        "digest": digest.hexdigest()[:16],
    }


def measure_built(rows: int) -> None:
    """Peak of memory while a built folder is opened, without mapped columns and with them, each in a process of its own."""
    from multiprocessing import get_context

    from curation import templated
    from killed_curation import picture_files

    from diptych.data.mapped import write_mapped
    from diptych.data.read import read
    from diptych.data.shards.build import build, open_built

    with tempfile.TemporaryDirectory() as scratch:
        source, folder = Path(scratch, "pool.parquet"), Path(scratch, "built")
        uids = [f"{row:08d}" for row in range(rows)]
        pq.write_table(
            pa.table({"uid": uids, "image": pa.array(picture_files(rows), pa.binary()), "text": templated(rows, 12)}), source
        )
        build(read(source), folder)
        for mapped in (False, True):
            if mapped:
                write_mapped(open_built(folder), folder)
            with get_context("spawn").Pool(1) as process:
                each = process.apply(opening_bytes, (folder,)) / rows
            print(f"{rows:,} rows {'with' if mapped else 'without'} mapped columns: {each:,.0f} bytes a row at the highest")


def opening_bytes(folder: Path) -> float:
    """Bytes resident at the highest above those before, while a built folder is opened."""
    from growth import memory_from_here, status_gib

    from diptych.data.read import read

    with tempfile.TemporaryDirectory() as scratch:  # imports
        pq.write_table(
            pa.table({"uid": ["a"], "text": ["a"], "image": pa.array([b"x"], pa.binary())}), Path(scratch, "a.parquet")
        )
        read(Path(scratch, "a.parquet"))
    before = memory_from_here()
    read(folder)
    return (status_gib("VmHWM") - before) * 2**30


def memory() -> dict[str, float]:
    """MiB of this process alone (anonymous), and with its share of the pages of files that others have too (proportional set size)."""
    sizes = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, size = line.split()[:2]
        sizes[name.rstrip(":")] = int(size) / 1024
    return {"own": sizes["Anonymous"], "share": sizes["Pss"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", type=int, default=-1, help="of one process: the step that it begins with")
    parser.add_argument("--built", type=int, help="rows of a built folder; nothing else is measured")
    args = parser.parse_args()
    if args.built:
        measure_built(args.built)
        return
    if args.measure >= 0:
        print(json.dumps(measure(args.folder, args.measure)), flush=True)
        sys.stdin.read()  # stays until all have measured, so that pages are shared by as many
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch, "generated")
        begun = time.perf_counter()
        generate(folder, args.rows)
        written = time.perf_counter() - begun
        size = sum(path.stat().st_size for path in (folder / "columns").iterdir())
        words = [sys.executable, __file__, "--folder", str(folder), "--measure"]
        starts = [0 if number % 2 == 0 else STEPS // 2 for number in range(args.processes)]
        started = [
            subprocess.Popen([*words, str(start)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for start in starts
        ]
        rows = [json.loads(process.stdout.readline()) for process in started if process.stdout]
        for process in started:
            process.communicate()
    print(
        f"{args.rows:,} rows, {size / 2**20:,.0f} MiB of columns, written in {written:.0f} s; {args.processes} processes at once"
    )
    for name in ("open_seconds", "draw_seconds", "own_after_open_mib", "own_mib", "shared_mib", "whole_process_mib"):
        values = [row[name] for row in rows]
        print(f"  {name:<22}{min(values):10.3f} to {max(values):.3f}")
    agree = len({row["digest"] for row in rows}) == 1
    print(f"  processes that begin anew and that go on in the middle draw the same: {'yes' if agree else 'NO'}")


if __name__ == "__main__":
    main()
