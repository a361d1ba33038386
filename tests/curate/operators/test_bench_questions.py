"""Questions from symbols: every program's answer against the drawn scene, filters against planted errors, a language model's replies."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from diptych.core.contracts import Reply
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.curate.operators.bench_questions import BenchQuestions
from diptych.curate.text.question_programs import NUMBERS, PROGRAMS, SymbolVocabulary, write_questions
from diptych.curate.text.triplet_filters import FILTERS, drop_reasons, measure_filters, with_planted_errors
from diptych.data.text.question_answering.symbols import SymbolicObject, Symbols, symbols_of
from diptych.data.text.question_answering.triplets import Triplet, lines_of, read_triplets
from diptych.worlds.scenes.world import scenes

SIZE = 64


@pytest.fixture(scope="module")
def world() -> Any:
    return scenes(60, seed=5, split="test", size=SIZE, max_objects=4, lengths=("short",), paraphrases=0, negatives=False)


@pytest.fixture(scope="module")
def symbols(world: Any) -> dict[str, Symbols]:
    return {sample.uid: symbols_of(sample, (SIZE, SIZE)) for sample in (world[row] for row in range(len(world)))}


@pytest.fixture(scope="module")
def triplets(symbols: dict[str, Symbols]) -> list[Triplet]:
    vocabulary = SymbolVocabulary.of(list(symbols.values()))
    return [one for uid, some in symbols.items() for one in write_questions(uid, some, vocabulary, keyed_rng("test", uid))]


def test_every_answer_is_that_of_the_scene_as_it_was_planned(world: Any, triplets: list[Triplet], parity: Any) -> None:
    """The scene's own things are the oracle: nothing here reads a box, a relation or a symbol."""
    things = {sample.uid: sample.extras["things"] for sample in (world[row] for row in range(len(world)))}
    checked: Counter[str] = Counter()
    pairs = []
    for one in triplets:
        here, words = things[one.uid], one.question.rstrip("?").split()
        labels = [thing["label"] for thing in here]
        singular = {label: label for label in labels} | {f"{label}s": label for label in labels} | {"crosses": "cross"}
        named = [singular[word] for word in words if word in singular]
        the = next((thing for thing in here if named and thing["label"] == named[0]), None)
        match one.sub_ability:
            case "object":
                right = one.answer == ("yes" if words[3] in labels else "no")
            case "count":
                right = NUMBERS.index(one.answer) == labels.count(named[0])
            case "attribute":
                right = the is not None and one.answer == the["colour"]
            case "location":
                axis = "x" if "left" in words else "y"
                right = the is not None and (the[axis] < 0.5) == (one.answer in ("left", "top"))
            case "comparison":
                right = labels.count(singular[one.answer]) == max(labels.count(name) for name in named)
            case "counterfactual":
                right = NUMBERS.index(one.answer) == len(labels) - labels.count(named[0])
            case "relation":
                other = next(thing for thing in here if thing["label"] == named[1])
                assert the is not None
                holds = {"left of": the["x"] < other["x"], "right of": the["x"] > other["x"], "above": the["y"] < other["y"]}
                holds |= {"below": the["y"] > other["y"], "same colour as": the["colour"] == other["colour"]}
                right = holds.get(one.answer, True)
            case _:
                raise AssertionError(one.sub_ability)
        assert right, one
        pairs.append((1, int(right)))
        assert one.answer in one.options
        assert len(set(one.options)) == len(one.options) >= 2
        checked[one.sub_ability] += 1
    assert set(checked) == {"object", "count", "attribute", "location", "relation", "comparison", "counterfactual"}
    assert len(PROGRAMS) == 7
    parity(
        "auto_bench", "answers of the programs", "scenes as they were planned, without boxes and relations", pairs, tolerance=0
    )


def test_an_option_that_also_holds_is_never_offered(symbols: dict[str, Symbols], triplets: list[Triplet]) -> None:
    for one in triplets:
        if one.sub_ability == "relation":
            things, (a, b) = symbols[one.uid].things, (one.support[0].split()[0], one.support[0].split()[-2])
            holds = {predicate for x, predicate, y in symbols[one.uid].relations if (x, y) == (int(a), int(b))}
            assert not (set(one.options) & holds) - {one.answer}
            assert things[int(a)].label in one.question


def test_filters_find_planted_errors(symbols: dict[str, Symbols], triplets: list[Triplet]) -> None:
    vocabulary = SymbolVocabulary.of(list(symbols.values()))
    assert not any(drop_reasons(triplets, symbols, vocabulary)), "a sound question stays"
    planted = with_planted_errors(triplets, symbols, vocabulary, 0.5, keyed_rng("planted"))
    errors = [error for _, error in planted]
    assert set(errors) == {"", *FILTERS}
    found = measure_filters(drop_reasons([one for one, _ in planted], symbols, vocabulary), errors)
    for kind in (*FILTERS, "any"):
        precision, recall = found[kind].precision, found[kind].recall
        assert precision is not None
        assert recall is not None
        assert precision >= 0.95, kind
        assert recall >= 0.95, kind
    # by hand: one of two taken out for a leak had one, one of two leaks was taken out
    by_hand = measure_filters(["leak: x", "leak: x", "", ""], ["leak", "", "leak", ""])["leak"]
    assert (by_hand.taken, by_hand.errors, by_hand.precision, by_hand.recall) == (2, 2, 0.5, 0.5)


def test_filters_on_questions_in_other_words() -> None:
    symbols = {
        "1": Symbols(
            (),
            (SymbolicObject("dog", ("brown",), (0, 0, 0.2, 0.2)), SymbolicObject("fire hydrant", ("red",), (0.6, 0, 0.9, 0.4))),
            (),
        )
    }
    vocabulary = SymbolVocabulary(("bus", "dog", "fire hydrant", "hydrant"), (), ())

    def reason(question: str, answer: str, *options: str) -> str:
        one = Triplet("1", "perception", "object", question, answer, options, "because")
        return drop_reasons([one], symbols, vocabulary)[0].partition(":")[0]

    assert reason("How many dogs are there?", "1") == ""
    assert reason("How many dogs are there?", "two") == "consistency"
    assert reason("How many brown dogs are there?", "two") == "", "it cannot tell"
    assert reason("How many buses are there?", "zero") == ""
    assert reason("What colour is the fire hydrant?", "red") == ""
    assert reason("What colour is the fire hydrant?", "green") == "consistency"
    assert reason("What is the bus doing?", "waiting") == "unanswerable"
    assert reason("Is there a bus?", "no") == ""
    assert reason("Is there a dog in the picture?", "no") == "consistency"
    assert reason("Is there a dog on the hydrant?", "no") == "", "it cannot tell"
    assert reason("Why is the brown dog brown?", "brown") == "leak"
    assert reason("Is the dog brown or red?", "brown", "brown", "red") == ""
    assert reason("Is the dog brown or red?", "brown", "brown", "brown") == "options"
    assert reason("A dog.", "yes") == "format"
    assert reason("What is this?", "x " * 31) == "length"


class Planted:
    """A text backend that writes a question for each request, every third of them badly."""

    name, identity, terms, at_once, calls, kept = "planted", "planted-1", "none", 4, 1, False

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def tokens(self, text: str) -> int:
        return len(text.split())

    def write(self, requests: Any) -> list[Reply]:
        found = []
        for request in requests:
            self.prompts.append(request.prompt)
            good = {"question": f"What of {request.style}?", "options": ["this", "that"], "answer": "this", "reasoning": "so"}
            bad = '{"question": "What?"}' if len(self.prompts) % 6 else "no JSON"
            found.append(Reply(bad if len(self.prompts) % 3 == 0 else f"Here it is: {json.dumps(good)}", 5, 5))
        return found


def test_a_language_model_writes_for_each_kind(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Planted()
    monkeypatch.setattr("diptych.curate.writing.step.open_backend", lambda address, wanted: backend)
    step = BenchQuestions(writer="http://nowhere/v1#m", kinds=("perception/action", "value/privacy"), planted=0)
    done = step(world)
    assert len(backend.prompts) == 2 * len(world)
    assert "Boxes:\n0 " in backend.prompts[0]
    assert "Write one question of perception: what somebody does." in backend.prompts[0]
    lines = [json.loads(line) for line in done.files["triplets.jsonl"].splitlines()]
    assert len(lines) == len(world) * 2 - len(world) * 2 // 3
    assert {(line["ability"], line["sub_ability"], line["by"]) for line in lines} == {
        ("perception", "action", "planted"),
        ("value", "privacy", "planted"),
    }
    assert json.loads(done.files["writing.json"])["not_used"] == {"malformed": len(world) * 2 // 3}


def test_the_step_by_programs(world: Any, tmp_path: Path) -> None:
    done = BenchQuestions()(world)
    again = BenchQuestions()(world)
    assert done.files["triplets.jsonl"] == again.files["triplets.jsonl"]
    (tmp_path / "t.jsonl").write_bytes(done.files["triplets.jsonl"])
    found = read_triplets(tmp_path / "t.jsonl")
    assert lines_of(found) == done.files["triplets.jsonl"]
    report = json.loads(done.files["filters.json"])
    assert report["kept"] == len(found) == sum(done.columns["bench_questions"].values())
    assert report["measured"]["leak"]["recall"] == 1.0
    assert len(done.kept) == len(world)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown kind 'perception/smell'"):
        BenchQuestions(kinds=("perception/smell",))
    with pytest.raises(ConfigError, match="'grammar' writes captions anew and no questions"):
        BenchQuestions(writer="grammar")
    good = {"uid": "1", "ability": "perception", "sub_ability": "count", "question": "q?", "answer": "a"}
    for change, said in (
        ({"answer": ""}, "row 2, field 'answer': is ''"),
        ({"sub_ability": "smell"}, "row 2, field 'sub_ability': is perception/smell"),
        ({"options": ["b", "c"]}, "row 2, field 'options': lack the answer 'a'"),
        ({"options": ["a", "a"]}, "row 2, field 'options': hold a text twice"),
        ({"color": "x"}, "row 2, field 'color': unknown field"),
    ):
        (tmp_path / "t.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(good | change))
        with pytest.raises(DataError, match=said):
            read_triplets(tmp_path / "t.jsonl")
