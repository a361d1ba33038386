"""Cross-attention between images and label texts: asymmetric fusion in the encoder (ALIF, RLIPv2, 2308.09351) and late fusion
(RLIP, 2209.01814).

Letters: B batch, P positions of the image, T labels, V width of places, D width of labels, E width of attention, H heads, Q queries.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError, UnknownName
from diptych.models.layers.multi_branch_fusion import MultiBranchFusion

GateKind = Literal[
    "scalar",
    "scalar_tanh",
    "vector",
    "vector_tanh",
    "self",
    "self_tanh",
    "self_norm",
    "self_one_tanh",
    "delta",
    "delta_tanh",
    "delta_norm",
    "delta_one_norm",
    "feature_tanh",
    "none",
    "multi_branch",
]
GATES: tuple[str, ...] = get_args(GateKind)


class ResidualGate(nn.Module):
    """x + g * delta: gated residual. Names of the RLIPv2 release in brackets.

    scalar        one learned number g (VXAc, the published choice; scalar_tanh: Vtanh)
    vector        one number per channel (GLIP's LayerScale; vector_tanh: Etanh)
    self          g = up(ReLU(down(learned vector))), a quarter as wide (SXAc; self_tanh: Stanh; self_norm: SXAcLN)
    delta         the same from delta itself (SDFXAc; delta_tanh: SDFtanh; delta_norm: SDFXAcLN)
    feature       the same from x (feature_tanh: SFtanh)
    ..._one       up to one number for all channels, half as wide (self_one_tanh: SOtanh; delta_one_norm: SDFOXAcLN)
    none          g = 1 (XGating)
    multi_branch  a `MultiBranchFusion` of x and delta (MBF)
    ..._tanh      tanh(g)
    ..._norm      a LayerNorm before the ReLU
    """

    def __init__(self, width: int, kind: str, start: float) -> None:
        super().__init__()
        if kind not in GATES:
            raise UnknownName("gate", kind, GATES)
        self.source, *how = [kind] if kind == "multi_branch" else kind.split("_")
        self.tanh = "tanh" in how
        if self.source in ("scalar", "vector", "self"):
            self.gate = nn.Parameter(torch.full((1 if self.source == "scalar" else width,), start))
        if self.source in ("self", "delta", "feature"):
            inner, out = (width // 2, 1) if "one" in how else (width // 4, width)
            self.down = nn.Linear(width, inner)
            self.norm = nn.LayerNorm(inner) if "norm" in how else nn.Identity()
            self.up = nn.Linear(inner, out)
        if self.source == "multi_branch":
            self.branches = MultiBranchFusion(width)

    def forward(self, x_BND: Tensor, delta_BND: Tensor) -> Tensor:
        if self.source == "none":
            return x_BND + delta_BND
        if self.source == "multi_branch":
            fused_BND: Tensor = self.branches(x_BND, delta_BND)
            return fused_BND
        gate = {"delta": delta_BND, "feature": x_BND}.get(self.source)
        if gate is None:
            gate = self.gate
        if self.source in ("self", "delta", "feature"):
            gate = self.up(self.norm(self.down(gate)).relu())
        return x_BND + (gate.tanh() if self.tanh else gate) * delta_BND


class BidirectionalFusion(nn.Module):
    """One matrix of scores between places and labels, read both ways by two softmaxes.

    Inputs are normalised, and the residual starts from the normalised ones: with gates at 0 the block is two LayerNorms. Positions
    are added to the places where they ask, not where they are read. With equal gates it is `GroundingDinoFusionLayer`.

    gate, gate_start   see `ResidualGate`; published: one scalar each way that starts at 1 / levels
    width              E, of all heads together; published: 2048
    limit              the scores stay within it (GLIP: 50,000, for half precision); None: they are as they are
    """

    def __init__(
        self,
        place_width: int,
        label_width: int,
        *,
        width: int,
        heads: int = 8,
        gate: str = "scalar",
        gate_start: float = 0.25,
        dropout: float = 0.1,
        limit: float | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"fusion of width {width} cannot be cut into {heads} heads (expected heads that divide the width)")
        self.heads, self.dropout, self.limit = heads, dropout, limit
        self.place_norm, self.label_norm = nn.LayerNorm(place_width), nn.LayerNorm(label_width)
        self.place_score, self.label_score = nn.Linear(place_width, width), nn.Linear(label_width, width)
        self.place_value, self.label_value = nn.Linear(place_width, width), nn.Linear(label_width, width)
        self.place_out, self.label_out = nn.Linear(width, place_width), nn.Linear(width, label_width)
        self.place_gate = ResidualGate(place_width, gate, gate_start)
        self.label_gate = ResidualGate(label_width, gate, gate_start)
        for layer in (self.place_score, self.label_score, self.place_value, self.label_value, self.place_out, self.label_out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        place_BPV: Tensor,
        label_BTD: Tensor,
        position_BPV: Tensor | None = None,
        place_mask_BP: Tensor | None = None,
        label_mask_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Places and labels after reading each other. The masks are True at real positions and labels; None: all are real."""
        place_BPV, label_BTD = self.place_norm(place_BPV), self.label_norm(label_BTD)
        query_BPV = place_BPV if position_BPV is None else place_BPV + position_BPV
        q_BHPE, place_BHPE = self._heads(self.place_score(query_BPV)), self._heads(self.place_value(place_BPV))
        k_BHTE, label_BHTE = self._heads(self.label_score(label_BTD)), self._heads(self.label_value(label_BTD))
        score_BHPT = (q_BHPE * q_BHPE.shape[-1] ** -0.5) @ k_BHTE.mT
        if self.limit is not None:
            score_BHPT = score_BHPT.clamp(-self.limit, self.limit)
        back_BHTP = score_BHPT.mT
        if place_mask_BP is not None:
            back_BHTP = back_BHTP.masked_fill(~place_mask_BP[:, None, None], float("-inf"))
        if label_mask_BT is not None:
            score_BHPT = score_BHPT.masked_fill(~label_mask_BT[:, None, None], float("-inf"))
        from_labels_BPV = self.place_out(self._read(score_BHPT, label_BHTE))
        from_places_BTD = self.label_out(self._read(back_BHTP, place_BHPE))
        return self.place_gate(place_BPV, from_labels_BPV), self.label_gate(label_BTD, from_places_BTD)

    def _heads(self, x_BNE: Tensor) -> Tensor:
        return x_BNE.view(*x_BNE.shape[:2], self.heads, -1).transpose(1, 2)

    def _read(self, score_BHMN: Tensor, value_BHNE: Tensor) -> Tensor:
        weight_BHMN = F.dropout(score_BHMN.softmax(-1), self.dropout, self.training)
        return (weight_BHMN.to(value_BHNE.dtype) @ value_BHNE).transpose(1, 2).flatten(2)


class LateFusion(nn.Module):
    """Decoded queries and label texts in one sequence through pre-norm transformer layers; what each layer gives is kept.

    The baseline of ALIF. Names and boxes are both read off the fused queries, so the list of labels changes boxes too.
    """

    def __init__(self, width: int, heads: int, *, mlp_width: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, mlp_width, dropout, batch_first=True, norm_first=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, query_BQD: Tensor, label_BTD: Tensor, mask_BQ: Tensor | None = None, hidden_T: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """query_BSQD and label_BSTD after each of S layers. `mask_BQ` is True at real queries, `hidden_T` at labels that are not read."""
        queries, x_BND = query_BQD.shape[1], torch.cat((query_BQD, label_BTD), 1)
        hidden_BN = None
        if mask_BQ is not None or hidden_T is not None:
            hidden_BN = torch.zeros(x_BND.shape[:2], dtype=torch.bool, device=x_BND.device)
            if mask_BQ is not None:
                hidden_BN[:, :queries] = ~mask_BQ
            if hidden_T is not None:
                hidden_BN[:, queries:] = hidden_T
        states = []
        for layer in self.layers:
            x_BND = layer(x_BND, src_key_padding_mask=hidden_BN)
            states.append(self.norm(x_BND))
        kept_BSND = torch.stack(states, 1)
        return kept_BSND[:, :, :queries], kept_BSND[:, :, queries:]
