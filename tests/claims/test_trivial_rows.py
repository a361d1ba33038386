"""What a hostile reader would try first, as rows: of the right number, with nothing of the method in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diptych.claims.cell import Cell
from diptych.claims.cells.learned_pairs.clipart import AsManyByChance, heads, pictures
from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.claims.cells.learned_pairs.probed import backbone
from diptych.claims.systems.laion import Agreeing, as_many
from diptych.claims.systems.metaclip import OneTextInTurn, balanced
from diptych.claims.systems.protoclip import OTHER_WORDS, in_other_words
from diptych.claims.systems.tips import PatchColours
from diptych.claims.training import untrained
from diptych.core.contracts import CurationStepResult
from diptych.core.image import ArrayImage
from diptych.curate.operators.laion import LAION
from diptych.curate.operators.tldr import spread_over_clusters
from diptych.data.dataset import Pool
from diptych.recipes.contrastive.clip import CLIP
from diptych.worlds.long_tail import long_tail
from diptych.worlds.small_pairs import COLOURS, SHAPES, SmallPairs


def test_one_row_a_text_in_turn(tmp_path: Path) -> None:
    pool, cell = long_tail(400, seed=2).to_pool(), Cell("x", 2, tmp_path)
    kept = OneTextInTurn(balanced)(pool, cell)
    assert len(kept) == len(balanced(pool, cell)) < len(pool)
    texts = [pool[row].texts[0].string for row in range(len(pool))]
    mine = [kept[row].texts[0].string for row in range(len(kept))]
    counts = {text: (mine.count(text), texts.count(text)) for text in set(texts)}
    most = max(have for have, _ in counts.values())
    assert all(have >= most - 1 or have == there for have, there in counts.values()), "nobody is behind who has rows left"


def test_other_words_never_name_a_class_and_follow_nothing_but_the_sample() -> None:
    pool = SmallPairs(200).pool("train", 5)
    said: set[str] = set()
    for row in range(len(pool)):
        sample = pool[row]
        words = in_other_words(sample).texts[0].string.split()
        assert not {*COLOURS, *SHAPES} & set(words)
        meant = {other: word for word, others in OTHER_WORDS.items() for other in others}
        assert " ".join(meant.get(word, word) for word in words) == sample.texts[0].string
        said |= set(words) & set(meant)
    every = [word for others in OTHER_WORDS.values() for word in others]
    assert len(set(every)) == 40
    assert said == set(every)


def test_as_many_rows_by_chance(tmp_path: Path) -> None:
    pool, cell = SmallPairs(60).pool("train", 0), Cell("x", 4, tmp_path)
    few = AsManyByChance(lambda rows, cell: rows.select(range(20)))
    kept = few(pool, cell)
    assert len(kept) == len(set(kept.uids)) == 20
    assert list(kept.uids) != list(pool.uids[:20])
    assert list(kept.uids) == list(few(pool, cell).uids) != list(few(pool, replace(cell, seed=5)).uids)


def test_half_of_the_rows_agree_best_by_the_scorer_and_as_many_come_by_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, pool = Cell("x", 3, tmp_path, size="smoke"), pictures("train", smoke=True)
    cosines = dict(zip(pool.uids, np.linspace(-1, 1, len(pool)).tolist(), strict=True))
    asked: list[str] = []

    def scored(step: LAION, rows: Pool) -> CurationStepResult:
        asked.append(step.model)
        return CurationStepResult(rows.uids, {}, {"similarity": cosines}, 0.0)

    monkeypatch.setattr(LAION, "__call__", scored)
    kept = Agreeing(heads(2))(pool, cell)
    assert set(kept.uids) == set(pool.uids[len(pool) // 2 :])
    assert len(as_many(pool, cell)) == len(kept) == len(pool) // 2
    assert [Path(model).parent.name for model in asked] == ["scorer"]
    assert cell.spending.steps == 2


def test_patch_colours_are_means_of_their_pixels() -> None:
    pixels_HWC = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    dense_NPPD = PatchColours(6).embed_dense([ArrayImage(pixels_HWC, "x")])
    assert dense_NPPD.shape == (1, 6, 6, 3)
    assert dense_NPPD[0, 1, 4] == pytest.approx(pixels_HWC[8:16, 32:40].reshape(-1, 3).mean(0) / 255, abs=1e-6)


def test_the_backbone_is_read_before_the_projection(tmp_path: Path) -> None:
    recipe = sized_for(CLIP.tiny(), batch_size=8, steps=4, pieces=280)
    pool = SmallPairs(24).pool("train", 7)
    model = untrained(recipe, pool, Cell("x", 7, tmp_path))
    images = [image for row in range(3) if (image := pool[row].image) is not None]
    bare_NW = backbone(model).embed_images(images)
    assert bare_NW.shape[1] == model.model.image_tower.width
    assert np.linalg.norm(bare_NW, axis=1) == pytest.approx(1, abs=1e-5)
    projected_ND = bare_NW @ model.model.image_projection.weight.detach().numpy().T
    projected_ND /= np.linalg.norm(projected_ND, axis=1, keepdims=True)
    assert projected_ND == pytest.approx(model.embed_images(images), abs=1e-5), "the model itself is as it was"


def test_a_share_of_every_cluster_stays() -> None:
    rng = np.random.default_rng(0)
    middle_KD = np.eye(4, dtype=np.float32)
    vector_ND = np.repeat(middle_KD, [40, 20, 8, 1], 0) + rng.normal(0, 0.01, (69, 4)).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    label_N, stays_N = spread_over_clusters(vector_ND, 0.25, clusters=4, seed=1)
    assert sorted(np.bincount(label_N).tolist()) == [1, 8, 20, 40]
    assert sorted(np.bincount(label_N, weights=stays_N).astype(int).tolist()) == [1, 2, 5, 10]
