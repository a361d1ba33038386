"""Image-to-image re-identification: by hand, against a plain loop over the published rules, through the reader of Market-1501."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.read import read
from diptych.tasks.domains.person_reid import PersonReid
from diptych.worlds.people.world import pedestrians


class Placed:
    """Embeds pictures by a table."""

    name, fingerprint = "placed", "placed"

    def __init__(self, vectors: dict[str, Sequence[float]]) -> None:
        self.vectors = vectors

    def embed_images(self, images: Any, **_: Any) -> Any:
        made = np.asarray([self.vectors[image.name] for image in images], np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def embed_texts(self, texts: Any, **_: Any) -> Any:
        raise AssertionError("no text is asked for")


def pool_of(rows: Sequence[tuple[str, int | None, str]]) -> Pool:
    """Pictures of (person, camera, role)."""
    shown = pedestrians(len(rows))
    samples = []
    for at, (person, camera, role) in enumerate(rows):
        extras: dict[str, Any] = {} if camera is None else {"camera": camera}
        samples.append(replace(shown[at], group=person, extras={**extras, **({"role": role} if role else {})}))
    return Pool.from_samples(samples, name="pictures")


def at_angles(pool: Pool, angles: Sequence[float]) -> Placed:
    names = [s.image.name for s in pool if s.image is not None]
    return Placed({name: (np.cos(a), np.sin(a)) for name, a in zip(names, angles, strict=True)})


def test_a_score_by_hand() -> None:
    pool = pool_of(
        [
            ("a", 1, "query"),
            ("a", 1, "gallery"),
            ("b", 2, "gallery"),
            ("a", 2, "gallery"),
            ("z", 1, "gallery"),
            ("a", 3, "gallery"),
        ]
    )
    model = at_angles(pool, [0.0, 0.05, 0.1, 0.2, 0.3, 0.4])
    task = PersonReid(ks=(1, 2), draws=5)
    records = task.predict(model, pool)
    found = task.score(records).metrics
    # the picture of its own camera is junk; left are b, a, z, a
    assert (records["gallery"][0].as_py(), records["junk"][0].as_py()) == (4, 1)
    assert {name: found[name].value for name in found} == {"cmc@1": 0, "cmc@2": 1, "map": (1 / 2 + 2 / 4) / 2, "minp": 2 / 4}
    kept = replace(task, same_camera="kept")
    found = kept.score(kept.predict(model, pool)).metrics
    assert found["cmc@1"].value == 1
    assert found["map"].value == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_equals_a_plain_loop_over_the_published_rules(parity: Any) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"p{rng.integers(9)}", int(rng.integers(3)), "query" if at % 4 == 0 else "gallery") for at in range(120)]
    rows += [(f"distractor-{at}", int(rng.integers(3)), "gallery") for at in range(20)]
    rows += [("lone", 0, "query"), ("lone", 0, "gallery")]
    pool = pool_of(rows)
    vectors = rng.normal(size=(len(rows), 6))
    names = [s.image.name for s in pool if s.image is not None]
    task = PersonReid(ks=(1, 5, 10), draws=5)
    result = task.score(task.predict(Placed(dict(zip(names, vectors.tolist(), strict=True))), pool))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    firsts, precisions, penalties, lost = [], [], [], 0
    for q, (person, camera, role) in enumerate(rows):
        if role != "query":
            continue
        gallery = [g for g in range(len(rows)) if rows[g][2] == "gallery" and not (rows[g][0] == person and rows[g][1] == camera)]
        gallery.sort(key=lambda g: -float(unit[q] @ unit[g]))
        hits = [at for at, g in enumerate(gallery) if rows[g][0] == person]
        if not hits:
            lost += 1
            continue
        firsts.append(hits[0])
        precisions.append(sum((n + 1) / (at + 1) for n, at in enumerate(hits)) / len(hits))
        penalties.append(len(hits) / (hits[-1] + 1))
    assert lost == result.notes["queries_without_match"] >= 1
    wanted = {f"cmc@{k}": np.mean([first < k for first in firsts]) for k in (1, 5, 10)}
    wanted |= {"map": np.mean(precisions), "minp": np.mean(penalties)}
    pairs = [(result.metrics[name].value, value) for name, value in wanted.items()]
    parity("plip_person", "image-to-image mAP, mINP and CMC", "loop over the rules of Market-1501", pairs, tolerance=1e-12)


def test_without_roles_every_picture_asks_all_others_and_never_itself() -> None:
    pool = pool_of([("a", None, ""), ("a", None, ""), ("b", None, ""), ("b", None, ""), ("c", None, "")])
    task = PersonReid(ks=(1,), draws=5)
    records = task.predict(at_angles(pool, [0.0, 0.1, 1.0, 1.1, 2.0]), pool)
    assert records["gallery"].to_pylist() == [4, 4, 4, 4]
    result = task.score(records)
    assert result.notes["queries_without_match"] == 1
    assert result.metrics["map"].value == 1
    values = task.item_values(records, "map")
    assert values is not None
    assert values.shape == (4, 1)
    assert task.item_values(records, "mood") is None


def test_a_collapsed_model_gets_chance() -> None:
    pool = pool_of([(f"p{at % 3}", at % 2, "query" if at < 6 else "gallery") for at in range(18)])
    task = PersonReid(ks=(1, 5), draws=5)
    found = task.score(task.predict(at_angles(pool, [0.0] * 18), pool)).metrics
    for name, metric in found.items():
        assert metric.chance is not None
        assert metric.value == pytest.approx(metric.chance, abs=1e-9), name


def test_bad_roles_and_options_are_refused() -> None:
    model_of = lambda pool: at_angles(pool, [0.1 * at for at in range(len(pool))])  # noqa: E731
    half = pool_of([("a", 1, "query"), ("a", 2, "gallery"), ("b", 1, "")])
    with pytest.raises(DataError, match=r"is '' while others say who asks.*expected query or gallery"):
        PersonReid().predict(model_of(half), half)
    nobody = pool_of([("a", 1, "gallery"), ("a", 2, "gallery")])
    with pytest.raises(DataError, match="is a query"):
        PersonReid().predict(model_of(nobody), nobody)
    alone = pool_of([("a", 1, "query"), ("a", 1, "gallery")])
    with pytest.raises(DataError, match=r"has a match.*another camera unless same_camera is kept"):
        PersonReid().predict(model_of(alone), alone)
    with pytest.raises(ConfigError, match="junk"):
        PersonReid(same_camera="none")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"has no image \(expected pictures of persons\)"):
        PersonReid().predict(model_of(alone), Pool.from_samples([Sample("text", group="a")], name="texts"))


def test_the_command_scores_files_named_as_in_market(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "Market-1501"
    for name, shade in (
        ("bounding_box_train/0002_c1s1_000451_03.jpg", 10), ("bounding_box_test/0003_c6s2_000101_01.jpg", 200),
        ("bounding_box_test/0000_c1s1_000151_02.jpg", 90), ("bounding_box_test/0003_c2s2_000101_01.jpg", 190),
        ("query/0003_c2s1_000201_00.jpg", 201),
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 64), (shade, shade // 2, 40)).save(root / name)
    assert len(read(root).split("test")) == 4
    train = [
        "train",
        "clip",
        "--preset",
        "tiny",
        "--data",
        "world:pedestrians?n=16",
        "--out",
        str(tmp_path / "run"),
        "--steps",
        "1",
    ]
    assert main([*train, "--batch-size", "8", "--workers", "0"]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), "person_reid", "--data", str(root), "--split", "test"]) == 0
    assert "minp" in capsys.readouterr().out
