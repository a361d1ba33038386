"""A memory against forgetting: CTP against plain fine-tuning on tasks one after the other."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.pairs import sized_for
from diptych.claims.cells.streams import Streamed
from diptych.claims.claim import Arm, Claim
from diptych.claims.sweep import around
from diptych.claims.verdict import Margins
from diptych.recipes.contrastive.ctp import CTP
from diptych.worlds.task_streams import colours, vendors

BATCH, STEPS, ROWS, TESTED = 128, 600, 2000, 500
VENDOR_ROWS, VENDOR_STEPS = 1000, 540


def small(steps: int) -> CTP:
    """CTP without the guessing of words, at the size of these pictures."""
    return sized_for(CTP.tiny(), column=("task",), fusion_layers=0, batch_size=BATCH, steps=steps, warmup=10.0, lr=1e-3, tau=0.07)


def plain(recipe: CTP) -> CTP:
    """The same without any memory: fine-tuning on one task after the other."""
    return replace(recipe, weight_momentum=0.0, weight_topology=0.0, weight_distilled=0.0)


def claims() -> tuple[Claim, ...]:
    ctp = small(STEPS)
    many_colours = Claim(
        slug="ctp",
        kind="paper's claim",
        sentence="After all colours and then three tasks of two colours each, CTP retrieves more of the first than plain fine-tuning",
        source="2308.07146, whose finding this is on nine product domains; tasks of colours are ours",
        refuted="a difference whose interval lies below zero. What it costs on the last task is reported and no part of the claim",
        baseline=Arm("fine-tuning", Streamed(plain(ctp), colours, ROWS, TESTED), around(ctp.lr)),
        method=Arm("ctp", Streamed(ctp, colours, ROWS, TESTED), around(ctp.lr)),
        controls=(Arm("untrained", Streamed(ctp, colours, ROWS, TESTED, learns=False)),),
        metric="first_task",
        margins=Margins(matters=0.03, equivalence=0.03),
        equal_budget=("steps", "samples"),
        data=f"{6 * ROWS:,} rendered pictures of two shapes in four tasks; recall at 1 among {TESTED} of the first",
        reported=("last_task", "average", "forgetting", "union", "union_loss", "first_task_then"),
    )
    by_vendor = small(VENDOR_STEPS)
    return many_colours, replace(
        many_colours,
        name="vendors",
        sentence="After three vendors of emoji in a row, CTP retrieves more pictures of the first than plain fine-tuning does",
        source="2308.07146; vendors as tasks are ours",
        baseline=Arm("fine-tuning", Streamed(plain(by_vendor), vendors, VENDOR_ROWS, TESTED), around(by_vendor.lr)),
        method=Arm("ctp", Streamed(by_vendor, vendors, VENDOR_ROWS, TESTED), around(by_vendor.lr)),
        controls=(Arm("untrained", Streamed(by_vendor, vendors, VENDOR_ROWS, TESTED, learns=False)),),
        data=f"pictures of the same {VENDOR_ROWS:,} concepts by three vendors; recall at 1 among {TESTED} of the first vendor's, "
        "all of which it was trained on",
    )
