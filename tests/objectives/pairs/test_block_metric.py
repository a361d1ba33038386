"""block_metric against a double loop, the losses released with KEEP and KEP, and finite differences."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.pairs.block_metric import block_metric, block_metric_pairs

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "grouped_released.json").read_text())
BLOCKS = torch.arange(3).repeat_interleave(2)


def cosines(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    a, b = (F.normalize(torch.randn(n, 5, generator=generator, dtype=torch.float64), dim=-1) for n in (rows, columns))
    return a @ b.T


def naive(s: Tensor, rows: list[int], columns: list[int], scale: float, positive: str, negative: str, **o: Any) -> float:
    """One group after the other, with plain sums of exponentials."""
    groups = sorted(set(rows))
    losses = []
    for a in groups:
        mine = [i for i, g in enumerate(rows) if g == a]
        own = [j for j, g in enumerate(columns) if g == a]
        hard = -math.log(sum(math.exp(-scale * s[i, j]) for i in mine for j in own))
        least = math.log(sum(1 / sum(math.exp(-scale * s[i, j]) for j in own) for i in mine))
        h, low = hard / scale, least / scale
        w = {"hard": 1.0, "least_hard": 0.0}.get(positive, 0.0 if h < 0 else 2 * h * low / (h + low))
        chosen = w * hard + (1 - w) * least
        total = 0.0
        for b in groups:
            if b == a:
                continue
            theirs = [j for j, g in enumerate(columns) if g == b]

            def value(i: int, j: int) -> float:
                out = o.get("ignore") is not None and bool(o["ignore"][i, j])
                return (math.exp(-scale) if o["ignored"] == "floor" else 0.0) if out else math.exp(scale * float(s[i, j]))

            if negative == "hard":
                total += sum(value(i, j) for i in mine for j in theirs)
            else:
                inner = [sum(value(i, j) for j in theirs) for i in mine]
                total += 1 / sum(1 / x for x in inner) if all(inner) else 0.0
        for e, of in enumerate(o.get("extra_of", [])):
            if of in (a, None):
                total += sum(math.exp(scale * float(o["extra"][i, e])) for i in mine)
        losses.append(math.log1p(total / math.exp(chosen)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("positive", ["hard", "least_hard", "adaptive"])
@pytest.mark.parametrize("negative", ["hard", "least_hard"])
@pytest.mark.parametrize(
    "form", ["blocks", "groups of any size, ignored pairs", "dropped pairs", "extra columns of one group each", "extra of all"]
)
def test_equals_a_double_loop(positive, negative, form, parity):
    rows, columns = BLOCKS.tolist(), BLOCKS.tolist()
    o: dict[str, Any] = {"ignored": "drop" if form == "dropped pairs" else "floor"}
    given: dict[str, Any] = {"ignored": o["ignored"]}
    if form not in ("blocks", "extra of all"):
        rows, columns = [7, 2, 7, 5, 2, 7], [2, 5, 5, 7, 2]
    s = cosines(len(rows), len(columns), seed=1) * 0.4 + 0.3
    if "pairs" in form:
        o["ignore"] = given["ignore_NM"] = torch.rand(s.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    if form.startswith("extra"):
        o["extra"] = given["extra_NE"] = cosines(len(rows), 4, seed=3)
        o["extra_of"] = [2, 7, 5, 7] if "each" in form else [None] * 4
        given["extra_group_E"] = torch.tensor(o["extra_of"]) if "each" in form else None
    ours = block_metric(s, torch.tensor(rows), torch.tensor(columns), scale=6.0, positive=positive, negative=negative, **given)
    wanted = naive(s, rows, columns, 6.0, positive, negative, **o)
    parity("keep", "block metric loss, every form", "double loop", [(ours, wanted)], tolerance=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), [("hard", "sp-h"), ("least_hard", "sp-lh"), ("adaptive", "adasp")])
def test_one_set_against_itself_is_the_released_adasp(ours, theirs, parity):
    given = RELEASED["adasp"]
    x = torch.tensor(given["features"], dtype=torch.float64, requires_grad=True)
    unit = F.normalize(x, dim=-1)
    group = torch.tensor(given["groups"])
    loss = block_metric(unit @ unit.T, group, group, scale=given["scale"], positive=ours)
    wanted = given["results"][theirs]
    pairs = [(loss, wanted["loss"]), (torch.autograd.grad(loss, x)[0], torch.tensor(wanted["grad"], dtype=torch.float64))]
    parity("keep", "block metric loss within texts", "AdaSPLoss of KEP (b4774c7)", pairs, tolerance=1e-9)


@pytest.mark.parametrize(
    ("theirs", "positive", "negative"),
    [
        ("hp-hn", "hard", "hard"),
        ("lhp-hn", "least_hard", "hard"),
        ("hp-lhn", "hard", "least_hard"),
        ("lhp-lhn", "least_hard", "least_hard"),
        ("lhp-hn+extra", "least_hard", "hard"),
    ],
)
def test_pairs_with_related_groups_are_the_released_loss(theirs, positive, negative, parity):
    given = RELEASED["pairs"]
    image, text = (torch.tensor(given[name], dtype=torch.float64, requires_grad=True) for name in ("image", "text"))
    related = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)  # the first group is the second one's parent
    more: dict[str, Any] = {}
    if theirs.endswith("extra"):  # the third group is of unknown disease: its extra texts count as cosine -1
        extra = torch.tensor(given["extra"], dtype=torch.float64)
        more = {"extra_text_ED": extra, "extra_group_E": BLOCKS, "extra_ignore_E": BLOCKS == 2}
    loss = block_metric_pairs(
        image,
        text,
        BLOCKS,
        scale=given["scale"],
        positive=positive,
        negative=negative,
        ignore_RC=related[BLOCKS][:, BLOCKS],
        **more,
    )
    wanted = given["results"][theirs]
    gradients = torch.autograd.grad(loss, (image, text))
    theirs_grads = [torch.tensor(wanted[name], dtype=torch.float64) for name in ("image_grad", "text_grad")]
    pairs = [(loss, wanted["loss"]), *zip(gradients, theirs_grads, strict=True)]
    parity("keep", "block metric loss between images and texts", "HyMetricLoss of KEEP (a346a70)", pairs, tolerance=1e-9)


def test_gradcheck_and_order_of_rows_does_not_matter():
    s = (cosines(6, 6, 4) * 0.5).requires_grad_()
    scale = torch.tensor([5.0], dtype=torch.float64, requires_grad=True)
    for positive in ("hard", "least_hard"):
        assert torch.autograd.gradcheck(lambda x, k, p=positive: block_metric(x, BLOCKS, BLOCKS, scale=k, positive=p), (s, scale))
    mixed = torch.tensor([3, 0, 5, 1, 4, 2])
    ours = block_metric(s[mixed][:, mixed], BLOCKS[mixed], BLOCKS[mixed], scale=5.0)
    assert ours.item() == pytest.approx(block_metric(s, BLOCKS, BLOCKS, scale=5.0).item(), abs=1e-12)


def test_float32_stays_finite_at_a_scale_of_100_and_near_float64():
    s = cosines(6, 6, 5)
    for ignored in ("floor", "drop"):
        x = s.float().requires_grad_()
        ignore = (BLOCKS[:, None] != BLOCKS) & (BLOCKS[:, None] == 0)  # the first group is left without a negative
        loss = block_metric(x, BLOCKS, BLOCKS, scale=200.0, ignore_NM=ignore, ignored=ignored)
        wide = block_metric(s, BLOCKS, BLOCKS, scale=200.0, ignore_NM=ignore, ignored=ignored)
        assert loss.item() == pytest.approx(wide.item(), rel=1e-5)
        assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_one_group_of_its_own_has_nothing_to_lose():
    s = cosines(3, 3, 6).requires_grad_()
    loss = block_metric(s, torch.zeros(3), torch.zeros(3), scale=9.0)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, s)[0].any()


def test_faults_are_named():
    s = cosines(6, 6, 7)
    with pytest.raises(ConfigError, match=r"rows have groups \[0, 1, 2\] and columns \[1, 2, 3\]"):
        block_metric(s, BLOCKS, BLOCKS + 1, scale=1.0)
    with pytest.raises(ShapeError, match="an id a row and a column"):
        block_metric(s, BLOCKS[:4], BLOCKS, scale=1.0)
    with pytest.raises(ShapeError, match="extra_group_E needs extra_NE"):
        block_metric(s, BLOCKS, BLOCKS, scale=1.0, extra_group_E=BLOCKS)
    with pytest.raises(ConfigError, match=r"positive is 'soft' \(expected hard \| least_hard \| adaptive\)"):
        block_metric(s, BLOCKS, BLOCKS, scale=1.0, positive="soft")
