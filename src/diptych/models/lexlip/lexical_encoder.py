"""Two towers with word heads: pictures and texts as term weights over one vocabulary (LexLIP, ICCV 2023, 2302.02908).

    r = log(1 + relu(max over positions of the head's logit)),   r / |r|  is compared

Letters: B batch, N items, C channel, H W, L tokens, P positions, D width, V vocabulary.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.layers.transformer import l2_normalise
from diptych.models.lexlip.word_head import VocabularyHead
from diptych.models.pairs.matching.fusion_reader import word_table
from diptych.models.towers.outputs import Tower


def lexical_weights(peak_NV: Tensor) -> Tensor:
    """Return term weights from max-pooled logits: log(1 + relu(logit))."""
    wide_NV = peak_NV.to(torch.promote_types(peak_NV.dtype, torch.float32))
    return wide_NV.relu().log1p()


class LexicalEncoder(nn.Module):
    """Image tower and text tower with a word head each; the image head is initialised as a copy of the text head.

    class_token  the image head also reads the tower's pooled vector as one more position; as published, for towers
                 that pool by a class token, it is that token
    `width` is that of the output: the number of words.
    """

    def __init__(self, image_tower: Tower, text_tower: Tower, *, class_token: bool = True) -> None:
        super().__init__()
        table = word_table(text_tower)
        if image_tower.token_width != text_tower.token_width:
            raise ConfigError(
                f"both towers share one kind of word head: the image tower's vectors have {image_tower.token_width} dimensions, "
                f"the text tower's {text_tower.token_width} (expected equal widths)"
            )
        if class_token and image_tower.width != image_tower.token_width:
            raise ConfigError(
                f"the image tower's pooled vector has {image_tower.width} dimensions and its patches {image_tower.token_width} "
                "(expected class_token False for this tower)"
            )
        self.width, self.class_token = table.num_embeddings, class_token
        self.image_tower, self.text_tower = image_tower, text_tower
        self.text_head = VocabularyHead(text_tower.token_width, self.width, table=table.weight.detach())
        self.image_head = copy.deepcopy(self.text_head)

    def image_places(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input of the image head, x_BPD and mask_BP, with the pooled vector last."""
        output = self.image_tower(image_BCHW)
        if not self.class_token:
            return output.tokens_BPD, output.mask_BP
        x_BPD = torch.cat([output.tokens_BPD, output.pooled_BD[:, None]], 1)
        return x_BPD, x_BPD.new_ones(x_BPD.shape[:2], dtype=torch.bool)

    def image_peaks(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maximal logit of each word in the picture and its position, [B, V] each."""
        return self.image_head.peaks(*self.image_places(image_BCHW))

    def text_peaks(self, text: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maximal logit of each word in the text and its position, [B, V] each; padding is ignored."""
        return self.text_head.peaks(self.text_tower(text, mask_BL).tokens_BPD, mask_BL)

    def image_weights(self, image_BCHW: Tensor) -> Tensor:
        """Return term weights >= 0, [B, V], not normalised."""
        return lexical_weights(self.image_peaks(image_BCHW)[0])

    def text_weights(self, text: Tensor, mask_BL: Tensor) -> Tensor:
        """Return term weights >= 0, [B, V], not normalised."""
        return lexical_weights(self.text_peaks(text, mask_BL)[0])

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Unit-norm [B, V]."""
        return l2_normalise(self.image_weights(image_BCHW))

    def encode_text(self, text: Tensor, mask_BL: Tensor) -> Tensor:
        """Unit-norm [B, V]."""
        return l2_normalise(self.text_weights(text, mask_BL))
