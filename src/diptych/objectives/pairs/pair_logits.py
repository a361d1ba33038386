"""The logits that `info_nce` and `sigmoid_pairs` are made from, as one dense matrix: for looking at them, or for a loss of your own.

    Z_ij = scale v_i . t_j + bias,   -inf where a pair is left out

The losses form it a tile at a time and never keep it; this costs memory with the square of the batch.

Letters: N own images, M own texts, C texts of all processes (partners first, in rank order, then further texts), D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.objectives.gather import Group
from diptych.objectives.pairs.pairing import Same, as_scalar, gather_pairs


def pair_logits(
    image_ND: Tensor,
    text_MD: Tensor,
    *,
    scale: Tensor | float,
    bias: Tensor | float = 0.0,
    group_N: Tensor | None = None,
    group_M: Tensor | None = None,
    same: Same = "mask",
    keep_NM: Tensor | None = None,
    process_group: Group = None,
) -> Tensor:
    """logit_NC, with gradients to features, scale and bias; arguments and errors are those of `info_nce`.

    At least float32, under autocast too. Row i's partner stands in column rank * N + i. With one process

        (cross_entropy(Z, arange(N)) + cross_entropy(Z[:, :N].T, arange(N))) / 2

    is `info_nce`, and the sum of softplus(Z) less the diagonal, over N, is `sigmoid_pairs`.
    """
    paired = gather_pairs(
        image_ND,
        text_MD,
        group_N=group_N,
        group_M=group_M,
        same=same,
        keep_NM=keep_NM,
        target_NM=None,
        extra_text=None,
        extra_image=None,
        tile=max(1, len(image_ND)),
        process_group=process_group,
    )
    image_RD, text_CD = paired.image_RD, paired.text_CD
    dtype = torch.promote_types(torch.promote_types(image_RD.dtype, text_CD.dtype), torch.float32)
    scale_1, bias_1 = (as_scalar(x, name, device=image_ND.device) for x, name in ((scale, "scale"), (bias, "bias")))
    with torch.autocast(image_ND.device.type, enabled=False):
        logit_NC = (image_RD.to(dtype) * scale_1.to(dtype).reshape(())) @ text_CD.to(dtype).T + bias_1.to(dtype).reshape(())
    out_NC = paired.pairing.left_out(0, len(image_RD), len(text_CD))
    return logit_NC if out_NC is None else logit_NC.masked_fill(out_NC, -torch.inf)
