"""Weights for another resolution or a longer text: learned positions, resized.

Image positions are a grid: bicubic with antialiasing, class tokens kept, as open_clip's `resize_pos_embed`. Text positions are a line:
stretched linearly, as its `resize_text_pos_embed`; the first may stay as they are, since they are the best trained ones (Long-CLIP,
2403.15378, keeps 20 of 77 and stretches the rest fourfold). We depart for shorter texts: theirs are the places at the front, as they
were trained, where open_clip squeezes.

Letters: P positions, L tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.contracts import Tuning
from diptych.core.errors import ConfigError
from diptych.train.options import TrainOptions
from diptych.train.weights import copy_matching_tensors, start_lines, start_tensors

IMAGE, TEXT = "position_PD", "position_LD"
"""How the names of our towers' positions end."""
CLASS_TOKENS = 3
"""A grid is looked for after this many tokens, at most."""


def start_from(
    options: TrainOptions,
    tuning: Tuning,
    model: nn.Module,
    say: Callable[[str], None],
    renamed: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
) -> list[str]:
    """Load the initial weights into a model, position embeddings resized to it, and report what they were. Returns the names taken.

    renamed  the recipe's `fitted`
    """
    tensors = renamed(start_tensors(options.init, download=options.download))
    tensors = fitted(tensors, model.state_dict(), keep=tuning.keep_positions, say=say)
    lines = start_lines(tensors, model, options.init)
    taken = copy_matching_tensors(tensors, model)
    say("; ".join(lines))
    return taken


def fitted(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], *, keep: int = 0, say: Callable[[str], None]
) -> dict[str, Tensor]:
    """The tensors of a start, positions in the sizes that the model has; `say` gets a line for each that was resized.

    keep  places of the text that stay as they are when others are stretched
    Raises ConfigError for image positions that are no square grid.
    """
    out = dict(tensors)
    for name, mine in own.items():
        theirs = next((key for key in (name, name.removeprefix("encoder.")) if key in out), None)
        if theirs is None or not name.endswith((IMAGE, TEXT)):
            continue
        given = out[theirs]
        if given.ndim != 2 or mine.ndim != 2 or given.shape[0] == mine.shape[0] or given.shape[1] != mine.shape[1]:
            continue
        out[theirs] = resized_grid(given, len(mine)) if name.endswith(IMAGE) else resized_line(given, len(mine), keep=keep)
        note = f", the first {keep} as they were" if keep and name.endswith(TEXT) else ""
        say(f"{name}: {len(given)} positions become {len(mine)}{note}")
    return out


def resized_grid(position_PD: Tensor, patches: int) -> Tensor:
    """Positions of a square of patches in another number, class tokens in front as they were."""
    for front in range(CLASS_TOKENS + 1):
        old, new = math.isqrt(max(len(position_PD) - front, 0)), math.isqrt(max(patches - front, 0))
        if old * old == len(position_PD) - front and new * new == patches - front and old and new:
            grid_1DHW = position_PD[front:].T.reshape(1, -1, old, old)
            wide = F.interpolate(grid_1DHW.float(), size=(new, new), mode="bicubic", antialias=True, align_corners=False)
            return torch.cat([position_PD[:front], wide.flatten(2)[0].T.to(position_PD.dtype)])
    raise ConfigError(
        f"{len(position_PD)} image positions cannot become {patches}: they do not form a square of patches with class tokens"
    )


def resized_line(position_LD: Tensor, length: int, *, keep: int = 0) -> Tensor:
    """Positions of a text of another length: the first of them for a shorter one, stretched for a longer one.

    keep  0 stretches all, with the half-pixel grid of `F.interpolate`, as open_clip does; more leaves this many as they are and
          stretches the others so that place keep + i * factor is the old keep + i, with the last step continued beyond the end,
          as Long-CLIP does
    """
    old = len(position_LD)
    if length <= old:
        return position_LD[:length]
    wide_LD = position_LD.to(torch.promote_types(position_LD.dtype, torch.float32))
    if not keep:
        stretched = F.interpolate(wide_LD.T.unsqueeze(0), size=length, mode="linear", align_corners=False)[0].T
        return stretched.to(position_LD.dtype)
    if keep > old - 2:
        raise ConfigError(
            f"keep_positions is {keep}, the start has {old} (expected at most {old - 2}: two are needed to stretch)"
        )
    place_L = torch.arange(length - keep, dtype=torch.float64) * ((old - keep) / (length - keep))
    left_L = place_L.floor().long().clamp(max=old - keep - 2)
    share_L1 = (place_L - left_L).to(wide_LD)[:, None]  # above 1 beyond the last
    rest_LD = wide_LD[keep:]
    return torch.cat([wide_LD[:keep], rest_LD[left_L] * (1 - share_L1) + rest_LD[left_L + 1] * share_L1]).to(position_LD.dtype)
