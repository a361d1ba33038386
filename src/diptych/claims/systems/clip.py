"""More negatives help (Radford et al., 2021, trained with 32,768); and a CLIP tuned through adapters of low rank keeps more of what it knew
than one whose weights all move (Hu et al., 2021; Biderman et al., 2024)."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.fine_tuned import AdaptedCLIP, FineTuned
from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.claims.cells.learned_pairs.retrieved import Retrieved
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.contrastive.clip import CLIP

PAIRS, PARTS = 30_720, ("unseen_style", "unseen_concept")
STARTED, TUNED, SHOWN, RANK = 300, 150, 3000, 16
"""Steps of the start and of the tuning, pictures of each, and the rank of the adapters."""


def batches_of(size: int) -> CLIP:
    """The same recipe, data and pairs seen; the batch alone differs, and its rate is swept."""
    return replace(CLIP.tiny(), batch_size=size, steps=PAIRS // size, warmup=0.1)


def claims() -> tuple[Claim, ...]:
    small, large = batches_of(16), batches_of(256)
    return (
        declare(
            slug="clip",
            sentence="At equal pairs seen, a batch of 256 gives a higher recall at 1 on an unseen style than a batch of 16",
            source="2103.00020, which trains with 32,768 and names the batch as the source of negatives",
            baseline=Arm("batch 16", Retrieved(small, PARTS), (5e-5, 2e-4, 8e-4)),
            method=Arm("batch 256", Retrieved(large, PARTS), around(8e-4)),
            controls=(Arm("untrained", Retrieved(large, PARTS, learns=False)),),
            metric="unseen_style/t2i_r@1",
            tuned_by="unseen_concept/t2i_r@1",
            margins=0.02,
            equal_budget=("samples", "trained_parameters"),
            data="emoji",
            reported=("unseen_style/i2t_r@1", "unseen_concept/t2i_r@1"),
            tuning_seeds=(0, 1),
            why_long="what a batch of 16 reads takes sixteen times as many steps as a batch of 256, at equal pairs seen",
        ),
        *adapted(),
    )


def adapted() -> tuple[Claim, Claim]:
    """Two claims about the same runs: what is kept of the source, and what is learned of the target."""
    start = sized_for(CLIP.tiny(), batch_size=128, steps=STARTED)
    tuned = sized_for(AdaptedCLIP.tiny(), batch_size=128, steps=TUNED, warmup=10.0)
    untuned, never = FineTuned(start, tuned, SHOWN, learns=False), replace(start, lr=0.0, weight_decay=0.0)
    unstarted = Arm("never started", FineTuned(never, tuned, SHOWN, learns=False))
    kept = declare(
        slug="clip",
        name="adapters",
        sentence="At equal steps, adapters of low rank keep more of what a CLIP knew than tuning every weight",
        source="2106.09685 for the adapters; 2405.09673, which finds that they forget less",
        baseline=Arm("every weight", FineTuned(start, tuned, SHOWN), around(3e-4)),
        method=Arm("adapters", FineTuned(start, replace(tuned, rank=RANK), SHOWN), around(2e-3)),
        controls=(unstarted,),
        bounds=(Arm("untuned", untuned),),
        metric="source/i2t_r@1",
        tuned_by="target/i2t_r@1",
        margins=0.05,
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
