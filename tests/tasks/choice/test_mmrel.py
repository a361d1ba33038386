"""MMRel: questions from its files and from scene graphs, balanced in every cell; scores against scikit-learn's."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from planted.relation_answerers import RelationAnswerer, one_way_round, placed, questioned
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

import diptych as dp
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.prompt import PromptLike
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation
from diptych.data.dataset import Pool
from diptych.data.text.question_answering.questions import FIELD
from diptych.data.text.question_answering.relation_questions import (
    RelationQuestionOptions,
    kind_of_relation,
    relation_questions,
    usual_relations,
)
from diptych.tasks.choice.mmrel import MMRel
from diptych.worlds.scenes.world import scenes

PICTURE = ArrayImage(np.full((4, 4, 3), 90, np.uint8), "plain")


class Scripted:
    """Says what it is told, in turn."""

    name = "scripted"

    def __init__(self, *answers: str) -> None:
        self.answers = answers

    def generate(self, images: Any, prompts: list[PromptLike], *, max_tokens: int = 64) -> list[str]:
        return [self.answers[row % len(self.answers)] for row in range(len(prompts))]


class Ranked:
    """Finds "no" likelier by the picture's first pixel."""

    name = "ranked"

    def answer_nll(self, images: Any, prompts: Any, candidates: Any) -> list[np.ndarray]:
        assert all(list(some) == ["yes", "no"] for some in candidates)
        return [np.array([[3.0, 1.0], [2.0, 1.0]])] * len(images)


def asking(*rows: dict[str, Any]) -> Pool:
    samples = [Sample(f"s{row}", PICTURE, extras={FIELD: [one]}) for row, one in enumerate(rows)]
    return Pool.from_samples(samples, name="asked")


def closed(answer: str, kind: str = "spatial", **facets: str) -> dict[str, Any]:
    return {"question": "Is the cup on the table?", "answer": answer, "kind": kind, "facets": facets}


def scored(task: MMRel, model: Any, data: Any, **roles: Any) -> Any:
    return task.score(task.predict(model, data, **roles))


# ---------------------------------------------------------------- scores


def test_scores_are_those_of_scikit_learn(parity: Any) -> None:
    rng = np.random.default_rng(0)
    domains, kinds = ("real", "painted"), ("spatial", "action", "comparative")
    rows = [
        closed(
            ("no", "yes")[int(rng.integers(2))],
            str(rng.choice(kinds)),
            domain=str(rng.choice(domains)),
            **({"part": "adversarial"} if rng.random() < 0.3 else {}),
        )
        for _ in range(1000)
    ]
    said = [str(one) for one in rng.choice(["yes", "Yes, it is.", "no", "No.", "perhaps"], 1000)]
    result = scored(MMRel(draws=20), Scripted(*said), asking(*rows))
    opposite = scored(MMRel(draws=20, unread="opposite"), Scripted(*said), asking(*rows))
    true_N = np.array([row["answer"] == "yes" for row in rows])
    yes_N = np.array([answer.lower().startswith("yes") for answer in said])
    wrong_N = np.array([answer == "perhaps" for answer in said])
    # what is neither is wrong, and no yes: for scikit-learn's accuracy it is the answer that is not right
    told_N = np.where(wrong_N, ~true_N, yes_N)
    pairs, counted = [], []
    both = [f"{d}/{k}" for d in domains for k in kinds]
    table = [f"{part}/{cell}" for part in ("adversarial", "other") for cell in (*domains, *kinds, *both)]
    for cell in ("", *domains, *kinds, "adversarial", *both, *table):
        parts = cell.split("/") if cell else []
        here = np.array(
            [all(p in (row["kind"], row["facets"]["domain"], row["facets"].get("part", "other")) for p in parts) for row in rows]
        )
        names = [name + (f"/{cell}" if cell else "") for name in ("accuracy", "precision", "recall", "f1", "yes")]
        theirs = [
            accuracy_score(true_N[here], told_N[here]),
            *(score(true_N[here], yes_N[here]) for score in (precision_score, recall_score, f1_score)),
            yes_N[here].mean(),
        ]
        pairs.append(([result.metrics[name].value for name in names], theirs))
        # its rule: what is neither is the answer that is not right, for precision and the share of yes as well
        rule = [score(true_N[here], told_N[here]) for score in (accuracy_score, precision_score, recall_score, f1_score)]
        counted.append(([opposite.metrics[name].value for name in names], [*rule, told_N[here].mean()]))
    parity("mmrel", f"scores of 1,000 random answers in {len(pairs)} cells", "scikit-learn", pairs, tolerance=1e-12)
    parity("mmrel", "the same with unread answers as the opposite", "scikit-learn", counted, tolerance=1e-12)
    assert opposite.metrics["precision"].value < result.metrics["precision"].value
    assert opposite.metrics["unread"].value == wrong_N.mean()
    assert result.metrics["unread"].value == wrong_N.mean()
    assert result.main == "accuracy"


def test_the_contained_reader_depends_on_the_right_answer() -> None:
    """By VCD's rule, an answer with both words is right either way, and one with neither is the opposite of right."""
    rows = [closed("yes"), closed("no"), closed("yes"), closed("no")]
    said = ("yes, or no", "yes, or no", "perhaps", "perhaps")
    result = scored(MMRel(draws=20, reader="contained", blind=False), Scripted(*said), asking(*rows))
    assert [result.metrics[name].value for name in ("accuracy", "precision", "recall", "yes")] == [0.5] * 4
    assert result.metrics["unread"].value == 1.0


def test_always_yes_has_half_right_finds_all_and_says_only_yes(parity: Any) -> None:
    result = scored(MMRel(draws=20), Scripted("yes"), scenes(60, seed=0, split="test"))
    names = ("accuracy", "recall", "yes", "accuracy/spatial", "accuracy/comparative", "accuracy/blind")
    ours = [result.metrics[name].value for name in names]
    parity(
        "mmrel",
        "always yes, on questions made from graphs",
        "counting by hand",
        [(ours, [0.5, 1, 1, 0.5, 0.5, 0.5])],
        tolerance=0,
    )
    assert result.notes["out_of_balance"] == {}


def test_unbalanced_cells_are_named_and_their_chance_is_the_frequent_answer() -> None:
    rows = [closed("Yes.", "action")] * 3 + [closed("no", "action"), closed("yes"), closed("no")]
    result = scored(MMRel(draws=20), Scripted("no"), asking(*rows))
    assert result.notes["out_of_balance"] == {"all": 0.6667, "action": 0.75}
    assert result.metrics["accuracy/action"].chance == 0.75
    assert result.metrics["accuracy/action"].value == 0.25
    assert np.isnan(result.metrics["precision"].value)


def test_open_questions_are_judged_and_stand_apart() -> None:
    free = {"question": "How do they relate?", "answer": "the cat sleeps on the sofa", "kind": "action"}
    data = asking(free, closed("yes"), closed("no", "action"))
    task = MMRel(draws=20, blind=False)
    result = scored(task, Scripted("on the sofa sleeps a cat", "yes", "yes"), data)
    assert result.metrics["open"].value == 1.0  # F1 of words
    assert result.metrics["accuracy"].value == 0.5
    assert result.metrics["accuracy"].items == 2
    assert scored(MMRel(draws=20, by="exact"), Scripted("a dog"), asking(free)).main == "open"
    records = task.predict(Scripted("x", "yes", "no"), data)
    accuracy, free_scores = task.item_values(records, "accuracy"), task.item_values(records, "open")
    assert accuracy is not None
    assert free_scores is not None
    np.testing.assert_array_equal(accuracy[:, 0], [np.nan, 1, 1])
    np.testing.assert_array_equal(free_scores[:, 0], [0, np.nan, np.nan])
    ranked = task_of_ranker = MMRel(draws=20, how="mean", blind=False)
    result = scored(ranked, Ranked(), data)
    assert result.metrics["accuracy"].value == 0.5
    assert "open" not in result.metrics
    assert result.notes["open_left_out"] == 1
    with pytest.raises(ConfigError, match="cannot answer by how=mean"):
        task_of_ranker.predict(Scripted("yes"), data)
    with pytest.raises(ConfigError, match="needs a judge"):
        MMRel(by="model").predict(Scripted("yes"), data)


# ---------------------------------------------------------------- questions from graphs


def graph(*relations: Relation, labels: tuple[str, ...] = ("cat", "sofa", "cup")) -> Sample:
    regions = tuple(Region((row, 0, row + 1, 1), label, ("red", "blue")[row : row + 1]) for row, label in enumerate(labels))
    return Sample("g", PICTURE, regions=regions, relations=relations)


def test_every_wrong_question_is_wrong_and_of_the_same_kind_about_the_same_two() -> None:
    data = scenes(80, seed=3, split="test")
    samples = [data[row] for row in range(len(data))]
    asked = relation_questions(samples, RelationQuestionOptions(count=3))
    seen = 0
    for sample, found in zip(samples, asked, strict=True):
        names = [f"{region.attributes[0]} {region.label}" for region in sample.regions]
        labels = Counter(region.label for region in sample.regions)
        holds = set()
        for relation in sample.relations:
            ends = [relation.subject, relation.object]
            short = [sample.regions[end].label if labels[sample.regions[end].label] == 1 else names[end] for end in ends]
            holds.add(f"Is the {short[0]} {relation.predicate} the {short[1]}?")
        assert [one.true for one in found] == [True, False] * (len(found) // 2)
        for one, other in zip(found[::2], found[1::2], strict=True):
            assert one.text in holds
            assert other.text not in holds
            assert one.kind == other.kind
        seen += len(found)
    assert seen > 300


def test_things_that_cannot_be_told_apart_are_not_asked_about() -> None:
    two = graph(Relation(0, "on", 2), Relation(1, "under", 2), labels=("cat", "cat", "sofa"))
    texts = [one.text for one in relation_questions([two], RelationQuestionOptions(count=2))[0]]
    assert {text.split(" cat")[0] for text in texts} == {"Is the red", "Is the blue"}
    plain = Sample("p", PICTURE, regions=tuple(Region(r.box, r.label) for r in two.regions), relations=two.relations)
    assert relation_questions([plain], RelationQuestionOptions()) == [[]]


def test_opposites_ask_only_what_excludes_the_true_relation() -> None:
    sample = graph(Relation(0, "behind", 1), Relation(0, "holding", 2), Relation(1, "near", 2))
    texts = {one.text: one.true for one in relation_questions([sample], RelationQuestionOptions(count=5, wrong="opposite"))[0]}
    assert texts == {
        "Is the cat behind the sofa?": True,
        "Is the cat in front of the sofa?": False,
        "Is the sofa near the cup?": True,
        "Is the sofa far from the cup?": False,
    }


def test_what_never_holds_elsewhere_is_adversarial_and_its_partner_what_usually_does() -> None:
    elsewhere = [graph(Relation(0, "on", 1))] * 3 + [graph(Relation(0, "under", 1)), graph(Relation(0, "on", 2))]
    usual = usual_relations(elsewhere)
    sample = graph(Relation(0, "inside", 1), Relation(0, "on", 2), Relation(1, "under", 2))
    found = relation_questions([sample], RelationQuestionOptions(count=5, usual=usual))[0]
    parts = {one.text: one.part for one in found}
    assert parts["Is the cat inside the sofa?"] == "adversarial"
    assert parts["Is the cat on the cup?"] == "usual"
    assert parts["Is the sofa under the cup?"] == ""  # nothing is known of sofas and cups
    # "on" is what usually holds between a cat and a sofa, but only where the data know it
    assert "Is the cat on the sofa?" in parts
    assert parts["Is the cat on the sofa?"] == "adversarial"


@pytest.mark.parametrize(
    ("predicate", "kind"),
    [
        ("to the right of", "spatial"),
        ("is next to", "spatial"),
        ("on", "spatial"),
        ("taller than", "comparative"),
        ("as big as", "comparative"),
        ("riding", "action"),
        ("looking at", "action"),
        ("toward", "spatial"),
        ("onward", "action"),
    ],
)
def test_kinds_of_relations(predicate: str, kind: str) -> None:
    assert kind_of_relation(predicate) == kind


def test_one_that_goes_by_the_usual_is_found_out_where_the_unusual_holds() -> None:
    samples = placed(80, 0, "test")
    usual = usual_relations(one_way_round(placed(400, 0, "train"), 0))
    data = Pool.from_samples(questioned(samples, RelationQuestionOptions(usual=usual, count=2)), name="placed")
    truth = {sample.uid: frozenset(sample.graph.triplets()) for sample in samples}
    values = {
        kind: scored(MMRel(draws=20, blind=False), RelationAnswerer(kind, 0.1, truth, usual), data).metrics
        for kind in ("looks", "usual")
    }
    assert values["usual"]["accuracy/adversarial"].value < 0.2 < 0.8 < values["looks"]["accuracy/adversarial"].value
    assert values["usual"]["accuracy/usual"].value > 0.9
    assert values["usual"]["recall/adversarial"].value == 0


# ---------------------------------------------------------------- its files


def row(**changes: Any) -> dict[str, Any]:
    given = {
        "question_id": "7",
        "question": "Does the cat chase the dog? Please answer with yes or no.",
        "answer": "Yes.",
        "source": "dall-e",
        "eval_type": "discriminative",
        "relation_type": "dall-e_action",
        "image": "a.png",
    }
    return given | changes


def test_its_rows_are_read_from_json_and_parquet(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), (200, 30, 30)).save(tmp_path / "a.png")
    rows = [
        row(),
        row(answer="no", relation_type="vg_spatial", source=None),
        row(answer="The cat chases the dog.", eval_type="generative", relation_type="dall-e_adv_action"),
    ]
    (tmp_path / "mmrel.json").write_text(json.dumps(rows))
    data = dp.read(tmp_path / "mmrel.json")
    assert [sample.extras[FIELD][0]["answer"] for sample in data] == ["yes", "no", "The cat chases the dog."]
    assert [sample.extras[FIELD][0]["kind"] for sample in data] == ["action", "spatial", "action"]
    assert [sample.extras[FIELD][0]["facets"]["domain"] for sample in data] == ["dall-e", "vg", "dall-e"]
    assert [sample.extras[FIELD][0]["facets"].get("part") for sample in data] == [None, None, "adversarial"]
    assert len({sample.group for sample in data}) == 1
    result = dp.evaluate(Scripted("yes", "yes", "the cat chases the dog"), MMRel(draws=20, blind=False), data)
    assert result.metrics["accuracy"].value == 0.5
    assert result.metrics["open"].value == 1
    assert "roles" not in result.notes, "nobody judged"
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "PNG")
    table = pa.Table.from_pylist([row(image={"bytes": buffer.getvalue(), "path": "a.png"})])
    pq.write_table(table, tmp_path / "mmrel.parquet")
    (sample,) = dp.read(tmp_path / "mmrel.parquet")
    assert sample.image is not None
    assert sample.extras[FIELD][0]["id"] == "7"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"relation_type": "dall-e"}, "relation_type.*spatial, action, comparative"),
        ({"eval_type": "closed"}, "eval_type.*discriminative | generative"),
        ({"answer": "maybe"}, "answer.*yes | no"),
        ({"image": "b.png"}, "b.png"),
    ],
)
def test_faults_name_row_and_field(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "mmrel.json").write_text(json.dumps([row(), row(**changes)]))
    with pytest.raises(DataError, match=said) as fault:
        dp.read(tmp_path / "mmrel.json")
    assert "row 1" in str(fault.value)


def test_bad_options_and_data_without_relations_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"wrong \| opposite"):
        MMRel(unread="left out")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"first \| released"):
        MMRel(reader="loose")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"\{predicate\}"):
        MMRel(template="Is {subject} {object}?")
    with pytest.raises(ConfigError, match=r"any \| opposite"):
        MMRel(wrong="none")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"'Which .*' is not given"):
        MMRel().predict(Scripted("yes"), asking({"question": "Which ?", "answer": None, "choices": ["a", "b"]}))
    with pytest.raises(DataError, match="no question about relations"):
        MMRel().predict(Scripted("yes"), Pool.from_samples([Sample("a", PICTURE)], name="bare"))
