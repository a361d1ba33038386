"""Self-training of a relation tagger in rounds: train on what is annotated, tag the rest, train on both, tag again.

Round 1 is RLIPv2's way (2308.09351). Whether further rounds help, or only make the tagger surer of what it says, is what the report is
for: how many relations each round gives, how right they are where the data know, how many are those of the round before, and how far
the predicates have drifted from those that people annotated.

OUT/round_N/tagger   run folder of the tagger
OUT/round_N/tagged   what `diptych curate relation_tags` writes; opens as data, where BOXES holds no annotated image
OUT/rounds.json, OUT/rounds.html
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diptych.api.data import read
from diptych.core.config import to_plain
from diptych.core.contracts import Dataset, Recipe
from diptych.core.disk.files import write_atomic, write_json
from diptych.core.errors import ConfigError, DataError
from diptych.core.run_folder import RunFolder
from diptych.curate.engine.pool import curate
from diptych.curate.operators.relation_tagging import TagRelations
from diptych.curate.tagging.relation_tags import tagged
from diptych.curate.tagging.summary import drift
from diptych.data.concat import ConcatDataset
from diptych.report.pages.tagging_rounds import rounds_page
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions
from diptych.worlds.address import cached_for_training, training_rows

Edge = tuple[str, int, str, int]


@dataclass(frozen=True, slots=True)
class SelfTrainingRound:
    """Result of one round of self-training: rows used, relations found, drift and accuracy.

    trained    images that its tagger was trained on
    images     that have relations now
    relations  in them, and how often each predicate occurs
    stays      share of the relations of the round before that are there again; 0 in the first round
    drift      total variation between its predicates and those that were annotated, 0 to 1
    moved      likewise from the round before
    precision, recall   against the relations that the data had; None if they had none
    """

    number: int
    trained: int
    images: int
    relations: int
    predicates: dict[str, int]
    stays: float
    drift: float
    moved: float
    precision: float | None = None
    recall: float | None = None

    def line(self) -> str:
        right = "" if self.precision is None else f", precision {self.precision:.3f}, recall {self.recall:.3f}"
        again = f", {self.stays:.0%} of the round before again, moved {self.moved:.3f}" if self.number > 1 else ""
        return (
            f"round {self.number}: trained on {self.trained:,} images, {self.relations:,} relations in {self.images:,}{right}{again}, "
            f"drift {self.drift:.3f}"
        )


def tag_rounds(
    boxes: Any,
    few: Any,
    out: Path,
    recipe: Recipe,
    *,
    rounds: int = 2,
    step: TagRelations | None = None,
    options: TrainOptions | None = None,
    say: Callable[[str], None] | None = None,
) -> list[SelfTrainingRound]:
    """Rounds of self-training, each reported through `say` when it is done; continues what an earlier call left in `out`.

    boxes   what is tagged: boxes with labels, and captions (its own, or those that `step` names)
    few     what is annotated, of data with splits the rows of "train"; its images are left out of `boxes`
    recipe  of the tagger
    step    how it tags; its `tagger` is that of the round
    """
    if rounds < 1:
        raise ConfigError(f"rounds is {rounds} (expected 1 or more)")
    annotated = training_rows(read(few))
    given = read(boxes)
    rest = _without(given, annotated)
    # What was tagged can be opened again by its source, unless that holds annotated images too.
    whole = isinstance(boxes, str | Path) and rest.fingerprint == given.fingerprint
    source = str(Path(boxes).resolve()) if whole and Path(boxes).exists() else ""
    counted = Counter(r.predicate for row in range(len(annotated)) for r in annotated[row].relations)
    if not counted:
        raise DataError(f"no image of '{annotated.name}' has a relation", field="few", expected="annotated scene graphs")
    rounds_done: list[SelfTrainingRound] = []
    learned: Dataset = annotated
    before: frozenset[Edge] = frozenset()
    for number in range(1, rounds + 1):
        folder = out / f"round_{number}"
        run = _train_or_go_on(recipe, learned, folder / "tagger", options or TrainOptions(progress=False))
        tagging = replace(step or TagRelations(), tagger=str(run.path))
        done = curate(rest, [tagging], folder / "tagged", source=source)
        relations = done.columns.get("tagged_relations", {})
        edges = frozenset((uid, e["subject"], e["predicate"], e["object"]) for uid, each in relations.items() for e in each)
        counts = Counter(predicate for _, _, predicate, _ in edges)
        ranked = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
        made = SelfTrainingRound(
            number,
            len(learned),
            len(relations),
            len(edges),
            ranked,
            len(edges & before) / max(1, len(before)),
            drift(counted.items(), counts.items()),
            drift(rounds_done[-1].predicates.items(), counts.items()) if rounds_done else 0.0,
            *_rightness(edges, rest),
        )
        rounds_done.append(made)
        if say:
            say(made.line())
        if not edges:
            break  # there is nothing to learn from
        before = edges
        learned = ConcatDataset(f"{annotated.name} and tagged", (annotated, tagged(done.kept, relations)))
    write_json(out / "rounds.json", {"annotated": dict(counted), "rounds": [to_plain(each) for each in rounds_done]})
    lead = f"{len(annotated):,} annotated images, {len(rest):,} to tag"
    write_atomic(out / "rounds.html", rounds_page(lead, dict(counted), [to_plain(each) for each in rounds_done]))
    return rounds_done


def _train_or_go_on(recipe: Recipe, rows: Dataset, folder: Path, options: TrainOptions) -> RunFolder:
    """The finished run: read, gone on with, or begun."""
    drawn = cached_for_training(rows, recipe)
    if not (folder / "run.json").is_file():
        return fit(recipe, drawn, folder, options).expect_finished()
    held = RunFolder.open(folder)
    if held.state.get("status") == "finished":
        return held
    return resume(folder, drawn, kind=type(recipe)).expect_finished()


def _without(data: Any, others: Dataset) -> Any:
    excluded = set(others.uids)
    kept = data if excluded.isdisjoint(data.uids) else data.select([n for n, uid in enumerate(data.uids) if uid not in excluded])
    if not len(kept):
        raise DataError(
            f"every image of '{data.name}' is annotated already", field="boxes", expected="images beyond those of few"
        )
    return kept


def _rightness(edges: frozenset[Edge], data: Dataset) -> tuple[float | None, float | None]:
    samples: Sequence[Any] = [data[row] for row in range(len(data))]
    true = {(sample.uid, r.subject, r.predicate, r.object) for sample in samples for r in sample.relations}
    if not true:
        return None, None
    right = len(edges & true)
    return right / max(1, len(edges)), right / len(true)
