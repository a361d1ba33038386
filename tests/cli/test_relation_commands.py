"""Detectors of relations from the command line: trained, scored by every relation protocol, kept, and shown in the report."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych import api
from diptych.cli import main
from diptych.cli.commands.eval import table
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation
from diptych.data.graphs import write
from diptych.data.media.decode import encode_png
from diptych.data.vocabularies import vocabulary
from diptych.recipes.relations.rlipv2 import RLIPv2
from diptych.tasks import find
from diptych.tasks.evaluate import rescore

WORLD = "world:links?n=16&val=4&test=4&unseen=0"
RULES = ("scorer: ", "ap rule: ", "iou: ", "triplet score: ", "impossible pairs: ", "relation nms: ")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps: what is tested is the way through all parts, not how good the model is."""
    out = tmp_path_factory.mktemp("runs") / "detector"
    assert main(["train", "rlipv2", "--data", WORLD, "--out", str(out), "--steps", "3", "--batch-size", "4"]) == 0
    return out


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(list(words)) == code
    out, err = capsys.readouterr()
    return err if code else out


def made_up(triplets: Sequence[tuple[str, str, str]], count: int = 6) -> list[Sample]:
    """Noise with two relations an image; the second half is the test split, its last image holds nothing."""
    rng, samples = np.random.default_rng(0), []
    for n in range(count):
        regions, relations = [], []
        for k in () if n == count - 1 else rng.integers(0, len(triplets), 2):
            subject, predicate, thing = triplets[k]
            x, y = rng.integers(0, 30, 2).astype(float)
            regions += [Region((x, y, x + 20, y + 30), subject), Region((x + 10, y + 10, x + 34, y + 34), thing)]
            relations.append(Relation(len(regions) - 2, predicate, len(regions) - 1))
        image = ArrayImage(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8))
        extras = {"split": "train" if 2 * n < count else "test", "image_id": n + 1}
        samples.append(Sample(f"s{n}", image, (), tuple(regions), tuple(relations), extras=extras))
    return samples


def triplets_of(name: str) -> list[tuple[str, str, str]]:
    known = vocabulary(name)
    if name == "hico-det":
        return list(known.triplets[:30])
    ends = {"v-coco": ("person", "sports ball"), "vg150": ("man", "dog"), "open-images": ("Man", "Guitar")}[name]
    return [(ends[0], predicate, ends[1]) for predicate in known.predicates if predicate not in known.roles]


def test_training_ends_with_the_task_of_the_recipe_and_a_report_with_graphs(run: Path) -> None:
    kept = {path.name for path in (run / "records").iterdir()}
    assert {f"vg150-links-{part}.{kind}" for part in ("val", "test") for kind in ("json", "parquet")} <= kept
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Scene graphs" in page
    assert "true relations found" in page
    assert page.count("<svg") > 8
    assert "chance nan" not in page
    assert set(api.evaluate_kept(run)) == {"val", "test"}


@pytest.mark.parametrize(
    ("task", "name", "options"),
    [
        ("hico_det", "hico-det", ("--zero-shot", "uc_nf", "--nms", "0.7")),
        ("v_coco", "v-coco", ()),
        ("v_coco_triplets", "v-coco", ("--compat", "published")),
        ("vg150", "vg150", ("--vocabulary", "vg150")),
        ("open_images_predicates", "open-images", ("--vocabulary", "open-images")),
        ("open_images_triplets", "open-images", ()),
    ],
)
def test_every_protocol_scores_published_files_by_command(
    task: str, name: str, options: tuple[str, ...], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(made_up(triplets_of(name)), tmp_path / "files", format=name)
    said(capsys, "data", "build", str(tmp_path / "files"), str(tmp_path / "data"))
    words = ("eval", str(run), task, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "kept"), *options)
    out = said(capsys, *words, "--draws", "20")
    version = find(task).version
    assert out.startswith(f"test: {task} v{version}, ")
    assert all(f"  {rule}" in out for rule in RULES)
    assert f"  {find(task).main.partition('@')[0]}" in out
    records, result = (tmp_path / "kept" / f"{task}-data-test.{kind}" for kind in ("parquet", "json"))
    kept = Result.from_json(json.loads(result.read_text()))
    assert kept.notes["protocol"] == f"{task} v{version}"
    again = rescore(find(task, **kept.notes["options"]), records)
    assert {k: repr(m.value) for k, m in again.metrics.items()} == {k: repr(m.value) for k, m in kept.metrics.items()}
    assert ("by the detector" in kept.notes["relation_nms"]) == (
        task in ("vg150", "open_images_predicates")
    )  # these take `detect`
    if task == "hico_det":
        assert {"unseen", "seen", "rare", "ko_full"} <= set(kept.metrics)
        assert kept.notes["relation_nms"] == "IoU_s x IoU_o ** .5 above 0.7"
        assert "triplet score: relation x object" in out
        assert "impossible pairs: masked before the cut" in out
        own = said(capsys, *words, "--draws", "0", "--triplets", "detector")
        assert "triplet score: relation x subject x object" in own
        assert "relation nms: by the detector: triplets of equal names" in own


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("vg150", ("--ks", "5", "20")),
        ("hico_det", ("--vocabulary", "data")),
        ("open_images_predicates", ()),
        ("open_images_triplets", ()),
    ],
)
def test_a_rendered_world_is_scored_by_command(
    task: str, options: tuple[str, ...], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("eval", str(run), task, "--data", WORLD, "--split", "test", "--out", str(tmp_path), "--draws", "20", *options)
    payload = json.loads(said(capsys, *words, "--json"))
    result = payload["results"]["test"]
    assert result["n_items"] == 4
    assert {"scorer", "ap_rule", "iou", "relation_nms", "protocol"} <= set(result["notes"])
    assert (tmp_path / f"{task}-links-test.parquet").is_file()


def test_detect_names_its_own_rule(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "grey.png").write_bytes(encode_png(np.full((40, 60, 3), 90, np.uint8)))
    words = ("detect", str(run), str(tmp_path / "grey.png"), "--objects", "circle,ring", "--relations", "near above")
    payload = json.loads(said(capsys, *words, "--min-score", "0", "--json"))
    assert payload["rule"]["triplet_score"] == "relation x subject x object"
    assert ".7" in payload["rule"]["detector_nms"]
    assert payload["images"][0]["relations"]


def test_given_boxes_are_related_by_command_and_other_models_are_refused_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tagger = api.train(replace(RLIPv2.tagger_tiny(), steps=2, batch_size=4, warmup=1), WORLD, tmp_path / "tagger")
    assert set(api.evaluate_run(tagger, draws=0)) == {"val", "test"}
    out = said(capsys, "eval", str(tagger.path), "vg150_predcls", "--data", WORLD, "--split", "test", "--ks", "2", "50")
    assert "scorer: VG150 PredCls, recall" in out
    words = ("--data", WORLD, "--split", "test")
    refused = said(capsys, "eval", str(run), "vg150_predcls", *words, code=2)
    assert "detects its own regions (expected a detector trained on given regions)" in refused
    assert "does not classify regions" in said(capsys, "eval", str(tagger.path), "vg150_sgcls", *words, code=2)
    strange = said(capsys, "eval", str(run), "v_coco", *words, code=1)
    assert re.search(r"links/test, row 0, field 'relations': '(near|far) .*' is not an action-role of V-COCO", strange)


def test_recalls_at_several_depths_are_a_grid() -> None:
    metrics: dict[str, Any] = {f"{kind}@{k}": Metric(0.5, 0.4, 0.6) for kind in ("r", "mr") for k in (20, 100)}
    result = Result("vg150", 1, "r@100", metrics, 3, 2, notes={"scorer": "recall", "ap_rule": "none", "compat": ""})
    assert table("test", result) == [
        "test: vg150 v1, 3 items in 2 groups",
        "  scorer: recall",
        "  ap rule: none",
        "      @20                   @100",
        "  r   0.500 [0.400, 0.600]  0.500 [0.400, 0.600]",
        "  mr  0.500 [0.400, 0.600]  0.500 [0.400, 0.600]",
    ]
    lone = Result("x", 1, "full", {"full": Metric(0.5), "rare": Metric(float("nan"))}, 3, 2)
    assert table("test", lone)[1:] == ["  full  0.500", "  rare  nothing to score"]


def test_a_detector_of_nameless_things_is_named_after_crops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From data to a model folder that every command takes for a detector."""
    things, named = str(tmp_path / "things"), str(tmp_path / "named")
    asked = ("--steps", "2", "--batch-size", "4", "--no-evaluation")
    said(capsys, "train", "rlipv2", "--data", f"nameless:{WORLD}", "--out", things, *asked)
    assert api.load(things).objects == ("thing",)
    made = json.loads(said(capsys, "named-after", things, WORLD, "--out", named, "--encoder", "thumbnails", "--json"))
    rows = api.read(WORLD, split="train")
    crops = [region.label for row in range(len(rows)) for region in rows[row].regions]
    assert (made["crops"], made["names"], made["unreadable"]) == (len(crops), len(set(crops)), [])
    picture = tmp_path / "a.png"
    picture.write_bytes(encode_png(rows[0].image.pixels_HWC))
    found = json.loads(said(capsys, "detect", named, str(picture), "--min-score", "0", "--json"))
    assert {region["label"] for region in found["images"][0]["regions"]} <= set(crops)
    assert found["rule"]["names"] == "of the most similar known crop"
    scores = json.loads(said(capsys, "eval", named, "vg150", "--data", WORLD, "--split", "test", "--ks", "5", "--json"))
    assert "r@5" in scores["results"]["test"]["metrics"]
    told = said(capsys, "named-after", things, WORLD, "--out", named, code=1)
    assert "is not empty" in told
    assert "the output folder is missing" in said(capsys, "named-after", things, WORLD, code=2)


def test_a_detector_of_many_names_needs_a_word_for_everything(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"was trained with \d+ names .*\(expected a detector trained on data=nameless:"):
        api.named_after(run, WORLD, encoder="thumbnails")
    assert api.named_after(run, WORLD, encoder="thumbnails", called="shape").called == "shape"
    with pytest.raises(ConfigError, match="does not detect"):
        api.named_after(object(), WORLD)
