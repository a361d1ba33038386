"""What a tagger's threshold and the noise of captions do to its relations, and to a detector that is pre-trained on them.

    python benchmarks/tagging_sweep.py --seeds 0,1,2             # the table and the figure, about five hours of one core
    python benchmarks/tagging_sweep.py --only tagger             # precision and recall alone: minutes
    python benchmarks/tagging_sweep.py --smoke                   # everything at its smallest, nothing written

The setting is that of the claim of `rlipv2`: a tagger learns from 300 scenes of `world:links` with true relations and tags 3,000 whose
captions name links, some by another predicate (the noise) and a tenth not at all; a detector is pre-trained on what was tagged above the
threshold, fine-tuned on the 300, and asked for triplets. Seeds are of tagger, scenes and detector together.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from curation import STYLE as TWO_COLOURS
from machine_results import keep

from diptych.claims.cell import Cell
from diptych.claims.cells.relations.changed_links import MISSING, captioned_in_haste
from diptych.claims.cells.relations.links import every_link
from diptych.claims.cells.relations.tagged_links import GRAMMAR, LINKER, named, rightness, scenes
from diptych.claims.systems.rlipv2 import BEFORE, TAGGED, TUNED
from diptych.claims.training import trained
from diptych.curate.tagging.relation_tags import RelationTags, tagged
from diptych.data.dataset import Pool
from diptych.models.io.open_address import open_address
from diptych.models.io.saved_model import open_model
from diptych.recipes.relations.rlipv2 import RLIPv2
from diptych.report.curves import HEIGHT, WIDTH, LineSeries, line_chart

THRESHOLDS, NOISES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7), (0.0, 0.2, 0.4)
MEASURES = (("relations_right", "precision"), ("relations_found", "recall"), ("r@5", "recall at 5 of the detector"))
STYLE = TWO_COLOURS.replace("--s1:#d9742b", "--s1:#d9742b;--s2:#2f9e62")
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "tagging_sweep.svg"


@dataclass(frozen=True)
class Sweep:
    """One seed. Everything that is trained lies in `folder` and is gone on with."""

    seed: int
    folder: Path
    smoke: bool
    detects: bool

    def cell(self, name: str) -> Cell:
        return Cell(name, self.seed, self.folder / name.replace("/", "-"), size="smoke" if self.smoke else "full")

    def rows(self) -> list[dict[str, Any]]:
        """A row for each noise and threshold."""
        cell = self.cell("tagger")
        few, many, test = (scenes(split, cell) for split in ("val", "train", "test"))
        tagger = open_address(str(trained(named(RLIPv2.tagger_tiny(), steps=TAGGED), few, cell).model))
        rows = []
        for noise in NOISES:
            change = partial(captioned_in_haste, wrong_share=noise, missing_share=MISSING)
            # captions are written anew from the true relations, which a tagger never reads
            heard = Pool.from_samples([change(many[row]) for row in range(len(many))], name=f"{many.name} {noise}")
            begun = time.process_time()
            done = RelationTags(tagger=tagger, parse=GRAMMAR, link=LINKER, threshold=0.0, per_pair=1)(heard)
            said = done.columns.get("tagged_relations", {})
            spent = time.process_time() - begun
            pairs = sum(counts["pairs"] for counts in done.columns.get("tagging", {}).values())
            rates = {"pairs_a_processor_second": pairs / spent, "images_a_processor_second": len(heard) / spent}
            for threshold in (0.0,) if self.smoke else THRESHOLDS:  # a tagger of two steps is sure of nothing
                sure = {uid: [r for r in each if r["confidence"] >= threshold] for uid, each in said.items()}
                sure = {uid: each for uid, each in sure.items() if each}
                kept = tagged(heard.select([row for row, uid in enumerate(heard.uids) if uid in sure]), sure)
                row = {
                    "seed": self.seed,
                    "noise": noise,
                    "threshold": threshold,
                    "images": len(kept),
                    **rates,
                    **rightness(kept, many),
                }
                if self.detects and len(kept):
                    row["r@5"] = self.detector(kept, few, test, f"{noise}/{threshold}")
                rows.append(row)
                print(json.dumps(row), flush=True)
        return rows

    def detector(self, kept: Any, few: Pool, test: Pool, name: str) -> float:
        """Recall at 5 after pre-training on what was tagged and fine-tuning on what is true."""
        first, tuned = (named(RLIPv2.tiny(), steps=steps) for steps in (BEFORE, TUNED))
        # what the sweep kept is what is learned from, below the published threshold too
        before = trained(replace(first, min_confidence=0.0), kept, self.cell(f"{name}/before"))
        run = trained(tuned, few, self.cell(f"{name}/tuned"), init=str(before.model / "model.safetensors"))
        return float(every_link(open_model(run.model), test)["r@5"])


def means(rows: Sequence[dict[str, Any]], measure: str, noise: float) -> tuple[tuple[float, float], ...]:
    """(threshold, mean over seeds) where there are any."""
    points = []
    for threshold in sorted({row["threshold"] for row in rows}):
        found = [row[measure] for row in rows if (row["noise"], row["threshold"]) == (noise, threshold) and measure in row]
        if found:
            points.append((threshold, sum(found) / len(found)))
    return tuple(points)


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """The measures over the threshold, a line for each noise; an SVG that stands alone."""
    parts, shown = [], [each for each in MEASURES if any(each[0] in row for row in rows)]
    for number, (measure, title) in enumerate(shown):
        lines = [LineSeries(f"{noise:.0%} of captions wrong", means(rows, measure, noise), n) for n, noise in enumerate(NOISES)]
        drawn = line_chart(title, lines, x_label="threshold")
        chart = drawn[drawn.index("<svg") : drawn.index("</svg>")].replace(
            "<svg", f'<svg x="{number * WIDTH}" y="24" width="{WIDTH}"', 1
        )
        parts.append(f'<text class="title" x="{number * WIDTH + 46}" y="18">{title}</text>{chart}</svg>')
    for number, noise in enumerate(NOISES):
        words = f"{noise:.0%} of captioned links wrong"
        parts.append(f'<text x="{46 + 200 * number}" y="40" style="fill:var(--s{number})">{words}</text>')
    size = f"0 0 {len(shown) * WIDTH} {HEIGHT + 48}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="comma between them")
    parser.add_argument("--only", choices=("tagger", "all"), default="all", help="tagger: no detector is trained")
    parser.add_argument("--folder", type=Path, help="where runs lie, to go on with; a temporary one where nothing is said")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    seeds = [0] if args.smoke else [int(seed) for seed in args.seeds.split(",")]
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or Path(made)
        sweeps = [Sweep(seed, folder / str(seed), args.smoke, args.only == "all") for seed in seeds]
        rows = [row for sweep in sweeps for row in sweep.rows()]
    if args.smoke:
        print(f"smoke: {len(rows)} rows, figure of {len(draw(rows)):,} bytes, nothing written")
        return
    keep("tagging_sweep", {"rows": rows}, [])
    PICTURE.write_text(draw(rows), encoding="utf-8")
    print(PICTURE)


if __name__ == "__main__":
    main()
