"""CLIP: the published sizes and start, and a loss that knows which pairs belong together."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from diptych.core.errors import UnknownName
from diptych.core.registry import RECIPES
from diptych.data.load.batch import PairBatch
from diptych.models.towers.outputs import PairFeatures
from diptych.recipes.contrastive.clip import CLIP
from diptych.train.optimise import build_optimiser


def pairs(n: int = 6, width: int = 8) -> tuple[PairFeatures, PairBatch]:
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(n, width, dtype=torch.float64), dim=-1) for _ in range(2))
    ids = torch.zeros(n, 3, dtype=torch.int64)
    batch = PairBatch(torch.zeros(n, 3, 4, 4), ids, ids == 0, torch.arange(n))
    return PairFeatures(image, text, torch.tensor([20.0], dtype=torch.float64)), batch


def test_the_paper_builds_with_its_parameter_count() -> None:
    with torch.device("meta"):
        model = CLIP.paper().model()
    assert sum(p.numel() for p in model.parameters()) == 151_277_313
    assert CLIP.paper().batch_size == 32_768
    assert CLIP.paper().same_group == "negative"


def test_the_paper_holds_the_released_weights_and_gives_their_numbers(parity: Any) -> None:
    import open_clip

    from diptych.models.io.foreign.clip_layout import from_open_clip

    torch.manual_seed(0)
    theirs = open_clip.create_model("ViT-B-32-quickgelu").eval()
    ours = CLIP.paper().model().eval()
    sizes = {"input_resolution": torch.tensor(224), "context_length": torch.tensor(77), "vocab_size": torch.tensor(49408)}
    released = theirs.state_dict() | sizes  # as in OpenAI's files
    ours.load_state_dict(from_open_clip(released), strict=True)  # no name is left over on either side
    image_BCHW = torch.randn(2, 3, 224, 224)
    text_BL = open_clip.get_tokenizer("ViT-B-32-quickgelu")(["a cat", "a photo of a dog on a mat"])
    with torch.no_grad():
        pairs = ours(image_BCHW, text_BL)
        found = [(pairs.image_ND, theirs.encode_image(image_BCHW, normalize=True))]
        found.append((pairs.text_ND, theirs.encode_text(text_BL, normalize=True)))
        parity(
            "clip",
            "embeddings of the published ViT-B/32 on copied weights",
            "ViT-B-32-quickgelu of open_clip",
            found,
            tolerance=1e-5,
        )
        for block in ours.image_tower.transformer.blocks:
            block.act = torch.nn.GELU()
        assert (ours.encode_image(image_BCHW) - pairs.image_ND).abs().max() > 1e-4, "GELU would not do"


def test_the_parts_of_the_towers_are_fields() -> None:
    tiny = replace(CLIP.tiny(), tokenizer="clip", image_size=32)
    asked = replace(tiny, act="gelu_tanh", image_pool="attention", patch_bias=True, text_pooling="last").model()
    assert asked.image_tower.spec["act"] == asked.text_tower.spec["act"] == "gelu_tanh"
    assert asked.image_tower.patches.bias is not None
    assert asked.image_tower.class_token_D is None
    assert asked.text_tower.pad_id == tiny.words().pad_id
    plain = tiny.model()
    assert not {"act", "pool", "patch_bias"} & set(plain.image_tower.spec)
    resnet = replace(tiny, image_tower="resnet_clip_50", width=1024).model()
    assert isinstance(resnet.image_projection, torch.nn.Identity)
    released = replace(tiny, image_tower="resnet_clip_50", width=1024, act="quick_gelu").model()
    assert released.text_tower.spec["act"] == "quick_gelu", "beside ReLU in the image tower, as OpenAI released it"
    with pytest.raises(UnknownName, match="option of convnet_tiny 'act'"):
        replace(tiny, image_tower="convnet_tiny", image_size=64, act="quick_gelu").model()


def test_the_temperature_starts_and_stays_where_published(parity: Any) -> None:
    recipe = replace(CLIP.tiny(), tokenizer="clip")
    model = recipe.model()
    assert model.log_scale.item() == pytest.approx(math.log(1 / 0.07), abs=1e-6)
    start = transformers.CLIPConfig().logit_scale_init_value
    parity(
        "clip",
        "start of the log temperature",
        "CLIPConfig of transformers, four digits",
        [(model.log_scale, [start])],
        tolerance=1e-4,
    )
    features, batch = pairs()
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    recipe.after_update(model, features, batch, 0.0)
    assert model.log_scale.exp().item() == pytest.approx(100.0, rel=1e-6)


def test_the_loss_is_the_mean_of_two_cross_entropies() -> None:
    features, batch = pairs()
    logits = features.scale * features.image_ND @ features.text_ND.T
    target = torch.arange(6)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    assert CLIP.tiny().losses(features, batch)["contrastive"].item() == pytest.approx(expected.item(), abs=1e-12)


def test_samples_of_one_group_are_no_negatives_unless_asked() -> None:
    features, batch = pairs()
    together = replace(batch, group_B=torch.tensor([0, 0, 1, 2, 3, 4]))
    logits = features.scale * features.image_ND @ features.text_ND.T
    logits[0, 1] = logits[1, 0] = -math.inf
    target = torch.arange(6)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    masked = CLIP.tiny().losses(features, together)["contrastive"]
    published = replace(CLIP.tiny(), same_group="negative").losses(features, together)["contrastive"]
    assert masked.item() == pytest.approx(expected.item(), abs=1e-12)
    assert published.item() == pytest.approx(CLIP.tiny().losses(features, batch)["contrastive"].item(), abs=1e-12)


@pytest.mark.parametrize(
    ("slug", "betas", "eps"),
    [("clip", (0.9, 0.98), 1e-6), ("siglip", (0.9, 0.95), 1e-8), ("ctp", (0.9, 0.999), 1e-8), ("align", (0.9, 0.999), 1e-6)],
)
def test_what_the_optimiser_remembers_is_as_published_and_a_field(slug: str, betas: tuple[float, float], eps: float) -> None:
    paper = RECIPES.load(slug).paper()
    for recipe, expected in ((paper, (betas, eps)), (replace(paper, betas=(0.5, 0.6), eps=1e-3), ((0.5, 0.6), 1e-3))):
        (group,) = build_optimiser(torch.nn.Linear(2, 2, bias=False), recipe.optimiser()).param_groups
        assert (group["betas"], group["eps"]) == expected


def test_weight_decay_spares_temperature_and_biases() -> None:
    model = replace(CLIP.tiny(), tokenizer="clip").model()
    groups = build_optimiser(model, CLIP.paper().optimiser()).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    assert id(model.log_scale) not in decayed
    assert all((p.ndim >= 2) == (id(p) in decayed) for p in model.parameters())
