"""Image-conditioned text vectors: gated cross-attention from texts to a picture.

DenseCLIP (2112.01518) attends to patches in a narrower space, X-CLIP (2208.02816) in the joint one; both multiply the result by a
learned vector with small initial values and add it to the text, so that the text is nearly unchanged at first.

Letters: B batch, K texts, P positions, D width, I inner width, H heads, E width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, full, nn

from diptych.core.errors import ConfigError
from diptych.models.layers.transformer import activation


class CrossAttention(nn.Module):
    """Cross-attention: projections of queries, keys and values have no bias, the output projection has one.

    inside  width of all heads together; 0 is `width`
    """

    def __init__(self, width: int, heads: int, *, inside: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        inner = inside or width
        if inner % heads:
            raise ConfigError(
                f"attention of width {inner} cannot be cut into {heads} heads (expected heads that divide the width)"
            )
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.out, self.dropout = nn.Linear(inner, width), nn.Dropout(dropout)

    def forward(self, query_BKI: Tensor, source_BPI: Tensor, mask_BP: Tensor | None = None) -> Tensor:
        """Return [B, K, I]; positions whose mask is False are ignored."""
        q_BHKE, k_BHPE, v_BHPE = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q, query_BKI), (self.k, source_BPI), (self.v, source_BPI))
        )
        logit_BHKP = q_BHKE @ k_BHPE.transpose(-2, -1) * q_BHKE.shape[-1] ** -0.5
        if mask_BP is not None:
            logit_BHKP = logit_BHKP.masked_fill(~mask_BP[:, None, None], -torch.inf)
        weight_BHKP = logit_BHKP.softmax(-1)
        attended_BKI: Tensor = self.dropout(self.out((weight_BHKP @ v_BHPE).transpose(1, 2).flatten(2)))
        return attended_BKI


class RefinerLayer(nn.Module):
    """Pre-norm decoder layer: self-attention of texts (if `among`), cross-attention to the picture, and an MLP."""

    def __init__(self, width: int, heads: int, *, among: bool, act: str, dropout: float, drop_thoughts: bool) -> None:
        super().__init__()
        self.norm_among = nn.LayerNorm(width) if among else None
        self.among = CrossAttention(width, heads, dropout=dropout) if among else None
        self.norm_read, self.read = nn.LayerNorm(width), CrossAttention(width, heads, dropout=dropout)
        self.norm_mlp, self.mlp_in, self.act = nn.LayerNorm(width), nn.Linear(width, 4 * width), activation(act)
        self.mlp_out, self.dropout = nn.Linear(4 * width, width), nn.Dropout(dropout)
        self.behind = nn.Dropout(dropout) if drop_thoughts else nn.Identity()

    def forward(self, text_BKI: Tensor, source_BPI: Tensor) -> Tensor:
        if self.among is not None and self.norm_among is not None:
            own_BKI = self.norm_among(text_BKI)
            text_BKI = text_BKI + self.among(own_BKI, own_BKI)
        text_BKI = text_BKI + self.read(self.norm_read(text_BKI), source_BPI)
        mlp_out_BKI: Tensor = self.behind(self.mlp_out(self.dropout(self.act(self.mlp_in(self.norm_mlp(text_BKI))))))
        return text_BKI + mlp_out_BKI


class TextRefiner(nn.Module):
    """text + gate * refined.

    inside   inner width: texts and positions are normalised and projected into it, and back; 0: the joint space,
             with a norm only on the positions (X-CLIP)
    among    also self-attention of texts (DenseCLIP)
    dropout  after attention and inside the MLP; with `drop_thoughts` also after the MLP (DenseCLIP)
    gate     its initial value: 1e-4 (DenseCLIP), 0.1 (X-CLIP)
    std      of the initial weights of linear layers, truncated normal with biases of 0; 0 keeps PyTorch's initialisation
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int,
        heads: int,
        inside: int = 0,
        among: bool = False,
        act: str = "gelu",
        dropout: float = 0.0,
        drop_thoughts: bool = False,
        gate: float = 1e-4,
        std: float = 0.0,
    ) -> None:
        super().__init__()
        inner = inside or width
        self.places = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.LayerNorm(inner)) if inside else nn.LayerNorm(width)
        )
        self.texts = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner)) if inside else nn.Identity()
        options = {"among": among, "act": act, "dropout": dropout, "drop_thoughts": drop_thoughts}
        self.layers = nn.ModuleList(RefinerLayer(inner, heads, **options) for _ in range(layers))  # type: ignore[arg-type]
        self.out = nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, width)) if inside else nn.Identity()
        self.gate_D = nn.Parameter(full((width,), gate))
        for module in self.modules():
            if std and isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, text_BKD: Tensor, place_BPD: Tensor) -> Tensor:
        """Return refined texts [B, K, D], one set per picture."""
        source_BPI, x_BKI = self.places(place_BPD), self.texts(text_BKD)
        for layer in self.layers:
            x_BKI = layer(x_BKI, source_BPI)
        refined_BKD: Tensor = text_BKD + self.gate_D * self.out(x_BKI)
        return refined_BKD
