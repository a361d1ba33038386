"""Heads of image filters (unsafe, watermark, aesthetic): training on labelled images, saving, opening.

    head = train_safety(vectors, labels, fingerprint=model.fingerprint); head.save(folder); open_head(folder).probability(vectors)

A folder holds head.json (kind, sizes, the fingerprint of its embedder) and head.safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from diptych.core.contracts import Unit
from diptych.core.disk.files import atomic_folder, write_json
from diptych.core.errors import ConfigError, DataError, RunError, ShapeError
from diptych.core.image import ImageSource
from diptych.core.randomness import keyed_rng
from diptych.core.terminal.progress import with_bar
from diptych.data.media.decode import decode
from diptych.models.pairs.classifiers.filter_heads import SAFETY_WIDTHS, SafetyHead, WatermarkNet

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FilterHead:
    """Trained head of a filter. `facts` is the content of head.json."""

    net: nn.Module
    facts: dict[str, Any]

    def save(self, folder: Path) -> None:
        with atomic_folder(folder) as work:
            write_json(work / "head.json", self.facts)
            save_file({name: tensor.contiguous() for name, tensor in self.net.state_dict().items()}, work / "head.safetensors")


class SafetyClassifier(FilterHead):
    """Classifier of unsafe pictures, on their embeddings."""

    def probability(self, vector_ND: Unit, fingerprint: str) -> Floats:
        """Probability of being unsafe, 0..1, [N]. `fingerprint` is the embedder's; vectors of another embedder are refused (RunError)."""
        _refuse_other_model(self.facts, fingerprint)
        with torch.no_grad():
            return np.asarray(torch.sigmoid(self.net.eval()(torch.from_numpy(np.array(vector_ND, np.float32)))), np.float32)


class WatermarkClassifier(FilterHead):
    """Classifier of watermarked pictures, on their pixels."""

    def probability(self, images: Sequence[ImageSource], *, batch_size: int = 16) -> Floats:
        """Probability of a watermark, 0..1, [N]. Raises DecodeError for an image that cannot be read."""
        blocks = []
        with torch.no_grad():
            for start in range(0, len(images), batch_size):
                blocks += [
                    torch.softmax(self.net.eval()(_pixels(image, self.facts["side"])), 1)[:, 0]
                    for image in images[start : start + batch_size]
                ]
        return np.asarray(torch.cat(blocks), np.float32) if blocks else np.zeros(0, np.float32)


class AestheticHead(FilterHead):
    """Linear rating of pictures, on their embeddings."""

    def rating(self, vector_ND: Unit, fingerprint: str) -> Floats:
        """Ratings [N], in the units of the labels; not bounded. `fingerprint` as for `SafetyClassifier`."""
        _refuse_other_model(self.facts, fingerprint)
        with torch.no_grad():
            return np.asarray(self.net(torch.from_numpy(np.array(vector_ND, np.float32)))[:, 0], np.float32)


def train_aesthetic(vector_ND: Unit, rating: npt.ArrayLike, *, fingerprint: str, ridge: float = 1e-3) -> AestheticHead:
    """Linear rating by ridge regression on embeddings, a row of `rating` for each.

    ridge  weight of the squared norm of the coefficients beside the mean squared error
    """
    rating_N = np.asarray(rating, np.float64)
    if len(rating_N) != len(vector_ND):
        raise ShapeError(f"{len(rating_N)} ratings for {len(vector_ND)} images (expected one an image)")
    mean_D, mean = vector_ND.mean(0, dtype=np.float64), rating_N.mean()
    centred_ND = vector_ND - mean_D
    gram_DD = centred_ND.T @ centred_ND / len(rating_N) + ridge * np.eye(vector_ND.shape[1])
    weight_D = np.linalg.solve(gram_DD, centred_ND.T @ (rating_N - mean) / len(rating_N))
    net = nn.Linear(vector_ND.shape[1], 1)
    with torch.no_grad():
        net.weight.copy_(torch.from_numpy(weight_D)[None])
        net.bias.copy_(torch.tensor([mean - mean_D @ weight_D]))
    return AestheticHead(net, {"kind": "aesthetic", "width": int(vector_ND.shape[1]), "embedder": fingerprint})


def train_safety(
    vector_ND: Unit,
    unsafe: Sequence[bool],
    *,
    fingerprint: str,
    hidden: tuple[int, ...] = SAFETY_WIDTHS,
    steps: int = 500,
    batch_size: int = 256,
    lr: float = 1e-3,
    seed: int = 0,
) -> SafetyClassifier:
    """Safety classifier trained on embeddings with labels. Both labels must occur; batches hold as many of either."""
    label_N = _labels(unsafe, len(vector_ND))
    torch.manual_seed(seed)
    net = SafetyHead(vector_ND.shape[1], hidden=hidden)
    inputs = torch.from_numpy(np.array(vector_ND, np.float32))

    def loss(rows: npt.NDArray[np.int64]) -> torch.Tensor:
        target = torch.from_numpy(label_N[rows].astype(np.float32))
        return nn.functional.binary_cross_entropy_with_logits(net(inputs[rows]), target)

    _fit(net, loss, label_N, steps, batch_size, lr, seed)
    return SafetyClassifier(
        net, {"kind": "safety", "width": int(vector_ND.shape[1]), "hidden": list(hidden), "embedder": fingerprint}
    )


def train_watermark(
    images: Sequence[ImageSource],
    watermarked: Sequence[bool],
    *,
    net: str = "efficientnet_b3",
    side: int = 256,
    steps: int = 500,
    batch_size: int = 32,
    lr: float = 1e-3,
    seed: int = 0,
) -> WatermarkClassifier:
    """Watermark classifier trained on images with labels, decoded once (`side` x `side` x 3 floats each are held). Batches hold as many of
    either label.
    """
    label_N = _labels(watermarked, len(images))
    torch.manual_seed(seed)
    model = WatermarkNet(net, side=side)
    pixels = torch.cat([_pixels(image, side) for image in images])

    def loss(rows: npt.NDArray[np.int64]) -> torch.Tensor:
        target = torch.from_numpy(np.where(label_N[rows], 0, 1))  # class 0 is "watermark"
        return nn.functional.cross_entropy(model(pixels[rows]), target)

    _fit(model, loss, label_N, steps, batch_size, lr, seed)
    return WatermarkClassifier(model, {"kind": "watermark", "net": net, "side": side})


def open_head(folder: Path) -> Any:
    """Head of a folder that `save` wrote. Raises DataError for a folder without one."""
    if not (folder / "head.json").is_file():
        raise DataError(
            "contains no head", file=folder, expected="head.json and head.safetensors, as a trained head saves itself"
        )
    facts = json.loads((folder / "head.json").read_text(encoding="utf-8"))
    if facts["kind"] == "safety":
        net: nn.Module = SafetyHead(facts["width"], hidden=tuple(facts["hidden"]))
        made: FilterHead = SafetyClassifier(net, facts)
    elif facts["kind"] == "watermark":
        net = WatermarkNet(facts["net"], side=facts["side"])
        made = WatermarkClassifier(net, facts)
    elif facts["kind"] == "aesthetic":
        net = nn.Linear(facts["width"], 1)
        made = AestheticHead(net, facts)
    else:
        expected = "safety | watermark | aesthetic"
        raise DataError(f"is a head of kind {facts['kind']!r}", file=folder / "head.json", expected=expected)
    net.load_state_dict(load_file(folder / "head.safetensors"))
    return made


def _refuse_other_model(facts: dict[str, Any], fingerprint: str) -> None:
    if fingerprint != facts["embedder"]:
        raise RunError(f"the head was trained on embeddings of {facts['embedder']}, these are of {fingerprint}")


def _fit(net: nn.Module, loss: Any, label_N: npt.NDArray[np.bool_], steps: int, batch_size: int, lr: float, seed: int) -> None:
    sides = [np.flatnonzero(label_N), np.flatnonzero(~label_N)]
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr)
    net.train()
    for step in with_bar(range(steps), steps, "training the head", least=10):
        rng = keyed_rng(seed, "filter head", step)
        rows = np.concatenate([rng.choice(side, batch_size // 2) for side in sides])
        optimiser.zero_grad()
        loss(rows).backward()
        optimiser.step()
    net.eval()


def _labels(values: Sequence[bool], count: int) -> npt.NDArray[np.bool_]:
    label_N = np.asarray(values, bool)
    if len(label_N) != count:
        raise ShapeError(f"{len(label_N)} labels for {count} images (expected one an image)")
    if label_N.all() or not label_N.any():
        raise ConfigError("all labels are the same (expected images of both kinds)")
    return label_N


def _pixels(image: ImageSource, side: int) -> torch.Tensor:
    """Image squashed to a square as the published detector has it, 0..1. [1, C, H, W]"""
    from PIL import Image

    square = Image.fromarray(decode(image)).resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(square, np.float32) / 255).permute(2, 0, 1)[None]
