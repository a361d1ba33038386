"""Why relations among cut-outs are found so much less often than they could be: one change at a time, recall beside its ceiling.

    diptych data fetch stamps --out data/stamps
    python benchmarks/cutout_relations.py --cutouts data/stamps          # hours: every arm is a training of 3,000 steps or more
    python benchmarks/cutout_relations.py --only as_it_is,steps          # some of them
    python benchmarks/cutout_relations.py --steps 1000                   # a third of the steps in every arm
    python benchmarks/cutout_relations.py --smoke                        # two steps of every arm on emoji, nothing written

`as_it_is` is the row of docs/detecting.md. Every other arm differs in the one thing that it is called by:

    steps        three times as many
    pictures     four times as many scenes, as many steps
    size         96 pixels in place of 64: are the things too small to be told apart?
    looks        drawn shapes in place of photographs: is it the pictures at all?
    vocabulary   predicates of place alone: are "same colour as" and "bigger than" what is missed?
    names        everything is called "thing": is it what the things are called? From the same run, everything named after the training
                 crops that it looks most like, by its pixels (`names/pixels`) and by a packaged encoder (`names/encoder`, extra "weights")
    table        a free vector for each name in place of what a small text tower makes of its words
    vectors      names as a frozen sentence encoder has them: needs the extra "weights"
    given        boxes and labels are given (PredCls, the tagger): are the boxes what is missed?
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from machine_results import keep, last

from diptych.core.config import with_changes
from diptych.core.contracts import Dataset
from diptych.core.environment import environment
from diptych.core.sample import Sample
from diptych.data.graphs.nameless import nameless
from diptych.data.graphs.relation_splits import Relabelled
from diptych.models.detection.named_after import LabelledCrops, NearestCropDetector, ThumbnailEncoder, crop_encoder
from diptych.models.io.saved_model import open_model
from diptych.recipes.relations.rlipv2 import RLIPv2
from diptych.tasks.relations.vg150 import VG150, VG150PredCls
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.resolve import resolve

SCENES, STEPS, TESTED = 8000, 3000, 500
KNOWN = 2000
"""Training scenes whose crops name others."""
PLACES = ("left of", "right of", "above", "below", "inside", "on")
KS = (5, 20)


@dataclass(frozen=True)
class Arm:
    """scenes, steps  of the training; tested  scenes that are asked about
    size    pixels of a scene
    look    flat, or cutouts
    places  predicates of place alone
    named   things have their names
    texts   what turns names into vectors
    given   boxes and labels are given
    """

    scenes: int = SCENES
    tested: int = TESTED
    steps: int = STEPS
    size: int = 64
    look: str = "cutouts"
    places: bool = False
    named: bool = True
    texts: str = "text_micro"
    given: bool = False

    def rows(self, split: str, cutouts: str, seed: int) -> Any:
        """Scenes of that look; the same in every arm but for what the arm changes."""
        from_folder = f"&cutouts={cutouts}" if cutouts and self.look == "cutouts" else ""
        address = f"world:scenes?n={self.scenes}&test={self.tested}&size={self.size}&look={self.look}&seed={seed}{from_folder}"
        rows: Dataset = resolve(address).split(split)
        rows = Relabelled(rows, places_alone, "places") if self.places else rows
        return rows if self.named else nameless(rows)

    def recipe(self) -> RLIPv2:
        made = RLIPv2.tagger_tiny() if self.given else RLIPv2.tiny()
        changes = {"pairs": 12, "steps": self.steps, "image_size": self.size, "label_encoder": self.texts}
        return with_changes(made, changes)


ARMS = {
    "as_it_is": Arm(),
    "steps": Arm(steps=3 * STEPS),
    "pictures": Arm(scenes=4 * SCENES),
    "size": Arm(size=96),
    "looks": Arm(look="flat"),
    "vocabulary": Arm(places=True),
    "names": Arm(named=False),
    "table": Arm(texts="table"),
    "vectors": Arm(texts="vectors"),
    "given": Arm(given=True),
}


def places_alone(sample: Sample) -> Sample:
    return replace(sample, relations=tuple(r for r in sample.relations if r.predicate in PLACES))


def measured(arm: Arm, cutouts: str, seed: int, folder: Path) -> dict[str, Any]:
    """Recall and how far it can go, with and without graph constraint, under ""; of a run without names also under what named it."""
    run = fit(arm.recipe(), arm.rows("train", cutouts, seed), folder, TrainOptions(seed=seed, progress=False)).expect_finished()
    model = open_model(run.model)
    found = {"": _scored(model, arm, arm.rows("test", cutouts, seed))}
    if not arm.named:
        named = replace(arm, named=True)
        rows = named.rows("train", cutouts, seed)
        known = rows.select(range(min(len(rows), KNOWN)))
        for name, compared in (("/pixels", ThumbnailEncoder()), ("/encoder", crop_encoder("efficientnet-lite0"))):
            after = NearestCropDetector(model, LabelledCrops.of(known, compared), compared)
            found[name] = _scored(after, named, named.rows("test", cutouts, seed))
    return found


def _scored(model: Any, arm: Arm, rows: Any) -> dict[str, Any]:
    task = (VG150PredCls if arm.given else VG150)(ks=KS, draws=0)
    result = task.score(task.predict(model, rows))
    ceiling = result.notes["ceiling"]
    found = {name: {"found": result.metrics[name].value, "at most": most} for name, most in ceiling.items()}
    return {"recall": found, "by_predicate": result.notes["by_predicate"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cutouts", default="", help="pictures with transparency, a data set; the packaged emoji where nothing is said"
    )
    parser.add_argument("--only", default=",".join(ARMS), help="arms, comma between them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the training in `as_it_is`; `steps` has three times as many")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if unknown := set(args.only.split(",")) - set(ARMS):
        parser.error(f"unknown arm {min(unknown)!r} (expected {', '.join(ARMS)})")
    settings = {"cutouts": Path(args.cutouts).name, "seed": args.seed, "steps": args.steps}
    before = last("cutout_relations")
    rows: dict[str, Any] = dict(before["arms"]) if settings.items() <= before.items() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only.split(","):
            arm = replace(ARMS[name], steps=ARMS[name].steps * args.steps // STEPS)
            arm = replace(arm, scenes=400, steps=2, tested=4) if args.smoke else arm
            for ending, found in measured(arm, args.cutouts, args.seed, Path(folder) / name).items():
                rows[name + ending] = {**found, "commit": environment()["commit"]}
                shown = ", ".join(f"{key} {v['found']:.3f} of {v['at most']:.3f}" for key, v in found["recall"].items())
                print(f"{name + ending:<14} {shown}", flush=True)
            if not args.smoke:  # after each: arms that were asked about with the same settings before stay
                keep("cutout_relations", {**settings, "arms": rows}, [])


if __name__ == "__main__":
    main()
