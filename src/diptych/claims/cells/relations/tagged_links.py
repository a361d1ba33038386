"""Arms about relations that a tagger made: a small detector is pre-trained on many scenes, then fine-tuned on few with true relations.

The many have boxes, and captions that name two links by shape and colour, a fifth of them with a wrong predicate and a tenth left
out. Shapes come twice in a scene, and a caption does not say which box it means. The arms differ in the relations that the
pre-training is given. All eight predicates occur everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import permutations
from typing import Any, Literal

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.relations.changed_links import captioned_in_haste
from diptych.claims.cells.relations.links import SMOKE_ROWS, every_link
from diptych.claims.training import trained, untrained
from diptych.core.config import with_changes
from diptych.core.contracts import Dataset
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.scene_graph import Relation
from diptych.curate.tagging.caption_triplets import LabelLinker, TemplateGrammar
from diptych.curate.tagging.relation_tags import RelationTags, tagged
from diptych.data.dataset import Pool
from diptych.data.graphs.label_lists import CorpusNames
from diptych.data.graphs.relation_splits import Relabelled
from diptych.models.io.open_address import open_address
from diptych.models.io.saved_model import open_model
from diptych.recipes.relations.rlipv2 import RLIPv2
from diptych.worlds.links.world import PREDICATES, SHAPES, Split, links

SIDE, FEW, MANY, TESTED = 48, 300, 3000, 300
"""Pixels of a scene; scenes with true relations, of the pre-training, and to test."""
THRESHOLD = 0.2
"""Published: confidence from which the pre-training reads a tagged relation."""
RelationSource = Literal["nothing", "tagged", "by chance", "captions", "true"]
GRAMMAR, LINKER = TemplateGrammar(PREDICATES), LabelLinker()


def named(recipe: RLIPv2, **changes: Any) -> RLIPv2:
    """At this size and with all names from the start, so that every stage has the same words."""
    corpus = CorpusNames.counted(dict.fromkeys(SHAPES, 1), dict.fromkeys(PREDICATES, 1)).to_json()
    return with_changes(recipe, {"image_size": SIDE, "corpus": json.dumps(corpus), **changes})


@dataclass(frozen=True)
class PreTrained:
    """Recall of triplets among the first five after both stages, and how right the relations of the pre-training are.

    relations  nothing: boxes and names alone, every pair of boxes a target without a relation. tagged: what a tagger of the few found.
               by chance: as many pairs drawn at random, with the same predicates. captions: every pair that a caption can mean. true
    detector   the pre-training; without a tagger it is as many steps longer as a tagger takes
    tuned      the fine-tuning on the few, by a detector of the same shape
    tagger     trained on the few before all else, where relations come from it
    threshold  confidence from which a tagged relation is read
    many       scenes of the pre-training
    learns     False measures the detector as it is before the first step
    """

    relations: RelationSource
    detector: RLIPv2
    tuned: RLIPv2
    tagger: RLIPv2
    threshold: float = THRESHOLD
    many: int = MANY
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        few, many, test = scenes("val", cell), scenes("train", cell, self.many), scenes("test", cell)
        if not self.learns:
            return every_link(untrained(self.tuned, few, cell), test)
        cell.spending.count(trusted=len(few))
        first = replace(self.detector, min_confidence=0.0)
        if self.relations in ("tagged", "by chance"):
            rows = self._tagged(few, many, cell)
        else:
            first = replace(first, steps=first.steps + self.tagger.steps)
            rows = Relabelled(many, change, self.relations) if (change := CHANGES.get(self.relations)) else many
        if self.relations == "nothing":
            first = replace(first, loss=replace(first.loss, relation=0.0))
        before = trained(first, rows, replace(cell, folder=cell.folder / "before"))
        start = str(before.model / "model.safetensors")
        run = trained(self.tuned, few, replace(cell, folder=cell.folder / "tuned"), init=start)
        return {**every_link(open_model(run.model), test), **({} if self.relations == "nothing" else rightness(rows, many))}

    def _tagged(self, few: Pool, many: Pool, cell: Cell) -> Dataset:
        tagger = open_address(str(trained(self.tagger, few, cell.part("tagger")).model))
        threshold = 0.0 if cell.smoke else self.threshold  # a tagger of two steps is sure of nothing
        # One relation a pair, as a pair of this world has; published taggers keep all of them, or two.
        done = RelationTags(tagger=tagger, parse=GRAMMAR, link=LINKER, threshold=threshold, per_pair=1)(many)
        relations = done.columns.get("tagged_relations", {})
        if self.detector.loss.unlabelled == "negative":  # a scene without a relation would say that it has none
            many = many.select([row for row, uid in enumerate(many.uids) if uid in relations])
        rows = tagged(many, relations)
        return rows if self.relations == "tagged" else Relabelled(rows, elsewhere, "elsewhere")


@lru_cache(maxsize=3)
def _drawn(split: Split, count: int, seed: int) -> Pool:
    pool = links(count, seed=seed, split=split, size=SIDE, hold_out=()).to_pool()
    return Pool.from_samples([captioned_in_haste(pool[row]) for row in range(len(pool))], name=pool.name)


def scenes(split: Split, cell: Cell, many: int = MANY) -> Pool:
    """Scenes of the cell's seed, kept: all arms see the same. "val" are the few, "train" the many."""
    count = {"val": FEW, "train": many, "test": TESTED}[split]
    return _drawn(split, SMOKE_ROWS if cell.smoke else count, cell.seed)


def every_pair(sample: Sample) -> Sample:
    """Every ordered pair of boxes as a target, so that each box is one; the name of the relation is for nobody to learn."""
    pairs = permutations(range(len(sample.regions)), 2)
    return replace(sample, relations=tuple(Relation(i, PREDICATES[0], j) for i, j in pairs))


def as_captioned(sample: Sample) -> Sample:
    """The captions taken at their word: every pair of boxes with the labels of a caption's triplet has its predicate."""
    labels = [region.label for region in sample.regions]
    links = [spans for text in sample.texts for spans in GRAMMAR(text.string)]
    edges = {
        (i, predicate, j): None
        for subject, predicate, other in links
        for i, j in permutations(range(len(labels)), 2)
        if labels[i] in LINKER(subject, labels) and labels[j] in LINKER(other, labels)
    }
    return replace(sample, relations=tuple(Relation(*each) for each in edges))


def elsewhere(sample: Sample) -> Sample:
    """The predicates stay, the pairs are drawn at random."""
    pairs = list(permutations(range(len(sample.regions)), 2))
    drawn = keyed_rng("elsewhere", sample.uid).permutation(len(pairs))[: len(sample.relations)]
    return replace(
        sample,
        relations=tuple(
            Relation(pairs[index][0], relation.predicate, pairs[index][1])
            for index, relation in zip(drawn.tolist(), sample.relations, strict=False)
        ),
    )


def rightness(rows: Dataset, many: Pool) -> Mapping[str, float]:
    """Shares of the relations of the pre-training that are true, and of the true ones that are among them."""
    true = {(uid, r.subject, r.predicate, r.object) for row, uid in enumerate(many.uids) for r in many[row].relations}
    read = {(uid, r.subject, r.predicate, r.object) for row, uid in enumerate(rows.uids) for r in rows[row].relations}
    right = len(true & read)
    return {"relations_right": right / max(1, len(read)), "relations_found": right / len(true)}


CHANGES: Mapping[RelationSource, Callable[[Sample], Sample]] = {"nothing": every_pair, "captions": as_captioned}
"""What the pre-training reads in place of true relations, where no tagger is asked."""
