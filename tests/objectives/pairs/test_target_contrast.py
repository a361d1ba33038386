"""target_contrast against a double loop, info_nce, the losses released with PLIP and finite differences."""

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
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.target_contrast import same_id_targets, target_contrast

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "grouped_released.json").read_text())["cmpm"]
GROUP = torch.tensor([0, 0, 1, 2, 1, 0])


def features(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(image: Tensor, text: Tensor, target: Tensor, ignore: Tensor, **o: Any) -> tuple[Tensor, Tensor]:
    """Both directions, one number at a time."""

    def one(anchor: Tensor, keys: Tensor, wanted: list[float], out: list[bool]) -> Tensor | None:
        cells = [j for j in range(len(keys)) if not out[j]]
        total = sum(wanted[j] for j in cells) if o["target_norm"] == "sum" else math.sqrt(sum(wanted[j] ** 2 for j in cells))
        if not total:
            return None
        z = []
        for j in cells:
            a = anchor / anchor.norm() if o["normalise"] == "both" else anchor
            k = keys[j] if o["normalise"] == "none" else keys[j] / keys[j].norm()
            z.append(o["scale"] * (a * k).sum())
        top = torch.stack(z).exp().sum()
        value = torch.zeros((), dtype=torch.float64)
        for place, j in enumerate(cells):
            p, q = z[place].exp() / top, wanted[j] / total
            value = value + (p * (p.log() - math.log(q + o["eps"])) if o["divergence"] == "reverse_kl" else -q * p.log())
        return value

    rows = [one(image[i], text, target[i].tolist(), ignore[i].tolist()) for i in range(len(image))]
    columns = [one(text[j], image, target[:, j].tolist(), ignore[:, j].tolist()) for j in range(len(text))]
    by_row, by_column = (torch.stack([x for x in side if x is not None]).mean() for side in (rows, columns))
    return by_row, by_column


@pytest.mark.parametrize("divergence", ["cross_entropy", "reverse_kl"])
@pytest.mark.parametrize("normalise", ["both", "other", "none"])
@pytest.mark.parametrize("target_norm", ["sum", "l2"])
@pytest.mark.parametrize("targets", ["ids", "soft, with a row and a column of none"])
def test_equals_a_double_loop_with_every_gradient(divergence, normalise, target_norm, targets, parity):
    image, text = features(6, 0).requires_grad_(), features(7, 1).requires_grad_()
    target = (GROUP[:, None] == torch.tensor([0, 0, 1, 2, 1, 0, 2])).double()
    ignore = torch.zeros_like(target, dtype=torch.bool)
    if targets != "ids":
        target = torch.rand(6, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * (target + 0.3)
        target[2], target[:, 4] = 0, 0
        ignore = torch.rand(6, 7, generator=torch.Generator().manual_seed(4)) < 0.25
    scale = torch.tensor([1.7], dtype=torch.float64, requires_grad=True)
    o = {"divergence": divergence, "normalise": normalise, "target_norm": target_norm, "eps": 1e-8}
    loss, parts = target_contrast(image, text, target, scale=scale, ignore_NC=ignore, **o)
    row, column = naive(image, text, target, ignore, scale=scale.reshape(()), **o)
    pairs = [(parts["image_to_text"], row), (parts["text_to_image"], column), (loss, (row + column) / 2)]
    leaves = (image, text, scale)
    pairs += zip(torch.autograd.grad(loss, leaves), torch.autograd.grad((row + column) / 2, leaves), strict=True)
    parity("plip_person", "identity contrast: loss and every gradient, all forms", "double loop", pairs, tolerance=1e-12)
    summed, _ = target_contrast(image, text, target, scale=scale, ignore_NC=ignore, reduction="sum", **o)
    assert summed.item() == pytest.approx(2 * loss.item())


@pytest.mark.parametrize("same", ["positive", "negative"])
def test_cross_entropy_of_unit_features_is_info_nce(same):
    image, text = (F.normalize(features(6, seed), dim=-1) for seed in (0, 1))
    target = same_id_targets(GROUP) if same == "positive" else torch.eye(6)
    ours, parts = target_contrast(image, text, target, scale=9.0)
    theirs, other = info_nce(image, text, scale=9.0, group_N=GROUP, group_M=GROUP, same=same)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    assert parts["image_to_text"].item() == pytest.approx(other["image_to_text"].item(), abs=1e-12)


def test_ignored_cells_are_info_nce_with_a_mask():
    image, text = (F.normalize(features(6, seed), dim=-1) for seed in (0, 1))
    same = same_id_targets(GROUP) & ~torch.eye(6, dtype=torch.bool)
    ours, _ = target_contrast(image, text, torch.eye(6), scale=9.0, ignore_NC=same)
    theirs, _ = info_nce(image, text, scale=9.0, group_N=GROUP, group_M=GROUP, same="mask")
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)


def test_released_cmpm_divides_by_the_l2_norm(parity):
    image, text = (torch.tensor(RELEASED[name], dtype=torch.float64, requires_grad=True) for name in ("image", "text"))
    target = same_id_targets(torch.tensor(RELEASED["labels"]))
    options: dict[str, Any] = {"divergence": "reverse_kl", "normalise": "other", "reduction": "sum"}
    loss, _ = target_contrast(image, text, target, target_norm="l2", **options)
    gradients = torch.autograd.grad(loss, (image, text))
    wanted = [torch.tensor(RELEASED[name], dtype=torch.float64) for name in ("image_grad", "text_grad")]
    pairs = [(loss, RELEASED["loss"]), *zip(gradients, wanted, strict=True)]
    parity("plip_person", "identity contrast, released form", "compute_cmpm_loss of PLIP (09890e3)", pairs, tolerance=1e-7)
    default, _ = target_contrast(image, text, target, **options)
    assert abs(default.item() - RELEASED["loss"]) > 0.1, "a sum of 1 is another loss"


def test_only_targets_at_sum_one_keep_the_divergence_above_zero():
    unit = torch.eye(4, dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 0])
    options: dict[str, Any] = {"divergence": "reverse_kl", "normalise": "other"}
    right, _ = target_contrast(unit * 0, unit, same_id_targets(group), directions="image_to_text", **options)
    released, _ = target_contrast(unit * 0, unit, same_id_targets(group), directions="image_to_text", target_norm="l2", **options)
    assert right.item() == pytest.approx(0, abs=1e-7), "uniform p, uniform q"
    assert released.item() == pytest.approx(-math.log(2), abs=1e-6), "q of 1/2 four times"


def test_gradcheck_in_both_forms():
    target = same_id_targets(GROUP)
    for divergence in ("cross_entropy", "reverse_kl"):
        assert torch.autograd.gradcheck(
            lambda x, y, s, d=divergence: target_contrast(x, y, target, scale=s, divergence=d, normalise="other")[0],
            (
                features(6, 0).requires_grad_(),
                features(6, 1).requires_grad_(),
                torch.tensor([1.3], dtype=torch.float64).requires_grad_(),
            ),
        )


def test_stays_finite_where_no_key_is_near():
    image, text = features(6, 0).float() * 1e4, features(6, 1).float()
    for divergence in ("cross_entropy", "reverse_kl"):
        x = image.clone().requires_grad_()
        loss, _ = target_contrast(x, text, same_id_targets(GROUP), divergence=divergence, normalise="other", scale=100.0)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_faults_are_named():
    image = features(6, 0)
    with pytest.raises(ShapeError, match=r"target_NC must be \[6, 6\].*got \[6, 5\]"):
        target_contrast(image, image, torch.ones(6, 5))
    with pytest.raises(ConfigError, match="no row has a target"):
        target_contrast(image, image, torch.zeros(6, 6))
    with pytest.raises(ConfigError, match="not below 0"):
        target_contrast(image, image, -torch.ones(6, 6))
    with pytest.raises(ConfigError, match=r"divergence is 'kl' \(expected cross_entropy \| reverse_kl\)"):
        target_contrast(image, image, torch.ones(6, 6), divergence="kl")
