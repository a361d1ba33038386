"""SigLIP: one yes-or-no question a pair, summed over pairs and divided by images; the published start of scale and bias."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F

from diptych.data.load.batch import PairBatch
from diptych.models.towers.outputs import PairFeatures
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.siglip import SigLIP
from diptych.train.optimise import build_optimiser, learning_rate
from diptych.train.weights import copy_matching_tensors


def test_start_of_scale_and_bias() -> None:
    model = replace(SigLIP.tiny(), tokenizer="clip").model()
    assert model.log_scale.exp().item() == pytest.approx(10.0)
    assert model.bias is not None
    assert model.bias.item() == -10.0


def test_weights_without_a_bias_leave_the_scale_as_it_starts() -> None:
    small = {"width": 16, "tokenizer": "clip"}
    clip, siglip = replace(CLIP.tiny(), **small), replace(SigLIP.tiny(), **small)
    theirs = clip.model().state_dict()
    theirs["log_scale"].fill_(math.log(100.0))
    model = siglip.model()
    taken = copy_matching_tensors(siglip.fitted(theirs), model)
    assert set(theirs) - set(taken) == {"log_scale"}
    assert model.log_scale.exp().item() == pytest.approx(10.0)
    again = siglip.model().state_dict() | {"log_scale": torch.tensor([3.0]), "bias": torch.tensor([-12.0])}
    copy_matching_tensors(siglip.fitted(again), model)
    assert model.bias is not None
    assert (model.log_scale.item(), model.bias.item()) == (3.0, -12.0), "of a sigmoid's weights both are taken"


def test_the_loss_against_a_double_loop() -> None:
    torch.manual_seed(1)
    n = 5
    image, text = (F.normalize(torch.randn(n, 7, dtype=torch.float64), dim=-1) for _ in range(2))
    scale, bias = torch.tensor([12.0], dtype=torch.float64), torch.tensor([-4.0], dtype=torch.float64)
    ids = torch.zeros(n, 2, dtype=torch.int64)
    batch = PairBatch(torch.zeros(n, 3, 4, 4), ids, ids == 0, torch.arange(n))
    total = 0.0
    for i in range(n):
        for j in range(n):
            sign = 1.0 if i == j else -1.0
            total -= F.logsigmoid(sign * (scale * image[i] @ text[j] + bias)).item()
    loss = SigLIP.tiny().losses(PairFeatures(image, text, scale, bias), batch)["pairs"]
    assert loss.item() == pytest.approx(total / n, abs=1e-12)


def test_tiny_differs_from_clip_in_the_loss_alone() -> None:
    clip, siglip = CLIP.tiny(), SigLIP.tiny()
    shared = {f.name for f in fields(clip)} & {f.name for f in fields(siglip)}
    differ = {name for name in shared if getattr(clip, name) != getattr(siglip, name)}
    published = {"resize", "mean", "std", "betas"}
    assert differ == published, "preprocessing and what AdamW remembers are part of the published system; all else is equal"


def test_weights_decay_as_in_big_vision() -> None:
    """There `wd` is added behind the learning rate and scaled by the schedule alone, for `kernel`s; Adam's epsilon is optax's."""
    paper = replace(SigLIP.paper(), image_tower="vit_micro", text_tower="text_micro", width=64, image_size=48, text_bias=True)
    model = replace(paper, project_image=True).model()
    optimiser = build_optimiser(model, paper.optimiser())
    groups = {bool(group["weight_decay"]): group for group in optimiser.param_groups}
    assert all(group["eps"] == 1e-8 for group in optimiser.param_groups)
    assert groups[True]["weight_decay"] * groups[True]["lr"] == pytest.approx(1e-4), "of each weight, a step"
    spared = {id(p) for p in groups[False]["params"]}
    names = {name for name, p in model.named_parameters() if p.ndim >= 2 and id(p) in spared}
    assert names == {"image_tower.position_PD", "text_tower.position_LD", "text_tower.embed.weight"}
    assert paper.optimiser().clip_norm == 1.0
    rates = [learning_rate(paper.optimiser(), step, 100_000) for step in (0, 1, 6500, 100_000)]
    assert rates == pytest.approx([0.0, 1e-3 / 6500, 1e-3, 0.0], abs=1e-12)
    tiny = SigLIP.tiny().optimiser()
    assert (tiny.weight_decay, tiny.eps, tiny.rules) == (0.1, 1e-6, ())


def test_the_published_scale_is_free() -> None:
    recipe = replace(SigLIP.paper(), image_tower="vit_micro", text_tower="text_micro", width=64, image_size=48, text_bias=True)
    for max_scale, wanted in ((0.0, 150.0), (100.0, 100.0)):
        bounded = replace(recipe, project_image=True, max_scale=max_scale)
        model = bounded.model()
        with torch.no_grad():
            model.log_scale.fill_(math.log(150.0))
        bounded.after_update(model, None, None, 0.5)  # type: ignore[arg-type]
        assert model.log_scale.exp().item() == pytest.approx(wanted)


def test_the_paper_builds() -> None:
    with torch.device("meta"):
        model = SigLIP.paper().model()
    pieces = model.text_tower.embed.num_embeddings
    counted = sum(p.numel() for p in model.parameters()) - (pieces - 32_000) * 768
    assert counted == 203_155_970, "open_clip's ViT-B-16-SigLIP, whose vocabulary has 32,000 pieces"
    assert isinstance(model.image_projection, torch.nn.Identity)
    assert model.text_projection.bias is not None
    assert model.text_tower.spec["act"] == model.image_tower.spec["act"] == "gelu_tanh"
