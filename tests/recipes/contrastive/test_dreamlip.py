"""DreamLIP: several texts an image, none of them the negative of another; with one text it is CLIP, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.columns import MadeBy, write_table
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.text.captions.text_sets import TextSetBatch
from diptych.models.pairs.encoders.text_set_encoder import TextSets
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.patch_grouping import patch_grouping
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.dreamlip import DreamLIP
from diptych.train.gradient_cache import backward

N, K, P, D = 5, 3, 4, 6
SMALL: dict[str, Any] = {"image_tower": "vit_tiny", "image_size": 32, "width": 16, "batch_size": 6, "pieces": 300}
NOUNS = ("bus", "tree", "dog", "cat", "moon", "star", "ring", "cross")


def pool(sentences: int) -> Pool:
    def sample(i: int) -> Sample:
        noise_HWC = np.random.default_rng(i).integers(0, 256, (40, 36, 3)).astype(np.uint8)
        words = [f"{word} {NOUNS[i]}" for word in ("one", "two", "three")[:sentences]]
        return Sample(uid=f"s{i}", image=ArrayImage(noise_HWC, str(i)), texts=(Text(". ".join(words), "en"),))

    return Pool.from_samples(map(sample, range(len(NOUNS))), name="small")


def one_step(recipe: Any, rows: Pool) -> tuple[Any, Any]:
    recipe = recipe.prepare(rows)
    torch.manual_seed(3)
    model = recipe.model()
    (step,) = batches(rows, recipe, seed=1, stop=1)
    return model, backward(recipe, model, step.batch)


def features(k: int = K) -> tuple[TextSets, TextSetBatch]:
    torch.manual_seed(0)
    image, text, patch = (F.normalize(torch.randn(*s, dtype=torch.float64), dim=-1) for s in ((N, D), (N, k, D), (N, P, D)))
    sets = TextSets(image, text, torch.tensor([9.0], dtype=torch.float64), patch, torch.ones(N, P, dtype=torch.bool))
    ids = torch.zeros(N, k, 2, dtype=torch.int64)
    batch = TextSetBatch(torch.zeros(N, 3, 4, 4), ids, ids == 0, torch.arange(k).expand(N, k), torch.tensor([0, 1, 2, 0, 4]))
    return sets, batch


def test_with_one_text_of_one_sentence_it_is_clip(parity: Any) -> None:
    """Same data, same seed: the same batch, the same weights at the start, the same gradient of every parameter."""
    rows = pool(1)
    clip, found = one_step(replace(CLIP.tiny(), **SMALL), rows)
    dream, again = one_step(replace(DreamLIP.tiny(), texts=1, **SMALL), rows)
    assert again.losses.keys() == found.losses.keys()
    assert torch.equal(again.losses["contrastive"], found.losses["contrastive"])
    pairs = [(again.losses["contrastive"], found.losses["contrastive"])]
    other = dict(dream.named_parameters())
    for name, parameter in clip.named_parameters():
        grad = other.pop(f"encoder.{name}").grad
        assert torch.equal(grad, parameter.grad), name
        pairs.append((grad, parameter.grad))
    assert not other
    parity("dreamlip", "loss and every gradient of a whole step with one text", "clip, bit for bit", pairs, tolerance=0.0)


def test_the_loss_is_the_mean_over_texts_and_the_weighted_grouping(parity: Any) -> None:
    sets, batch = features()
    recipe = replace(DreamLIP.tiny(), lambda_mp=0.7, lambda_s=0.3, sigma=-1.0)
    losses = recipe.losses(sets, batch)
    one_each = [info_nce(sets.image_ND, sets.text_NKD[:, k], scale=9.0, group_N=batch.group_B)[0] for k in range(K)]
    assert losses["contrastive"].item() == pytest.approx(0.7 * sum(one_each).item() / K, abs=1e-12)
    grouped = patch_grouping(sets.patch_NPD, sets.text_NKD, scale=9.0, threshold=-1.0)[0]
    assert losses["grouping"].item() == pytest.approx(0.3 * grouped.item(), abs=1e-12)
    pairs = [(losses["contrastive"], 0.7 * sum(one_each) / K), (losses["grouping"], 0.3 * grouped)]
    parity(
        "dreamlip",
        "matching and grouping with their weights",
        "one softmax a text, and the grouping alone",
        pairs,
        tolerance=1e-12,
    )


def test_texts_of_one_image_are_no_negatives_of_each_other() -> None:
    """The gradient of text k from the matching does not depend on the other texts of any image."""
    sets, batch = features()
    recipe = replace(DreamLIP.tiny(), lambda_s=0.0)

    def grads(text_NKD: torch.Tensor) -> torch.Tensor:
        leaf = text_NKD.clone().requires_grad_()
        return torch.autograd.grad(recipe.losses(replace(sets, text_NKD=leaf, patch_NPD=None), batch)["contrastive"], leaf)[0]

    changed = sets.text_NKD.clone()
    changed[:, 1:] = changed[:, 1:].flip(0, 1)
    assert torch.equal(grads(sets.text_NKD)[:, 0], grads(changed)[:, 0])


def test_a_text_drawn_twice_is_not_its_own_negative() -> None:
    sets, batch = features()
    twice = replace(sets, text_NKD=sets.text_NKD[:, [0, 1, 1]])
    recipe = DreamLIP.tiny()
    told = recipe.losses(twice, replace(batch, text_id_BK=torch.tensor([0, 1, 1]).expand(N, K)))["grouping"]
    assert told < recipe.losses(twice, batch)["grouping"]


def test_the_head_for_patches_is_trained_and_left_behind() -> None:
    rows = pool(3)
    recipe = replace(DreamLIP.tiny(), **SMALL).prepare(rows)
    model = recipe.model()
    assert model.patch_projection is not None
    state = torch.get_rng_state()
    deployed = recipe.deploy(model)
    assert torch.equal(torch.get_rng_state(), state)
    trained, kept = dict(model.named_parameters()), dict(deployed.model.named_parameters())
    assert trained.keys() == {"patch_projection.weight", *(f"encoder.{name}" for name in kept)}
    assert all(trained[f"encoder.{name}"] is p for name, p in kept.items())
    assert replace(recipe, lambda_s=0.0).model().patch_projection is None


def test_data_with_one_sentence_an_image_are_refused_with_what_helps() -> None:
    with pytest.raises(
        DataError, match=r"no image of 'small' has more than one sentence.*diptych curate template_captions.*--texts 1"
    ):
        replace(DreamLIP.tiny(), **SMALL).prepare(pool(1))
    words = replace(DreamLIP.tiny(), **SMALL).prepare(pool(2)).words()
    assert words.decode(words.encode(["two moon"], 16).ids_BL[0].tolist()) == "two moon", "learned from every sentence"
    with pytest.raises(ConfigError, match="texts is 0"):
        DreamLIP(texts=0)


def test_captions_of_a_curation_step_are_further_texts(tmp_path: Path) -> None:
    rows = pool(1)
    captions = {uid: f"a picture of a {noun}" for uid, noun in zip(rows.uids, NOUNS, strict=True)}
    table = pa.table({"uid": list(captions), "synthetic_caption": list(captions.values())})
    write_table(tmp_path, "synthetic_caption", table, made_by=MadeBy("template_captions", {}))
    recipe = replace(DreamLIP.tiny(), texts=2, captions=str(tmp_path), **SMALL).prepare(rows)
    (step,) = batches(rows, recipe, seed=0, stop=1)
    for row in step.batch.text_BKL:
        one, two = sorted(recipe.words().decode(ids.tolist()) for ids in row)
        assert one.startswith("a picture of a ")
        assert two == f"one {one.split()[-1]}"


def test_the_paper_builds_with_its_parameter_count() -> None:
    with torch.device("meta"):
        model = DreamLIP.paper().model()
    assert sum(p.numel() for p in model.parameters()) == 149_620_737 + 768 * 512
    paper = DreamLIP.paper()
    assert (paper.raw_first, paper.texts, paper.lambda_mp, paper.lambda_s, paper.sigma) == (True, 6, 1.0, 1.0, 0.0)
    assert paper.act is None, "open_clip's ViT-B-16 has the exact GELU"
    assert paper.grouping
