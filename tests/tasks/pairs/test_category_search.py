"""Search by category against CTP's `eval_gallery` (KevinLight831/CTP 7baab57, product_evaluation.py), on vectors with ties; and a model of
recipe `ctp` that gives such vectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.api import load
from diptych.core.config import with_changes
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.models.pairs.matching.fused_embedder import FusedPairs
from diptych.recipes.contrastive.ctp import CTP
from diptych.tasks.pairs.category_search import CategorySearch, average_precision
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.world import scenes

OPTIONS = TrainOptions(log_every=1, progress=False, precision="fp32")
RELEASED = json.loads((Path(__file__).parent / "fixtures" / "category_search_released.json").read_text(encoding="utf-8"))


class Planted:
    """The vector of an item is in its text."""

    def embed_pairs(self, images: Any, texts: Any, *, batch_size: int = 64) -> np.ndarray:
        return np.array([json.loads(text) for text in texts])


def item(uid: str, vector: list[float], category: str, part: str) -> Sample:
    image = ArrayImage(np.zeros((2, 2, 3), np.uint8), uid)
    return Sample(uid, image, (Text(json.dumps(vector)),), extras={"cate_name": category, "part": part})


def pool(case: dict[str, Any]) -> Pool:
    gallery = zip(case["gallery_ids"], case["gallery"], case["gallery_labels"], strict=True)
    rows = [item(*one, "gallery") for one in gallery]
    if not case["share"]:
        asked = zip(case["query_ids"], case["queries"], case["query_labels"], strict=True)
        rows += [item(*one, "query") for one in asked]
    return Pool.from_samples(rows)


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_the_numbers_are_those_of_the_released_evaluation(name: str, parity: Any) -> None:
    case = RELEASED[name]
    step = CategorySearch(queries="" if case["share"] else "part=query")
    found = step.score(step.predict(Planted(), pool(case))).metrics
    pairs = [(found[f"map@{k}"].value, theirs / 100) for k, theirs in zip((1, 5, 10), case["map"], strict=True)]
    parity("ctp", "mean average precision of search by category", "KevinLight831/CTP 7baab57", pairs, tolerance=1e-12)
    assert found["map@1"].low <= found["map@1"].value <= found["map@1"].high


def test_what_cannot_ask_or_be_found_is_counted_or_refused() -> None:
    rows = [
        item("a", [1.0, 0.0], "x", "gallery"),
        item("b", [0.9, 0.1], "x", "query"),
        item("c", [0.0, 1.0], "y", "query"),
        Sample("d", ArrayImage(np.zeros((2, 2, 3), np.uint8), "d"), ()),
    ]
    step = CategorySearch(queries="part=query")
    records = step.predict(Planted(), Pool.from_samples(rows))
    result = step.score(records)
    assert (result.metrics["map@10"].value, result.notes["queries_without_match"], result.notes["incomplete"]) == (1.0, 1, 1)
    np.testing.assert_array_equal(step.item_values(records, "map@5"), [[1.0]])
    assert step.item_values(records, "recall@1") is None
    assert average_precision([False, True, False, True]) == pytest.approx((1 / 2 + 2 / 4) / 2)
    with pytest.raises(DataError, match="one of category, cate_name"):
        step.predict(Planted(), Pool.from_samples(rows[3:]))
    with pytest.raises(DataError, match="no query"):
        step.predict(Planted(), Pool.from_samples(rows[2:3]))
    with pytest.raises(ConfigError, match="ks is"):
        CategorySearch(ks=(11,))
    with pytest.raises(ConfigError, match="COLUMN=VALUE"):
        CategorySearch(queries="part")


@pytest.mark.parametrize("albef", [False, True])
def test_a_run_of_ctp_keeps_the_blocks_that_read_both(albef: bool, tmp_path: Path) -> None:
    data = scenes(16, size=32, lengths=("short",), paraphrases=0, negatives=False).to_pool()
    sizes: dict[str, Any] = {"image_tower": "vit_micro", "text_tower": "text_micro", "image_size": 32, "pieces": 300}
    changes = {
        "fusion_heads": 4,
        "batch_size": 8,
        "steps": 3,
        "at_most": 1,
        "queue": 8,
        "fused": True,
        "albef": albef,
        "class_token": albef,
    }
    small = with_changes(CTP.tiny(), {**sizes, **changes, "albef": albef, "class_token": albef})
    run = fit(small.prepare(data), data, tmp_path / "run", OPTIONS).path
    model = load(run)
    assert isinstance(model, FusedPairs)
    images, texts = [data[row].image for row in (0, 1, 2)], [data[row].positives()[0].string for row in (0, 1, 2)]
    found = model.embed_pairs(images, texts)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(model.embed_pairs(images[1:2], texts[1:2]), found[1:2], atol=1e-5)
    assert np.abs(model.embed_pairs(images[:1], texts[1:2]) - found[:1]).max() > 1e-4, "the text counts"
    assert np.abs(model.embed_pairs(images[1:2], texts[:1]) - found[:1]).max() > 1e-5, "the image counts"
    model.save(tmp_path / "kept")
    np.testing.assert_array_equal(load(tmp_path / "kept").embed_pairs(images, texts), found)
    assert (CTP.paper().fused, CTP.paper().memory.keys, CTP.tiny().memory.keys) == (True, "own", "gathered")
    plain = load(fit(replace(small, fused=False).prepare(data), data, tmp_path / "plain", OPTIONS).path)
    assert not hasattr(plain, "embed_pairs")
    again = fit(small.prepare(data), data, tmp_path / "later", replace(OPTIONS, init=str(run))).path
    assert isinstance(load(again), FusedPairs), "a run can start from one"
