r"""Q-Spatial: how lengths are read, ours and as released; prompts as released; successes by hand."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

import diptych as dp
from diptych.core.errors import ConfigError, DataError
from diptych.core.prompt import Dialogue
from diptych.tasks._scoring.odds import odds_ratio
from diptych.tasks.choice.lengths import released_length, strict
from diptych.tasks.choice.q_spatial import QSpatial, uses_reference
from diptych.tasks.choice.spatial_prompts import SYSTEM, prompt_of

HERE = Path(__file__).parent
LENGTHS = json.loads((HERE / "released_lengths.json").read_text(encoding="utf-8"))
r"""Replies with the length and the success (delta 2, truth 1 m) of the evaluator in the notebook of Q-Spatial-Bench-code
ebe8137; null where it raises."""
PROMPTS = json.loads((HERE / "released_spatial_prompts.json").read_text(encoding="utf-8"))
STRICT: dict[str, float | None] = {
    r"\scalar{1,200} \distance_unit{mm}": 120,
    r"\scalar{.5} \distance_unit{m}": 50,
    r"\scalar{1e2} \distance_unit{cm}": 100,
    r"\scalar{2-3} \distance_unit{feet}": 76.2,
    r"\scalar{2 to 3} \distance_unit{feet}": 76.2,
    r"\scalar{2–3} \distance_unit{feet}": 76.2,
    r"\scalar{5 ft 4 in} \distance_unit{feet}": 162.56,
    r"\scalar{5 ft 4 in} \distance_unit{}": 162.56,
    r"\scalar{5'4} \distance_unit{ft}": None,
    r"\scalar{-2} \distance_unit{m}": None,
    r"\scalar{0} \distance_unit{m}": 0,
    r"\scalar{} \distance_unit{m}": None,
    r"\scalar{1/2} \distance_unit{m}": 50,
    r"\scalar{1 1/2} \distance_unit{m}": 150,
    r"\scalar{1/0} \distance_unit{m}": None,
    r"\scalar{1} \distance_unit{yards}": 91.44,
    r"\scalar{0.001} \distance_unit{km}": 100,
    r"\scalar{1} \distance_unit{ m }": 100,
    r"\scalar{1} \distance_unit{\text{meters}}": 100,
    r"\scalar{1} \distance_unit{meter(s)}": 100,
    r"\scalar{100 cm} \distance_unit{m}": 100,
    r"\scalar{1,5} \distance_unit{m}": None,
    r"\scalar{one} \distance_unit{m}": None,
    r"\scalar{1.2.3} \distance_unit{m}": None,
    r"\scalar{2} \distance_unit{wide}": None,
    r"\scalar{60 cm to 1 m} \distance_unit{m}": 80,
    r"\scalar{1.0-1.5 m} \distance_unit{}": 125,
    r"\scalar{~1} \distance_unit{m}": 100,
    r"\scalar{about 2} \distance_unit{m}": 200,
    r"\scalar{2,000,000} \distance_unit{mm}": 200_000,
    r"\scalar{9} \distance_unit{cm} no, \scalar{2} \distance_unit{feet}": 60.96,
    r"\scalar{3} only": None,
    r"\distance_unit{m}": None,
    "about 2 m": None,
    "": None,
    r"scalar{3} distance_unit{ft}.": 91.44,
    r"\scalar {2} \distance_unit {m}": 200,
    r"\scalar{1} \distance_unit{Meters}": 100,
    r"\scalar{39} \distance_unit{in}": 99.06,
    r"\scalar{10} \distance_unit{decimeters}": 100,
    r"\scalar{12 inches} \distance_unit{}": 30.48,
    r"\scalar{2 m, 30 cm} \distance_unit{m}": 230,
    r"\scalar{1 200} \distance_unit{mm}": None,
}


@pytest.mark.parametrize(("reply", "length"), list(STRICT.items()))
def test_what_is_meant_is_read(reply: str, length: float | None) -> None:
    assert strict(reply) == (None if length is None else pytest.approx(length))


def test_the_published_parser_reads_as_published(parity: Any) -> None:
    assert len(LENGTHS) >= 40
    pairs = []
    for row in LENGTHS:
        ours, theirs = released_length(row["reply"]), row["cm"]
        ours = -1.0 if ours is None else -2.0 if math.isnan(ours) else ours
        pairs.append((ours, {None: -1.0, "nan": -2.0}.get(theirs, theirs)))
        if theirs is not None:
            success = ours > 0 and max(ours / 100, 100 / ours) < 2
            pairs.append((float(success), float(row["success"])))
    parity(
        "q_spatial", f"lengths and successes of {len(LENGTHS)} replies", "QSpatialEvaluator of ebe8137", pairs, tolerance=1e-12
    )


def test_prompts_are_the_published_ones(parity: Any) -> None:
    ours = {
        "standard_prompt": "standard",
        "zero_shot_prompt": "zero_shot",
        "spatial_prompt_single": "single",
        "spatial_prompt_steps": "steps",
    }
    made = {name: prompt_of(mine, PROMPTS["question"], released=True) for name, mine in ours.items()} | {"system_prompt": SYSTEM}
    pairs = [
        (float(hashlib.sha256(made[name].encode()).hexdigest() == one["sha256"]), 1.0) for name, one in PROMPTS["prompts"].items()
    ]
    parity("q_spatial", "four prompts and that of the system", "prompt_templates of ebe8137, by Jinja", pairs, tolerance=0)
    assert "thinkg" in made["spatial_prompt_single"]
    assert "thinkg" not in prompt_of("single", "?", released=False)


class Says:
    name = "says"

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = texts, list[Any]()

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        self.asked = list(prompts)
        return [self.texts[row % len(self.texts)] for row in range(len(prompts))]


def written(folder: Path, *changes: Any) -> Path:
    Image.new("RGB", (4, 4)).save(folder / "p.png")
    row = {"question": "How wide?", "answer_value": 1, "answer_unit": "meter", "question_type": "width", "image_path": "p.png"}
    file = folder / "spatial.json"
    file.write_text(json.dumps([{**row, **change} for change in changes]))
    return file


def test_successes_by_hand(tmp_path: Path) -> None:
    data = dp.read(written(tmp_path, {}, {"question_type": "height"}, {"answer_value": 3.0, "answer_unit": "feet"}, {}, {}))
    replies = [
        r"A door is typically 2 m high. \scalar{1.2} \distance_unit{m}",
        r"\scalar{200} \distance_unit{cm}",  # a factor of 2 is none below 2
        r"\scalar{1} \distance_unit{yards}",
        r"a metre or so",
        r"\scalar{0} \distance_unit{m}",
    ]
    model, task = Says(*replies), QSpatial(draws=20)
    records = task.predict(model, data)
    result = task.score(records)
    assert result.value == pytest.approx(2 / 5)
    assert result.metrics["unread"].value == pytest.approx(1 / 5)
    assert result.metrics["success@3"].value == pytest.approx(3 / 5)
    assert result.metrics["success/height"].value == 0
    assert result.metrics["success/with_reference"].value == 1
    assert result.metrics["within"].value == pytest.approx(1.2)
    assert result.notes["success_by_parser"] == {"strict": pytest.approx(0.4), "released": pytest.approx(0.2)}
    assert QSpatial(compat="released", draws=20).score(records).value == pytest.approx(0.2)
    assert np.allclose(task.item_values(records, "success")[:, 0], [1, 0, 1, 0, 0])  # type: ignore[index]
    dialogue = model.asked[0]
    assert isinstance(dialogue, Dialogue)
    assert [turn.role for turn in dialogue.turns] == ["system", "user"]
    QSpatial(system_as="front", prompt="steps").predict(model, data)
    assert model.asked[0].startswith(f"{SYSTEM}\n\nQuestion: How wide?\n\n---")


def test_odds_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    present, kind = rng.random(400) < 0.4, rng.integers(0, 3, 400)
    success = rng.random(400) < 1 / (1 + np.exp(-(present * 1.0 + kind * 0.7 - 1)))
    x = np.stack([present, *(kind == k for k in range(3))], 1).astype(float)
    theirs = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, success)
    ratio, low, high = odds_ratio(success, present, [str(k) for k in kind])
    assert ratio == pytest.approx(math.exp(theirs.coef_[0, 0]), rel=1e-4)
    assert low < ratio < high
    assert all(math.isnan(one) for one in odds_ratio(present, present, ["a"] * 400)), "what separates has no finite ratio"


def test_references_are_found_in_rationales() -> None:
    with_one = [
        f"{start} The {thing} is {about} 80 cm {dimension}, so the gap is about the same."
        for start in ("Looking at the picture.", "Step by step:")
        for thing in ("chair seat", "door", "keyboard")
        for about, dimension in (("typically", "high"), ("usually about", "tall"), ("on average of a height of", ""))
    ]
    without = [
        f"{start} The {thing} seems to be {far} from the wall. I estimate {number} m."
        for start in ("Looking at the picture.", "Step by step:")
        for thing in ("chair", "average-looking door", "standard lamp")
        for far, number in (("close", 1), ("far", 3), ("not far", 2))
    ]
    found, false = uses_reference(with_one), uses_reference(without)
    assert sum(found) / len(found) == 1
    assert sum(found) / (sum(found) + sum(false)) >= 0.95


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer_value": 0}, r"row 1, field 'answer_value': is 0 \(expected a length above 0\)"),
        ({"answer_value": "2"}, r"row 1, field 'answer_value': is '2'"),
        ({"question": ""}, r"row 1, field 'question': is ''"),
        ({"image_path": "gone.png"}, r"row 1, field 'image_path': the picture 'gone.png' does not exist"),
    ],
)
def test_bad_rows_are_one_line(tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        dp.read(written(tmp_path, {}, change))


def test_bad_units_and_options_are_one_line(tmp_path: Path) -> None:
    data = dp.read(written(tmp_path, {"answer_unit": "furlongs"}))
    with pytest.raises(DataError, match=r"row 0, field 'unit': '1\.0 furlongs' is not a length"):
        QSpatial().predict(Says("x"), data)
    for options in ({"prompt": "x"}, {"delta": 1.0}, {"delta": math.nan}, {"compat": "repo"}, {"system_as": "x"}):
        with pytest.raises(ConfigError, match="expected"):
            QSpatial(**options)  # type: ignore[arg-type]
