"""RS-M-CLIP: CLIP falls out without its term, languages are drawn evenly, the term is DINO's, and everything is in the checkpoint."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from few_words import FEW_WORDS
from invariants import gradients, on_two_processes, stopped_and_resumed, updated
from safetensors.torch import load_file
from torch import Tensor

from diptych.api import load
from diptych.core.contracts import Draw, Draws
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.media.augment.views import local_views
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.foreign.open_clip_layout import open_clip_parts
from diptych.models.io.foreign.parts import load_dual_encoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.models.towers.vit import VisionTransformer
from diptych.objectives.pairs.info_nce import info_nce
from diptych.recipes.domains.rs_m_clip import RSMCLIP, MultiViewBatch
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.train.weights import copy_matching_tensors
from diptych.worlds.pair_languages import pair_languages

OPTIONS = TrainOptions(save_every=2, log_every=1, progress=False, precision="fp32")
RELEASED = Path(__file__).parents[2] / "parity" / "released" / "dino_released.npz"
"""DINOLoss of facebookresearch/dino 7c446df on drawn answers of six views, two of them whole."""


@cache
def rows() -> Pool:
    shown = pair_languages(24, seed=0)
    return Pool.from_samples([shown[row] for row in range(len(shown))], name="pair languages")


def small(**changes: Any) -> RSMCLIP:
    settings = {
        "image_tower": "vit_micro",
        "text_tower": "text_micro",
        "width": 16,
        "image_size": 48,
        "text_length": 8,
        **FEW_WORDS,
    }
    settings |= {
        "batch_size": 8,
        "steps": 4,
        "warmup": 1.0,
        "local_size": 32,
        "prototypes": 12,
        "head_hidden": 8,
        "head_width": 6,
    }
    return replace(RSMCLIP.tiny(), **{**settings, **changes})


def batch_of(recipe: RSMCLIP, data: Pool | None = None) -> MultiViewBatch:
    found: MultiViewBatch = next(batches(data or rows(), recipe, seed=0, start=0, stop=1)).batch
    return found


def doubled(batch: MultiViewBatch) -> MultiViewBatch:
    views = {name: getattr(batch, name).double() for name in ("image_BCHW", "whole_BGCHW", "local_BVCHW")}
    return replace(batch, **views)


def made_model(recipe: RSMCLIP) -> Any:
    torch.manual_seed(1)
    model = recipe.model().double()
    with torch.no_grad():  # a teacher that is not the student
        for name, p in model.named_parameters():
            if name.startswith("companions."):
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name)), dtype=p.dtype))
    return model


def test_every_view_is_mirrored_by_a_draw_of_its_own() -> None:
    """As DINO's views are: half of them, where the first view is."""
    gradient = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 64, 3)).copy()
    draws = Draws(tuple(Draw(Sample(str(n)), np.random.default_rng(n), gradient) for n in range(16)), np.random.default_rng(0))
    for flip, shares in ((True, (0.3, 0.7)), (False, (0.0, 0.0))):
        view_BVCHW = local_views(draws, small().preprocess, count=8, size=32, scale=(0.05, 0.4), flip=flip)
        mirrored_BV = view_BVCHW[..., 0, 16, 31] < view_BVCHW[..., 0, 16, 0]
        assert shares[0] <= mirrored_BV.float().mean() <= shares[1]
        assert not flip or (mirrored_BV.any(1) & ~mirrored_BV.all(1)).all()


# ---------------------------------------------------------------- the loss


def test_without_its_term_it_is_clip(parity: Any) -> None:
    recipe = small(distilled=0.0, equal_texts="negative")
    batch, model = batch_of(recipe), recipe.model()
    features = recipe.features(model, batch)
    losses = recipe.losses(features, batch)
    group = {"group_N": batch.group_B, "group_M": batch.group_B}
    expected, _ = info_nce(features.image_ND, features.text_ND, scale=features.scale, same="mask", **group)
    assert set(losses) == {"contrastive"}
    parity("rs_m_clip", "loss without self-distillation", "clip, bit for bit", [(losses["contrastive"], expected)], tolerance=0.0)
    assert batch.local_BVCHW.shape[1] == batch.whole_BGCHW.shape[1] == 0
    assert not [name for name in model.state_dict() if name.startswith(("companions", "head", "centre"))]


def test_the_term_and_its_centre_are_those_of_dino(parity: Any) -> None:
    given = np.load(RELEASED)
    student_NVK = torch.from_numpy(given["student"]).transpose(0, 1)
    teacher_NGK = torch.from_numpy(given["teacher"]).transpose(0, 1)
    recipe = small()
    model, batch = recipe.model(), batch_of(recipe)
    found = replace(
        recipe.features(model, batch),
        student_NVK=student_NVK,
        teacher_NGK=teacher_NGK,
        centre_K=torch.from_numpy(given["centre"]),
    )
    loss = recipe.losses(found, batch)["distilled"]
    recipe.after_update(model, found, batch, 0.0)
    what = "self-distillation over six views, and the centre behind it"
    pairs = [(loss, float(given["loss"])), (model.centre_K, given["moved"])]
    parity("rs_m_clip", what, "facebookresearch/dino 7c446df, DINOLoss", pairs, tolerance=1e-6)
    assert float(replace(recipe, distilled=0.5).losses(found, batch)["distilled"]) == pytest.approx(float(loss) / 2)


def test_the_teacher_sees_whole_views_and_the_student_all() -> None:
    recipe = small(locals=3)
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    assert batch.whole_BGCHW.shape == (8, 1, 3, 48, 48)
    assert batch.local_BVCHW.shape == (8, 3, 3, 32, 32)
    f = recipe.features(model, batch)
    teacher = model.companions["teacher"]
    with torch.no_grad():
        for place, view in enumerate((batch.image_BCHW, batch.whole_BGCHW[:, 0])):
            torch.testing.assert_close(f.teacher_NGK[:, place], teacher["head"](teacher["image_tower"](view).pooled_BD))
            torch.testing.assert_close(f.student_NVK[:, place], model.head(model.encoder.image_tower(view).pooled_BD))
        for place in range(3):
            pooled = model.encoder.image_tower.of_any_size(batch.local_BVCHW[:, place]).pooled_BD
            torch.testing.assert_close(f.student_NVK[:, 2 + place], model.head(pooled))
    assert not f.teacher_NGK.requires_grad
    loss = recipe.losses(f, batch)["distilled"]
    each = [
        F.cross_entropy(f.student_NVK[:, view] / 0.1, ((f.teacher_NGK[:, whole] - f.centre_K) / 0.04).softmax(-1))
        for whole in range(2)
        for view in range(5)
        if view != whole
    ]
    torch.testing.assert_close(loss, torch.stack(each).mean())


def test_the_teacher_and_its_centre_move_after_the_update() -> None:
    recipe = small()
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    before = {name.removeprefix("encoder."): p.detach().clone() for name, p in model.named_parameters()}
    f = recipe.features(model, batch)
    recipe.after_update(model, f, batch, 0.0)
    for name, p in model.companions["teacher"].named_parameters():
        torch.testing.assert_close(p.detach(), 0.99 * before[f"companions.teacher.{name}"] + 0.01 * before[name])
    torch.testing.assert_close(model.centre_K, 0.1 * f.teacher_NGK.flatten(0, 1).mean(0))


# ---------------------------------------------------------------- views of several sizes


def test_images_of_any_size_are_read_with_resized_places(parity: Any) -> None:
    """A tower built for the other size, with the places that timm's resizing gives it."""
    from timm.layers import resample_abs_pos_embed

    torch.manual_seed(0)
    tower = image_tower("vit_micro", image_size=96)
    assert isinstance(tower, VisionTransformer)
    other = image_tower("vit_micro", image_size=48)
    state = dict(tower.state_dict())
    state["position_PD"] = resample_abs_pos_embed(state["position_PD"][None], [3, 3], [6, 6], num_prefix_tokens=1)[0]
    other.load_state_dict(state)
    image_BCHW = torch.rand(2, 3, 48, 48)
    ours, theirs = tower.of_any_size(image_BCHW), other(image_BCHW)
    pairs = [(ours.pooled_BD, theirs.pooled_BD), (ours.tokens_BPD, theirs.tokens_BPD)]
    parity("rs_m_clip", "a view of half the side", "timm's resample_abs_pos_embed", pairs, tolerance=1e-5)
    whole = torch.rand(2, 3, 96, 96)
    torch.testing.assert_close(tower.of_any_size(whole).pooled_BD, tower(whole).pooled_BD, rtol=0, atol=0)
    with pytest.raises(Exception, match="multiple of 16"):
        tower.of_any_size(torch.rand(2, 3, 40, 40))


# ---------------------------------------------------------------- languages


def test_a_language_is_drawn_first_and_then_one_of_its_captions() -> None:
    texts = (*(Text(f"english {n}", "en") for n in range(5)), Text("deutsch", "de"), Text("русский", "ru"))
    image = rows()[0].image
    data = Pool.from_samples([Sample(f"s{n}", image, texts) for n in range(8)], name="uneven")
    seen: Counter[str] = Counter()
    recipe = small(distilled=0.0)
    for step in batches(data, recipe, seed=0, stop=150):
        seen.update(recipe.words().decode(ids.tolist()).split()[0][:3] for ids in step.batch.text_BL)
    shares = np.array(list(seen.values())) / seen.total()
    assert len(seen) == 3
    np.testing.assert_allclose(shares, 1 / 3, atol=0.05)
    named = small(distilled=0.0, languages=("de", "ru"))
    assert list(named.texts_of(data[0])) == ["deutsch", "русский"]
    with pytest.raises(DataError, match="no text in language 'fr, it'"):
        small(languages=("fr", "it"), tokenizer="data", vocabulary="").prepare(data)
    some = Pool.from_samples([*data, Sample("bare", image, texts[:5])], name="one without")
    steps = list(batches(some, named, seed=0, stop=4, bad_limit=0.2))
    (fault,) = [fault for step in steps for fault in step.failures][:1]
    assert fault.uid == "bare"
    assert "no text in de, ru" in fault.reason


def test_equal_texts_of_other_images_can_be_left_out(parity: Any) -> None:
    image = rows()[0].image
    data = Pool.from_samples([Sample(f"s{n}", image, (Text(("a pond", "two ponds")[n % 2], "en"),)) for n in range(8)], name="x")
    recipe = small(distilled=0.0)
    batch, model = batch_of(recipe, data), recipe.model()
    f = recipe.features(model, batch)
    logit_NM = f.scale * f.image_ND @ f.text_ND.T
    same_NM = (batch.text_BL[:, None] == batch.text_BL).all(-1).fill_diagonal_(False)
    assert int(same_NM.sum()) == 8 * 3
    left_NM, truth = logit_NM.masked_fill(same_NM, float("-inf")), torch.arange(8)
    expected = (F.cross_entropy(left_NM, truth) + F.cross_entropy(left_NM.T, truth)) / 2
    pairs = [(recipe.losses(f, batch)["contrastive"], expected)]
    parity("rs_m_clip", "loss without equal texts of other images", "torch's cross_entropy", pairs, tolerance=1e-5)
    whole = (F.cross_entropy(logit_NM, truth) + F.cross_entropy(logit_NM.T, truth)) / 2
    torch.testing.assert_close(replace(recipe, equal_texts="negative").losses(f, batch)["contrastive"], whole)


# ---------------------------------------------------------------- training


def test_cached_gradients_are_exact() -> None:
    recipe = small()
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    whole, cut = (gradients(recipe, model, batch, micro_batch=size) for size in (0, 3))
    torch.testing.assert_close(cut, whole, rtol=1e-8, atol=1e-11)


def stepped(rank: int, world: int) -> dict[str, Tensor]:
    """On pictures of which many have the same texts."""
    recipe = small()
    few = Pool.from_samples([replace(rows()[n], texts=rows()[n % 2].texts, group="") for n in range(12)], name="few texts")
    batch = doubled(batch_of(recipe, few))
    assert len(batch.text_id_B.unique()) < 8
    return updated(recipe, made_model(recipe), [batch], rank, world)


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    alone = stepped(0, 1)
    torch.testing.assert_close(on_two_processes(stepped, tmp_path), [alone, alone], rtol=1e-8, atol=1e-11)


def test_a_stop_changes_nothing_and_the_student_is_deployed(tmp_path: Path) -> None:
    recipe = small(tokenizer="data").prepare(rows())
    whole = fit(recipe, rows(), tmp_path / "whole", OPTIONS)
    run = stopped_and_resumed(recipe, rows(), tmp_path, OPTIONS, step=2)
    last = "checkpoints/step-00000004/model.safetensors"
    assert (run.path / last).read_bytes() == (whole.path / last).read_bytes()
    model = load(run.path)
    assert isinstance(model, PairEmbedder)
    student = load_file(run.path / last)
    torch.testing.assert_close(model.model.image_tower.state_dict()["position_PD"], student["encoder.image_tower.position_PD"])
    assert not any(name.startswith(("companions", "head")) for name in model.model.state_dict())


def test_the_teacher_starts_from_the_weights_that_the_run_starts_from(tmp_path: Path) -> None:
    clip = fit(small(distilled=0.0, tokenizer="data").prepare(rows()), rows(), tmp_path / "clip", OPTIONS)
    recipe = small(tokenizer="data", steps=1, momentum=1.0).started(load(clip.path))
    run = fit(recipe, rows(), tmp_path / "run", replace(OPTIONS, init=str(clip.path)))
    found = load_file(run.path / "checkpoints/step-00000001/model.safetensors")
    given = load(clip.path).model.state_dict()
    teacher = {name.removeprefix("companions.teacher."): p for name, p in found.items() if "teacher.image_tower" in name}
    assert teacher
    for name, p in teacher.items():  # momentum 1: it has not moved since
        assert torch.equal(p, given[name]), name


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="two views"):
        small(wholes=1, locals=0)
    with pytest.raises(ConfigError, match="distilled is -1"):
        small(distilled=-1.0)
    with pytest.raises(ConfigError, match="does not see views of several sizes"):
        small(image_tower="convnet_tiny").model()
    with pytest.raises(ConfigError, match="local_size 20"):
        small(local_size=20).model()


# ---------------------------------------------------------------- as published


def test_the_text_tower_is_that_of_open_clip(parity: Any) -> None:
    """The same tensors in open_clip's own text encoder give the same vectors, padding or not."""
    from transformers import XLMRobertaConfig

    torch.manual_seed(0)
    tower = text_tower("xlm_roberta_tiny", vocab_size=40, length=12, pad_id=1).eval()
    encoder = {key: value for key, value in tower.net.config.to_dict().items() if key != "model_type"}
    theirs = open_clip.hf_model.HFTextEncoder(
        "", output_dim=64, config=XLMRobertaConfig(**encoder), pooler_type="mean_pooler", proj_type="mlp"
    ).eval()
    missing = theirs.load_state_dict(tower.net.state_dict(), strict=False)
    assert all("pooler" in name for name in missing.missing_keys)
    assert not missing.unexpected_keys
    text_BL = torch.randint(3, 40, (5, 12))
    text_BL[:, 8:] = 1
    with torch.no_grad():
        ours = tower(text_BL[:, :8], torch.ones(5, 8, dtype=torch.bool)).pooled_BD
        pairs = [(ours, theirs(text_BL))]
    parity("rs_m_clip", "vectors of texts by a small XLM-R", "open_clip's HFTextEncoder", pairs, tolerance=1e-5)


def test_a_run_starts_from_open_clips_multilingual_weights(tmp_path: Path) -> None:
    """Every tensor of a small model in the published layout has a place, and the towers are those of the weights."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP

    settings = dict(open_clip.get_model_config("xlm-roberta-base-ViT-B-32"))
    settings["vision_cfg"] = {"image_size": 48, "layers": 2, "width": 64, "patch_size": 16, "head_width": 16}
    tower = text_tower("xlm_roberta_tiny", vocab_size=300, length=77, pad_id=1)
    encoder = tower.net.config.to_dict()
    torch.manual_seed(3)
    vision = CustomTextCLIP(512, CLIPVisionCfg(**settings["vision_cfg"]), CLIPTextCfg(context_length=8, vocab_size=9, layers=1))
    tensors = {name: p for name, p in vision.state_dict().items() if not name.startswith("text.")}
    settings["embed_dim"] = 512
    parts = open_clip_parts(settings, tensors, encoder)
    text = text_tower(
        "open_clip_text", vocab_size=300, **{k: v for k, v in parts.text.items() if k not in ("name", "vocab_size")}
    )
    tensors |= {f"text.{name}": p for name, p in text.net.state_dict().items()}
    parts = open_clip_parts(settings, tensors, encoder)
    assert not parts.left
    model = load_dual_encoder(parts, "tiny")
    words = Tokenizer.train(["a red circle", "ein roter kreis"], 300)
    given = PairEmbedder(model, small().deployed_preprocess, words, 77, name="tiny")
    recipe = RSMCLIP.paper().started(given)
    assert (recipe.image_tower, recipe.text_tower) == ("vit", "open_clip_text")
    recipe = replace(recipe, local_size=32, prototypes=12, head_hidden=8, head_width=6, batch_size=8)
    made = recipe.model()
    taken = copy_matching_tensors(model.state_dict(), made)
    assert {name for name in made.state_dict() if name.startswith("encoder.")} == set(taken)
    batch = batch_of(recipe)
    assert set(recipe.losses(recipe.features(made, batch), batch)) == {"contrastive", "distilled"}


def test_the_paper_builds_with_its_parameter_count() -> None:
    paper = RSMCLIP.paper()
    with torch.device("meta"):
        model = paper.model()
    own = sum(p.numel() for p in model.encoder.parameters())
    vocabulary = (250_002 - paper.words().vocab_size) * 768  # CLIP's stands in for XLM-R's
    assert round((own + vocabulary) / 1e6, 2) == 366.12  # as open_clip's profile of xlm-roberta-base-ViT-B-32 has it
    head = (768 * 2048 + 2048) + (2048 * 2048 + 2048) + (2048 * 256 + 256) + 65_536 * 256
    image = sum(p.numel() for p in model.encoder.image_tower.parameters())
    assert sum(p.numel() for p in model.companions.parameters()) == image + head
    assert (paper.wholes, paper.locals, paper.local_size) == (2, 8, 96)
