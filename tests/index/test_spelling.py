"""Variants of query words: singular and plural, and suggestions for words that no text has."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import diptych as dp
from diptych.cli import main
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index.base import Index
from diptych.index.lexicon import TermVocabulary
from diptych.index.spelling import nearest_word, number_forms, without_accents

TEXTS = ["two cherries", "a strawberry", "a red box", "three buses", "café at night", "a cat", "cats and dogs"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    samples = [Sample(f"i{row}", None, (Text(text),)) for row, text in enumerate(TEXTS)]
    folder = tmp_path_factory.mktemp("spelling") / "index"
    with dp.index("words", Pool.from_samples(samples), folder, kind="lexical", progress=False) as made:
        yield made


@pytest.mark.parametrize(
    ("one", "many"),
    [("cat", "cats"), ("cherry", "cherries"), ("box", "boxes"), ("bus", "buses"), ("dish", "dishes"), ("church", "churches")],
)
def test_regular_plurals_both_ways(one: str, many: str) -> None:
    assert many in number_forms(one)
    assert one in number_forms(many)


def test_a_plural_is_looked_up_where_only_the_singular_is_known(index: Index) -> None:
    for query, uid in (("cherry", "i0"), ("strawberries", "i1"), ("boxes", "i2"), ("bus", "i3"), ("dog", "i6")):
        assert [hit.uid for hit in index.search_text(query, 9)] == [uid], query
    assert [hit.uid for hit in index.search_text("cat", 9)] == ["i5"], "a word that is known stands for itself"
    assert index.suggestion("cherry and boxes") == ""


def test_accents_are_looked_past_where_no_text_has_the_word_as_it_is_spelled(index: Index) -> None:
    for query, uids in (("cafe", ["i4"]), ("CAFÉS", ["i4"]), ("cát", ["i5"])):
        assert [hit.uid for hit in index.search_text(query, 9)] == uids, query
    assert index.suggestion("cafe") == ""


def test_accents_of_words_that_come_later_and_of_fields_are_looked_past(tmp_path: Path) -> None:
    def samples(start: int, *texts: str) -> Pool:
        return Pool.from_samples(
            [Sample(f"i{start + row}", None, (Text(text),), extras={"topic": "mené"}) for row, text in enumerate(texts)]
        )

    with dp.index("words", samples(0, "one"), tmp_path / "index", kind="lexical", progress=False, fields=("topic",)) as made:
        assert made.search_text("foret", 9) == []
        made.add(samples(1, "une forêt", "forets"))
        assert [hit.uid for hit in made.search_text("foret", 9)] == ["i2"], "the plural as it is spelled comes first"
        assert [hit.uid for hit in made.search_text("forèt", 9)] == ["i1"]
        assert len(made.search_text("mene", 9)) == 3


def test_a_search_of_known_words_does_not_list_the_vocabulary(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have a million words, and every search asks for a suggestion."""
    listed: list[str] = []

    def all_terms(self: TermVocabulary) -> list[str]:
        listed.append("all")
        return []

    monkeypatch.setattr(TermVocabulary, "terms", all_terms)
    assert index.suggestion("cherry") == ""
    assert not listed
    index.suggestion("cherri")
    assert listed


def test_words_that_no_text_has_are_suggested(index: Index) -> None:
    assert index.suggestion("a Strawbery, red!") == "a strawberry, red!"
    assert index.suggestion("zebra") == ""
    assert index.search_text("strawbery", 9) == [], "a suggestion changes no search"


def test_the_first_letter_and_the_likeness_count() -> None:
    assert nearest_word("nights", ["knights"]) is None
    assert nearest_word("dig", ["dog"]) is None
    assert nearest_word("aple", ["ample", "apple", "apply"]) == "apple"


def test_the_command_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = Pool.from_samples([Sample("a", None, (Text("a strawberry"),))])
    dp.index("words", pool, tmp_path / "index", kind="lexical", progress=False).close()
    assert main(["search", str(tmp_path / "index"), "strawbery"]) == 0
    assert capsys.readouterr().out.splitlines() == ["nothing found", "did you mean: strawberry"]


def test_terms_may_be_learned_while_accents_are_looked_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a service, where one thread searches and another adds an item."""
    vocabulary = TermVocabulary(tmp_path)
    vocabulary.learn(["forêt", "été"])

    def meanwhile(term: str) -> str:
        vocabulary.learn(["forét"])
        return without_accents(term)

    monkeypatch.setattr(sys.modules[TermVocabulary.__module__], "without_accents", meanwhile)
    assert vocabulary.accent_variants("foret") == ["forêt"]
    assert vocabulary.accent_variants("foret") == ["forêt", "forét"]
    assert vocabulary.accent_variants("foret") == ["forêt", "forét"], "no term is read twice"
