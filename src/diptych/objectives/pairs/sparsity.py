"""Few words per item, and not the same ones for all: the FLOPS regulariser (Paria et al. 2020, 2004.05665).

    sum over words v of ( mean over items n of |w_nv| )^2

It is the expected number of products of an inverted index, smooth. On vectors of norm 1, as LexLIP takes it, it is at most 1 and weak;
on vectors as long as they come it also shortens them.  Letters: N items, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, mean_over_processes

Over = Literal["batch", "process"]


def flops(weight_NV: Tensor, *, over: Over = "batch", process_group: Group = None) -> Tensor:
    """The regulariser of the global batch.

    over  "batch": the mean is over the items of all processes, so that their number changes nothing; "process": each process takes its
          own items, and the mean of the results counts (LexLIP's code)
    """
    if weight_NV.ndim != 2 or not len(weight_NV):
        raise ShapeError(f"weights must be [N, V] with an item at least, got {list(weight_NV.shape)}")
    if over not in ("batch", "process"):
        raise ConfigError(f"over is {over!r} (expected batch | process)")
    mean_V = weight_NV.abs().mean(0)
    if over == "process":
        return mean_over_processes(mean_V.square().sum(), process_group)
    return mean_over_processes(mean_V, process_group).square().sum()
