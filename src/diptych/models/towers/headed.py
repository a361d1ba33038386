"""A tower with a hidden layer after its pooled vector.  Letters: B batch, H hidden, D width."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.layers.synced_batch_norm import SyncedBatchNorm
from diptych.models.towers.outputs import Tower, TowerOutput

Head = Literal["batch_norm", "gelu", "mlp", "cxr_bert", "normed_mlp"]


class HeadedTower(Tower):
    """Behind the pooled vector of `inner` one of five heads. Tokens stay as they are; `head` leads them the same way where they are asked
    for.

    batch_norm  Linear, batch norm over all processes, ReLU: with the dual encoder's projection (give it a bias) the projector of two
                layers of GroupViT (2202.11094)
    gelu        Linear, GELU, Linear, weights from a normal of deviation `std`: the whole head of KEEP (2412.13126), which leads into the
                joint space and takes no projection (published: 0.01 of images, `hidden` ** -0.5 of texts)
    mlp         Linear, GELU, Linear without biases into `hidden` dimensions, over the mean of both widths: open_clip's projection "mlp",
                which BiomedCLIP's texts have (2303.00915); it takes no projection, either. Weights start as torch's layers do
    cxr_bert    Linear into `hidden` dimensions, GELU, norm, Linear: CXR-BERT's over the first token (2204.09817), which leads into
                the joint space; weights start as BERT's
    normed_mlp  Linear into `middle` dimensions, batch norm, ReLU, Linear into `hidden`, batch norm without weights: MGCA's (2210.06044),
                which leads into the joint space; weights start as torch's layers do

    Batch norm reads the whole batch: with gradient caching it would normalise within a chunk.
    """

    def __init__(self, inner: Tower, hidden: int, *, kind: Head = "batch_norm", std: float = 0.01, middle: int = 2048) -> None:
        super().__init__()
        if kind not in get_args(Head):
            raise ConfigError(f"kind of a head is {kind!r} (expected {' | '.join(get_args(Head))})")
        self.inner, self.width = inner, hidden
        if kind == "gelu":
            first, second = nn.Linear(inner.width, hidden), nn.Linear(hidden, hidden)
            for layer in (first, second):
                nn.init.normal_(layer.weight, std=std)
            self.head = nn.Sequential(first, nn.GELU(), second)
            self.projects = True
        elif kind == "cxr_bert":
            first, second = nn.Linear(inner.width, hidden), nn.Linear(hidden, hidden)
            for layer in (first, second):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
            self.head = nn.Sequential(first, nn.GELU(), nn.LayerNorm(hidden, eps=1e-12), second)
            self.projects = True
        elif kind == "normed_mlp":
            self.head = nn.Sequential(
                nn.Linear(inner.width, middle),
                nn.BatchNorm1d(middle),
                nn.ReLU(inplace=True),
                nn.Linear(middle, hidden),
                nn.BatchNorm1d(hidden, affine=False),
            )
            self.projects = True
        elif kind == "mlp":
            between = (inner.width + hidden) // 2
            self.head = nn.Sequential(
                nn.Linear(inner.width, between, bias=False), nn.GELU(), nn.Linear(between, hidden, bias=False)
            )
            self.projects = True
        else:
            self.head = nn.Sequential(nn.Linear(inner.width, hidden), SyncedBatchNorm(hidden), nn.ReLU(inplace=True))
        self.image_size: Any = getattr(inner, "image_size", None)

    @property
    def token_width(self) -> int:
        return self.inner.token_width

    def forward(self, *inputs: Any) -> TowerOutput:
        output = self.inner(*inputs)
        pooled_BH: Tensor = self.head(output.pooled_BD)
        return TowerOutput(output.tokens_BPD, output.mask_BP, pooled_BH)


def headed(tower: Tower, hidden: int, side: str, *, kind: Head = "batch_norm", std: float = 0.01) -> HeadedTower:
    """`tower` with such a head, under a name that builds it again; `side` is "image" or "text"."""
    made = HeadedTower(tower, hidden, kind=kind, std=std)
    shared: dict[str, Any] = {name: tower.spec[name] for name in ("vocab_size", "length", "image_size") if name in tower.spec}
    made.spec = {"name": f"headed_{side}", "inner": tower.spec, "hidden": hidden, "kind": kind, **shared}
    return made
