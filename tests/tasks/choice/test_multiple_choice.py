"""Options: how a reply is read, what rotations tell of a biased model, and planted models with known scores."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from diptych.core.contracts import Reply
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.media import MediaItem
from diptych.core.prompt import ImagePart, TextPart
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.data.text.question_answering.questions import questions_of
from diptych.tasks._scoring.answers.choices import entropy, normalised_entropy, rotations, shuffles, with_options
from diptych.tasks.choice.items import items_of
from diptych.tasks.choice.multiple_choice import MultipleChoice
from diptych.worlds.scenes.questions import questions

OPTIONS = ["red", "dark red", "a ring", "two"]


def test_orders_and_their_entropy() -> None:
    assert rotations(3, 2) == [[0, 1, 2], [1, 2, 0]]
    assert len(rotations(2, 9)) == 2
    drawn = shuffles(4, 24, 0, "q")
    assert len(set(map(tuple, drawn))) == 24
    assert shuffles(4, 3, 0, "q") == drawn[:3]
    assert shuffles(4, 3, 1, "q") != drawn[:3]
    assert len(shuffles(2, 9, 0, "q")) == 2
    assert entropy(["a"] * 3) == 0
    assert entropy(["a", "a", "b"], base=2) == pytest.approx(stats.entropy([2, 1], base=2)) == pytest.approx(0.918, abs=1e-3)
    assert entropy(["a", "b", "c"], base=2) == pytest.approx(1.585, abs=1e-3)
    assert entropy(["a", "b", "c"]) == pytest.approx(1.0986, abs=1e-4)
    assert entropy(["a", "b", "c"], corrected=True) == pytest.approx(math.log(3) + 2 / 6)
    assert normalised_entropy(["a", "b", "c", "d"], 4) == pytest.approx(1)
    assert normalised_entropy(["a", "a", "b", "b"], 4) == pytest.approx(0.5)
    assert normalised_entropy(["a", "b", ""], 2) == pytest.approx(1), "an unread reply is a choice too"
    assert normalised_entropy(["a"], 4) == 0


def pool(choices: bool = True) -> Pool:
    """The level of a picture says which option is right."""
    samples = []
    for row, right in enumerate(itertools.islice(itertools.cycle(OPTIONS), 16)):
        one: dict[str, Any] = {"question": "what is it ?", "answer": right, "kind": f"k{row % 2 if choices else 0}"}
        if choices:
            one["choices"] = OPTIONS
        pixels = np.full((8, 8, 3), OPTIONS.index(right), np.uint8)
        pixels[:, :, 2] = row
        samples.append(Sample(f"u{row:02d}", ArrayImage(pixels, f"u{row}"), extras={"questions": [one]}))
    return Pool.from_samples(samples, name="four")


class Model:
    """Replies with the letter of what it sees, or as `says` has it; ranks likewise."""

    name = "model"

    def __init__(self, says: Any) -> None:
        self.says, self.asked = says, []

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        self.asked += prompts
        return [self.says(int(decode(image)[0, 0, 0]), prompt) for image, prompt in zip(images, prompts, strict=True)]

    def answer_nll(self, images: Any, prompts: Any, candidates: Any) -> list[Any]:
        said = self.generate(images, prompts)
        return [np.array([[0.0 if c == one else 5.0, 1.0] for c in known]) for one, known in zip(said, candidates, strict=True)]


def letter_of(option: str, prompt: str) -> str:
    found = re.search(rf"^([A-Z])\. {re.escape(option)}$", prompt, re.MULTILINE)
    return found[1] if found else ""


def sees(level: int, prompt: str) -> str:
    return letter_of(OPTIONS[level], prompt) if level < 4 else "no idea"


@pytest.mark.parametrize("how", ["write", "letter"])
def test_one_that_sees_and_one_that_always_says_a(how: Any) -> None:
    task = MultipleChoice(how=how, draws=50)
    seeing = task.score(task.predict(Model(sees), pool())).metrics
    assert seeing["accuracy"].value == seeing["circular"].value == seeing["majority"].value == seeing["accuracy/k1"].value == 1
    assert seeing["entropy"].value == seeing["unread"].value == 0
    biased = task.score(task.predict(Model(lambda level, prompt: "A"), pool())).metrics
    assert biased["accuracy"].value == 0.25 == biased["accuracy"].chance
    assert biased["circular"].value == 0
    assert biased["circular"].chance == pytest.approx(4**-4)
    assert biased["entropy"].value == pytest.approx(1)
    assert seeing["position_bias"].value == seeing["recall_spread"].value == 0
    assert biased["position_bias"].value == pytest.approx(0.75)
    assert biased["recall_spread"].value == pytest.approx(np.std([1, 0, 0, 0]))
    if how == "write":
        assert seeing["accuracy/blind"].value == 0, "grey is nothing that it knows"


@pytest.mark.parametrize("how", ["mean", "sum"])
def test_the_likeliest_text_is_asked_for_once_and_without_options(how: Any) -> None:
    task, model = MultipleChoice(how=how, blind=False, draws=20), Model(lambda level, prompt: OPTIONS[level])
    records = task.predict(model, pool())
    assert model.asked == ["what is it ?"] * 16
    assert task.score(records).value == 1
    assert "position_bias" not in task.score(records).metrics
    assert task.item_values(records, "accuracy").mean() == 1  # type: ignore[union-attr]
    assert task.item_values(records, "circular") is None


def test_wrong_options_come_from_the_answers_of_the_kind() -> None:
    first, again = (items_of(pool(choices=False), options=3, seed=0) for _ in range(2))
    assert [one.options for one in first] == [one.options for one in again]
    for one in first:
        assert one.answer in one.options
        assert len(set(one.options)) == 3
        assert set(one.options) <= set(OPTIONS)
    assert {one.options.index(str(one.answer)) for one in first} == {0, 1, 2}, "the right one stands anywhere"
    other = items_of(pool(choices=False), options=3, seed=1)
    assert [one.options for one in other] != [one.options for one in first]


def test_the_world_of_questions_can_be_asked_with_options() -> None:
    task = MultipleChoice(blind=False, draws=20)
    result = task.score(task.predict(Model(lambda level, prompt: "B."), questions(6)))
    assert result.metrics["accuracy/there"].chance == 0.5
    assert result.metrics["unread"].value == 0


def test_what_is_shown() -> None:
    assert with_options("what ?", ["a", "b"], "Say it.") == "what ?\nA. a\nB. b\nSay it."
    with pytest.raises(DataError, match="27 options"):
        with_options("what ?", ["x"] * 27, "")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"choices": "red"}, "two texts or more"),
        ({"choices": ["red"]}, "two texts or more"),
        ({"choices": ["red", "red"]}, "has a choice twice"),
        ({"choices": ["blue", "green"]}, "has not its answer 'red'"),
    ],
)
def test_bad_choices_name_sample_and_question(extra: dict[str, Any], said: str) -> None:
    sample = Sample("u", None, extras={"questions": [{"question": "what ?", "answer": "red", **extra}]})
    with pytest.raises(DataError, match=rf"sample 'u', question 0.*{said}"):
        questions_of(sample)


def test_bad_input_is_one_line() -> None:
    alone = Sample(
        "u", ArrayImage(np.zeros((8, 8, 3), np.uint8)), extras={"questions": [{"question": "what ?", "answer": "red"}]}
    )
    with pytest.raises(DataError, match="no wrong answer to offer"):
        MultipleChoice().predict(Model(sees), Pool.from_samples([alone]))
    with pytest.raises(DataError, match="has no question"):
        MultipleChoice().predict(Model(sees), Pool.from_samples([Sample("a", None)]))
    for options in ({"how": "x"}, {"options": 1}, {"orders": 0}):
        with pytest.raises(ConfigError, match="expected"):
            MultipleChoice(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="need an option that is right"):
        MultipleChoice(unanswerable=True)
    with pytest.raises(ConfigError, match="expected both, or neither"):
        MultipleChoice(shots=1)
    with pytest.raises(UnknownName, match="did you mean 'ii_bench'"):
        MultipleChoice(compat="iibench")
    with pytest.raises(DataError, match=r"has no hint 'domain' \(expected one of: none\)"):
        MultipleChoice(hint="domain").predict(Model(sees), pool())


# ---------------------------------------------------------------- questions without an answer, variants, hints, examples

NONE = "None of the above"


def asking(**options: Any) -> MultipleChoice:
    return MultipleChoice(**{"blind": False, "draws": 50, **options})


def test_questions_without_their_answer() -> None:
    task = asking(none_option=NONE, unanswerable=True, order="shuffle", orders=3)

    def honest(level: int, prompt: str) -> str:
        return letter_of(OPTIONS[level], prompt) or letter_of(NONE, prompt)

    records = task.predict(Model(honest), pool())
    assert len(records) == 16 * 2 * 3
    for row in records.to_pylist():
        assert sorted(row["order"]) == list(range(len(row["options"])))
        assert len(row["options"]) == (5 if row["answerable"] else 4)
        assert row["options"][-1] == NONE
        assert (row["answer"] == NONE) is not row["answerable"]
    assert len({tuple(row["order"]) for row in records.to_pylist()}) > 20, "orders differ between questions"
    good = task.score(records)
    assert good.metrics["accuracy"].value == good.metrics["rejection"].value == good.metrics["answerable"].value == 1
    assert good.metrics["false_rejection"].value == good.metrics["entropy"].value == 0
    assert good.metrics["abstention"].value == 0.5 == good.notes["truly_none"]
    assert good.n_groups == 16
    never = task.score(task.predict(Model(lambda level, prompt: letter_of(OPTIONS[0], prompt) or "B"), pool()))
    assert never.metrics["false_rejection"].value == 0
    always = task.score(task.predict(Model(lambda level, prompt: letter_of(NONE, prompt)), pool()))
    assert always.metrics["abstention"].value == always.metrics["rejection"].value == always.metrics["false_rejection"].value == 1
    assert always.metrics["entropy"].value == 0
    assert always.metrics["accuracy"].value == 0.5


def several(*asked: dict[str, Any], pictures: int = 1) -> Pool:
    shades = [ArrayImage(np.full((4, 4, 3), 40 * n, np.uint8), f"p{n}") for n in range(pictures)]
    media = {"images": MediaItem("images", tuple(shades))} if pictures > 1 else {}
    image = None if pictures > 1 else shades[0]
    return Pool.from_samples([Sample("u", image, media=media, extras={"questions": list(asked)})], name="several")


def test_variants_that_the_data_bring_are_one_question() -> None:
    asked = [
        {"question": "which ?", "answer": "a", "choices": order, "same_as": "q1", "id": f"q1-{n}"}
        for n, order in enumerate((["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]))
    ]
    task = asking(order="given")
    result = task.score(task.predict(Model(lambda level, prompt: "A"), several(*asked)))
    assert result.metrics["entropy_bits"].value == pytest.approx(math.log2(3))
    assert result.metrics["accuracy"].value == pytest.approx(1 / 3)
    assert (result.notes["questions"], result.n_items, result.n_groups) == (1, 3, 1)


def test_none_in_the_data_is_recognised() -> None:
    asked = [
        {"question": "which ?", "answer": NONE, "choices": ["b", NONE]},
        {"question": "who ?", "answer": "b", "choices": ["b", NONE]},
    ]
    task = asking(order="given", none_option=NONE, unanswerable=True)
    records = task.predict(Model(lambda level, prompt: "B"), several(*asked))
    assert records.column("answerable").to_pylist() == [False, True, False], "no second one without an answer of what has none"
    assert records.column("options").to_pylist()[-1] == [NONE]


def test_pictures_stand_where_the_texts_mean_them_in_every_order() -> None:
    asked = {"question": "Which is like <image>?", "answer": "this: <image>", "choices": ["that: <image>!", "this: <image>"]}
    model = Model(lambda level, prompt: "A")
    task = asking()
    records = task.predict(model, several(asked, pictures=3))
    first, turned = model.asked
    assert [part.text if isinstance(part, TextPart) else part.source.name if part.source else "p0" for part in turned] == [
        "Which is like ", "p0", "?\nA. this: ", "p2", "\nB. that: ", "p1",
        "!\nAnswer with the option's letter from the given choices directly.",
    ]  # fmt: skip
    assert first[1] == ImagePart()
    assert task.score(records).metrics["accuracy"].value == 0.5
    with pytest.raises(DataError, match="has 3 marks <image> and 2 pictures"):
        task.predict(model, several(asked, pictures=2))
    plain = {"question": "Which is odd?", "answer": "1", "choices": ["1", "2"]}
    task.predict(model, several(plain, pictures=2))
    assert [type(part) for part in model.asked[-1]] == [ImagePart, ImagePart, TextPart]


def test_hints_and_facets() -> None:
    asked = [
        {
            "question": f"q{n} ?",
            "answer": "a",
            "choices": ["a", "b"],
            "hints": {"rhetoric": ["Metaphor", "Irony"]},
            "facets": {"domain": d},
        }
        for n, d in enumerate(("Life", "Art", "Life"))
    ]
    told, plain = Model(lambda level, prompt: "A" if "q2" not in prompt else "B"), Model(lambda level, prompt: "A")
    task = asking(order="given", hint="rhetoric")
    result = task.score(task.predict(told, several(*asked)))
    asking(order="given").predict(plain, several(*asked))
    assert [prompt.removeprefix("Key words: Metaphor,Irony\n") for prompt in told.asked] == plain.asked, "nothing else changes"
    assert told.asked[0].startswith("Key words: Metaphor,Irony\nq0 ?\nA. a")
    assert result.metrics["accuracy/domain=Life"].value == 0.5
    assert result.metrics["accuracy/domain=Art"].value == 1


def test_examples_stand_before_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    example = Sample("e", ArrayImage(np.full((4, 4, 3), 9, np.uint8), "example"), extras={"questions": [
        {"question": "before ?", "answer": "y", "choices": ["x", "y"]}]})  # fmt: skip
    monkeypatch.setattr("diptych.worlds.address.open_data", lambda address: Pool.from_samples([example], name=address))
    model = Model(lambda level, prompt: "A")
    asking(shots=1, examples="quiz", order="given").predict(
        model, several({"question": "now ?", "answer": "a", "choices": ["a", "b"]})
    )
    (prompt,) = model.asked
    assert [part.source.name if isinstance(part, ImagePart) and part.source else part for part in prompt] == [
        "example",
        TextPart("before ?\nA. x\nB. y\nAnswer: B\n\n"),
        ImagePart(),
        TextPart("now ?\nA. a\nB. b\nAnswer with the option's letter from the given choices directly."),
    ]
    with pytest.raises(DataError, match="there are 1 questions with answers"):
        asking(shots=2, examples="quiz").predict(model, pool())


def test_secret_answers_are_asked_and_not_scored() -> None:
    asked = {"question": "what ?", "answer": None, "choices": ["a", "b"], "id": "test-1"}
    task = asking(order="given")
    result = task.score(task.predict(Model(lambda level, prompt: "A"), several(asked)))
    assert math.isnan(result.value)
    assert result.metrics["unread"].value == 0


class Refusing(Model):
    def replies(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[Reply]:
        texts = self.generate(images, prompts)
        return [Reply(text) if text != "no" else Reply("", fault="refused: HTTP 400") for text in texts]


def test_a_refused_question_is_failed_and_a_strange_reply_unread() -> None:
    answers = iter(["A", "no", "what?", "A"] * 4)
    task = asking(order="given")
    result = task.score(task.predict(Refusing(lambda level, prompt: next(answers)), pool()))
    assert (result.metrics["failed"].value, result.metrics["unread"].value) == (0.25, 0.25)
    assert result.metrics["accuracy"].value == 1 / 4 * 1


def test_a_killed_run_goes_on_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path))

    class Dying(Model):
        fingerprint = "f1"
        left = 40

        def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
            self.left -= len(prompts)
            if self.left < 0:
                raise KeyboardInterrupt
            return super().generate(images, prompts, max_tokens=max_tokens)

    task = asking()  # 64 questions
    with pytest.raises(KeyboardInterrupt):
        task.predict(Dying(sees), pool())
    again = Dying(sees)
    assert task.score(task.predict(again, pool())).value == 1
    assert len(again.asked) == 32
    anew = Dying(sees)
    anew.left = 100
    task.predict(anew, pool())
    assert len(anew.asked) == 64, "a finished run is asked anew"
    with pytest.raises(KeyboardInterrupt):
        task.predict(Dying(sees), pool())
    other = Dying(sees)
    other.fingerprint, other.left = "f2", 100
    task.predict(other, pool())
    assert len(other.asked) == 64, "another model answers for itself"
    fresh = Dying(sees)
    fresh.left = 100
    asking(keep=False).predict(fresh, pool())
    assert len(fresh.asked) == 64


def test_numbers_by_every_extractor_stand_beside_ours() -> None:
    task = asking(order="given")
    records = task.predict(Model(lambda level, prompt: f"({sees(level, prompt)}) because (D) and (D) fail"), pool())
    assert task.score(records).notes["accuracy_by_extractor"]["ii_bench"] == 0.25
    assert asking(order="given", compat="ii_bench").score(records).value == 0.25
    assert asking(order="given", compat="muirbench").score(records).metrics["unread"].value == 1
