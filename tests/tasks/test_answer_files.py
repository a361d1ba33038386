"""Published result files as records: each task scores the rows of a file as it scores a model that writes the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.data.text.question_answering.questions import FIELD
from diptych.tasks.answer_files import read_answers
from diptych.tasks.choice.multiple_choice import MultipleChoice
from diptych.tasks.generation.pope import POPE

PICTURES = [ArrayImage(np.full((4, 4, 3), level, np.uint8), f"COCO_val2014_{level:012}.jpg") for level in range(6)]
NAMES = [f"COCO_val2014_{level:012}" for level in range(6)]


def asked(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer, **more}


def quiz() -> Pool:
    """Pictures with two questions each, some of them in the same words."""
    samples = []
    for row, picture in enumerate(PICTURES):
        choices = ["red", "green", "blue"][: 2 + row % 2]
        questions = [
            asked("What colour is it?", choices[row % 2], choices=choices, id=f"q{2 * row}"),
            asked("What colour is it at the top?", choices[0], choices=choices, id=f"q{2 * row + 1}"),
        ]
        samples.append(Sample(NAMES[row], picture, extras={FIELD: questions}))
    return Pool.from_samples(samples, name="quiz")


def written(path: Path, rows: Any) -> Path:
    text = "\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows)
    path.write_text(text, encoding="utf-8")
    return path


def only(results: dict[str, Any]) -> Any:
    (result,) = results.values()
    return result


LETTERS = ["A", "(B)", "A", "B. green", "C", "none", "B", "A", "A", "A", "B", "C"]


class Writes:
    """A model that writes these, in turn."""

    name = "writes"

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        return [self.texts[row % len(self.texts)] for row in range(len(prompts))]


def test_a_choice_of_a_file_scores_as_that_of_a_model_in_any_order_and_form(tmp_path: Path) -> None:
    task = MultipleChoice(order="given", draws=20, blind=False)
    expected = dp.evaluate(Writes(LETTERS), task, quiz()).metrics
    assert 0 < expected["accuracy"].value < 1
    order = np.random.default_rng(0).permutation(12).tolist()
    flat = [{"question_id": f"q{n}", "answer": "gold", "prediction": LETTERS[n]} for n in order]
    nested = [
        {"id": NAMES[n], "questions": [{"id": f"q{k}", "response": LETTERS[k]} for k in (2 * n, 2 * n + 1)]} for n in range(6)
    ]
    words = ["What colour is it?", "What colour is it at the top?"]
    by_picture = [{"image": f"val2014/{NAMES[n // 2]}.jpg", "prompt": words[n % 2], "text": LETTERS[n]} for n in order]
    table = tmp_path / "answers.tsv"
    table.write_text("index\tprediction\n" + "".join(f"q{n}\t{LETTERS[n]}\n" for n in order))
    files = [
        written(tmp_path / "flat.json", flat),
        written(tmp_path / "nested.jsonl", nested),
        written(tmp_path / "pictures.jsonl", by_picture),
        written(tmp_path / "names.json", {f"q{n}": LETTERS[n] for n in order}),
        table,
    ]
    for file in files:
        result = only(dp.evaluate_answers(file, task, quiz(), out=tmp_path / "records"))
        assert result.metrics == expected, file.name
        assert result.notes["model"]["name"] == file.name
    assert (tmp_path / "records" / "multiple_choice-quiz.parquet").is_file()


def test_variants_of_a_question_are_taken_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [{"question_id": f"q{n}", "response": letter} for n in range(12) for letter in "ABC"[: 2 + n // 2 % 2]]
    task = MultipleChoice(order="rotate", orders=3, draws=20, blind=False)
    expected = dp.evaluate(Writes([row["response"] for row in rows]), task, quiz()).metrics
    result = only(dp.evaluate_answers(written(tmp_path / "orders.jsonl", rows), task, quiz()))
    assert result.metrics == expected
    with pytest.raises(DataError, match=r"18 of 30 questions of 'quiz' have no answer, such as .*order=given"):
        dp.evaluate_answers(
            written(tmp_path / "once.jsonl", rows[::3] and [{"question_id": f"q{n}", "reply": "A"} for n in range(12)]),
            task,
            quiz(),
        )


def test_captions_belong_to_their_pictures_by_number(tmp_path: Path) -> None:
    texts = [f"a picture of level {level} in grey" for level in range(6)]
    data = Pool.from_samples(
        [Sample(name, picture, (Text(text, "en"),)) for name, picture, text in zip(NAMES, PICTURES, texts, strict=True)],
        name="shown",
    )
    rows = [{"image_id": level, "caption": texts[level] if level % 2 else "a dog"} for level in reversed(range(6))]
    result = only(dp.evaluate_answers(written(tmp_path / "captions.json", rows), "captions", data, draws=20))
    assert result.metrics["exact"].value == 0.5
    assert not any(name.endswith("/blind") for name in result.metrics)


def test_the_same_question_in_several_settings_needs_one_row(tmp_path: Path) -> None:
    regions = [
        (Region((0, 0, 2, 2), "dog"), Region((1, 1, 3, 3), "cup")),
        (Region((0, 0, 2, 2), "cat"),),
        (Region((0, 0, 1, 1), "bus"),),
    ]
    data = Pool.from_samples([Sample(NAMES[n], PICTURES[n], regions=some) for n, some in enumerate(regions)], name="things")
    names = ("dog", "cup", "cat", "bus")
    rows = [
        {
            "image": f"{NAMES[n]}.jpg",
            "question": POPE().question(name),
            "answer": "yes" if name in {r.label for r in some} else "no",
        }
        for n, some in enumerate(regions)
        for name in names
    ]
    result = only(dp.evaluate_answers(written(tmp_path / "pope.jsonl", rows), POPE(draws=20), data))
    assert result.metrics["f1"].value == 1


def test_vqa_and_mmrel_read_files_too(tmp_path: Path) -> None:
    questions = [asked("Is it red?", "yes", kind="spatial", id="7"), asked("Is it red now?", "no", kind="action", id="8")]
    data = Pool.from_samples([Sample("a", PICTURES[0], extras={FIELD: questions})], name="two")
    rows = [{"question_id": 8, "answer": "No."}, {"question_id": 7, "answer": "no"}]
    file = written(tmp_path / "results.json", {"results": rows})
    assert only(dp.evaluate_answers(file, "mmrel", data, draws=20)).metrics["accuracy"].value == 0.5
    assert only(dp.evaluate_answers(file, "vqa", data, draws=20)).metrics["accuracy"].value == 0.5


def test_answers_that_are_no_words_are_failed_and_not_read(tmp_path: Path) -> None:
    rows = [{"question_id": f"q{n}", "response": {"error": "refused"} if n == 0 else LETTERS[n]} for n in range(12)]
    result = only(dp.evaluate_answers(written(tmp_path / "r.jsonl", rows), "multiple_choice", quiz(), order="given", draws=20))
    assert result.metrics["failed"].value == pytest.approx(1 / 12)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], r"answers\.json: contains no answer"),
        ([{"question_id": 3}], r"row 0, field 'answer': has the fields question_id \(expected prediction"),
        ([3], r"row 0: is 3"),
        ([{"question_id": "q0", "response": "A"}, {"question_id": "q1"}], r"row 1, field 'response'"),
        ([{"question_id": "other", "response": "A"}], r"12 of 12 questions of 'quiz' have no answer, such as"),
    ],
)
def test_faults_are_one_line(tmp_path: Path, rows: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        dp.evaluate_answers(written(tmp_path / "answers.json", rows), "multiple_choice", quiz(), order="given")
    assert "\n" not in str(caught.value)


def test_a_task_that_asks_for_vectors_says_so_and_columns_have_names(tmp_path: Path) -> None:
    file = written(tmp_path / "answers.json", [{"question_id": "q0", "said": "A"}])
    assert read_answers(file, column="said")[0].reply.text == "A"
    with pytest.raises(ConfigError, match="needs a model that is an Embedder"):
        dp.evaluate_answers(file, "retrieval", quiz(), column="said")
    pope = written(tmp_path / "pope.json", [{"text": "Is there a cup?", "answer": "no", "image": "1.jpg"}])
    (row,) = read_answers(pope)
    assert (row.reply.text, row.question) == ("no", "Is there a cup?")


def test_the_command_scores_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "p0.png")
    rows = [
        {"image": "p0.png", "question": "Which?", "options": ["left", "right"], "answer": "B", "idx": str(n)} for n in range(2)
    ]
    (tmp_path / "quiz.jsonl").write_text("\n".join(map(json.dumps, [{**row, "images": ["p0.png"]} for row in rows])))
    data = dp.read(tmp_path / "quiz.jsonl")
    ids = [data[row].extras[FIELD][0]["id"] for row in range(2)]
    file = written(tmp_path / "said.jsonl", [{"id": ids[0], "response": "B"}, {"id": ids[1], "response": "A"}])
    words = [
        "eval",
        "multiple_choice",
        "--answers",
        str(file),
        "--data",
        str(tmp_path / "quiz.jsonl"),
        "--order",
        "given",
        "--json",
    ]
    assert main(words) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"].values()
    assert result["metrics"]["accuracy"]["value"] == 0.5
