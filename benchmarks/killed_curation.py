"""Six chained curation steps over texts and small pictures, run through and killed three times on each engine, with equal output files.

    python benchmarks/killed_curation.py [--rows 1000000] [--pictures 100000] [--runs local ray ...] [--folder /tmp/killed]

Makes two Parquet files, of links with a text and of pictures with a text, then curates both as one pool in a process of its own.
`undisturbed` runs on all cores and is what the others are compared with. Every other run is ended by SIGKILL at three random moments of
its time and started again each time: `one core` and `local` on Daft's local engine (the first bound to one core), `ray` on a Ray of this
machine. All files in OUT have to be the same bytes, except for `lineage.json` and `costs.json`, which hold times.

Processor seconds and peak memory are those of the processes, from the kernel; those of Ray's workers are not in them. One text in ten is
a copy with a slip, one in twelve of a template; one picture in ten is a copy, one in ten a copy that was saved again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from curation import entries_of, templated
from machine_results import Figure, facts, keep, last

KILLS = 3
TIMES = ("lineage.json", "costs.json")
"""Files of a curation that hold times."""
PICTURES, LINKS = "pictures.parquet", "links.parquet"
RUNS = ("one core", "local", "ray")
STEPS = """curate:
  steps:
    - {step: text_duplicates}
    - {step: exact_duplicates}
    - {step: near_duplicates}
    - {step: laion, min_text: 5, min_bytes: 0}
    - {step: align, short_side: 0, min_words: 0, max_words: 0}
    - {step: metaclip, entries: ENTRIES}
"""


def write_source(folder: Path, rows: int, pictures: int) -> None:
    """Parquet table, list of entries and file of steps."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = templated(rows, 12)
    for row in range(10, rows, 10):
        texts[row] = texts[row - 9] + "."
    words = sorted({word for text in texts[:20_000] for word in text.split()})
    folder.joinpath("entries.txt").write_text("\n".join(entries_of(texts, words, 100_000)), encoding="utf-8")
    folder.joinpath("steps.yaml").write_text(STEPS.replace("ENTRIES", str(folder / "entries.txt")), encoding="utf-8")
    uids = [f"{row:08d}" for row in range(rows)]
    files = pa.array(picture_files(pictures), pa.binary())
    pq.write_table(pa.table({"uid": uids[:pictures], "image": files, "text": texts[:pictures]}), folder / PICTURES)
    urls = [f"https://example.org/{uid}.jpg" for uid in uids[pictures:]]
    pq.write_table(pa.table({"uid": uids[pictures:], "url": urls, "text": texts[pictures:]}), folder / LINKS)


def picture_files(count: int) -> list[bytes]:
    """Pictures of 32 x 32 pixels as JPEG files."""
    from PIL import Image

    rng = np.random.default_rng(1)
    files: list[bytes] = []
    for row in range(count):
        if row % 10 == 9:
            files.append(files[row - 5])
            continue
        if row % 10 == 8:
            picture = Image.open(io.BytesIO(files[row - 5]))
        else:
            picture = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=80 if row % 10 == 8 else 90)
        files.append(file.getvalue())
    return files


def curated(folder: Path, engine: str, out: Path) -> None:
    """The curation, in a process of its own; prints the rows before and after."""
    from diptych.curate.engine import run
    from diptych.curate.engine.chain import read_chain
    from diptych.curate.engine.pool import curate
    from diptych.data.join import concatenate
    from diptych.data.read import read
    from diptych.data.read.links import read_links

    run.start("ray" if engine == "ray" else "local")
    pool = concatenate([read(folder / PICTURES), read_links(folder / LINKS)])
    chain = read_chain(folder / "steps.yaml")
    done = curate(pool, chain.operators() if chain else [], out)
    print(json.dumps({"before": len(pool), "after": len(done.kept)}))


def run(folder: Path, name: str, kill_at: Sequence[float] = ()) -> dict[str, Any]:
    """One curation to its end, after being killed so many seconds after each of its first starts."""
    out = folder / name.replace(" ", "-")
    words = [__file__, "--child", name, "--folder", str(folder)]
    cores = {min(os.sched_getaffinity(0))} if name == "one core" else os.sched_getaffinity(0)
    row: dict[str, Any] = {"run": name, "killed_after": [], "seconds": 0.0, "cpu_seconds": 0.0, "peak_gib": 0.0}
    for limit in (*kill_at, float("inf")):
        start = time.perf_counter()
        with tempfile.TemporaryFile() as said:
            child = subprocess.Popen(
                [sys.executable, *words], stdout=said, stderr=said, preexec_fn=lambda: os.sched_setaffinity(0, cores)
            )
            ended, status, usage = 0, 0, None
            while not ended:
                if time.perf_counter() - start > limit:
                    child.kill()
                    limit = float("inf")
                    row["killed_after"].append(round(time.perf_counter() - start, 1))
                ended, status, usage = os.wait4(child.pid, os.WNOHANG)
                time.sleep(0.05)
            child.returncode = os.waitstatus_to_exitcode(status)
            row["seconds"] = round(row["seconds"] + time.perf_counter() - start, 1)
            row["cpu_seconds"] = round(row["cpu_seconds"] + usage.ru_utime + usage.ru_stime, 1)
            row["peak_gib"] = round(max(row["peak_gib"], usage.ru_maxrss / 2**20), 2)
            if child.returncode == 0:
                said.seek(0)
                done = json.loads(said.read().splitlines()[-1])
                return {**row, **done, "files": file_hashes(out)}
            if child.returncode != -9:
                said.seek(0)
                raise SystemExit(f"{name} ended with {child.returncode}: {said.read()[-1500:].decode()}")
    raise AssertionError


def file_hashes(out: Path) -> dict[str, str]:
    """Hash of every file below a folder by its path."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name not in TIMES)
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="a new folder for source and results, which stays; by default one that goes")
    args = parser.parse_args()
    if args.child:
        curated(args.folder, args.child, args.folder / args.child.replace(" ", "-"))
        return
    with tempfile.TemporaryDirectory(prefix="killed-") as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        write_source(folder, args.rows, args.pictures)
        rows = [run(folder, "undisturbed")]
        whole = rows[0].pop("files")
        print(rows[0], f"{len(whole)} files", flush=True)
        draw = random.Random(args.seed)
        for name in args.runs:
            moments = sorted(draw.uniform(0.05, 0.9) * rows[0]["seconds"] for _ in range(KILLS))
            row = run(folder, name, [after - before for before, after in pairwise([0.0, *moments])])
            files = row.pop("files")
            rows.append(row | {"same_files": files == whole})
            print(rows[-1], flush=True)
            if files != whole:
                print("differ:", sorted(path for path in files.keys() | whole.keys() if files.get(path) != whole.get(path)))
    if args.rows >= 10_000 and args.rows >= last("killed_curation").get("rows", 0):
        cases = [
            Figure(f"{row['run']}: six steps over {args.rows:,} rows, processor time", "s", row["cpu_seconds"]) for row in rows
        ]
        found = {"rows": args.rows, "pictures": args.pictures, "files": len(whole), "runs": rows}
        keep("killed_curation", found | facts(), cases)


if __name__ == "__main__":
    main()
