"""A matcher reads pairs the same in any company; what is deployed answers as the module does; BLIP's folders read as transformers does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from threaded_ranks import ThreadedRanks, assert_learn_alike, likeliest

from diptych import api
from diptych.core.contracts import PairScorer
from diptych.core.errors import ConfigError
from diptych.data.load.stream import batches
from diptych.models.io.foreign.matchers import BlipMatcher, open_matcher, reader_inputs
from diptych.models.pairs.matching.embedder import MatcherModel
from diptych.models.pairs.matching.matcher import MatcherOutput, match_at, match_matrix, sample_columns
from diptych.recipes._shared.fused_pairs import matching
from diptych.recipes.contrastive.fused import FusedMatcher
from diptych.worlds.small_pairs import small_pairs

ROWS = small_pairs(6).to_pool()
IMAGES, TEXTS = [ROWS[i].image for i in range(4)], [ROWS[i].texts[0].string for i in range(3)]


def fused() -> FusedMatcher:
    small = {
        "image_tower": "vit_micro",
        "text_tower": "text_micro",
        "image_size": 48,
        "width": 16,
        "pieces": 300,
        "fusion_heads": 4,
    }
    return replace(FusedMatcher.tiny(), **small).prepare(ROWS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    recipe = fused()
    recipe.deploy(recipe.model().eval()).save(tmp_path_factory.mktemp("fused") / "model")
    return Path(tmp_path_factory.getbasetemp(), "fused0", "model")


def test_every_pair_is_scored_as_if_it_were_read_alone(folder: Path, parity: Any) -> None:
    model = api.load(folder)
    assert isinstance(model, MatcherModel)
    assert isinstance(model, PairScorer)
    score_NK = model.score_pairs(IMAGES, TEXTS, query="text")
    alone = [[model.score_pairs([image], [text], query="image")[0, 0] for text in TEXTS] for image in IMAGES]
    parity("fused", "scores of all pairs", "each pair read alone", [(score_NK, np.array(alone))], tolerance=1e-5)
    assert score_NK.std(axis=0).min() > 0
    assert score_NK.std(axis=1).min() > 0
    with torch.no_grad():
        image, text = model.readings.images(IMAGES), model.readings.texts(TEXTS)
        whole = match_matrix(model.matcher, image, text, chunk=5)
        torch.testing.assert_close(whole, torch.from_numpy(score_NK), atol=1e-5, rtol=0)
        pair_NK2 = torch.tensor([[[2, 1], [0, 2]], [[3, 0], [3, 1]]])
        torch.testing.assert_close(
            match_at(model.matcher, image, text, pair_NK2, chunk=3), whole[pair_NK2[..., 0], pair_NK2[..., 1]], atol=1e-5, rtol=0
        )


def test_two_processes_draw_wrong_pairs_as_one() -> None:
    """Loss and gradients of the matching: partners come from the rows of both, and those that the first one draws count."""
    torch.manual_seed(0)
    recipe = replace(fused(), batch_size=4)
    model = recipe.model().double()
    model.draw = likeliest
    (item,) = batches(ROWS, recipe, seed=1, stop=1)
    batch = replace(item.batch, image_BCHW=item.batch.image_BCHW.double())
    halves = [batch.rows(0, 2), batch.rows(2, 4)]

    shared = ThreadedRanks().run(model, lambda rank, own: matching(recipe.features(own, halves[rank])))
    assert_learn_alike(model, matching(recipe.features(model, batch)), sum(shared) / 2)


def test_the_vectors_of_a_matcher_are_those_of_its_dual_encoder(folder: Path) -> None:
    model = api.load(folder)
    np.testing.assert_allclose(model.readings.images(IMAGES).vector_ND, model.embed_images(IMAGES), atol=1e-6)
    np.testing.assert_allclose(model.readings.texts(TEXTS).vector_ND, model.embed_texts(TEXTS), atol=1e-6)


def test_matching_is_a_cross_entropy_over_three_kinds_of_pairs(parity: Any) -> None:
    answers = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wrong_N = torch.tensor([True, True, False, True])
    empty = torch.zeros(4, 1)
    loss = matching(MatcherOutput(empty, empty, torch.ones(1), *answers, wrong_N))
    total = 0.0
    for row in range(4):
        total += F.cross_entropy(answers[0, row].float(), torch.tensor(1)).item()
        if wrong_N[row]:
            total += sum(F.cross_entropy(answers[kind, row].float(), torch.tensor(0)).item() for kind in (1, 2))
    parity("fused", "the matching loss", "a loop over pairs", [(loss.item(), total / 12)], tolerance=1e-6)


def test_wrong_partners_are_drawn_by_their_share_and_never_from_the_group() -> None:
    torch.manual_seed(0)
    logit_NM = torch.tensor([[0.0, 3.0, 0.0, 9.0]]).expand(4000, 4)
    may_NM = torch.tensor([[False, True, True, False]]).expand(4000, 4)
    place_N = sample_columns(logit_NM, may_NM)
    assert set(place_N.tolist()) <= {1, 2}
    share = (logit_NM[0].softmax(0) + 1e-4) * may_NM[0]
    assert (place_N == 1).float().mean().item() == pytest.approx((share[1] / share.sum()).item(), abs=0.02)
    assert sample_columns(logit_NM[:2], torch.zeros(2, 4).bool()).tolist() == [0, 0]


# ---------------------------------------------------------------- BLIP


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BLIP for retrieval, as transformers saves it."""
    import transformers

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "circle", "cross", "square", "and", "top", "left"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    text = {
        "vocab_size": len(words), "hidden_size": 16, "encoder_hidden_size": 12, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 40, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "hidden_size": 12,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 16,
    }
    torch.manual_seed(0)
    config = transformers.BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=8)
    transformers.BlipForImageTextRetrieval(config).eval().save_pretrained(folder)
    transformers.BlipImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


def test_blip_scores_equal_those_of_transformers(blip: Path, parity: Any) -> None:
    import transformers

    model = open_matcher(f"hf:{blip}")
    assert isinstance(model, BlipMatcher)
    texts = ["a red circle", "a blue cross and a red square top left"]
    theirs = transformers.BlipForImageTextRetrieval.from_pretrained(blip).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(blip)
    pixels = model.preprocess([image.pixels_HWC for image in IMAGES])
    expected, contrast = np.zeros((4, 2)), np.zeros((4, 2))
    with torch.no_grad():
        for i in range(4):
            for k, text in enumerate(texts):
                given = {"pixel_values": pixels[i : i + 1], **tokenizer([text], return_tensors="pt")}
                answer = theirs(
                    input_ids=given["input_ids"], pixel_values=given["pixel_values"], attention_mask=given["attention_mask"]
                )
                expected[i, k] = (answer.itm_score[0, 1] - answer.itm_score[0, 0]).item()
                contrast[i, k] = theirs(
                    **{key: given[key] for key in ("input_ids", "pixel_values", "attention_mask")}, use_itm_head=False
                )[0].item()
    ours = model.score_pairs(IMAGES, texts, query="image")
    cosine = model.embed_images(IMAGES) @ model.embed_texts(texts).T
    pairs = [
        (torch.from_numpy(ours).double(), torch.from_numpy(expected)),
        (torch.from_numpy(cosine).double(), torch.from_numpy(contrast)),
    ]
    parity("dcd", "a BLIP teacher's scores and vectors", "transformers' BlipForImageTextRetrieval", pairs, tolerance=1e-5)


def test_other_models_are_no_matchers(folder: Path, blip: Path, tmp_path: Path) -> None:
    inputs = reader_inputs(f"hf:{blip}")
    assert (inputs.preprocess.size, inputs.text_length) == (48, 35)
    with pytest.raises(ConfigError, match="is not a matcher"):
        open_matcher(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "architectures": ["CLIPModel"]}))
    with pytest.raises(ConfigError, match="is CLIPModel of 'clip', which matches no pairs"):
        open_matcher(f"hf:{tmp_path}")
