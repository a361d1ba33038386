"""A tower with a hidden layer behind its pooled vector.  Letters: B batch, H hidden, D width."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from diptych.models.towers.outputs import Tokens, Tower


class HeadedTower(Tower):
    """Linear, batch norm, ReLU behind the pooled vector of `inner`: with the dual encoder's projection (give it a bias) the projector of
    two layers of GroupViT (2202.11094). Tokens stay as they are; `head` leads them the same way where they are asked for.

    Batch norm reads the whole batch of a process: with gradient caching it would normalise within a chunk.
    """

    def __init__(self, inner: Tower, hidden: int) -> None:
        super().__init__()
        self.inner, self.width = inner, hidden
        self.head = nn.Sequential(nn.Linear(inner.width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True))
        self.image_size: Any = getattr(inner, "image_size", None)

    @property
    def token_width(self) -> int:
        return self.inner.token_width

    def forward(self, *inputs: Any) -> Tokens:
        seen = self.inner(*inputs)
        pooled_BH: Tensor = self.head(seen.pooled_BD)
        return Tokens(seen.tokens_BPD, seen.mask_BP, pooled_BH)


def headed(tower: Tower, hidden: int, side: str) -> HeadedTower:
    """`tower` with such a head, under a name that builds it again; `side` is "image" or "text"."""
    made = HeadedTower(tower, hidden)
    known: dict[str, Any] = {name: tower.spec[name] for name in ("vocab_size", "length", "image_size") if name in tower.spec}
    made.spec = {"name": f"headed_{side}", "inner": tower.spec, "hidden": hidden, **known}
    return made
