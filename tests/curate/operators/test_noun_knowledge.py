"""Knowledge files for DesCo: by a grammar, from definitions in three forms, by a model that answers badly too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.curate.engine.pool import curate
from diptych.curate.operators.noun_knowledge import NounKnowledge
from diptych.data.dataset import Pool
from diptych.data.text.descriptions.knowledge import read_knowledge
from diptych.recipes.grounding.desco import DesCo

from ..conftest import Server, said

DATA = """  1 This software and database is being provided to you, the LICENSEE.
00000010 03 n 01 entity 0 000 | that which exists
00000020 06 n 02 vessel 1 watercraft 0 004 @ 00000010 n 0000 ~ 00000030 n 0000 ~ 00000040 n 0000 + 00000009 v 0101 | a craft for water
00000030 06 n 01 cup 0 001 @ 00000020 n 0000 | a small open container; usually with a handle; "he put the cup back"
00000040 06 n 02 beer_mug 0 stein 0 001 @ 00000020 n 0000 | a mug intended for serving beer
"""
INDEX = """  1 This software and database is being provided to you, the LICENSEE.
entity n 1 1 ~ 1 1 00000010
vessel n 1 2 @ ~ 1 0 00000020
cup n 2 1 @ 2 1 00000030 00000010
beer_mug n 1 1 @ 1 0 00000040
"""


def pool(*labels: str, words: str = "A cup, on the cup table.") -> Pool:
    image = ArrayImage(np.zeros((40, 40, 3), np.uint8))
    regions = tuple(Region((n, 0, n + 5, 5), label, ("red",) if n % 2 else ("red", "round")) for n, label in enumerate(labels))
    phrase = {"text": "a tall lamp", "phrases": [{"spans": [[0, 11]], "regions": [0]}]}
    sample = Sample("a", image, texts=(Text(words, "en", "caption"),), regions=regions, extras={"grounding": [phrase]})
    return Pool.from_samples([sample], name="made")


def made(out: Path) -> Any:
    return json.loads((out / "knowledge.json").read_text())


def test_the_grammar_says_what_boxes_say(tmp_path: Path) -> None:
    done = curate(pool("alarm clock", "alarm clock", "wall clock", "cup", "cup"), [NounKnowledge()], tmp_path)
    assert list(done.kept.uids) == ["a"]
    found = made(tmp_path)
    assert list(found) == ["alarm clock", "cup", "lamp", "wall clock"]  # phrases name what they end with
    assert found["alarm clock"] == {
        "type": "clock", "description": "red; round", "similar objects": ["wall clock", "cup"], "frequency": 0,
    }  # fmt: skip
    assert found["cup"]["frequency"] == 2
    assert found["lamp"] == {"type": None, "description": "", "similar objects": [], "frequency": 1}
    known = read_knowledge(tmp_path / "knowledge.json")
    assert known["alarm clock"].kind == "a kind of clock"
    assert json.loads((tmp_path / "writing.json").read_text()) == {"by_the_grammar": 4}


def test_definitions_of_wordnet_give_kind_look_and_sisters(tmp_path: Path) -> None:
    folder = tmp_path / "dict"
    folder.mkdir()
    (folder / "data.noun").write_text(DATA)
    (folder / "index.noun").write_text(INDEX)
    curate(pool("cup", "beer_mug", "sofa"), [NounKnowledge(glosses=str(folder))], tmp_path / "out")
    found = made(tmp_path / "out")
    assert found["cup"] == {
        "type": "vessel", "description": "small open container; usually with a handle", "similar objects": ["beer_mug"], "frequency": 2,
    }  # fmt: skip
    assert found["beer_mug"]["similar objects"] == ["cup"]
    assert json.loads((tmp_path / "out/writing.json").read_text()) == {"from_definitions": 2, "by_the_grammar": 2}
    (folder / "index.noun").write_text("cup n 1 1 @ 1 1 99999999\n")
    with pytest.raises(DataError, match="no synset of 'cup'"):
        NounKnowledge(glosses=str(folder))(pool("cup"))
    (folder / "data.noun").write_text("00000010 03 n zz\n")
    with pytest.raises(DataError, match="row 0 is not an entry"):
        NounKnowledge(glosses=str(folder))(pool("cup"))


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("a dispenser that holds a substance under pressure", "dispenser", "that holds a substance under pressure"),
        ("an open-topped glass; for drinking", None, "open-topped glass; for drinking"),
        ("a weapon for shooting arrows, composed of wood", "weapon", "for shooting arrows, composed of wood"),
        ("any of various large strong canine mammals with a bushy tail that hunt", None, "large strong canine mammals with"),
    ],
)
def test_definitions_of_lvis_and_of_a_file(tmp_path: Path, text: str, kind: str | None, told: str) -> None:
    lvis, plain = tmp_path / "lvis.json", tmp_path / "glosses.json"
    lvis.write_text(json.dumps({"categories": [{"id": 1, "name": "aerosol_can", "def": text, "frequency": "c"}]}))
    plain.write_text(json.dumps({"aerosol can": text}))
    entries = []
    for place, file in enumerate((lvis, plain)):
        done = NounKnowledge(glosses=str(file))(pool("aerosol_can"))
        entries.append(json.loads(done.files["knowledge.json"])["aerosol_can"])
        assert entries[place]["type"] == kind
        assert entries[place]["description"].startswith(told)
    assert entries[0] == entries[1]
    plain.write_text(json.dumps({"aerosol can": 3}))
    with pytest.raises(DataError, match="'aerosol can' is '3'"):
        NounKnowledge(glosses=str(plain))(pool("aerosol_can"))
    plain.write_text(json.dumps({"violin": "a bowed instrument"}))
    with pytest.raises(DataError, match="defines none of 2 nouns"):
        NounKnowledge(glosses=str(plain))(pool("aerosol_can"))


ANSWERS = {
    "cup": '{"type": "vessel", "description": "round; has a handle", "similar objects": ["mug"]}',
    "dog": "a dog is an animal",
    "lamp": '{"type": "lamp", "description": "tall", "similar objects": []}',
    "sofa": '{"type": "seat", "description": "", "similar objects": []}',
}


def test_a_model_answers_in_json_and_the_rest_is_counted(tmp_path: Path, server: Server) -> None:
    server.behave = lambda number, body: said(" " + ANSWERS[body["prompt"].rstrip().rpartition("thing: ")[2]])
    step = NounKnowledge(writer=f"{server.address}#small", calls=1)
    curate(pool("cup", "dog", "sofa"), [step], tmp_path)
    assert made(tmp_path) == {
        "cup": {"type": "vessel", "description": "round; has a handle", "similar objects": ["mug"], "frequency": 2}
    }
    report = json.loads((tmp_path / "writing.json").read_text())
    assert (report["asked"], report["used"]) == (4, 1)
    assert report["not_used"] == {"circular": 1, "empty": 1, "malformed": 1}
    assert NounKnowledge(writer=f"{server.address}#small").plan(pool("cup"))["items"] == 2


def test_from_the_command_line_into_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cup\n\nbeer mug\n")
    world, out = "world:invented?n=6&seed=0", tmp_path / "out"
    assert main(["curate", "noun_knowledge", world, str(out)]) == 0
    known = made(out)
    assert all(entry["description"] for entry in known.values())
    assert main(["curate", "noun_knowledge", world, str(tmp_path / "two"), "--names", str(names)]) == 0
    assert list(made(tmp_path / "two")) == ["beer mug", "cup"]
    assert DesCo(knowledge=str(out / "knowledge.json")).knowledge
    capsys.readouterr()
    for options, text in (
        (["--names", str(tmp_path / "none.txt")], "is not a readable file of names"),
        (["--glosses", str(tmp_path / "none.json")], "cannot be read"),
        (["--glosses", "x.json", "--writer", "folder:y"], "expected one of the two"),
        (["--writer", "ngram"], "answers in JSON"),
        (["--share", "0"], "share 0"),
    ):
        assert main(["curate", "noun_knowledge", world, str(tmp_path / "bad"), *options]) != 0
        assert text in capsys.readouterr().err
    with pytest.raises(DataError, match="no label and no phrase"):
        NounKnowledge()(Pool.from_samples([Sample("a", ArrayImage(np.zeros((4, 4, 3), np.uint8)))], name="bare"))
    with pytest.raises(ConfigError, match="similar is -1"):
        NounKnowledge(similar=-1)
