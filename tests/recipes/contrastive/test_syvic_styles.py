"""Rendered pictures in the style of real ones: the released network's pictures, colours that are kept, and one style a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diptych.api import load
from diptych.core.errors import ConfigError, DataError
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.models.layers.style_transfer import StyleTransfer, StyleTransferAugmentation, adain, coral_colours
from diptych.recipes._shared.picture_styles import recolour, style_transfer
from diptych.recipes.contrastive.syvic import SyViC
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.world import scenes

RELEASED = Path(__file__).parents[2] / "parity" / "released" / "syvic_styles_released.npz"
SOURCE = "uvavision/SyViC d2356f7"
STYLES = "world:scenes?n=4&size=48&look=cutouts"
SMALL: dict[str, Any] = {
    "image_tower": "vit_micro", "text_tower": "text_micro", "image_size": 16, "text_length": 40, "width": 16, "pieces": 320,
    "batch_size": 4, "steps": 2, "warmup": 0.0, "sentences": 2,
}  # fmt: skip


def filled(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Weights by a formula: of each tensor in turn normal numbers, of kernels at He's scale."""
    rng = np.random.RandomState(seed)
    made: dict[str, npt.NDArray[np.float64]] = {}
    for name, shape in shapes.items():
        scale = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) == 4 else 0.1
        made[name] = rng.standard_normal(shape) * scale
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in made.items()}


@pytest.fixture(scope="module")
def weights() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    own = StyleTransfer()
    encoder = {name: tuple(tensor.shape) for name, tensor in own.encoder.state_dict().items()}
    behind = {
        f"{place}.{part}": (512, 512, 3, 3)[: 4 if part == "weight" else 1] for place in (32, 35) for part in ("weight", "bias")
    }
    decoder = {name: tuple(tensor.shape) for name, tensor in own.decoder.state_dict().items()}
    return filled({**encoder, **behind}, 1), filled(decoder, 2)


@pytest.fixture(scope="module")
def folder(weights: tuple[dict[str, Tensor], dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("styles")
    save_file(weights[0], path / "vgg_normalised.safetensors")
    torch.save(weights[1], path / "decoder.pth")
    return str(path)


def rows(count: int = 8) -> Pool:
    return scenes(count, size=48, lengths=("dense",), paraphrases=0, negatives=False).to_pool()


def test_pictures_get_styles_as_released(folder: str, parity: Any) -> None:
    theirs = {name: torch.from_numpy(value) for name, value in np.load(RELEASED).items()}
    transfer = style_transfer(folder)
    found = coral_colours(theirs["style"], theirs["content"][0])
    parity(
        "syvic", "a style in the colours of a picture", f"{SOURCE}, adain/function.py", [(found, theirs["coral"])], tolerance=1e-5
    )
    first = recolour(theirs["style"], theirs["content"], "first")
    plain = recolour(theirs["style"], theirs["content"], "style")
    pairs = [
        (transfer(theirs["content"], first, 0.7), theirs["kept"]),
        (transfer(theirs["content"], plain, 0.25), theirs["plain"]),
    ]
    parity("syvic", "pictures in the style of another", f"{SOURCE}, adain/utils.py", pairs, tolerance=1e-4)
    own = recolour(theirs["style"], theirs["content"], "own")
    assert torch.equal(own[0], first[0])
    assert not torch.allclose(own[1], first[1], atol=1e-2)


def test_features_take_the_moments_of_the_style() -> None:
    x_BCHW, y_BCHW = torch.rand(2, 5, 6, 6, dtype=torch.float64), 3 * torch.rand(2, 5, 4, 7, dtype=torch.float64) - 1
    made = adain(x_BCHW, y_BCHW, eps=0.0)
    for b in range(2):
        for c in range(5):
            assert float(made[b, c].mean()) == pytest.approx(float(y_BCHW[b, c].mean()))
            assert float(made[b, c].std()) == pytest.approx(float(y_BCHW[b, c].std()))
            assert np.corrcoef(made[b, c].flatten(), x_BCHW[b, c].flatten())[0, 1] == pytest.approx(1.0)


def test_a_style_takes_the_colours_of_a_picture() -> None:
    torch.manual_seed(0)
    mix_33 = torch.tensor([[0.6, 0.3, 0.0], [0.1, 0.2, 0.0], [0.0, 0.1, 0.05]])
    style_CHW, picture_CHW = torch.rand(3, 40, 40), torch.einsum("cd,dhw->chw", mix_33, torch.rand(3, 40, 40)) + 0.1
    made = coral_colours(style_CHW, picture_CHW)
    assert torch.allclose(made.flatten(1).mean(1), picture_CHW.flatten(1).mean(1), atol=1e-5)
    assert torch.allclose(torch.cov(made.flatten(1)), torch.cov(picture_CHW.flatten(1)), atol=1e-3)
    grey = torch.full((3, 8, 8), 0.5)
    assert torch.allclose(coral_colours(style_CHW, grey), torch.tensor(0.5)), "a picture of one colour lends that colour"
    assert torch.isfinite(coral_colours(grey, picture_CHW)).all()


class Halved(StyleTransfer):
    """Shows what it was given."""

    def forward(self, image_BCHW: Tensor, style_BCHW: Tensor, strength: float) -> Tensor:
        return image_BCHW + strength * (style_BCHW - image_BCHW)


def test_pixels_are_plain_for_the_network_of_styles() -> None:
    mean, deviation = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    plain_BCHW, style_BCHW = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    shift, spread = torch.tensor(mean)[:, None, None], torch.tensor(deviation)[:, None, None]
    shown_BCHW = (plain_BCHW - shift) / spread
    half = Halved()
    made = StyleTransferAugmentation(half, strength=0.5, mean=mean, deviation=deviation)(shown_BCHW, style_BCHW)
    assert torch.allclose(made * spread + shift, (plain_BCHW + style_BCHW) / 2, atol=1e-6)
    released = StyleTransferAugmentation(half, strength=0.5, mean=mean, deviation=deviation, normalised=True)(
        shown_BCHW, style_BCHW
    )
    assert torch.allclose(released, (shown_BCHW + style_BCHW) / 2, atol=1e-6)


def test_a_step_has_one_style_and_trains_on_it(folder: str, tmp_path: Path) -> None:
    data = rows()
    recipe = replace(SyViC.tiny(), **SMALL, styles=STYLES, style_weights=folder, style_colours="style")
    ready = recipe.prepare(data)
    first, second = (step.batch for step in batches(data, ready, seed=1, stop=2))
    assert first.style_BCHW is not None
    assert second.style_BCHW is not None
    assert all(torch.equal(first.style_BCHW[0], style) for style in first.style_BCHW)
    assert not torch.equal(first.style_BCHW, second.style_BCHW)
    assert 0 <= float(first.style_BCHW.min()) < float(first.style_BCHW.max()) <= 1
    model = ready.model()
    with torch.no_grad():
        styled = ready.features(model, first).image_ND
        parts = torch.cat([ready.features(model, first.rows(k, k + 2)).image_ND for k in (0, 2)])
        plain = ready.features(model, replace(first, style_BCHW=None)).image_ND
    assert torch.allclose(styled, parts, atol=1e-5), "chunks of a step have its style"
    assert not torch.allclose(styled, plain, atol=1e-3)
    run = fit(recipe, data, tmp_path / "run", TrainOptions(seed=1, progress=False, save_every=1)).expect_finished()
    kept = [path for path in tmp_path.rglob("*.safetensors") if path.stat().st_size > 10_000_000]
    assert not kept, "the network of styles is not kept with the run"
    assert not any("stylist" in name for name in load(run.path).model.state_dict())


def test_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="styles need --style-weights, a folder of vgg_normalised and decoder"):
        SyViC(styles=STYLES)
    with pytest.raises(ConfigError, match="style_colours is 'all'"):
        SyViC(styles=STYLES, style_weights=folder, style_colours="all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="image_size is 50 \\(expected a multiple of 8"):
        SyViC(styles=STYLES, style_weights=folder, image_size=50)
    with pytest.raises(DataError, match="no weights 'vgg_normalised'"):
        style_transfer(str(tmp_path))
    for stem in ("vgg_normalised", "decoder"):
        save_file(nn.Linear(2, 2).state_dict(), tmp_path / f"{stem}.safetensors")
    with pytest.raises(DataError, match="weights of another network"):
        style_transfer(str(tmp_path))
