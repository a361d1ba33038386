"""SGL: the released classifiers on small inputs, graded similarity, losses of boxes, phases, files, and plans by the released domains."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

import diptych as dp
from diptych.core.contracts import Draw, Draws
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.planning.domains import DOMAINS
from diptych.data.planning.goals import Goal, goal_of, named_goal_of, similarity_grade
from diptych.data.planning.planner import accepts, plan_for
from diptych.models.reasoning.goal_network import GoalForm, GoalNetwork
from diptych.models.reasoning.goal_predictor import GoalPredictorModel
from diptych.models.towers.outputs import Tower
from diptych.objectives.symbolic_goals import box_losses, goal_cross_entropy, graded_similarity_loss, similarity_grades
from diptych.pipelines.instructions import Instruction, Instructions
from diptych.recipes.relations.sgl import SGL
from diptych.tasks.reasoning.goals import SymbolicGoals, goal_accuracy
from diptych.train.optimise import freeze, learning_rate
from diptych.train.options import TrainOptions
from diptych.train.stages import plan
from diptych.worlds.kitchens.world import kitchens

RELEASED = Path(__file__).parents[2] / "parity/reasoning"
CODE = "mmf acabd36 of ivalab, its classes run on torch"


class Width(Tower):
    """Stands for an encoder of so many dimensions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


@pytest.mark.parametrize("fusion", ["concat", "add", "multiply"])
def test_released_fusion_and_classifiers(fusion: Any, parity: Any) -> None:
    """Scores, loss and the gradient of every weight of the released heads, and their accuracy, which is a parity test."""
    stored = {
        name.removeprefix(f"{fusion}/"): torch.from_numpy(array) for name, array in np.load(RELEASED / "sgl_released.npz").items()
    }
    form = GoalForm(predicates=tuple("abc"), objects=tuple("abcd"), fusion=fusion, hidden=7)
    network = GoalNetwork(Width(4), Width(5), form).double().eval()
    gradients = []
    for ours, theirs in (("predicate", "state"), ("subject", "subject"), ("object", "object")):
        head = getattr(network, ours)
        for number in range(len(head)):
            for name, tensor in [*head[number].named_parameters(), *head[number].named_buffers()]:
                if f"value/{theirs}/layers.{number}.{name}" in stored:
                    with torch.no_grad():
                        tensor.copy_(stored[f"value/{theirs}/layers.{number}.{name}"])
                    if isinstance(tensor, torch.nn.Parameter):
                        gradients.append((tensor, f"gradient/{theirs}/layers.{number}.{name}"))
    if network.align is not None:
        linear: Any = network.align[0]  # type: ignore[index]
        names = {
            "bias": linear.bias,
            "weight_g": linear.parametrizations.weight.original0,
            "weight_v": linear.parametrizations.weight.original1,
        }
        for name, tensor in names.items():
            with torch.no_grad():
                tensor.copy_(stored[f"value/align/layers.0.{name}"].reshape(tensor.shape))
            gradients.append((tensor, f"gradient/align/layers.0.{name}"))
    logits = network.classified(stored["text"], stored["image"])
    parts = (logits.predicate_BK, logits.subject_BK, logits.object_BK)
    loss = goal_cross_entropy(*parts, stored["targets"])  # type: ignore[arg-type]
    loss.backward()
    scores = [(part, stored[f"scores/{name}"]) for part, name in zip(parts, ("state", "subject", "object"), strict=True)]
    parity("sgl", f"scores, {fusion}", CODE, scores, tolerance=1e-12)
    parity("sgl", f"loss, {fusion}", CODE, [(loss, stored["loss"])], tolerance=1e-12)
    pairs = [(tensor.grad.reshape(stored[name].shape), stored[name]) for tensor, name in gradients]  # type: ignore[union-attr]
    parity("sgl", f"gradient of every weight, {fusion}", CODE, pairs, tolerance=1e-12)
    right_B3 = torch.stack([part.argmax(1) for part in parts if part is not None], 1) == stored["targets"]
    accuracy = goal_accuracy(right_B3.numpy(), parity_test=True).mean()
    parity("sgl", f"accuracy as released, {fusion}", CODE, [(accuracy, stored["accuracy"])], tolerance=1e-7)


def test_plans_equal_those_of_the_released_domains(parity: Any) -> None:
    """The same goals can be reached, in as many steps, and the validator accepts each plan for its goal alone."""
    cases = json.loads((RELEASED / "sgl_plans_released.json").read_text())
    ours, theirs = [], []
    for case in cases:
        goal, labels = Goal(*case["goal"]), case["labels"]
        made = plan_for(goal, labels, domain=DOMAINS[case["domain"]])
        ours.append(-1 if made.steps is None else len(made.steps))
        theirs.append(-1 if case["steps"] is None else len(case["steps"]))
        assert accepts(made, goal, labels, domain=DOMAINS[case["domain"]]) == (made.steps is not None)
        if made.steps is not None:
            assert sorted(step[0] for step in made.steps) == sorted(step[0] for step in case["steps"])
            assert not accepts(replace(made, steps=made.steps[:-1]), goal, labels, domain=DOMAINS[case["domain"]])
    assert -1 in theirs
    parity(
        "sgl",
        "steps of plans",
        "me_sgl 0427cfe, its PDDL domains by pyperplan",
        [(np.array(ours), np.array(theirs))],
        tolerance=0,
    )


def test_published_accuracy_of_the_sheet_example() -> None:
    state, subject, other = [1, 1, 0, 0, 1], [1, 0, 0, 0, 0], [1, 0, 0, 1, 1]
    right_N3 = np.array([state, subject, other], bool).T
    assert goal_accuracy(right_N3).mean() == pytest.approx(0.2)
    assert goal_accuracy(right_N3, parity_test=True).mean() == pytest.approx(0.6)


def test_graded_similarity_against_a_naive_loop() -> None:
    named = [(0, 1, 2), (0, 1, 2), (0, 1, -1), (0, 3, -1), (1, 1, 4), (2, 5, 6), (0, 7, 8)]
    names = [Goal(str(p), str(s) if s >= 0 else "", str(o) if o >= 0 else "") for p, s, o in named]
    grades = similarity_grades(torch.tensor(named))
    naive = torch.tensor([[similarity_grade(one, other) for other in names] for one in names])
    naive.fill_diagonal_(0), grades.fill_diagonal_(0)
    torch.testing.assert_close(grades, naive)
    assert naive.unique().tolist() == pytest.approx([0.0, 1.7, 3.3, 5.0])
    vector_BD = torch.randn(7, 5, dtype=torch.float64)
    pairs = [(i, j) for i in range(7) for j in range(i + 1, 7) if naive[i, j] > 0]
    each = [(float(F.cosine_similarity(vector_BD[i], vector_BD[j], dim=0)) - float(naive[i, j]) / 5) ** 2 for i, j in pairs]
    assert float(graded_similarity_loss(vector_BD, grades)) == pytest.approx(sum(each) / len(each), abs=1e-7)
    assert float(graded_similarity_loss(vector_BD, torch.zeros(7, 7))) == 0.0


def test_losses_of_boxes_leave_out_what_is_not_there() -> None:
    torch.manual_seed(0)
    category_BR = torch.tensor([[1, 0, 2], [2, -1, -1]])
    relation_BRR = torch.full((2, 3, 3), -1)
    relation_BRR[0] = torch.tensor([[-1, 0, 1], [0, -1, 0], [2, 0, -1]])
    able_BRA = torch.rand(2, 3, 4) > 0.5
    category, ability, relation = torch.randn(2, 3, 5), torch.randn(2, 3, 4), torch.randn(2, 3, 3, 3)
    losses = box_losses(category, ability, relation, category_BR, able_BRA, relation_BRR)
    there = [(b, r) for b in range(2) for r in range(3) if category_BR[b, r] >= 0]
    naive = {
        "categories": [-category[b, r].log_softmax(0)[category_BR[b, r]] for b, r in there],
        "abilities": [F.binary_cross_entropy_with_logits(ability[b, r], able_BRA[b, r].float()) for b, r in there],
        "relations": [-relation[0, i, j].log_softmax(0)[relation_BRR[0, i, j]] for i in range(3) for j in range(3) if i != j],
    }
    for name, each in naive.items():
        assert float(losses[name]) == pytest.approx(float(torch.stack(each).mean()), abs=1e-6), name
    alone = box_losses(category[:1], ability[:1], relation[:1], category_BR[:1], able_BRA[:1], relation_BRR[:1])
    assert float(alone["relations"]) == pytest.approx(float(losses["relations"]), abs=1e-6)


def test_published_sizes() -> None:
    """5 predicates and 35 names; towers of 512 and 768 dimensions; two hidden layers of 256."""
    with torch.device("meta"):
        model = replace(SGL.paper(), pretrain="none").model()
    head: Any = lambda classes: 1280 * 256 + 256 + 256 * 256 + 256 + 4 * 256 + 256 * classes + classes  # noqa: E731
    heads = [sum(p.numel() for p in getattr(model.goals, part).parameters()) for part in ("predicate", "subject", "object")]
    assert heads == [head(5), head(35), head(35)]
    assert model.goals.image is not None
    assert model.goals.text is not None
    assert sum(p.numel() for p in model.goals.image.parameters()) == 21_284_672  # torchvision's resnet34 without its classifier
    assert (SGL.paper().optimiser().betas, SGL.paper().lr, SGL.paper().batch_size) == ((0.9, 0.98), 5e-5, 4)
    spec = SGL.paper().optimiser()
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=5e-5)
    schedule = transformers.get_cosine_schedule_with_warmup(theirs, num_warmup_steps=5, num_training_steps=100)
    for step in range(100):
        assert learning_rate(spec, step, 100) == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
        theirs.step()
        schedule.step()
    steps = [round(200_000 * stage.share) for stage in SGL.paper().stages()]
    assert steps[1:] == [22_500, 128_880]


def small(**changes: Any) -> SGL:
    return replace(SGL.tiny(), steps=6, batch_size=8, hidden=16, **changes)


def test_phases_train_their_part_alone(tmp_path: Path) -> None:
    """Weights after each stage: scene graphs move the image encoder, sentences the text encoder, goals both, not the heads of boxes."""
    recipe = small(graph_share=0.34, sentence_share=0.33)
    rows = kitchens(16, size=48)
    prepared = recipe.prepare(rows)
    assert [phase.stage.name for phase in plan(prepared, rows, TrainOptions())] == ["scene graphs", "sentences", "goals"]
    batch = prepared.batch(_draws(rows, 8))
    for stage in prepared.stages():
        torch.manual_seed(0)
        model = stage.recipe.model()
        freeze(model, stage.recipe.optimiser())
        own = stage.recipe.batch(_draws(rows, 8))
        losses = stage.recipe.losses(stage.recipe.features(model, own), own)
        torch.stack(list(losses.values())).sum().backward()
        moved = {
            name.split(".")[1] if name.startswith("goals") else "graphs"
            for name, p in model.named_parameters()
            if p.grad is not None
        }
        expected = {
            "scene graphs": {"image", "graphs"},
            "sentences": {"text"},
            "goals": {"image", "text", "predicate", "subject", "object"},
        }
        assert moved == expected[stage.name], stage.name
    assert batch.box_BR4 is None
    run = dp.train(recipe, data=rows, out=str(tmp_path / "run"), progress=False)
    model = dp.load(str(run.path))
    assert isinstance(model, GoalPredictorModel)
    sample = rows[0]
    (goal,) = model.predict_goals([sample.image], [sample.texts[0].string])  # type: ignore[list-item]
    assert goal[0] in prepared.predicates
    assert goal[1] in prepared.objects
    model.save(tmp_path / "again")
    assert GoalPredictorModel.load(tmp_path / "again").predict_goals([sample.image], [sample.texts[0].string]) == [goal]  # type: ignore[list-item]


def _draws(rows: Any, count: int) -> Draws:
    draws = [Draw(rows[row], np.random.default_rng(row), np.asarray(rows[row].image.pixels_HWC)) for row in range(count)]
    return Draws(tuple(draws), np.random.default_rng(0))


@pytest.mark.parametrize("inputs", ["language", "picture"])
def test_one_input_does_not_read_the_other(inputs: Any) -> None:
    recipe = small(inputs=inputs, pretrain="none").prepare(kitchens(12, size=48))
    torch.manual_seed(0)
    model = recipe.deploy(recipe.model().eval())
    rows = kitchens(12, size=48)
    images, texts = [rows[row].image for row in range(12)], [rows[row].texts[0].string for row in range(12)]
    same = model.predict_goals([images[0]] * 12, texts) if inputs == "language" else model.predict_goals(images, [texts[0]] * 12)  # type: ignore[list-item,arg-type]
    assert same == model.predict_goals(images, texts)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="12 pictures and 1 sentences"):
        model.predict_goals(images, texts[:1])  # type: ignore[arg-type]


def test_padding_is_read_only_as_released() -> None:
    recipe = small(pretrain="none").prepare(kitchens(8, size=48))
    released = replace(recipe, read_padding=True)
    draws = _draws(kitchens(8, size=48), 8)
    assert bool(released.batch(draws).text_mask_BL.all())
    assert released.batch(draws).text_BL.shape[1] == recipe.text_length
    assert not bool(recipe.batch(draws).text_mask_BL.all())


class Oracle:
    """Predicts the true goals of a world, by sentence."""

    def __init__(self, rows: Any, wrong: Goal | None = None) -> None:
        self.goals = [goal_of(rows[row]) if wrong is None else wrong for row in range(len(rows))]

    def predict_goals(self, images: Any, texts: Any, *, batch_size: int = 64) -> list[tuple[str, str, str]]:
        return [(goal.predicate, goal.subject, goal.object) for goal in self.goals]


def test_protocol() -> None:
    rows = kitchens(24, seed=3, size=48)
    task = SymbolicGoals()
    whole = task.score(task.predict(Oracle(rows), rows)).metrics
    assert all(whole[name].value == 1.0 for name in ("exact", "exact/open", "exact/missing", "accepted", "refused"))
    wrong = task.score(task.predict(Oracle(rows, Goal("clean", "cup", "unknown")), rows)).metrics
    assert wrong["exact"].value < 0.1
    assert wrong["accepted"].value == 0.0
    assert wrong["refused"].value == 1.0  # nothing is planned for an unknown part
    assert math.isclose(wrong["exact/predicate"].value, np.mean([goal_of(rows[row]).predicate == "clean" for row in range(24)]))


def test_kitchens_have_one_tool_where_it_is_left_open() -> None:
    rows = kitchens(150, seed=1, size=32, unnamed=1.0, missing=0.3)
    tools = {"contain": {"bowl", "pan", "plate", "pot"}, "cook": {"microwave", "pan", "toaster"}}
    unknown = 0
    for row in range(150):
        goal, named = goal_of(rows[row]), named_goal_of(rows[row])
        shown = [region.label for region in rows[row].regions]
        assert named.object == ""
        assert named.subject not in ("", "unknown")
        assert (goal.subject == "unknown") == (named.subject not in shown)
        would_do = (set(shown) & tools[goal.predicate]) - ({"toaster"} if named.subject != "bread" else set())
        assert would_do == (set() if goal.object == "unknown" else {goal.object})
        assert (named.subject in rows[row].texts[0].string and "sink" not in shown) or "faucet" in shown
        unknown += not goal.complete
    assert 25 < unknown < 65
    assert goal_of(kitchens(1, seed=1)[0]) == goal_of(kitchens(1, seed=1, size=96)[0])


def test_pipeline_and_refusals() -> None:
    rows = kitchens(1, size=48)
    oracle = Oracle(rows)
    oracle.goals = [Goal("cook", "egg", "microwave")]
    pipeline = Instructions(oracle)
    image = rows[0].image
    assert image is not None
    answer = pipeline.run(Instruction(image, "cook the egg", seen="egg, microwave, pan"))
    assert [step.split(". ")[1].split()[0] for step in answer.lines()[1:]] == ["open", "pickup", "dropoff", "close", "toggle"]
    assert pipeline.run(Instruction(image, "cook the egg", seen="microwave")).lines()[1].endswith("there is no egg")
    with pytest.raises(ConfigError, match="the visible objects are missing"):
        pipeline.run(Instruction(image, "cook the egg"))


def test_data_without_boxes_or_goals_are_refused() -> None:
    rows = kitchens(3, size=48)
    without = [replace(rows[row], regions=(), relations=()) for row in range(3)]
    pool = dp.data.dataset.Pool.from_samples(without, name="bare")
    with pytest.raises(DataError, match="has no boxes"):
        small().prepare(pool)
    with pytest.raises(DataError, match="field 'goal'"):
        goal_of(Sample("s", extras={"goal": {"predicate": "cut"}}))
    with pytest.raises(ConfigError, match="graph_share"):
        small(graph_share=0.9, sentence_share=0.2)
