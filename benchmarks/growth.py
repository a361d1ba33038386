"""Cost by number of items for curation and for building and searching every kind of index, and an estimate for 100 million pairs.

    python benchmarks/growth.py [--sizes 10000 30000 100000] [--only dense nested lexical late curate torchrun ray]
    python benchmarks/growth.py --sizes 10000 30000 100000 300000 1000000      # the whole curve

Every size runs in processes of its own. One makes the data and builds the index on disk; another opens that index and asks it, so that
its memory is what a search needs: what is mapped from disk counts once it is read. `curate` is match, balance and near-duplicates
(`curation.py`). `torchrun` trains the same clip with the same batch in one and in two processes, one thread each; `ray` matches texts on
a Ray of one and of two workers. Efficiency is the speed-up over the number of processes: on two busy cores it says little.

The estimate continues the curves to 100 million pairs: along the straight line of the three largest sizes and along their line in a
log-log plot, which are given as a range where they differ. It names the machine that it is for, and what breaks first there by the dearer
of the two. It is an extrapolation and not a measurement; a curve of fewer than three sizes, or over less than a decade, has none.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine_results import Figure, Peer, facts, keep, last

KINDS = ("dense", "nested", "lexical", "late")
SIZES = (10_000, 30_000, 100_000)
TARGET = 100_000_000
MATCHED = 200_000
"""Texts that Ray matches: enough for starting its tasks not to count."""
HARDWARE = {"cores": 64, "memory_gib": 512, "disk_tb": 8.0, "days": 7.0}
"""The machine of the estimate, with cores as fast as the one that was measured on, and the time that one may want to wait."""

Row = dict[str, Any]


# ---------------------------------------------------------------- one size of one kind, in processes of their own


def index_of(kind: str) -> Any:
    from diptych.index.kinds.dense import DenseIndex
    from diptych.index.kinds.late import LateIndex
    from diptych.index.kinds.lexical import LexicalIndex
    from diptych.index.kinds.nested import NestedIndex

    return {"dense": DenseIndex, "nested": NestedIndex, "lexical": LexicalIndex, "late": LateIndex}[kind]


def built(kind: str, count: int, folder: Path) -> Row:
    """Makes the data, builds the index in the folder and leaves the queries beside it."""
    import search

    from diptych.index.lexicon import BM25Encoder

    rng = np.random.default_rng(0)
    texts: Sequence[str] = ()
    options: dict[str, Any] = {}
    model: Any
    if kind in ("dense", "nested"):
        rows = search.vectors(
            "clustered" if kind == "dense" else "nested", count, rng, search.DIM if kind == "dense" else search.WIDE
        )
        np.save(folder / "queries.npy", rows[count:])
        model, options = search.Rows(rows[:count]), {} if kind == "dense" else {"prefix": 32}
    elif kind == "lexical":
        texts = search.sentences(count, rng)
        (folder / "queries.json").write_text(json.dumps(search.asked_words(texts, rng)), encoding="utf-8")
        model = BM25Encoder()
    else:
        items, queries = token_items(count, rng, search.unit)
        np.save(folder / "queries.npy", np.stack(queries))
        model = search.Tokens(items, [])
    data = search.pool(count, texts)
    before, start, cpu = memory_from_here(), time.perf_counter(), time.process_time()
    with index_of(kind).build(model, data, folder / "index", progress=False, **options) as index:
        size = index.info.bytes
    peak = status_gib("VmHWM")
    seconds = {"build_seconds": time.perf_counter() - start, "build_cpu_seconds": time.process_time() - cpu}
    return {**seconds, "build_gib": max(0.0, peak - before), "disk_gib": size / 2**30}


def token_items(
    count: int, rng: np.random.Generator, unit: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """4 to 8 tokens of 32 numbers an item around three of 2,000 themes; 100 queries of five tokens of an item, with noise."""
    themes, lengths = rng.standard_normal((2000, 32)), rng.integers(4, 9, count)
    own = themes[rng.integers(0, 2000, (count, 3))]
    picked = own[np.repeat(np.arange(count), lengths), rng.integers(0, 3, int(lengths.sum()))]
    items = np.split(unit(picked + 0.5 * rng.standard_normal(picked.shape)), np.cumsum(lengths)[:-1])
    chosen = rng.choice(count, 100, replace=False)
    return items, [unit(items[i][rng.integers(0, len(items[i]), 5)] + 0.1 * rng.standard_normal((5, 32))) for i in chosen]


def searched(kind: str, folder: Path) -> Row:
    """Opens the index and asks it 100 queries one at a time, after a first round that is not counted."""
    import search

    from diptych.index.lexicon import BM25Encoder

    file = folder / ("queries.json" if kind == "lexical" else "queries.npy")
    queries: Any = json.loads(file.read_text(encoding="utf-8")) if kind == "lexical" else np.load(file)
    model = BM25Encoder() if kind == "lexical" else search.Tokens([], queries) if kind == "late" else None
    before = memory_from_here()
    with index_of(kind).open(folder / "index", model) as index:
        ask: dict[str, Callable[[int], Any]] = {
            "dense": lambda n: index.search_vectors(queries[n][None], 10),
            "nested": lambda n: index.search_vectors(queries[n][None], 10),
            "lexical": lambda n: index.search_text(queries[n], 10),
            "late": lambda n: index.search_text(str(n), 10),
        }
        for number in range(len(queries)):
            ask[kind](number)
        start, cpu = time.perf_counter(), time.process_time()
        for number in range(len(queries)):
            ask[kind](number)
        took, busy = time.perf_counter() - start, time.process_time() - cpu
    peak = status_gib("VmHWM")
    each = 1000 / len(queries)
    return {"search_ms": took * each, "search_cpu_ms": busy * each, "search_gib": max(0.0, peak - before)}


def memory_from_here() -> float:
    """GiB resident now; the largest amount is counted anew from here on."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return status_gib("VmRSS")


def status_gib(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 2**20


def child(*words: str, script: str = __file__) -> Row:
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-1500:]}")
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def curve(kind: str, sizes: Sequence[int]) -> list[Row]:
    rows = []
    for count in sizes:
        with tempfile.TemporaryDirectory(prefix="growth-") as folder:
            row = {
                "items": count,
                **child("--child", "build", kind, str(count), folder),
                **child("--child", "search", kind, "0", folder),
            }
        rows.append(row)
        print(
            f"{kind:8}{count:>10,}  " + "  ".join(f"{key} {value:.3g}" for key, value in row.items() if key != "items"),
            flush=True,
        )
    return rows


def curation(sizes: Sequence[int]) -> list[Row]:
    rows = []
    for count in sizes:
        found = child(
            "--rows", str(count), "--entries", str(min(500_000, 5 * count)), script=str(Path(__file__).with_name("curation.py"))
        )
        row = {
            "items": count,
            "build_seconds": found["seconds"],
            "build_cpu_seconds": found["cpu_seconds"],
            "build_gib": found["peak_gib"],
        }
        rows.append(row)
        print(f"curate  {count:>10,}  {found['cpu_seconds']} processor s, {found['peak_gib']} GiB", flush=True)
    return rows


# ---------------------------------------------------------------- more processes


def torchrun() -> Row:
    """Seconds of 40 steps of clip, one process and two; what starting takes is subtracted by a run of 10."""
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        for processes in (1, 2):
            for steps in (10, 50):
                words = [
                    "-m",
                    "torch.distributed.run",
                    "--standalone",
                    "--nproc-per-node",
                    str(processes),
                    "-m",
                    "diptych.cli",
                    "train",
                ]
                words += [
                    "clip",
                    "--data",
                    "world:scenes?n=512&val=8&test=8",
                    "--steps",
                    str(steps),
                    "--out",
                    f"{folder}/{processes}-{steps}",
                ]
                words += ["--no-evaluation", "--no-progress", "--shard", "ddp", "--device", "cpu"]
                start = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, *words],
                    capture_output=True,
                    text=True,
                    check=False,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
                if done.returncode:
                    raise SystemExit(f"torchrun ended with {done.returncode}: {done.stderr[-1500:]}")
                seconds[processes, steps] = time.perf_counter() - start
    one, two = (seconds[processes, 50] - seconds[processes, 10] for processes in (1, 2))
    return told("torchrun, 40 steps of clip", one, two)


def ray() -> Row:
    """Seconds of matching MATCHED texts against as many entries on a Ray of one worker and of two, after a first pass that starts them."""
    one, two = (child("--child", "ray", "match", str(workers), "-")["seconds"] for workers in (1, 2))
    return told(f"Ray, matching of {MATCHED:,} texts", one, two)


def matched(workers: int) -> Row:
    import curation

    from diptych.curate.engine import run
    from diptych.curate.engine.pool import curate
    from diptych.curate.operators.metaclip import MetaCLIP

    run.start("ray", cpus=workers)
    with tempfile.TemporaryDirectory() as folder:
        names, seconds = Path(folder, "entries.txt"), 0.0
        for count in (500, MATCHED):
            data, said, words = curation.pool_of(count)
            names.write_text("\n".join(curation.entries_of(said, words, count)), encoding="utf-8")
            start = time.perf_counter()
            curate(data, [MetaCLIP(entries=str(names))], Path(folder, f"out{count}"))
            seconds = time.perf_counter() - start
    return {"seconds": seconds}


def told(what: str, one: float, two: float) -> Row:
    row = {"what": what, "one_seconds": one, "two_seconds": two, "speed_up": one / two, "efficiency": one / two / 2}
    print(f"{what}: {one:.1f} s by one, {two:.1f} s by two, efficiency {row['efficiency']:.2f}", flush=True)
    return row


# ---------------------------------------------------------------- the estimate


def continued(rows: Sequence[Row], key: str, target: float = TARGET) -> tuple[float, float, float]:
    """(by the straight line, by the line in a log-log plot, its slope) at the target, both by least squares over the three largest
    sizes. A straight line keeps apart what every process takes, however small its data; the log-log line follows growth that is none.
    """
    found = sorted((row["items"], max(row[key], 1e-9)) for row in rows)[-3:]
    sizes, values = (np.array(column, float) for column in zip(*found, strict=True))
    slope, start = np.polyfit(np.log(sizes), np.log(values), 1)
    rate, fixed = np.polyfit(sizes, values, 1)
    return max(0.0, float(fixed + rate * target)), float(math.exp(start + slope * math.log(target))), float(slope)


def spans_enough(rows: Sequence[Row]) -> bool:
    sizes = [row["items"] for row in rows]
    return len(sizes) >= 3 and max(sizes) >= 10 * min(sizes)


def between(ends: Sequence[float], unit: str) -> str:
    low, high = (f"{end:,.0f}" if end >= 10 else f"{end:.2g}" for end in sorted(ends))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def estimate(curves: dict[str, list[Row]]) -> list[str]:
    """Sentences: what each part would ask for, and what breaks first on the named machine."""
    machine = f"{HARDWARE['cores']} cores, {HARDWARE['memory_gib']} GiB of memory, {HARDWARE['disk_tb']:g} TB of disk"
    sentences = [
        f"100 million pairs on one machine of {machine}, whose cores are as fast as this one's; extrapolated, not measured."
    ]
    needs: list[tuple[float, str]] = []
    for name, rows in curves.items():
        if not spans_enough(rows):
            continue
        *work, exponent = continued(rows, "build_cpu_seconds")
        memory = continued(rows, "build_gib")[:2]
        days = max(work) / HARDWARE["cores"] / 86_400
        parts = [f"{between([seconds / 3600 for seconds in work], 'core hours')} to build (growth as N^{exponent:.2f})"]
        parts.append(between(memory, "GiB while it is built"))
        asked = {"memory while it is built": max(memory) / HARDWARE["memory_gib"], "time": days / HARDWARE["days"]}
        if "disk_gib" in rows[-1]:
            disk, held, answer = (continued(rows, key)[:2] for key in ("disk_gib", "search_gib", "search_cpu_ms"))
            parts.append(f"{between(disk, 'GiB on disk')}, {between(held, 'GiB read by 100 queries')}")
            parts.append(between(answer, "processor ms a query"))
            asked |= {
                "disk": max(disk) * 2**30 / 1e12 / HARDWARE["disk_tb"],
                "memory of the search": max(held) / HARDWARE["memory_gib"],
            }
            asked["a query of more than a second"] = max(answer) / 1000
        needs += [(share, f"{name}: {what}") for what, share in asked.items()]
        sentences.append(f"{name}: {'; '.join(parts)}.")
    if not needs:
        return []
    share, what = max(needs)
    verdict = (
        f"What breaks first is {what}, at {share:.1f} times what there is."
        if share > 1
        else f"Nothing breaks; nearest to it is {what}, at {share:.2f} of what there is."
    )
    return [*sentences, verdict]


def figures(processes: dict[str, Row]) -> list[Figure]:
    return [
        Figure(f"{row['what']}, two processes", "s", row["two_seconds"], (Peer("one process", row["one_seconds"]),))
        for row in processes.values()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument(
        "--only", nargs="+", choices=(*KINDS, "curate", "torchrun", "ray"), default=[*KINDS, "curate", "torchrun", "ray"]
    )
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, kind, count, folder = options.child
        found = built(kind, int(count), Path(folder)) if what == "build" else None
        found = found or (matched(int(count)) if what == "ray" else searched(kind, Path(folder)))
        print(json.dumps(found))
        return
    before = last("growth")
    curves, processes, measured = (dict(before.get(part, {})) for part in ("curves", "processes", "measured"))
    for name in options.only:
        if name in ("torchrun", "ray"):
            processes[name] = (torchrun if name == "torchrun" else ray)()
        else:
            curves[name] = curation(options.sizes) if name == "curate" else curve(name, options.sizes)
        measured[name] = facts()
        said = estimate(curves)
        keep("growth", {"curves": curves, "processes": processes, "measured": measured, "estimate": said}, figures(processes))
    print("\n".join(said))


if __name__ == "__main__":
    main()
