"""Arms on small rendered pairs whose captions bind: which colour is whose, and which thing lies where. Asked by SNARE's five questions.

"the red circle and the blue cross" of every picture, and "the red circle is to the left of the blue cross" where the two share a row or
column, so that one direction alone holds. The probe asks in the words that were trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import SMOKE_ROWS
from diptych.claims.training import opened, untrained
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.text.captions.shuffles import shuffled
from diptych.recipes._shared.pairs import PairRecipe
from diptych.tasks.composition.snare import PARTS, SNARE
from diptych.worlds.small_pairs import SmallPairs

TESTED = 400
ACROSS, DOWN = ("to the left of", "to the right of"), ("above", "below")
"""The names of a direction and of its reverse: of two things in reading order the first holds."""


def bound(pool: Pool, seed: int, *, shuffle: bool = False) -> Pool:
    """The same pictures with binding captions. shuffle: the words of every caption in another order, which is all that differs."""

    def samples() -> Iterator[Sample]:
        for row in range(len(pool)):
            sample = pool[row]
            texts, facts = _said(sample)
            if shuffle:
                rng = keyed_rng("bag of words", seed, sample.uid)
                texts = [" ".join(shuffled(text.split(), rng)) for text in texts]
            extras = {"split": sample.extras["split"], **facts}
            yield replace(sample, texts=tuple(Text(text, "en") for text in texts), regions=(), extras=extras)

    return Pool.from_samples(samples(), name=pool.name)


def _said(sample: Sample) -> tuple[list[str], Mapping[str, Any]]:
    """The captions of a picture, and what ARO's files would say of it."""
    (first, one), (second, two) = things(sample)
    (a, shape_a), (b, shape_b) = first.split(), second.split()
    true = f"the {first} and the {second}"
    facts: dict[str, Any] = {}
    if a != b and shape_a != shape_b:
        false = f"the {b} {shape_a} and the {a} {shape_b}"
        facts["attribution"] = {"attributes": [a, b], "objects": [shape_a, shape_b], "true": true, "false": false}
    texts = [true]
    if names := ACROSS if one // 3 == two // 3 else DOWN if one % 3 == two % 3 else ():
        here, back = f"the {first} is {names[0]} the {second}", f"the {second} is {names[1]} the {first}"
        texts += [here, back]
        if first != second:
            number = keyed_rng("asked", sample.uid).integers(2)
            name, relation = ((names[0], here), (names[1], back))[number]
            subject, other = ((first, second), (second, first))[number]
            facts["relation"] = {"name": name, "true": relation, "false": f"the {other} is {name} the {subject}"}
    return texts, facts


def with_words(pool: Pool) -> Pool:
    """The samples, and each again with its captions alone: SNARE shuffles the words of captions that come without facts."""
    samples = [pool[row] for row in range(len(pool))]
    plain = [replace(s, uid=f"{s.uid}-words", extras={"split": s.extras["split"]}) for s in samples]
    return Pool.from_samples([*samples, *plain], name=pool.name)


def things(sample: Sample) -> list[tuple[str, int]]:
    """(noun, cell) of both things, by the sample's regions."""
    pairs = []
    for region in sample.regions:
        x0, y0, x1, y1 = region.box
        pairs.append((f"{region.attributes[0]} {region.label}", int((y0 + y1) // 32) * 3 + int((x0 + x1) // 32)))
    return pairs


@dataclass(frozen=True)
class Composed:
    """Trains `recipe` on so many pictures; SNARE's macro and parts on fresh ones.

    shuffle  the words of every training caption are shuffled, so that nothing can be learned from their order
    learns   False asks the model as it is before the first step
    """

    recipe: PairRecipe
    count: int
    shuffle: bool = False
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        pairs = SmallPairs(SMOKE_ROWS if cell.smoke else self.count, regions=True)
        rows = bound(pairs.pool("train", cell.seed), cell.seed, shuffle=self.shuffle)
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        return asked(model, cell)


def asked(model: Any, cell: Cell) -> Scores:
    """SNARE on fresh pictures of the cell's seed."""
    test = with_words(bound(SmallPairs(SMOKE_ROWS if cell.smoke else TESTED, regions=True).pool("test", cell.seed), cell.seed))
    task = SNARE(draws=1)
    metrics = task.score(task.predict(model, test)).metrics
    return {name: metrics[name].value for name in ("macro", "blind", *PARTS) if name in metrics}
