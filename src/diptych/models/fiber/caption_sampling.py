"""Caption sampling and greedy decoding for FIBER.

Letters: B pictures, N captions, P positions, C channels, L tokens, M choices, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.models.fiber.fiber import Fiber

NEVER = -1e4
"""Logit of what must not be drawn, as released."""


@dataclass(frozen=True, slots=True)
class SampledCaptions:
    """Captions [N, L], begin mark first, padded; chosen_NM is True where the token after the first ones was chosen: words and end
    mark."""

    ids_NL: Tensor
    chosen_NM: Tensor


@torch.no_grad()
def sample_captions(
    fiber: Fiber,
    image_BPC: Tensor,
    begin: Sequence[int],
    *,
    length: int,
    end_id: int,
    pad_id: int,
    count: int = 1,
    likeliest: bool = False,
) -> SampledCaptions:
    """`count` captions of each picture, those of a picture side by side, from torch's generator; `likeliest` takes no chances.

    image_BPC  what `Fiber.image_tokens` gives
    A caption ends with the end mark or at `length`. Neither the mask nor padding is ever drawn; in the release padding may be, and ends a
    caption, too.
    """
    if len(begin) < 1 or length <= len(begin):
        raise ConfigError(
            f"captions of {length} tokens behind {len(begin)} of the begin mark (expected one or more, and room behind it)"
        )
    image_NPC = image_BPC.repeat_interleave(count, 0)
    ids_NL = image_NPC.new_full((len(image_NPC), length), pad_id, dtype=torch.int64)
    ids_NL[:, : len(begin)] = torch.tensor(begin, device=ids_NL.device)
    chosen_NM = torch.zeros(len(ids_NL), length - 1, dtype=torch.bool, device=ids_NL.device)
    going_N = torch.ones(len(ids_NL), dtype=torch.bool, device=ids_NL.device)
    for position in range(len(begin), length):
        prefix_NL = ids_NL[:, :position]
        logit_NV = fiber.write(image_NPC, prefix_NL, torch.ones_like(prefix_NL, dtype=torch.bool))[:, -1].float()
        logit_NV[:, [fiber.text.mask_id, pad_id]] = NEVER
        next_N = logit_NV.argmax(1) if likeliest else torch.multinomial(logit_NV.softmax(1), 1)[:, 0]
        ids_NL[:, position] = torch.where(going_N, next_N, pad_id)
        chosen_NM[:, position - 1] = going_N
        going_N = going_N & (next_N != end_id)
        if not bool(going_N.any()):
            break
    return SampledCaptions(ids_NL, chosen_NM)
