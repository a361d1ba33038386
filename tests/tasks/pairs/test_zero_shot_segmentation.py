"""Segmentation by a dual encoder: sliding windows, the background's threshold, GroupViT's released scores, and the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import clip_folders

from diptych.api import load
from diptych.cli import main
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.models.layers.sliding_window import sliding_window_mean
from diptych.models.pairs.patch_segmenter import PatchSegmenter, affinities, resize_groupvit, with_background
from diptych.tasks.pairs.segmentation import Segmentation
from diptych.worlds.small_pairs import NOUNS

RELEASED = Path(__file__).parents[2] / "parity" / "released" / "cocu_segments_released.npz"
WORLD = "world:small_pairs?n=16&test=6&regions=true"
LABELS = ["red circle", "blue cross", "white square"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folders.clip_folder(tmp_path_factory.mktemp("hf"), ["a photo of a red circle and a blue cross, white square"])


def test_scores_are_those_that_groupvit_and_cocu_release(parity: Any) -> None:
    theirs = {name: torch.from_numpy(value) for name, value in np.load(RELEASED).items()}
    token_GD, image_D = F.normalize(theirs["token"], dim=-1), F.normalize(theirs["image"], dim=-1)
    score_GK = affinities(token_GD, image_D, theirs["text"], scale=9.0)
    member_GHW = F.interpolate(theirs["member"][None], size=(32, 32), mode="bilinear", align_corners=False)[0]
    score_KHW = score_GK[member_GHW.argmax(0)].permute(2, 0, 1)
    pairs = [(score_KHW, theirs["pred_0_0.95"])]
    for threshold in (0.95, 0.03):
        least = min(threshold, float(score_GK.max()))
        pairs.append((with_background(score_KHW, 0, least, hard=True), theirs[f"pred_1_{threshold}"]))
    parity("cocu", "scores of classes and background at every pixel", "xing0047/CoCu, group_vit_seg.py", pairs, tolerance=1e-5)


def test_windows_are_averaged_pixel_by_pixel() -> None:
    torch.manual_seed(0)
    image_BCHW, kernel = torch.randn(1, 3, 14, 21), torch.randn(2, 3, 4, 4)

    def scores(part: torch.Tensor) -> torch.Tensor:
        return F.conv2d(part, kernel, stride=4) + part.mean()

    total, count = torch.zeros(2, 14, 21), torch.zeros(14, 21)
    for top in (0, 5, 6):  # the last one ends with the image
        for left in (0, 5, 10, 13):
            part = image_BCHW[..., top : top + 8, left : left + 8]
            full = F.interpolate(scores(part), size=(8, 8), mode="bilinear", align_corners=False)[0]
            total[:, top : top + 8, left : left + 8] += full
            count[top : top + 8, left : left + 8] += 1
    assert torch.allclose(sliding_window_mean(image_BCHW, 8, 5, scores), total / count, atol=1e-5)


def test_one_window_is_the_whole_image(folder: Path) -> None:
    """A picture of the model's own size, read in windows, is read once; one twice as wide in three, of which each has its part."""
    model = load(f"hf:{folder}")
    rng = np.random.default_rng(0)
    square = ArrayImage(rng.integers(0, 256, (48, 48, 3)).astype(np.uint8), "square")
    whole, windows = PatchSegmenter(model), PatchSegmenter(model, short_side=48)
    np.testing.assert_array_equal(windows.segment([square], LABELS)[0], whole.segment([square], LABELS)[0])
    wide = ArrayImage(np.concatenate([square.pixels_HWC, square.pixels_HWC], 1), "wide")
    found = PatchSegmenter(model, short_side=48, stride=48).segment([wide], LABELS)[0]
    assert found.shape == (48, 96)
    np.testing.assert_array_equal(found[:, :48], found[:, 48:])
    tall = ArrayImage(rng.integers(0, 256, (70, 31, 3)).astype(np.uint8), "tall")
    assert windows.segment([tall], LABELS)[0].shape == (70, 31)


def test_the_background_has_no_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(f"hf:{folder}")
    image = ArrayImage(np.random.default_rng(1).integers(0, 256, (48, 48, 3)).astype(np.uint8), "one")
    read: list[str] = []
    embed = model.embed_texts
    monkeypatch.setattr(model, "embed_texts", lambda texts, **options: read.extend(texts) or embed(texts, **options))
    names = ["background", *LABELS]
    few = PatchSegmenter(model, background="background", threshold=-2.0).segment([image], names)[0]
    assert not any("background" in text for text in read)
    np.testing.assert_array_equal(few, PatchSegmenter(model).segment([image], LABELS)[0] + 1)
    assert set(np.unique(PatchSegmenter(model, background="background", threshold=2.0).segment([image], names)[0])) == {0}
    released = PatchSegmenter(model, background="background", threshold=0.0, rule="groupvit").segment([image], names)[0]
    assert 0 not in released
    with pytest.raises(ConfigError, match="background is 'sky', which is not a label"):
        PatchSegmenter(model, background="sky").segment([image], LABELS)


def test_groupvits_rule_takes_the_mean_of_sentences_before_their_norm(folder: Path) -> None:
    """As the released build_text_embedding: long vectors weigh more. The other rule takes the mean of unit vectors."""
    model, forms = load(f"hf:{folder}"), ("a photo of a {}.", "{}", "many {} in the snow, seen from far above")
    for rule in ("groupvit", "cosine"):
        found_KD = PatchSegmenter(model, templates=forms, rule=rule)._classes(LABELS)
        for label, found_D in zip(LABELS, found_KD, strict=True):
            total_D = 0.0
            for form in forms:
                encoded = model.tokenizer.encode([form.format(label)], model.text_length)
                ids_1L, mask_1L = torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL)
                with torch.no_grad():
                    raw_D = model.model.text_projection(model.model.text_tower(ids_1L, mask_1L).pooled_BD)[0]
                total_D = total_D + (raw_D if rule == "groupvit" else F.normalize(raw_D, dim=-1))
            np.testing.assert_allclose(found_D, F.normalize(total_D, dim=-1).numpy(), atol=1e-6)


def test_positions_are_stretched_for_larger_windows() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.GroupViTVisionConfig(
        hidden_size=32, intermediate_size=64, depths=[1, 1, 1], num_group_tokens=[8, 4, 0], num_output_groups=[8, 4, 0],
        num_attention_heads=2, image_size=32, patch_size=8,
    )  # fmt: skip
    net = transformers.GroupViTVisionModel._from_config(config).eval()
    torch.nn.init.normal_(net.vision_model.embeddings.position_embeddings)
    large = resize_groupvit(net, 64)
    image_1CHW = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(
            large.vision_model.embeddings(image_1CHW),
            net.vision_model.embeddings(image_1CHW, interpolate_pos_encoding=True),
            atol=1e-6,
        )
        assert large(pixel_values=image_1CHW).last_hidden_state.shape == (1, 4, 32)
    assert net.vision_model.embeddings.patch_embeddings.image_size == (32, 32), "the model itself stays as it is"
    with pytest.raises(ConfigError, match=r"window is 60 \(expected a multiple of 8"):
        resize_groupvit(net, 60)


def test_the_command_asks_runs_and_published_models(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    tiny = ["--steps", "2", "--batch-size", "8", "--image-tower", "vit_micro", "--text-tower", "text_micro", "--image-size", "48"]
    tiny += ["--width", "16", "--pieces", "300", "--json"]
    assert main(["train", "clip", "--data", WORLD, "--out", run, *tiny]) == 0
    shapes = sorted({name.split()[1] for name in NOUNS})
    with clip_folders.open_clip_model(tmp_path) as published:
        for model in (run, f"hf:{folder}", published):
            for more in ([], ["--short-side", "64", "--stride", "20", "--rule", "groupvit"]):
                capsys.readouterr()
                argv = [
                    "eval",
                    model,
                    "segmentation",
                    "--data",
                    WORLD,
                    "--split",
                    "test",
                    "--classes",
                    *shapes,
                    "--draws",
                    "10",
                    *more,
                ]
                assert main([*argv, "--json"]) == 0
                (result,) = json.loads(capsys.readouterr().out)["results"].values()
                assert 0 <= result["metrics"]["miou"]["value"] <= 1
                assert result["n_items"] == 6
    assert main(["eval", run, "segmentation", "--data", WORLD, "--split", "test", "--classes", *shapes, "--window", "96"]) == 2
    assert "reads pictures of one size (expected window 0, which is 48)" in capsys.readouterr().err


class Told:
    name, fingerprint, classes = "told", "told", ("a", "b")

    def segment(self, images: Any, labels: Any) -> list[Any]:
        return []


def test_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--short-side is for dual encoders, and 'told' segments by itself"):
        Segmentation(short_side=64).segmenter(Told())
    with pytest.raises(ConfigError, match=r"compares no patches with texts \(expected a dual encoder or a segmenter\)"):
        Segmentation().segmenter(object())
    with pytest.raises(ConfigError, match="short_side is 20"):
        Segmentation(short_side=20).segmenter(load(f"hf:{folder}"))
    with pytest.raises(ConfigError, match="rule is 'best'"):
        PatchSegmenter(load(f"hf:{folder}"), rule="best")  # type: ignore[arg-type]
