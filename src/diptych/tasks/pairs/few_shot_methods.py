"""Methods of few-shot classification: the zero-shot head, a linear probe, and recipes that adapt a dual encoder.

Letters: N images, K classes, D width.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError
from diptych.core.registry import RECIPES
from diptych.data.shots import Shots
from diptych.index.embed import images_of
from diptych.models.io.saved_model import open_model
from diptych.tasks.pairs.linear_probe import fit, search
from diptych.tasks.pairs.zero_shot import ZeroShot, class_heads
from diptych.train.fit import fit as train
from diptych.train.options import TrainOptions

Scores = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.floating[Any]]]
"""Unit vectors [N, D] of images to scores [N, K]."""
ALONE = 1.0
"""The probe's lambda where a class has no image to validate on."""
Search = Literal["bracket", "coop"]
ROUNDS = 8


def zero_shot(model: Embedder, names: Sequence[str], templates: str) -> Scores:
    """Zero-shot head of class names in templates."""
    head_KD = class_heads(ZeroShot(templates=templates).embed_classes(model, names))
    return lambda vector_ND: vector_ND @ head_KD.T


def linear_probe(
    model: Embedder, data: Dataset, shots: Shots, names: Sequence[str], *, seed: int, how: Search = "bracket"
) -> Scores:
    """Logistic regression on the vectors of the shots; its penalty is chosen on those of validation, where there are any, as `linear_probe`
    chooses it ("bracket") or as CoOp's released code does ("coop")."""
    rows_ND, label_N = _embed_labelled(model, data, shots.train, names)
    val_ND, val_N = _embed_labelled(model, data, shots.val, names)
    parts, l2 = (rows_ND, label_N, val_ND, val_N), ALONE
    if len(val_N):
        l2 = search_as_coop(*parts) if how == "coop" else search(*parts)["l2"]
    fitted = fit(rows_ND, label_N, l2)
    return lambda vector_ND: fitted(vector_ND.astype(np.float64))


def search_as_coop(
    rows_ND: npt.NDArray[np.float64],
    label_N: npt.NDArray[np.int64],
    val_ND: npt.NDArray[np.float64],
    val_N: npt.NDArray[np.int64],
) -> float:
    """The lambda of CoOp's search (lpclip/linear_probe.py): the best of seven, two decades apart, of equal ones the smallest; then eight
    times the better end of the interval of a decade on either side, of equal ones the larger lambda, and the half of the interval next to
    it."""

    def accuracy(decade: float) -> float:
        return float((fit(rows_ND, label_N, 10.0**decade)(val_ND).argmax(1) == val_N).mean())

    peak = max(range(-6, 7, 2), key=lambda decade: (accuracy(decade), -decade))
    low, high = peak - 1.0, peak + 1.0  # of lambda, which is 1 / C
    for _ in range(ROUNDS):
        left, right = accuracy(high), accuracy(low)  # the release names the ends by C
        best, middle = low if left < right else high, (low + high) / 2
        low, high = (low, middle) if left < right else (middle, high)
    return float(10.0**best)


def train_on_shots(
    method: str,
    model: Any,
    data: Dataset,
    shots: Shots,
    folder: Path,
    *,
    part: Literal["all", "base"],
    changes: Mapping[str, Any],
    seed: int = 0,
) -> Callable[[Sequence[str]], Scores]:
    """Classifier factory of a recipe trained on the shots: class names to a function from image features to scores.

    `folder` holds the model and the runs; `changes` are further fields of the recipe.
    """
    kind: Any = RECIPES.load(method)
    if not {"weights", "shot_file", "part", "label"} <= {f.name for f in fields(kind)}:
        raise ConfigError(f"recipe '{method}' does not adapt a dual encoder from shots (expected one such as coop)")
    base, file = folder / "base", folder / f"shots-{shots.shots}-{shots.draw}.json"
    if not base.exists():
        if not hasattr(model, "save"):
            raise ConfigError(
                f"'{model.name}' cannot be kept beside its prompts (expected a dual encoder, such as a run of clip)"
            )
        model.save(base)
    shots.save(file)
    recipe = kind(weights=str(base), shot_file=str(file), part=part, label=shots.label, shots=shots.shots, **changes)
    uids = set(shots.uids())
    rows = data.select([row for row, uid in enumerate(data.uids) if uid in uids])
    options = TrainOptions(seed=seed + shots.draw, progress=False, save_every=0)
    run = train(recipe, rows, folder / f"run-{shots.shots}-{shots.draw}", options)
    learned: Any = open_model(run.model)
    shutil.rmtree(run.path)
    return lambda names: lambda vector_ND: learned.scores_of_vectors(vector_ND, names)


def _embed_labelled(
    model: Embedder, data: Dataset, uids: Any, names: Sequence[str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    row_of = {uid: row for row, uid in enumerate(data.uids)}
    chosen = [(uid, k) for k, name in enumerate(names) for uid in uids[name]]
    if not chosen:
        return np.zeros((0, 1)), np.zeros(0, np.int64)
    vectors_ND = model.embed_images(images_of([data[row_of[uid]] for uid, _ in chosen]))
    return np.asarray(vectors_ND, np.float64), np.array([k for _, k in chosen], np.int64)
