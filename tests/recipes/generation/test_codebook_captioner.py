"""TL;DR's captioner learns captions through its codes, resumes and is deployed; the published size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from invariants import on_two_processes

from diptych.data.load.stream import batches
from diptych.models.io.deployed import open_model
from diptych.recipes.generation.codebook_captioner import CodebookCaptioner
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.small_pairs import SmallPairs


def small() -> CodebookCaptioner:
    return replace(
        CodebookCaptioner.tiny(),
        image_tower="vit_micro",
        image_size=48,
        heads=4,
        layers=1,
        pieces=300,
        text_length=20,
        batch_size=16,
    )


def test_every_parameter_gets_a_gradient_and_terms_add_up() -> None:
    rows = SmallPairs(32).pool("train", 0)
    recipe = small().prepare(rows)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(rows, recipe, seed=0, stop=1)
    features = recipe.features(model, step.batch)
    losses = recipe.losses(features, step.batch)
    assert set(losses) == {"caption", "codebook", "commitment"}
    assert float(losses["commitment"]) == pytest.approx(0.25 * float(losses["codebook"]))
    assert float(losses["caption"]) == pytest.approx(np.log(model.tokens.num_embeddings), rel=0.1), "guessing"
    torch.stack(list(losses.values())).sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert silent in ([], ["tower.class_token_D"]), silent
    legacy = replace(recipe, legacy=True).losses(features, step.batch)
    assert float(legacy["codebook"]) == pytest.approx(0.25 * float(losses["codebook"]))


def moved_codes(rank: int, world: int, restart: int = 1) -> dict[str, torch.Tensor]:
    """The codebook after one `after_update` on this process's share of a batch."""
    rows = SmallPairs(32).pool("train", 0)
    recipe = replace(small(), restart=restart).prepare(rows)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(rows, recipe, seed=0, stop=1)
    share = step.batch.rows(rank * 16 // world, (rank + 1) * 16 // world)
    with torch.no_grad():
        recipe.after_update(model, recipe.features(model, share), share, 0.0)
    return model.codebook.state_dict()


def test_unused_codes_move_and_processes_agree_on_where(tmp_path: Path) -> None:
    alone, never = moved_codes(0, 1), moved_codes(0, 1, restart=0)
    moved = (alone["code_KD"] != never["code_KD"]).any(1)
    assert 0.5 * len(moved) < moved.sum() < len(moved), "few codes are near anything at the start, and those stay"
    assert never["moves"] == 0
    assert CodebookCaptioner.paper().restart == 0
    for found in on_two_processes(moved_codes, tmp_path):
        torch.testing.assert_close(found, alone)


def test_published_size() -> None:
    recipe = CodebookCaptioner.paper()
    assert (recipe.codes, recipe.beta, recipe.text_length, recipe.batch_size, recipe.lr) == (1024, 0.25, 30, 2400, 3e-4)
    with torch.device("meta"):
        model = recipe.model()
    assert tuple(model.codebook.code_KD.shape) == (1024, 768)
    assert len(model.decoder.layers) == 12


@pytest.mark.slow
def test_it_learns_to_name_what_it_sees(tmp_path: Path) -> None:
    rows = SmallPairs(1000, captioned=False).pool("train", 0)
    recipe = replace(small(), steps=250, batch_size=64)
    run = fit(recipe, rows, tmp_path / "run", TrainOptions(seed=0, progress=False))
    model = open_model(run.model)
    test = SmallPairs(60).pool("test", 1)
    written = model.generate([s.image for s in test], [""] * 60, max_tokens=18)
    colours = [set(s.texts[0].string.split()) & {"red", "green", "blue", "yellow", "purple", "white"} for s in test]
    said = [set(text.split()) & {"red", "green", "blue", "yellow", "purple", "white"} for text in written]
    assert np.mean([bool(a & b) for a, b in zip(colours, said, strict=True)]) > 0.7, written[:5]
