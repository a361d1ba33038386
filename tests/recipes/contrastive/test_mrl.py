"""MRL: the losses of a recipe on every prefix; the whole vector alone gives that recipe back."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diptych.core.errors import ConfigError, UnknownName
from diptych.core.registry import RECIPES
from diptych.data.load.batch import PairBatch
from diptych.data.load.stream import batches
from diptych.models.towers.outputs import PairFeatures
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.nested import nested
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.dreamlip import DreamLIP
from diptych.recipes.contrastive.mrl import MRL, bases, truncate_embeddings
from diptych.recipes.contrastive.siglip import SigLIP
from diptych.train.gradient_cache import backward
from diptych.worlds.resolve import resolve

N, D = 6, 8
SMALL: dict[str, Any] = {"image_size": 32, "width": 16, "batch_size": 6, "dims": (2, 4, 16)}
BASES = ("clip", "siglip", "dreamlip:texts=2")


@pytest.fixture(scope="module")
def rows() -> Any:
    return resolve("world:scenes?n=12").split("train")


def pairs() -> tuple[PairFeatures, PairBatch]:
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(N, D, dtype=torch.float64), dim=-1) for _ in range(2))
    ids = torch.zeros(N, 3, dtype=torch.int64)
    scale, bias = (torch.tensor([x], dtype=torch.float64) for x in (8.0, -3.0))
    return PairFeatures(image, text, scale, bias), PairBatch(
        torch.zeros(N, 3, 4, 4), ids, ids == 0, torch.tensor([0, 1, 2, 0, 4, 5])
    )


def mrl(**changes: Any) -> MRL:
    return replace(MRL.tiny(), **({"width": D, "dims": (2, 4, 8)} | changes))


@pytest.mark.parametrize(("base", "kind"), [("clip", CLIP), ("siglip", SigLIP)])
def test_the_whole_width_alone_is_the_base(base: str, kind: type[Any], parity: Any) -> None:
    features, batch = pairs()
    wanted = kind.tiny().losses(features, batch)
    found = mrl(base=base, dims=(D,)).losses(features, batch)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-12, atol=0)
    parity(
        "mrl",
        "loss with the whole width alone",
        "the base recipe, clip and siglip",
        [(found[name], wanted[name]) for name in wanted],
        tolerance=1e-12,
    )


def test_the_loss_is_that_of_the_nested_objective() -> None:
    features, batch = pairs()
    wanted, parts = nested(info_nce, (2, 4, 8), (3.0, 1.0, 0.5))(
        features.image_ND, features.text_ND, scale=features.scale, group_N=batch.group_B
    )
    recipe = mrl(weights=(3.0, 1.0, 0.5))
    torch.testing.assert_close(recipe.losses(features, batch)["contrastive"], wanted)
    summed, _ = nested(info_nce, (2, 4, 8), (3.0, 1.0, 0.5), "sum")(
        features.image_ND, features.text_ND, scale=features.scale, group_N=batch.group_B
    )
    torch.testing.assert_close(replace(recipe, reduction="sum").losses(features, batch)["contrastive"], summed)
    logged = recipe.metrics(features, batch)
    assert {f"first_{d}" for d in (2, 4, 8)} < set(logged)
    torch.testing.assert_close(logged["first_4"], parts["first_4"])


def test_prefixes_are_cut_and_then_normalised_and_the_rest_gets_no_gradient(parity: Any) -> None:
    features, batch = pairs()
    short = truncate_embeddings(features, 3)
    assert short.scale is features.scale
    for before, after in ((features.image_ND, short.image_ND), (features.text_ND, short.text_ND)):
        torch.testing.assert_close(after, before[:, :3] / before[:, :3].norm(dim=1, keepdim=True))
    image = features.image_ND.clone().requires_grad_()
    mrl(dims=(2, 4)).losses(replace(features, image_ND=image), batch)["contrastive"].backward()
    assert image.grad[:, 4:].abs().max() == 0
    assert image.grad[:, 2:4].abs().max() > 0
    parity(
        "mrl",
        "gradient of numbers behind the longest prefix",
        "zero",
        [(image.grad[:, 4:], torch.zeros(N, D - 4))],
        tolerance=0.0,
    )


@pytest.mark.parametrize("base", BASES)
def test_wraps_recipes_with_exact_cached_gradients_and_a_model_that_knows_its_widths(base: str, rows: Any) -> None:
    recipe = replace(MRL.tiny(), base=base, **SMALL).prepare(rows)
    torch.manual_seed(0)
    model = recipe.model().double()
    (step,) = batches(rows, recipe, seed=0, stop=1)
    batch = replace(step.batch, image_BCHW=step.batch.image_BCHW.double())
    found = []
    for size in (0, 2):
        model.zero_grad()
        outcome = backward(recipe, model, batch, micro_batch=size)
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, grad in found[0].items():
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(found[1][name], grad, rtol=1e-8, atol=1e-13, msg=name)
    recipe.after_update(model, outcome.features, batch, 0.5)
    deployed = recipe.deploy(model.float())
    assert (deployed.name, deployed.dims) == ("mrl", (2, 4, 16))
    assert deployed.first(4).embed_texts(["a red circle"]).shape == (1, 4)


def test_the_base_keeps_its_own_fields_and_shares_the_others() -> None:
    inner = mrl(base="dreamlip:texts=2,lambda_s=0,negatives=batch", lr=0.5, same_group="positive").inner
    assert isinstance(inner, DreamLIP)
    assert (inner.texts, inner.lambda_s, inner.negatives, inner.lr, inner.width) == (2, 0, "batch", 0.5, D)
    assert inner.same_group == "positive"
    assert mrl(base="dreamlip").inner.texts == DreamLIP.tiny().texts
    assert mrl(base="dreamlip", base_preset="paper").inner.texts == DreamLIP.paper().texts
    shared = {f.name for f in fields(CLIP)} & {f.name for f in fields(MRL)}
    assert all(getattr(MRL.tiny(), name) == getattr(CLIP.tiny(), name) for name in shared)
    assert MRL.tiny().optimiser() == CLIP.tiny().optimiser()
    assert replace(MRL.tiny(), base="siglip").optimiser().betas == SigLIP.tiny().optimiser().betas


def test_what_cannot_be_nested_is_refused() -> None:
    for dims in ((), (0, 8), (4, 4), (4, 9)):
        with pytest.raises(ConfigError, match=r"dims is .*from 1 to 8"):
            mrl(dims=dims)
    with pytest.raises(ConfigError, match="2 weights for 3 dims"):
        mrl(weights=(1.0, 2.0))
    for base, error, words in (
        ("locked", ConfigError, "'locked' cannot be nested: it has no two towers that are trained together"),
        ("clipp", UnknownName, "did you mean 'clip'"),
        ("clip:lr=1", ConfigError, "say --lr instead"),
        ("dreamlip:text=3", UnknownName, "did you mean 'texts'"),
    ):
        with pytest.raises(error, match=words):
            _ = mrl(base=base).inner


@pytest.mark.parametrize("slug", sorted(RECIPES))
def test_every_recipe_is_a_base_or_says_why_not_and_names_those_that_are(slug: str, rows: Any) -> None:
    recipe = replace(MRL.tiny(), base=slug, **SMALL)
    if slug in bases():
        recipe = recipe.prepare(rows)
        (step,) = batches(rows, recipe, seed=0, stop=1)
        losses = recipe.losses(recipe.features(recipe.model(), step.batch), step.batch)
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert not recipe.inner.stages()  # phases of a base would be lost
        assert not recipe.inner.hooks()
    else:
        with pytest.raises(ConfigError, match=rf"'{slug}' cannot be nested: its? .* \(expected one of .*clip.*\)"):
            recipe.prepare(rows)


def test_the_bases_are_known() -> None:
    pairs = [
        "align",
        "alip",
        "biomedclip",
        "clip",
        "concept_texts",
        "dreamlip",
        "georsclip",
        "laclip",
        "negclip",
        "siglip",
        "svlc",
        "syvic",
    ]
    assert bases() == pairs


def test_the_paper_builds() -> None:
    with torch.device("meta"):
        model = MRL.paper().model()
    assert sum(p.numel() for p in model.parameters()) == 151_277_313
    assert MRL.paper().reduction == "sum"
    assert MRL.paper().dims == tuple(2**e for e in range(3, 10))
    assert np.all(np.diff(MRL.tiny().dims) > 0)
