"""The map against scikit-learn and scipy, through whole runs; encoders are random vectors by name, so nothing has to be installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.models.pairs.frozen.linear_map import LinearPair, procrustes_map, ridge_map
from diptych.models.pairs.frozen.locked import LinearMapEmbedder
from diptych.recipes._shared.frozen import frozen_pairs
from diptych.recipes.contrastive.linear_map import LinearMap
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions

ROWS = 50
OPTIONS = TrainOptions(progress=False, log_every=2, save_every=2, keep=9, precision="fp32")


class Encoder:
    """Vectors by name, or by the number that an image holds; neither centred nor of unit norm."""

    fingerprint = "0" * 32

    def __init__(self, width: int) -> None:
        self.width = width

    def of(self, name: object) -> np.ndarray[Any, Any]:
        return keyed_rng(str(name)).normal(1.0, 1.0, self.width).astype(np.float32)

    def encode_images(self, images: Sequence[ArrayImage], batch_size: int = 64) -> np.ndarray[Any, Any]:
        return np.stack([self.of(int(image.pixels_HWC[0, 0, 0])) for image in images])

    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray[Any, Any]:
        return np.stack([self.of(text) for text in texts])


@pytest.fixture(params=[(6, 4), (5, 5), (3, 7)], ids=["narrower", "equal", "wider"])
def encoders(request: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Encoder, Encoder]:
    made = Encoder(request.param[0]), Encoder(request.param[1])
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(frozen_pairs, "_encoders", lambda *_: made)
    monkeypatch.setattr(LinearMapEmbedder, "save", lambda self, folder: folder.mkdir())
    frozen_pairs._opened.cache_clear()
    return made


def pool() -> Pool:
    """Images with one to three texts each, and a text in another language that must not count."""
    return Pool.from_samples(
        [
            Sample(
                uid=f"s{n}",
                image=ArrayImage(np.full((2, 2, 3), n, np.uint8)),
                texts=(*(Text(f"text {n} {k}", "en") for k in range(1 + n % 3)), Text(f"Text {n}", "de")),
            )
            for n in range(ROWS)
        ],
        name="numbers",
    )


def features(encoders: tuple[Encoder, Encoder]) -> tuple[Any, Any]:
    """Both sides in float64: images, and the mean over each image's texts."""
    image_ND = np.stack([encoders[0].of(n) for n in range(ROWS)]).astype(np.float64)
    text_NE = np.stack([np.mean([encoders[1].of(f"text {n} {k}") for k in range(1 + n % 3)], axis=0) for n in range(ROWS)])
    return image_ND, text_NE.astype(np.float64)


class Double(LinearMap):
    def model(self) -> LinearPair:
        return super().model().double()

    def features(self, model: Any, batch: Any) -> Any:
        return model(batch.image_BD.double(), batch.text_BE.double())


def solved(recipe: LinearMap, tmp_path: Path, options: TrainOptions = OPTIONS) -> tuple[LinearPair, dict[str, Any]]:
    """The module at the end of a run, and the line that the solution wrote."""
    run = fit(recipe, pool(), tmp_path / "run", options)
    model = recipe.model()
    newest = sorted(run.checkpoints.glob("step-*"))[-1]
    from safetensors.torch import load_file

    model.load_state_dict(load_file(newest / "model.safetensors"))
    return model, next(line for line in run.metrics() if "explained" in line)


@pytest.mark.parametrize("mapped", ["image", "text"])
def test_ridge_is_scikit_learns(encoders: Any, tmp_path: Path, mapped: Any, parity: Any) -> None:
    recipe = Double(batch_size=8, penalty=0.05, mapped=mapped)
    model, line = solved(recipe, tmp_path)
    x_ND, y_NE = features(encoders) if mapped == "image" else features(encoders)[::-1]
    expected = Ridge(alpha=0.05 * ROWS).fit(x_ND, y_NE)
    np.testing.assert_allclose(model.moved.map_DE.detach().numpy(), expected.coef_.T, atol=1e-6)
    ours = (model.moved.raw(torch.from_numpy(x_ND)) + model.target.mean_D).detach().numpy()
    np.testing.assert_allclose(ours, expected.predict(x_ND), atol=1e-6)
    pairs = [(model.moved.map_DE, expected.coef_.T), (ours, expected.predict(x_ND))]
    parity("linear_map", "ridge map and predictions after a whole run", "Ridge of scikit-learn", pairs, tolerance=1e-6)
    assert line["kind"] == "solve"
    assert line["rows"] == ROWS, "every sample once, though the last batch reaches into a second pass"
    variance = ((y_NE - y_NE.mean(0)) ** 2).sum()
    assert line["explained"] == pytest.approx(1 - ((y_NE - ours) ** 2).sum() / variance, abs=1e-6)


def test_the_mean_of_an_images_texts_stands_for_all_of_them(encoders: Any, tmp_path: Path) -> None:
    model, _ = solved(Double(batch_size=8, penalty=0.05), tmp_path)
    pairs = [(n, k) for n in range(ROWS) for k in range(1 + n % 3)]
    image = np.stack([encoders[0].of(n) for n, _ in pairs])
    text = np.stack([encoders[1].of(f"text {n} {k}") for n, k in pairs])
    expected = Ridge(alpha=0.05 * ROWS).fit(image, text, sample_weight=[1 / (1 + n % 3) for n, _ in pairs])
    np.testing.assert_allclose(model.moved.map_DE.detach().numpy(), expected.coef_.T, atol=1e-5)


@pytest.mark.parametrize("mapped", ["image", "text"])
def test_procrustes_is_scipys(encoders: Any, tmp_path: Path, mapped: Any, parity: Any) -> None:
    model, _ = solved(Double(batch_size=8, solution="procrustes", mapped=mapped), tmp_path)
    x_ND, y_NE = (side - side.mean(0) for side in (features(encoders) if mapped == "image" else features(encoders)[::-1]))
    width = max(x_ND.shape[1], y_NE.shape[1])
    padded = [np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in (x_ND, y_NE)]
    expected, _ = orthogonal_procrustes(*padded)
    ours = model.moved.map_DE.detach().numpy()
    if x_ND.shape[1] == y_NE.shape[1]:
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    trace = np.trace(padded[0].T @ padded[1] @ expected.T)
    assert np.trace(ours.T @ (x_ND.T @ y_NE)) == pytest.approx(trace, rel=1e-6)
    pairs = [(np.trace(ours.T @ (x_ND.T @ y_NE)), trace)]
    if x_ND.shape[1] == y_NE.shape[1]:
        pairs.append((ours, expected))
    parity("linear_map", "Procrustes map after a whole run", "orthogonal_procrustes of scipy", pairs, tolerance=1e-6)
    short = ours.T @ ours if ours.shape[0] >= ours.shape[1] else ours @ ours.T
    np.testing.assert_allclose(short, np.eye(len(short)), atol=1e-6)


def test_the_solution_is_where_the_losses_are_flat(encoders: Any, tmp_path: Path) -> None:
    recipe = Double(batch_size=8, penalty=0.05).prepare(pool())
    model, _ = solved(recipe, tmp_path)
    image_ND, text_NE = (torch.from_numpy(side) for side in features(encoders))
    batch = frozen_pairs.FeatureBatch(image_ND, text_NE, torch.arange(ROWS))
    sum(recipe.losses(recipe.features(model, batch), batch).values()).backward()
    assert model.moved.map_DE.grad.abs().max() < 1e-6
    with torch.no_grad():
        model.moved.map_DE += 1e-2
    model.zero_grad()
    sum(recipe.losses(recipe.features(model, batch), batch).values()).backward()
    assert model.moved.map_DE.grad.abs().max() > 1e-3


def test_a_stopped_run_ends_in_the_same_bytes(encoders: Any, tmp_path: Path) -> None:
    recipe = LinearMap(batch_size=8)
    whole = fit(recipe, pool(), tmp_path / "whole", OPTIONS)
    assert whole.state["step"] == 7

    class Stopped(RuntimeError): ...

    class Failing(LinearMap):
        def statistics(self, model: Any, batch: Any) -> Any:
            if self.batch_size == 8 and len(Failing.seen) == 5:
                raise Stopped
            Failing.seen.append(len(batch))
            return super().statistics(model, batch)

        seen: Any = []

    with pytest.raises(Stopped):
        fit(Failing(batch_size=8), pool(), tmp_path / "broken", OPTIONS)
    resume(tmp_path / "broken", pool(), kind=LinearMap)
    names = [folder / "checkpoints/step-00000007/model.safetensors" for folder in (tmp_path / "whole", tmp_path / "broken")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_more_steps_than_a_pass_are_cut_and_fewer_see_fewer_rows(encoders: Any, tmp_path: Path) -> None:
    _, line = solved(LinearMap(batch_size=8), tmp_path / "many", replace(OPTIONS, steps=40))
    assert (line["step"], line["rows"]) == (7, ROWS)
    _, line = solved(LinearMap(batch_size=8), tmp_path / "few", replace(OPTIONS, steps=3))
    assert (line["step"], line["rows"]) == (3, 24)


def test_least_norm_without_penalty_and_no_negative_one(parity: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x_ND, y_NE = torch.randn(4, 6, generator=generator).double(), torch.randn(4, 3, generator=generator).double()
    found_DE = ridge_map(x_ND.T @ x_ND, x_ND.T @ y_NE, 0.0)
    expected_DE, *_ = np.linalg.lstsq(x_ND.numpy(), y_NE.numpy())
    np.testing.assert_allclose(found_DE.numpy(), expected_DE, atol=1e-9)
    parity("linear_map", "map of least norm without penalty", "lstsq of numpy", [(found_DE, expected_DE)], tolerance=1e-9)
    with pytest.raises(ConfigError, match="penalty is -1"):
        LinearMap(penalty=-1)
    assert procrustes_map(torch.eye(3, dtype=torch.float64)).allclose(torch.eye(3, dtype=torch.float64))
