"""ProVision: every answer against an oracle that sees the drawing alone, bounded retries, balance, files, and what is refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.scene_oracle import JUDGES, confirm, drawn_scene

from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.media import ArraySource, MediaItem
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation
from diptych.curate.engine.pool import curate
from diptych.curate.operators.provision import DIALOGUES, PAGE, REPORT, ProVision
from diptych.curate.programs import SEVERAL, SINGLE
from diptych.curate.programs.balance import chosen_questions, count_metadata
from diptych.curate.programs.graph import ImageGraph
from diptych.curate.programs.graph_index import GraphWords, SceneGraphIndex
from diptych.curate.programs.questions import ProgramQuestion, Settings
from diptych.curate.programs.several import questions_about_several
from diptych.data.dataset import Pool
from diptych.data.read import read
from diptych.data.text.question_answering.questions import questions_of
from diptych.worlds.scenes.world import scenes


def world(n: int, seed: int = 5) -> Any:
    return scenes(n, seed=seed, max_objects=5, depth=True, lengths=("short",), paraphrases=0, negatives=False).remembering()


def dialogues(operator: ProVision, data: Any) -> list[dict[str, Any]]:
    file = operator(data).files[DIALOGUES]
    assert isinstance(file, Path)
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return rows


def judged(rows: list[dict[str, Any]], data: Any) -> tuple[Counter[str], list[str]]:
    """Questions by program, and for each that the oracle does not confirm why."""
    scene = {uid: drawn_scene(data.world, uid) for uid in data.uids}
    asked, wrong = Counter[str](), []
    for row in rows:
        images = row["image"] if isinstance(row["image"], list) else [row["image"]]
        human, gpt = (turn["value"] for turn in row["conversations"])
        assert human.count("<image>") == len(images)
        text = row.get("question") or re.sub(r"\s*<image>\s*", "", human)
        reason = confirm(
            row["generator"], text, row.get("answer", gpt), row.get("options", ()), [scene[Path(one).stem] for one in images]
        )
        asked[row["generator"]] += 1
        wrong += [f"{row['generator']}: {text} {gpt}: {reason}"] if reason else []
    return asked, wrong


@pytest.mark.parametrize("choices", [0.0, 1.0])
def test_every_answer_is_right_and_every_other_option_wrong(choices: float) -> None:
    data = world(25, seed=5 + int(choices))
    rows = dialogues(ProVision(choices=choices, several=8, shown=0, images=2 + int(choices)), data)
    asked, wrong = judged(rows, data)
    assert not wrong, wrong[:3]
    assert set(JUDGES) == set(SINGLE) | set(SEVERAL)
    hard = {"compare_relation", "has_most_object", "has_least_object"} if choices else set()
    assert set(asked) >= set(JUDGES) - hard, "of 25 scenes three hardly ever fit"


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_answer_about_2000_scenes_is_right() -> None:
    data = world(2000, seed=17)
    for seed, choices in ((0, 0.0), (1, 1.0)):
        asked, wrong = judged(dialogues(ProVision(choices=choices, several=100, shown=0, seed=seed), data), data)
        assert not wrong, wrong[:3]
        assert asked.total() > 30_000


def test_the_oracle_refutes_what_the_released_code_does() -> None:
    data = world(40)
    points = ("closer_point", "farther_point")
    rows = dialogues(ProVision(programs=points, habits=("inverted_points",), shown=0), data)
    assert len(judged(rows, data)[1]) == len(rows) > 40
    rows = dialogues(ProVision(programs=points, habits=("inverted_points", "first_points"), shown=0), data)
    assert len(rows) == 80
    assert len(judged(rows, data)[1]) > 40


def test_questions_with_two_answers_are_asked_by_habit_alone() -> None:
    red, large = ("red",), ("red", "large")
    graph = ImageGraph("x", 64, 64, ("cup", "cup"), ((0, 0, 8, 8), (9, 9, 20, 20)), (red, large), ())
    strict, kept = Settings(numbers="digits"), Settings(numbers="digits", habits=("ambiguous",))
    ask = SINGLE["exists_attribute"].ask
    assert [question.metadata["attribute"] for question in ask(graph, strict, keyed_rng(0))] == [("large", "red")]
    assert len(ask(graph, kept, keyed_rng(0))) == 2
    labels, inner = ("cup", "cup", "dog"), (1.0, 1.0, 3.0, 3.0)
    nested = ImageGraph("x", 64, 64, labels, ((0, 0, 8, 8), inner, (20, 20, 30, 30)), ((), (), ()), ())
    assert nested.without_containers == [1, 2]
    spread = replace(nested, labels=("dog", "cup", "dog"), memory={})
    three = replace(nested, labels=("cup", "dog", "dog"), boxes=((0, 0, 8, 8), inner, (20, 20, 30, 30)), memory={})
    assert SINGLE["least_object"].ask(spread, strict, keyed_rng(0)) == []
    assert [question.choice for question in SINGLE["least_object"].ask(three, kept, keyed_rng(0))] == []


def test_attempts_end_where_nothing_fits() -> None:
    """Three images that all look alike: the released loops would not end."""
    alike = [GraphWords(str(n), ("cup", "table"), (("red",), ()), ((0, "on", 1),)) for n in range(3)]
    counts = {
        name: len(questions_about_several(SEVERAL[name], SceneGraphIndex(alike), Settings(), keyed_rng(name), images=3, most=4))
        for name in SEVERAL
    }
    assert {name for name, count in counts.items() if count} == {"count_object", "count_attribute_object"}
    flat = ImageGraph("x", 1, 1, (), (), (), (), None, np.zeros((1, 1), np.uint8))
    assert SINGLE["closer_point"].ask(flat, Settings(), keyed_rng(0)) == []
    kept = Settings(habits=("first_points",))
    assert SINGLE["closer_point"].ask(flat, kept, keyed_rng(0)) == []


def boxes(labels: str, uid: str = "a", *, depth: Any = None, relations: tuple[Relation, ...] = ()) -> Sample:
    regions = tuple(Region((4.0 * n, 0, 4.0 * n + 3, 8), label, ("red",)) for n, label in enumerate(labels.split()))
    media = {"depth": MediaItem("raster", (ArraySource(depth),))} if depth is not None else {}
    return Sample(uid, ArrayImage(np.zeros((16, 32, 3), np.uint8), uid), regions=regions, relations=relations, media=media)


def test_what_is_asked_about_often_is_drawn_rarely() -> None:
    """Two of three questions are drawn without replacement; how often the first of two draws is which follows the cubed counts."""
    questions = [ProgramQuestion("x", {}, (name,), name, (), {"object": (name,)}) for name in ("cup", "hat", "dog")]
    counts = count_metadata([{"object": ("cup",)}] * 4 + [{"object": ("hat",)}] * 2 + [{"object": ("dog",)}])
    drawn = [chosen_questions(questions, 1, counts, keyed_rng(seed))[0].choice for seed in range(3000)]
    shares = [drawn.count(name) / 3000 for name in ("cup", "hat", "dog")]
    assert shares == pytest.approx([1 / 73, 8 / 73, 64 / 73], abs=0.015)
    even = [chosen_questions(questions, 1, None, keyed_rng(seed))[0].choice for seed in range(3000)]
    assert even.count("cup") / 3000 == pytest.approx(1 / 3, abs=0.03)
    assert len(chosen_questions(questions, 2, counts, keyed_rng(0))) == 2
    assert chosen_questions(questions, 0, counts, keyed_rng(0)) == questions


def test_counts_of_metadata_decide_what_is_asked() -> None:
    """With balance questions are about more different relations."""
    data = world(80, seed=9)
    alike = []
    for rebalance in (False, True):
        rows = dialogues(ProVision(programs=("head_relation",), rebalance=rebalance, shown=0), data)
        relations = Counter(row["metadata"]["relation"][0] for row in rows)
        alike.append(sum((count / len(rows)) ** 2 for count in relations.values()))
    assert alike[1] < 0.97 * alike[0], alike


def test_files_are_read_again(tmp_path: Path) -> None:
    pool = world(12).to_pool()
    done = curate(pool, [ProVision(several=3, choices=0.5, shown=6)], tmp_path / "out")
    report = json.loads((tmp_path / "out" / REPORT).read_text(encoding="utf-8"))
    page = (tmp_path / "out" / PAGE).read_text(encoding="utf-8")
    assert page.count("<h3>") == 6
    assert report["images"] == len(pool)
    again = read(tmp_path / "out" / DIALOGUES)
    written = sum(one["written"] for one in report["programs"].values())
    assert len(again) == written
    several = [sample for sample in again if "images" in sample.media]
    assert len(several) == sum(report["programs"][name]["written"] for name in SEVERAL)
    assert {len(sample.media["images"].decode()) for sample in several} == {2}
    kinds = Counter(question.kind for sample in again for question in questions_of(sample))
    assert kinds == Counter({name: one["written"] for name, one in report["programs"].items() if one["written"]})
    column = done.columns["questions"]
    asked = dict(zip(column["uid"].to_pylist(), column["questions"].to_pylist(), strict=True))
    assert sum(map(len, asked.values())) == written - len(several)
    first = replace(pool[0], extras={"questions": asked[pool[0].uid]})
    assert all(question.answer in question.choices for question in questions_of(first) if question.choices)


def test_the_same_questions_whatever_the_order_of_the_rows() -> None:
    data = world(6)
    rows = dialogues(ProVision(several=2, shown=0), data)
    assert rows == dialogues(ProVision(several=2, shown=0), data.select(list(range(len(data)))[::-1]))


def test_bad_input_is_refused_in_one_line() -> None:
    plain = Pool.from_samples([boxes("cup dog", "a"), boxes("cup cup", "b")])
    with pytest.raises(DataError, match=r"no image of .* has depth, which the program closer_point asks about"):
        ProVision(programs=("closer_point",))(plain)
    with pytest.raises(DataError, match=r"depth of \[3, 3\] pixels") as caught:
        ProVision(programs=("closer_point",))(Pool.from_samples([boxes("cup", depth=np.zeros((3, 3), np.uint8))]))
    assert "\n" not in str(caught.value)
    notes = ProVision(several=1)(plain).notes
    assert any("no image has depth: nothing is asked by closer_point, farther_point" in note for note in notes)
    with pytest.raises(UnknownName, match="closer_pint"):
        ProVision(programs=("closer_pint",))
    with pytest.raises(ConfigError, match="options is 1"):
        ProVision(options=1)
    with pytest.raises(DataError, match="no program can generate a question"):
        ProVision(programs=("all",))(Pool.from_samples([Sample("x", boxes("cup").image)]))


def test_dialogues_that_are_none_are_named(tmp_path: Path) -> None:
    row = {"id": 0, "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]}
    file = tmp_path / "d.json"
    file.write_text(json.dumps([row]), encoding="utf-8")
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="row 0, field 'conversations'"):
        read(file)
