"""Conditions and options as a person types them, and the life of an index from the command line, with no model to load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

import diptych as dp
from diptych.cli import main
from diptych.cli.commands.search import filters
from diptych.core.contracts import Dataset
from diptych.core.entries import RegistryEntry
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.registry import INDEXES
from diptych.index.facts import read_facts
from diptych.index.items import What
from diptych.index.kinds import open_index
from diptych.index.kinds.lexical import LexicalIndex

COLUMNS = {"style": "text", "tags": "texts", "width": "integer", "score": "number", "ok": "boolean"}


@pytest.mark.parametrize(
    ("words", "means"),
    [
        ((), None),
        (("style=noto",), {"style": "noto"}),
        (("tags=old,new", "ok=true"), {"tags": ["old", "new"], "ok": True}),
        (("score>=0.3", "score<1"), {"score": {">=": 0.3, "<": 1.0}}),
        (("width=256,512",), {"width": [256.0, 512.0]}),
        (("style=a>b",), {"style": "a>b"}),
    ],
)
def test_conditions(words: tuple[str, ...], means: Any) -> None:
    assert filters(words, COLUMNS) == means


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (("noto",), ConfigError, "filter 'noto'"),
        (("=noto",), ConfigError, "filter '=noto'"),
        (("stlye=noto",), UnknownName, "did you mean 'style'"),
        (("score>=high",), ConfigError, "column 'score' holds numbers, the condition gives 'high'"),
        (("ok=yes",), ConfigError, "holds true or false"),
        (("score=1", "score>0"), ConfigError, "a value and a range"),
    ],
)
def test_conditions_that_cannot_be(words: tuple[str, ...], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        filters(words, COLUMNS)


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main([*argv, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def written(file: Path, *rows: str) -> str:
    """A table of uid, text and licence; every sample shows the same picture."""
    Image.new("RGB", (8, 8)).save(file.parent / "a.png")
    file.write_text("uid,text,licence,image\n" + "".join(f"{row},a.png\n" for row in rows))
    return str(file)


def test_life_of_an_index_of_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = str(tmp_path / "words.index")
    table = written(tmp_path / "pairs.csv", "a,a red bus,MIT", "b,two red dogs,CC0-1.0", "c,a tree,MIT")
    more = written(tmp_path / "more.csv", "d,a dog and a red tree,MIT")
    built = answer(capsys, "index", "build", "words", table, index, "--kind", "lexical")
    assert built["count"] == 3
    assert answer(capsys, "index", "add", index, more)["added"] == 1
    found = answer(capsys, "search", index, "red", "--where", "licence=MIT")
    assert {hit["uid"] for hit in found["hits"]} == {"a", "d"}
    assert answer(capsys, "search", index, "--like", "c")["hits"][0]["uid"] in ("a", "d")
    (tmp_path / "takedown.txt").write_text("a\n\n")
    assert answer(capsys, "index", "remove", index, "b", "--file", str(tmp_path / "takedown.txt")) == {"removed": 2, "count": 2}
    assert answer(capsys, "index", "compact", index)["bytes"] > 0
    info = answer(capsys, "index", "info", index)
    assert (info["count"], info["kind"], info["model"]["name"]) == (2, "lexical", "words")
    assert answer(capsys, "index", "export", index, str(tmp_path / "left.txt"))["rows"] == 2
    assert (tmp_path / "left.txt").read_text() == "c\nd\n"


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = written(tmp_path / "pairs.csv", "a,a red bus,MIT")
    for argv, says in [
        (("index", "build", "words", table, str(tmp_path / "i"), "--kind", "lexical", "--prefix", "8"), "no option prefix"),
        (("index", "build", "words", table, str(tmp_path / "i")), "needs a model that embeds images and texts"),
        (("index", "remove", str(tmp_path / "i")), "no uid is given"),
        (("search", str(tmp_path / "i")), "the query is empty"),
        (("search", str(tmp_path / "i"), "absent.png"), "does not exist"),
        (("search", str(tmp_path / "i"), "words"), "is not an index"),
    ]:
        assert main(list(argv)) != 0
        assert says in capsys.readouterr().err


def test_pictures_without_a_caption_are_found_beside_those_that_have_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mixed").mkdir()
    for row in range(4):
        Image.new("RGB", (16, 16), (60 * row, 0, 0)).save(tmp_path / f"mixed/{row}.png")
    (tmp_path / "mixed/0.txt").write_text("a dark square")
    assert len(dp.read(tmp_path / "mixed")) == 1, "training needs a text in each"
    tiny = ["--steps", "1", "--batch-size", "4", "--width", "16", "--no-evaluation"]
    assert main(["train", "clip", "--data", "world:scenes?n=16&test=4", "--out", str(tmp_path / "run"), *tiny]) == 0
    index = tmp_path / "index"
    assert main(["index", "build", str(tmp_path / "run"), str(tmp_path / "mixed"), str(index)]) == 0
    assert "4 items" in capsys.readouterr().out
    assert main(["index", "add", str(index), str(tmp_path / "mixed"), "--existing", "skip"]) == 0
    assert "0 added, 4 items now" in capsys.readouterr().out
    with dp.open_index(index) as opened:
        hits = opened.search("a square", 4)
        assert {hit.uid for hit in hits} == {"0", "1", "2", "3"}
        assert all(opened.pictures is not None and opened.pictures(hit.uid) is not None for hit in hits)


class ShortTexts(LexicalIndex):
    """A kind of index of another package, with an option of its own."""

    kind: ClassVar[str] = "short_texts"

    @classmethod
    def settings(cls, model: Any, pool: Dataset, what: What, **options: Any) -> dict[str, Any]:
        longest = options.pop("longest", 9)
        return {**super().settings(model, pool, what, **options), "longest": longest}


def test_a_kind_of_an_installed_package_is_built_opened_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(INDEXES._entries, "short_texts", RegistryEntry("short_texts", f"{__name__}:ShortTexts", "", "short"))
    index = str(tmp_path / "short.index")
    data = "world:scenes?n=6&size=32"
    made = answer(capsys, "index", "build", "words", data, index, "--kind", "short_texts", "--set", "longest=5")
    assert made["count"] == 8  # 6 of training, 2 held out
    info = answer(capsys, "index", "info", index)
    assert info["kind"] == "short_texts"
    with open_index(tmp_path / "short.index") as opened:
        assert type(opened) is ShortTexts
        assert read_facts(tmp_path / "short.index").options["longest"] == 5
    assert main(["index", "build", "words", data, index, "--kind", "short_text"]) == 2
    assert "unknown kind of index 'short_text'; did you mean 'short_texts'" in capsys.readouterr().err
    assert main(["index", "build", "words", data, index, "--kind", "lexical", "--set", "longest=5", "--overwrite"]) == 2
    assert "an index of kind 'lexical' has no option longest" in capsys.readouterr().err
