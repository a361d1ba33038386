"""GeoRSCLIP: CLIP's loss, torchvision's rotation, adapters that are a few percent of the weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from few_words import FEW_WORDS
from PIL import Image
from torchvision.transforms import RandomRotation
from torchvision.transforms.functional import rotate

from diptych.api import load
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.media.augment.rotated_views import mentions_direction, rotated
from diptych.data.text.prompts.overhead_templates import overhead_templates
from diptych.models.io.foreign.clip_layout import from_open_clip
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.recipes.domains.georsclip import GeoRSCLIP
from diptych.tasks.pairs.zero_shot import ZeroShot, class_heads
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.resolve import resolve


def small(**changes: Any) -> GeoRSCLIP:
    shape = {
        "image_tower": "vit_micro",
        "text_tower": "text_micro",
        "width": 16,
        "image_size": 48,
        "text_length": 12,
        **FEW_WORDS,
    }
    return replace(GeoRSCLIP.tiny(), **{**shape, "batch_size": 6, "steps": 2, "warmup": 1.0, "crop": (1.0, 1.0), **changes})


def opened(folder: Path) -> Any:
    return load(folder)


def test_loss_and_gradients_are_clips(parity: Any) -> None:
    recipe = small(same_group="negative")
    torch.manual_seed(1)
    model = recipe.model().double()
    (step,) = batches(resolve("world:scenes?n=12").split("train"), recipe, seed=0, stop=1)
    features = recipe.features(model, replace(step.batch, image_BCHW=step.batch.image_BCHW.double()))
    loss = recipe.losses(features, step.batch)["contrastive"]
    theirs = open_clip.ClipLoss()(features.image_ND, features.text_ND, features.scale)
    parameters = list(model.parameters())
    ours, other = (torch.autograd.grad(value.sum(), parameters, retain_graph=True) for value in (loss, theirs))
    pairs = [(loss, theirs.squeeze()), *zip(ours, other, strict=True)]
    parity("georsclip", "loss and every gradient", "ClipLoss of open_clip", pairs, tolerance=1e-9)


def test_pictures_turn_as_torchvision_turns_them(parity: Any) -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    assert RandomRotation(degrees=(0, 360)).interpolation.value == "nearest"
    pairs, angles = [], []
    for seed in range(5):
        angles.append(float(np.random.default_rng(seed).uniform(0, 360)))
        theirs = np.array(rotate(Image.fromarray(image_HWC), angles[-1]))
        pairs.append((torch.from_numpy(rotated(image_HWC, np.random.default_rng(seed)).copy()), torch.from_numpy(theirs)))
    parity("georsclip", "a picture turned by any angle", "rotate of torchvision", pairs, tolerance=0.0)
    quarter = rotated(image_HWC, np.random.default_rng(0), (90.0, 90.0))
    np.testing.assert_array_equal(quarter, np.rot90(image_HWC))


def test_classes_are_means_of_raw_vectors_as_released(parity: Any) -> None:
    """zeroshot_classifier of inference_tool.py: the mean of vectors that are not normalised, then its norm; another than `mean` where their
    lengths differ."""
    recipe = small()
    torch.manual_seed(0)
    embedder = recipe.deploy(recipe.model().eval())
    task, names = ZeroShot(templates="overhead", ensemble="raw_mean"), ["a_pier", "town"]
    theirs = []
    for name in ("a pier", "town"):
        words = embedder.tokenizer.encode([sentence.replace("{}", name) for sentence in overhead_templates()], 12)
        with torch.no_grad():
            vector_TD = embedder.model.text_vectors(torch.from_numpy(words.ids_BL), torch.from_numpy(words.mask_BL))
        theirs.append(F.normalize(vector_TD.mean(0), dim=-1))
    heads = task.raw_heads(embedder, names)
    parity(
        "georsclip",
        "classes of several sentences",
        "zeroshot_classifier of RS5M (084cdd9)",
        [(heads, torch.stack(theirs))],
        tolerance=1e-6,
    )
    assert abs(heads - class_heads(task.embed_classes(embedder, names))).max() > 1e-5
    with pytest.raises(ConfigError, match="only unit vectors"):
        task.raw_heads(SimpleNamespace(name="foreign"), names)


def test_a_text_with_a_direction_keeps_its_picture() -> None:
    image = ArrayImage(np.random.default_rng(3).integers(0, 256, (48, 48, 3), dtype=np.uint8))
    rows = Pool.from_samples(
        Sample(str(n), image, (Text("a pier north of the town" if n % 2 else "a pier", "en"),)) for n in range(6)
    )

    def same(**changes: Any) -> list[bool]:
        recipe = small(flip=False, **changes)
        (step,) = batches(rows, recipe, seed=0, stop=1)
        still_CHW = recipe.preprocess([image.pixels_HWC])[0]
        directed = [mentions_direction(string) for string in step.batch.strings]
        still = [bool(torch.equal(image_CHW, still_CHW)) for image_CHW in step.batch.image_BCHW]
        return [a == b for a, b in zip(still, directed, strict=True)] if "flip_sides" not in changes else still

    assert all(same())
    assert not any(same(flip_sides="ignore"))
    assert all(same(flip_sides="ignore", rotation=(0.0, 0.0)))
    with pytest.raises(ConfigError, match="least angle first"):
        small(rotation=(90.0, 0.0))


def test_adapters_are_few_and_the_rest_stays(tmp_path: Path) -> None:
    data = resolve("world:scenes?n=12").split("train")
    options = TrainOptions(log_every=1, progress=False, precision="fp32")
    assert small().tuning().lora == ""
    assert small(rank=4, adapted="qkv,mlp_in").tuning().lora == "4:qkv,mlp_in"
    with pytest.raises(ConfigError, match="rank is 0"):
        small(adapted="qkv")
    fit(small(), data, tmp_path / "start", options)
    tuned = replace(options, init=str(tmp_path / "start"))
    fit(small(rank=2, lr=1e-2), data, tmp_path / "adapters", tuned)
    fit(small(lr=1e-2), data, tmp_path / "full", tuned)
    start, adapters, full = (opened(tmp_path / name).model.state_dict() for name in ("start", "adapters", "full"))
    moved = {name: adapters[name] - start[name] for name in start if not torch.equal(adapters[name], start[name])}
    assert moved
    assert all(int(torch.linalg.matrix_rank(change.flatten(1), atol=1e-5)) <= 2 for change in moved.values())
    assert len([name for name in start if not torch.equal(full[name], start[name])]) > len(moved)


def test_the_published_size() -> None:
    with torch.device("meta"):
        model = GeoRSCLIP.paper().model()
    assert sum(p.numel() for p in model.parameters()) == 151_277_313  # CLIP's ViT-B/32


@pytest.mark.parametrize("architecture", ["ViT-B-32-quickgelu", "ViT-H-14"])
def test_every_tensor_of_the_released_sizes_has_a_place(architecture: str) -> None:
    """RS5M_ViT-B-32.pt and RS5M_ViT-H-14.pt are state dicts of open_clip's: each name and shape is one of ours, nothing is left over."""
    config: Any = open_clip.get_model_config(architecture)
    vision, text = config["vision_cfg"], config["text_cfg"]
    shape: dict[str, Any] = {
        "width": vision["width"],
        "layers": vision["layers"],
        "heads": vision["width"] // vision.get("head_width", 64),
    }
    with torch.device("meta"):
        theirs = open_clip.model.CLIP(**config)
        image = image_tower("vit", image_size=vision["image_size"], patch=vision["patch_size"], **shape)
        shape = {name: text[name] for name in ("width", "layers", "heads")}
        words = text_tower("transformer", vocab_size=text["vocab_size"], length=text["context_length"], eot_id=49_407, **shape)
        model = DualEncoder(image, words, width=config["embed_dim"])
        renamed = from_open_clip(theirs.state_dict())
    assert {name: value.shape for name, value in renamed.items()} == {n: v.shape for n, v in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["pfeiffer", "houlsby", "prefix", "unipelt"])
def test_modules_beside_frozen_weights(kind: Any, tmp_path: Path) -> None:
    """Nothing of the start moves, what is beside it does, and the model opens again with it."""
    data = resolve("world:scenes?n=12").split("train")
    options = TrainOptions(log_every=1, progress=False, precision="fp32")
    fit(small(), data, tmp_path / "start", options)
    recipe = small(adapter=kind, reduction=4, prefix_length=2, prefix_hidden=4, rank=2 if kind == "unipelt" else 0, lr=1e-2)
    fit(recipe, data, tmp_path / "tuned", replace(options, init=str(tmp_path / "start")))
    start, tuned = opened(tmp_path / "start"), opened(tmp_path / "tuned")
    before, after = start.model.state_dict(), tuned.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {*after} - {*before}
    assert all(".adapter_" in name for name in {*after} - {*before})
    image = data[0].image
    assert image is not None
    assert (start.embed_images([image]) != tuned.embed_images([image])).any()


def test_ways_to_tune_exclude_each_other() -> None:
    for changes in (
        {"adapter": "compacter"},
        {"adapter": "prefix", "rank": 4},
        {"adapter": "unipelt", "rank": 4, "adapted": "qkv"},
    ):
        with pytest.raises(ConfigError, match="adapter is"):
            small(**changes)
    assert small(adapter="unipelt", rank=4).tuning().lora == ""
