"""Arms on small rendered pairs with captions that name both things, and questions about them: retrieval and answers of one model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import SMOKE_ROWS
from diptych.claims.training import opened, untrained
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.text.question_answering.questions import FIELD
from diptych.recipes.grounding.fiber import FIBER
from diptych.tasks.generation.vqa import VQA
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.worlds.scenes.questions import make_questions
from diptych.worlds.small_pairs import SmallPairs

TESTED = 300


@dataclass(frozen=True)
class AskedPairs:
    """Learns from so many pictures of the cell's seed; the one model then answers questions about other pictures, both sides read together
    ("accuracy"), and finds their captions by vectors of either side alone ("t2i_r@1", "i2t_r@1"). learns=False asks before the first step.
    """

    recipe: FIBER
    count: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        pairs = SmallPairs(SMOKE_ROWS if cell.smoke else self.count, captioned=True, wrong=0.0, regions=True)
        rows = with_questions(pairs, "train", cell.seed)
        test = with_questions(replace(pairs, count=SMOKE_ROWS if cell.smoke else TESTED), "test", cell.seed)
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        answers, finds = VQA(draws=1, blind=False), Retrieval(compare="vectors", draws=1)
        metrics = {
            **answers.score(answers.predict(model, test)).metrics,
            **finds.score(finds.predict(model, test)).metrics,
        }
        return {name: metric.value for name, metric in metrics.items()}


def with_questions(pairs: SmallPairs, split: str, seed: int) -> Pool:
    """The pictures with the caption that names no place, and a question of each kind that they allow."""
    pool = pairs.pool("train" if split == "train" else "test", seed)

    def samples() -> Iterator[Sample]:
        for row in range(len(pool)):
            sample = pool[row]
            caption = next(text.string for text in sample.texts if text.origin == "synthetic")
            things = [{"label": region.label, "colour": region.attributes[0]} for region in sample.regions]
            questions = make_questions(things, keyed_rng("asked_pairs", seed, split, row))
            # Equal captions are one group: neither is the other's wrong text.
            yield replace(
                sample, texts=(Text(caption, "en"),), group=caption, extras={"split": sample.extras["split"], FIELD: questions}
            )

    return Pool.from_samples(samples(), name=f"{pool.name} with questions")
