"""Folders of diffusers open by address, draw the pictures of diffusers' own pipelines, and take learned words back and forth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from small_pipelines import stable_folder, xl_folder

from diptych import api
from diptych.core.errors import ConfigError, DataError
from diptych.models.diffusion.text_to_image import TextToImageModel, to_pixels
from diptych.models.diffusion.textual_inversion import read_textual_inversion, save_textual_inversion, with_learned_word

PROMPTS = ["red cat on stone", "cat and wall"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {"sd15": stable_folder(root / "sd15"), "sdxl": xl_folder(root / "sdxl")}


def pipeline(kind: str, folder: Path) -> Any:
    made = (diffusers.StableDiffusionPipeline if kind == "sd15" else diffusers.StableDiffusionXLPipeline).from_pretrained(
        folder, local_files_only=True
    )
    made.set_progress_bar_config(disable=True)
    return made


def their_pictures(pipe: Any, model: TextToImageModel, prompts: list[str], negative: str = "") -> Any:
    latents = model.starting_noise(range(len(prompts)), 3)
    made = pipe(
        prompts,
        negative_prompt=[negative] * len(prompts),
        num_inference_steps=4,
        guidance_scale=5.0,
        latents=latents,
        output_type="pt",
        height=model.settings.image_size,
        width=model.settings.image_size,
    ).images
    return to_pixels(made * 2 - 1)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_pictures_are_those_of_the_pipeline(kind: str, folders: dict[str, Path], parity: Any) -> None:
    model = api.load(f"hf:{folders[kind]}")
    assert isinstance(model, TextToImageModel)
    ours = model.generate_images(PROMPTS, negative="wall", steps=4, guidance=5.0, seed=3)
    theirs = their_pictures(pipeline(kind, folders[kind]), model, PROMPTS, "wall")
    assert ours.shape == (2, 16, 16, 3)
    assert np.ptp(ours) > 50
    parity("text_to_image", f"pictures of a {kind} folder, of 255", "diffusers' pipeline", [(ours, theirs)], tolerance=1)
    apart = np.concatenate([model.generate_images(PROMPTS, steps=2, seed=3, batch_size=size) for size in (1, 2)])
    assert np.abs(apart[:2].astype(int) - apart[2:]).max() <= 1


def test_a_learned_word_opens_by_address_and_in_diffusers(folders: dict[str, Path], tmp_path: Path, parity: Any) -> None:
    base = api.load(f"hf:{folders['sd15']}")
    row_1D = torch.randn(1, 16, generator=torch.Generator().manual_seed(1))
    model = with_learned_word(base, "<R>", [row_1D])
    file = save_textual_inversion(model, tmp_path / "learned_embeds.safetensors")
    assert list(load_file(file)) == ["<R>"]
    pipe = pipeline("sd15", folders["sd15"])
    pipe.load_textual_inversion(str(file))
    words = ["cat <R> stone", "red wall <R> cat"]
    ours = model.generate_images(words, steps=4, guidance=5.0, seed=3)
    theirs = their_pictures(pipe, model, words)
    parity(
        "reversion", "pictures with an exported word, of 255", "diffusers' load_textual_inversion", [(ours, theirs)], tolerance=1
    )
    other = model.generate_images([word.replace("<R>", "and") for word in words], steps=4, guidance=5.0, seed=3)
    assert (ours != other).any()
    torch.save({"<R>": row_1D[0]}, tmp_path / "learned_embeds.bin")  # as released
    for name in ("learned_embeds.bin", file.name):
        again = api.load(f"reversion:{tmp_path / name}#hf:{folders['sd15']}")
        np.testing.assert_array_equal(again.generate_images(words, steps=4, guidance=5.0, seed=3), ours)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(api.load(tmp_path / "model").generate_images(words, steps=4, guidance=5.0, seed=3), ours)
    assert not base.placeholder
    assert not base.model.learned_rows(), "the base stays as it was"


def test_words_of_two_text_encoders_go_into_one_file(folders: dict[str, Path], tmp_path: Path) -> None:
    base = api.load(f"hf:{folders['sdxl']}")
    rows = [torch.randn(1, width, generator=torch.Generator().manual_seed(width)) for width in (16, 24)]
    model = with_learned_word(base, "<R>", rows)
    file = save_textual_inversion(model, tmp_path / "word.safetensors")
    pipe = pipeline("sdxl", folders["sdxl"])
    stored = load_file(file)
    parts = (("clip_l", pipe.text_encoder, pipe.tokenizer), ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2))
    for name, encoder, tokenizer in parts:
        pipe.load_textual_inversion(stored[name], token="<R>", text_encoder=encoder, tokenizer=tokenizer)
    ours = model.generate_images(["cat <R> stone"], steps=3, guidance=5.0, seed=3)
    theirs = their_pictures_of_three_steps(pipe, model)
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert [row_KD.shape for row_KD in read_textual_inversion(file)[1]] == [(1, 16), (1, 24)]


def their_pictures_of_three_steps(pipe: Any, model: TextToImageModel) -> Any:
    made = pipe(
        ["cat <R> stone"],
        negative_prompt=[""],
        num_inference_steps=3,
        guidance_scale=5.0,
        latents=model.starting_noise([0], 3),
        output_type="pt",
        height=16,
        width=16,
    ).images
    return to_pixels(made * 2 - 1)


def test_what_does_not_fit_is_refused_in_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    base = api.load(f"hf:{folders['sd15']}")
    with pytest.raises(ConfigError, match=r"a vector \[1, 8\] for a text encoder of \[1, 16\]"):
        with_learned_word(base, "<R>", [torch.zeros(1, 8)])
    with pytest.raises(ConfigError, match="in the vocabulary already"):
        with_learned_word(base, "cat</w>", [torch.zeros(1, 16)])
    with pytest.raises(ConfigError, match="has learned no word"):
        save_textual_inversion(base, tmp_path / "word.safetensors")
    model = with_learned_word(base, "<R>", [torch.zeros(1, 16)])
    with pytest.raises(DataError, match="'<R>' is cut off from a prompt of 25 tokens"):
        model.generate_images(["cat " * 24 + "<R>"], steps=1)
    with pytest.raises(ConfigError, match="does not read reference pictures"):
        model.generate_images(["cat"], references=[[]])
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ConfigError, match="holds a FluxPipeline"):
        api.load(f"hf:{broken}")
    (broken / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(DataError, match="the part text_encoder has no"):
        api.load(f"hf:{broken}")
