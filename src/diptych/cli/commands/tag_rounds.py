"""``diptych tag-rounds BOXES OUT --few ANNOTATED``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.flat import flat, select_fields
from diptych.cli.options.output import DEVICE, finish, parse, say


@dataclass(frozen=True)
class TagRoundsArgs:
    boxes: Annotated[Positional[str], arg(metavar="BOXES", help="data to tag: boxes with labels, and captions")]
    out: Annotated[Positional[Path], arg(metavar="OUT", help="output folder of the rounds and their report")]
    few: Annotated[str, arg(help="annotated scene graphs to train the first tagger on")]
    rounds: Annotated[int, arg(help="number of rounds of training and tagging")] = 2
    recipe: Annotated[str, arg(help="recipe of the tagger")] = "rlipv2"
    preset: Annotated[str, arg(help="preset of the recipe: one that relates given regions")] = "tagger_tiny"
    steps: Annotated[int, arg(help="value for each training; 0: the preset's")] = 0
    batch_size: Annotated[int, arg(help="value for each training; 0: the preset's")] = 0
    seed: Annotated[int, arg(help="seed of each training")] = 0
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    from diptych.curate.operators.relation_tagging import TagRelations

    every = flat("Options", [(TagRoundsArgs, None), (TagRelations, None)], leave_out=("tagger",))
    args = parse(
        every, argv, "tag-rounds", "A relation tagger that learns from what it tagged, with a report on where that leads."
    )
    from diptych.api import recipe
    from diptych.api.tagging_rounds import tag_rounds
    from diptych.core.config import to_plain
    from diptych.train.options import TrainOptions

    given = {name: getattr(args, name) for name in ("steps", "batch_size") if getattr(args, name)}
    made = recipe(args.recipe, preset=args.preset, **given)
    step = TagRelations(**{name: value for name, value in select_fields(TagRelations, args).items() if name != "tagger"})
    options = TrainOptions(seed=args.seed)
    callback = None if args.json else say
    results = tag_rounds(args.boxes, args.few, args.out, made, rounds=args.rounds, step=step, options=options, say=callback)
    report = args.out / "rounds.html"
    payload = {"rounds": [to_plain(each) for each in results], "report": str(report)}
    return finish(payload, [*(each.line() for each in results), f"report: {report}"], args.json)
