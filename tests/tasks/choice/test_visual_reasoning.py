"""Several pictures, reordered options, questions without an answer: from files of rows."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import diptych as dp
from diptych.core.errors import DataError
from diptych.tasks.choice.visual_reasoning import NONE, VisualReasoning

ROW = {
    "images": ["p0.png", "p1.png"],
    "question": "Which is <image>, and which <image>?",
    "options": ["left", "right"],
    "answer": "B",
}


def written(folder: Path, *rows: Any) -> Path:
    for name in ("p0", "p1"):
        Image.new("RGB", (4, 4)).save(folder / f"{name}.png")
    file = folder / "quiz.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


class Says:
    name = "says"

    def __init__(self, content: str) -> None:
        self.content = content

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        found = []
        for prompt in prompts:
            text = "".join(getattr(part, "text", "") for part in prompt)
            letter = re.search(rf"^([A-Z])\. {re.escape(self.content)}$", text, re.MULTILINE)
            found.append(letter[1] if letter else "A")
        return found


def test_every_question_in_three_orders_with_and_without_its_answer(tmp_path: Path) -> None:
    data = dp.read(written(tmp_path, *({**ROW, "idx": str(n), "task": f"t{n % 2}"} for n in range(4))))
    task = VisualReasoning(draws=20)
    records = task.predict(Says("right"), data)
    assert len(records) == 4 * (3 + 2), "two options of a question without its answer have two orders"
    assert set(records.column("pictures").to_pylist()) == {2}
    result = task.score(records)
    assert result.metrics["answerable"].value == 1
    assert result.metrics["rejection"].value == 0.5, "what always takes A finds it in one of two orders"
    assert result.metrics["accuracy/t0"].value == pytest.approx((3 + 1) / 5)
    none = task.score(task.predict(Says(NONE), data))
    assert none.metrics["rejection"].value == none.metrics["false_rejection"].value == 1
    assert none.metrics["entropy_bits"].value == 0


def test_variants_of_the_data_are_asked_as_they_are(tmp_path: Path) -> None:
    orders = (["a", "b", NONE], ["b", NONE, "a"], [NONE, "a", "b"])
    known = [{**ROW, "options": order, "answer": "a", "group_id": 1, "id": f"k{n}"} for n, order in enumerate(orders)]
    unknown = [{**ROW, "options": order, "answer": NONE, "group_id": 1, "id": f"n{n}"} for n, order in enumerate(orders)]
    task = VisualReasoning(draws=20)
    records = task.predict(Says("nothing"), dp.read(written(tmp_path, *known, *unknown)))
    assert len(records) == 6
    result = task.score(records)
    assert result.metrics["entropy_bits"].value == pytest.approx(math.log2(3))
    assert result.metrics["accuracy"].value == pytest.approx(1 / 3) == pytest.approx(result.metrics["rejection"].value)
    assert result.n_groups == 1
    assert result.notes["truly_none"] == 0.5


def test_a_question_asked_once_says_nothing_about_orders(tmp_path: Path) -> None:
    """One question in two orders, of which the first letter is taken, and one question in a single order."""
    twice = [{**ROW, "options": order, "answer": "a", "group_id": 1} for order in (["a", "b"], ["b", "a"])]
    rows = [{**row, "id": f"t{n}"} for n, row in enumerate(twice)] + [{**ROW, "options": ["c", "d"], "answer": "c", "id": "once"}]
    task = VisualReasoning(draws=20)
    records = task.predict(Says("nothing"), dp.read(written(tmp_path, *rows)))
    metrics = task.score(records).metrics
    assert len(records) == 3
    assert metrics["entropy_bits"].value == pytest.approx(1.0)
    assert metrics["entropy_nats"].value == pytest.approx(math.log(2))
    assert metrics["stable"].value == 0
    assert {metrics[name].items for name in ("entropy", "entropy_bits", "entropy_nats", "stable")} == {1}
    assert metrics["circular"].value == 0.5
    assert metrics["accuracy"].value == pytest.approx(2 / 3)


def test_a_counterpart_is_of_the_same_group(tmp_path: Path) -> None:
    rows = [{**ROW, "idx": "1", "counterpart_idx": "2"}, {**ROW, "idx": "2", "counterpart_idx": "1", "options": ["x", "y"]}]
    assert dp.read(written(tmp_path, *rows)).groups == ("1+2", "1+2")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"options": ["left", "left"]}, r"row 1, field 'options': the option 'left' is given twice"),
        (
            {"answer": "C"},
            r"row 1, field 'answer': the answer is 'C' \(expected a letter from A to B, or the text of an option\)",
        ),
        ({"images": ["p0.png", "gone.png"]}, r"row 1, field 'images': the picture 'gone.png' does not exist"),
        ({"images": []}, r"row 1, field 'images': is \[\] \(expected a list of pictures\)"),
        ({"question": " "}, r"row 1, field 'question': is ' ' \(expected words\)"),
        ({"options": ["left"]}, r"row 1, field 'options': are \['left'\]"),
        ({"idx": "0"}, r"row 1, field 'id': row 0 has the name '0' too"),
    ],
)
def test_bad_rows_are_one_line(tmp_path: Path, change: Any, said: str) -> None:
    file = written(tmp_path, {**ROW, "idx": "0"}, {**ROW, "idx": "1", **change})
    with pytest.raises(DataError, match=said) as caught:
        dp.read(file)
    assert "quiz.jsonl" in str(caught.value)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    file = written(tmp_path, ROW)
    file.write_text(file.read_text() + "\n{not json")
    with pytest.raises(DataError, match=r"quiz\.jsonl, row 1: is not valid JSON"):
        dp.read(file)
