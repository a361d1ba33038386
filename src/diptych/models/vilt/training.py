"""ViLT's pre-training: masked words beside the own picture, and image-text matching with half the pairs wrong (2102.03334).

Letters: B N batch, C channel, H W, K patches that are read, P with the class token, L tokens, M hidden words, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from diptych.core.rows import Rows
from diptych.models.vilt.vilt import Vilt


@dataclass(frozen=True, slots=True)
class ViltFeatures:
    """word_NMV   logits of hidden words
    answer_N2     logits of "does not fit" and "fits", for the picture that each text was shown with
    text_NLD, image_NPD   tokens of the text and of the patches in the same reading, without the class token
    there_NP      which patches are real
    """

    word_NMV: Rows[Tensor]
    answer_N2: Rows[Tensor]
    text_NLD: Rows[Tensor]
    image_NPD: Rows[Tensor]
    there_NP: Rows[Tensor]


class ViltTraining(nn.Module):
    """A `Vilt`, read twice a step: masked text with its own picture, whole text with a picture that may be wrong."""

    def __init__(self, vilt: Vilt) -> None:
        super().__init__()
        self.vilt = vilt

    def forward(
        self,
        image_BCHW: Tensor,
        grid_B2: Tensor,
        text_BL: Tensor,
        mask_BL: Tensor,
        masked_BL: Tensor,
        hidden_BL: Tensor,
        place_BM: Tensor,
        patch_BK: Tensor,
        again_BK: Tensor,
        there_BK: Tensor,
        shown_B: Tensor,
    ) -> ViltFeatures:
        """patch_BK, again_BK  patches of either reading; there_BK: which of them are real
        shown_B            the row whose picture each text is shown with in the second reading
        """
        vilt, length = self.vilt, text_BL.shape[1]
        assert vilt.fits is not None
        guessing_BSD = vilt.read(
            vilt.text_features(masked_BL, hidden_BL), mask_BL, vilt.picture_features(image_BCHW, grid_B2, patch_BK, there_BK)
        )
        pictures = vilt.picture_features(image_BCHW, grid_B2, again_BK, there_BK).rows(shown_B)
        fitting_BSD = vilt.read(vilt.text_features(text_BL), mask_BL, pictures)
        return ViltFeatures(
            vilt.guessed(guessing_BSD, place_BM),
            vilt.fits(vilt.pooled(fitting_BSD)),
            fitting_BSD[:, :length],
            fitting_BSD[:, length + 1 :],
            pictures.there_BP[:, 1:],
        )
