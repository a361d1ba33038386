"""Fine-tuning of an image encoder with a linear head, for protocols that compare encoders (BenchX, 2410.21969).

Letters: B batch, N items, C channel, H W, D width, K labels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.randomness import keyed_rng
from diptych.models.io.device import choose_device
from diptych.models.io.inference import evaluating
from diptych.tasks._scoring.chest_metrics import Bools, Floats, macro_auroc
from diptych.tasks.domains.head_images import HeadImages


@dataclass(frozen=True, slots=True)
class HeadSwitches:
    """Head settings of the hyperparameter search for each encoder.

    norm          LayerNorm (eps 1e-6) before the head
    small_head    initialise weights of the head from a truncated normal with standard deviation 2e-5, otherwise with PyTorch's default
    encoder_rate  factor of the encoder's learning rate; 0 freezes the encoder
    """

    norm: bool
    small_head: bool
    encoder_rate: float

    @property
    def name(self) -> str:
        """In words, for tables.

        >>> HeadSwitches(True, False, 0.1).name
        'norm, encoder x 0.1'
        """
        parts = [word for word, on in (("norm", self.norm), ("small head", self.small_head)) if on]
        return ", ".join([*parts, f"encoder x {self.encoder_rate:g}" if self.encoder_rate else "frozen"])


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Optimisation of one run: SGD with momentum .9, gradients clipped at norm 1, linear warm-up and cosine decay. Validation
    AUROC is measured every `every` epochs from epoch `first` on; training stops after `patience` measurements without
    improvement.

    cosine_steps  step at which the cosine reaches its minimum, after which it rises again; 0 uses the length of the run
    """

    lr: float = 1e-2
    batch_size: int = 64
    epochs: int = 200
    warmup: int = 50
    first: int = 10
    every: int = 5
    patience: int = 10
    cosine_steps: int = 0


class EncoderWithHead(nn.Module):
    """A tower (absent for precomputed vectors) with a linear head on its pooled vector."""

    def __init__(self, tower: nn.Module | None, width: int, labels: int, switches: HeadSwitches) -> None:
        super().__init__()
        self.tower = tower
        self.norm = nn.LayerNorm(width, eps=1e-6) if switches.norm else nn.Identity()
        self.head = nn.Linear(width, labels)
        if switches.small_head:
            nn.init.trunc_normal_(self.head.weight, std=2e-5)

    def forward(self, x: Tensor) -> Tensor:
        pooled_BD = x if self.tower is None else self.tower(x).pooled_BD
        logit_BK: Tensor = self.head(self.norm(pooled_BD))
        return logit_BK


def fine_tuned_scores(
    train: HeadImages,
    truth_NK: Bools,
    rows: Sequence[int],
    val: HeadImages,
    val_truth_NK: Bools,
    tests: Sequence[HeadImages],
    switches: HeadSwitches,
    settings: FineTuning,
    seed: int,
) -> list[Floats]:
    """Scores [N, K] of the validation images and of each of `tests`, from the best validation epoch. The model is not modified.

    rows  rows of `train` to train on
    """
    view_rng = keyed_rng("views of training images", seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tower = None if train.tower is None else copy.deepcopy(train.tower)
        width = len(train.batch([0])[0]) if tower is None else tower.width
        device = choose_device() if tower is None else next(tower.parameters()).device
        network = EncoderWithHead(tower, width, truth_NK.shape[1], switches).to(device)
        if tower is not None:
            tower.requires_grad_(switches.encoder_rate > 0)
        groups: list[dict[str, Any]] = [{"params": [*network.norm.parameters(), *network.head.parameters()], "scale": 1.0}]
        if tower is not None and switches.encoder_rate:
            groups.append({"params": list(tower.parameters()), "scale": switches.encoder_rate})
        optimiser = torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)
        best, stale, kept = -math.inf, 0, copy.deepcopy(network.state_dict())
        steps_an_epoch = math.ceil(len(rows) / settings.batch_size)
        for epoch in range(settings.epochs):
            order = torch.randperm(len(rows)).tolist()
            network.train()
            if tower is not None and not switches.encoder_rate:
                tower.eval()
            for number in range(steps_an_epoch):
                part = [rows[at] for at in order[number * settings.batch_size : (number + 1) * settings.batch_size]]
                step, total = epoch * steps_an_epoch + number, settings.cosine_steps or settings.epochs * steps_an_epoch
                for group in optimiser.param_groups:
                    group["lr"] = settings.lr * group["scale"] * learning_rate_share(step, total, settings.warmup)
                target_BK = torch.from_numpy(truth_NK[part]).float().to(device)
                logit_BK = network(train.training_batch(part, view_rng).to(device))
                loss = F.binary_cross_entropy_with_logits(logit_BK, target_BK)
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
                optimiser.step()
            last = epoch + 1 == settings.epochs
            if not last and (epoch + 1 < settings.first or (epoch + 1 - settings.first) % settings.every):
                continue
            value = macro_auroc(scores_of(network, val, settings.batch_size), val_truth_NK)
            if value > best:
                best, stale, kept = value, 0, copy.deepcopy(network.state_dict())
            else:
                stale += 1
                if stale >= settings.patience:
                    break
        network.load_state_dict(kept)
        return [scores_of(network, pictures, settings.batch_size) for pictures in (val, *tests)]


def scores_of(network: EncoderWithHead, pictures: HeadImages, batch_size: int) -> Floats:
    """Probabilities [N, K]."""
    blocks = []
    device = network.head.weight.device
    with torch.no_grad(), evaluating(network):
        for start in range(0, len(pictures), batch_size):
            part = pictures.batch(range(start, min(start + batch_size, len(pictures)))).to(device)
            blocks.append(network(part).sigmoid().cpu())
    scores: Floats = torch.cat(blocks).double().numpy()
    return scores


def learning_rate_share(step: int, total: int, warmup: int) -> float:
    """Learning rate factor: linear warm-up from 0, then half-cosine decay."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
