"""RRN: the released networks on small inputs, messages against a naive loop and a dense product, steps, files and worlds."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diptych as dp
from diptych.core.contracts import Draw, Draws
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.problems.problem import FIELD, SudokuProblem, Thing, problem_of
from diptych.data.problems.sudoku import sudoku_rules
from diptych.data.problems.sudoku_sets import SudokuSets
from diptych.models.reasoning.batches import GridBatch, ProblemForm, batch_of
from diptych.models.reasoning.network import NetworkForm, RelationalNetwork
from diptych.models.reasoning.relational_block import ForgetBiasLSTM, RelationalBlock
from diptych.objectives.stepwise import stepwise_cross_entropy
from diptych.recipes.relations.rrn import RRN
from diptych.worlds.problems.jumps import jumps, path
from diptych.worlds.problems.stories import stories
from diptych.worlds.problems.sudoku import split_of, sudoku

RELEASED = Path(__file__).parents[2] / "parity/reasoning/rrn_released.npz"
ONES = "recurrent-relational-networks d3a5a27, run on TensorFlow 2.15"


def linears(part: nn.Module) -> list[nn.Linear]:
    return [layer for layer in part.modules() if isinstance(layer, nn.Linear)]


def layers_of(network: RelationalNetwork, kind: str) -> dict[str, tuple[Tensor, bool]]:
    """Released names of variables -> our parameters, and whether ours are transposed; in the order in which they were drawn."""
    encoder, block = network.encoder, network.block
    found: dict[str, tuple[Tensor, bool]] = {}

    def mlp(name: str, part: nn.Module) -> None:
        for number, layer in enumerate(linears(part)):
            suffix = f"_{number}" if number else ""
            found[f"{name}/fully_connected{suffix}/weights"] = (layer.weight, True)
            found[f"{name}/fully_connected{suffix}/biases"] = (layer.bias, False)

    def cell(name: str, part: ForgetBiasLSTM) -> None:
        found[f"{name}/kernel"], found[f"{name}/bias"] = (part.gates.weight, True), (part.gates.bias, False)

    if kind == "sudoku":
        for name, table in (("row", encoder.row), ("cols", encoder.column), ("nr", encoder.digit)):
            found[f"{name}-embeddings/embeddings"] = (table.weight, False)
        mlp("pre-fn", block.pre)
    else:
        found["word-embeddings/embeddings"] = (encoder.words.weight, False)
        cell("fact-encoder/lstm_cell", encoder.fact)
        cell("question-encoder/lstm_cell", encoder.question)
        mlp("pre", block.pre)
    mlp("steps/message-fn", block.message)
    mlp("steps/post-fn", block.post)
    cell("steps/lstm_cell", block.cell)
    mlp("steps/graph-sum" if kind == "sudoku" else "steps/graph-sum/graph-fn", network.head)
    return found


@pytest.mark.parametrize("kind", ["sudoku", "babi"])
def test_released_networks(kind: str, parity: Any) -> None:
    """Outputs at every step, the loss with its penalty, and the gradient of every variable, of the two released networks."""
    rng = np.random.default_rng(0)
    quiz, answer = rng.integers(0, 10, (2, 81)), rng.integers(1, 10, (2, 81))
    released = {name.removeprefix(f"{kind}/"): array for name, array in np.load(RELEASED).items() if name.startswith(kind)}
    if kind == "babi":
        for name, array in np.load(RELEASED).items():  # the same stream of random numbers: those of sudoku came first
            if name.startswith("sudoku/") and name.split("/", 1)[1] not in ("q", "a", "out", "loss"):
                rng.normal(0, 0.4, array.shape)
        facts = [
            ["mary moved to the bathroom", "john went to the hallway", "mary took the milk"],
            ["sandra moved to the garden", "john took the milk"],
        ]
        questions, answers = ["where is mary", "where is the milk"], ["bathroom", "garden"]
        entries = [
            {"kind": "story", "facts": f, "question": q, "answer": a} for f, q, a in zip(facts, questions, answers, strict=True)
        ]
        samples = [Sample(f"s{row}", extras={FIELD: entry}) for row, entry in enumerate(entries)]
        recipe = replace(RRN.babi(), hidden=5, reasoning_steps=2).prepare(dp.data.dataset.Pool.from_samples(samples, name="two"))
        assert list(recipe.words) == released["words"].tolist()
        batch = batch_of([problem_of(sample) for sample in samples], recipe.form)
    else:
        recipe = replace(RRN.paper(), hidden=5, embedding=3, reasoning_steps=3)
        batch = GridBatch(answer_BA=torch.from_numpy(answer), cell_BN=torch.from_numpy(quiz))
    network = recipe.model()
    found = layers_of(network, kind)
    assert {id(tensor) for tensor, _ in found.values()} == {id(p) for p in network.parameters()}
    with torch.no_grad():
        for name, (tensor, turned) in found.items():
            shape = tuple(tensor.T.shape if turned else tensor.shape)
            value = torch.from_numpy(rng.normal(0, 0.4, shape).astype(np.float32))
            tensor.copy_(value.T if turned else value)
            assert name in released
    features = recipe.features(network, batch)
    losses = recipe.losses(features, batch)
    torch.stack(list(losses.values())).sum().backward()
    ours = features.logit_BTAK.transpose(0, 1)
    outputs = ours if kind == "sudoku" else ours[:, :, 0]
    parity("rrn", f"logits at every step, {kind}", ONES, [(outputs, released["out"])], tolerance=2e-5)
    parity("rrn", f"loss with L2, {kind}", ONES, [(sum(losses.values()), released["loss"])], tolerance=1e-6)
    pairs = []
    for name, (tensor, turned) in found.items():
        assert tensor.grad is not None
        gradient = tensor.grad.T if turned else tensor.grad
        pairs.append((gradient[::8] if "encoder/" in name else gradient, released[name]))
    parity("rrn", f"gradient of every variable, {kind}", ONES, pairs, tolerance=2e-5)


def test_messages_against_a_naive_loop_and_scatter(parity: Any) -> None:
    torch.manual_seed(0)
    block = RelationalBlock(5, 6, edge_width=3).double()
    node_BND, edge_BEF = torch.randn(2, 4, 5).double(), torch.randn(2, 5, 3).double()
    edges = [(0, 1), (1, 2), (2, 1), (3, 3), (1, 3)]
    exists_BN = torch.tensor([[True] * 4, [True, True, True, False]])
    ours = block(node_BND, torch.tensor(edges), edge_BEF, steps=3, exists_BN=exists_BN)
    cell = nn.LSTMCell(6, 6).double()
    with torch.no_grad():  # ours to torch's order i, f, j, o; the forget gate's 1 becomes its bias
        i, j, f, o = block.cell.gates.weight.chunk(4)
        weight = torch.cat((i, f, j, o))
        cell.weight_ih.copy_(weight[:, :6])
        cell.weight_hh.copy_(weight[:, 6:])
        cell.bias_hh.zero_()
        cell.bias_ih.copy_(torch.cat((torch.zeros(6), torch.ones(6), torch.zeros(12))))
    pairs = []
    for row in range(2):
        x0 = block.pre(node_BND[row])
        h, state = x0, (torch.zeros(4, 6).double(), torch.zeros(4, 6).double())
        for step in range(3):
            received = torch.zeros(4, 6).double()
            for number, (source, target) in enumerate(edges):
                if exists_BN[row, source] and exists_BN[row, target]:
                    received[target] += block.message(torch.cat((h[source], h[target], edge_BEF[row, number])))
            state = cell(block.post(torch.cat((received, x0), 1)), state)
            h = state[0]
            pairs.append((ours[step, row], h))
    parity("rrn", "states after every step", "a loop over edges and torch's LSTMCell", pairs, tolerance=1e-12)


def test_sums_equal_an_adjacency_product(parity: Any) -> None:
    """With messages that are what the source holds, what arrives is the adjacency matrix times the nodes."""
    edge_E2 = torch.tensor(sudoku_rules(4).edges)
    adjacent_NN = torch.zeros(16, 16).double()
    adjacent_NN[edge_E2[:, 1], edge_E2[:, 0]] = 1.0
    node_ND = torch.randn(16, 3).double()
    ours = torch.zeros(16, 3).double().index_add(0, edge_E2[:, 1], node_ND[edge_E2[:, 0]])
    parity("rrn", "sum of messages", "a dense adjacency product", [(ours, adjacent_NN @ node_ND)], tolerance=1e-12)


def test_edges_of_grids() -> None:
    assert [len(sudoku_rules(side).edges) for side in (4, 9)] == [112, 1620]
    assert {len(others) for others in sudoku_rules(9).peers} == {20}
    assert len(sudoku_rules(4).solutions([0] * 16, limit=1000)) == 288
    assert len({split_of(one) for one in sudoku_rules(4).solutions([0] * 16, limit=1000)}) == 3


def test_loss_is_the_mean_over_steps() -> None:
    logit_BTAK, answer_BA = torch.randn(2, 3, 4, 5).double(), torch.randint(5, (2, 4))
    naive = [-logit_BTAK[b, t, a].log_softmax(0)[answer_BA[b, a]] for b in range(2) for t in range(3) for a in range(4)]
    assert float(stepwise_cross_entropy(logit_BTAK, answer_BA)) == pytest.approx(float(torch.stack(naive).mean()), abs=1e-6)
    last = stepwise_cross_entropy(logit_BTAK, answer_BA, last=True)
    assert float(last) == pytest.approx(float(stepwise_cross_entropy(logit_BTAK[:, 2:], answer_BA)), abs=1e-7)


def test_more_steps_go_on_where_fewer_stopped() -> None:
    network = RelationalNetwork(NetworkForm(form=ProblemForm(side=4), hidden=8, steps=2)).eval()
    batch = batch_of([problem_of(sudoku(1)[0])], ProblemForm(side=4))
    few, many = network(batch).logit_BTAK, network(batch, 5).logit_BTAK
    assert (few.shape[1], many.shape[1]) == (2, 5)
    torch.testing.assert_close(few, many[:, :2])


def test_published_sizes() -> None:
    """Parameters of the released Sudoku network, counted from its layers."""
    with torch.device("meta"):
        model = RRN.paper().model()
    dense = lambda i, o: (i + 1) * o  # noqa: E731
    mlp = lambda i: dense(i, 96) + 3 * dense(96, 96)  # noqa: E731
    assert sum(p.numel() for p in model.parameters()) == 16 * (10 + 9 + 9) + mlp(48) + 2 * mlp(192) + 96 + dense(
        192, 384
    ) + dense(96, 10)


def test_puzzles_have_one_solution_and_splits_share_none() -> None:
    train, test = sudoku(30, seed=1), sudoku(10, seed=1, split="test")
    for rows in (train, test):
        for row in range(len(rows)):
            problem = problem_of(rows[row])
            assert isinstance(problem, SudokuProblem)
            assert sudoku_rules(4).solutions(problem.cells) == [problem.solution]
    assert not set(train.groups) & set(test.groups)


def test_jumps_go_to_the_nearest_that_was_not_visited() -> None:
    line = [Thing(x, 0.0, str(x), f"m{x}") for x in (0.0, 0.1, 0.3, 0.35, 1.0)]
    assert path(line, 2, 4) == [2, 3, 1, 0, 4]
    for row in range(5):
        problem = problem_of(jumps(5, seed=2)[row])
        assert problem.answers[0] in {name for thing in problem.things for name in (thing.colour, thing.marker)}


def test_stories_are_answered_by_their_facts() -> None:
    """An oracle that reads the sentences alone."""
    for row in range(200):
        problem = problem_of(stories(200, seed=3)[row])
        at, holder, where = {}, {}, {}
        for fact in problem.facts:
            person, act, *_, last = fact.split()
            if act == "moved":
                at[person] = last
                for thing in (thing for thing, who in holder.items() if who == person):
                    where[thing].append(last)
            elif act == "took":
                holder[last] = person
                if not where.get(last) or where[last][-1] != at[person]:
                    where.setdefault(last, []).append(at[person])
            else:
                del holder[last]
        words = problem.question.split()
        if problem.task == "place":
            expected = at[words[-1]]
        elif problem.task == "carried":
            expected = where[words[-1]][-1]
        else:
            visits = where[words[3]]
            assert visits[-1] == words[-1]
            expected = visits[-2]
        assert problem.answer == expected, problem


def test_published_sets_are_made_of_few_hard_puzzles(tmp_path: Path) -> None:
    """`generate_hard.py` of the release, after the same seed, wrote puzzles with this digest."""
    solution, draws = "534678912672195348198342567859761423426853791713924856961537284287419635345286179", random.Random(5)
    hard = [("".join(digit if draws.random() < 0.25 else "0" for digit in solution), solution) for _ in range(9)]
    sets = SudokuSets(test_pool=3, valid_pool=2, train=2, valid=1, test=1, extra=4)
    made = sets.make(hard, random.Random(3))
    digest = hashlib.sha256(repr([made[split] for split in ("train", "valid", "test")]).encode()).hexdigest()
    assert digest == "05377ec8f0754e2bd5dce8927b5488b3155ab7d20d132418d28881226667faf1"
    sets.write(hard, tmp_path / "sets", random.Random(3))
    rows = dp.read(tmp_path / "sets")
    assert {split: len(rows.split(split)) for split in rows.split_names} == {"train": 10, "val": 5, "test": 5}
    with pytest.raises(ConfigError, match="9 hard puzzles"):
        SudokuSets().make(hard, random.Random(0))


def test_files_of_babi_and_sudoku(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    story = "1 Mary moved to the bathroom.\n2 John went to the hallway.\n3 Where is Mary? \tbathroom\t1\n"
    story += "1 Sandra got the milk.\n2 Where is the milk?\tgarden\t1\n"
    (tmp_path / "b/qa1_single-supporting-fact_train.txt").write_text(story)
    (tmp_path / "b/qa1_single-supporting-fact_test.txt").write_text(story)
    rows = dp.read(tmp_path / "b")
    assert sorted(rows.split_names) == ["test", "train"]
    first, second = (problem_of(rows.split("train")[row]) for row in (0, 1))
    assert first.facts == ("mary moved to the bathroom", "john went to the hallway")
    assert (first.question, first.answer, first.task) == ("where is mary", "bathroom", "qa1")
    assert second.facts == ("sandra got the milk",)
    (tmp_path / "s.csv").write_text("quiz,solution\n0002004310200231,3412214313244231\n")
    assert problem_of(dp.read(tmp_path / "s.csv")[0]).level == "8 givens"
    (tmp_path / "s.csv").write_text("1002004310200231,3412214313244231\n")
    with pytest.raises(DataError, match=r"s\.csv, row 0: .*changes the given cell 0"):
        dp.read(tmp_path / "s.csv")


def test_refusals() -> None:
    with pytest.raises(DataError, match="--problem story"):
        RRN.tiny().prepare(stories(4))
    with pytest.raises(ConfigError, match="works only on grids"):
        replace(RRN.babi(), network="mlp")
    recipe = replace(RRN.pretty_clevr(), hidden=8).prepare(jumps(4))
    with pytest.raises(DataError, match="problems of kind jumps"):
        recipe.deploy(recipe.model()).reason([sudoku(1)[0]])


@pytest.mark.parametrize("pixels", [False, True])
def test_jumps_are_read_from_things_or_pixels(pixels: bool) -> None:
    rows = jumps(4, seed=1)
    recipe = replace(RRN.pretty_clevr(), hidden=8, batch_size=4, pixels=pixels).prepare(rows)
    samples = [rows[row] for row in range(4)]
    draws = Draws(
        tuple(Draw(s, np.random.default_rng(0), s.image.pixels_HWC if pixels else None) for s in samples),
        np.random.default_rng(0),
    )
    batch = recipe.batch(draws)
    features = recipe.features(recipe.model(), batch)
    assert features.logit_BTAK.shape == (4, 4, 1, 16)
    assert math.isfinite(torch.stack(list(recipe.losses(features, batch).values())).sum().item())
    model = recipe.deploy(recipe.model().eval())
    assert all(len(steps) == 6 for steps in model.reason(samples, steps=6))
