"""DesCo on shapes with made-up names: whether the description in a query is obeyed, or the name alone.

Looks and words take long to find each other: for some 600 steps the share of right tokens that a run logs stays at a third, while boxes
are found by then, and it rises to the end. So it is where each description is read by itself (`reads="pieces"`). A text encoder with
fresh weights that reads all of a query at once was given a minute of a processor only and did not leave chance in it; the release's BERT
can read before.
"""

from __future__ import annotations

from diptych.claims.cells.relations.invented_names import SCENES, TESTED, Described, small
from diptych.claims.claim import Arm, Claim, around, declare

DATA = f"{SCENES:,} rendered scenes of two shapes with made-up names; {TESTED} each with names that training had and with others to test"


def claims() -> tuple[Claim, ...]:
    described, named = small(), small(form="name")
    rates = around(described.lr)
    pairs = declare(
        slug="desco",
        sentence=(
            "Asked for a thing by its name with a right description or with one that is wrong in one word, a detector that learned from "
            "descriptions scores the right one higher more often than one that learned from names"
        ),
        source="2306.14060: detectors that learned names hardly change their scores when a description is exchanged for a confusable one",
        refuted="a difference whose interval lies below zero, or a share that descriptions of other things reach as well",
        baseline=Arm("names", Described(named), rates),
        method=Arm("descriptions", Described(described), rates),
        controls=(
            Arm("untrained", Described(described, learns=False)),
            Arm("descriptions of others", Described(described, shuffled=True)),
        ),
        metric="seen/pairs",
        margins=0.05,
        equal_budget=("steps", "samples", "trained_parameters"),
        data=DATA,
        tuned_by="seen/found",
        reported=("unseen/pairs", "seen/found", "unseen/found"),
        seeds=4,
        tuning_seeds=(0,),
        why_long="a detector reads words from scratch: a cell is 2,000 steps, some four minutes of a core; rates are swept on one seed",
    )
    return (pairs,)
