"""Questions of programs over scene graphs: how many a second, and how memory grows with the rows.

    python benchmarks/question_programs.py [--sizes 100 300] [--per-image 8]

`provision` runs over rendered scenes of up to five things with depth, all programs, in a process of its own for each size; scenes are drawn
beforehand and kept, and their memory is taken off. What a million rows need is computed from the growth between the sizes, not measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

MILLION = 1_000_000


def one_size(scenes: int, per_image: int) -> dict:
    """Run in a process of its own."""
    from diptych.curate.operators.provision import DIALOGUES, ProVision
    from diptych.worlds.scenes.world import scenes as drawn

    data = drawn(scenes, seed=11, max_objects=5, depth=True, lengths=("short",), paraphrases=0, negatives=False).remembering()
    for row in range(len(data)):
        data[row]
    ProVision(programs=("exists_object",), shown=0)(data.select(range(4)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    done = ProVision(per_image=per_image, several=50, shown=0)(data)
    seconds = time.process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    with open(done.files[DIALOGUES], encoding="utf-8") as file:
        rows = sum(1 for _ in file) - 2
    done.files[DIALOGUES].unlink()
    return {"scenes": scenes, "rows": rows, "cpu_seconds": round(seconds, 2), "grown_kib": grown}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=2, default=[100, 300])
    parser.add_argument("--per-image", type=int, default=8)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one_size(args.one, args.per_image)))
        return
    found = []
    for size in args.sizes:
        command = [sys.executable, __file__, "--one", str(size), "--per-image", str(args.per_image)]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        one = found[-1]
        rate = one["rows"] / one["cpu_seconds"]
        print(
            f"{size:,} scenes: {one['rows']:,} rows, {rate:,.0f} a second of processor, {one['grown_kib'] / 1024:,.0f} MiB more at the peak"
        )
    small, large = found
    each = (large["grown_kib"] - small["grown_kib"]) / (large["rows"] - small["rows"])
    base = large["grown_kib"] - each * large["rows"]
    print(
        f"{each * 1024:,.0f} bytes a row; computed for {MILLION:,} rows: {(base + each * MILLION) / 1024**2:.2f} GiB beside the data"
    )


if __name__ == "__main__":
    main()
