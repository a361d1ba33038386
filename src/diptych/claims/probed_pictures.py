"""Small rendered pictures with a class: how much of it a linear probe reads off frozen image embeddings, and retrieval beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from diptych.claims.claim import Cell, Scores
from diptych.claims.noisy_texts import SMOKE_BATCH, NoisyPairs, Split
from diptych.claims.training import trained
from diptych.core.contracts import Embedder, Recipe
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.models.io.deployed import open_model
from diptych.tasks.pairs.linear_probe import LinearProbe
from diptych.tasks.pairs.retrieval import Retrieval

TESTED, PROBED, SMOKE_ROWS = 500, 1500, 128
Change = Callable[[Sequence[Sample], Cell], Sequence[Sample]]
"""What an arm does to the training samples of a cell (a teacher's features, labels taken away)."""


def labelled(split: Split, count: int, seed: int) -> Pool:
    """Pictures of two things on noise; extra "label" is the first of them in reading order, such as "red circle" (24 classes)."""
    return Pool.from_samples(samples(split, count, seed), name=f"labelled/{split}")


def samples(split: Split, count: int, seed: int) -> list[Sample]:
    pool = NoisyPairs(count).pool(split, seed)
    found = []
    for row in range(len(pool)):
        sample = pool[row]
        first = " ".join(sample.texts[0].string.split()[1:3])  # "a red circle top left and a ..."
        found.append(replace(sample, extras={"split": split, "label": first}))
    return found


def probed_cell(recipe: Recipe, count: int, *, change: Change | None = None) -> Callable[[Cell], Scores]:
    """What runs an arm: trains on `count` pictures of the cell's seed, then probes and retrieves on others."""

    def run(cell: Cell) -> Scores:
        rows = samples("train", SMOKE_ROWS if cell.smoke else count, cell.seed)
        data = Pool.from_samples(change(rows, cell) if change else rows, name="labelled/train")
        chosen = replace(recipe, steps=6, batch_size=SMOKE_BATCH) if cell.smoke else recipe
        folder = trained(chosen, data, cell)
        return {**probed(open_model(folder.model), cell), "train_seconds": folder.training_seconds()}

    return run


def probed(model: Embedder, cell: Cell) -> dict[str, float]:
    """ "probe": accuracy of a logistic regression on `PROBED` fresh training pictures; and recall at 1 both ways."""
    known = labelled("train", SMOKE_ROWS if cell.smoke else PROBED, cell.seed + 10_000)
    test = labelled("test", SMOKE_ROWS if cell.smoke else TESTED, cell.seed)
    probe = LinearProbe(label="label", train=known, draws=1)
    retrieval = Retrieval(draws=1)
    found = retrieval.score(retrieval.predict(model, test)).metrics
    scores = {"probe": probe.score(probe.predict(model, test)).metrics["acc@1"].value}
    return scores | {name: found[name].value for name in ("i2t_r@1", "t2i_r@1")}
