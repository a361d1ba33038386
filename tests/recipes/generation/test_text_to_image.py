"""Text-to-image diffusion: noise and targets of the library, published sizes, starts from folders of diffusers, steps that repeat."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2] / "models/diffusion"))
from small_pipelines import stable_folder, xl_folder

from diptych import api
from diptych.core.errors import ConfigError, UnknownName
from diptych.models.diffusion.noise import clean_estimate, noised, prediction_target, running_alphas
from diptych.models.diffusion.settings import DiffusionSettings, small_pixels, stable_diffusion_xl
from diptych.models.diffusion.text_to_image import TextToImageModel
from diptych.recipes.generation.reversion import ReVersion
from diptych.recipes.generation.text_to_image import TextToImage
from diptych.train.options import TrainOptions
from diptych.worlds.related.world import exemplars, related


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noise_and_targets_are_the_librarys(prediction: str, parity: Any) -> None:
    library = diffusers.DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False
    )
    alpha_T = running_alphas(1000, 0.00085, 0.012)
    clean, noise = (torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    step = torch.tensor([0, 333, 999])
    noisy = noised(clean, noise, step, alpha_T)
    target = prediction_target(clean, noise, step, alpha_T, prediction)
    expected = {"epsilon": noise, "sample": clean, "v_prediction": library.get_velocity(clean, noise, step)}[prediction]
    other = noise * 0.7
    estimate = clean_estimate(noisy, other, step, alpha_T, prediction)
    library.set_timesteps(1000)
    theirs = [library.step(other[at], int(step[at]), noisy[at]).pred_original_sample for at in range(3)]
    pairs = [(noisy, library.add_noise(clean, noise, step)), (target, expected), (alpha_T, library.alphas_cumprod)]
    parity("text_to_image", f"noise, targets and estimates, {prediction}", "diffusers' DDPMScheduler", pairs, tolerance=1e-5)
    torch.testing.assert_close(estimate, torch.stack(theirs), rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="prediction_type is 'score'"):
        prediction_target(clean, noise, step, alpha_T, "score")


def test_published_configurations_have_the_published_sizes() -> None:
    with torch.device("meta"):
        net = replace(TextToImage.paper(), layout="sdxl").model()
    sizes = [sum(p.numel() for p in part.parameters()) for part in (net.unet, *net.texts, net.vae)]
    assert sizes == [2_567_463_684, 123_060_480, 694_659_840, 83_653_863]
    assert (net.settings.image_size, net.settings.latent_channels, net.settings.latent_scale) == (1024, 4, 8)
    assert DiffusionSettings.from_json(stable_diffusion_xl().to_json()) == stable_diffusion_xl()
    with pytest.raises(UnknownName, match="unknown layout 'sd3'"):
        TextToImage(layout="sd3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a multiple of 4"):
        small_pixels(vocab_size=9, eot_id=2, pad_id=0, image_size=34)


@pytest.mark.parametrize("make", [stable_folder, pytest.param(xl_folder, marks=pytest.mark.slow)])
def test_training_starts_from_a_folder_of_diffusers(make: Any, tmp_path: Path) -> None:
    """Networks, tokenizer and length are the folder's; the autoencoder and the text encoders stay as they are."""
    folder = make(tmp_path / "folder")
    recipe = replace(TextToImage.paper(), steps=1, epochs=0.0, batch_size=2, warmup=0.0, lr=1e-2)
    options = TrainOptions(progress=False, device="cpu", precision="fp32")
    run = api.train(recipe, related(8), tmp_path / "run", init=f"hf:{folder}", options=options)
    trained = api.load(run.path)
    assert isinstance(trained, TextToImageModel)
    before = api.load(f"hf:{folder}")
    moved = {
        part
        for name, tensor in trained.model.state_dict().items()
        if not torch.equal(tensor, before.model.state_dict()[name])
        for part in [name.split(".")[0]]
    }
    assert moved == {"unet"}
    assert trained.settings.text_length == 20


def test_a_word_is_learned_on_a_folder_of_diffusers(tmp_path: Path) -> None:
    folder = stable_folder(tmp_path / "folder")
    recipe = replace(ReVersion.paper(), steps=2, batch_size=2)
    options = TrainOptions(progress=False, device="cpu", precision="fp32")
    run = api.train(recipe, exemplars(4), tmp_path / "run", init=f"hf:{folder}", options=options)
    trained, before = api.load(run.path), api.load(f"hf:{folder}")
    rows = trained.model.state_dict()
    assert all(torch.equal(rows[name], tensor) for name, tensor in before.model.state_dict().items()), (
        "all old rows are bit-equal"
    )
    (word,) = load_file(run.path / "model/learned_embeds.safetensors").values()
    start = before.model.token_tables()[0].weight[before.tokenizers[0].inner.token_to_id("and</w>")]
    assert 0 < (word[0] - start).abs().max() < 0.02, "two steps of AdamW at 2e-3, from the initializer"
