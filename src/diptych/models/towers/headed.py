"""Tower with an MLP head after its pooled vector.  Letters: B batch, H hidden, D width."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.layers.synced_batch_norm import SyncedBatchNorm
from diptych.models.layers.transformer import l2_normalise
from diptych.models.towers.outputs import Tower, TowerOutput

Head = Literal["batch_norm", "gelu", "mlp", "cxr_bert", "normed_mlp", "norm_mlp"]


class HeadedTower(Tower):
    """Adds one of six heads to the pooled vector of `inner`. Tokens are unchanged; `head` can be applied to them, too.

    batch_norm  Linear, batch norm over all processes, ReLU: with the dual encoder's projection (give it a bias) the projector of two
                layers of GroupViT (2202.11094)
    gelu        Linear, GELU, Linear, weights from a normal of deviation `std`: the whole head of KEEP (2412.13126),
                which maps into the joint space without a further projection (published: 0.01 for images,
                `hidden` ** -0.5 for texts)
    mlp         Linear, GELU, Linear without biases into `hidden` dimensions, with the mean of both widths between: open_clip's
                projection "mlp", as for BiomedCLIP's texts (2303.00915); no further projection. PyTorch's default initialisation
    cxr_bert    Linear into `hidden` dimensions, GELU, norm, Linear: CXR-BERT's head of the first token (2204.09817), which maps
                into the joint space; initialised as BERT
    normed_mlp  Linear into `middle` dimensions, batch norm, ReLU, Linear into `hidden`, batch norm without weights: MGCA's head
                (2210.06044), which maps into the joint space; PyTorch's default initialisation
    norm_mlp    layer norm, Linear into `middle` dimensions, GELU, dropout, Linear into `hidden`: the head of recipe `locked`, which maps
                into the joint space

    unit  the pooled vector of `inner` is scaled to norm 1 before the head

    Batch norm uses the whole batch: with gradient caching it would normalise within a chunk.
    """

    def __init__(
        self,
        inner: Tower,
        hidden: int,
        *,
        kind: Head = "batch_norm",
        std: float = 0.01,
        middle: int = 2048,
        dropout: float = 0.0,
        unit: bool = False,
    ) -> None:
        super().__init__()
        if kind not in get_args(Head):
            raise ConfigError(f"kind of a head is {kind!r} (expected {' | '.join(get_args(Head))})")
        self.inner, self.width, self.unit = inner, hidden, unit
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
        elif kind == "norm_mlp":
            first, second = nn.Linear(inner.width, middle), nn.Linear(middle, hidden)
            self.head = nn.Sequential(nn.LayerNorm(inner.width), first, nn.GELU(), nn.Dropout(dropout), second)
            self.projects = True
        else:
            self.head = nn.Sequential(nn.Linear(inner.width, hidden), SyncedBatchNorm(hidden), nn.ReLU(inplace=True))
        self.image_size: Any = getattr(inner, "image_size", None)

    @property
    def token_width(self) -> int:
        return self.inner.token_width

    def forward(self, *inputs: Any) -> TowerOutput:
        output = self.inner(*inputs)
        pooled_BH: Tensor = self.head(l2_normalise(output.pooled_BD) if self.unit else output.pooled_BD)
        return TowerOutput(output.tokens_BPD, output.mask_BP, pooled_BH)


def headed(tower: Tower, hidden: int, side: str, *, kind: Head = "batch_norm", std: float = 0.01) -> HeadedTower:
    """Return `tower` with such a head and a `spec` that rebuilds it; `side` is "image" or "text"."""
    made = HeadedTower(tower, hidden, kind=kind, std=std)
    shared: dict[str, Any] = {name: tower.spec[name] for name in ("vocab_size", "length", "image_size") if name in tower.spec}
    made.spec = {"name": f"headed_{side}", "inner": tower.spec, "hidden": hidden, "kind": kind, **shared}
    return made
