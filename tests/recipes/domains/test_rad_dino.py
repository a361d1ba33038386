"""RAD-DINO: DINO, iBOT and KoLeo against lightly, Sinkhorn by hand, masks, the teacher, and a released folder against transformers."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

import diptych as dp
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.data.load.stream import batches
from diptych.data.media.augment.block_masks import block_mask, masked_images
from diptych.models.io.releases.rad_dino import from_transformers_dinov2, tower_arguments
from diptych.models.pairs.encoders.dino_head import DINOHead
from diptych.models.pairs.image_embedder import ImageTowerEmbedder
from diptych.models.towers.towers import image_tower
from diptych.objectives.distillation.sinkhorn import sinkhorn_knopp
from diptych.recipes.domains.rad_dino import RadDINO, TeacherConfig, ViewsConfig
from diptych.train.fit import fit
from diptych.train.optimise import build_optimiser, freeze, learning_rate, schedule, weight_decay
from diptych.train.options import TrainOptions
from diptych.worlds.resolve import resolve

DATA = resolve("world:chests?n=12&size=48").split("train")


def wave(name: str, shape: tuple[int, ...], scale: float) -> torch.Tensor:
    """Numbers that anybody can make again, which the authors' code was run on."""
    count = int(np.prod(shape))
    values = scale * np.sin(np.arange(1, count + 1) * 12.9898 + zlib.crc32(name.encode()) % 1000)
    return torch.from_numpy(values.reshape(shape)).float()


def small(**changes: Any) -> RadDINO:
    views = ViewsConfig(locals=3, local_size=24, whole_scale=(0.5, 1.0), local_scale=(0.1, 0.4))
    teacher = TeacherConfig(prototypes=32, head_hidden=16, head_width=8, momentum=0.9, tau_warmup=0.5)
    shape: dict[str, Any] = {"image_tower": "dense_micro", "image_size": 48, "views": views, "teacher": teacher, "batch_size": 4}
    return replace(RadDINO.tiny(), **{**shape, "steps": 6, "warmup": 1.0, **changes})


def step_of(recipe: RadDINO) -> Any:
    (step,) = batches(DATA, recipe, seed=0, stop=1)
    return step.batch


def features_of(recipe: RadDINO) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    model, batch = recipe.model(), step_of(recipe)
    model.class_centre_K.copy_(torch.randn(32) * 0.1)
    model.patch_centre_K.copy_(torch.randn(32) * 0.1)
    return model, batch, recipe.features(model, batch)


def test_terms_are_those_of_lightly(parity: Any) -> None:
    """DINO over 2 x (1 + 3) pairs, iBOT weighed by image, KoLeo of each whole view, and centres."""
    from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss

    recipe = small()
    model, batch, features = features_of(recipe)
    losses = recipe.losses(features, batch)
    tau = float(features.teacher_tau)
    dino = DINOLoss(output_dim=32, warmup_teacher_temp=tau, teacher_temp=tau, student_temp=0.1, center_momentum=0.9)
    dino.center.copy_(features.class_centre_K.reshape(dino.center.shape))
    views = torch.cat([features.whole_NGK, features.local_NVK], 1)
    classes = dino(list(features.teacher_NGK.unbind(1)), list(views.unbind(1)), epoch=0)
    ibot = IBOTPatchLoss(output_dim=32, teacher_temp=tau, student_temp=0.1, center_momentum=0.9)
    buffer = dict(ibot.named_buffers())["center.center"]
    buffer.copy_(features.patch_centre_K.reshape(buffer.shape))
    there = (batch.position_BGM >= 0).flatten(0, 1)
    hidden = batch.hidden_BGP.flatten(0, 1)
    side = round(hidden.shape[1] ** 0.5)
    patches = ibot(
        teacher_out=features.teacher_patch_NGMK.flatten(0, 1)[there],
        student_out=features.patch_NGMK.flatten(0, 1)[there],
        mask=hidden.reshape(-1, side, side),
    )
    spread = sum(KoLeoLoss()(features.class_NGD[:, view]) for view in range(2))
    pairs = [(losses["classes"], classes), (losses["patches"], patches), (losses["koleo"], 0.1 * spread)]
    parity(
        "rad_dino",
        "terms of classes, patches and KoLeo",
        "lightly 1.6 (DINOLoss, IBOTPatchLoss, KoLeoLoss)",
        pairs,
        tolerance=1e-5,
    )
    recipe.after_update(model, features, batch, 0.25)
    centres = [
        (model.class_centre_K, dino.center.flatten()),
        (model.patch_centre_K, dict(ibot.named_buffers())["center.center"].flatten()),
    ]
    parity("rad_dino", "both centres after a step", "lightly 1.6", centres, tolerance=1e-6)


def test_terms_are_dinov2s_sums_over_pairs(parity: Any) -> None:
    """DINOv2's code: cross-entropies summed over pairs of views, over 2 x 3 + 2 of them; the two whole views swapped; KoLeo as a sum."""
    recipe = small()
    _, batch, features = features_of(recipe)
    losses = recipe.losses(features, batch)
    tau = features.teacher_tau

    def cross_entropy(student: torch.Tensor, teacher: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        return -(((teacher - centre) / tau).softmax(-1) * (student / 0.1).log_softmax(-1)).sum(-1)

    centre = features.class_centre_K
    total = torch.zeros(())
    for seen in range(2):
        teacher = features.teacher_NGK[:, seen]
        total = total + cross_entropy(features.whole_NGK[:, 1 - seen], teacher, centre).mean()
        for view in range(3):
            total = total + cross_entropy(features.local_NVK[:, view], teacher, centre).mean()
    patches = []
    for row in range(4):
        for view in range(2):
            positions = batch.position_BGM[row, view]
            count = int((positions >= 0).sum())
            student, teacher = features.patch_NGMK[row, view, :count], features.teacher_patch_NGMK[row, view, :count]
            terms = cross_entropy(student, teacher, features.patch_centre_K)
            patches.append(terms.sum() / max(count, 1))
    pairs = [(losses["classes"], total / 8), (losses["patches"], torch.stack(patches).mean())]
    parity("rad_dino", "terms as sums over pairs and masks", "DINOv2's code (b8931f7) written as loops", pairs, tolerance=1e-5)


def test_balanced_answers_by_hand() -> None:
    score = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = (score / 0.5).exp().T
    share = share / share.sum()
    for _ in range(3):
        share = share / share.sum(1, keepdim=True) / 4
        share = share / share.sum(0, keepdim=True) / 6
    torch.testing.assert_close(sinkhorn_knopp(score, tau=0.5), (share * 6).T)
    mask = torch.tensor([True, True, False, True, True, True])
    torch.testing.assert_close(sinkhorn_knopp(score, tau=0.5, mask_N=mask)[mask], sinkhorn_knopp(score[mask], tau=0.5))
    recipe = small(teacher=replace(small().teacher, centring="sinkhorn"))
    _, batch, features = features_of(recipe)
    target = sinkhorn_knopp(features.teacher_NGK.flatten(0, 1), tau=features.teacher_tau).reshape(4, 2, 32)
    terms = [-(target[:, seen] * (features.whole_NGK[:, 1 - seen] / 0.1).log_softmax(-1)).sum(-1).mean() for seen in range(2)]
    terms += [
        -(target[:, seen] * (features.local_NVK[:, v] / 0.1).log_softmax(-1)).sum(-1).mean()
        for seen in range(2)
        for v in range(3)
    ]
    torch.testing.assert_close(recipe.losses(features, batch)["classes"], torch.stack(terms).sum() / 8, atol=1e-5, rtol=1e-5)


def test_masks_are_blocks_of_the_asked_share() -> None:
    rng = np.random.default_rng(0)
    counts = [int(block_mask(rng, 16, 100).sum()) for _ in range(20)]
    assert max(counts) <= 100
    assert np.mean(counts) > 85
    masks = masked_images(rng, 40, 16, share=0.5, least=0.1, most=0.5)
    shares = masks.mean(1)
    assert (shares > 0).sum() == 20
    assert shares.max() <= 0.5
    strata = np.sort(shares[shares > 0])
    assert np.corrcoef(strata, np.linspace(0.1, 0.5, 20))[0, 1] > 0.95


def test_the_teacher_follows_and_has_no_gradient(tmp_path: Path) -> None:
    recipe = small()
    model, batch, features = features_of(recipe)
    sum(recipe.losses(features, batch).values()).backward()
    assert all(p.grad is None for p in model.companions.parameters())
    assert all(p.grad is not None for p in model.image_tower.parameters())
    before = {name: value.clone() for name, value in model.companions["teacher"].state_dict().items()}
    with torch.no_grad():
        for parameter in model.image_side().parameters():
            parameter.add_(1.0)
    recipe.after_update(model, features, batch, 0.25)
    momentum = 1 - 0.1 * 0.5 * (1 + math.cos(math.pi * 0.25))
    for name, value in model.companions["teacher"].named_parameters():
        expected = momentum * before[name] + (1 - momentum) * dict(model.image_side().named_parameters())[name]
        torch.testing.assert_close(value, expected)
    assert math.isclose(float(model.teacher_tau), 0.055, rel_tol=1e-6)
    metrics = recipe.metrics(features, batch)
    assert 0 < float(metrics["teacher_entropy"]) < math.log(32)
    alike = replace(features, class_NGD=torch.ones_like(features.class_NGD))
    assert float(recipe.metrics(alike, batch)["class_std"]) < 1e-5


def test_prototypes_stay_first_and_the_teacher_is_deployed(tmp_path: Path) -> None:
    recipe = small(still=0.34)
    first, rest = recipe.stages()
    assert isinstance(first.recipe, RadDINO)
    assert any("prototype" in rule.pattern and rule.lr_scale == 0 for rule in first.recipe.optimiser().rules)
    (prototypes,) = (rule for rule in rest.recipe.optimiser().rules if "prototype" in rule.pattern)
    assert (prototypes.lr_scale, prototypes.decay) == (1.0, None)
    scales = {rule.pattern: rule.lr_scale for rule in small(layer_rate=0.5, patch_rate=0.2).optimiser().rules}
    assert scales[r"^image_tower\.blocks\.0\."] == 0.25
    assert scales[r"^image_tower\.patches\."] == 0.125 * 0.2
    fit(recipe, DATA, tmp_path / "run", TrainOptions(progress=False, log_every=1, precision="fp32"))
    model: Any = dp.load(tmp_path / "run")
    assert isinstance(model, ImageTowerEmbedder)
    vector = model.embed_images([DATA[0].image])
    np.testing.assert_allclose(np.linalg.norm(vector, axis=1), 1, atol=1e-5)
    assert model.embed_dense([DATA[0].image]).shape == (1, 6, 6, 64)
    with pytest.raises(ConfigError, match="images only"):
        model.embed_texts(["a nodule"])


def test_the_head_has_norms_as_dinov2s(parity: Any) -> None:
    """Numbers that DINOHead of DINOv2's code (b8931f7) gave for these weights and features, and the gradient of its prototypes' norms."""
    head = DINOHead(6, 7, hidden=5, bottleneck=4, learned_norms=True)
    names = {"prototype_KD": "last_layer.weight_v", "norm_K": "last_layer.weight_g"}
    state = {name: wave(names.get(name, name), tuple(weight.shape), 0.8) for name, weight in head.state_dict().items()}
    head.load_state_dict({**state, "norm_K": state["norm_K"] + 1.5})
    answer = head(wave("features", (3, 6), 1.0))
    answer.square().sum().backward()
    recorded = [
        [-0.12552058696746826, -0.48742032051086426, 0.31037771701812744, 0.41789481043815613],
        [-0.1909998059272766, -0.45818081498146057, 0.40186405181884766, 0.36580896377563477],
        [-0.057900190353393555, -0.4888043701648712, 0.20874255895614624, 0.4442363977432251],
    ]
    assert head.norm_K is not None
    assert head.norm_K.grad is not None
    pairs = [(answer[:, :4], torch.tensor(recorded))]
    pairs += [(head.norm_K.grad[:3], torch.tensor([0.06808828562498093, 0.705754280090332, 0.2766391634941101]))]
    parity("rad_dino", "answers of a head with learned norms", "DINOHead of DINOv2 (b8931f7)", pairs, tolerance=1e-5)


def test_the_published_optimiser_is_dinov2s() -> None:
    """Rates of build_schedulers (base 4e-3 by the root of 2,560 / 1,024, from 0, to 1e-6), betas, eps, decay and clipping of DINOv2."""
    recipe, base = RadDINO.paper(), 4e-3 * 2.5**0.5
    assert recipe.lr == pytest.approx(base)
    assert recipe.optimiser().part == (0.0, 0.35)
    spec = replace(recipe.optimiser(), part=(0.0, 1.0))
    cosine = 1e-6 + 0.5 * (base - 1e-6) * (1 + np.cos(np.pi * np.arange(180) / 180))
    theirs = np.concatenate([np.linspace(0, base, 20), cosine])
    np.testing.assert_allclose([learning_rate(spec, step, 200) for step in range(200)], theirs, atol=1e-15)
    begun = [learning_rate(recipe.optimiser(), step, 70) for step in range(70)]
    np.testing.assert_allclose(begun, theirs[:70], atol=1e-15)  # the first 35 %
    printed = [0.04, 0.04880982706687231, 0.07437694101250947, 0.11419865458735484]  # CosineScheduler(0.04, 0.4, 10)
    assert [weight_decay(spec, step, 10) for step in range(4)] == pytest.approx(printed, rel=1e-12)
    assert weight_decay(recipe.optimiser(), 10, 35) == pytest.approx(weight_decay(spec, 10, 100), rel=1e-12)
    assert (spec.clip_by, spec.clip_norm) == ("parts", 3.0)
    first, rest = recipe.stages()
    assert first.share == pytest.approx(0.01 / 0.35)
    assert rest.recipe.optimiser().part == pytest.approx((0.01, 0.35))
    (prototypes,) = (rule for rule in first.recipe.optimiser().rules if "prototype" in rule.pattern)
    assert (prototypes.lr_scale, prototypes.counted) == (0.0, True)
    assert (spec.betas, spec.eps) == ((0.9, 0.999), 1e-8)
    decays = {rule.pattern: rule.decay for rule in spec.rules}
    assert decays[r"^image_tower\.(class_D|mask_D|position_PD)$"] is True
    assert decays[r"_head\.(prototype_KD|norm_K)$"] is True
    plain = RadDINO.tiny().optimiser()
    assert (plain.betas, plain.final_lr, plain.warmup_from, plain.clip_by) == ((0.9, 0.98), 0.0, None, "norm")


def test_prototypes_that_stay_are_counted() -> None:
    """As in DINOv2, whose last layer has rate 0 first: its gradients enter the norm and AdamW's means, its weights do not move."""
    recipe: Any = small(still=0.5, optimised="dinov2").stages()[0].recipe
    model, batch, features = features_of(recipe)
    prototypes, spec = model.class_head.prototype_KD, recipe.optimiser()
    before = prototypes.detach().clone()
    freeze(model, spec)
    optimiser = build_optimiser(model, spec)
    schedule(optimiser, spec, 2, 3)
    torch.stack(list(recipe.losses(features, batch).values())).sum().backward()
    optimiser.step()
    assert torch.equal(prototypes.detach(), before)
    assert float(optimiser.state[prototypes]["exp_avg"].abs().sum()) > 0


def config_of(**changes: Any) -> dict[str, Any]:
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 42,
        "patch_size": 14,
        "mlp_ratio": 4,
    }
    return {**shape, **changes}


def test_a_released_folder_is_the_same_model(tmp_path: Path, parity: Any) -> None:
    torch.manual_seed(0)
    theirs = transformers.Dinov2Model(transformers.Dinov2Config(**config_of())).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    theirs.save_pretrained(tmp_path / "rad-dino")
    processor = {"size": {"shortest_edge": 42}, "crop_size": {"height": 42, "width": 42}}
    processor |= {"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3}
    (tmp_path / "rad-dino" / "preprocessor_config.json").write_text(json.dumps(processor))
    model: Any = dp.load(f"rad_dino:{tmp_path / 'rad-dino'}")
    image = ArrayImage(np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8))
    pixels = model.preprocess([image.pixels_HWC])
    output = theirs(pixels)
    own = model.model.image_tower(pixels)
    pairs = [(own.pooled_BD, output.last_hidden_state[:, 0]), (own.tokens_BPD, output.last_hidden_state[:, 1:])]
    pairs += [(torch.from_numpy(model.embed_images([image])), F.normalize(output.pooler_output, dim=1))]
    parity("rad_dino", "class token and patches of an opened folder", "Dinov2Model of transformers", pairs, tolerance=2e-5)
    with pytest.raises(DataError, match=r"config\.json"):
        dp.load(f"rad_dino:{tmp_path}")
    state = theirs.state_dict()
    with pytest.raises(ConfigError, match="stranger"):
        from_transformers_dinov2({**state, "stranger": torch.zeros(1)})


def test_every_tensor_of_the_released_size_has_a_place() -> None:
    config = transformers.Dinov2Config(image_size=518, patch_size=14)
    with torch.device("meta"):
        theirs = transformers.Dinov2Model(config)
        tower = image_tower(**tower_arguments(config.to_dict()))
        renamed = from_transformers_dinov2(theirs.state_dict())
    assert {name: value.shape for name, value in renamed.items()} == {n: v.shape for n, v in tower.state_dict().items()}


def test_the_published_size() -> None:
    with torch.device("meta"):
        model = RadDINO.paper().model()
    assert sum(p.numel() for p in model.image_tower.parameters()) == 86_580_480  # ViT-B/14 with 37 x 37 positions
    inner = 768 * 2048 + 2048 + 2048 * 2049 + 2048 * 256 + 256
    assert sum(p.numel() for p in model.class_head.parameters()) == inner + 65_536 * 256 + 65_536  # prototypes and their norms
    assert RadDINO.paper().preprocess.size == 518


def test_options_that_cannot_work() -> None:
    for make in (lambda: TeacherConfig(centring="mean"), lambda: TeacherConfig(hidden=(0.5, 0.1)), lambda: ViewsConfig(wholes=1)):  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(ConfigError, match="multiple"):
        small(views=ViewsConfig(local_size=25)).model()
