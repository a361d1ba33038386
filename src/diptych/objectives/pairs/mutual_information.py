"""One objective of which many are special cases: predict another view, text or label (M3I, Su et al., 2022, 2211.09807).

An input x and a target y are seen through transforms; z_x and z_y are what encoders make of them, and a predictor says zhat. Then

    I(z_x; z_y) >= H(z_y) - E[ -log P(z_y | zhat) ].

The second term is what is trained. The first keeps targets apart: it is the log-sum-exp of a softmax over a batch, or a constant where
targets are fixed (labels, words, a vocabulary) or come from a model without gradient (a teacher). What remains to be said is P:

    boltzmann  P(z | zhat) = exp(s zhat . z) / sum over a set Z of exp(s zhat . z')         cross-entropy
    gaussian   P(z | zhat) = N(z; zhat, sigma^2 I), constants left out                      |zhat - z|^2 / (2 sigma^2)

and which set Z is:

    classifier              boltzmann, Z the class embeddings
    CLIP                    boltzmann, Z the texts of the batch, both directions
    InfoNCE                 boltzmann, Z the targets of the batch
    SimCLR                  boltzmann, Z all views of the batch but the input's own
    BEiT                    boltzmann, Z a visual vocabulary
    MAE, BYOL, data2vec     gaussian on pixels or features (sigma^2 = D / 2 for a mean over dimensions, 1/2 for 2 - 2 cos)

The formulas are our reading: no code was released. What implementations get wrong: data of mixed sources need a mask a term, and each
term its own mean over what counts in it (a batch with few labels would otherwise have a small label loss).

Letters: N items of this process, K candidates, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, all_gather, mean_over_processes
from diptych.objectives.pairs.info_nce import info_nce


@dataclass(frozen=True, slots=True)
class MutualInformation:
    """The choice of P and of its set; called on predictions and targets.

    distribution  "boltzmann" or "gaussian"
    candidates    of a boltzmann: the targets of the global "batch", or a "set" that is given with each call
    symmetric     over the batch: also predict the input from the target (CLIP); the mean of both
    variance      sigma^2 of a gaussian
    """

    distribution: Literal["boltzmann", "gaussian"] = "boltzmann"
    candidates: Literal["batch", "set"] = "batch"
    symmetric: bool = False
    variance: float = 1.0

    def __post_init__(self) -> None:
        if self.variance <= 0:
            raise ConfigError(f"variance is {self.variance} (expected above 0)")
        if self.symmetric and (self.distribution, self.candidates) != ("boltzmann", "batch"):
            raise ConfigError("symmetric needs a boltzmann over the batch: a set predicts nothing")

    def __call__(
        self,
        prediction_ND: Tensor,
        target: Tensor,
        *,
        scale: Tensor | float = 1.0,
        set_KD: Tensor | None = None,
        keep_NK: Tensor | None = None,
        counted_N: Tensor | None = None,
        group_N: Tensor | None = None,
        process_group: Group = None,
    ) -> Tensor:
        """The mean over the items of the global batch that count; 0, with a gradient of zeros, where none does.

        target     target_ND for a gaussian or over a batch (row i is item i's); index_N into `set_KD` for a set
        scale      s, 1 / temperature, where rows are of norm 1
        set_KD     the candidates; their gradient is the caller's choice (detach a vocabulary that is fixed)
        keep_NK    of a set: False leaves a candidate out for an item, as SimCLR does with the item itself
        counted_N  False leaves an item out, as input and as a candidate of others
        group_N    over a batch: items of equal id are no negatives of each other
        """
        if self.distribution == "gaussian":
            return self._gaussian(prediction_ND, target, counted_N, process_group)
        if self.candidates == "set":
            if set_KD is None:
                raise ConfigError("a boltzmann over a set needs set_KD")
            return _over_set(prediction_ND, target, set_KD, scale, keep_NK, counted_N, process_group)
        return self._over_batch(prediction_ND, target, scale, counted_N, group_N, process_group)

    def _gaussian(self, prediction_ND: Tensor, target_ND: Tensor, counted_N: Tensor | None, process_group: Group) -> Tensor:
        if prediction_ND.shape != target_ND.shape:
            raise ShapeError(f"predictions {list(prediction_ND.shape)} and targets {list(target_ND.shape)} differ in shape")
        wide = torch.promote_types(prediction_ND.dtype, torch.float32)
        error_N = (prediction_ND.to(wide) - target_ND.to(wide)).square().flatten(1).sum(1) / (2 * self.variance)
        return _mean(error_N, counted_N, process_group)

    def _over_batch(
        self,
        prediction_ND: Tensor,
        target_ND: Tensor,
        scale: Tensor | float,
        counted_N: Tensor | None,
        group_N: Tensor | None,
        process_group: Group,
    ) -> Tensor:
        keep_NM = None
        if counted_N is not None:
            keep_NM = counted_N[:, None] & all_gather(counted_N, process_group).flatten()
        loss_N, _ = info_nce(
            prediction_ND,
            target_ND,
            scale=scale,
            group_N=group_N,
            keep_NM=keep_NM,
            weight_N=None if counted_N is None else counted_N.to(prediction_ND.dtype),
            directions="both" if self.symmetric else "image_to_text",
            reduction="none",
            process_group=process_group,
        )
        return _mean(loss_N, counted_N, process_group)


def _over_set(
    prediction_ND: Tensor,
    index_N: Tensor,
    set_KD: Tensor,
    scale: Tensor | float,
    keep_NK: Tensor | None,
    counted_N: Tensor | None,
    process_group: Group,
) -> Tensor:
    if prediction_ND.shape[1:] != set_KD.shape[1:] or index_N.shape != prediction_ND.shape[:1]:
        shapes = ", ".join(str(list(x.shape)) for x in (prediction_ND, set_KD, index_N))
        raise ShapeError(f"predictions [N, D], a set [K, D] and indices [N] do not fit: {shapes}")
    wide = torch.promote_types(prediction_ND.dtype, torch.float32)
    with torch.autocast(prediction_ND.device.type, enabled=False):
        logit_NK = scale * prediction_ND.to(wide) @ set_KD.to(wide).T
    if keep_NK is not None:
        logit_NK = logit_NK.masked_fill(~keep_NK, -torch.inf)
    known_N = index_N.clamp_min(0)  # what does not count may have no index
    loss_N = -logit_NK.log_softmax(1).gather(1, known_N[:, None]).squeeze(1)
    return _mean(loss_N, counted_N, process_group)


def _mean(value_N: Tensor, counted_N: Tensor | None, process_group: Group) -> Tensor:
    if counted_N is None:
        return mean_over_processes(value_N.mean(), process_group)
    count = mean_over_processes(counted_N.sum().to(value_N), process_group)
    total = mean_over_processes(value_N.masked_fill(~counted_N, 0).sum(), process_group)
    return total / count.clamp_min(torch.finfo(value_N.dtype).tiny)
