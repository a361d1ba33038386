"""Does MIR put bridges into the order of what they learned?"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.ranked_runs import READ, STEPS, TESTED, Ranking
from diptych.claims.claim import Arm, Claim, declare


def claims() -> tuple[Claim, ...]:
    ordered = declare(
        slug="mir",
        sentence="MIR puts eight runs of a bridge into the order of their captions better than the loss on held-out captions does",
        source="2410.07167: MIR tells how well a bridge was pre-trained where loss and perplexity do not. There quality is that after "
        "fine-tuning, here that of the captions themselves, which favours the loss",
        baseline=Arm("loss", Ranking("loss")),
        method=Arm("MIR", Ranking("mir")),
        controls=(Arm("norm of a picture's tokens", Ranking("norm")), Arm("MIR as released", Ranking("mir_as_released"))),
        metric="spearman",
        margins=0.1,
        equal_budget=("steps", "trained_parameters"),  # nothing is trained by an arm
        data=f"eight runs of a linear map before a language model: {', '.join(map(str, STEPS))} steps on pictures of two shapes, all "
        f"captions right or half of them; captions of {TESTED} others, MIR of {READ}; runs of a seed are trained once for all arms, and "
        "are on no arm's account",
        reported=("best", "worst", "blind"),
        why_long="eight runs a seed, each of which writes captions",
    )
    as_they_come = replace(
        ordered,
        name="norms_as_they_come",
        sentence="Where a fresh map gives tokens of any norm, MIR orders eight runs better than the loss on held-out captions does",
        baseline=Arm("loss", Ranking("loss", match=False)),
        method=Arm("MIR", Ranking("mir", match=False)),
        controls=(
            Arm("norm of a picture's tokens", Ranking("norm", match=False)),
            Arm("MIR as released", Ranking("mir_as_released", match=False)),
        ),
    )
    return ordered, as_they_come
