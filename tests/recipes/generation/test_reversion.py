"""ReVersion: the released contrast, distribution of steps and training of one row; what a step reads; bad exemplars; published sizes."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from diptych import api
from diptych.core.contracts import Draw, Draws
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.load.stream import batches
from diptych.data.text.prompts.relation_words import PREPOSITIONS, STOP_WORDS
from diptych.models.diffusion.denoiser import DiffusionNet
from diptych.models.diffusion.token_table import ExtendedEmbedding
from diptych.objectives.diffusion.denoising import drawn_timestep, skewed_timesteps
from diptych.objectives.diffusion.relation_steering import relation_steering
from diptych.recipes.generation.reversion import ReVersion
from diptych.train.optimise import build_optimiser, freeze
from diptych.worlds.related.world import exemplars

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "reversion_released.json").read_text())
WORDS, WIDTH, MARKS = 40, 8, (1, 2)
PROMPTS = torch.tensor([[1, 5, 9, WORDS, 12, 2, 2, 2], [1, 7, WORDS, 30, 31, 2, 2, 2]])
POSITIVES = torch.tensor([[1, 20, 21, 22, 2, 2, 2, 2], [1, 23, 20, 2, 2, 2, 2, 2]])
SILENT = torch.tensor([9, 20, 21, 22, 23, 1, 2, WORDS])
SMALL = replace(ReVersion.tiny(), small_steps=2, small_data="world:related?n=64&seed=9999")


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers that the name decides, here and in the released code."""
    return torch.from_numpy(np.asarray(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.1))


def extended_table() -> ExtendedEmbedding:
    table_VD = filled("table", (WORDS + 1, WIDTH))
    table = ExtendedEmbedding(nn.Embedding.from_pretrained(table_VD[:-1].clone()), 1).double()
    with torch.no_grad():
        table.learned_KD.copy_(table_VD[-1:])
    return table


def steering(table: ExtendedEmbedding, prompt_BL: Tensor, temperature: float, rows: int = 0) -> Tensor:
    repeats = len(prompt_BL) // 2
    positive_BL = POSITIVES.repeat(repeats, 1)
    return relation_steering(
        table.learned_KD[0],
        table(positive_BL),
        table(prompt_BL),
        positive_mask_BP=~torch.isin(positive_BL, torch.tensor(MARKS)),
        negative_mask_BL=~torch.isin(prompt_BL, SILENT),
        temperature=temperature,
        rows=rows,
    )


@pytest.mark.parametrize("temperature", [1.0, 0.07])
def test_contrast_is_the_released_one(temperature: float, parity: Any) -> None:
    table, expected = extended_table(), RELEASED[str(temperature)]
    loss = steering(table, PROMPTS, temperature)
    (gradient_1D,) = torch.autograd.grad(loss, table.learned_KD)
    pairs = [(loss, torch.tensor(expected["loss"])), (gradient_1D[0], torch.tensor(expected["row"], dtype=torch.float64))]
    parity("reversion", "steering loss and its gradient", "released code, ziqihuangg/ReVersion", pairs, tolerance=1e-6)


def test_steps_of_noise_are_drawn_as_released(parity: Any) -> None:
    share_T, expected = skewed_timesteps(1000, 0.5), RELEASED["times"]
    found = [share_T[0], share_T[-1], (share_T * np.arange(1000)).sum(), (share_T**2).sum()]
    names = ("first", "last", "mean", "squares")
    pairs = [(value, expected[name]) for value, name in zip(found, names, strict=True)]
    parity("reversion", "probabilities of the steps of noise", "released code, ziqihuangg/ReVersion", pairs, tolerance=1e-12)
    rng, cumulative_T = np.random.default_rng(0), np.cumsum(share_T)
    drawn = np.array([drawn_timestep(rng, cumulative_T) for _ in range(4000)])
    assert abs(drawn.mean() - 600.87) < 12
    assert drawn.min() >= 0
    assert drawn.max() <= 999
    np.testing.assert_allclose(skewed_timesteps(10, 0.0), 0.1)


def test_one_row_ends_where_training_the_table_and_restoring_it_ends(parity: Any) -> None:
    """Released: all rows are trained by AdamW over four accumulated batches, and all but one are put back after each step."""
    table = extended_table()
    before_VD = table.weight.clone()
    recipe = ReVersion()
    freeze(holder := nn.ModuleDict({"table": table}), recipe.optimiser())
    optimiser = build_optimiser(holder, recipe.optimiser())
    for group in optimiser.param_groups:
        group["lr"] = recipe.lr
    for step in range(20):
        prompts = []
        for part in range(4):
            prompt_BL = PROMPTS.clone()
            prompt_BL[:, 1] = (prompt_BL[:, 1] + part) % WORDS
            prompts.append(prompt_BL)
        pull = [(table(prompt_BL) * filled(f"pull{step}{part}", (2, 8, WIDTH))).mean() for part, prompt_BL in enumerate(prompts)]
        optimiser.zero_grad()
        (torch.stack(pull).mean() + recipe.steering * steering(table, torch.cat(prompts), recipe.temperature, rows=2)).backward()
        optimiser.step()
    expected = torch.tensor(RELEASED["trained"]["row"], dtype=torch.float64)
    what = "the trained row after 20 steps of four batches"
    parity("reversion", what, "released procedure, ziqihuangg/ReVersion", [(table.learned_KD[0], expected)], tolerance=1e-6)
    assert torch.equal(table.weight, before_VD), "no other row moves"


def test_word_lists_have_the_published_lengths() -> None:
    assert (len(set(PREPOSITIONS)), len(set(STOP_WORDS))) == (56, 127)
    assert {"aboard", "inside", "within"} <= set(PREPOSITIONS)


def test_a_step_reads_prompts_positives_and_negatives() -> None:
    data = exemplars(8, seed=3)
    recipe = replace(SMALL, positives=3).prepare(data)
    (step,) = batches(data, recipe, seed=0, stop=1)
    batch, words = step.batch, recipe.words()
    learned = words.inner.token_to_id("<R>")
    assert (batch.text_BEL == learned).sum(-1).tolist() == [[1]] * recipe.batch_size
    assert words.vocab_size == learned + 1
    names = [words.inner.id_to_token(int(token)).strip("Ġ") for token in batch.text_BEL[0, 0][batch.negative_mask_BL[0]]]
    assert sorted(names) == sorted(data[next_row(data, batch, words)].texts[0].string.replace("{} ", "").split())
    for ids_L, mask_L in zip(batch.positive_BP, batch.positive_mask_BP, strict=True):
        drawn = [words.inner.id_to_token(int(token)).strip("Ġ") for token in ids_L[mask_L]]
        assert len(set(drawn)) == 3
        assert set(drawn) <= set(recipe.positive_words)
    torch.manual_seed(0)
    model = recipe.model()
    initial = model.token_tables()[0].weight[words.inner.encode("and", add_special_tokens=False).ids[0]]
    assert torch.equal(model.learned_rows()[0][0], initial), "it starts as the initializer"
    freeze(model, recipe.optimiser())
    assert [name for name, p in model.named_parameters() if p.requires_grad and recipe.stored(name)] == [
        "texts.0.embeddings.token_embedding.learned_KD"
    ]
    assert sum(recipe.stored(name) for name in model.state_dict()) == 1
    features = recipe.features(model, batch)
    losses = recipe.losses(features, batch)
    assert set(losses) == {"denoising", "steering"}
    assert set(replace(recipe, steering=0.0).losses(features, batch)) == {"denoising"}
    (gradient_1D,) = torch.autograd.grad(losses["denoising"], model.learned_rows()[0])
    assert gradient_1D.abs().max() > 0


def next_row(data: Any, batch: Any, words: Any) -> int:
    """The row whose caption the first prompt of a batch is."""
    prompt = batch.text_BEL[0, 0].tolist()
    for row in range(len(data)):
        text = data[row].texts[0].string.replace("{}", "<R>")
        if words.encode([text], len(prompt)).ids_BL[0].tolist() == prompt:
            return row
    raise AssertionError("the prompt is none of the data")


def test_published_networks_have_the_published_sizes() -> None:
    with torch.device("meta"):
        model = ReVersion.paper().model()
    assert isinstance(model, DiffusionNet)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model.unet, model.texts[0], model.vae)]
    assert sizes == [859_520_964, 123_060_480 + 768, 83_653_863]
    freeze(model, ReVersion.paper().optimiser())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 768
    assert ReVersion.paper().words().inner.token_to_id("<r>") == 49408, "CLIP's cleaning puts letters into lower case"


def drawn(text: str) -> Draws:
    sample = Sample("0", ArrayImage(np.zeros((32, 32, 3), np.uint8)), (Text(text, "en"),))
    one = Draw(sample, np.random.default_rng(0), np.zeros((32, 32, 3), np.uint8))
    return Draws((one, one), np.random.default_rng(0))


def test_bad_exemplars_are_named(tmp_path: Path) -> None:
    recipe = SMALL.prepare(exemplars(4))
    with pytest.raises(DataError, match="exemplar '0' is described as 'red circle inside blue square'"):
        recipe.batch(drawn("red circle inside blue square"))
    with pytest.raises(DataError, match="'<R>' is cut off from a prompt"):
        recipe.batch(drawn("red circle " * 6 + "{} blue square"))
    with pytest.raises(ConfigError, match="is 2 tokens"):
        replace(recipe, initializer="left of").model()
    with pytest.raises(ConfigError, match="batch_size is 3 with steered_rows 2"):
        replace(recipe, batch_size=3)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "0.png")
    (tmp_path / "text.json").write_text(json.dumps({"0.png": ["cat {} stone", "cat {}"]}))
    pool = api.read(tmp_path)
    assert [text.string for text in pool[0].texts] == ["cat {} stone", "cat {}"]
    (tmp_path / "text.json").write_text(json.dumps({"0.png": ["cat on stone"]}))
    with pytest.raises(DataError, match=r"describes 0.png by 'cat on stone' \(expected words with one {} for the relation\)"):
        api.read(tmp_path)
    (tmp_path / "text.json").write_text(json.dumps({"1.png": ["cat {} stone"]}))
    with pytest.raises(DataError, match=r"1.png: does not exist"):
        api.read(tmp_path)
