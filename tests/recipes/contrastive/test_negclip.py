"""NegCLIP: wrong texts of the same words, hard images beside their neighbours; chunks, processes and stops change nothing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from clip_folders import clip_folder
from few_words import FEW_WORDS
from invariants import gradients, on_two_processes, stopped_and_resumed, updated

from diptych.api import load
from diptych.cli import main
from diptych.core.contracts import Draw, Draws
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Text
from diptych.curate.operators.hard_images import nearest_others
from diptych.data.dataset import Pool
from diptych.data.load.neighbours import NeighbourOrder
from diptych.data.load.order import span
from diptych.data.load.stream import batches
from diptych.data.read import read
from diptych.data.shards.build import build
from diptych.data.text.captions.negative_texts import NegativeBatch
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.negclip import NegCLIP
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.train.weights import copy_matching_tensors
from diptych.worlds.small_pairs import small_pairs

OPTIONS = TrainOptions(seed=1, progress=False, save_every=2, log_every=1)
SMALL: dict[str, Any] = {
    "image_tower": "vit_micro", "text_tower": "text_micro", "image_size": 48, "text_length": 32, "width": 16, "pieces": 300, "batch_size": 8
}  # fmt: skip
TEXTS = ["a red circle and a blue cross", "a green square top left", "roses"]


def small(**changes: Any) -> NegCLIP:
    return replace(NegCLIP.tiny(), **{**SMALL, **changes})


def rows(count: int = 24) -> Pool:
    """Every third text has nothing that could be exchanged."""
    pool = small_pairs(count).to_pool()
    return Pool.from_samples(
        replace(pool[row], texts=(Text("roses", "en"),)) if row % 3 == 0 else pool[row] for row in range(len(pool))
    )


def made(recipe: NegCLIP, data: Pool) -> tuple[Any, NegativeBatch]:
    torch.manual_seed(3)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=1, stop=1)
    return model, step.batch


def one_draw(*texts: str, wrong: tuple[str, ...] = (), seed: int = 0) -> Draw:
    strings = [Text(text, "en") for text in texts] + [Text(text, "en", "negative") for text in wrong]
    sample = replace(small_pairs(1).to_pool()[0], texts=tuple(strings))
    return Draw(sample, keyed_rng(seed), np.zeros((48, 48, 3), np.uint8))


def test_the_paper_builds_with_its_parameter_count() -> None:
    with torch.device("meta"):
        model = NegCLIP.paper().model()
    assert sum(p.numel() for p in model.parameters()) == 151_277_313
    paper = NegCLIP.paper()
    assert (paper.batch_size, paper.lr, paper.warmup, paper.epochs, paper.weight_decay) == (512, 1e-6, 50, 10, 0.2)
    assert (paper.published_swaps, paper.articles, paper.same_group) == (True, False, "negative")


def test_pictures_and_texts_are_those_of_clip_and_wrong_texts_come_after() -> None:
    data = rows()
    recipe = small().prepare(data)
    ours = made(recipe, data)[1]
    (step,) = batches(data, replace(CLIP.tiny(), **SMALL, vocabulary=recipe.vocabulary), seed=1, stop=1)
    assert torch.equal(ours.image_BCHW, step.batch.image_BCHW)
    assert ours.strings == step.batch.strings
    assert ours.there_BK.tolist() == [[text != "roses"] for text in ours.strings or ()]
    words = recipe.words()
    for row, text in enumerate(ours.strings or ()):
        if ours.there_BK[row, 0]:
            wrong = words.decode(ours.negative_BKL[row, 0][ours.negative_mask_BKL[row, 0]].tolist())
            assert Counter(wrong.split()) == Counter(text.split())
            assert wrong.split() != text.split()


def test_a_wrong_text_is_keyed_by_its_sample_alone() -> None:
    recipe = small(**FEW_WORDS)
    draws = [one_draw("a red dog holds a small cat under a tree", seed=seed) for seed in range(4)]
    whole = recipe.batch(Draws(tuple(draws), rng=keyed_rng(0), step=0))
    again = [one_draw("a red dog holds a small cat under a tree", seed=seed) for seed in (2, 3)]
    part = recipe.batch(Draws(tuple(again), rng=keyed_rng(5), step=9))
    assert torch.equal(whole.negative_BKL[2:], part.negative_BKL)
    assert len({tuple(row) for row in whole.negative_BKL[:, 0].tolist()}) > 1, "another at another draw"


def test_a_wrong_text_that_is_right_is_left_out() -> None:
    """It equals the text in letters, or another right text of the sample, or the text as far as the model reads it."""
    recipe = small(**FEW_WORDS, negatives="texts", negatives_each=3)
    draw = one_draw("a red bus", "a blue car", wrong=("A red bus.", "a  blue car", "a green bus"))
    batch = recipe.batch(Draws((draw,), rng=keyed_rng(0), step=0))
    assert batch.there_BK.tolist() == [[True, False, False]]
    assert (batch.wrong, batch.alike) == (1, 2)
    long = one_draw("a very long text about a dog", wrong=("a very long text about a cat",))
    cut = replace(recipe, text_length=6).batch(Draws((long,), rng=keyed_rng(0), step=0))
    assert (cut.wrong, cut.alike) == (0, 1)


def test_a_caption_without_a_noun_costs_nothing_and_says_so() -> None:
    data = Pool.from_samples(
        replace(small_pairs(8).to_pool()[row], texts=(Text("so", "en"),), group=str(row)) for row in range(8)
    )
    recipe = small(**FEW_WORDS)
    model, batch = made(recipe, data)
    features = recipe.features(model, batch)
    clip = replace(CLIP.tiny(), **{**SMALL, **FEW_WORDS})
    assert recipe.losses(features, batch)["contrastive"].item() == pytest.approx(
        clip.losses(features, batch)["contrastive"].item(), rel=3e-7
    )
    assert recipe.metrics(features, batch)["with_negatives"] == 0
    assert "own_text_first" not in recipe.metrics(features, batch)


def test_the_log_says_who_has_a_wrong_text_and_who_prefers_its_own() -> None:
    data = rows()
    recipe = small().prepare(data)
    model, batch = made(recipe, data)
    features = recipe.features(model, batch)
    found = recipe.metrics(features, batch)
    there = batch.there_BK[:, 0]
    own, wrong = ((features.image_ND * x).sum(-1) for x in (features.text_ND, features.negative_NKD[:, 0]))
    assert found["with_negatives"].item() == pytest.approx(there.float().mean().item())
    assert found["own_text_first"].item() == pytest.approx((own > wrong)[there].float().mean().item(), abs=1e-6)


def test_chunks_give_the_gradients_of_the_whole(parity: Any) -> None:
    data = rows()
    recipe = small().prepare(data)
    model, batch = made(recipe, data)
    model, batch = model.double(), replace(batch, image_BCHW=batch.image_BCHW.double())
    whole, chunks = (gradients(recipe, model, batch, micro_batch=size) for size in (0, 3))
    pairs = [(chunks[name], whole[name]) for name in whole]
    parity("negclip", "every gradient, three rows at a time", "the whole batch at once", pairs, tolerance=1e-9)


def stepped(rank: int, world: int) -> dict[str, torch.Tensor]:
    data = rows()
    recipe = small(same_group="negative", negatives_each=2, **FEW_WORDS)
    model, batch = made(recipe, data)
    model = model.double()
    return updated(recipe, model, [replace(batch, image_BCHW=batch.image_BCHW.double())], rank, world)


def test_two_processes_learn_what_one_does(tmp_path: Path, parity: Any) -> None:
    alone = stepped(0, 1)
    pairs = [(found[name], tensor) for found in on_two_processes(stepped, tmp_path) for name, tensor in alone.items()]
    parity("negclip", "weights and gradients after a step of two processes", "one process", pairs, tolerance=1e-9)


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    data = rows().with_columns({"near": [[f"{other}"] for other in rows().uids]})
    recipe = small(steps=4, hard_images="near")
    whole = fit(recipe, data, tmp_path / "whole", OPTIONS)
    again = stopped_and_resumed(recipe, data, tmp_path, OPTIONS, step=2)
    assert (whole.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()


# ---------------------------------------------------------------- hard images


def test_every_second_row_is_a_neighbour_and_two_epochs_visit_every_row() -> None:
    near = ((1, 2), (0,), (3,), (), (0, 1))
    order = NeighbourOrder(near)
    _, row_S = span(0, 5, 0, 20, order=order)
    firsts, seconds = row_S[::2], row_S[1::2]
    assert sorted(firsts[:5]) == sorted(firsts[5:]) == [0, 1, 2, 3, 4]
    assert all(second in (near[first] or range(5)) for first, second in zip(firsts, seconds, strict=True))
    assert {
        second for first, second in zip(*(span(0, 5, 0, 200, order=order)[1][at::2] for at in (0, 1)), strict=True) if first == 0
    } == {1, 2}
    for cut in (1, 4, 7):
        assert np.array_equal(np.concatenate([span(0, 5, 0, cut, order=order)[1], span(0, 5, cut, 20, order=order)[1]]), row_S)
    with pytest.raises(ConfigError, match="5 rows for 4"):
        order(0, 0, 4)


def test_neighbours_are_the_nearest_of_other_groups() -> None:
    chance = torch.Generator().manual_seed(0)
    vector_ND = F.normalize(torch.randn(40, 6, generator=chance), dim=-1).numpy()
    vector_ND[7] = vector_ND[3]
    groups = [str(row % 9) for row in range(40)]
    for row, found in enumerate(nearest_others(vector_ND, groups, 3)):
        others = [j for j in range(40) if groups[j] != groups[row] and not np.allclose(vector_ND[j], vector_ND[row])]
        assert found == sorted(others, key=lambda j: -float(vector_ND[row] @ vector_ND[j]))[:3]


def test_hard_images_and_published_weights_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The neighbours of a published model, then a run in which rows go in pairs, started from that model."""
    weights = f"hf:{clip_folder(tmp_path / 'published', TEXTS)}"
    data, near, run = (str(tmp_path / name) for name in ("data", "near", "run"))
    build(rows(), data)
    assert main(["curate", "hard_images", data, near, "--model", weights, "--count", "2", "--json"]) == 0
    assert all(len(uids) == 2 for uids in read(near).column("hard_images"))
    capsys.readouterr()
    options = ["--steps", "2", "--batch-size", "8", "--no-evaluation", "--no-progress", "--json"]
    assert (
        main(["train", "negclip", "--data", near, "--out", run, "--hard-images", "hard_images", "--init", weights, *options]) == 0
    )
    assert json.loads(capsys.readouterr().out)["status"] == "finished"
    assert json.loads((tmp_path / "run/model/config.json").read_text())["name"] == "negclip"


def test_it_starts_from_published_weights(tmp_path: Path, parity: Any) -> None:
    """The loss at the start is that of the features of transformers, in NegCLIP's matrix by hand."""
    folder = clip_folder(tmp_path, TEXTS)
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    published = load(f"hf:{folder}")
    recipe = replace(NegCLIP.tiny().started(published), batch_size=8, same_group="negative")
    model = recipe.model().eval()
    copy_matching_tensors(published.model.state_dict(), model)
    (step,) = batches(rows(), recipe, seed=1, stop=1)
    batch = step.batch
    there = batch.there_BK
    with torch.no_grad():
        loss = recipe.losses(recipe.features(model, batch), batch)["contrastive"]
        ids = torch.cat([batch.text_BL, batch.negative_BKL[there]])
        mask = torch.cat([batch.text_mask_BL, batch.negative_mask_BKL[there]])
        image = F.normalize(theirs.get_image_features(pixel_values=batch.image_BCHW).pooler_output, dim=-1)
        text = F.normalize(theirs.get_text_features(input_ids=ids, attention_mask=mask.long()).pooler_output, dim=-1)
        scores = theirs.logit_scale.exp() * image @ text.T
        target = torch.arange(8)
        naive = (F.cross_entropy(scores, target) + F.cross_entropy(scores[:, :8].T, target)) / 2
    assert 0 < int(there.sum()) < 8
    parity(
        "negclip",
        "the first loss of a published CLIP",
        "transformers' CLIPModel, the matrix by hand",
        [(loss, naive)],
        tolerance=1e-5,
    )


def test_refused() -> None:
    with pytest.raises(ConfigError, match="kinds"):
        NegCLIP(kinds=("noun",))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="swaps \\| texts"):
        NegCLIP(negatives="swap")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="curate hard_images"):
        small(hard_images="hard_images").row_order(rows())
