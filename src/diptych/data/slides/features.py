"""Tile features of slides, one HDF5 file per slide with `features` and `coords`, as CLAM and its successors have it.

    OUT/UID.h5    features  float32 [N, D], unit rows
                  coords    int64 [N, 2], x and y of the upper left corner, pixels of level 0
                  attributes: settings (JSON: tiling and model), extent, stride, level, width, height, candidates

A file is written beside its name and renamed, so one that is there is whole: a run that was killed goes on after the last one.

Letters: N tiles, D width.
"""

from __future__ import annotations

import importlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.disk.files import write_atomic
from diptych.core.errors import DataError, MissingExtra
from diptych.data.slides.tiling import Tiles


@dataclass(frozen=True)
class SlideFeatures:
    """Tiles of a slide with a unit vector each. `settings` are tiling and model."""

    tiles: Tiles
    vector_ND: npt.NDArray[np.float32]
    settings: dict[str, Any]


def path_of(folder: Path, uid: str) -> Path:
    """The file of a slide's features."""
    return folder / f"{uid}.h5"


def write_features(path: Path, features: SlideFeatures) -> None:
    """One slide's file."""
    file, tiles = io.BytesIO(), features.tiles
    with _h5py().File(file, "w") as store:
        store.create_dataset("features", data=features.vector_ND.astype(np.float32))
        store.create_dataset("coords", data=tiles.place_N2.astype(np.int64))
        attributes = {"extent": tiles.extent, "stride": tiles.stride, "level": tiles.level, "candidates": tiles.candidates}
        attributes |= {"width": tiles.shape[0], "height": tiles.shape[1]}
        store.attrs.update({**attributes, "settings": json.dumps(features.settings, sort_keys=True)})
    write_atomic(path, file.getvalue())


def read_features(path: Path) -> SlideFeatures:
    """Read a file of `write_features`. Raises DataError for a file that is something else."""
    try:
        with _h5py().File(path, "r") as store:
            vector_ND, place_N2 = np.asarray(store["features"]), np.asarray(store["coords"])
            facts = dict(store.attrs)
            settings = json.loads(facts["settings"])
            shape = (int(facts["width"]), int(facts["height"]))
            extent, stride, level, candidates = (int(facts[name]) for name in ("extent", "stride", "level", "candidates"))
    except (OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"is not a file of slide features: {reason}", file=path, expected="what `diptych slides` wrote"
        ) from error
    if vector_ND.ndim != 2 or place_N2.shape != (len(vector_ND), 2):
        raise DataError(
            f"features are {list(vector_ND.shape)} and coords {list(place_N2.shape)}", file=path, expected="[N, D] and [N, 2]"
        )
    tiles = Tiles(place_N2.astype(np.int64), extent, stride, level, shape, candidates)
    return SlideFeatures(tiles, vector_ND.astype(np.float32), settings)


def kept_features(folder: Path, uid: str, settings: dict[str, Any]) -> SlideFeatures | None:
    """Those of a slide, None if there are none yet. Raises DataError if they were made by other settings."""
    path = path_of(folder, uid)
    if not path.is_file():
        return None
    features = read_features(path)
    expected = json.loads(json.dumps(settings))
    if features.settings != expected:
        other = next(name for name in {**expected, **features.settings} if expected.get(name) != features.settings.get(name))
        raise DataError(
            f"was made with {other} {features.settings.get(other)!r}, not {expected.get(other)!r}",
            file=path,
            expected="the same settings, another folder, or --overwrite",
        )
    return features


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise MissingExtra("h5py", "slides", needed_for="features of slides") from error
