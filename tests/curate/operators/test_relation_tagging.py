"""The tagger at the command line: trained on scene graphs, asked about captions and boxes, and what it says trains a detector."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import diptych as dp
from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.curate.engine.pool import curate
from diptych.curate.engine.sources import open_pool
from diptych.curate.operators import relation_tagging as module
from diptych.curate.operators.relation_tagging import TagRelations
from diptych.curate.tagging.caption_triplets import LabelLinker, TemplateGrammar
from diptych.curate.tagging.relation_tags import RelationTags
from diptych.data.columns import read_table
from diptych.models.rlipv2.graph_detector import GraphDetector

WORLD = "world:links?n=10&val=1&test=1&unseen=0"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered images on disk, with boxes, captions, and the true relations, which the tagger does not look at."""
    out = tmp_path_factory.mktemp("data") / "built"
    assert main(["data", "build", WORLD, str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def tagger(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps: what is tested is the way through all parts, not how well it tags."""
    out = tmp_path_factory.mktemp("runs") / "tagger"
    words = ["train", "rlipv2", "--preset", "tagger_tiny", "--data", str(built), "--out", str(out)]
    assert main([*words, "--steps", "4", "--batch-size", "4", "--no-evaluation"]) == 0
    return out


def test_from_boxes_and_captions_to_relations_to_a_detector(
    built: Path, tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tagged"
    assert main(["curate", "relation_tags", str(built), str(out), "--tagger", str(tagger), "--threshold", "0"]) == 0
    assert "relation_tags 12 -> 12" in capsys.readouterr().out
    model, data = dp.load(tagger), dp.read(built)
    assert isinstance(model, GraphDetector)
    by_hand = RelationTags(model, TemplateGrammar(model.relations), threshold=0.0)(data)
    found = open_pool(out)
    for sample in found:
        expected = by_hand.columns["tagged_relations"][sample.uid]
        assert [r["confidence"] for r in expected] == [r.confidence for r in sample.relations]
        assert [(r["subject"], r["predicate"], r["object"]) for r in expected] == [
            (r.subject, r.predicate, r.object) for r in sample.relations
        ]
        assert 0 < sample.relations[0].confidence < 1, "not the true relations, which have 1"
        assert sample.extras["relations_by"] == f"rlipv2 {model.fingerprint[:16]}"
        assert sample.extras["tagging"]["captions"] == 1
    assert [s.regions for s in found] == [data[data.uids.index(uid)].regions for uid in found.uids]
    assert set(model.relations) == {r.predicate for s in data.split("train") for r in s.relations}, (
        "a caption may say any of them"
    )
    made_by = read_table(out, "tagged_relations").made_by
    (step,) = made_by["config"]["steps"]
    assert step["step"] == "relation_tags"
    assert len(step["options"]["tagger_sha256"]) == 64
    run = tmp_path / "run"
    words = ["train", "rlipv2", "--data", str(out), "--out", str(run), "--steps", "2", "--batch-size", "4", "--no-evaluation"]
    assert main([*words, "--min-confidence", "0"]) == 0
    assert set(dp.load(run).relations) == {r.predicate for s in found.split("train") for r in s.relations}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "folder"])
def test_captions_from_elsewhere_are_read_in_place_of_the_texts(built: Path, tagger: Path, tmp_path: Path, kind: str) -> None:
    data = dp.read(built)
    first, second = data[0], data[1]
    shapes = [region.label for region in first.regions]
    captions = [(first.uid, f"a {shapes[0]} leaning on a {shapes[1]}"), (first.uid, "nothing to see"), (second.uid, "what a day")]
    table = pa.table({"uid": [uid for uid, _ in captions], "caption": [text for _, text in captions]})
    source = tmp_path / f"captions.{kind}"
    if kind == "csv":
        source.write_text("\n".join(["uid,caption", *(f"{uid},{text}" for uid, text in captions)]))
    elif kind == "jsonl":
        source.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    elif kind == "parquet":
        pq.write_table(table, source)
    else:
        (source / "tables").mkdir(parents=True)
        table = table.rename_columns(["uid", "synthetic_caption"])
        pq.write_table(table, source / "tables" / "synthetic_caption.parquet")
    step = TagRelations(str(tagger), captions=str(source), relations=("leaning on",), threshold=0.0)
    done = step(data)
    assert done.kept == (first.uid,)
    assert {r["predicate"] for r in done.columns["tagged_relations"][first.uid]} == {"leaning on"}
    assert done.columns["tagging"][first.uid]["captions"] == 2
    reasons = {drop.uid: drop.reason for drop in done.dropped}
    assert reasons.pop(second.uid) == "no triplet in its captions"
    assert set(reasons.values()) == {"has no caption"}


def test_a_step_that_was_killed_goes_on(built: Path, tagger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 5)
    data, step = dp.read(built), TagRelations(str(tagger), threshold=0.0)
    whole, asked, limit = step(data), [], [7]
    relate = GraphDetector.relate

    def counted(self, images, regions, **options):
        asked.append(images[0].name)
        if len(asked) > limit[0]:
            raise KeyboardInterrupt
        return relate(self, images, regions, **options)

    monkeypatch.setattr(GraphDetector, "relate", counted)
    with pytest.raises(KeyboardInterrupt):
        curate(data, [step], tmp_path)
    asked.clear()
    limit[0] = 100
    done = curate(data, [step], tmp_path)
    assert len(asked) == 12 - 5, "the first block of five was there"
    assert done.columns["tagged_relations"] == whole.columns["tagged_relations"]
    assert curate(data, [step], tmp_path).steps[0].resumed
    other = curate(data, [TagRelations(str(tagger), threshold=0.0, per_pair=2)], tmp_path)
    assert not other.steps[0].resumed


def test_the_tagger_can_be_asked_as_published(built: Path, tagger: Path, tmp_path: Path) -> None:
    out = tmp_path / "said"
    words = ["curate", "relation_tags", str(built), str(out), "--tagger", str(tagger), "--threshold", "0"]
    assert main([*words, "--asked", "said", "--names", "person", "bicycle"]) == 0
    model, data = dp.load(tagger), dp.read(built)
    said = RelationTags(model, TemplateGrammar(model.relations), threshold=0.0, asked="said", names=("person", "bicycle"))
    found = open_pool(out)
    expected = said(data).columns["tagged_relations"]
    assert {s.uid: [r.confidence for r in s.relations] for s in found} == {
        uid: [r["confidence"] for r in rows] for uid, rows in expected.items()
    }


def test_names_of_captions_can_be_paraphrased(built: Path, tagger: Path, tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"circle": ["disc", "wheel"]}))
    step = TagRelations(str(tagger), paraphrases=str(path), linking="substring").step()
    assert step.link == LabelLinker((("circle", ("disc", "wheel")),), "substring")
    path.write_text('{"circle": "disc"}')
    with pytest.raises(DataError, match="is not a table of names"):
        TagRelations(str(tagger), paraphrases=str(path)).step()


def test_what_cannot_work_is_said(built: Path, tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = dp.read(built)
    assert main(["curate", "relation_tags", str(built), str(tmp_path / "x")]) == 2
    assert "--preset tagger_tiny" in capsys.readouterr().err
    detector = tmp_path / "detector"
    words = ["train", "rlipv2", "--data", str(built), "--out", str(detector), "--steps", "1", "--batch-size", "2"]
    assert main([*words, "--no-evaluation"]) == 0
    with pytest.raises(ConfigError, match="is not a tagger"):
        TagRelations(str(detector))(data)
    captions = tmp_path / "captions.csv"
    captions.write_text("uid,caption\nnobody,a text\n")
    with pytest.raises(DataError, match="no uid of 'built' has a caption"):
        TagRelations(str(tagger), captions=str(captions))(data)
    captions.write_text("name,caption\nnobody,a text\n")
    with pytest.raises(DataError, match="has columns name, caption"):
        TagRelations(str(tagger), captions=str(captions))(data)
    with pytest.raises(DataError, match="contains no captions"):
        TagRelations(str(tagger), captions=str(tmp_path))(data)
    assert TagRelations(str(tagger)).plan(data)["unit"] == "tagged image"


def test_what_was_tagged_can_be_built_and_verified(built: Path, tagger: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "tagged", tmp_path / "again"
    assert main(["curate", "relation_tags", str(built), str(out), "--tagger", str(tagger), "--threshold", "0"]) == 0
    assert open_pool(out).fingerprint != dp.read(built).fingerprint, (
        "other relations are other data: a run cannot go on with them"
    )
    assert main(["data", "build", str(out), str(again)]) == 0
    assert main(["data", "verify", str(again)]) == 0
    assert {s.uid: s.relations for s in dp.read(again)} == {s.uid: s.relations for s in open_pool(out)}
