"""TransE (Bordes et al., 2013): vectors of entities by translation, head + relation near tail.  Letters: M triples, N negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.terminal.progress import with_bar


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


def head_shares(triple_K3: Tensor) -> Tensor:
    """float32 [R]: how often the head of a relation's triple is replaced and not its tail, tails per head / (tails per head + heads per
    tail) ("bernoulli" sampling)."""
    shares = []
    for relation in range(int(triple_K3[:, 1].max()) + 1):
        heads, _, tails = triple_K3[triple_K3[:, 1] == relation].unbind(1)
        each_head, each_tail = max(1, len(heads.unique())), max(1, len(tails.unique()))  # rows / heads : rows / tails
        shares.append(each_tail / (each_head + each_tail))
    return torch.tensor(shares)


def corrupted(
    triple_M3: Tensor, known_K3: Tensor, share_R: Tensor, entities: int, count: int, generator: torch.Generator
) -> Tensor:
    """int64 [M, N, 3]: each triple with its head (in `share_R` of the cases, `head_shares`) or its tail replaced by a random entity, none
    of them a known triple (ten tries)."""
    at_head_MN = torch.rand(len(triple_M3), count, generator=generator) < share_R[triple_M3[:, 1], None]
    column_MN1 = torch.where(at_head_MN, 0, 2)[..., None]
    made_MN3 = triple_M3[:, None].repeat(1, count, 1)
    wrong_MN = torch.ones(made_MN3.shape[:2], dtype=torch.bool)
    code_3 = torch.tensor([len(share_R) * entities, entities, 1])  # one number a triple
    known_K = (known_K3 * code_3).sum(-1)
    for _ in range(10):
        drawn_MN1 = torch.randint(entities, (*made_MN3.shape[:2], 1), generator=generator)
        made_MN3 = torch.where(wrong_MN[..., None], made_MN3.scatter(2, column_MN1, drawn_MN1), made_MN3)
        wrong_MN = torch.isin((made_MN3 * code_3).sum(-1), known_K)
        if not wrong_MN.any():
            break
    return made_MN3


def train_transe(
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
) -> TransE:
    """A model trained by plain gradient steps, from the current torch random state; a fresh one without triples."""
    model = TransE(entities, relations, width)
    if not len(triples) or not epochs:
        return model
    share_R = head_shares(triples.unique(dim=0))
    generator = torch.Generator().manual_seed(int(torch.randint(1 << 31, ())))
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    size = max(1, len(triples) // batches)
    for _ in with_bar(range(epochs), epochs, "passes of TransE"):
        for part in torch.randperm(len(triples), generator=generator).split(size):
            triple_M3 = triples[part]
            wrong_MN3 = corrupted(triple_M3, triples, share_R, entities, negatives, generator)
            loss = margin_loss(model(triple_M3), model(wrong_MN3), margin)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model
