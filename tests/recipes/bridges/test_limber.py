"""LiMBeR: what is trained, how its rate falls, and a language model from a folder."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image, ImageOps
from safetensors.torch import save_file

import diptych
from diptych.core.errors import ConfigError
from diptych.data.load.stream import batches
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.connectors import connector
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.towers.towers import image_tower
from diptych.recipes.bridges.limber import LiMBeR
from diptych.recipes.contrastive.clip import CLIP
from diptych.train.optimise import learning_rate
from diptych.worlds.scenes.world import scenes

DATA = scenes(24, seed=0, lengths=("short",), negatives=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """A language model as transformers saves one, tokenizer beside it."""
    made: Path = tmp_path_factory.mktemp("language")
    tokenizer = Tokenizer.train([text.string for row in range(len(DATA)) for text in DATA[row].texts], 400)
    tokenizer.save(made)
    torch.manual_seed(0)
    config = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": tokenizer.vocab_size}
    LanguageModel(config={**config, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}).inner.save_pretrained(made)
    return made


def recipe(folder: Path, **changes: Any) -> LiMBeR:
    base = replace(LiMBeR.tiny(), image_tower="vit_micro", image_size=48, batch_size=8, steps=3, language_model=f"hf:{folder}")
    return replace(base, **changes)


def test_one_linear_map_is_all_that_is_trained(folder: Path, tmp_path: Path) -> None:
    made = recipe(folder).prepare(DATA)
    trained = {name: p.shape for name, p in made.model().named_parameters() if p.requires_grad}
    assert trained == {"connector.map.weight": (32, 64), "connector.map.bias": (32,)}
    run = diptych.train(recipe(folder), data=DATA, out=tmp_path / "run", seed=0)
    stored = torch_names(run.path / "checkpoints")
    assert not any(name.startswith("language.") for name in stored)
    model: Any = diptych.load(run.path)
    before = LanguageModel.from_folder(folder).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.bridge.language.state_dict().items())
    image = DATA[0].image
    assert model.generate([image], [""], max_tokens=4) == model.generate([image], [""], max_tokens=4)


def torch_names(folder: Path) -> set[str]:
    from safetensors import safe_open

    found: set[str] = set()
    for file in folder.rglob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found |= set(opened.keys())
    return found


def test_rates_of_all_steps_are_deepspeeds(parity: Any) -> None:
    """`WarmupDecayLR` over the run's own steps: nothing is set before the first update, then it moves after each."""
    spec, steps, warmup = LiMBeR.paper().optimiser(), 15_000, 100
    expected = [1.0]
    for done in range(steps - 1):  # updates that are behind a step
        decayed = max(0.0, (steps - done) / max(1.0, steps - warmup))
        expected.append(math.log(done + 1) / math.log(warmup) if done < warmup else decayed)
    found = [learning_rate(spec, step, steps) / 8e-4 for step in range(steps)]
    parity(
        "limber",
        "rates of all steps",
        "DeepSpeed's WarmupDecayLR by hand",
        [(np.array(found), np.array(expected))],
        tolerance=1e-9,
    )
    assert (spec.betas, spec.weight_decay, spec.clip_norm, LiMBeR.paper().batch_size) == ((0.9, 0.95), 0.0, 1.0, 2048)


def test_the_rate_may_fall_towards_a_horizon_beyond_the_run() -> None:
    spec = replace(LiMBeR.paper(), horizon=300_000, late=0).optimiser()
    for step in (100, 5_000, 14_999):
        wanted = 8e-4 * (300_000 - step) / (300_000 - 100)
        assert learning_rate(spec, step, 15_000) == pytest.approx(wanted, rel=1e-4)


def test_the_published_sizes() -> None:
    """BEiT-L/16 gives 196 patches of 1,024 numbers; GPT-J reads 4,096."""
    made = LiMBeR.paper()
    assert (made.resize, made.interpolation, made.mean, made.std) == ("squash", "bilinear", (0.5,) * 3, (0.5,) * 3)
    with torch.device("meta"):
        tower = image_tower(made.image_tower, image_size=224)
        spec = made.connector_spec()
        built = connector(spec.pop("kind"), tower.token_width, 4096, **spec)
        tokens = tower(torch.zeros(1, 3, 224, 224)).tokens_BPD
    assert tokens.shape == (1, 196, 1024)
    assert sum(p.numel() for p in built.parameters()) == 4_198_400


def test_one_token_of_an_nf_resnet_is_that_of_the_release() -> None:
    """`nfresnet50`: all of timm's network but its head, an average over places, one linear map."""
    torch.manual_seed(0)
    theirs = timm.create_model("nf_resnet50", pretrained=False).eval()
    trunk = torch.nn.Sequential(*list(theirs.children())[:-1], torch.nn.AdaptiveAvgPool2d((1, 1)))
    ours: Any = image_tower("timm:nf_resnet50", image_size=96).eval()
    ours.net.load_state_dict(theirs.state_dict(), strict=False)
    spec = LiMBeR.resnet().connector_spec()
    built: Any = connector(spec.pop("kind"), ours.token_width, 32, **spec).eval()
    image = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        tokens = ours(image).tokens_BPD
        assert (tokens.shape[1], built.count(tokens.shape[1])) == (9, 1)
        torch.testing.assert_close(built(tokens), built.map(trunk(image).flatten(1))[:, None])


def test_pictures_of_the_nf_resnet_are_their_middle_as_it_is() -> None:
    """`RandCropResize(384)` where it does not enlarge: Pillow's border of a negative width cuts."""
    rng = np.random.default_rng(0)
    made = LiMBeR.resnet()
    assert (made.flip, made.image_size, made.pooled, made.drop_path) == (True, 384, True, 0.0)
    for width, height in ((500, 387), (387, 20), (383, 383), (384, 384), (100, 900)):
        image_HWC = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        across, down = 384 - width, 384 - height
        border = (across // 2, down // 2, across - across // 2, down - down // 2)
        wanted = np.asarray(ImageOps.expand(Image.fromarray(image_HWC), border)).transpose(2, 0, 1) / 255
        np.testing.assert_allclose(made.preprocess([image_HWC])[0].numpy(), wanted, atol=1e-7)


def test_a_trained_beit_sees_pictures_as_the_release_shows_them(folder: Path, tmp_path: Path) -> None:
    """`BeitFeatureExtractor` squashes, bilinear; timm's settings of the same weights crop, bicubic."""
    torch.manual_seed(0)
    weights = tmp_path / "vit.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", pretrained=False).state_dict(), weights)
    made = replace(LiMBeR.paper(), language_model=f"hf:{folder}", image_weights=f"timm:vit_tiny_patch16_224/{weights}").prepare(
        DATA
    )
    image_HWC = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    squashed = np.asarray(Image.fromarray(image_HWC).resize((224, 224), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(made.preprocess([image_HWC])[0].numpy(), squashed.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
    assert made.slots == 196
    assert replace(made, own_pictures=False).preprocess.resize == "crop"
    seen = LiMBeR.clip()
    assert (seen.own_pictures, seen.image_weights, seen.image_size) == (False, "open_clip:RN50x16/openai", 384)


def test_a_fresh_picture_is_as_large_as_words() -> None:
    made = replace(LiMBeR.tiny(), image_tower="vit_micro", image_size=48, small_steps=2).prepare(DATA)
    torch.manual_seed(0)
    bridge = made.model()
    assert bridge.connector.training
    assert bridge.match_norms_(torch.randn(4, 3, 48, 48)) == pytest.approx(1, abs=0.1)
    torch.manual_seed(0)
    assert replace(made, match_norms=False).model().match_norms_(torch.randn(4, 3, 48, 48)) > 3


def test_rows_are_those_of_the_release(folder: Path) -> None:
    """The caption directly behind the picture, padded with the end mark as the released collator pads a process's rows, of which the
    labels keep the first: the longest of them have none."""
    made = replace(recipe(folder), space="", unended=3, batch_size=8).prepare(DATA)
    (step,) = batches(DATA, made, seed=0, stop=1)
    layout, words = step.batch.layout, made.words()
    texts = [words.pieces(text.string) for row in range(len(DATA)) for text in DATA[row].texts]
    said = [ids[mask & ~slots].tolist() for ids, slots, mask in zip(layout.id_BL, layout.slot_BL, layout.mask_BL, strict=True)]
    said = [row[len(words.start_ids) :] for row in said]
    for start in range(0, 8, 3):
        captions = [row[:-1] if row[-1] == words.end_id else row for row in said[start : start + 3]]
        assert all(caption in texts for caption in captions)
        longest = max(map(len, captions))
        labels = []
        for caption in captions:
            padded = [*caption, *[words.end_id] * (longest - len(caption))]
            labels.append(padded[: padded.index(words.end_id) + 1] if words.end_id in padded else padded)
        assert said[start : start + 3] == labels
    assert any(row[-1] == words.end_id for row in said)
    assert any(row[-1] != words.end_id for row in said)
    paper = LiMBeR.paper()
    assert (paper.space, paper.asked_space, paper.unended, paper.rows_a_mean) == ("", " ", 16, 16)
    assert paper.text_length == 2048  # places of GPT-J, 196 of them the picture's


def test_the_frozen_beit_skips_as_it_does_in_transformers() -> None:
    """`BeitModel` in training mode, as the release leaves it: shares of .1 at most, even over the blocks."""
    assert (LiMBeR.paper().drop_path, LiMBeR.paper().awake) == (0.1, ("encoder", "language"))
    config = transformers.BeitConfig(
        hidden_size=16, num_hidden_layers=5, num_attention_heads=2, intermediate_size=32, image_size=32
    )
    theirs = [module for name, module in transformers.BeitModel(config).named_modules() if name.endswith("drop_path")]
    wanted = [getattr(module, "drop_prob", None) or 0.0 for module in theirs]
    assert len(wanted) == 5
    tower: Any = image_tower("timm:vit_tiny_patch16_224", image_size=32)
    tower.net.blocks = tower.net.blocks[:5]
    tower.drop_paths_(0.1)
    for kind in ("drop_path1", "drop_path2"):
        found = [getattr(getattr(block, kind), "drop_prob", 0.0) for block in tower.net.blocks]
        assert found == pytest.approx(wanted)
    image = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(tower.train()(image).tokens_BPD, tower(image).tokens_BPD)
        assert torch.equal(tower.eval()(image).tokens_BPD, tower(image).tokens_BPD)
    with pytest.raises(ConfigError, match="no blocks to leave out"):
        image_tower("timm:resnet18", image_size=32).drop_paths_(0.1)  # type: ignore[attr-defined]


def test_bad_addresses_say_what_would_work(folder: Path) -> None:
    with pytest.raises(ConfigError, match="hf:FOLDER"):
        recipe(folder, language_model="hf:nowhere").prepare(DATA)


def test_a_trained_encoder_comes_with_its_image_settings(folder: Path, tmp_path: Path) -> None:
    clip = replace(CLIP.tiny(), image_tower="vit_micro", image_size=48, steps=2, batch_size=8, mean=(0.5, 0.5, 0.5), pieces=400)
    run = diptych.train(clip, data=DATA, out=tmp_path / "clip", seed=0)
    taught: Any = diptych.load(run.path)
    made = recipe(folder, image_weights=str(run.path), image_tower="vit_tiny", image_size=64).prepare(DATA)
    assert (made.image_size, made.slots, made.preprocess.mean) == (48, 9, (0.5, 0.5, 0.5))
    encoder = made.model().encoder.state_dict()
    wanted = taught.model.image_tower.state_dict()
    assert encoder.keys() == wanted.keys()
    assert all(torch.equal(encoder[name], wanted[name]) for name in wanted)
    again: Any = diptych.load(diptych.train(made, data=DATA, out=tmp_path / "limber", seed=0).path)
    assert all(torch.equal(value, wanted[name]) for name, value in again.bridge.encoder.state_dict().items())
    with pytest.raises(ConfigError, match="contains no image tower"):
        recipe(folder, image_weights=str(tmp_path / "limber")).prepare(DATA)
