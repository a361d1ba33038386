"""NDCR's network and losses: the released code on small inputs, propositions that are not there, and what carries no gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diptych.models.reasoning.divide_conquer import DivideConquer, Picks
from diptych.models.reasoning.propositions import PropositionGenerator, inner_tokens
from diptych.models.towers.outputs import Tower
from diptych.objectives.proposition_losses import (
    diversity_hinge,
    negation_hinge,
    pick_nll,
    proposition_cross_entropy,
)

RELEASED = Path(__file__).parents[2] / "parity/reasoning/ndcr_released.npz"
ONES = "NDCR fac1ff3, its class with 16 dimensions in place of 1,024"
WIDTH, INNER = 16, 24


class NoTower(Tower):
    width = WIDTH


def released_parts(ours: DivideConquer, generator: PropositionGenerator) -> dict[str, Tensor | tuple[Tensor, int]]:
    """Released names -> our parameters; (tensor, third) for a third of a joint map of queries, keys and values."""
    found: dict[str, Any] = {}

    def linear(name: str, layer: nn.Module) -> None:
        found.update({f"{name}.{kind}": p for kind, p in layer.named_parameters()})

    def bert(name: str, block: Any) -> None:
        for third, part in enumerate(("query", "key", "value")):
            for kind in ("weight", "bias"):
                found[f"{name}.attention.self.{part}.{kind}"] = (block.attention.qkv.get_parameter(kind), third)
        linear(f"{name}.attention.output.dense", block.attention.out)
        linear(f"{name}.attention.output.LayerNorm", block.norm_1)
        linear(f"{name}.intermediate.dense", block.mlp_in)
        linear(f"{name}.output.dense", block.mlp_out)
        linear(f"{name}.output.LayerNorm", block.norm_2)

    def cross(name: str, attention: Any) -> None:
        for ours_, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj")):
            linear(f"{name}.{theirs}", getattr(attention, ours_))

    for number, layer in enumerate(generator.layers):
        bert(f"transformer_1.{number}", layer.block)
        cross(f"transformer_1.{number}.cross_attention", layer.read)
    linear("init_rep", generator.queries)
    linear("transfer_to_clip_space", generator.into_pictures)
    for theirs, part in (("transformer_3", ours.context), ("transformer_2", ours.propositions)):
        for number, block in enumerate(part.blocks):
            bert(f"{theirs}.{number}", block)
    linear("positional_emb", ours.context.place)
    linear("condition_symbolic", ours.propositions.place)
    for theirs, part in (
        ("negation.0", ours.negate[0]),
        ("negation.3", ours.negate[3]),
        ("fusion_.1", ours.fuse[1]),
        ("fusion_.3", ours.fuse[3]),
        ("modifier.0", ours.modify[0]),
        ("modifier.3", ours.modify[3]),
        ("selector", ours.narrow),
        ("transfer_conjun", ours.widen),
        ("prediction_layer", ours.conjoined_head),
        ("prediction_layer_3", ours.context_head),
        ("prediction_layer_4", ours.proposition_head),
        ("act_sig", ours.mix),
        ("pred_weight", ours.pool),
        ("gnn.0.weiget_F", ours.conjoin.gate),
        ("gnn.0.intermediate.dense", ours.conjoin.mlp_in),
        ("gnn.0.output.dense", ours.conjoin.mlp_out),
        ("gnn.0.output.LayerNorm", ours.conjoin.norm),
    ):
        linear(theirs, part)
    cross("cross_copy", ours.weigh)
    cross("gnn.0.cross_attention", ours.conjoin.read)
    return found


def test_released_network(parity: Any) -> None:
    """Three sets at once, of three, one and four propositions, against the released code's one at a time: what each part says, every loss,
    and the gradient of every parameter that the released phase trains."""
    saved = dict(np.load(RELEASED))
    ours = DivideConquer(WIDTH, mlp_width=INNER).double().eval()
    generator = PropositionGenerator(NoTower(), WIDTH, layers=3, heads=8, mlp_width=INNER, minus=True).double().eval()
    found = released_parts(ours, generator)
    rng = np.random.default_rng(5)
    rows = [(line.split()[0], line.split()[1] == "1", tuple(map(int, line.split()[2:]))) for line in saved["names"]]
    assert {name for name, *_ in rows} == set(found)
    with torch.no_grad():
        for name, _, shape in rows:
            value = torch.from_numpy(rng.normal(0, 0.02 if name == "prediction_layer_4.weight" else 0.25, shape))
            target = found[name]
            if isinstance(target, tuple):
                target[0].chunk(3)[target[1]].copy_(value)
            else:
                target.copy_(value)
    cases = [
        {key: torch.from_numpy(saved[f"{case}/{key}"]) for key in ("c", "v", "t", "s", "n", "agg", "final")} for case in range(3)
    ]
    counts = [len(case["s"]) for case in cases]
    exists_BP = torch.arange(4) < torch.tensor(counts)[:, None]
    token_BLD = torch.stack([case["t"] for case in cases])
    inner_BL = inner_tokens(torch.ones(token_BLD.shape[:2], dtype=torch.bool))
    with torch.no_grad():  # the released phase does not train it, apart from its last map
        x_BPD = generator.queries.weight[:4].expand(3, -1, -1)
        for layer in generator.layers:
            x_BPD = layer(x_BPD, token_BLD, inner_BL)
    vector_BPD = generator.into_pictures(x_BPD)
    torch.testing.assert_close(vector_BPD, generator.propose(token_BLD, inner_BL, 4))
    picks = ours(
        torch.stack([case["c"] for case in cases]),
        torch.stack([case["v"] for case in cases]),
        vector_BPD,
        exists_BP,
        torch.tensor([False, True, True]),
    )
    target_B = torch.tensor([int(saved[f"{case}/target"]) for case in range(3)])
    pairs = []
    for row, case in enumerate(cases):
        assert picks.proposition_BPK is not None
        assert picks.negated_BPK is not None
        assert picks.conjoined_BK is not None
        pairs += [
            (picks.answer_BK[row], case["final"]),
            (picks.context_BK[row], saved[f"{row}/context"]),
            (picks.proposition_BPK[row, : counts[row]], case["s"]),
            (picks.negated_BPK[row, : counts[row]], case["n"]),
            (picks.conjoined_BK[row], case["agg"][-2]),
        ]
    parity("ndcr", "context, propositions, negations, conjunction and mixture", ONES, pairs, tolerance=1e-10)
    losses = {
        "init": pick_nll(picks.answer_BK.double(), target_B, twice=True),
        "pc3": proposition_cross_entropy(picks.proposition_BPK, exists_BP, target_B, picks.conjoined_BK),
        "neg": negation_hinge(picks.proposition_BPK, picks.negated_BPK, exists_BP),
        "cos": diversity_hinge(vector_BPD, exists_BP),
    }
    means = {name: np.mean([float(saved[f"{case}/{name}"]) for case in range(3)]) for name in losses}
    assert means["neg"] > 0, "the negation has to be within the margin, or it shows nothing"
    parity("ndcr", "every loss", ONES, [(value, means[name]) for name, value in losses.items()], tolerance=2e-6)
    (3 * (losses["init"] + losses["pc3"] + losses["neg"])).backward()  # the release adds the sets up
    trained = [name for name, learns, _ in rows if learns]
    mine = []
    for name in trained:
        target = found[name]
        gradient = target[0].grad.chunk(3)[target[1]] if isinstance(target, tuple) else target.grad
        mine.append(gradient.numpy().reshape(-1) @ np.random.default_rng(gradient.numel()).normal(size=(gradient.numel(), 3)))
    parity("ndcr", "gradient of every trained parameter", ONES, [(np.array(mine), saved["gradients"])], tolerance=1e-5)
    still = [name for name, learns, _ in rows if not learns]
    for name in still:
        target = found[name]
        gradient = target[0].grad if isinstance(target, tuple) else target.grad
        assert gradient is None or not gradient.any(), name


@pytest.fixture
def inputs() -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    exists_BP = torch.tensor([[True, False], [True, True]])
    return torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.randn(2, 2, 8), exists_BP, torch.tensor([True, False])


def test_propositions_that_are_not_there_change_nothing(inputs: tuple[Tensor, ...]) -> None:
    pair, image, vector, exists, ordered = inputs
    network = DivideConquer(8, heads=2, mlp_width=16, pictures=5).eval()
    one, other = (network(pair, image, torch.where(exists[..., None], vector, filler), exists, ordered) for filler in (0.0, 7.0))
    torch.testing.assert_close(one.answer_BK, other.answer_BK)
    target = torch.tensor([1, 4])
    for loss in (
        lambda p: proposition_cross_entropy(p.proposition_BPK, exists, target, p.conjoined_BK),
        lambda p: negation_hinge(p.proposition_BPK, p.negated_BPK, exists, margin=50.0),
    ):
        torch.testing.assert_close(loss(one), loss(other))


def test_an_open_gate_and_one_proposition_give_its_softmax(inputs: tuple[Tensor, ...]) -> None:
    pair, image, vector, _, ordered = inputs
    network = DivideConquer(8, heads=2, mlp_width=16, pictures=5).eval()
    with torch.no_grad():
        network.mix.weight.zero_()
        network.mix.bias.fill_(60.0)
    picks: Picks = network(pair, image, vector[:, :1], torch.ones(2, 1, dtype=torch.bool), ordered)
    assert picks.proposition_BPK is not None
    torch.testing.assert_close(picks.answer_BK, (picks.proposition_BPK[:, 0] / 0.5).softmax(-1))


def test_answers_are_distributions_and_order_counts_only_where_it_means_something(inputs: tuple[Tensor, ...]) -> None:
    pair, image, vector, exists, _ = inputs
    turn = torch.tensor([4, 3, 2, 1, 0])
    for answers in ("full", "system1", "context"):
        network = DivideConquer(8, heads=2, mlp_width=16, pictures=5, answers=answers).eval()
        for ordered in (False, True):
            order = torch.full((2,), ordered)
            plain = network(pair, image, vector, exists, order).answer_BK
            torch.testing.assert_close(plain.sum(1), torch.ones(2))
            turned = network(pair[:, turn], image[:, turn], vector, exists, order).answer_BK[:, turn]
            assert bool(torch.allclose(plain, turned, atol=1e-5)) != ordered


def test_nll_is_of_the_log() -> None:
    share = torch.tensor([[0.2, 0.8], [0.5, 0.5]])
    assert float(pick_nll(share, torch.tensor([1, 0]))) == pytest.approx(-np.log([0.8, 0.5]).mean(), abs=1e-6)
