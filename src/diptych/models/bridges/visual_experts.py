"""Separate feed-forward experts for image tokens in every layer of a language model (Mono-InternVL, 2410.08202).

Letters: B batch, L positions, N positions of all rows, D width.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.bridges.calibration import decoder_layers

ExpertStart = Literal["copy", "fresh"]
"""Initialisation of the experts: copies of the text feed-forward layers, which changes no output, or random weights."""


class TokenRouter:
    """Positions of image tokens in the current batch, shared by the expert layers of a model."""

    def __init__(self) -> None:
        self.slot_BL: Tensor | None = None
        self._split: tuple[Tensor, Tensor] | None = None

    def set(self, slot_BL: Tensor | None, split: tuple[Tensor, Tensor] | None = None) -> None:
        """Sets the image positions of the segment that is read next; None: words only. Call it again for each later segment of a
        cached dialogue, so that the experts also see images of later turns. `split`: see `Layout`."""
        self.slot_BL, self._split = slot_BL, split

    def split(self, rows: int, length: int) -> tuple[Tensor, Tensor] | None:
        """Places of words and of images, counted over all rows; None if there are words only.

        One place after a longer segment is a word that is being written. In beam search a row is repeated. Raises ShapeError if
        the positions that were set do not match those that are read.
        """
        if self.slot_BL is None or (length == 1 and self.slot_BL.shape[1] > 1):
            return None
        if self.slot_BL.shape[1] != length or rows % len(self.slot_BL):
            raise ShapeError(
                f"rows of {length} places are read, {list(self.slot_BL.shape)} were announced (expected the same length)"
            )
        if self._split is None or len(self._split[0]) + len(self._split[1]) != rows * length:
            slot_N = self.slot_BL.repeat_interleave(rows // len(self.slot_BL), 0).flatten()
            self._split = (~slot_N).nonzero()[:, 0], slot_N.nonzero()[:, 0]
        return self._split if len(self._split[1]) else None


class RoutedFeedForward(nn.Module):
    """`words` for words and `visual` for image tokens: hard routing, no gate. Each computes its own tokens only."""

    def __init__(self, words: nn.Module, visual: nn.Module, router: TokenRouter) -> None:
        super().__init__()
        self.words, self.visual = words, visual
        self._router = (router,)  # no module, and shared

    def forward(self, x_BLD: Tensor) -> Tensor:
        split = self._router[0].split(*x_BLD.shape[:2])
        if split is None:
            given: Tensor = self.words(x_BLD)
            return given
        word_N, slot_N = split
        flat_ND = x_BLD.flatten(0, 1)
        word_ND, seen_ND = self.words(flat_ND[word_N]), self.visual(flat_ND[slot_N])
        made_ND: Tensor = (
            word_ND.new_empty(flat_ND.shape).index_copy(0, word_N, word_ND).index_copy(0, slot_N, seen_ND.to(word_ND.dtype))
        )
        return made_ND.view(x_BLD.shape[0], x_BLD.shape[1], -1)


def insert_visual_experts(inner: Any, *, start: ExpertStart = "copy") -> TokenRouter:
    """Adds an expert next to the feed-forward layer of every layer; returns the router, which must be given the image positions.

    Raises ConfigError for a language model whose layers have no `mlp`, or that has experts already.
    """
    router = TokenRouter()
    for layer in decoder_layers(inner):
        words = getattr(layer, "mlp", None)
        if not isinstance(words, nn.Module) or isinstance(words, RoutedFeedForward):
            kind = getattr(inner.config, "model_type", type(inner).__name__)
            raise ConfigError(
                f"visual experts do not fit the layers of '{kind}' (expected LLaMA, Mistral, Qwen2 or Gemma, without)"
            )
        visual = copy.deepcopy(words)
        if start == "fresh":
            for module in visual.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=float(getattr(inner.config, "initializer_range", 0.02)))
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        layer.mlp = RoutedFeedForward(words, visual, router)
    return router


def expert_parameters(inner: nn.Module) -> list[nn.Parameter]:
    """Parameters of all visual experts."""
    return [p for module in inner.modules() if isinstance(module, RoutedFeedForward) for p in module.visual.parameters()]


def attention_parameters(inner: nn.Module) -> list[nn.Parameter]:
    """Parameters of all layers' attention."""
    return [p for layer in decoder_layers(inner) for p in layer.get_submodule("self_attn").parameters()]


@torch.no_grad()
def text_drift(before: Tensor, after: Tensor) -> float:
    """Mean change of the loss on texts without images, in nats per text; 0 if the language model forgot nothing."""
    return float((after - before).mean())
