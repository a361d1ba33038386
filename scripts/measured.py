"""The measured numbers of README.md, docs/detecting.md, docs/curating.md and docs/fine-tuning.md, from docs/measured/*.json,
benchmarks/results/*.json and the ledger, and nowhere else.

    python scripts/measured.py                        write the marked blocks of the pages anew
    python scripts/measured.py keep NAME RUN          take a detector's kept results into relations.json under NAME
    python scripts/measured.py keep-demo RUNS         take the runs of `diptych demo` (runs/demo) into demo.json

A block stands between <!-- NAME:begin --> and <!-- NAME:end -->. A test refuses a page whose blocks are not what the stored results say.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

from diptych.api import evaluate_kept
from diptych.core.result import Metric, Result
from diptych.core.run_folder import RunFolder
from diptych.report.pages.side_by_side import over_seeds

ROOT = Path(__file__).resolve().parents[1]
STORE, LEDGER, BENCHMARKS = Path("docs/measured"), Path("docs/claims"), Path("benchmarks/results")
README, GUIDE, TUNING, CURATING = (
    Path(page) for page in ("README.md", "docs/detecting.md", "docs/fine-tuning.md", "docs/curating.md")
)
PRICES = (0.1, 0.3)
"""Of a million tokens read and written, for what an endpoint would ask: those of the example on the page."""
LOOKS = {
    "flat": "`look=flat`, drawn shapes",
    "cutouts": "`look=cutouts`, emoji pasted",
    "stamps": "`look=cutouts&cutouts=data/stamps`, photographs and drawings of `diptych data fetch stamps`",
}
COLUMNS = ("r@5", "r@20", "ng_r@20")
RECIPES = {"clip": "`clip` from scratch", "locked": "`locked`"}
PARTS = ("unseen style", "unseen concept", "unseen both")

Stored = dict[str, Any]


# ---------------------------------------------------------------- pages


def pages(root: Path) -> dict[Path, str]:
    """The pages with their blocks as the stored results have them."""
    relations, demo = stored(root, "relations"), stored(root, "demo")
    guide = (root / GUIDE).read_text(encoding="utf-8")
    for name, lines in (
        ("links", links_lines(relations["links"])),
        ("scenes", scenes_table(relations)),
        ("fusion", fusion_lines(verdicts(root))),
    ):
        guide = with_block(guide, name, lines)
    curating = (root / CURATING).read_text(encoding="utf-8")
    for name, lines in (
        ("writers", writers_table(root)),
        ("tagging", tagging_table(root)),
        ("templates", template_table(root)),
        ("operators", operator_table(root)),
    ):
        curating = with_block(curating, name, lines)
    return {
        README: with_block((root / README).read_text(encoding="utf-8"), "demo", demo_table(demo)),
        GUIDE: guide,
        CURATING: curating,
        TUNING: with_block((root / TUNING).read_text(encoding="utf-8"), "tuning", tuning_table(root)),
    }


def with_block(page: str, name: str, lines: list[str]) -> str:
    """The page with other lines between the marks of a block; a page without the marks is a mistake."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"a page has no block '{name}' ({begin.strip()} ... {end})")
    return head + begin + "\n".join(lines) + "\n" + end + tail


def demo_table(demo: Stored) -> list[str]:
    seeds = ", ".join(map(str, range(demo["seeds"])))
    rows = [
        f"| {part} | "
        + " | ".join(span(demo["results"][part][recipe]) for recipe in RECIPES)
        + f" | {demo['results'][part]['chance']:.4f} |"
        for part in PARTS
    ]
    return [
        "What it printed: recall at 1 from the name of a picture to the picture, "
        f"mean of seeds {seeds} with the 95 % t interval over seeds. Learning rate,",
        "steps and text length of the small presets were chosen on seed 0 of the same data, so these are no verdict.",
        "",
        f"| held out | {' | '.join(RECIPES.values())} | chance |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Commit {demo['commit']}, {demo['date']}, {demo['machine']}: {demo['minutes']:.1f} minutes after set-up.",
    ]


def tuning_table(root: Path) -> list[str]:
    """Ways to tune, from `scripts/tuning_measured.py`; before its full run there is nothing to show."""
    if not (root / STORE / "tuning.json").is_file():
        return ["Not measured yet: `python scripts/tuning_measured.py runs/tuning --seeds 5` writes this table."]
    run = stored(root, "tuning")
    heads = ["way", "target", "change", "source", "change", "processor minutes", "peak memory, MiB"]
    lines = [
        f"Recall at 1 from a name to its picture, mean of {run['seeds']} seeds with the 95 % t interval over seeds;",
        f"{run['steps']} steps each.",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for name, words in run["words"].items():
        way = run["ways"][name]
        cells = [words]
        for part in ("target", "source"):
            cells += [span(way[part]), span(way[f"{part}_change"]) if f"{part}_change" in way else ""]
        cells += [f"{way['minutes']:.1f}", f"{way['memory_mib']:,.0f}"] if "minutes" in way else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", f"`{run['command']}`, commit {run['commit']}, {run['date']}, {run['machine']}."]


def writers_table(root: Path) -> list[str]:
    """What writes captions, how fast, and what a million captions would take, from `benchmarks/rewriting.py`."""
    records = (json.loads(path.read_text(encoding="utf-8")) for path in sorted((root / BENCHMARKS).glob("*/rewriting.json")))
    run = max(records, key=lambda record: record["date"])  # of any class of machine, whose name stands below
    machine = run["environment"]
    heads = [
        "captions",
        "used",
        "per second",
        "processor seconds per million",
        "tokens read, written per caption",
        "price per million",
    ]
    lines = [f"| writer | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for name, row in run["results"].items():
        asked, tokens = row["asked"], (row["tokens_read"], row["tokens_written"])
        priced = sum(price * count / asked for price, count in zip(PRICES, tokens, strict=True))
        cells = [
            f"{asked:,}",
            f"{row['used']:,}",
            f"{asked / row['step_seconds']:,.0f}" if asked / row["step_seconds"] >= 10 else f"{asked / row['step_seconds']:.1f}",
            f"{1e6 * row['processor_seconds'] / asked:,.0f}",
            ", ".join(f"{count / asked:.1f}" for count in tokens),
            f"{priced:,.2f}" if "://" in row["writer"] else "",
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    lines += ["", *(line for name, row in run["results"].items() if (line := _killed(name, row)))]
    by_commit: dict[str, list[str]] = {}
    for name, row in run["results"].items():
        by_commit.setdefault(row["commit"], []).append(f"`{name}`")
    commits = "Commit " + "; ".join(f"{commit} ({', '.join(names)})" for commit, names in by_commit.items())
    wasted = [f"`{name}`: {_kinds(row['not_used'])}" for name, row in run["results"].items() if row["not_used"]]
    lines += [f"Answers that were not used: {'; '.join(wasted)}."] if wasted else []
    return [
        *lines,
        f"{commits}, {run['date']}, {machine['cores']} cores ({run['machine']}), {machine['memory_gib']} GiB.",
    ]


def latest(root: Path, name: str) -> Stored:
    """Last record of a benchmark, of any class of machine."""
    records = (json.loads(path.read_text(encoding="utf-8")) for path in sorted((root / BENCHMARKS).glob(f"*/{name}.json")))
    return max(records, key=lambda record: record["date"])


def template_table(root: Path) -> list[str]:
    """Near-duplicate texts of templates beside the loop over all kept rows, from `benchmarks/curation.py --only templates`."""
    rows = latest(root, "curation")["templates"]["sizes"]
    lines = [
        "| rows | of a template | pairs compared | processor seconds | by the loop: pairs | seconds |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        share = "all" if row["one_in"] == 1 else f"one in {row['one_in']}"
        seconds = row["keys_cpu_seconds"] + row["cpu_seconds"]
        loop = ["", ""]
        if "loop_cpu_seconds" in row:
            loop = [f"{row['loop_compared']:,}", f"{row['keys_cpu_seconds'] + row['loop_cpu_seconds']:.2f}"]
        lines.append(f"| {row['rows']:,} | {share} | {row['compared']:,} | {seconds:.2f} | {loop[0]} | {loop[1]} |")
    same = all(row.get("same_as_the_loop", True) for row in rows)
    return [*lines, "", f"Where both ran, they dropped {'the same rows' if same else 'different rows'}."]


def operator_table(root: Path) -> list[str]:
    """Cost of curation steps at three sizes and continued to 100 million rows, from `benchmarks/operator_costs.py`."""
    run = latest(root, "operator_costs")
    sizes = [row["items"] for row in next(iter(run["steps"].values()))]
    heads = [*(f"{size:,} rows, s" for size in sizes), "growth", "100 M rows, core hours"]
    lines = [f"| step | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for name, rows in run["steps"].items():
        estimate = run["estimates"][name]
        cells = [f"{row['cpu_seconds']:.2f}" for row in rows]
        cells += [f"N^{estimate['exponent']:.2f}", f"{estimate['core_hours']:,.1f}"]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    where = f"{run['environment']['commit']}, {run['date']}, {run['processor']}, {run['environment']['cores']} cores"
    return [*lines, "", f"Commit {where} at a load of {run['load_average']:.0f}."]


def tagging_table(root: Path) -> list[str]:
    """What threshold and wrong captions do to tagged relations, and what tagging costs, from `benchmarks/tagging_sweep.py`."""
    records = (json.loads(path.read_text(encoding="utf-8")) for path in sorted((root / BENCHMARKS).glob("*/tagging_sweep.json")))
    run = max(records, key=lambda record: record["date"])
    rows, seeds = run["rows"], len({row["seed"] for row in run["rows"]})

    def mean(key: str, some: list[Stored]) -> float:
        return sum(row[key] for row in some) / len(some)

    noises = sorted({row["noise"] for row in rows})
    heads = [f"{noise:.0%} wrong" for noise in noises]
    lines = [f"| threshold | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for threshold in sorted({row["threshold"] for row in rows}):
        cells = []
        for noise in noises:
            some = [row for row in rows if (row["threshold"], row["noise"]) == (threshold, noise)]
            cells.append(f"{mean('relations_right', some):.3f}, {mean('relations_found', some):.3f}, {mean('images', some):,.0f}")
        lines.append(f"| {threshold:g} | {' | '.join(cells)} |")
    pairs, images = mean("pairs_a_processor_second", rows), mean("images_a_processor_second", rows)
    return [
        *lines,
        "",
        f"Precision, recall, and how many images are left; means over {seeds} seeds of the tagger. It scored {pairs:,.0f} pairs and "
        f"{images:,.1f} images per processor second: a million such images would take {1e6 / images / 3600:,.1f} "
        f"processor hours ({run['processor']}, commit {run['environment']['commit']}).",
    ]


def _killed(name: str, row: Stored) -> str:
    if "same_files" not in row:
        return ""
    after = f"{row['killed_after_parts']} parts" if "killed_after_parts" in row else f"{row['killed_after_answers']} answers"
    return f"`{name}` killed (kill -9) after {after} and started again: {'the same' if row['same_files'] else 'OTHER'} files."


def _kinds(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())


def links_lines(run: Stored) -> list[str]:
    took = f"took {run['minutes']} on two cores" + (
        f" ({run['processor_minutes']:.1f} processor minutes)" if "processor_minutes" in run else ""
    )
    return [
        f"**Results of `tiny`.** `{run['command']}` {took}",
        f"at commit {run['commit']} and printed, for {run['items']} scenes it had never seen:",
        "",
        "```",
        *(f"  {part}: r@5 {span(metrics['r@5'])}" for part, metrics in run["results"].items()),
        "```",
    ]


def scenes_table(relations: Stored) -> list[str]:
    heads = ["R@5", "at most", "R@20", "at most", "R@20, any number of relations a pair", "at most"]
    lines = [f"| pictures | commit | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    for look, words in LOOKS.items():
        run = relations[look]
        cells = [cell for name in COLUMNS for cell in (span(run["results"]["test"][name]), f"{run['ceiling'][name]:.3f}")]
        lines.append(f"| {words} | {run['commit']} | {' | '.join(cells)} |")
    unseen = {look: relations[look]["results"]["test"].get("zr@5") for look in ("cutouts", "stamps")}
    said = [f"{span(value)} with {'emoji' if look == 'cutouts' else look}" for look, value in unseen.items() if value]
    return [*lines, "", f"Recall at 5 of triplets that training never put together: {', '.join(said)}."]


def fusion_lines(verdict: dict[str, Stored]) -> list[str]:
    many, few = (verdict[f"rlipv2/{name}"] for name in ("fusion_many", "fusion_nouns"))
    return [
        f"**Which fusion?** Measured on `world:links` over {len(many['seeds'])} seeds (`diptych claims table`), recall at 5 of `alif` less",
        f"that of `late` is {difference(many)} with 212 names in every list, most of them never right, and",
        f"{difference(few)} with few names and frozen text vectors (an earlier claim).",
    ]


def difference(verdict: Stored) -> str:
    low, high = verdict["interval"]
    return f"{verdict['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def span(value: list[float]) -> str:
    return str(Metric(*value))


# ---------------------------------------------------------------- stored results


def stored(root: Path, name: str) -> Stored:
    read: Stored = json.loads((root / STORE / f"{name}.json").read_text(encoding="utf-8"))
    return read


def verdicts(root: Path) -> dict[str, Stored]:
    """The last verdict on every claim, also one by earlier rules where no other has been taken since."""
    lines = [line for path in sorted((root / LEDGER).glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["claim"]: row for row in map(json.loads, lines) if "interval" in row}


def keep(root: Path, name: str, run: Path) -> None:
    """A run's kept results in place of what was stored under `name`; the command stays, which is what was run."""
    relations = stored(root, "relations")
    if name not in relations:
        raise SystemExit(f"'{name}' is none of {', '.join(relations)}")
    kept, state = evaluate_kept(run), RunFolder.open(run).state
    used = {"r@5", "r@20", "ng_r@20", "zr@5"}
    entry = {
        "command": relations[name]["command"],
        "commit": state["environment"]["commit"],
        **({"minutes": f"{state['minutes']:.1f} min"} if "minutes" in state else {}),
        "items": max(result.n_items for result in kept.values()),
        "results": {part: {n: numbers(m) for n, m in result.metrics.items() if n in used} for part, result in kept.items()},
        "ceiling": {n: value for n, value in ceiling(kept).items() if n in used},
    }
    write(root, "relations", relations | {name: entry})


def ceiling(kept: dict[str, Result]) -> dict[str, float]:
    reached: dict[str, float] = kept["test"].notes.get("ceiling", {}) if "test" in kept else {}
    return reached


def keep_demo(root: Path, runs: Path) -> None:
    """Mean and interval over the seeds of each recipe, from the folders that `diptych demo` left."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    chance: dict[str, float] = {}
    minutes, folders = 0.0, sorted(runs.glob("*/run.json"))
    for folder in folders:
        state = RunFolder.open(folder.parent).state
        minutes += state["minutes"]
        for part, result in evaluate_kept(folder.parent).items():
            values[part.replace("_", " ")][state["slug"]].append(result.metrics["t2i_r@1"].value)
            chance[part.replace("_", " ")] = result.metrics["t2i_r@1"].chance
    results = {
        part: {"chance": chance[part], **{slug: list(over_seeds(each)) for slug, each in by.items()}}
        for part, by in values.items()
    }
    machine = state["environment"]
    entry = {
        "command": "make demo",
        "commit": machine["commit"],
        "date": date.today().isoformat(),
        "machine": f"{machine['cores']} cores, {machine['memory_gib']:.0f} GiB",
        "minutes": minutes,
        "seeds": len(folders) // len(RECIPES),
        "metric": "t2i_r@1",
        "results": results,
    }
    write(root, "demo", entry)


def numbers(metric: Metric) -> list[float]:
    return [metric.value, metric.low, metric.high]


def write(root: Path, name: str, value: Stored) -> None:
    (root / STORE / f"{name}.json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(argv: list[str], root: Path = ROOT) -> None:
    if argv[:1] == ["keep"]:
        keep(root, argv[1], Path(argv[2]))
    elif argv[:1] == ["keep-demo"]:
        keep_demo(root, Path(argv[1]))
    for path, text in pages(root).items():
        (root / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
