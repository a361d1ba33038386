"""The grammar says what the caption says, the n-gram model is a distribution, and what is not faithful is found."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.randomness import keyed_rng
from diptych.curate.text.ngram import END, NGram, words_of
from diptych.curate.writing import in_context
from diptych.curate.writing.backend_address import BackendOptions, open_backend
from diptych.curate.writing.backends.grammar import STYLES, GrammarRewriter, rewritten, with_articles
from diptych.curate.writing.backends.ngram import SMALL, NGramRewriter
from diptych.curate.writing.backends.paraphrases import CONVERSE, DROPPED, FRAMES, NEUTRAL_PASSIVE, SYNONYMS
from diptych.curate.writing.faithful import fault
from diptych.curate.writing.requests import PUBLISHED, TextRequest
from diptych.worlds.small_pairs import SmallPairs

CAPTIONS = [
    "a red circle top left and a blue cross bottom right",
    "A man riding a horse",
    "a photo of a small dog next to a couch.",
    "Two kids watching TV in New York, without a coat",
    "a cup left of a plate",
    "not a cat but 12 birds",
    "a mug in front of three big bottles",
]
words = st.lists(
    st.sampled_from(sorted({*SYNONYMS, *CONVERSE, *NEUTRAL_PASSIVE, "a", "two", "not", "dog", "and", "of"})), max_size=12
)


@given(words.map(" ".join), st.sampled_from(STYLES), st.integers(0, 50))
def test_nothing_is_invented_and_facts_are_kept(caption: str, style: str, seed: int) -> None:
    text = rewritten(caption, style, np.random.default_rng(seed))
    assert fault(caption, text) == ""
    known = set(re.findall(r"\w+", " ".join([caption, *FRAMES, *(o for os in SYNONYMS.values() for o in os)]).lower()))
    known |= {word for phrase in (*sum(CONVERSE.values(), ()), *NEUTRAL_PASSIVE.values()) for word in phrase.split()} | {
        "by",
        "an",
        "a",
    }
    assert set(re.findall(r"\w+", text.lower())) <= known


def test_what_each_style_does() -> None:
    found = {style: {rewritten(text, style, keyed_rng(text, n)) for text in CAPTIONS for n in range(12)} for style in STYLES}
    assert "a plate right of a cup" in found["turned"]
    assert "a horse ridden by a man" in found["turned"]
    assert "three large bottles behind a mug" in found["turned"]
    assert "a cup to the right of a plate" not in set().union(*found.values()), "a relation that is turned alone is false"
    assert "here you can see a man riding a horse" in found["framed"]
    assert any(text.startswith("a photograph of a dog") for text in found["short"])
    assert all(re.search(r"\b(two|2)\b", text, re.IGNORECASE) for text in set().union(*found.values()) if "New York" in text)
    assert rewritten("a small old dog", "short", keyed_rng(0, 0), ["a red ball", "a red ball"]).endswith("with a red ball")
    assert not DROPPED & {"red", "not", "two", "left"}


def test_a_caption_of_ten_thousand_words_costs_no_more_than_its_beginning() -> None:
    long = " ".join(["small dog"] * 5000)
    text = rewritten(long, "plain", keyed_rng(0))
    assert len(text.split()) == 10_000
    assert text[3000:] == (long[len(long) - len(text) + 3000 :])
    assert rewritten("x" * 100_000, "turned", keyed_rng(0)) == "x" * 100_000
    assert rewritten("   ", "framed", keyed_rng(0)) == ""


def test_answers_depend_on_the_request_alone() -> None:
    requests = [TextRequest(str(n), "", CAPTIONS[n % 7], style=STYLES[n % 4], seed=n) for n in range(40)]
    found = GrammarRewriter().write(requests)
    assert found == [GrammarRewriter().write([one])[0] for one in requests]
    assert len({answer.text for answer in found}) > 20
    with pytest.raises(ConfigError, match="style is 'loud'"):
        GrammarRewriter().write([TextRequest("x", "", "a dog", style="loud")])


def test_articles_fit() -> None:
    assert (
        with_articles("a orange, An bus, a hour, a uniform and the apple") == "an orange, A bus, a hour, a uniform and the apple"
    )


def test_probabilities_after_any_history_sum_to_one() -> None:
    model = NGram.learned(["a red bus", "a red tree", "the bus is red"], order=3)
    vocabulary = [*model.vocabulary]
    for history in ([], ["a"], ["a", "red"], ["never", "seen"], ["<s>", "<s>"], ["red", "unseen"]):
        total = sum(model.probability(word, history) for word in vocabulary) + model.probability("unknown", history)
        assert total == pytest.approx(1.0, abs=1e-12)


def test_witten_bell_by_hand() -> None:
    """Texts "a b" and "a c": after "a" come b and c once each, so count 2, kinds 2; of one word a 2, b 1, c 1 and the end 2."""
    model = NGram.learned(["a b", "a c"], order=2)
    uniform = 1 / 5
    one = (1 + 4 * uniform) / (6 + 4)
    assert model.probability("b", ["a"]) == pytest.approx((1 + 2 * one) / (2 + 2), abs=1e-15)
    end = (2 + 4 * uniform) / (6 + 4)
    expected = [(2 + 1 * (2 + 4 * uniform) / 10) / (2 + 1), (1 + 2 * one) / 4, (1 + 1 * end) / (1 + 1)]
    assert model.perplexity("A b") == pytest.approx(math.exp(-sum(map(math.log, expected)) / 3), rel=1e-12)
    assert model.perplexity("") == math.inf
    assert model.perplexity("b a") > model.perplexity("a b")
    assert END in model.vocabulary


def test_content_words_stay_in_order() -> None:
    pool = SmallPairs(100).pool("train", 0)
    texts = ["there is a red bus on the road", "the red bus is on a road", *(pool[row].texts[0].string for row in range(100))]
    backend = NGramRewriter.learned(texts, PUBLISHED)
    requests = [TextRequest(str(n), "", "the red bus is on a road", seed=n) for n in range(30)]
    found = backend.write(requests)
    assert found == [backend.write([one])[0] for one in requests]
    assert len({answer.text for answer in found}) > 2
    for answer in found:
        assert [word for word in words_of(answer.text) if word not in SMALL] == ["red", "bus", "on", "road"]
    assert NGramRewriter.learned(texts[::-1], PUBLISHED).identity == backend.identity, "the order of texts does not matter"
    assert NGramRewriter.learned(texts[1:], PUBLISHED).identity != backend.identity


@pytest.mark.parametrize(
    ("caption", "text", "kind"),
    [
        ("two dogs", "2 dogs", ""),
        ("two dogs", "dogs", "number: 2 is missing"),
        ("dogs", "three dogs", "number: 3 is new"),
        ("a dog without a ball", "a dog with a ball", "negation: lost"),
        ("a dog", "a dog that isn't asleep", "negation: new"),
        ("a street in New York", "a street in york, new", ""),
        ("a street in Rome", "a street in Paris", "name: Rome is missing"),
        ("one of the dogs", "a dog", ""),
        ("A Dog. The end", "a hound and the end", "name: Dog is missing"),
    ],
)
def test_what_is_not_kept_is_found(caption: str, text: str, kind: str) -> None:
    assert fault(caption, text) == kind


def test_examples_and_their_faults(tmp_path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"coco": {"groups": [["a", "b"], ["c", "d", "e"], ["f", "g"]]}}')
    pairs = in_context.style("coco", str(file)).draw(keyed_rng(0))
    assert len(pairs) == 3
    assert all(
        {source, target} <= group
        for (source, target), group in zip(sorted(pairs), ({"a", "b"}, {*"cde"}, {"f", "g"}), strict=True)
    )
    with pytest.raises(UnknownName, match="did you mean 'plain'"):
        in_context.style("plan")
    for text, message in (
        ("[]", "is a list"),
        ("{", "not a readable file"),
        ('{"x": {"pairs": [["a", "b"]]}}', r"x.*has no examples|has no examples"),
        ('{"x": {"pairs": [["a"], ["b"], ["c"]]}}', "has no examples"),
        ('{"x": {"groups": 3}}', "has no examples"),
    ):
        file.write_text(text)
        in_context.styles.cache_clear()
        with pytest.raises(DataError, match=message):
            in_context.styles(str(file))
    in_context.styles.cache_clear()


def test_addresses_of_rules(tmp_path) -> None:
    wanted = BackendOptions("", PUBLISHED, lambda: ["a red bus"])
    assert open_backend("grammar", wanted).name == "grammar"
    assert open_backend("ngram", wanted).name == "ngram"
    file = tmp_path / "texts.txt"
    file.write_text("a red bus\n\na tree\n")
    assert open_backend(f"ngram:{file}", wanted).identity != open_backend("ngram", wanted).identity
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not a readable file of texts"):
        open_backend(f"ngram:{file}", wanted)
    with pytest.raises(UnknownName, match="unknown text backend 'gramar'; did you mean 'grammar'"):
        open_backend("gramar", wanted)
    with pytest.raises(ConfigError, match="takes nothing behind its name"):
        open_backend("grammar:x", wanted)
