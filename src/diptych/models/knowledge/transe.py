"""TransE (Bordes et al., 2013): vectors of entities by translation, head + relation near tail.  Letters: M triples, N negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TransE(nn.Module):
    """Distance |h + r - t| in the L1 norm; entities and relations are divided by their L2 norm first, as in OpenKE."""

    def __init__(self, entities: int, relations: int, width: int = 256) -> None:
        super().__init__()
        self.entity, self.relation = nn.Embedding(entities, width), nn.Embedding(max(1, relations), width)
        nn.init.xavier_uniform_(self.entity.weight)
        nn.init.xavier_uniform_(self.relation.weight)

    def forward(self, triple_M3: Tensor) -> Tensor:
        """Distance [M...] of (head, relation, tail)."""
        head, relation, tail = triple_M3.unbind(-1)
        unit = [F.normalize(table(index), dim=-1) for table, index in ((self.entity, head), (self.relation, relation))]
        distance: Tensor = (unit[0] + unit[1] - F.normalize(self.entity(tail), dim=-1)).abs().sum(-1)
        return distance


def margin_loss(true_M: Tensor, corrupted_MN: Tensor, margin: float = 5.0) -> Tensor:
    """Mean of max(0, margin + true - corrupted) over all corrupted triples."""
    return (margin + true_M[:, None] - corrupted_MN).clamp(min=0).mean()


def corrupted(
    triple_M3: Tensor, known: set[tuple[int, int, int]], entities: int, count: int, generator: torch.Generator
) -> Tensor:
    """int64 [M, N, 3]: each triple with its head or its tail replaced by a random entity, none of them a known triple (ten tries).

    Heads are replaced with probability tails per head / (tails per head + heads per tail) of the relation ("bernoulli" sampling).
    """
    shares = {}
    for relation in {row[1] for row in known}:
        rows = [(head, tail) for head, other, tail in known if other == relation]
        tails_per_head = len(rows) / len({head for head, _ in rows})
        heads_per_tail = len(rows) / len({tail for _, tail in rows})
        shares[relation] = tails_per_head / (tails_per_head + heads_per_tail)
    share_M = torch.tensor([shares[relation] for relation in triple_M3[:, 1].tolist()])
    at_head_MN = torch.rand(len(triple_M3), count, generator=generator) < share_M[:, None]
    column_MN1 = torch.where(at_head_MN, 0, 2)[..., None]
    made_MN3 = triple_M3[:, None].repeat(1, count, 1)
    wrong_MN = torch.ones(made_MN3.shape[:2], dtype=torch.bool)
    for _ in range(10):
        drawn_MN1 = torch.randint(entities, (*made_MN3.shape[:2], 1), generator=generator)
        made_MN3 = torch.where(wrong_MN[..., None], made_MN3.scatter(2, column_MN1, drawn_MN1), made_MN3)
        wrong_MN = torch.tensor([[tuple(row) in known for row in rows] for rows in made_MN3.tolist()])
        if not wrong_MN.any():
            break
    return made_MN3


def transe_vectors(
    entities: int,
    relations: int,
    triples: Tensor,
    *,
    width: int = 256,
    epochs: int = 1000,
    batches: int = 100,
    negatives: int = 25,
    margin: float = 5.0,
    lr: float = 1.0,
) -> Tensor:
    """float32 [entities, width] after training by plain gradient steps, from the current torch random state; fresh ones without triples."""
    model = TransE(entities, relations, width)
    if not len(triples) or not epochs:
        return model.entity.weight.detach()
    known = {(head, relation, tail) for head, relation, tail in triples.tolist()}
    generator = torch.Generator().manual_seed(int(torch.randint(1 << 31, ())))
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    size = max(1, len(triples) // batches)
    for _ in range(epochs):
        for part in torch.randperm(len(triples), generator=generator).split(size):
            triple_M3 = triples[part]
            loss = margin_loss(model(triple_M3), model(corrupted(triple_M3, known, entities, negatives, generator)), margin)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.entity.weight.detach()
