"""Published probes from file to number: planted models get what they must, and what is no case is named and counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import published_probes as published
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from diptych.api import evaluate, evaluate_splits, read
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.probes.case import Case, stored_cases
from diptych.tasks import find
from diptych.tasks._scoring.captions.text_scorers import bag_of_words, constant, perfect
from diptych.tasks._scoring.ranking.top_k import share_in_first
from diptych.tasks.composition.aro import ARO
from diptych.tasks.composition.caption_scoring import snare_question
from diptych.worlds.scenes.mirrored import mirrored
from diptych.worlds.scenes.probes import SceneFacts
from diptych.worlds.scenes.world import scenes

SCENES = scenes(60, seed=3, split="test")


@dataclass
class Oracle:
    """Scores options as `score` does of the case that they belong to, whatever the picture."""

    cases: Sequence[Case]
    score: Callable[[Case], Sequence[float]]
    name: str = "oracle"

    def score_pairs(self, images: Sequence[Any], texts: Sequence[str], *, query: str) -> Any:
        fits = [case for case in self.cases if set(case.options) >= set(texts)]
        case = next((case for case in fits if case.uid in images[0].name), fits[0])
        said = dict(zip(reversed(case.options), reversed(list(self.score(case))), strict=True))  # the first of equal ones counts
        return np.array([[said[text] for text in texts]], np.float32)


def every_case(task: Any, data: Any) -> list[Case]:
    return [case for row in range(len(data)) for case in task.cases(data[row])]


@pytest.mark.parametrize("name", ["aro", "snare", "sugarcrepe", "vl_checklist"])
def test_oracles_get_on_scenes_what_they_must(name: str) -> None:
    task = find(name, draws=10)
    cases = every_case(task, SCENES)
    right = evaluate(Oracle(cases, perfect), name, SCENES, draws=10, keep_equal=False)
    assert right.value == 1.0
    same = evaluate(Oracle(cases, constant), name, SCENES, draws=10, keep_equal=False)
    assert same.value == pytest.approx(same.metrics[same.main].chance)
    bag = evaluate(Oracle(cases, bag_of_words), name, SCENES, draws=10, keep_equal=False)
    assert bag.value == pytest.approx(bag.metrics["bag_of_words"].value)
    kinds = {case.kind.partition("/")[0] for case in cases}
    assert (
        kinds
        >= {
            "aro": {"relation", "attribution", "order"},
            "snare": {
                "semantic_structure",
                "negation_logic",
                "attribute_ownership",
                "relationship_composition",
                "spatial_relationship",
            },
            "sugarcrepe": {"add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"},
            "vl_checklist": {"Attribute", "Object", "Relation"},
        }[name]
    )


def test_false_options_of_scenes_are_false() -> None:
    """Read back by hand from the things of the scene, not from what made the options."""
    checked = 0
    for row in range(len(SCENES)):
        scene = SceneFacts.of(SCENES[row])
        assert scene is not None
        nouns = [(thing.colour, thing.label) for thing in scene.things]
        for case in [*scene.sugarcrepe(), *scene.vl_checklist()]:
            false = case.options[1].split()
            if case.kind in ("replace_obj", "replace_att"):
                assert (false[1], false[2]) not in nouns, case
            elif case.kind == "Attribute/color/scenes":
                assert tuple(false) not in nouns, case
            elif case.kind == "add_obj":
                assert false[-1] not in [label for _, label in nouns], case
            elif case.kind == "add_att":
                assert (false[1], false[2], false[3]) not in [(t.size, t.colour, t.label) for t in scene.things], case
            else:
                continue
            checked += 1
        if (fact := scene.attribution) is not None:
            exchanged = {(fact.attributes[1], fact.objects[0]), (fact.attributes[0], fact.objects[1])}
            assert not exchanged & set(nouns)
        if (names := scene.spatial) is not None:
            held = {r.predicate for r in SCENES[row].relations if (r.subject, r.object) == (0, 1)}
            assert names[0] in held
            assert not held & set(names[1:])
    assert checked > 200


def test_mirrored_scenes_differ_in_their_sides_alone() -> None:
    data = mirrored(8, seed=1, split="test")
    for row in range(0, 8, 2):
        one, two = data[row], data[row + 1]
        assert np.array_equal(one.image.pixels_HWC[:, ::-1], two.image.pixels_HWC)  # type: ignore[union-attr]
        assert one.group == two.group
        assert stored_cases(one)[0].options == stored_cases(two)[0].options
        assert sorted(one.texts[0].string.split()) == sorted(two.texts[0].string.split())
    cases = [case for row in range(8) for case in stored_cases(data[row])]
    assert evaluate(Oracle(cases, perfect), "winoground", data, draws=10).value == 1.0
    assert evaluate(Oracle(cases, constant), "winoground", data, draws=10).value == 0.0
    result = evaluate(Oracle(cases, constant), "winoground", data, draws=10, ties="expected")
    assert [result.metrics[name].value for name in ("text", "image", "group")] == [1 / 4, 1 / 4, 1 / 16]


def test_aro_reads_its_files_a_split_each(tmp_path: Path) -> None:
    data = read(published.aro(tmp_path / "aro"))
    cases = every_case(ARO(), data)
    results = evaluate_splits(Oracle(cases, perfect), "aro", data, draws=10, minimum=1)
    assert {name.rpartition("/")[2]: result.value for name, result in results.items()} == {
        "visual_genome_relation": 1.0,
        "visual_genome_attribution": 1.0,
        "coco_karpathy_test": 1.0,
        "flickr30k_test": 1.0,
    }
    relation = results["visual_genome_relation"]
    assert relation.notes["kinds_left_out"] == ["relation/near"]
    assert relation.notes["cases_without_a_false_option"] == 1, "the cup that is on the cup"
    assert relation.notes["left_out_when_read"] == 3
    assert "gone.jpg is nowhere below" in relation.notes["first_left_out"][0]
    assert relation.n_items == 3
    kept = evaluate(Oracle(cases, perfect), "aro", data, split="visual_genome_relation", draws=10, keep_equal=True)
    assert kept.n_items == 4
    assert results["coco_karpathy_test"].n_items == 2, "a case a caption"


def test_an_unreadable_picture_costs_its_own_case(tmp_path: Path) -> None:
    folder = published.aro(tmp_path / "aro")
    (folder / "images" / "1.jpg").write_bytes(b"no picture")

    class Decoding(Oracle):
        def score_pairs(self, images: Sequence[Any], texts: Sequence[str], *, query: str) -> Any:
            from diptych.data.media.decode import decode

            decode(images[0])
            return np.zeros((1, len(texts)), np.float32)

    data = read(folder)
    result = evaluate(Decoding([], constant), "aro", data, split="visual_genome_relation", draws=10)
    assert [one["uid"] for one in result.notes["unreadable"]] == ["visual_genome_relation-000000"]
    assert result.n_items == 2


def test_sugarcrepe_needs_both_true_captions_above_the_false_one(tmp_path: Path) -> None:
    data = read(published.sugarcrepe(tmp_path / "s", second=True))
    cases = [case for row in range(len(data)) for case in stored_cases(data[row])]
    for scores, macro, first, second in (
        ([0.9, 0.8, 0.1], 1.0, 1.0, 1.0),
        ([0.9, 0.1, 0.5], 0.0, 1.0, 0.0),
        ([0.9, 0.5, 0.5], 0.5, 1.0, 0.5),
    ):
        result = evaluate(Oracle(cases, lambda case, s=scores: s), "sugarcrepe", data, draws=10)  # type: ignore[misc]
        assert (result.value, result.metrics["first"].value, result.metrics["second"].value) == (macro, first, second)
    assert result.metrics["macro"].chance == pytest.approx(1 / 3)
    strict = evaluate(Oracle(cases, lambda case: [0.9, 0.5, 0.5]), "sugarcrepe", data, draws=10, ties="pessimistic")
    assert strict.value == 0.0


def test_sugarcrepes_text_only_looks_at_no_picture(tmp_path: Path, kit: Any) -> None:
    data = read(published.sugarcrepe(tmp_path / "s", second=True))
    (case,) = stored_cases(data[0])
    for angles, right in (((0.0, 0.1, 0.5), 1.0), ((0.0, 0.4, 0.3), 0.0)):
        texts = dict(zip(case.options, ([np.cos(a), np.sin(a)] for a in angles), strict=True))
        model = kit.model({data[0].image.name: [1.0, 0.0]}, texts)
        assert evaluate(model, "sugarcrepe", data, draws=10).metrics["text_only"].value == right


def test_vl_checklist_asks_a_matching_head_for_yes_or_no() -> None:
    """Against scikit-learn on labels and answers laid out one by one, as the released loop counts them."""
    rng = np.random.default_rng(0)
    cases = every_case(find("vl_checklist", draws=10), SCENES)
    said = {id(case): rng.normal([0.4, -0.4], 1.0).tolist() for case in cases}

    class Judge(Oracle):
        fits_above = 0.1

    judge = Judge(cases, lambda case: said[id(case)])
    result = evaluate(judge, "vl_checklist", SCENES, draws=10, decide="threshold", keep_equal=True)
    kind = "Attribute/color/scenes"
    mine = [case for case in cases if case.kind == kind]
    answers = [score > 0.1 for case in mine for score in said[id(case)]]
    truth = [role == "true" for case in mine for role in case.roles]
    precision, recall, f1, _ = precision_recall_fscore_support(truth, answers, average="binary")
    assert [result.metrics[f"{kind}/{name}"].value for name in ("precision", "recall", "f1")] == pytest.approx(
        [precision, recall, f1]
    )
    assert result.metrics[kind].value == pytest.approx(accuracy_score(truth, answers))
    assert result.metrics["macro"].chance == 0.5
    with pytest.raises(ConfigError, match="does not say yes or no"):
        evaluate(Oracle(cases, perfect), "vl_checklist", SCENES, draws=10, decide="threshold")
    with pytest.raises(ConfigError, match="nothing ties"):
        find("vl_checklist", decide="threshold", ties="index")


def test_vl_checklist_is_a_mean_of_means(tmp_path: Path) -> None:
    data = read(published.vl_checklist(tmp_path / "v"))
    cases = [case for row in range(len(data)) for case in stored_cases(data[row])]
    wrong = {"Relation/action/swig"}
    result = evaluate(Oracle(cases, lambda c: [float(c.kind not in wrong), 0.5]), "vl_checklist", data, draws=10)
    numbers = {name: result.metrics[name].value for name in ("macro", "Attribute", "Attribute/color", "Relation", "accuracy")}
    assert numbers == {"macro": 0.5, "Attribute": 1.0, "Attribute/color": 1.0, "Relation": 0.0, "accuracy": 0.5}
    every = evaluate(Oracle(cases, perfect), "vl_checklist", data, draws=10, all_captions=True)
    assert (result.n_items, every.n_items) == (2, 3)


@dataclass
class Writer:
    """Knows one caption: finds it likelier a token, and says yes to it."""

    known: str
    name: str = "writer"
    asked: list[str] = field(default_factory=list)

    def generate(self, images: Any, prompts: Sequence[str], *, max_tokens: int = 64) -> list[str]:
        self.asked += prompts
        return ["Yes, it does." if self.known in prompt else "no" for prompt in prompts]

    def answer_nll(self, images: Any, prompts: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[Any]:
        self.asked += prompts
        return [
            np.array([[(1.0 if text == self.known else 3.0) * len(text), float(len(text))] for text in texts])
            for texts in candidates
        ]


def test_generators_are_asked_by_likelihood_or_in_words(tmp_path: Path) -> None:
    data = read(published.sugarcrepe(tmp_path / "s"))
    for compare in ("auto", "mean", "sum", "ask"):
        model = Writer("A red cup and a blue box.")
        result = evaluate(model, "sugarcrepe", data, compare=compare, prompt="a picture of", draws=10)
        assert result.value == 1.0, compare
        assert result.notes["compare"] == ("mean" if compare == "auto" else compare)
        assert model.asked[0] == ("a picture of" if compare != "ask" else find("sugarcrepe").question.format(model.known))
    assert evaluate(Writer("nothing"), "sugarcrepe", data, compare="ask", draws=10).value == 0.5, "no to both is a tie"
    with pytest.raises(ConfigError, match=r"does not support compare=vectors \(expected mean \| sum \| ask\)"):
        evaluate(Writer(""), "sugarcrepe", data, compare="vectors")


def test_generators_are_asked_in_the_words_of_snare(tmp_path: Path) -> None:
    """A description first; the questions are those that the released loop makes of these captions."""
    theirs = {
        "the cup is red and the box is blue": "is the cup red and the box bluein the image?",
        "the island is to the left of the square": "is theland to the left of the squarein the image?",
        "the cup and the box are red and blue respectively": "are the cup and the box red and blue respectivelyin the image?",
        "two square tables": "are two square tablesin the image?",
        "this": "is thisin the image?",
        "the red cup and the blue box": "are there the red cup and the blue box in the image?",
    }
    assert {caption: snare_question(caption) for caption in theirs} == theirs
    data = read(published.sugarcrepe(tmp_path / "s"))
    model = Writer("A red cup and a blue box.")
    result = evaluate(model, "sugarcrepe", data, compare="ask", question="snare", draws=10)
    described = [prompt for prompt in model.asked if prompt == "Question: Describe the image. Answer:"]
    asked = "Question: Describe the image. Answer: no. Question: are there A red cup and a blue box. in the image? Answer:"
    assert result.value == 1.0
    assert len(described) * 3 == len(model.asked), "once a case of two options"
    assert asked in model.asked


def test_the_blind_scorer_learns_from_the_training_split() -> None:
    """Captions of the training rows make the false option the usual one."""
    case = {"kind": "swap_obj", "options": ["a cup on a box", "a box on a cup"], "roles": ["true", "false"]}
    asked = [Sample(f"t{i}", _picture(), (), group=f"t{i}", extras={"split": "test", "cases": [case]}) for i in range(2)]
    known = [Sample(f"k{i}", _picture(), (Text("a box on a cup"),), extras={"split": "train"}) for i in range(2)]
    oracle = Oracle(
        [Case(s.uid, "", "swap_obj", ("a cup on a box", "a box on a cup"), ("true", "false")) for s in asked], perfect
    )
    alone = evaluate(oracle, "sugarcrepe", Pool.from_samples(asked), split="test", draws=10)
    taught = evaluate(oracle, "sugarcrepe", Pool.from_samples([*asked, *known]), split="test", draws=10)
    assert alone.metrics["blind"].value >= 0.5
    assert taught.metrics["blind"].value == 0.0


def _picture() -> Any:
    from diptych.core.image import ArrayImage

    return ArrayImage(np.zeros((4, 4, 3), np.uint8), "t0 t1")


def test_placing_shares_ties() -> None:
    assert [share_in_first([0.5, 0.5, 0.5, 0.1], 2, depth) for depth in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [share_in_first([0.5, 0.5, 0.5], 2, depth, "index") for depth in (1, 2, 3)] == [0, 0, 1]
    assert [share_in_first([0.5, 0.5], 1, 1, ties) for ties in ("optimistic", "pessimistic")] == [1, 0]


def test_item_values_average_to_the_metric() -> None:
    for name, metrics in (("aro", ("macro", "relation", "accuracy")), ("snare", ("macro", "negation_logic"))):
        task = find(name, draws=10)
        cases = every_case(task, SCENES)
        rng = np.random.default_rng(0)
        records = task.predict(Oracle(cases, lambda case: rng.random(len(case.options)).tolist()), SCENES)  # noqa: B023
        result = task.score(records)
        for metric in metrics:
            items = task.item_values(records, metric)
            assert np.nanmean(items, axis=0).mean() == pytest.approx(result.metrics[metric].value)


def test_what_cannot_be_asked_is_refused(kit: Any) -> None:
    model = kit.model({"u": [1.0, 0.0]}, {})
    plain = Pool.from_samples([Sample("u", _picture(), (Text("a dog", "en"),))], name="plain")
    with pytest.raises(DataError, match=r"'plain' has no case for this task \(expected SugarCrepe's files, or world:scenes\)"):
        find("sugarcrepe").predict(model, plain)
    one_word = Pool.from_samples([Sample("u", _picture(), (Text("dog", "en"),))], name="short")
    with pytest.raises(DataError, match=r"no case for this task \(1 have no false option but ones that equal the true one\)"):
        find("aro").predict(model, one_word)
    with pytest.raises(ConfigError, match="leave_out is 'all'"):
        find("aro", leave_out="all")
    with pytest.raises(ConfigError, match="question is 'what'"):
        find("aro", question="what").predict(model, plain)
    with pytest.raises(ConfigError, match="tagger is 'nltk'"):
        find("aro", tagger="nltk").predict(model, plain)
