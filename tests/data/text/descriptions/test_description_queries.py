"""Queries of descriptions: built as the release builds them, with its faults named, and every span on its text."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.text.captions.phrases import GroundedPhrase, PhraseTexts, Sentence, sentences_of
from diptych.data.text.descriptions.caption_queries import CaptionQueries, overlapping_entities
from diptych.data.text.descriptions.description_queries import ClassQueries, NounQueries, description_text
from diptych.data.text.descriptions.knowledge import Knowledge, Noun, parse_knowledge, read_knowledge
from diptych.data.text.descriptions.positive_rate import PositiveRate

RELEASED = "liunian-harold-li/DesCo 13b7793, GPTOutputParser and PosRateControllerV2"
NAMES = [f"thing {n}" for n in range(30)]
KNOWN = Knowledge(
    {name: Noun(f"a kind of sort {n % 4}", (f"part {n}", "round"), (NAMES[(n + 1) % 30],), 5) for n, name in enumerate(NAMES)}
)


@pytest.fixture(scope="module")
def released() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("desco_queries_released.json").read_text())  # type: ignore[no-any-return]


def count(text: str) -> int:
    return len(text.split())


def test_descriptions_and_their_heads_are_those_of_the_release(released: dict[str, Any], parity: Any) -> None:
    nouns = parse_knowledge(json.dumps([{"object": n, "gpt3_output": a} for n, a in released["answers"].items()]), "answers")
    assert nouns.unread == ("odd",)
    for key, (text, end) in released["spans"].items():
        name, kind, positive = key.split("|")
        made = description_text(name, nouns[name], 0, named=kind == "vanilla_span", positive=positive)
        assert (made.text, made.spans) == (text, {0: ((0, end),)}), key
    rate, rows = PositiveRate(), []
    for right, wrong, most, *_ in released["rate"]:
        chosen = rate.next(right, wrong, None if most < 0 else most)
        rate.count(chosen[0], sum(chosen))
        rows.append((right, wrong, most, *chosen))
    parity(
        "desco", "description spans, and right and wrong texts of 400 queries", RELEASED, [(rows, released["rate"])], tolerance=0
    )


def test_the_drawn_rate_is_independent_of_the_length_and_reaches_none() -> None:
    rate, rng = PositiveRate(longest=6, centre=4, spread=2), np.random.default_rng(0)
    drawn = [rate.draw(6, 6, rng) for _ in range(20_000)]
    lengths = Counter(sum(row) for row in drawn)
    for length, weight in rate.weights.items():
        assert lengths[length] / len(drawn) == pytest.approx(weight, abs=0.012)
        shares = [row[0] for row in drawn if sum(row) == length]
        assert np.mean(shares) / length == pytest.approx(0.5, abs=0.03)
        assert shares.count(0) > 0
    assert rate.draw(0, 0, rng) == (0, 0)
    assert all(right <= 2 and wrong <= 1 and right + wrong <= 2 for right, wrong in [rate.draw(2, 1, rng, 2) for _ in range(50)])


def test_spans_equal_their_heads_and_boxes_keep_the_classes_that_were_chosen() -> None:
    rng, queries = np.random.default_rng(0), ClassQueries()
    sizes: Counter[int] = Counter()
    nameless = total = 0
    for _ in range(2000):
        present = [NAMES[int(n)] for n in rng.permutation(30)[: rng.integers(0, 12)]]
        query = queries.draw(present, NAMES, KNOWN, rng, count=count)
        assert query.text.startswith("Detect: ")
        assert len(query.spans) <= 8
        for name in query.spans:
            (head,) = query.words(name)
            kind = KNOWN[str(name)].kind
            assert head in (f"{name}, {kind}, ", f"{kind}, ")
            nameless += head == f"{kind}, "
            total += 1
        sizes[len(set(query.spans) & set(present))] += bool(present)
    assert sizes[0] > 100  # all-negative queries occur
    assert nameless / total == pytest.approx(0.5, abs=0.03)


def test_more_than_eight_positives_leave_room_for_eight_in_all() -> None:
    """The release asks for a negative number of others, which is nearly all of them."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        chosen = ClassQueries().chosen(NAMES[:11], NAMES, rng)
        assert 1 <= len(chosen) <= 8  # one that is not there, where none of them was drawn
        assert set(chosen) <= set(NAMES[:11]) or len(chosen) == 1


@pytest.mark.parametrize("classes", [1, 2])
def test_no_query_is_empty_where_few_or_no_other_classes_exist(classes: int) -> None:
    """With every class of the data in the picture there is no other to ask for: one that is there is asked for."""
    rng, names = np.random.default_rng(5), NAMES[:classes]
    for shown in range(classes + 1):
        for _ in range(300):
            assert ClassQueries().chosen(names[:shown], names, rng)
            assert ClassQueries().draw(names[:shown], names, KNOWN, rng, count=count).text != "Detect: "


def test_the_shares_of_allow_zero() -> None:
    rng = np.random.default_rng(2)
    rows = [ClassQueries().chosen(NAMES[:3], NAMES, rng) for _ in range(20_000)]
    kept = np.array([len(set(row) & set(NAMES[:3])) for row in rows])
    whole = np.array([len(row) == 8 for row in rows])
    assert (kept == 3).mean() == pytest.approx(0.6 + 0.4 / 4, abs=0.012)
    assert (kept == 0).mean() == pytest.approx(0.4 / 4, abs=0.01)
    assert ((kept == 3) & whole).mean() == pytest.approx(0.5 + 0.1 / 6 + 0.4 / 4, abs=0.012)


def test_a_query_is_never_longer_than_the_tokens_it_may_have() -> None:
    rng = np.random.default_rng(3)
    lengths = [count(ClassQueries().draw(NAMES[:4], NAMES, KNOWN, rng, tokens=30, count=count).text) for _ in range(300)]
    assert max(lengths) <= 30  # "Detect:" and fewer than 30 beside it


def test_names_alone_are_the_baseline_and_missing_classes_are_refused() -> None:
    rng = np.random.default_rng(4)
    query = ClassQueries(form="name").draw(["zebra"], ["zebra", "yak"], Knowledge({}), rng, count=count)
    assert {query.words(name)[0] for name in query.spans} <= {"zebra", "yak"}
    with pytest.raises(UnknownName, match="describe every class"):
        ClassQueries().piece("zebra", KNOWN)
    assert ClassQueries(missing="name").piece("zebra", KNOWN).text == "zebra. "
    with pytest.raises(ConfigError, match="partial"):
        ClassQueries(positive="some")  # type: ignore[arg-type]


# ---------------------------------------------------------------- captions


def sentence(written: PhraseTexts | None = None) -> Sentence:
    text = "A red cup left of a plate. A man holds a red cup."
    return Sentence(
        text,
        (
            GroundedPhrase(((2, 9),), (0,)),
            GroundedPhrase(((20, 25),), (1, 2)),
            GroundedPhrase(((29, 32),), (3,)),
            GroundedPhrase(((41, 48),), (0,)),
        ),
        written,
    )


VOCABULARY = Knowledge(
    {
        "cup": Noun("a kind of vessel", ("round",), ("bowl", "sky"), 9),
        "plate": Noun("a kind of dish", ("flat",), (), 9),
        "bowl": Noun("a kind of vessel", ("deep",), (), 9),
        "man": Noun("a kind of human", (), (), 90_000),
        "sky": Noun("a kind of view", ("blue",), (), 0),
        "red": Noun("a kind of colour", (), (), 20_000),
    }
)


def test_nouns_of_a_caption_become_descriptions_and_common_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        query = NounQueries(words=60).draw(sentence(), VOCABULARY, rng)
        assert query is not None
        assert set(query.spans) == {0, 1, 3}  # the man is too common
        assert query.spans[0] == query.spans[3]  # the same words
        for place, heads in (
            (0, {"cup, a kind of vessel, ", "a kind of vessel, "}),
            (1, {"plate, a kind of dish, ", "a kind of dish, "}),
        ):
            assert set(query.words(place)) <= heads
        assert "human" not in query.text
        assert "view" not in query.text
        assert "deep" in query.text  # what a cup could be taken for
        assert len(query.text.split()) <= 60
    assert NounQueries().draw(Sentence("a man", (GroundedPhrase(((2, 5),), (0,)),)), VOCABULARY, rng) is None


def test_all_pieces_of_a_phrase_are_right_and_the_release_keeps_the_last() -> None:
    two = Sentence("a cup plate", (GroundedPhrase(((2, 11),), (0,)),))
    rng = np.random.default_rng(0)
    every = [NounQueries(words=40).draw(two, VOCABULARY, rng) for _ in range(50)]
    assert max(len(query.spans[0]) for query in every if query) > 1
    last = [NounQueries(words=40, every_piece=False).draw(two, VOCABULARY, rng) for _ in range(50)]
    assert {len(query.spans[0]) for query in last if query} == {1}


WRITTEN = PhraseTexts(
    {"plate": "a kind of dish, flat, white", "A man": "a kind of human", "red cup": "a kind of vessel, red"},
    {"bowl": "a kind of vessel, deep", "saucer": "a kind of dish, small"},
    ("a red cup right of a plate", "a blue cup left of a plate"),
)


def test_captions_with_what_was_written_keep_every_span_on_its_words() -> None:
    rng = np.random.default_rng(0)
    seen, empty = set(), 0
    for _ in range(500):
        query = CaptionQueries(rate=PositiveRate(longest=8, centre=4)).draw(sentence(WRITTEN), rng, count=count)
        empty += not query.spans
        for place in query.spans:
            seen |= {(place, words) for words in query.words(place)}
        assert "human" not in query.text
    assert empty > 20  # queries without anything that is there occur
    assert seen == {
        (0, "red cup"), (0, "red cup, a kind of vessel"), (0, "a kind of vessel"),
        (1, "plate"), (1, "plate, a kind of dish"), (1, "a kind of dish"),
        (2, "man"),
        (3, "red cup"), (3, "red cup, a kind of vessel"), (3, "a kind of vessel"),
    }  # fmt: skip
    assert CaptionQueries().draw(sentence(), rng, count=count).text == sentence().text
    short = [CaptionQueries().draw(sentence(WRITTEN), rng, tokens=16, count=count).text for _ in range(100)]
    assert max(count(text) for text in short if text != sentence().text) <= 16


def test_phrases_are_answered_where_they_stand_whole() -> None:
    marked = sentence().marked
    assert overlapping_entities(marked, "cup") == [0, 3]
    assert overlapping_entities(marked, "a red cup left") == [0]
    assert overlapping_entities(marked, "late") == []


def test_right_and_wrong_texts_never_read_the_same() -> None:
    twice = PhraseTexts(captions=("A red cup left of a plate.", "no cup"))
    groups = CaptionQueries().groups(sentence().marked, twice, np.random.default_rng(0))
    assert {text for group in groups for text in group.wrong} == {"no cup"}


# ---------------------------------------------------------------- files


def test_knowledge_comes_back_from_its_json(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    path.write_text(KNOWN.to_json())
    assert read_knowledge(path).nouns == KNOWN.nouns
    assert parse_knowledge(VOCABULARY.to_json(), "").uncommon("the cup") == "cup"
    assert parse_knowledge(VOCABULARY.to_json(), "").uncommon("man") == ""
    counted = parse_knowledge(
        '{"cup": ["{\\"type\\": \\"vessel\\", \\"description\\": \\"a; b\\", \\"similar objects\\": []}", 7]}', ""
    )
    assert counted["cup"] == Noun("a kind of vessel", ("a", "b"), (), 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "not JSON"),
        ("{}", "describes nothing"),
        ("3", "holds a int"),
        ('{"cup": 3}', "'cup' is 3"),
        ('{"cup": ["x"]}', "'cup' is"),
        ('[{"object": "cup"}]', "entry 0"),
        ('{"cup": {"type": "vessel"}}', r"entry 0 \('cup'\)"),
    ],
)
def test_faults_of_knowledge_files_name_their_entry(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse_knowledge(text, "known.json")


GOOD: dict[str, Any] = {"text": "a red cup", "phrases": [{"spans": [[2, 9]], "regions": [0]}]}


def sample(value: Any) -> Sample:
    return Sample("s1", regions=(Region((0, 0, 4, 4), "cup"),), extras={"grounding": value})


def test_sentences_of_a_sample() -> None:
    (found,) = sentences_of(sample([{**GOOD, "written": {"descriptions": {"cup": "a kind of vessel"}, "captions": ["no"]}}]))
    assert found.marked.words(0) == ["red cup"]
    assert found.written == PhraseTexts({"cup": "a kind of vessel"}, {}, ("no",))
    assert sentences_of(Sample("s2")) == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("text", "grounding is a str"),
        ([{"text": ""}], "sentence 0 is"),
        ([{"text": "a cup"}], "sentence 0 has no phrase"),
        ([{"text": "a cup", "phrases": []}], "sentence 0 has no phrase"),
        ([{**GOOD, "phrases": [{"spans": [[2, 99]], "regions": [0]}]}], "phrase 0: the span"),
        ([{**GOOD, "phrases": [{"spans": [[2, 9]], "regions": [1]}]}], r"phrase 0 has the regions \[1\]"),
        ([{**GOOD, "phrases": [{"spans": [[2, 9]]}]}], "phrase 0 has the regions None"),
        ([{**GOOD, "written": 3}], "sentence 0: written is 3"),
        ([{**GOOD, "written": {"captions": [" "]}}], "a text without words"),
    ],
)
def test_faults_of_sentences_name_sample_and_sentence(value: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        sentences_of(sample(value))
