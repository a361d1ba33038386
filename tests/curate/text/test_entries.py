"""Lists of entries: sorted and hashed, mutual information against its formula, WordNet's file format, what cannot be reached."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.curate.text.entries import Entries, frequent, page_views, pmi_pairs, viewed_titles, wordnet, words_of_corpus


def test_sorted_hashed_and_without_signs() -> None:
    one = Entries.of({"word": ["b", "a", "...", " a  b "], "given": ["a"]})
    assert one.names == ("a", "a b", "b")
    assert one.sources == ("given+word", "word", "word")
    assert one.fingerprint == Entries.of({"word": ["a b", "b", "a"]}).fingerprint
    assert one.fingerprint != Entries.of({"word": ["a", "b"]}).fingerprint


def test_files(tmp_path: Path) -> None:
    one = Entries.of({"word": ["b", "a"], "given": ["a"]})
    one.save(tmp_path / "e.parquet")
    assert Entries.load(tmp_path / "e.parquet") == one
    (tmp_path / "e.txt").write_text("red car\n\ncat\n", encoding="utf-8")
    assert Entries.load(tmp_path / "e.txt").names == ("cat", "red car")
    (tmp_path / "bad.txt").write_bytes(b"cat\n\xff\n")
    with pytest.raises(DataError, match=r"bad.txt: is not UTF-8 at byte 4"):
        Entries.load(tmp_path / "bad.txt")
    pq.write_table(pa.table({"name": ["x"]}), tmp_path / "no.parquet")
    with pytest.raises(DataError, match=r"no.parquet: has no column 'entry' \(expected 'entry' among name\)"):
        Entries.load(tmp_path / "no.parquet")
    with pytest.raises(DataError, match="does not exist"):
        Entries.load(tmp_path / "none.txt")


def test_the_published_list_is_taken_as_it_is(tmp_path: Path) -> None:
    """metadata.json: what matches there matches here, signs and blanks included."""
    (tmp_path / "metadata.json").write_text(json.dumps(["Gas", "gas", "--", "\u2665", "red  car", "", " "]), encoding="utf-8")
    assert Entries.load(tmp_path / "metadata.json").names == ("--", "Gas", "gas", "red  car", "\u2665")
    (tmp_path / "counts.json").write_text('{"Gas": 3}', encoding="utf-8")
    with pytest.raises(DataError, match=r"counts.json: is not a list of strings"):
        Entries.load(tmp_path / "counts.json")
    (tmp_path / "cut.json").write_text('["Gas", ', encoding="utf-8")
    with pytest.raises(DataError, match=r"cut.json: is not valid JSON"):
        Entries.load(tmp_path / "cut.json")


def test_words_and_pairs_as_written() -> None:
    words, pairs = words_of_corpus(["the red car, the dog's red car"])
    assert words == Counter({"the": 2, "red": 2, "car": 2, "dog's": 1})
    assert pairs == Counter({("the", "red"): 1, ("red", "car"): 2, ("the", "dog's"): 1, ("dog's", "red"): 1})
    assert frequent(words, 2) == ["car", "red", "the"]


def test_mutual_information_by_its_formula() -> None:
    words = Counter({"new": 10, "york": 6, "the": 100, "end": 12})
    pairs = Counter({("new", "york"): 6, ("the", "end"): 8, ("the", "new"): 2})
    found = dict(pmi_pairs(words, pairs, minimum=2))
    total = 128
    assert found["new york"] == pytest.approx(math.log2(6 * total / 60))
    assert found["the end"] == pytest.approx(math.log2(8 * total / 1200))
    assert [name for name, _ in pmi_pairs(words, pairs, minimum=2)] == ["new york", "the end", "the new"]
    assert [name for name, _ in pmi_pairs(words, pairs, top=1, minimum=2)] == ["new york"]
    assert [name for name, _ in pmi_pairs(words, pairs, cut=2.0, minimum=2)] == ["new york"]


def test_the_published_cut_cannot_be_reached_by_a_small_corpus() -> None:
    with pytest.raises(
        ConfigError, match=r"PMI of 30 bits cannot be reached by a corpus of 1,024 words \(expected at most log2 N = 10.0"
    ):
        pmi_pairs(Counter({"a": 1024}), Counter(), cut=30)


def test_titles_that_were_looked_at() -> None:
    assert viewed_titles([("Red_car", 70), ("Dog", 69), ("Talk:Cat", 900)]) == ["Red car"]


def test_page_views_are_summed_over_files_and_read_from_dumps(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "pageviews-20180419-000000.gz", "wb") as file:
        file.write(b'en Red_car 60 0\nen Dog 49 0\nde Rot 900 0\n"" x\nen Talk:Cat 80 0\nen.m Dog 99 0\n')
    (tmp_path / "more.tsv").write_text("Red car\t10\nDog\t3\n", encoding="utf-8")
    views = page_views(tmp_path)
    assert views == Counter({"Red car": 70, "Dog": 3, "Talk:Cat": 80})
    assert page_views(tmp_path, least=1)["Dog"] == 52
    assert viewed_titles(views.items()) == ["Red car"]
    (tmp_path / "bad.tsv").write_text("Dog\tmany\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"bad.tsv.*views are 'many'"):
        page_views(tmp_path / "bad.tsv")
    with pytest.raises(DataError, match="does not exist"):
        page_views(tmp_path / "none.tsv")


def test_wordnets_files(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(
        "  1 the licence  \n00001740 03 n 01 entity 0 000 | all\n00001930 03 n 02 hot_dog 0 frank 1 000 | food\n"
    )
    (tmp_path / "data.verb").write_text("00001740 29 v 01 breathe 0 000 | air\n")
    (tmp_path / "data.adj").write_text("00001740 00 a 01 galore(ip) 0 000 | many\n")
    (tmp_path / "data.adv").write_text("00001740 02 r 01 A_level 0 000 | x\n")
    assert wordnet(tmp_path) == ["entity", "hot dog", "breathe", "galore", "A level"]
    assert wordnet(tmp_path, lower=True)[-1] == "a level"
    (tmp_path / "data.adv").write_text("00001740 02 n 01 U.S._Army 0 000 | x\n00001750 02 n 01 .22 0 000 | x\n")
    assert wordnet(tmp_path, lower=True, cut=True)[-2:] == ["galore", "u"], "as the published list has it"
    with pytest.raises(DataError, match=r"contains no WordNet \(expected data.noun"):
        wordnet(tmp_path / "nowhere")
