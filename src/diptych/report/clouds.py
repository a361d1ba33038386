"""Turntables of point clouds with their nearest texts, from the records of classification and retrieval of clouds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from diptych.core.disk.json_text import read_object
from diptych.core.disk.paths import is_file
from diptych.core.errors import DecodeError, MissingExtra
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.media.cloud_pictures import turntable
from diptych.data.media.cloud_views import Up
from diptych.report import page
from diptych.report.evaluation import StoredResult
from diptych.report.pictures import Album, data_uri

TASKS = ("point_classification", "point_retrieval")
SIDE, VIEWS, TEXTS = 96, 8, 5


def turntables(kept: StoredResult, album: Album, *, up: Up = "z", count: int = 6, seed: int = 0) -> list[str]:
    """Clouds drawn at random, each as views from all around beside its nearest class names or captions and their cosines. Needs records
    of `point_classification`, or of `point_retrieval` with texts; none for others.
    """
    if kept.result.task not in TASKS or not kept.records.is_file():
        return []
    table = pq.read_table(kept.records)
    medium = json.loads((table.schema.metadata or {}).get(b"diptych", b"{}")).get("options", {}).get("medium", "cloud")
    rows = [row for row in table.to_pylist() if _uid(row) in album and row["top"][0] not in album]
    rng = keyed_rng(seed, "turntables", kept.part)
    blocks = [_block(rows[i], album, up, medium) for i in rng.permutation(len(rows))[:count]]
    return [page.heading(f"{kept.result.task} on {kept.part}"), *blocks] if blocks else []


def cloud_up(model: Path) -> Up:
    """The axis of clouds that points up, of a model folder: that of its `CloudPreprocess`, else z."""
    if not is_file(model / "config.json"):
        return "z"
    clouds = read_object(model / "config.json").get("clouds")
    up: Up = clouds["up"] if isinstance(clouds, dict) and clouds.get("up") in ("x", "y", "z") else "z"
    return up


def _uid(row: dict[str, Any]) -> str:
    """Uid of the cloud of a row; "" for a text query."""
    if "direction" not in row:
        return str(row["uid"])
    return str(row["query"]) if row["direction"] == "image_to_text" else ""


def _block(row: dict[str, Any], album: Album, up: Up, medium: str) -> str:
    uid = _uid(row)
    nearest = [f"{text} {score:.3f}" for text, score in zip(row["top"], row["top_score"], strict=True)]
    return page.query_row(
        row.get("label") or album.of(uid)[1] or uid,
        f"right at rank {row['rank_expected']:.0f}; nearest: {', '.join(nearest[:TEXTS])}",
        _views(album.sample(uid), medium, up),
    )


def _views(sample: Sample, medium: str, up: Up) -> list[str]:
    """Figures of a turntable; none for a cloud that cannot be read."""
    try:
        shown_VSS3 = turntable(sample.media[medium].decode(), SIDE, views=VIEWS, up=up)
    except (KeyError, DecodeError, MissingExtra):
        return []
    return [
        page.figure(data_uri(view_SS3, side=SIDE), f"{360 * view // VIEWS}\u00b0") for view, view_SS3 in enumerate(shown_VSS3)
    ]
