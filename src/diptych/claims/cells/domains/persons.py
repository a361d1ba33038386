"""Arms on rendered persons: a recipe learns from persons of the cell's seed, then finds others by their descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, trained, untrained
from diptych.core.config import with_changes
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.text.persons.descriptions import OPTIONAL, REQUIRED
from diptych.models.io.saved_model import open_model
from diptych.recipes._shared.texts.pseudo_texts import PSEUDO
from diptych.recipes.domains.plip_person import PLIPPerson
from diptych.recipes.domains.unipt import UniPT
from diptych.tasks.domains.person_search import PersonSearch
from diptych.worlds.people.world import pedestrians
from diptych.worlds.rendered import RenderedDataset

TESTED, SMOKE = 400, 32
"""Pictures that are searched, of fifty persons nobody has trained on; and all there are in a smoke test."""


@dataclass(frozen=True)
class Searched:
    """Trains on so many pictures, then searches: "cmc@1", "map", "minp".

    learns  False asks the model as it is before the first step
    """

    recipe: PLIPPerson
    pictures: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = pedestrians(SMOKE if cell.smoke else self.pictures, seed=cell.seed)
        run = replace(cell, folder=cell.folder / "run")
        model = opened(self.recipe, rows, run) if self.learns else untrained(self.recipe, rows, run)
        return searched(model, cell)


@dataclass(frozen=True)
class PseudoThenLabelled:
    """Pre-trains on pictures with pseudo texts for `before` of the steps, and fine-tunes on a few labelled persons for the rest.

    The pseudo texts say what is true of a person's gender, clothes and hair, but for a share that is wrong, as a frozen model's eye would
    be: how good that eye is, is not what the claim asks.

    before     share of the steps; 0 fine-tunes alone
    unlabelled, labelled  pictures of either; captions of the labelled ones are a witness's, not the templates'
    wrong      share of the attributes that are another person's
    """

    recipe: UniPT
    before: float
    unlabelled: int
    labelled: int
    wrong: float = 0.15
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        few = pedestrians(SMOKE if cell.smoke else self.labelled, seed=cell.seed, styles=("witness",)).to_pool()
        tuned = with_changes(
            self.recipe,
            {"phase": "finetune", "texts": "captions", "steps": round((1 - self.before) * self.recipe.steps)},
        )
        words = self._vocabulary(cell, few)
        if not self.learns:
            return searched(untrained(replace(tuned, vocabulary=words), few, cell), cell, styles=("witness",))
        if not self.before:
            run = trained(replace(tuned, vocabulary=words), few, replace(cell, folder=cell.folder / "tuned"))
            return searched(open_model(run.model), cell, styles=("witness",))
        first = replace(self.recipe, vocabulary=words, steps=round(self.before * self.recipe.steps))
        base = trained(first, self._pseudo(cell), replace(cell, folder=cell.folder / "pretrained"))
        started = tuned.started(open_model(base.model))
        run = trained(started, few, replace(cell, folder=cell.folder / "tuned"), init=str(base.path))
        return searched(open_model(run.model), cell, styles=("witness",))

    def _pseudo(self, cell: Cell) -> Pool:
        """Persons of another seed, without captions."""
        shown = pedestrians(SMOKE if cell.smoke else self.unlabelled, seed=cell.seed + 10_000_000, captioned=False)
        samples = [shown[row] for row in range(len(shown))]
        return Pool.from_samples([self._guessed(sample, samples, cell.seed) for sample in samples], name="pseudo texts")

    def _guessed(self, sample: Sample, others: list[Sample], seed: int) -> Sample:
        rng = keyed_rng("pseudo attributes", seed, sample.uid)
        other = others[int(rng.integers(len(others)))]
        mine, theirs = _phrases(sample), _phrases(other)
        guesses = {name: theirs.get(name, phrase) if rng.random() < self.wrong else phrase for name, phrase in mine.items()}
        return replace(sample, extras={**sample.extras, PSEUDO: [f"{name}: {phrase}" for name, phrase in guesses.items()]})

    def _vocabulary(self, cell: Cell, few: Pool) -> str:
        """One vocabulary for both arms, from both kinds of text."""
        pseudo = self._pseudo(cell)
        both = Pool.from_samples([*few, *(pseudo[row] for row in range(0, len(pseudo), 8))], name="both")
        return with_changes(self.recipe, {"weight_patches": 0.0}).prepare(both).vocabulary


def _phrases(sample: Sample) -> dict[str, str]:
    """Phrases by slot that `pseudo_texts` gives for a rendered person whose attributes it recognises without error."""
    gender, head, upper, lower, _, bag = sample.extras["attributes"]
    phrases = {"gender": gender, "action": sample.extras["action"]}
    if head != "unknown":
        phrases["hair"] = f"with {head}"
    if upper != "unknown":
        phrases["upper"] = f"wearing a {upper}"
    if lower != "unknown":
        phrases["lower"] = f"wearing a {lower}" if lower.endswith("skirt") else f"wearing {lower}"
    if bag != "unknown":
        phrases["bag"] = f"carrying a {bag}"
    assert {*phrases} <= {*REQUIRED, *OPTIONAL}
    return phrases


def searched(model: Any, cell: Cell, *, styles: tuple[str, ...] = ()) -> Mapping[str, float]:
    """Text-to-person retrieval metrics on held-out persons of the cell's seed."""
    count = SMOKE if cell.smoke else TESTED
    rows: RenderedDataset = (
        pedestrians(count, seed=cell.seed, split="test", styles=styles)
        if styles
        else pedestrians(count, seed=cell.seed, split="test")
    )
    task = PersonSearch(draws=1)
    return {name: metric.value for name, metric in task.score(task.predict(model, rows)).metrics.items()}
