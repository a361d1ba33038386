"""Slot attention (Locatello et al., 2020, 2006.15055): slots compete for the places of a picture.

Attention is a softmax over slots for each place, then a mean over places for each slot; slots of all heads compete together.
Letters: B batch, N positions, S slots, H heads, D width of a slot, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.slots.initialised import convolution, linear, rectified


class SlotAttention(nn.Module):
    """Rounds of attention from slots to inputs, a GRU and a residual MLP.

    Keys are scaled by (slot width / heads)^-1/2; `eps` is added to attention before it is divided by its sum over places.
    """

    def __init__(self, inputs: int, width: int, *, hidden: int, heads: int = 1, rounds: int = 3, eps: float = 1e-8) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"slots of width {width} cannot be shared by {heads} heads")
        self.width, self.heads, self.rounds, self.eps = width, heads, rounds, eps
        self.norm_inputs, self.norm_slots, self.norm_mlp = nn.LayerNorm(inputs), nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = linear(width, width, bias=False)
        self.key = linear(inputs, width, bias=False)
        self.value = linear(inputs, width, bias=False)
        self.gru = nn.GRUCell(width, width)
        nn.init.xavier_uniform_(self.gru.weight_ih)
        nn.init.orthogonal_(self.gru.weight_hh)
        nn.init.zeros_(self.gru.bias_ih)
        nn.init.zeros_(self.gru.bias_hh)
        self.mlp = nn.Sequential(linear(width, hidden, start="kaiming"), nn.ReLU(), linear(hidden, width))

    def forward(self, input_BNC: Tensor, slot_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Slots [B, S, D] after the rounds, and the attention [B, N, S] of the last, summed over heads: 1 over slots at each place."""
        batch, slots = slot_BSD.shape[:2]
        input_BNC = self.norm_inputs(input_BNC)
        key_BHNd, value_BHNd = (self._split(project(input_BNC)) for project in (self.key, self.value))
        key_BHNd = key_BHNd * (self.width // self.heads) ** -0.5
        attention_BHNS = key_BHNd.new_zeros(())
        for _ in range(self.rounds):
            before_BSD = slot_BSD
            query_BHSd = self._split(self.query(self.norm_slots(slot_BSD)))
            logit_BHNS = key_BHNd @ query_BHSd.transpose(-1, -2)
            competing_BNM = logit_BHNS.transpose(1, 2).flatten(2).softmax(-1)
            attention_BHNS = competing_BNM.unflatten(2, (self.heads, slots)).transpose(1, 2)
            weight_BHNS = attention_BHNS + self.eps
            weight_BHNS = weight_BHNS / weight_BHNS.sum(-2, keepdim=True)
            update_BSD = (weight_BHNS.transpose(-1, -2) @ value_BHNd).transpose(1, 2).flatten(2)
            slot_BSD = self.gru(update_BSD.flatten(0, 1), before_BSD.flatten(0, 1)).unflatten(0, (batch, slots))
            slot_BSD = slot_BSD + self.mlp(self.norm_mlp(slot_BSD))
        return slot_BSD, attention_BHNS.sum(1)

    def _split(self, x_BND: Tensor) -> Tensor:
        split_BHNd: Tensor = x_BND.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return split_BHNd


class PositionRamps(nn.Module):
    """Adds four linear ramps (from the north, south, west and east), mapped to the channels, to a feature map."""

    ramp_4HW: Tensor

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        up = torch.linspace(0, 1, size)
        down = up.flip(0)
        rows, columns = [one[:, None].expand(size, size) for one in (down, up)], [one.expand(size, size) for one in (down, up)]
        self.project = nn.Conv2d(4, channels, 1)
        self.register_buffer("ramp_4HW", torch.stack([*rows, *columns]))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        placed_BCHW: Tensor = x_BCHW + self.project(self.ramp_4HW[None])
        return placed_BCHW


class SlotEncoder(nn.Module):
    """Four convolutions, positions, an MLP by place, and slot attention from slots that are drawn by a learned mean and deviation."""

    def __init__(
        self, size: int, *, channels: int = 3, features: int = 64, slots: int = 6, width: int = 64, hidden: int = 128, heads: int = 1,
        rounds: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        self.slots, self.width = slots, width
        self.convolutions = nn.Sequential(
            rectified(channels, features, 5, padding=2),
            rectified(features, features, 5, padding=2),
            rectified(features, features, 5, padding=2),
            convolution(features, features, 5, padding=2),
        )
        self.positions = PositionRamps(size, features)
        self.norm = nn.LayerNorm(features)
        self.mlp = nn.Sequential(linear(features, features, start="kaiming"), nn.ReLU(), linear(features, features))
        self.mean_11D, self.log_deviation_11D = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        nn.init.xavier_uniform_(self.mean_11D)
        nn.init.xavier_uniform_(self.log_deviation_11D)
        self.attention = SlotAttention(features, width, hidden=hidden, heads=heads, rounds=rounds)

    def forward(self, image_BCHW: Tensor, noise_BSD: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Slots [B, S, D] and attention [B, S, H, W]. noise_BSD: standard normal numbers of the first slots; None draws them."""
        feature_BCHW = self.positions(self.convolutions(image_BCHW))
        input_BNC = self.mlp(self.norm(feature_BCHW.flatten(2).transpose(1, 2)))
        if noise_BSD is None:
            noise_BSD = torch.randn(len(image_BCHW), self.slots, self.width, device=image_BCHW.device, dtype=input_BNC.dtype)
        slot_BSD, attention_BNS = self.attention(input_BNC, self.mean_11D + self.log_deviation_11D.exp() * noise_BSD)
        return slot_BSD, attention_BNS.transpose(1, 2).unflatten(2, tuple(feature_BCHW.shape[2:]))


class BroadcastDecoder(nn.Module):
    """Spatial broadcast decoder: every slot is repeated at all places and drawn as a picture with a mask; masks compete."""

    def __init__(self, size: int, *, channels: int = 3, features: int = 64, width: int = 64) -> None:
        super().__init__()
        self.size, self.channels = size, channels
        self.positions = PositionRamps(size, width)
        self.convolutions = nn.Sequential(
            rectified(width, features, 5, padding=2),
            rectified(features, features, 5, padding=2),
            rectified(features, features, 5, padding=2),
            convolution(features, channels + 1, 3, padding=1),
        )

    def forward(self, slot_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [B, S, C, H, W] of the slots and their masks [B, S, 1, H, W], which add up to 1. Their sum is the whole picture."""
        grid_MDHW = slot_BSD.flatten(0, 1)[:, :, None, None].expand(-1, -1, self.size, self.size)
        drawn_BSCHW = self.convolutions(self.positions(grid_MDHW)).unflatten(0, slot_BSD.shape[:2])
        return drawn_BSCHW[:, :, : self.channels], drawn_BSCHW[:, :, self.channels :].softmax(1)
