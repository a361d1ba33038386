"""How many real captions get a wrong one of each kind, and what a person says of 200 of them: the block in docs/language.md.

    python scripts/wrong_captions.py measure STAMPS CLIPART   count over what `diptych data fetch` brings, and over emoji names
    python scripts/wrong_captions.py draw STAMPS CLIPART      print 200 for somebody to look at: source, kind, caption, wrong caption
    python scripts/wrong_captions.py                          write the block anew from what is kept

Counts are kept in docs/measured/wrong_captions.json, the 200 with their verdicts in docs/measured/wrong_captions.tsv: "false" says
something else of a picture that the caption fits, "true" may fit the same picture, "nonsense" fits no picture.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.randomness import keyed_rng
from diptych.data.read import read
from diptych.data.text.english.filling import NeighbourCounts
from diptych.data.text.english.structured import analogies, replaced_by_model, replaced_by_rule, word_lists
from diptych.data.text.english.swaps import SWAPS, swapped

ROOT = Path(__file__).resolve().parents[1]
COUNTS, LOOKED_AT, PAGE = (
    Path("docs") / name for name in ("measured/wrong_captions.json", "measured/wrong_captions.tsv", "language.md")
)
LOOK_AT, SEED, LONGEST = 200, 0, 20
VERDICTS = ("false", "true", "nonsense")
SOURCES = {"stamps": "stamps", "clipart": "clip art titles", "emoji": "emoji names"}

Maker = Callable[[str, np.random.Generator], str | None]


def makers(captions: list[str]) -> dict[str, Maker]:
    """Kind -> a wrong caption of that kind, or None."""
    lists, counts = word_lists(), NeighbourCounts(captions)

    def swap(kind: Any) -> Maker:
        return lambda caption, rng: swapped(caption, kind, rng)

    def rule(kind: str) -> Maker:
        return lambda caption, rng: next(iter(replaced_by_rule(caption, rng, lists={kind: lists[kind]})[1]), None)

    return {
        **{f"swapped {kind.replace('_', ' ')}": swap(kind) for kind in SWAPS},
        **{f"another {kind}": rule(kind) for kind in lists},
        "another word, by counts": lambda caption, rng: next(iter(replaced_by_model(caption, rng, counts)), None),
    }


def captions_of(stamps: str, clipart: str) -> dict[str, list[str]]:
    """Distinct English captions of two to LONGEST words, by source; those with letters of other alphabets are left out."""
    found = {}
    for name, data, origins in (("stamps", stamps, ()), ("clipart", clipart, ("alt", "caption")), ("emoji", "emoji", ("label",))):
        pool = read(data)
        texts = (text for row in range(len(pool)) for text in pool[row].positives("en") if not origins or text.origin in origins)
        found[name] = sorted({text.string for text in texts if 1 < len(text.string.split()) <= LONGEST and text.string.isascii()})
    return found


def measured(captions: dict[str, list[str]]) -> dict[str, Any]:
    """Captions, and how many of them got each kind, by source."""
    counts = {}
    for source, texts in captions.items():
        made = {
            kind: sum(make(text, keyed_rng(SEED, kind, text)) is not None for text in texts)
            for kind, make in makers(texts).items()
        }
        said = sum(bool(analogies(text)) for text in texts)
        counts[source] = {"captions": len(texts), "made": made, "analogies": said}
    return counts


def drawn(captions: dict[str, list[str]]) -> list[tuple[str, str, str, str]]:
    """LOOK_AT wrong captions: kinds and sources in turn, as far as there are any."""
    found: dict[tuple[str, str], list[tuple[str, str, str, str]]] = {}
    for source, texts in captions.items():
        shuffled = [texts[place] for place in keyed_rng(SEED, "looked at", source).permutation(len(texts))]
        for kind, make in makers(texts).items():
            pairs = ((text, make(text, keyed_rng(SEED, kind, text))) for text in shuffled)
            found[kind, source] = [(source, kind, text, wrong) for text, wrong in pairs if wrong is not None]
    rows: list[tuple[str, str, str, str]] = []
    turn = 0
    while len(rows) < LOOK_AT and any(found.values()):
        for key in found:
            if turn < len(found[key]) and len(rows) < LOOK_AT:
                rows.append(found[key][turn])
        turn += 1
    return rows


def block(root: Path) -> list[str]:
    """The lines of the page."""
    counts = json.loads((root / COUNTS).read_text("utf8"))
    looked = [line.split("\t") for line in (root / LOOKED_AT).read_text("utf8").splitlines()]
    head = " | ".join(f"{SOURCES[source]} ({each['captions']:,})" for source, each in counts.items())
    lines = [f"| of captions, % | {head} | looked at | false | true as well | nonsense |", "|---|" + "---:|" * (len(counts) + 4)]
    for kind in next(iter(counts.values()))["made"]:
        shares = " | ".join(f"{100 * each['made'][kind] / each['captions']:.1f}" for each in counts.values())
        said = Counter(verdict for _, other, _, _, verdict in looked if other == kind)
        lines.append(f"| {kind} | {shares} | {said.total()} | " + " | ".join(str(said[verdict]) for verdict in VERDICTS) + " |")
    said = Counter(verdict for *_, verdict in looked)
    shares = " | ".join(f"{100 * each['analogies'] / each['captions']:.1f}" for each in counts.values())
    lines.append(f"| a second right caption, by rules | {shares} | | | | |")
    lines.append(
        f"| **all looked at** |{' |' * len(counts)} {said.total()} | " + " | ".join(str(said[v]) for v in VERDICTS) + " |"
    )
    return lines


def page(root: Path) -> str:
    """The page with its block."""
    begin, end = "<!-- wrong-captions:begin -->\n", "<!-- wrong-captions:end -->"
    head, _, rest = (root / PAGE).read_text("utf8").partition(begin)
    return head + begin + "\n".join(block(root)) + "\n" + end + rest.partition(end)[2]


def main(words: list[str]) -> None:
    if words[:1] == ["measure"]:
        (ROOT / COUNTS).write_text(json.dumps(measured(captions_of(*words[1:])), indent=1) + "\n", "utf8")
    elif words[:1] == ["draw"]:
        print("\n".join("\t".join(row) for row in drawn(captions_of(*words[1:]))))
        return
    (ROOT / PAGE).write_text(page(ROOT), "utf8")


if __name__ == "__main__":
    main(sys.argv[1:])
