"""PTP on ViLT: half of the pictures are wrong, prompts move with them, it starts from published weights, a stop changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from invariants import stopped_and_resumed
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from diptych.api import load, train
from diptych.core.errors import ConfigError, DataError
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.models.vilt.vilt_model import ViltModel
from diptych.recipes.grounding.ptp_vilt import PTPViLT, mismatched_pairs, without_special_tokens
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.small_pairs import small_pairs

OPTIONS = TrainOptions(seed=1, progress=False, save_every=2, log_every=1)
SMALL: dict[str, Any] = {
    "image_size": 48, "width": 16, "layers": 1, "heads": 2, "pieces": 320, "batch_size": 8, "steps": 4, "warmup": 0.0,
}  # fmt: skip


def small(**changes: Any) -> PTPViLT:
    return replace(PTPViLT.tiny(), **{**SMALL, **changes})


@pytest.fixture(scope="module")
def data() -> Pool:
    return small_pairs(24, regions=True).to_pool()


def made(recipe: PTPViLT, data: Pool) -> tuple[Any, Any]:
    torch.manual_seed(3)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=1, stop=1)
    return model, step.batch


def test_the_paper_builds_with_its_parameter_count() -> None:
    """As transformers counts a ViLT; its word head shares the table of words, where the release has one of its own."""
    import transformers

    with torch.device("meta"):
        paper = PTPViLT.paper()
        vilt = paper.model().vilt
        theirs = transformers.ViltForMaskedLM(transformers.ViltConfig(vocab_size=49_408))
    assert vilt.mask_D is not None
    own = 768 * 49_408 + vilt.mask_D.numel() + 2 * (768 + 1)
    assert sum(p.numel() for p in vilt.parameters()) == sum(p.numel() for p in theirs.parameters()) + own
    optimiser = paper.optimiser()
    assert (optimiser.betas, optimiser.eps, optimiser.schedule) == ((0.9, 0.98), 1e-8, "linear")
    assert (paper.batch_size, paper.steps, paper.warmup, paper.lr, paper.weight_decay) == (4096, 200_000, 2500, 1e-4, 0.01)
    assert paper.pictures.sides(480, 1000) == (288, 608)
    assert (paper.most_patches, paper.dropout, paper.whole_words, paper.padding_counts, paper.by) == (
        200,
        0.1,
        True,
        True,
        "fits",
    )


def test_half_of_the_pictures_are_wrong_and_none_is_of_the_group() -> None:
    group_B = torch.tensor([1, 2, 1, 3, 4, 5, 6])
    often = np.zeros((7, 7))
    for seed in range(400):
        shown_B, fits_B = mismatched_pairs(group_B, np.random.default_rng(seed))
        assert fits_B.sum() == 3  # of an odd number the smaller half, as released
        assert torch.equal(fits_B == 1, shown_B == torch.arange(7))
        assert all(group_B[row] != group_B[other] for row, other in enumerate(shown_B.tolist()) if other != row)
        often[np.arange(7), shown_B.numpy()] += 1
    wrong = often[1, [0, 2, 3, 4, 5, 6]] / 400
    assert np.abs(wrong - 4 / 7 / 6).max() < 0.06
    shown_B, fits_B = mismatched_pairs(torch.tensor([7, 7]), np.random.default_rng(0))
    assert (shown_B.tolist(), fits_B.tolist()) == ([0, 1], [1, 1])


def test_words_are_those_between_the_marks() -> None:
    mask_BL = torch.tensor([[True] * 4 + [False], [True, True, False, False, False]])
    assert without_special_tokens(mask_BL).tolist() == [[False, True, True, False, False], [False] * 5]


def test_either_reading_gets_what_it_should(data: Pool) -> None:
    """Hidden words are guessed beside the own picture, fits are judged of whole texts beside the shown one; losses by hand."""
    recipe = small(dropout=0.0).prepare(data)
    model, batch = made(recipe, data)
    found = recipe.features(model, batch)
    vilt = model.vilt
    assert vilt.fits is not None
    for row in range(8):
        own, shown = (
            [batch.image_BCHW[place : place + 1], batch.grid_B2[place : place + 1]] for place in (row, batch.shown_B[row])
        )
        text_1L, mask_1L = batch.masked_BL[row : row + 1], batch.text_mask_BL[row : row + 1]
        guessing = vilt.read(vilt.text_features(text_1L, batch.hidden_BL[row : row + 1]), mask_1L, vilt.picture_features(*own))
        torch.testing.assert_close(
            found.word_NMV[row], vilt.guessed(guessing, batch.place_BM[row : row + 1])[0], atol=1e-5, rtol=1e-4
        )
        fitting = vilt.read(vilt.text_features(batch.text_BL[row : row + 1]), mask_1L, vilt.picture_features(*shown))
        torch.testing.assert_close(found.answer_N2[row], vilt.fits(vilt.pooled(fitting))[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.image_NPD[row], fitting[0, 33:], atol=1e-5, rtol=1e-4)
    losses = recipe.losses(found, batch)
    asked = batch.word_BM >= 0
    assert asked.any(1).all()
    torch.testing.assert_close(losses["words"], F.cross_entropy(found.word_NMV[asked], batch.word_BM[asked]))
    torch.testing.assert_close(losses["matching"], F.cross_entropy(found.answer_N2, batch.fits_B))
    doubled = replace(recipe, words_weight=2.0, match_weight=3.0, alignment_weight=0.4).losses(found, batch)
    for name, times in (("words", 2), ("matching", 3), ("alignment", 4)):
        torch.testing.assert_close(doubled[name], times * losses[name])


def test_prompts_say_the_block_that_is_shown(data: Pool) -> None:
    """Mirrored, the column changes and the row does not; the release writes the block of the stored picture."""
    from diptych.core.contracts import Draw
    from diptych.data.media.decode import decode
    from diptych.data.text.prompts.position_prompts import block_of

    sample = data[0]
    assert sample.image is not None
    image = decode(sample.image)
    blocks: dict[str, set[tuple[bool, int]]] = {}
    for prompts in ("moved", "original"):
        recipe = small(flip=True, flip_sides="ignore", prompts=prompts, regions=1)
        shown = [recipe.view_with_prompt(Draw(sample, np.random.default_rng(seed), image)) for seed in range(12)]
        blocks[prompts] = {
            (not np.array_equal(picture, image), int(text.split(" block ")[1].split()[0])) for picture, text in shown
        }
    stored = block_of(sample.regions[0].box, image.shape[1], image.shape[0])
    turned = stored // 3 * 3 + 2 - stored % 3
    assert blocks["moved"] == {(False, stored), (True, turned)}
    assert blocks["original"] == {(False, stored), (True, stored)}


def test_too_many_patches_are_drawn_anew_for_each_reading(data: Pool) -> None:
    recipe = small(most_patches=5).prepare(data)
    _, batch = made(recipe, data)
    assert batch.patch_BK.shape == batch.again_BK.shape == (8, 5)
    assert not torch.equal(batch.patch_BK, batch.again_BK)
    assert batch.there_BK.all()


def test_it_starts_from_a_vision_transformer_and_from_released_files(data: Pool, tmp_path: Path) -> None:
    """Timm's names; the authors' checkpoint; a run of ours with its vocabulary; what is no ViLT is refused."""
    torch.manual_seed(1)
    net = VisionTransformer(img_size=48, patch_size=16, embed_dim=16, depth=1, num_heads=2, num_classes=5).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    ready = small(image_weights=str(tmp_path / "vit.pth")).prepare(data)
    vilt = ready.model().vilt.eval()
    image_BCHW = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        seen = vilt.picture_features(image_BCHW, torch.tensor([[3, 3]] * 2))
        alone = vilt.read(
            torch.zeros(2, 0, 16),
            torch.ones(2, 0, dtype=torch.bool),
            replace(seen, token_BPD=seen.token_BPD - vilt.kinds.weight[1]),
        )
        torch.testing.assert_close(alone, net.forward_features(image_BCHW), atol=1e-4, rtol=1e-4)
    with pytest.raises(DataError, match=r"weights for the transformer have \[16\] for class_token_D"):
        small(width=32, image_weights=str(tmp_path / "vit.pth")).prepare(data).model()

    run = train(small(steps=2), data, tmp_path / "run", progress=False)
    model = load(run.path)
    assert isinstance(model, ViltModel)
    with pytest.raises(ConfigError, match="--width 32 does not fit the weights"):
        train(small(width=32), data, tmp_path / "wide", init=str(run.path), progress=False)
    other = replace(PTPViLT.tiny(), batch_size=8, steps=1, lr=1e-9)
    again = train(other, data, tmp_path / "again", init=str(run.path), progress=False)
    theirs, mine = load_file(run.path / "model" / "model.safetensors"), load_file(again.path / "model" / "model.safetensors")
    assert all(torch.allclose(tensor, mine[name], atol=1e-6) for name, tensor in theirs.items())
    assert load(again.path).tokenizer.to_json() == model.tokenizer.to_json()

    names = {
        "pool": "pooler.dense",
        "fits": "itm_score.fc",
        "norm": "transformer.norm",
        "patches": "transformer.patch_embed.proj",
    }
    published = {
        f"{theirs}.{kind}": getattr(getattr(model.model, ours), kind).detach()
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }
    save_file(published, tmp_path / "vilt.safetensors")
    kept = ready.fitted(load_file(tmp_path / "vilt.safetensors"))
    assert set(kept) == {f"vilt.{ours}.{kind}" for ours in names for kind in ("weight", "bias")}
    with pytest.raises(ConfigError, match="is not a ViLT"):
        small().started(object())


def test_what_it_has_no_use_for_is_refused() -> None:
    for wrong, words in (
        ({"crop": (0.5, 1.0)}, "crop is"), ({"act": "gelu"}, "act is 'gelu'"), ({"image_tower": "vit_b16"}, "image_tower is 'vit_b16'"),
        ({"by": "rank"}, "by is 'rank'"), ({"beta": 0.0}, "beta 0.0"), ({"prompts": "late"}, "prompts is 'late'"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            PTPViLT(**wrong)  # type: ignore[arg-type]


def test_a_run_that_was_stopped_ends_the_same(data: Pool, tmp_path: Path) -> None:
    recipe = small(most_patches=5)
    straight = fit(recipe, data, tmp_path / "straight", OPTIONS)
    stopped = stopped_and_resumed(recipe, data, tmp_path, OPTIONS, step=2)
    one, two = (load_file(folder.model / "model.safetensors") for folder in (straight, stopped))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
