"""Modality calibration (MoCa) in a language model: after every layer the image positions are scaled and shifted, those of words are not.

Huang et al., 2024, arXiv 2410.07167.  Letters: B batch, L positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError


class Calibration(nn.Module):
    """scale h + shift, of D dimensions each, at the picture tokens (`slot_BL`).

    Computed in single precision at least, as released, whatever the language model's.

    std  standard deviation of the initial scale around 1 and shift around 0; 0 leaves the language model unchanged
    Does nothing if only one position is read, as for every generated token after the first: those are words. In beam search a row
    is repeated.
    """

    def __init__(self, width: int, *, std: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width) + std * torch.randn(width))
        self.shift = nn.Parameter(std * torch.randn(width))
        self.slot_BL: Tensor | None = None

    def change(self, layer: nn.Module, given: tuple[Any, ...], answer: Any) -> Any:
        """A hook after the layer."""
        whole = isinstance(answer, Tensor)
        state_BLD: Tensor = answer if whole else answer[0]
        if self.slot_BL is None or state_BLD.shape[1] == 1:
            return answer
        slot_BL = self.slot_BL.repeat_interleave(len(state_BLD) // len(self.slot_BL), 0)
        exact_BLD = state_BLD.to(torch.promote_types(state_BLD.dtype, torch.float32))
        changed_BLD = torch.where(slot_BL[..., None], (self.scale * exact_BLD + self.shift).to(state_BLD.dtype), state_BLD)
        return changed_BLD if whole else (changed_BLD, *answer[1:])


def insert_calibrations(inner: Any, width: int, *, std: float = 0.0) -> nn.ModuleList:
    """Adds a calibration after every layer; returns the list of them, which has to be saved with the model."""
    calibrations = nn.ModuleList()
    for layer in decoder_layers(inner):
        made = Calibration(width, std=std)
        layer.register_forward_hook(made.change)
        calibrations.append(made)
    return calibrations


def decoder_layers(inner: Any) -> Sequence[nn.Module]:
    """The layers of a decoder of transformers, in order. Raises ConfigError for encoder-decoders, and if no layers are found."""
    settings = inner.config.get_text_config()
    count = int(getattr(settings, "num_hidden_layers", 0))
    lists = [module for module in inner.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    if inner.config.is_encoder_decoder or not lists:
        raise ConfigError(
            f"'{settings.model_type}' has no layers that read picture and words in a row (expected a decoder, such as LLaMA)"
        )
    return list(lists[0])
