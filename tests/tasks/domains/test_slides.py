"""Protocols on slides: a model that sees nuclei finds tumours, one that sees nothing is at chance, and no label chooses anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from diptych.api import evaluate
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import BytesImage
from diptych.core.media import MediaItem
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.media.formats.tiled_tiff import tiled_tiff
from diptych.data.read import read
from diptych.data.slides.features import path_of
from diptych.index.slide_tiles import EmbeddedSlide, embedded_slides
from diptych.tasks._scoring.chest_metrics import auroc
from diptych.tasks._scoring.records import facts_of
from diptych.tasks.domains.slide_detection import SlideDetection
from diptych.tasks.domains.slide_segmentation import SlideSegmentation
from diptych.tasks.domains.slide_subtyping import SlideSubtyping
from diptych.tasks.domains.slide_task import names_by_label
from diptych.worlds.resolve import resolve
from diptych.worlds.tissue.slides import slides

pytest.importorskip("openslide", reason="needs the extra 'slides'")
pytest.importorskip("h5py", reason="needs the extra 'slides'")

TASK: dict[str, Any] = {"size": 48, "draws": 50}
KINDS = ("centroma", "tubuloma")


class Nuclei:
    """Sees how much of a tile is nuclei, and whether it has lumens; reads "tumour", "normal" and two kinds."""

    name, fingerprint = "nuclei", "1"

    def __init__(self, blind: bool = False) -> None:
        self.blind, self.asked = blind, 0

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> Any:
        self.asked += len(images)
        rows = []
        for image in images:
            pixels = image.pixels_HWC.astype(float)
            dark = pixels.sum(2) < 0.72 * np.median(pixels.sum(2))
            lumen = float((pixels.sum(2) > 1.1 * np.median(pixels.sum(2))).mean() > 0.02)
            share = 0.5 if self.blind else float(dark.mean() > 0.06)
            rows.append([1 - share, share * (1 - lumen), share * lumen, 0.1])
        found = np.array(rows, np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> Any:
        table = {"normal": [1, 0, 0], "tumour": [0, 1, 1], "centroma": [0, 1, 0], "tubuloma": [0, 0, 1], "stone": [-1, 0, 0]}
        rows = [next(vector for name, vector in table.items() if name in text) for text in texts]
        found = np.array([[*row, 0.1] for row in rows], np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


WORDS: dict[str, Any] = {"normal": ("normal tissue",), "tumour": ("tumour tissue", "tumour")}


def data(count: int = 8, split: Any = "test", **options: Any) -> Any:
    return slides(count, seed=3, split=split, tiles=10, kinds=KINDS, least=0.15, most=0.3, **options)


def test_a_model_that_sees_nuclei_detects_and_a_blind_one_does_not() -> None:
    pool = data()
    task = SlideDetection(**TASK, **WORDS)
    records = task.predict(Nuclei(), pool)
    result = task.score(records)
    assert result.value == 1.0
    assert (result.n_items, result.n_groups) == (8, 4)
    shares = dict(zip(records.column("uid").to_pylist(), records.column("share").to_pylist(), strict=True))
    for sample in (pool[row] for row in range(8)):
        assert shares[sample.uid] == pytest.approx(sample.extras["share"], abs=0.06), "the share of tiles is the share of tumour"
    assert task.score(task.predict(Nuclei(blind=True), pool)).value == 0.5
    assert result.metrics["sensitivity@95"].value == 1.0


def test_auroc_is_that_of_scikit_learn_also_with_weights() -> None:
    rng = np.random.default_rng(0)
    score, truth = np.round(rng.random(40), 1), rng.random(40) < 0.4
    assert auroc(score, truth) == pytest.approx(roc_auc_score(truth, score))
    weight = rng.integers(0, 3, 40).astype(float)
    assert auroc(score, truth, weight) == pytest.approx(roc_auc_score(truth, score, sample_weight=weight))
    assert np.isnan(auroc(score, np.ones(40, bool)))


def test_kinds_are_told_apart_by_votes_in_which_normal_tissue_cannot_win() -> None:
    task = SlideSubtyping(**TASK, kinds=("centroma=centroma", "tubuloma"), normal=WORDS["normal"])
    pool = data(12)
    records = task.predict(Nuclei(), pool)
    result = task.score(records)
    assert facts_of(records)["slides_of_others"] == 6
    assert result.value == 1.0
    assert all(max(shares) == shares[-1] for shares in records.column("shares").to_pylist()), "most tiles are normal"
    assert result.metrics["balanced_acc"].chance == 0.5
    named_by_text = [replace(pool[n], texts=(Text(pool[n].extras["label"], "", "label"),), extras={}) for n in range(12)]
    assert task.score(task.predict(Nuclei(), Pool.from_samples(named_by_text))).value == 1.0
    for bad in ((), ("centroma",), ("centroma", "normal"), ("a=b", "a=c")):
        with pytest.raises(ConfigError, match="kinds"):
            replace(task, kinds=bad).predict(Nuclei(), pool)
    with pytest.raises(DataError, match="no slide of these kinds"):
        replace(task, kinds=("fibroma", "angioma")).predict(Nuclei(), pool)
    assert names_by_label((" a = b | c ",)) == {"a": ("b", "c")}


def test_segmentation_takes_its_threshold_from_validation_slides_alone() -> None:
    test, val = data(6), data(4, "val")
    task = SlideSegmentation(**TASK, **WORDS, overlap=0.0, validation=val)
    records = task.predict(Nuclei(), test)
    result = task.score(records)
    assert result.value > 0.85
    assert result.metrics["auroc"].value > 0.97
    facts = facts_of(records)
    assert facts["slides_without_tumour"] == 3
    assert facts["threshold_from"] == "4 slides of 'slides'"
    assert "dice_oracle_threshold" not in result.metrics
    fixed = replace(task, threshold=facts["threshold"], validation=None)
    assert fixed.score(fixed.predict(Nuclei(), test)).value == result.value
    oracle = replace(task, oracle_threshold=True)
    bound = oracle.score(oracle.predict(Nuclei(), test))
    assert bound.main == "dice"
    assert bound.metrics["dice_oracle_threshold"].value >= bound.value - 0.05
    with pytest.raises(ConfigError, match="chosen on validation slides"):
        replace(task, validation=None).predict(Nuclei(), test)
    with pytest.raises(DataError, match="has slides in both"):
        replace(task, validation=test).predict(Nuclei(), test)
    overlapping = replace(task, overlap=0.5)
    assert overlapping.score(overlapping.predict(Nuclei(), test)).value > 0.5


def test_the_validation_split_is_found_by_itself(tmp_path: Path) -> None:
    address = "world:slides?n=2&val=4&test=4&tiles=10&kinds=centroma&least=0.2&most=0.3"
    task = SlideSegmentation(**TASK, **WORDS, overlap=0.0)
    result = evaluate(Nuclei(), task, resolve(address), split="test", out=tmp_path)
    assert "4 slides" in result.notes["threshold_from"]
    assert json.loads(next(tmp_path.glob("*.json")).read_text())["notes"]["threshold"] == result.notes["threshold"]


def test_screening_leaves_out_a_name_that_means_nothing_here() -> None:
    pool = data()
    names = {"normal": ("normal tissue", "stone"), "tumour": ("tumour tissue",)}
    all_sets = SlideDetection(**TASK, normal=names["normal"], tumour=names["tumour"], best=0, templates=("{}",))
    best = replace(all_sets, best=1)
    reads = [list(task.read(Nuclei(), pool, names)) for task in (all_sets, best)]
    assert {(one.chosen) for one in reads[0]} == {2}  # type: ignore[union-attr]
    normal = [np.mean([one.scores.score_NK[:, 0].mean() for one in read]) for read in reads]  # type: ignore[union-attr]
    assert normal[1] > normal[0], "with 'stone' for normal tissue, normal tiles look less normal"


def test_features_are_kept_and_used_again(tmp_path: Path) -> None:
    pool, model = data(4), Nuclei()
    task = SlideDetection(**TASK, **WORDS, features=str(tmp_path / "features"))
    first = task.predict(model, pool)
    asked = model.asked
    assert len([*(tmp_path / "features").glob("*.h5")]) == 4
    path_of(tmp_path / "features", pool[1].uid).unlink()
    again = task.predict(model, pool)
    assert again.column("share").equals(first.column("share"))
    assert asked < model.asked < 1.6 * asked, "one slide of four was computed again"
    found = list(embedded_slides(model, pool, task.tiling(model), folder=tmp_path / "features"))
    assert all(isinstance(one, EmbeddedSlide) and one.kept for one in found)
    with pytest.raises(DataError, match="was made with mpp"):
        replace(task, mpp=1.0).predict(model, pool)

    class Retrained(Nuclei):
        fingerprint = "2"

    with pytest.raises(DataError, match="was made with model '1', not '2'"):
        task.predict(Retrained(), pool)


def test_a_slide_that_cannot_be_read_is_named_and_costs_itself() -> None:
    pool = data(4)
    rng = np.random.default_rng(0)
    mute = BytesImage(tiled_tiff([rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)]), "mute.tif")
    rows = [pool[n] for n in range(4)] + [
        Sample("mute", None, (), media={"slide": MediaItem("slide", (mute,))}, extras={"tumour": 1})
    ]
    records = SlideDetection(**TASK, **WORDS).predict(Nuclei(), Pool.from_samples(rows))
    assert len(records) == 4
    (bad,) = facts_of(records)["unreadable"]
    assert bad["uid"] == "mute"
    assert "has no micrometres per pixel" in bad["reason"]
    spaced = SlideDetection(**TASK, **WORDS, spacing=0.5).predict(Nuclei(), Pool.from_samples(rows))
    assert len(spaced) == 5
    with pytest.raises(DataError, match=r"no slide that can be read: .*micrometres"):
        SlideDetection(**TASK, **WORDS).predict(Nuclei(), Pool.from_samples(rows[4:]))
    with pytest.raises(DataError, match="tumour"):
        SlideDetection(**TASK, **WORDS).predict(Nuclei(), Pool.from_samples([replace(rows[0], extras={"tumour": "maybe"})]))


def test_a_broken_tile_costs_its_slide_and_a_broken_model_stops_everything(tmp_path: Path) -> None:
    pool = data(4)
    whole = bytearray(pool[1].media["slide"].parts[0].read())
    whole[2000:40_000] = bytes(38_000)
    broken = BytesImage(bytes(whole), "broken.tif")
    rows = [
        replace(pool[n], media={**pool[n].media, "slide": MediaItem("slide", (broken,))}) if n == 1 else pool[n] for n in range(4)
    ]
    rows = [replace(row, extras={"tumour": n % 2}) for n, row in enumerate(rows)]
    records = SlideDetection(**TASK, **WORDS).predict(Nuclei(), Pool.from_samples(rows))
    (bad,) = facts_of(records)["unreadable"]
    assert bad["uid"] == rows[1].uid
    assert "broken.tif" in bad["reason"]

    class Undefined(Nuclei):
        def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> Any:
            return super().embed_images(images) * np.nan

    with pytest.raises(DataError, match="is not finite"):
        SlideDetection(**TASK, **WORDS).predict(Undefined(), pool)


def test_patients_of_barcodes_are_the_unit(tmp_path: Path) -> None:
    names = ["TCGA-AA-0001-01Z-00-DX1", "TCGA-AA-0001-01Z-00-DX2", "TCGA-AA-0002-01Z-00-DX1", "TCGA-AA-0003-01Z-00-DX1"]
    lines = ["slide,mask,label,tumour,barcode"]
    shown = data(4)
    for row, name in enumerate(names):
        sample = shown[row]
        (tmp_path / f"{name}.tif").write_bytes(sample.media["slide"].parts[0].read())
        (tmp_path / f"{name}.png").write_bytes(sample.media["mask"].parts[0].read())
        lines.append(f"{name}.tif,{name}.png,{sample.extras['label']},{sample.extras['tumour']},{name}")
    (tmp_path / "slides.csv").write_text("\n".join(lines))
    pool = read(tmp_path / "slides.csv")
    assert {name: item.medium for name, item in pool[0].media.items()} == {"slide": "slide", "mask": "image"}
    task = SlideDetection(**TASK, **WORDS, barcode="barcode")
    records = task.predict(Nuclei(), pool)
    assert records["group"].to_pylist() == ["TCGA-AA-0001"] * 2 + ["TCGA-AA-0002", "TCGA-AA-0003"]
    assert task.score(records).n_groups == 3
    segmentation = SlideSegmentation(**TASK, **WORDS, barcode="barcode", validation=pool.select([0]))
    with pytest.raises(DataError, match="patient 'TCGA-AA-0001' has slides in both"):
        segmentation.predict(Nuclei(), pool.select([1, 2]))
    (tmp_path / "slides.csv").write_text("\n".join([*lines[:2], lines[2].replace(f",{names[1]}", ",slide-7")]))
    with pytest.raises(DataError, match=r"row 1, field 'barcode': barcode 'slide-7' does not name a patient"):
        task.predict(Nuclei(), read(tmp_path / "slides.csv"))
