"""IODINE (Greff et al., 2019, 1903.00450): slots whose posterior is refined by a network that reads the gradients of the bound.

Letters: B batch, K slots, L width of a slot, C channels, H W pixels, M = B K.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class IodineOutput:
    """Weighted negative bound [B], squared error [B] and KL [B] of the last round, slots drawn, and their masks [B, K, H, W]."""

    loss_B: Tensor
    error_B: Tensor
    kl_B: Tensor
    slot_BKL: Tensor
    mask_BKHW: Tensor
    image_BCHW: Tensor


def _convolutions(inputs: int, width: int, layers: int, kernel: int, stride: int = 1) -> nn.Sequential:
    made: list[nn.Module] = []
    for number in range(layers):
        made += [nn.Conv2d(inputs if not number else width, width, kernel, stride, kernel // 2), nn.ELU()]
    return nn.Sequential(*made)


def coordinates(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[2, H, W]: x and y from -1 to 1."""
    x_W, y_H = torch.linspace(-1, 1, width, device=device, dtype=dtype), torch.linspace(-1, 1, height, device=device, dtype=dtype)
    return torch.stack([x_W.expand(height, width), y_H[:, None].expand(height, width)])


def normalised(x: Tensor, dims: tuple[int, ...], *, unbiased: bool, eps: float = 1e-5) -> Tensor:
    """(x - mean) / (deviation + eps) over `dims`, without learned parameters."""
    return (x - x.mean(dims, keepdim=True)) / (x.std(dims, keepdim=True, unbiased=unbiased) + eps)


class Iodine(nn.Module):
    """Iterative amortised inference: decode, take the bound's gradients, refine mean and log deviation of every slot, `rounds` times.

    sigma  deviation of a pixel; beta, weight of the KL
    reads_cell  updates are read from the LSTM's cell instead of its output, as in the release of OCR-RL
    The bound of round i of T weighs i / T. Gradients that the refinement reads are detached.
    """

    def __init__(
        self, size: int, *, slots: int = 6, width: int = 64, rounds: int = 5, sigma: float = 0.35, beta: float = 1.0, channels: int = 3,
        features: int = 64, hidden: int = 256, layers: int = 4, kernel: int = 3, reads_cell: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size, self.slots, self.width, self.rounds, self.sigma, self.beta = size, slots, width, rounds, sigma, beta
        self.reads_cell = reads_cell
        self.encoder = _convolutions(3 * channels + 8, features, layers, kernel, 2)
        self.encoder_mlp = nn.Sequential(nn.Linear(features, hidden), nn.ELU(), nn.ELU())
        self.lstm = nn.LSTMCell(hidden + 4 * width, hidden)
        self.mean_update, self.log_deviation_update = nn.Linear(hidden, width), nn.Linear(hidden, width)
        self.decoder = nn.Sequential(
            _convolutions(width + 2, features, layers, kernel), nn.Conv2d(features, channels + 1, kernel, padding=kernel // 2)
        )
        self.mean_11L, self.log_deviation_11L = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))

    def decode(self, slot_BKL: Tensor) -> tuple[Tensor, Tensor]:
        """Means [B, K, C, H, W] and mask logits [B, K, 1, H, W] of the slots."""
        grid_MLHW = slot_BKL.flatten(0, 1)[:, :, None, None].expand(-1, -1, self.size, self.size)
        coordinate_M2HW = coordinates(self.size, self.size, slot_BKL.device, slot_BKL.dtype).expand(len(grid_MLHW), -1, -1, -1)
        drawn = self.decoder(torch.cat([grid_MLHW, coordinate_M2HW], 1)).unflatten(0, slot_BKL.shape[:2])
        return drawn[:, :, :-1], drawn[:, :, -1:]

    @torch.enable_grad()  # type: ignore[untyped-decorator, unused-ignore]
    def forward(self, image_BCHW: Tensor, noise_RBKL: Tensor | None = None) -> IodineOutput:
        """noise_RBKL: standard normal numbers of the rounds; None draws them."""
        batch = len(image_BCHW)
        mean_BKL, log_deviation_BKL = (one.expand(batch, self.slots, -1) for one in (self.mean_11L, self.log_deviation_11L))
        if not mean_BKL.requires_grad:  # a frozen model is refined by gradients, too
            mean_BKL, log_deviation_BKL = (one.detach().clone().requires_grad_() for one in (mean_BKL, log_deviation_BKL))
        hidden: tuple[Tensor, Tensor] | None = None
        total_B = image_BCHW.new_zeros(batch)
        for number in range(self.rounds):
            noise = torch.randn_like(mean_BKL) if noise_RBKL is None else noise_RBKL[number]
            slot_BKL = mean_BKL + log_deviation_BKL.exp() * noise
            picture, mask_logit = self.decode(slot_BKL)
            mask = mask_logit.softmax(1)
            error_B = (image_BCHW - (mask * picture).sum(1)).square().flatten(1).sum(1)
            kl_B = (0.5 * (mean_BKL.square() + (2 * log_deviation_BKL).exp() - 1) - log_deviation_BKL).flatten(1).sum(1)
            log_of_slot = -0.5 * ((image_BCHW[:, None] - picture) / self.sigma).square() - math.log(
                self.sigma * math.sqrt(2 * math.pi)
            )
            log_of_pixel = torch.logsumexp((mask + 1e-12).log() + log_of_slot, 1, keepdim=True)
            bound_B = log_of_pixel.flatten(1).sum(1) - self.beta * kl_B
            total_B = total_B - (number + 1) / self.rounds * bound_B
            if number == self.rounds - 1:
                break
            gradients = torch.autograd.grad(bound_B.sum(), [mean_BKL, log_deviation_BKL, picture, mask], retain_graph=True)
            given = self._auxiliary(image_BCHW, picture, mask, mask_logit, log_of_slot, log_of_pixel, gradients[2], gradients[3])
            latent_BKl = torch.cat(
                [mean_BKL, log_deviation_BKL, *(normalised(one.detach(), (2,), unbiased=True) for one in gradients[:2])], 2
            )
            read_ML = self.encoder(given.flatten(0, 1)).mean((2, 3))
            hidden = self.lstm(torch.cat([self.encoder_mlp(read_ML), latent_BKl.flatten(0, 1)], 1), hidden)
            state_BKh = hidden[1 if self.reads_cell else 0].unflatten(0, (batch, self.slots))
            mean_BKL = mean_BKL + self.mean_update(state_BKh)
            log_deviation_BKL = log_deviation_BKL + self.log_deviation_update(state_BKh)
        return IodineOutput(total_B, error_B.detach(), kl_B.detach(), slot_BKL, mask[:, :, 0], (mask * picture).sum(1))

    def _auxiliary(
        self, image_BCHW: Tensor, picture: Tensor, mask: Tensor, mask_logit: Tensor, log_of_slot: Tensor, log_of_pixel: Tensor,
        picture_gradient: Tensor, mask_gradient: Tensor,
    ) -> Tensor:  # fmt: skip
        """[B, K, channels, H, W]: what the refinement reads."""
        slots, over = self.slots, (2, 3, 4)
        whole = log_of_slot.sum(2, keepdim=True)
        likelihood = log_of_pixel.sum(2, keepdim=True).exp().expand(-1, slots, -1, -1, -1)
        weighed = mask * whole.exp()
        others = (weighed.sum(1, keepdim=True) - weighed) / (1 - mask + 1e-5)
        coordinate_2HW = coordinates(image_BCHW.shape[2], image_BCHW.shape[3], image_BCHW.device, image_BCHW.dtype)
        return torch.cat(
            [
                image_BCHW[:, None].expand(-1, slots, -1, -1, -1),
                picture,
                mask,
                mask_logit,
                whole.log_softmax(1),
                normalised(picture_gradient.detach(), over, unbiased=False),
                normalised(mask_gradient.detach(), over, unbiased=False),
                normalised(likelihood, over, unbiased=False).detach(),
                normalised(others, over, unbiased=False).detach(),
                coordinate_2HW.expand(len(image_BCHW), slots, -1, -1, -1),
            ],
            2,
        )
