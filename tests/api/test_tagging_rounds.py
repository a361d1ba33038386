"""A tagger in rounds: what the second learns from, counts and drift, and that finished rounds are read and not made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import diptych as dp
from diptych.api.tagging_rounds import tag_rounds
from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.core.run_folder import RunFolder
from diptych.curate.operators.relation_tagging import TagRelations
from diptych.data.concat import ConcatDataset
from diptych.recipes.relations.rlipv2 import RLIPv2
from diptych.train.options import TrainOptions
from diptych.worlds.links.world import links

FEW, BOXES = "world:links?n=6&val=1&test=1&seed=3", "world:links?n=8&val=1&test=1&seed=4"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    for name, address in (("few", FEW), ("boxes", BOXES)):
        assert main(["data", "build", address, str(folder / name)]) == 0
    return {name: folder / name for name in ("few", "boxes")}


def test_two_rounds_from_the_command_line(built: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rounds"
    words = ["tag-rounds", str(built["boxes"]), str(out), "--few", str(built["few"]), "--steps", "2", "--batch-size", "4"]
    assert main([*words, "--threshold", "0", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["rounds"]
    assert first["trained"] == 6
    assert second["trained"] == 6 + first["images"]
    made = {(s.uid, r.subject, r.predicate, r.object) for s in dp.read(out / "round_1" / "tagged") for r in s.relations}
    true = {(s.uid, r.subject, r.predicate, r.object) for s in dp.read(built["boxes"]) for r in s.relations}
    assert len(made) == first["relations"] == sum(first["predicates"].values())
    assert first["precision"] == pytest.approx(len(made & true) / len(made))
    assert first["recall"] == pytest.approx(len(made & true) / len(true))
    assert second["stays"] == 1.0, "with threshold 0 both rounds keep whatever captions say"
    assert second["moved"] == 0.0
    assert 0 < first["drift"] == second["drift"] < 1
    page = (out / "rounds.html").read_text()
    assert "near below" in page
    assert "round 2" in page
    names = RunFolder.open(out / "round_2" / "tagger").config["recipe"]
    assert names["min_confidence"] == 0.2, "what the second learns from is cut as published"

    stamp = (out / "round_1" / "tagger" / "run.json").stat().st_mtime_ns
    assert main([*words, "--threshold", "0", "--rounds", "3", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["rounds"]
    assert again[:2] == [first, second]
    assert len(again) == 3
    assert (out / "round_1" / "tagger" / "run.json").stat().st_mtime_ns == stamp


def test_what_cannot_be_tagged_in_rounds_is_said(built: dict[str, Path], tmp_path: Path) -> None:
    recipe, step = RLIPv2.tagger_tiny(), TagRelations(threshold=0.0)
    with pytest.raises(ConfigError, match="rounds is 0"):
        tag_rounds(built["boxes"], built["few"], tmp_path, recipe, rounds=0, step=step)
    with pytest.raises(DataError, match="is annotated already"):
        tag_rounds(dp.read(built["boxes"]), ConcatDataset("all", (dp.read(built["boxes"]),)), tmp_path, recipe, step=step)
    bare = dp.read(built["few"])
    empty = type(bare).from_samples(
        [type(s)(uid=s.uid, image=s.image, texts=s.texts, regions=s.regions) for s in bare], name="bare"
    )
    with pytest.raises(DataError, match="no image of 'bare' has a relation"):
        tag_rounds(built["boxes"], empty, tmp_path, recipe, step=step, options=TrainOptions(progress=False))


def test_data_sets_lie_behind_one_another() -> None:
    one, other = links(3, seed=1), links(2, seed=2)
    both = ConcatDataset("both", (one, other))
    assert list(both.uids) == [*one.uids, *other.uids]
    assert list(both.groups) == [*one.groups, *other.groups]
    assert both[3].uid == other[0].uid
    assert [both.select([4, 0])[row].uid for row in (0, 1)] == [other[1].uid, one[0].uid]
    assert both.fingerprint != ConcatDataset("both", (other, one)).fingerprint
    with pytest.raises(DataError, match="links-1-train-0000000' is in two"):
        ConcatDataset("twice", (one, one))
