"""The page "How fast" and its pictures, from benchmarks/results/CLASS/NAME.json and nowhere else.

    python scripts/how_fast.py             write docs/how-fast.md and docs/images/fast/NAME.svg anew (`make bench` does it at its end)
    python scripts/how_fast.py --check     only say which are out of date

A test refuses a page or a picture that is not what the stored results say.
"""

from __future__ import annotations

import ast
import json
import math
import sys
from pathlib import Path
from typing import Any

import growth_curves

from diptych.core.machine import MACHINES
from diptych.report.escape import escape

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE, PICTURES = Path("benchmarks/results"), Path("docs/how-fast.md"), Path("docs/images/fast")
CLASSES = {"plain": "AVX2 alone", "avx512": "AVX-512", "amx": "AMX (bf16 tiles)", "cuda": "a CUDA device"}
STYLE = """svg{--ink:#1d2330;--soft:#5b6475;--line:#d5d9e2;--plain:#d9742b;--avx512:#2f6fde;--amx:#23875a;--cuda:#8a49c9;background:#fff;
font:12px system-ui,sans-serif;fill:var(--ink)}
@media(prefers-color-scheme:dark){svg{--ink:#e8eaf0;--soft:#a3abba;--line:#3a4150;background:#1b1f27}}"""
NAMES, BAR, ROW, TOP, FOOT, RIGHT = 430, 420, 20, 34, 26, 90

Record = dict[str, Any]
Row = dict[str, Any]


def records(root: Path) -> dict[str, dict[str, Record]]:
    """benchmark -> machine class -> record, of those that have figures or curves; both in a fixed order."""
    found: dict[str, dict[str, Record]] = {}
    for machine in MACHINES:
        for path in sorted((root / RESULTS / machine).glob("*.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["figures"] or record.get("curves"):
                found.setdefault(path.stem, {})[machine] = record
    return dict(sorted(found.items()))


def pages(root: Path) -> dict[Path, str]:
    """The page and its pictures, as the stored results have them."""
    found = records(root)
    written = {PICTURES / f"{name}.svg": drawn(by_class) for name, by_class in found.items()}
    lines = [*HEAD, *classes(found)]
    for name, by_class in found.items():
        lines += ["", *section(root, name, by_class)]
    return {PAGE: "\n".join([*lines, "", NEXT]) + "\n", **written}


NEXT = "Next: [training](training.md), [searching](searching.md), [serving](serving.md)."
HEAD = [
    "# How fast",
    "",
    "Speed and memory of Diptych beside other libraries. `python scripts/how_fast.py` generates this page from `benchmarks/results/`;",
    "do not edit it by hand. `make bench` repeats every measurement on your machine, stores the results under the class of your processor,",
    "and rewrites this page.",
    "",
    "Each row names the class of the machine. *As started* is the other library with its default settings; *at its best* is the other",
    "library with the best settings that we know on that machine. Both were measured in turn with Diptych, in one run. A ratio above 1",
    "means that Diptych is faster or needs less memory. The machines were shared with other work, so the ratios are more reliable than",
    "the times. No machine was available for a class without rows.",
    "",
]


def classes(found: dict[str, dict[str, Record]]) -> list[str]:
    lines = ["| class | processors with | benchmarks |", "|---|---|---|"]
    for machine in MACHINES:
        names = [name.replace("_", " ") for name, by_class in found.items() if machine in by_class]
        lines.append(f"| `{machine}` | {CLASSES[machine]} | {', '.join(names) or 'none yet'} |")
    return lines


def section(root: Path, name: str, by_class: dict[str, Record]) -> list[str]:
    title = name.replace("_", " ").capitalize()
    lines = [f"## {title}", "", what(root, name), "", f"`python benchmarks/{name}.py`", ""]
    curves = {machine: record for machine, record in by_class.items() if record.get("curves")}
    lines += [
        f"![{title}: {'cost over the number of items' if curves else 'Diptych beside other libraries'}](images/fast/{name}.svg)"
    ]
    for machine, record in curves.items():
        lines += ["", *growth_curves.table(machine, record)]
    figures = [f"| `{machine}` | {cells(row)} |" for machine, record in by_class.items() for row in record["figures"]]
    if figures:
        head = [
            "| class | case | Diptych | other, as started | ratio | other, at its best | ratio |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += ["", *head, *figures]
    lines += ["", *(f"- `{machine}`: {words}" for machine, record in by_class.items() for words in measured(record))]
    for machine, record in by_class.items():
        if said := record.get("estimate"):
            lines += ["", f"From the curves of `{machine}`:", "", *(f"- {sentence}" for sentence in said)]
    return lines


def what(root: Path, name: str) -> str:
    """The first paragraph of the benchmark's docstring."""
    source = root / "benchmarks" / f"{name}.py"
    told = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return " ".join(told.split("\n\n")[0].split())


def cells(row: Row) -> str:
    """A row of the table: all peers, and how we stand against the hardest of each sort."""
    found = [row["case"], f"{short(row['ours'])} {row['unit']}"]
    for best in (False, True):
        peers = [peer for peer in row["peers"] if peer["best"] is best]
        told = ", ".join(f"{short(peer['value'])} ({peer['name']})" for peer in peers)
        found += [told, f"{min(times(row, peer) for peer in peers):.2f}"] if peers else ["", ""]
    return " | ".join(found)


def measured(record: Record) -> list[str]:
    """What a record was measured on; where its parts were measured by themselves, each lot of them."""
    if "measured" not in record:
        return [measured_on(record)]
    lots: dict[str, list[str]] = {}
    for part, found in record["measured"].items():
        lots.setdefault(measured_on(found), []).append(part)
    return [f"{', '.join(parts)}: {words}" for words, parts in lots.items()]


def measured_on(record: Record) -> str:
    machine = record["environment"]
    kept_from = ", ".join(f"{name}={value}" for name, value in record["limited_by"].items())
    parts = [record["date"], f"commit {machine['commit']}", record["processor"], f"{machine['cores']} cores"]
    parts += [", ".join(machine["processor_flags"]), f"limited to this class by {kept_from}" if kept_from else ""]
    if record["load_average"] is not None:
        parts.append(f"load average {record['load_average']:g}")
    return "; ".join(part for part in parts if part)


def times(row: Row, peer: Row) -> float:
    """How many times as good ours is as the peer."""
    ratio = peer["value"] / row["ours"] if row["less"] else row["ours"] / peer["value"]
    return float(ratio)


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# ---------------------------------------------------------------- pictures


def drawn(by_class: dict[str, Record]) -> str:
    curves = any(record.get("curves") for record in by_class.values())
    return growth_curves.picture(by_class, STYLE) if curves else picture(by_class)


def picture(by_class: dict[str, Record]) -> str:
    """One bar a figure and class: times the peer at its best (as started, where no best is known); values, where nothing has a peer."""
    rows = [(machine, row) for machine, record in by_class.items() for row in record["figures"]]
    against = any(row["peers"] for _, row in rows)
    bars = [
        (machine, row["case"], length(row) if against else row["ours"], row)
        for machine, row in rows
        if row["peers"] or not against
    ]
    low, high = bounds([value for _, _, value, _ in bars], around_one=against)
    zero = across(1.0, low, high) if against else 0.0
    height, width = TOP + ROW * len(bars) + FOOT, NAMES + BAR + RIGHT
    parts = [legend(list(by_class), "times the peer (log scale)" if against else f"{bars[0][3]['unit']} (log scale)")]
    for tick in ticks(low, high):
        x = NAMES + across(tick, low, high)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - FOOT}" stroke="var(--line)"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 9}" text-anchor="middle" fill="var(--soft)">{tick:g}</text>')
    for number, (machine, case, value, row) in enumerate(bars):
        y, end = TOP + ROW * number, across(value, low, high)
        unit = "" if against else f" {row['unit']}"
        parts.append(f'<text x="{NAMES - 8}" y="{y + 14}" text-anchor="end">{escape(clipped(case, row["unit"]))}</text>')
        parts.append(
            f'<rect x="{NAMES + min(zero, end):.1f}" y="{y + 4}" width="{max(1.0, abs(end - zero)):.1f}" height="{ROW - 7}" '
            f'fill="var(--{machine})"/>'
        )
        parts.append(f'<text x="{NAMES + max(zero, end) + 5:.1f}" y="{y + 14}">{short(value)}{escape(unit)}</text>')
    if against:
        x = NAMES + zero
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - FOOT}" stroke="var(--ink)"/>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"><style>{STYLE}</style>'
    return f"{head}{''.join(parts)}</svg>\n"


def length(row: Row) -> float:
    peers = [peer for peer in row["peers"] if peer["best"]] or row["peers"]
    return min(times(row, peer) for peer in peers)


def clipped(case: str, unit: str) -> str:
    text = f"{case}, {unit}"
    return text if len(text) <= 68 else f"{text[:66]}…"


def legend(shown: list[str], axis: str) -> str:
    parts = [f'<text x="{NAMES}" y="20" fill="var(--soft)">{escape(axis)}</text>']
    for number, machine in enumerate(shown):
        x = 10 + 95 * number
        parts.append(
            f'<rect x="{x}" y="10" width="12" height="12" fill="var(--{machine})"/><text x="{x + 18}" y="20">{machine}</text>'
        )
    return "".join(parts)


def bounds(values: list[float], *, around_one: bool) -> tuple[float, float]:
    """The decades' halves that hold all values, 1 among them for ratios."""
    inside = [value for value in values if value > 0] + ([0.9, 1.1] if around_one else [])
    low, high = min(inside), max(inside)
    return low / 1.15 if around_one else low / 2, high * 1.15


def across(value: float, low: float, high: float) -> float:
    return BAR * math.log(value / low) / math.log(high / low)


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade; 1 alone where those are too many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1, 2, 5), (1,)):
        found = [step * 10.0**decade for decade in range(first, last + 1) for step in steps]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) <= 9:
            break
    return found


def main() -> None:
    stale = [
        path for path, text in pages(ROOT).items() if not (ROOT / path).is_file() or (ROOT / path).read_text("utf-8") != text
    ]
    if "--check" in sys.argv[1:]:
        if stale:
            raise SystemExit(f"out of date: {', '.join(map(str, stale))} (run python scripts/how_fast.py)")
        return
    for path, text in pages(ROOT).items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
    print(f"written: {PAGE}, {len(stale)} files changed")


if __name__ == "__main__":
    main()
