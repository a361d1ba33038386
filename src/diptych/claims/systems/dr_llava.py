"""Dr-LLaVA on tiles of tissue: a reward of right and consistent answers against one of right answers alone, after equal steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from diptych.claims.cell import Cell, Scores, Spending
from diptych.claims.cells.bridges import hosted
from diptych.claims.claim import Arm, Claim
from diptych.claims.sweep import around
from diptych.claims.training import opened, trained
from diptych.claims.verdict import Margins
from diptych.core.config import to_plain
from diptych.core.errors import RunError
from diptych.core.grouped_fields import out_of_groups
from diptych.models.io.saved_model import open_model
from diptych.recipes._shared.cached_models import cached_model
from diptych.recipes._shared.language.dialogue_tuning import DialogueTuning
from diptych.recipes.domains.dr_llava import DrLLaVA
from diptych.tasks.domains.clinical_dialogue import ClinicalDialogue
from diptych.worlds.tissue.dialogues import tissue_dialogues

ROWS, TESTED, TUNED, SMOKE_ROWS = 200, 100, 2000, 10
STEPS, FORMAT, ELSEWHERE = 20, 1, 1
WORLD = "small:world:tissue_dialogues?n=2000&seed=1"


@dataclass(frozen=True)
class RewardedDialogues:
    """A model that was tuned on contradictory conversations of a seed that no verdict draws, once for all cells, goes on with rewards on
    images of the cell's seed, and is asked about others.

    longer  goes on with the same conversations in place of rewards, for as many steps
    """

    recipe: DrLLaVA
    longer: bool = False
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        if cell.instead is not None:
            raise RunError("the arms go on from a model that converses: a raw-input control has nothing to go on from")
        recipe = hosted(self.recipe, cell, address=WORLD)
        start = self._tuned(recipe, cell)
        train = tissue_dialogues(SMOKE_ROWS if cell.smoke else ROWS, seed=cell.seed).remembering()
        test = tissue_dialogues(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test")
        own = replace(recipe, policy_share=1.0, policy_lr=cell.rate or recipe.policy_lr, steps=STEPS)
        alone, init = replace(cell, rate=None), str(start / "model.safetensors")
        if not self.learns:
            model = own.prepare(train).deploy(open_model(start).bridge)
        elif self.longer:
            settings = {**own.settings(), "projector_share": 0.0, "steps": STEPS, "instruct_lr": own.policy_lr}
            run = trained(DialogueTuning(**settings), train, alone, init=init)
            model = own.prepare(train).deploy(open_model(run.model).bridge)
        else:
            model = open_model(trained(own, train, alone, init=init).model)
        task = ClinicalDialogue(draws=1, max_tokens=recipe.max_tokens)
        return {name: metric.value for name, metric in task.score(task.predict(model, test)).metrics.items()}

    def _tuned(self, recipe: DrLLaVA, cell: Cell) -> Path:
        rows = tissue_dialogues(SMOKE_ROWS if cell.smoke else TUNED, seed=ELSEWHERE)
        tuning = DialogueTuning(**recipe.settings())
        alone = replace(cell, folder=cell.folder / "tuned", seed=ELSEWHERE, rate=None, share=1.0, spending=Spending())
        key = [FORMAT, rows.fingerprint, to_plain(out_of_groups(tuning)), cell.size]
        return cached_model("conversations", key, lambda: opened(tuning, rows, alone).save, seed=ELSEWHERE)


def claims() -> tuple[Claim, ...]:
    made = replace(DrLLaVA.tiny(), image_weights=WORLD, small_steps=800, small_image_steps=400, steps=200)
    correct = replace(made, reward=replace(made.reward, consistent=0.0))
    rates = around(made.policy_lr)
    return (
        Claim(
            slug="dr_llava",
            kind="paper's claim",
            sentence="Conversations hang together more often after a reward of right and consistent answers than after one of right "
            "answers alone, for as many steps",
            source="2405.19567: the symbolic reward makes multi-turn answers correct and mutually consistent",
            refuted="a difference whose interval lies below zero",
            baseline=Arm("right answers alone", RewardedDialogues(correct), rates),
            method=Arm("right and consistent", RewardedDialogues(made), rates),
            controls=(
                Arm("as it was", RewardedDialogues(made, learns=False)),
                Arm("tuned for longer", RewardedDialogues(made, longer=True)),
            ),
            metric="consistent",
            margins=Margins(matters=0.05, equivalence=0.03),
            equal_budget=("steps", "samples"),
            data=f"{ROWS} rendered tiles of tissue with five questions each, {TESTED} of the same seed to test; {TUNED:,} others first",
            reported=("conversation", "question", "last"),
            seeds=4,
            tuning_seeds=(0,),
        ),
    )
