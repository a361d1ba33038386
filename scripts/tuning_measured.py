"""Ways to tune, measured on real pictures: what is won on the target, what is forgotten, processor minutes and memory.

    python scripts/tuning_measured.py runs/tuning --seeds 5       the full run: docs/measured/tuning.json, then scripts/measured.py
    python scripts/tuning_measured.py runs/tuning --seeds 1 --steps 20 --tune-steps 10 --dry       tries it; stores nothing

The "published" model is `clip` (preset tiny), trained on three styles of the emoji data. The target is the fourth style: its drawings
of the concepts that training saw are tuned on, its drawings of 300 others are asked about (`target`); the source is the three styles'
drawings of those 300 (`source`). Every way has the same steps and samples. Every run is a process of its own and of one thread, whose
processor time (its start included) and peak memory are read; what is finished in the folder is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from diptych import api
from diptych.core.environment import environment
from diptych.data.shards.build import build
from diptych.report.pages.side_by_side import over_seeds

ROOT = Path(__file__).resolve().parents[1]
STORE = ROOT / "docs/measured/tuning.json"
TASK = "retrieval"
METRIC = "t2i_r@1"


@dataclass(frozen=True)
class Way:
    """A way to tune, in words and in options of `diptych train`. The rates are usual ones and were not chosen by a sweep."""

    words: str
    options: tuple[str, ...]


WAYS = {
    "full": Way("all weights", ("--lr", "2e-4")),
    "lora": Way("LoRA of rank 16", ("--lora", "16", "--lr", "2e-3")),
    "head": Way("heads first, for a quarter of the steps", ("--lr", "2e-4", "--head-first", "QUARTER")),
    "distill": Way("all weights, close to the start", ("--lr", "2e-4", "--distill", "start")),
}
SHARE = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="of the published model; 0: those of its preset")
    parser.add_argument("--tune-steps", type=int, default=60)
    parser.add_argument("--dry", action="store_true", help="store nothing")
    args = parser.parse_args()
    target = prepared(args.out / "target")
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        for name, row in measured(args, seed, target).items():
            rows.setdefault(name, []).append(row)
            print(seed, name, {key: round(value, 4) for key, value in row.items()}, flush=True)
    stored = summary(rows, args)
    print(json.dumps(stored, indent=1))
    if not args.dry:
        STORE.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def prepared(folder: Path) -> Path:
    """The fourth style as a data set: seen concepts to tune on, the others as its test split."""
    if not (folder / "diptych.json").is_file():
        pool = api.read("emoji").where("split", lambda name: name in ("unseen_style", "unseen_both"))
        split = ["train" if name == "unseen_style" else "test" for name in pool.column("split")]
        build(pool.with_columns({"split": split}).named("fluent"), folder)
    return folder


def measured(args: argparse.Namespace, seed: int, target: Path) -> dict[str, dict[str, float]]:
    """The scores of the published model and of every way, of one seed."""
    base = args.out / f"base-{seed}"
    steps = ("--steps", str(args.steps)) if args.steps else ()
    train(base, "--data", "emoji", "--seed", str(seed), *steps)
    found = {"published": scores(base, target)}
    for name, way in WAYS.items():
        run = args.out / f"{name}-{seed}"
        quarter = str(max(1, args.tune_steps // 4))
        options = [quarter if word == "QUARTER" else word for word in way.options]
        fixed = ("--seed", str(seed), "--steps", str(args.tune_steps), "--warmup", "0.1")
        seconds, memory = train(run, "--data", str(target), "--init", str(base), *fixed, *options)
        found[name] = scores(run, target) | {"minutes": seconds / 60, "memory_mib": memory}
    full = args.out / f"full-{seed}"
    mixed = api.blend(full / "start", full, share=SHARE)
    found["blend"] = scores(mixed, target) | {key: found["full"][key] for key in ("minutes", "memory_mib")}
    return found


def train(run: Path, *options: str) -> tuple[float, float]:
    """Processor seconds and peak memory in MiB of `diptych train` in a process of its own; kept beside the run."""
    note = run / "cost.json"
    if not note.is_file():
        if run.exists():
            raise SystemExit(f"{run} is there and not finished: remove it, or finish it by `diptych train --resume {run}`")
        words = [
            sys.executable,
            "-m",
            "diptych.cli",
            "train",
            "clip",
            "--out",
            str(run),
            "--no-evaluation",
            "--no-progress",
            *options,
        ]
        process = os.posix_spawn(words[0], words, os.environ | {"OMP_NUM_THREADS": "1"})
        _, status, usage = os.wait4(process, 0)
        if status:
            raise SystemExit(f"failed: {' '.join(words)}")
        cost = {"seconds": usage.ru_utime + usage.ru_stime, "memory_mib": usage.ru_maxrss / 1024}
        note.write_text(json.dumps(cost), encoding="utf-8")
    cost = json.loads(note.read_text(encoding="utf-8"))
    return cost["seconds"], cost["memory_mib"]


def scores(model: Any, target: Path) -> dict[str, float]:
    opened = api.load(model) if isinstance(model, Path) else model
    parts = {"target": (str(target), "test"), "source": ("emoji", "unseen_concept")}
    return {
        name: api.evaluate(opened, TASK, api.read(data), split=split, origins=("label",), draws=20).metrics[METRIC].value
        for name, (data, split) in parts.items()
    }


def summary(rows: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> dict[str, Any]:
    """Means and t intervals over seeds; gains are paired with the published model of the same seed."""
    machine = environment()
    words = {"published": "the published model", **{name: way.words for name, way in WAYS.items()}}
    words["blend"] = f"all weights, then {SHARE:g} of start and end"
    ways = {}
    for name, each in rows.items():
        ways[name] = {part: list(over_seeds([row[part] for row in each])) for part in ("target", "source")}
        if name != "published":
            start = rows["published"]
            for part in ("target", "source"):
                differences = [row[part] - first[part] for row, first in zip(each, start, strict=True)]
                ways[name][f"{part}_change"] = list(over_seeds(differences))
            ways[name] |= {key: sum(row[key] for row in each) / len(each) for key in ("minutes", "memory_mib")}
    return {
        "command": f"python scripts/tuning_measured.py {args.out} --seeds {args.seeds}",
        "commit": machine["commit"],
        "date": date.today().isoformat(),
        "machine": f"one thread of {machine['cores']} cores, {machine['memory_gib']:.0f} GiB",
        "seeds": args.seeds,
        "steps": args.tune_steps,
        "metric": METRIC,
        "words": {
            "published": "the published model",
            **{name: way.words for name, way in WAYS.items()},
            "blend": f"all weights, then {SHARE:g} of start and end",
        },
        "ways": ways,
    }


if __name__ == "__main__":
    main()
