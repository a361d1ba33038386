"""FILIP: tokens are compared and nothing else; what is deployed scores as training did; a stop and a second process change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from few_words import FEW_WORDS, WORDS
from invariants import gradients, on_two_processes, stopped_and_resumed, updated
from torch import Tensor

from diptych.api import evaluate, load
from diptych.core.contracts import PairScorer, TokenEmbedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Text
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.media.augment.auto_augment import auto_augment
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.export.transformers_folder import to_transformers
from diptych.models.pairs.late.scores import late_scores
from diptych.models.towers.packaged.hf_text import TransformersText
from diptych.objectives.pairs.late_interaction import late_interaction
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.filip import FILIP, TokenPairBatch, select_token_pairs
from diptych.train.fit import fit
from diptych.train.optimise import build_optimiser
from diptych.train.options import TrainOptions
from diptych.train.weights import copy_matching_tensors
from diptych.worlds.small_pairs import small_pairs

RELEASED = Path(__file__).parents[2] / "parity" / "released" / "filip_scores.npz"
OPTIONS = TrainOptions(seed=1, progress=False, save_every=2, log_every=1)
SMALL: dict[str, Any] = {
    "image_tower": "vit_micro", "text_tower": "text_micro", "image_size": 48, "text_length": 16, "width": 16, "pieces": 300, "batch_size": 8
}  # fmt: skip


def small(**changes: Any) -> FILIP:
    return replace(FILIP.tiny(), **{**SMALL, **changes})


def rows(count: int = 24) -> Pool:
    return small_pairs(count).to_pool()


def made(recipe: FILIP, data: Pool) -> tuple[Any, TokenPairBatch]:
    torch.manual_seed(3)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=1, stop=1)
    return model, step.batch


def test_the_paper_builds_with_its_parameter_count() -> None:
    with torch.device("meta"):
        model = FILIP.paper().model()
    clip = 151_277_313 - (768 + 512) * 512
    assert sum(p.numel() for p in model.parameters()) == clip + (768 + 512) * 256
    paper = FILIP.paper()
    assert (paper.kept, paper.halved, paper.batch_size, paper.lr, paper.weight_decay) == (0.25, True, 40_960, 2e-3, 3e-3)
    spec = paper.optimiser()
    assert (spec.kind, spec.lamb, paper.kept_of) == ("lamb", "plain", "places")
    decaying = {id(p) for group in build_optimiser(model, spec).param_groups if group["weight_decay"] for p in group["params"]}
    spared = {name for name, p in model.named_parameters() if p.ndim > 1 and id(p) not in decaying}
    assert spared == {
        f"encoder.{name}" for name in ("image_tower.position_PD", "text_tower.position_LD", "text_tower.embed.weight")
    }
    assert FILIP.tiny().optimiser().rules == ()


def test_scores_equal_those_of_released_code(parity: Any) -> None:
    """DeCLIP's FILIP, with all tokens kept and none of them padding."""
    theirs = {name: torch.from_numpy(value) for name, value in np.load(RELEASED).items()}
    image, text = (F.normalize(theirs[name], dim=-1) for name in ("image", "text"))
    real = torch.ones(image.shape[:2], dtype=torch.bool)
    by_image, by_text = late_scores(image, text, real, real)
    pairs = [(by_image / 0.07, theirs["by_image"]), (by_text.T / 0.07, theirs["by_text"])]
    parity("filip", "scores of both directions", "Sense-GVT/DeCLIP 5d99a85, prototype/model/filip.py", pairs, tolerance=1e-12)


def test_tokens_are_those_of_the_towers_projected_as_clip_projects_its_vectors(parity: Any) -> None:
    recipe = small().prepare(rows())
    model, batch = made(recipe, rows())
    found = recipe.features(model, batch)
    encoder = model.encoder
    seen, read = encoder.image_tower(batch.image_BCHW), encoder.text_tower(batch.text_BL, batch.text_mask_BL)
    expected = []
    for projection, tokens in ((encoder.image_projection, seen.tokens_BPD), (encoder.text_projection, read.tokens_BPD)):
        projected = tokens @ projection.weight.T
        expected.append(projected / projected.pow(2).sum(-1, keepdim=True).sqrt())
    pairs = [(found.patch_NPD.double(), expected[0].double()), (found.word_NLD.double(), expected[1].double())]
    parity("filip", "projected tokens", "the tower's tokens, by hand", pairs, tolerance=1e-6)
    assert found.patch_NPD.shape[1] == 9, "patches without the class token"
    assert torch.equal(found.word_mask_NL, batch.text_mask_BL)


def test_weights_of_clip_start_it_tensor_by_tensor() -> None:
    data = rows()
    clip, filip = (replace(kind.tiny(), **SMALL).prepare(data) for kind in (CLIP, FILIP))
    torch.manual_seed(0)
    one = clip.model().state_dict()
    torch.manual_seed(0)
    other = filip.model().state_dict()
    assert {f"encoder.{name}" for name in one} == set(other)
    assert all(torch.equal(tensor, other[f"encoder.{name}"]) for name, tensor in one.items())


def test_marks_are_words_or_they_are_not() -> None:
    data = rows()
    recipe = small().prepare(data)
    with_marks = made(recipe, data)[1].word_mask_BL
    without = made(replace(recipe, marks=False), data)[1]
    for row in range(len(without)):
        tokens = without.text_BL[row][without.word_mask_BL[row]].tolist()
        words = recipe.words()
        assert words.sot_id not in tokens
        assert words.eot_id not in tokens
        assert with_marks[row].sum() == len(tokens) + 2


@pytest.mark.parametrize("marks", [True, False])
def test_what_is_deployed_scores_as_training_does(marks: bool, tmp_path: Path) -> None:
    data = rows(8)
    recipe = small(marks=marks, crop=(1.0, 1.0)).prepare(data)
    model, batch = made(recipe, data)
    with torch.no_grad():
        found = recipe.features(model.eval(), batch)
    by_image, by_text = late_scores(found.patch_NPD, found.word_NLD, found.patch_mask_NP, found.word_mask_NL)
    recipe.deploy(model).save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert isinstance(again, PairScorer)
    assert isinstance(again, TokenEmbedder)
    assert again.marks is marks
    images, texts = [data[row].image for row in range(8)], [data[row].texts[0].string for row in range(8)]
    for query, expected_NN in (("image", by_image), ("text", by_text)):
        score_NN = again.score_pairs(images, texts, query=query)
        place = [int(np.abs(score_NN[row].sum() - expected_NN.sum(1).numpy()).argmin()) for row in range(8)]
        assert sorted(place) == list(range(8)), "the batch is a permutation of the data"
        np.testing.assert_allclose(score_NN, expected_NN[place][:, place].numpy(), atol=1e-5)
    patches, words = again.embed_patches(images[:1])[0], again.embed_words(texts[:1])[0]
    naive = np.mean([max(float(p @ w) for w in words) for p in patches])
    assert again.score_pairs(images[:1], texts[:1], query="image")[0, 0] == pytest.approx(naive, abs=1e-6)
    mean = patches.mean(0) / np.linalg.norm(patches.mean(0))
    np.testing.assert_allclose(again.embed_images(images[:1])[0], mean, atol=1e-6)


def test_texts_in_any_company_score_the_same() -> None:
    """A text's tokens do not depend on how long the others of its block are."""
    data = rows(8)
    recipe = small().prepare(data)
    model = recipe.deploy(made(recipe, data)[0].eval())
    images, texts = [data[0].image], ["a red circle", "a red circle top left and a blue cross bottom right", "cross"]
    together = model.score_pairs(images, texts, query="text")[0]
    alone = [model.score_pairs(images, [text], query="text")[0, 0] for text in texts]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_chosen_tokens_carry_the_gradient() -> None:
    data = rows()
    recipe = small(kept=0.25).prepare(data)
    model, batch = made(recipe, data)
    features = recipe.features(model, batch)
    few = select_token_pairs(features, 0.25)
    lengths = batch.word_mask_BL.sum(1)
    assert few.patch_NPD.shape[1] == 3, "a quarter of nine patches, rounded up"
    assert torch.equal(few.word_mask_NL.sum(1), (lengths / 4).ceil().long())
    expected = late_interaction(
        few.patch_NPD,
        few.word_NLD,
        scale=few.scale,
        patch_mask_NP=few.patch_mask_NP,
        word_mask_NL=few.word_mask_NL,
        group_N=batch.group_B,
    )[0]
    loss = recipe.losses(features, batch)["contrastive"]
    assert torch.equal(loss, expected)
    assert loss != replace(recipe, kept=1.0).losses(features, batch)["contrastive"]
    by_place = replace(recipe, kept_of="places")
    few = select_token_pairs(features, 0.25, "places")
    assert few.patch_NPD.shape[1] == 2, "a quarter of nine patches, rounded down"
    assert torch.equal(few.word_mask_NL.sum(1), lengths.clamp(max=4)), "a quarter of sixteen places, as far as there are words"
    assert by_place.losses(features, batch)["contrastive"] != loss
    grad_NPD = torch.autograd.grad(loss, features.patch_NPD)[0]
    assert ((grad_NPD != 0).any(-1).sum(1) <= 3).all()


def test_half_precision_rounds_tokens_and_nothing_else() -> None:
    data = rows()
    recipe = small(halved=True).prepare(data)
    model, batch = made(recipe, data)
    features = recipe.features(model, batch)
    rounded = replace(features, patch_NPD=features.patch_NPD.half().float(), word_NLD=features.word_NLD.half().float())
    torch.testing.assert_close(recipe.losses(features, batch), replace(recipe, halved=False).losses(rounded, batch))


def made_batch() -> TokenPairBatch:
    chance = torch.Generator().manual_seed(3)
    text_BL = torch.randint(3, WORDS, (8, 16), generator=chance)
    real_BL = torch.arange(16) < torch.tensor([16, 3, 5, 9, 2, 7, 12, 4])[:, None]
    image_BCHW = torch.randn(8, 3, 48, 48, generator=chance, dtype=torch.float64)
    return TokenPairBatch(image_BCHW, text_BL, real_BL, torch.tensor([0, 1, 2, 3, 4, 5, 6, 0]), word_mask_BL=real_BL)


def stepped(rank: int, world: int) -> dict[str, Tensor]:
    recipe = small(**FEW_WORDS)
    torch.manual_seed(1)
    return updated(recipe, recipe.model().double(), [made_batch()], rank, world)


def test_chunks_and_processes_have_the_gradients_of_one_whole_batch(tmp_path: Path) -> None:
    recipe = small(**FEW_WORDS)
    torch.manual_seed(1)
    model = recipe.model().double()
    whole = gradients(recipe, model, made_batch(), micro_batch=0)
    for name, grad in gradients(recipe, model, made_batch(), micro_batch=3).items():
        torch.testing.assert_close(grad, whole[name], rtol=1e-9, atol=1e-12)
    alone = stepped(0, 1)
    for found in on_two_processes(stepped, tmp_path):
        assert found.keys() == alone.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12, msg=name)


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    recipe = small(steps=4, kept=0.5, augment="auto")
    whole = fit(recipe, rows(), tmp_path / "whole", OPTIONS)
    again = stopped_and_resumed(recipe, rows(), tmp_path, OPTIONS, step=2)
    assert (whole.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()
    result = evaluate(load(whole.path), "retrieval", data=rows(12))
    assert 0 <= result.metrics["r@1"].value <= 1


def test_auto_augment_is_the_draws_own() -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    state = torch.get_rng_state()
    views = [auto_augment(image_HWC, np.random.default_rng(seed)) for seed in range(12)]
    assert torch.equal(torch.get_rng_state(), state)
    again = [auto_augment(image_HWC, np.random.default_rng(seed)) for seed in range(12)]
    assert all(np.array_equal(a, b) for a, b in zip(views, again, strict=True))
    assert sum(not np.array_equal(view, image_HWC) for view in views) > 6
    data = rows(8)
    plain, changed = (made(small(augment=how).prepare(data), data)[1] for how in ("none", "auto"))
    assert torch.equal(plain.text_BL, changed.text_BL), "what comes before it is drawn as without it"
    assert not torch.equal(plain.image_BCHW, changed.image_BCHW)


def clip_folder(folder: Path) -> Path:
    """A random CLIP, as transformers saves it."""
    import transformers

    words = Tokenizer.train(["a red circle and a blue cross", "a green square top left"], 300)
    words.save(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    settings = transformers.CLIPConfig(
        projection_dim=16,
        vision_config={**sizes, "image_size": 48, "patch_size": 16},
        text_config={
            **sizes,
            "vocab_size": words.vocab_size,
            "max_position_embeddings": 16,
            "eos_token_id": 2,
            "bos_token_id": 1,
        },
    )
    transformers.CLIPModel(settings).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


def test_it_starts_from_published_weights(tmp_path: Path, parity: Any) -> None:
    """The tokens of a CLIP of transformers, each projected as its pooled vector is."""
    import transformers

    folder = clip_folder(tmp_path)
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    published = load(f"hf:{folder}")
    recipe = FILIP.tiny().started(published).prepare(rows())
    model = recipe.model().eval()
    copy_matching_tensors(published.model.state_dict(), model)
    (step,) = batches(rows(), recipe, seed=1, stop=1)
    batch = step.batch
    with torch.no_grad():
        found = recipe.features(model, batch)
        seen = theirs.vision_model(pixel_values=batch.image_BCHW).last_hidden_state[:, 1:]
        patches = theirs.visual_projection(theirs.vision_model.post_layernorm(seen))
        read = theirs.text_model(input_ids=batch.text_BL, attention_mask=batch.text_mask_BL.long()).last_hidden_state
        words = theirs.text_projection(read)
    real = batch.word_mask_BL
    pairs = [
        (found.patch_NPD, F.normalize(patches, dim=-1)),
        (found.word_NLD[real], F.normalize(words, dim=-1)[real]),
        (found.scale, theirs.logit_scale.exp().reshape(1)),
    ]
    parity("filip", "tokens of a published CLIP", "transformers' CLIPModel, its layers by hand", pairs, tolerance=1e-5)


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kept is 0"):
        FILIP(kept=0)
    with pytest.raises(ConfigError, match="tokens of the image tower are 2048 wide and its vector 1024"):
        small(image_tower="resnet_clip_50", image_size=32, width=1024, tokenizer="clip").model()
    data = rows(8)
    recipe = small().prepare(data)
    blank = Pool.from_samples([replace(data[row], texts=(Text("  ", "en"),)) for row in range(8)], name="blank")
    with pytest.raises(DataError, match=r"the text of '.+' has no token"):
        list(batches(blank, recipe, seed=0, stop=1))
    model = recipe.deploy(recipe.model())
    with pytest.raises(DataError, match="the text of ' ' has no token"):
        model.embed_words(["a red circle", " "])


def test_a_head_that_pools_is_frozen_and_the_rest_is_trained() -> None:
    data = rows(8)
    recipe = small(image_pool="attention").prepare(data)
    model, batch = made(recipe, data)
    recipe.losses(recipe.features(model, batch), batch)["contrastive"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("encoder.image_tower.pool."), name
        assert parameter.requires_grad == (parameter.grad is not None), name


def test_an_export_of_its_vectors_is_refused(tmp_path: Path) -> None:
    recipe = small(tokenizer="clip")
    with pytest.raises(ConfigError, match="its kind is late_encoder, expected dual_encoder"):
        to_transformers(recipe.deploy(recipe.model()), tmp_path / "out")


def test_any_text_tower_will_do() -> None:
    data = rows(8)
    recipe = small(text_tower="bert_tiny").prepare(data)
    model, batch = made(recipe, data)
    assert isinstance(model.encoder.text_tower, TransformersText)
    loss = recipe.losses(recipe.features(model, batch), batch)["contrastive"]
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
