"""Detection data in, scene graphs out: what each stage left, what the page shows, how right it is, a kill -9, Ray, and other taggers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import diptych as dp
from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Relation
from diptych.curate.engine.sources import open_pool
from diptych.curate.operators.relation_tagging import TagRelations
from diptych.curate.tagging.relation_tags import StageCounts, TaggingTrace
from diptych.curate.tagging.summary import TaggingResult, TaggingSummary, drift
from diptych.data.dataset import Pool
from diptych.data.read.caption_sources import captions_by_uid
from diptych.data.text.captions.variants import VARIANTS, variant_column
from diptych.worlds.links.world import SHAPES

WORLD = "world:links?n=14&val=1&test=1&unseen=0"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "built"
    assert main(["data", "build", WORLD, str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def tagger(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tagger"
    words = ["train", "rlipv2", "--preset", "tagger_tiny", "--data", str(built), "--out", str(out)]
    assert main([*words, "--steps", "3", "--batch-size", "4", "--no-evaluation"]) == 0
    return out


@pytest.fixture(scope="module")
def coco(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detection set as COCO has it: boxes and names, no captions, no relations."""
    out = tmp_path_factory.mktemp("coco") / "coco"
    assert main(["data", "export", str(built), str(out), "--format", "coco"]) == 0
    for split in ("val", "test"):
        (out / f"{split}.json").unlink()
    boxes = json.loads((out / "train.json").read_text())
    plain = {key: boxes[key] for key in ("images", "annotations", "categories")}
    (out / "train.json").write_text(json.dumps(plain))
    return out


def captions_of(built: Path, coco: Path, out: Path) -> Path:
    """Captions of the same pictures under the uids of the detection set."""
    by_picture = {sample.uid: sample.texts[0].string for sample in dp.read(built)}
    rows = [
        {"uid": sample.uid, "caption": by_picture[Path(sample.image.name).stem]}
        for sample in open_pool(str(coco))
        if sample.image
    ]
    out.write_text("\n".join(json.dumps(row) for row in rows))
    return out


def test_from_coco_json_to_scene_graphs(
    built: Path, coco: Path, tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_pool(str(coco))
    assert len(data) == 14
    assert not any(sample.relations or sample.texts for sample in data)
    captions, out = captions_of(built, coco, tmp_path / "captions.jsonl"), tmp_path / "tagged"
    words = ["curate", "relation_tags", str(coco), str(out), "--tagger", str(tagger), "--captions", str(captions)]
    assert main([*words, "--threshold", "0.01", "--per-pair", "1"]) == 0
    said = capsys.readouterr().out
    assert "captions 14 -> triplets 28 in" in said
    assert "pairs per second" in said
    assert "precision" not in said, "nothing is known to be true"
    summary = json.loads((out / "tagging.json").read_text())
    assert summary["stages"]["captions"] == 14
    assert 20 < summary["stages"]["linked"] <= 28, "two captions of one picture may say the same of labels"
    found = open_pool(str(out))
    assert sum(len(sample.relations) for sample in found) == summary["stages"]["relations"] == sum(summary["predicates"].values())
    page = (out / "relation_tags.html").read_text()
    assert page.count("<h3>") == 14
    assert "the pair has surer ones" in page
    graphs = tmp_path / "graphs"
    assert main(["data", "export", str(out), str(graphs), "--format", "rlipv2"]) == 0
    again = dp.read(graphs)
    assert sorted(len(sample.relations) for sample in again) == sorted(len(sample.relations) for sample in found)


def test_where_truth_is_known_it_says_how_right_the_tagger_is(
    built: Path, tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tagged"
    assert main(["curate", "relation_tags", str(built), str(out), "--tagger", str(tagger), "--threshold", "0"]) == 0
    against = json.loads((out / "tagging.json").read_text())["against"]
    true = {(s.uid, r.subject, r.predicate, r.object) for s in dp.read(built) for r in s.relations}
    made = {(s.uid, r.subject, r.predicate, r.object) for s in open_pool(str(out)) for r in s.relations}
    assert against == {
        "tagged": len(made),
        "true": len(true),
        "right": len(true & made),
        "precision": len(true & made) / len(made),
        "recall": len(true & made) / len(true),
    }
    assert against["recall"] > 0.9, "with threshold 0 every captioned relation whose phrase is known is among them"
    assert f"precision {against['precision']:.3f}, recall {against['recall']:.3f}" in capsys.readouterr().out


def test_a_summary_counts_stages_kinds_and_what_is_right() -> None:
    one = TaggingResult(
        relations=(Relation(0, "on", 1, 0.9), Relation(1, "near", 0, 0.5)),
        counts=StageCounts(2, 3, 2, 2, 4, 2),
        trace=TaggingTrace(
            parsed=((("cat", "on", "mat"), ()), (("dog", "on", "mat"), ("dog",))), linked=(("cat", "on", "mat"),), scored=2
        ),
        seconds=0.5,
    )
    other = TaggingResult("no triplet in its captions", counts=StageCounts(captions=1), trace=TaggingTrace(), seconds=0.5)
    truth = frozenset({(0, "on", 1), (0, "near", 1)})
    summary = TaggingSummary.of([one, other], [["cat", "mat"], ["cat"]], [truth, frozenset()])
    assert summary.stages == {"captions": 3, "parsed": 3, "linked": 2, "pairs": 2, "proposed": 4, "relations": 2}
    assert summary.kinds == {"parsed": 2, "linked": 1, "relations": 2}
    assert (summary.precision, summary.recall) == (0.5, 0.5)
    assert "2 pairs per second, 2.0 images per second" in summary.lines()[-1]
    assert "138.9 hours" in summary.lines()[-1]
    assert TaggingResult.from_json(one.to_json()) == one
    assert b"seconds" not in summary.file()


def test_drift_is_the_share_that_would_have_to_move() -> None:
    assert drift([("on", 3), ("near", 1)], [("on", 30), ("near", 10)]) == 0
    assert drift([("on", 3), ("near", 1)], [("on", 1), ("near", 1)]) == pytest.approx(0.25)
    assert drift([("on", 1)], [("near", 5)]) == 1
    assert drift([], []) == 0
    assert drift([("on", 1)], []) == 1


def test_rewritten_captions_are_read_too(tmp_path: Path) -> None:
    """What `diptych curate rewrite` left: a list of texts a uid."""
    folder = tmp_path / "rewritten"
    (folder / "tables").mkdir(parents=True)
    texts: Any = {"a": [{"string": text, "language": "en", "origin": "rewrite"} for text in ("a cat on a mat", "one mat")]}
    fields = {field.name for field in variant_column({"a": []} | texts).schema.field(VARIANTS).type.value_type}
    full = {"a": [{**dict.fromkeys(fields), **text} for text in texts["a"]]}
    pq.write_table(variant_column(full), folder / "tables" / f"{VARIANTS}.parquet")
    assert captions_by_uid(folder) == {"a": ("a cat on a mat", "one mat")}


def as_things(sample: Sample) -> Sample:
    """Its shapes are called "ring thing" and so on, in boxes and captions."""
    regions = tuple(replace(region, label=f"{region.label} thing") for region in sample.regions)
    words = " ".join(f"{word} thing" if word in SHAPES else word for word in sample.texts[0].string.split())
    return replace(sample, regions=regions, texts=(Text(words),), relations=())


def test_a_tagger_of_another_vocabulary_is_refused_unless_it_is_meant(built: Path, tagger: Path, tmp_path: Path) -> None:
    renamed = Pool.from_samples([as_things(sample) for sample in dp.read(built)], name="mine")
    with pytest.raises(DataError, match=r"called .* thing; .* was trained with circle, .*--foreign"):
        TagRelations(str(tagger))(renamed)
    assert TagRelations(str(tagger), foreign=True, threshold=0.0)(renamed).kept


def test_penet_tags_and_a_detector_does_not(built: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "penet", tmp_path / "tagged"
    words = ["train", "penet", "--setting", "predcls", "--data", str(built), "--out", str(run), "--steps", "1"]
    assert main([*words, "--batch-size", "2", "--no-evaluation"]) == 0
    assert main(["curate", "relation_tags", str(built), str(out), "--tagger", str(run), "--threshold", "0"]) == 0
    assert all(sample.extras["relations_by"].startswith("penet ") for sample in open_pool(str(out)))
    with pytest.raises(ConfigError, match="needs a trained tagger"):
        TagRelations()(dp.read(built))


# ---------------------------------------------------------------- engines and kills

SLOWLY = """
import sys, time
from diptych.curate.operators import relation_tagging
from diptych.curate.tagging import tagger_worker
from diptych.cli import main
relation_tagging.BLOCK = 4
answer = tagger_worker.TaggerWorker.answer
def slow(self, sample):
    time.sleep(float(sys.argv[1]))
    return answer(self, sample)
tagger_worker.TaggerWorker.answer = slow
raise SystemExit(main(sys.argv[2:]))
"""


def tables(folder: Path) -> dict[str, bytes]:
    names = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "costs.json"]
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in names if path.suffix != ".json" or "tagging" in path.name
    }


@pytest.mark.slow
def test_kill_9_in_the_middle_costs_one_block(built: Path, tagger: Path, tmp_path: Path) -> None:
    words = ["curate", "relation_tags", str(built), str(tmp_path / "out"), "--tagger", str(tagger), "--threshold", "0"]
    whole = [*words[:3], str(tmp_path / "whole"), *words[4:]]
    with subprocess.Popen([sys.executable, "-c", SLOWLY, "0.5", *words], env=dict(os.environ)) as run:
        end = time.monotonic() + 120
        while not list((tmp_path / "out" / "parts").rglob("*.parquet")) and time.monotonic() < end:
            time.sleep(0.1)
        run.send_signal(signal.SIGKILL)
    made = list((tmp_path / "out" / "parts").rglob("*.parquet"))
    assert 0 < len(made) < 4
    for each in (words, whole):
        subprocess.run([sys.executable, "-c", SLOWLY, "0", *each], check=True, env=dict(os.environ), capture_output=True)
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")


@pytest.mark.slow
def test_ray_gives_the_very_files_of_the_local_engine(built: Path, tagger: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra scale is not installed: Daft on Ray is not tested")
    for name in ("local", "ray"):
        words = ["curate", "relation_tags", str(built), str(tmp_path / name), "--tagger", str(tagger), "--threshold", "0"]
        command = [sys.executable, "-m", "diptych.cli", *words, "--engine", name]
        subprocess.run(command, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, timeout=300, capture_output=True)
    assert tables(tmp_path / "local") == tables(tmp_path / "ray")
