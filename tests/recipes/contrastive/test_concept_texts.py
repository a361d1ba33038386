"""CoCu's training: the released loss and gradients, concepts in their sentences, GroupViT's size, segmentation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from invariants import on_two_processes

from diptych.core.contracts import Draw
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.text.captions.text_sets import TextSetBatch
from diptych.models.pairs.patch_segmenter import PatchSegmenter, group_assignments
from diptych.models.towers.towers import image_tower
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.several_texts import several_texts
from diptych.recipes.contrastive.concept_texts import GROUPVIT, ConceptTexts, sample_concepts
from diptych.train.optimise import build_optimiser
from diptych.worlds.small_pairs import SmallPairs

RELEASED = json.loads((Path(__file__).parents[2] / "parity/released/cocu_released.json").read_text())
GROUPVIT_CODE = "xing0047/CoCu 2a15510, models/group_vit.py"
SMALL_GROUPVIT = {
    "model_type": "groupvit_vision_model", "image_size": 32, "patch_size": 8, "hidden_size": 24, "num_attention_heads": 2,
    "intermediate_size": 96, "depths": [2, 1, 1], "num_hidden_layers": 4, "num_group_tokens": [6, 3, 0], "num_output_groups": [6, 3, 3],
}  # fmt: skip
CODE = "xing0047/CoCu 2a15510, models/multi_label_contrastive.py"


def rows(count: int = 8) -> Pool:
    extras = {"concepts": ["red circle", "blue cross"], "concept_scores": [2.0, 1.5], "concept_clusters": [0, 1]}
    pool = SmallPairs(count).pool("train", 0)
    return Pool.from_samples((replace(sample, extras=extras) for sample in pool), name="concepts")


def small(**changes: Any) -> ConceptTexts:
    sizes = {
        "image_tower": "vit_micro",
        "text_tower": "text_micro",
        "image_size": 48,
        "width": 16,
        "pieces": 300,
        "batch_size": 8,
    }
    return replace(ConceptTexts.tiny(), **{**sizes, "sentences": "one", **changes})


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, dtype=torch.float64, generator=chance) for shape in ((5, 8), (5, 3, 8), (5, 8)))  # type: ignore[return-value]


def test_both_losses_and_gradients_are_the_released_ones(parity: Any) -> None:
    image_ND, text_NKD, caption_ND = (x.requires_grad_() for x in inputs())
    log_scale = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    unit_ND, unit_NKD = F.normalize(image_ND, dim=-1), F.normalize(text_NKD, dim=-1)
    several, parts = several_texts(unit_ND, unit_NKD, scale=log_scale.exp())
    grads = torch.autograd.grad(several, [image_ND, text_NKD, log_scale])
    caption, _ = info_nce(unit_ND, F.normalize(caption_ND, dim=-1), scale=torch.tensor([2.5], dtype=torch.float64).exp())
    theirs = [torch.tensor(RELEASED[name], dtype=torch.float64) for name in ("grad_image", "grad_text")]
    pairs = [
        (several, torch.tensor(RELEASED["multi"], dtype=torch.float64)),
        (caption, torch.tensor(RELEASED["loss"], dtype=torch.float64)),
        *zip(grads, [*theirs, torch.tensor([RELEASED["grad_scale"]], dtype=torch.float64)], strict=True),
    ]
    parity("cocu", "losses of captions and of concepts, and gradients", CODE, pairs, tolerance=1e-12)
    assert several == (parts["image_to_text"] + parts["text_to_image"]) / 2


def test_with_one_text_it_is_clip(parity: Any) -> None:
    image_ND, text_NKD, _ = inputs()
    unit = F.normalize(image_ND, dim=-1), F.normalize(text_NKD[:, :1], dim=-1)
    scale, group_N = torch.tensor([20.0], dtype=torch.float64), torch.tensor([0, 1, 2, 0, 3])
    pairs = []
    for group in (None, group_N):
        ours, _ = several_texts(*unit, scale=scale, group_N=group)
        clip, _ = info_nce(unit[0], unit[1][:, 0], scale=scale, group_N=group, group_M=group, same="mask")
        pairs.append((ours, clip))
    parity("cocu", "the loss of concepts with one concept", "info_nce, CLIP's loss", pairs, tolerance=1e-12)


def test_naive_loops_and_extreme_scales() -> None:
    image_ND, text_NKD, _ = inputs()
    image_ND, text_NKD = F.normalize(image_ND, dim=-1), F.normalize(text_NKD, dim=-1)
    scale, group = torch.tensor([9.0], dtype=torch.float64), torch.tensor([0, 1, 2, 0, 3])
    ours, _ = several_texts(image_ND, text_NKD, scale=scale, group_N=group)
    total = 0.0
    for i in range(5):
        others = [j for j in range(5) if j == i or group[j] != group[i]]
        rows_ = torch.stack([9.0 * image_ND[i] @ text_NKD[j, k] for j in others for k in range(3)]).log_softmax(0)
        own = others.index(i) * 3
        total -= float(rows_[own : own + 3].mean()) / 5 / 2
        for k in range(3):
            columns = torch.stack([9.0 * text_NKD[i, k] @ image_ND[j] for j in others]).log_softmax(0)
            total -= float(columns[others.index(i)]) / 15 / 2
    assert float(ours) == pytest.approx(total, abs=1e-12)
    big, _ = several_texts(image_ND, text_NKD, scale=torch.tensor([1e4], dtype=torch.float64))
    assert torch.isfinite(big)
    assert torch.autograd.gradcheck(
        lambda x, t, s: several_texts(x, t, scale=s)[0],
        (image_ND.requires_grad_(), text_NKD.requires_grad_(), scale.requires_grad_()),
    )


def shared(rank: int, world: int) -> dict[str, torch.Tensor]:
    image_ND, text_NKD, _ = inputs()
    rows_ = slice(rank * 2, rank * 2 + 2) if world == 2 else slice(0, 4)
    x, t, s = (
        image_ND[rows_].requires_grad_(),
        text_NKD[rows_].requires_grad_(),
        torch.tensor([5.0], dtype=torch.float64, requires_grad=True),
    )
    loss, _ = several_texts(F.normalize(x, dim=-1), F.normalize(t, dim=-1), scale=s)
    gx, gt, gs = torch.autograd.grad(loss, [x, t, s])
    return {"loss": loss.detach(), "x": gx / world, "t": gt / world, "s": gs}


def test_two_processes_share_the_loss_of_one(tmp_path: Path) -> None:
    whole = shared(0, 1)
    for rank, found in enumerate(on_two_processes(shared, tmp_path)):
        torch.testing.assert_close(found["loss"], whole["loss"])
        torch.testing.assert_close(found["s"], whole["s"])
        for name in ("x", "t"):
            torch.testing.assert_close(found[name], whole[name][rank * 2 : rank * 2 + 2])


def test_texts_are_the_caption_then_concepts_in_sentences_then_the_caption_again() -> None:
    recipe = small(sentences="symbols")
    sample = rows(1)[0]
    texts = {tuple(recipe.concept_texts(Draw(sample, keyed_rng(n)), "the caption")) for n in range(60)}
    assert {one[2] for one in texts} == {"the caption"}
    assert {one[0] for one in texts} == {
        form.format("red circle")
        for form in ("{}", "an emoji of {}", "an icon of {}", "a drawing of {}", "a small picture of {}")
    }
    assert small(concepts=0).concept_texts(Draw(sample, keyed_rng(0)), "x") == []


def test_clusters_are_drawn_once_each_by_their_scores() -> None:
    names, scores, clusters = ["a", "b", "c", "d"], [2.0, 1.0, 1.0, 0.0], [0, 0, 1, 2]
    draws = [
        sample_concepts(names, scores, clusters, 3, Draw(Sample("s", texts=(Text("x"),)), keyed_rng(n))) for n in range(3000)
    ]
    assert all(len(set(d)) == 3 and ("a" in d) != ("b" in d) for d in draws)
    first = np.array([clusters[names.index(d[0])] for d in draws])
    chance = np.exp([1.5, 1.0, 0.0])
    np.testing.assert_allclose(np.bincount(first) / 3000, chance / chance.sum(), atol=0.03)
    share = np.mean(["a" in d for d in draws])
    assert share == pytest.approx(np.e / (1 + np.e), abs=0.03)
    with pytest.raises(DataError, match="has 4 concepts, 3 scores and 4 clusters"):
        sample_concepts(names, scores[:3], clusters, 3, Draw(Sample("s", texts=(Text("x"),)), keyed_rng(0)))


def test_without_concepts_it_is_clips_loss_alone() -> None:
    data = rows()
    recipe = small(concepts=0).prepare(data)
    (step,) = batches(data, recipe, seed=0, stop=1)
    losses = recipe.losses(recipe.features(recipe.model(), step.batch), step.batch)
    assert list(losses) == ["contrastive"]
    bare = Pool.from_samples((replace(sample, extras={}) for sample in data), name="bare")
    with pytest.raises(DataError, match=r"no image of 'bare' has concepts.*curate cocu DATA OUT"):
        small().prepare(bare)
    boxed = SmallPairs(2, regions=True).pool("train", 0)[0]
    assert small().concepts_of(boxed) == list(dict.fromkeys(region.label for region in boxed.regions))
    assert small(labels=False).concepts_of(boxed) == []


def test_groupvit_starts_as_its_authors_draw_it() -> None:
    torch.manual_seed(0)
    net = image_tower("hf_image", config=GROUPVIT, image_size=224).net.vision_model
    first, second, third = net.encoder.stages
    assert third.group_token is None
    assert float(second.group_token.detach().abs().max()) == 0, "a projection of the first stage's is added to it"
    drawn = (
        (first.group_token, 0.02),
        (net.embeddings.position_embeddings, 0.02),
        (first.layers[3].self_attn.q_proj.weight, 0.02),
        (second.downsample.assign.proj.weight, 0.02),
        (net.embeddings.patch_embeddings.projection.weight, (3 * 768) ** -0.5),
        (net.embeddings.patch_embeddings.projection.bias, (3 * 768) ** -0.5),
    )
    for tensor, deviation in drawn:
        assert float(tensor.detach().std()) == pytest.approx(deviation, rel=0.1)
    assert float(first.layers[0].mlp.fc1.bias.detach().abs().max()) == 0


def test_groupvit_with_stochastic_depth_is_the_released_one(parity: Any) -> None:
    torch.manual_seed(0)
    tower = image_tower("hf_image", config=SMALL_GROUPVIT, image_size=32, drop_path=0.4).double()
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in sorted(tower.net.named_parameters()):
            drawn = torch.randn(p.shape, generator=chance, dtype=torch.float64) * 0.3
            p.copy_(drawn + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    image_BCHW = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pairs = []
    for mode in ("eval", "train"):
        getattr(tower, mode)()
        tower.zero_grad()
        torch.manual_seed(3)  # of Gumbel noise and of what is left out, whose draws come in the same order
        pooled_BD = tower(image_BCHW).pooled_BD
        pooled_BD.square().sum().backward()
        net = tower.net.vision_model
        grads = torch.stack(
            [
                net.encoder.stages[0].group_token.grad.sum(),
                net.encoder.stages[0].layers[1].mlp.fc1.weight.grad.abs().sum(),
                net.embeddings.position_embeddings.grad.abs().sum(),
            ]
        )
        theirs = RELEASED["groupvit"][mode]
        pairs += [
            (pooled_BD.detach().flatten(), torch.tensor(theirs["pooled"], dtype=torch.float64)),
            (grads, torch.tensor(theirs["grad"], dtype=torch.float64)),
        ]
    parity("cocu", "GroupViT, in training with stochastic depth, and gradients", GROUPVIT_CODE, pairs, tolerance=1e-8)
    assert not torch.allclose(pairs[0][0], pairs[2][0])


def test_views_are_augmented_and_erased_by_the_draw() -> None:
    data = rows()
    plain, changed = (small(augment=a, erase=e).prepare(data) for a, e in (("none", 0.0), ("timm", 1.0)))
    first, second, bare = (next(iter(batches(data, r, seed=0, stop=1))).batch.image_BCHW for r in (changed, changed, plain))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert (first - bare).abs().flatten(1).amax(1).min() > 0.5
    with pytest.raises(ConfigError, match="erase is 2"):
        small(erase=2.0)
    with pytest.raises(ConfigError, match=r"drop_path is 0\.1 without groupvit"):
        small(drop_path=0.1)


def test_temperatures_and_starts_as_released() -> None:
    data = rows()
    recipe = small(hidden=12, as_released=True).prepare(data)
    torch.manual_seed(0)
    model = recipe.model()
    projection, block = model.encoder.text_projection, model.encoder.text_tower.inner.transformer.blocks[0]
    for layer in (projection, block.mlp_in, block.mlp_out):
        bound = layer.in_features**-0.5
        assert 0 < float(layer.bias.detach().abs().max()) <= bound
    assert float(projection.weight.abs().max()) <= projection.in_features**-0.5
    decays = {
        id(p)
        for group in build_optimiser(model, recipe.optimiser()).param_groups
        if group["weight_decay"]
        for p in group["params"]
    }
    assert {id(model.encoder.log_scale), id(model.concept_log_scale)} <= decays
    assert id(block.mlp_in.bias) not in decays
    with torch.no_grad():
        model.encoder.log_scale.fill_(5.0)
        model.concept_log_scale.fill_(-1.0)
    (step,) = batches(data, recipe, seed=0, stop=1)
    features = recipe.features(model, step.batch)
    assert float(features.scale) == 100
    assert float(features.concept_scale) == pytest.approx(np.exp(-1.0)), "nothing is kept from below"
    sum(recipe.losses(features, step.batch).values()).backward()
    assert float(model.encoder.log_scale.grad) == 0
    recipe.after_update(model, features, step.batch, 0.0)
    assert float(model.encoder.log_scale) == 5
    kept = small(hidden=12).prepare(data)
    kept.after_update(model, features, step.batch, 0.0)
    assert (float(model.encoder.log_scale), float(model.concept_log_scale)) == (pytest.approx(np.log(100)), 0)


def test_the_paper_is_groupvit_with_projectors() -> None:
    paper = ConceptTexts.paper()
    assert paper.lr == pytest.approx(1.6e-3 * paper.batch_size / 4096), "the release scales its rate by the batch"
    assert (paper.deployed_preprocess.size, paper.deployed_preprocess.margin) == (224, 32)
    assert (paper.drop_path, paper.augment, paper.erase, paper.as_released) == (0.1, "timm", 0.25, True)
    with torch.device("meta"):
        model = paper.model()
    towers = 28_837_136 + 22_145_792  # of the released GroupViT-S and text transformer, counted there
    image = 384 * 4096 + 4096 + 2 * 4096 + 4096 * 256 + 256
    text = 256 * 4096 + 4096 + 2 * 4096 + 4096 * 256 + 256
    assert sum(p.numel() for p in model.parameters()) == towers + image + text + 2 == 55_726_610
    assert not paper.cacheable
    assert small().cacheable


def test_a_step_trains_everything_with_a_hidden_layer_and_saves(tmp_path: Path) -> None:
    data = rows()
    recipe = small(hidden=12).prepare(data)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=0, stop=1)
    assert isinstance(step.batch, TextSetBatch)
    assert step.batch.text_BKL.shape[:2] == (8, 4)
    sum(recipe.losses(recipe.features(model, step.batch), step.batch).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    from diptych import load

    deployed = recipe.deploy(model.eval())
    deployed.save(tmp_path / "model")
    images = [data[row].image for row in range(3)]
    np.testing.assert_allclose(load(tmp_path / "model").embed_images(images), deployed.embed_images(images), atol=1e-6)
    maps = PatchSegmenter(deployed).segment(images, ["red circle", "blue cross"])
    assert [m.shape for m in maps] == [(48, 48)] * 3
    assert {int(v) for m in maps for v in np.unique(m)} <= {0, 1}


def test_a_place_gets_the_class_of_its_patch_or_group(monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows()
    recipe = small(image_tower="dense_micro", image_pool="mean", text_length=16).prepare(data)
    deployed = recipe.deploy(recipe.model().eval())
    image = data[0].image
    labels = ["red circle", "blue cross", "white square"]
    score = PatchSegmenter(deployed, templates=("{}",), background="white square", threshold=-2.0).segment([image], labels)[0]
    dense_RCD = torch.from_numpy(deployed.embed_dense([image])[0])
    with torch.no_grad():
        patch = F.normalize(deployed.model.image_projection(dense_RCD), dim=-1)
    text = torch.from_numpy(deployed.embed_texts(labels[:2]))
    naive = F.interpolate((patch @ text.T).permute(2, 0, 1)[None], size=(48, 48), mode="bilinear", align_corners=False)[0].argmax(
        0
    )
    np.testing.assert_array_equal(score, naive.numpy())
    everywhere = PatchSegmenter(deployed, background="white square", threshold=2.0).segment([image], labels)[0]
    assert set(np.unique(everywhere)) == {2}


def test_groups_of_a_groupvit_are_a_distribution_over_every_place() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**{**GROUPVIT, "image_size": 64})
    net = transformers.GroupViTVisionModel._from_config(config).eval()
    with torch.no_grad():
        token_1GD, pooled_1D, member_GRC = group_assignments(net, torch.randn(1, 3, 64, 64))
    assert token_1GD.shape == (1, 8, 384)
    torch.testing.assert_close(pooled_1D, token_1GD.mean(1))
    assert member_GRC.shape == (8, 4, 4)
    torch.testing.assert_close(member_GRC.sum(0), torch.ones(4, 4))


def test_refused() -> None:
    with pytest.raises(ConfigError, match="concepts is -1"):
        ConceptTexts(concepts=-1)
    with pytest.raises(ConfigError, match="same_group is 'positive'"):
        ConceptTexts(same_group="positive")
    with pytest.raises(ConfigError, match="two or more"):
        PatchSegmenter(small(tokenizer="clip").deploy(small(tokenizer="clip").model())).segment([], ["x"])
