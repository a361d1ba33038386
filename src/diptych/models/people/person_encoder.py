"""Two towers of persons, beside them what paints a grey picture and what guesses attributes (PLIP, 2305.08386).

Letters: B batch, N items, C channel, H W, L tokens, M positions that are asked for, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.text.tokens.masked_units import UnitPlan, mask_units
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.people.attribute_reader import AttributePredictor
from diptych.models.people.colour_decoder import ColourDecoder
from diptych.models.towers.clip_resnet import CLIPResNet
from diptych.models.towers.outputs import PairFeatures


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonPairs(PairFeatures):
    """`PairFeatures` whose vectors keep their length, which is a temperature of the identity contrast.

    painted_NCHW  the grey picture as the text paints it; None without a decoder
    word_NMV      logits for hidden words, and asked_NM their ids, -1 where nothing is asked; None without a reader
    class_GD      vectors of the persons to tell apart; None without classes
    """

    painted_NCHW: Rows[Tensor] | None = None
    word_NMV: Rows[Tensor] | None = None
    asked_NM: Rows[Tensor] | None = None
    class_GD: Tensor | None = None


def mask_share(progress: float | Tensor, bounds: tuple[float, float]) -> float | Tensor:
    """Share of phrases masked at a training progress in 0..1: sqrt(progress), stretched from `bounds[0]` to `bounds[1]`.

    >>> mask_share(0.0, (0.2, 0.8)), mask_share(0.25, (0.2, 0.8)), mask_share(1.0, (0.2, 0.8))
    (0.2, 0.5, 0.8)
    """
    return bounds[0] + (bounds[1] - bounds[0]) * progress**0.5


class PersonEncoder(nn.Module):
    """A `DualEncoder` whose image tower gives maps, a `ColourDecoder` and an `AttributePredictor`.

    colour, reader  None leaves the part out
    persons         classes of persons; 0 leaves them out
    bounds          of the share of hidden phrases, which grows with `progress_1`
    scaled          whether the temperature is learned (of the contrast between instances); the identity contrast has none
    """

    progress_1: Tensor

    def __init__(
        self,
        encoder: DualEncoder,
        colour: ColourDecoder | None,
        reader: AttributePredictor | None,
        *,
        persons: int = 0,
        bounds: tuple[float, float] = (0.2, 0.8),
        scaled: bool = False,
    ) -> None:
        super().__init__()
        if colour is not None and not isinstance(encoder.image_tower, CLIPResNet):
            raise ConfigError(
                f"{type(encoder.image_tower).__name__} has no maps to paint from (expected resnet_clip_..., or no colour decoder)"
            )
        self.encoder, self.colour, self.reader, self.bounds = encoder, colour, reader, bounds
        encoder.log_scale.requires_grad_(scaled)
        self.register_buffer("progress_1", torch.zeros(1))
        self.class_GD: nn.Parameter | None = None
        if persons:
            self.class_GD = nn.Parameter(torch.empty(persons, encoder.width))
            nn.init.xavier_uniform_(self.class_GD)

    def forward(
        self, image_BCHW: Tensor, grey_BCHW: Tensor | None, text_BL: Tensor, text_mask_BL: Tensor, plan: UnitPlan | None
    ) -> PersonPairs:
        """`grey_BCHW` is the picture without its colours, None without a decoder; `plan` marks the words that may be masked."""
        encoder, painted_NCHW, word_NMV, asked_NM = self.encoder, None, None, None
        image_ND = encoder.image_projection(encoder.image_tower(image_BCHW).pooled_BD)
        text_ND = encoder.text_projection(encoder.text_tower(text_BL, text_mask_BL).pooled_BD)
        if self.colour is not None and grey_BCHW is not None:
            assert isinstance(encoder.image_tower, CLIPResNet)
            painted_NCHW = self.colour(encoder.image_tower.maps(grey_BCHW), text_ND)
        if self.reader is not None and plan is not None:
            masked = mask_units(text_BL, plan, mask_share(self.progress_1.double(), self.bounds))
            given = (masked.ids_BL, masked.hidden_BL, text_mask_BL, image_ND, masked.place_BM)
            word_NMV, asked_NM = self.reader(encoder.text_tower, *given), masked.word_BM
        return PersonPairs(
            image_ND=image_ND,
            text_ND=text_ND,
            scale=encoder.log_scale.exp(),
            painted_NCHW=painted_NCHW,
            word_NMV=word_NMV,
            asked_NM=asked_NM,
            # `+ 0` makes them an output of this module and not the parameter itself, which sharding may free after forward
            class_GD=None if self.class_GD is None else self.class_GD + 0,
        )
