"""More negatives help (Radford et al., 2021, trained with 32,768); names compose: pairs of words never seen together classify; and a CLIP
tuned through adapters of low rank keeps more of what it knew than one whose weights all move (Hu et al., 2021; Biderman et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.fine_tuned import AdaptedCLIP, FineTuned
from diptych.claims.cells.learned_pairs.pairs import clean_rows, drawn, sized_for
from diptych.claims.cells.learned_pairs.retrieved import Retrieved
from diptych.claims.claim import Arm, Claim
from diptych.claims.sweep import around
from diptych.claims.training import opened, untrained
from diptych.claims.verdict import Margins
from diptych.data.dataset import Pool
from diptych.recipes.contrastive.clip import CLIP
from diptych.tasks.pairs.zero_shot import ZeroShot
from diptych.worlds.small_pairs import NOUNS, SmallPairs

PAIRS, PARTS = 30_720, ("unseen_style", "unseen_concept")
HELD_OUT = ("red circle", "green square", "blue triangle", "yellow cross")
"""Of 24 nouns; each of their words is seen in other combinations."""
IMAGES, TESTED = 6000, 1500
STARTED, TUNED, SHOWN, RANK = 300, 150, 3000, 16
"""Steps of the start and of the tuning, pictures of each, and the rank of the adapters."""


def batches_of(size: int) -> CLIP:
    """The same recipe, data and pairs seen; the batch alone differs, and its rate is swept."""
    return replace(CLIP.tiny(), batch_size=size, steps=PAIRS // size, warmup=0.1)


@dataclass(frozen=True)
class Named:
    """Zero-shot accuracy over all nouns, on images with one that was held out and on images like those of training."""

    recipe: CLIP
    pairs: SmallPairs
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = drawn(self.pairs, cell)
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        task = ZeroShot(classes=NOUNS, templates="a {}", draws=1)
        shown = clean_rows(cell, TESTED)
        parts = {"unseen": HELD_OUT, "seen": tuple(noun for noun in NOUNS if noun not in HELD_OUT)}
        return {
            f"{part}/acc@1": task.score(task.predict(model, labelled(shown, nouns))).metrics["acc@1"].value
            for part, nouns in parts.items()
        }


@dataclass(frozen=True)
class SeenNouns:
    """Knows every noun of training and no other: answers with one of the twenty, whatever the picture shows."""

    def __call__(self, cell: Cell) -> Scores:
        return {"unseen/acc@1": 0.0, "seen/acc@1": 1 / (len(NOUNS) - len(HELD_OUT))}


def labelled(shown: Pool, nouns: Sequence[str]) -> Pool:
    """The images that show one of these nouns, labelled by it; of two such, by the one that the text names first."""
    samples = []
    for row in range(len(shown)):
        sample = shown[row]
        here = [noun for noun in nouns if noun in sample.texts[0].string]
        if here:
            first = min(here, key=sample.texts[0].string.index)
            samples.append(replace(sample, extras={"label": first}))
    return Pool.from_samples(samples, name=f"{shown.name}/named")


def claims() -> tuple[Claim, ...]:
    small, large = batches_of(16), batches_of(256)
    recipe, pairs = sized_for(CLIP.tiny(), batch_size=128, steps=400), SmallPairs(IMAGES, avoid=HELD_OUT)
    return (
        Claim(
            slug="clip",
            kind="paper's claim",
            sentence="At equal pairs seen, a batch of 256 gives a higher recall at 1 on an unseen style than a batch of 16",
            source="2103.00020, which trains with 32,768 and names the batch as the source of negatives",
            refuted="a difference whose interval lies below zero",
            baseline=Arm("batch 16", Retrieved(small, PARTS), (5e-5, 2e-4, 8e-4)),
            method=Arm("batch 256", Retrieved(large, PARTS), around(8e-4)),
            controls=(Arm("untrained", Retrieved(large, PARTS, learns=False)),),
            metric="unseen_style/t2i_r@1",
            tuned_by="unseen_concept/t2i_r@1",
            margins=Margins(matters=0.02, equivalence=0.02),
            equal_budget=("samples", "trained_parameters"),
            data="emoji",
            reported=("unseen_style/i2t_r@1", "unseen_concept/t2i_r@1"),
            tuning_seeds=(0, 1),
            why_long="what a batch of 16 reads takes sixteen times as many steps as a batch of 256, at equal pairs seen",
        ),
        Claim(
            slug="clip",
            name="names",
            kind="mechanism check",
            sentence="Zero-shot, a colour and a shape never seen together are named more often than by the untrained towers",
            source="2103.00020: class names become a classifier; whether they compose is our question",
            refuted="an accuracy no higher than that of the same towers untrained",
            baseline=Arm("untrained", Named(recipe, pairs, learns=False)),
            method=Arm("clip", Named(recipe, pairs), around(recipe.lr)),
            controls=(Arm("seen nouns", SeenNouns()),),
            metric="unseen/acc@1",
            tuned_by="seen/acc@1",
            margins=Margins(matters=0.05, equivalence=0.05),
            equal_budget=("labelled", "trusted"),
            data=f"{IMAGES:,} rendered images of two shapes, four of 24 combinations held out",
            reported=("seen/acc@1",),
        ),
        *adapted(),
    )


def adapted() -> tuple[Claim, Claim]:
    """Two claims about the same runs: what is kept of the source, and what is learned of the target."""
    start = sized_for(CLIP.tiny(), batch_size=128, steps=STARTED)
    tuned = sized_for(AdaptedCLIP.tiny(), batch_size=128, steps=TUNED, warmup=10.0)
    untuned, never = FineTuned(start, tuned, SHOWN, learns=False), replace(start, lr=0.0, weight_decay=0.0)
    unstarted = Arm("never started", FineTuned(never, tuned, SHOWN, learns=False))
    kept = Claim(
        slug="clip",
        name="adapters",
        kind="paper's claim",
        sentence="At equal steps, adapters of low rank keep more of what a CLIP knew than tuning every weight",
        source="2106.09685 for the adapters; 2405.09673, which finds that they forget less",
        refuted="a difference whose interval lies below zero",
        baseline=Arm("every weight", FineTuned(start, tuned, SHOWN), around(3e-4)),
        method=Arm("adapters", FineTuned(start, replace(tuned, rank=RANK), SHOWN), around(2e-3)),
        controls=(unstarted,),
        bounds=(Arm("untuned", untuned),),
        metric="source/i2t_r@1",
        tuned_by="target/i2t_r@1",
        margins=Margins(matters=0.05, equivalence=0.05),
        equal_budget=("steps", "samples"),
        data=f"{SHOWN:,} rendered pictures to start from, as many darker ones of eight kinds to tune on; 500 fresh ones of either",
        reported=("target/i2t_r@1", "trained", "held_kib"),
        tuning_seeds=(0, 1),
        why_long="each cell trains a model to start from",
    )
    learned = replace(
        kept,
        name="adapters_target",
        sentence="At equal steps, adapters of low rank are as good on the data that a CLIP is tuned on as tuning every weight",
        source="2106.09685, which finds them on par or better; 2405.09673 finds that they learn less",
        refuted="a difference whose interval lies outside the equivalence margin",
        controls=(Arm("untuned", untuned), unstarted),
        bounds=(),
        metric="target/i2t_r@1",
        reported=("source/i2t_r@1", "trained", "held_kib"),
    )
    return kept, learned
