"""Auto-Bench: models of known skill get their known accuracy, judges and rivals do what they say, records score alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.prompt import TextPart
from diptych.core.randomness import keyed_rng
from diptych.tasks.choice.auto_bench import AutoBench
from diptych.worlds.scenes.world import scenes


class Knower:
    """Knows the answers by picture and question, and gives the right one with the probability `skill`; another one otherwise."""

    def __init__(self, task: AutoBench, data: Any, skill: float, suffix: str = "") -> None:
        _, asked = task.questions(data)
        self.name, self.skill, self.suffix = f"knower {skill}", skill, suffix
        names = {sample.uid: sample.image.name for sample in (data[row] for row in range(len(data)))}
        self.known = {(names[one.uid], one.question): one for one in asked}

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        return [self._said(image, prompt) for image, prompt in zip(images, prompts, strict=True)]

    def _said(self, image: Any, prompt: str) -> str:
        one = next(one for (name, question), one in self.known.items() if name == image.name and prompt.startswith(question))
        right = keyed_rng("knower", self.skill, image.name, one.question).random() < self.skill
        if not one.options:
            return one.answer + self.suffix if right else "hm"
        place = one.options.index(one.answer)
        return f"({'ABCD'[place if right else (place + 1) % len(one.options)]})"


@pytest.fixture(scope="module")
def world() -> Any:
    return scenes(40, seed=6, split="test", size=64, max_objects=4, lengths=("short",), paraphrases=0, negatives=False)


def test_known_skills_are_found(world: Any) -> None:
    task = AutoBench(draws=50, blind=False)
    values = []
    for skill in (0.0, 0.5, 1.0):
        records = task.predict(Knower(task, world, skill), world)
        result = task.score(records)
        values.append(result.metrics["accuracy"].value)
        assert abs(values[-1] - skill) < 4 * math.sqrt(skill * (1 - skill) / len(records)) + 1e-9
    assert values[0] == 0
    assert values[2] == 1
    metrics = result.metrics
    assert {name for name in metrics if name.count("/") == 1} == {"accuracy/perception", "accuracy/reasoning"}
    assert 0.25 < metrics["accuracy"].chance < 0.5
    assert task.score(records).to_json() == result.to_json()


def test_a_reply_that_names_no_option_is_wrong_and_counted(world: Any) -> None:
    class Silent:
        name = "silent"

        def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
            return ["I would rather not say"] * len(images)

    task = AutoBench(draws=20)
    metrics = task.score(task.predict(Silent(), world)).metrics
    assert (metrics["accuracy"].value, metrics["unread"].value, metrics["accuracy/blind"].value) == (0, 1, 0)


class Judge:
    """Rates 10 where the answer begins with the reference, and prefers such an answer; the first of two where neither or both do."""

    name = "judge"

    def __init__(self, biased: bool = False) -> None:
        self.biased = biased

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        return [self._said(prompt[0].text) for prompt in prompts if isinstance(prompt[0], TextPart)]

    def _said(self, text: str) -> str:
        lines = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        if "Answer A" not in lines:
            return "Rating: 10" if lines["Answer"].startswith(lines["Reference"]) else "Rating: 0"
        good = [lines[name].startswith(lines["Reference"]) for name in ("Answer A", "Answer B")]
        if self.biased or good[0] == good[1]:
            return "Better: A" if self.biased else "Better: tie"
        return "Better: A" if good[0] else "Better: B"


def test_open_questions_are_judged_and_agreement_said(world: Any) -> None:
    plain = AutoBench(form="open", blind=False, draws=20)
    wordy = Knower(plain, world, 0.7, suffix=" I am quite sure")
    exact = plain.score(plain.predict(wordy, world)).metrics
    assert exact["accuracy"].value == 0, "equality does not see a right answer in more words"
    assert "kappa" not in exact
    task = AutoBench(form="open", by="model", blind=False, draws=20)
    records = task.predict(wordy, world, judge=Judge())
    found = task.score(records).metrics
    assert found["accuracy"].value == pytest.approx(0.7, abs=0.12)
    assert found["kappa"].value == 0
    assert found["agreement"].value == pytest.approx(1 - found["accuracy"].value)
    terse = task.score(task.predict(Knower(plain, world, 0.7), world, judge=Judge())).metrics
    assert terse["kappa"].value == terse["agreement"].value == 1


def test_a_rival_is_compared_in_both_orders(world: Any) -> None:
    task = AutoBench(form="open", by="exact", blind=False, draws=20)
    strong, weak = Knower(task, world, 1.0), Knower(task, world, 0.0)
    metrics = task.score(task.predict(strong, world, judge=Judge(), rival=weak)).metrics
    assert (metrics["wins"].value, metrics["consistent"].value, metrics["took_first"].value) == (1, 1, 0.5)
    biased = task.score(task.predict(strong, world, judge=Judge(biased=True), rival=weak)).metrics
    assert (biased["wins"].value, biased["consistent"].value, biased["took_first"].value) == (0.5, 0, 1)
    with pytest.raises(ConfigError, match="a rival's answers are compared by a judge that writes"):
        task.predict(strong, world, rival=weak)


def test_questions_of_a_file(world: Any, tmp_path: Path) -> None:
    row = {"uid": world[0].uid, "ability": "value", "sub_ability": "privacy", "question": "Whose is it?", "answer": "nobody's"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"uid": "elsewhere"}))
    task = AutoBench(triplets=tmp_path / "t.jsonl", blind=False, draws=20)
    result = task.score(task.predict(Knower(task, world, 1.0), world))
    privacy = result.metrics["accuracy/value/privacy"]
    assert (privacy.value, privacy.items) == (1.0, 1)
    assert result.notes["questions_about_other_pictures"] == 1
    (tmp_path / "t.jsonl").write_text(json.dumps(row | {"uid": "elsewhere"}))
    with pytest.raises(DataError, match="there is no question about these pictures"):
        task.predict(Knower(AutoBench(), world, 1.0), world)
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="has no options"):
        AutoBench(triplets=tmp_path / "t.jsonl", form="closed").predict(Knower(AutoBench(), world, 1.0), world)
