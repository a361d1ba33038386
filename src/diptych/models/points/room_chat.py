"""Language model over the objects of a room, each after its identifier (Chat-3D v2, 2312.08168).

Letters: B rooms, M objects, K points of an object, F features, C captions, L tokens, D width of the language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.rows import Rows
from diptych.data.text.prompts.layout import Layout
from diptych.models.bridges.answers import answer_nll
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.bridges.splice import splice
from diptych.models.points.object_tokens import ObjectTokens, ObjectTokenSettings
from diptych.models.points.point_bert import GroupEncoder

Trained = Literal["tokens", "all"]


@dataclass(frozen=True, slots=True)
class RoomChatFeatures:
    """nll_B, count_B, hit_B  of answers: negative log-likelihood, number of tokens, and how many of them are the most likely
    token
    cosine_BM    of each object's token with the mean embedding of its captions; there_BM: objects that have captions
    """

    nll_B: Rows[Tensor] | None
    count_B: Rows[Tensor] | None
    hit_B: Rows[Tensor] | None
    cosine_BM: Rows[Tensor] | None
    there_BM: Rows[Tensor] | None


class RoomChat(nn.Module):
    """Language model with tokens of objects inserted among the words of a prompt.

    trained  "tokens": the language model is frozen, but gradients flow through it (Chat-3D v2.0); "all": it is trained, too
    points   features of objects are computed from their points by a small network that is trained with the rest; False: they are
    given
    """

    def __init__(
        self, language: LanguageModel, settings: ObjectTokenSettings, *, trained: Trained = "tokens", points: bool = False
    ) -> None:
        super().__init__()
        self.language, self.settings, self.trained, self.points = language, settings, trained, points
        with torch.no_grad():
            table = language.inner.get_input_embeddings().weight
            norm = 1.0 if table.is_meta else float(table.float().norm(dim=1).mean())
        self.tokens = ObjectTokens(settings, language.width, norm)
        self.point_encoder = GroupEncoder(6, settings.feature_width) if points else None
        if trained == "tokens":
            language.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.trained == "tokens":
            self.language.eval()
        return self

    def things(self, feature: Tensor, box_BM6: Tensor, colour_BM3: Tensor, open_BM: Tensor) -> Tensor:
        """Return tokens [B, M, count, D]; `feature` is [B, M, F], or points [B, M, K, 6] for a network that reads points."""
        feature_BMF = feature if self.point_encoder is None else self.point_encoder(feature)
        tokens: Tensor = self.tokens(feature_BMF, box_BM6, colour_BM3, open_BM)
        return tokens

    def embed(self, token_BMCD: Tensor, sequence_BM: Tensor, open_BM: Tensor, layout: Layout) -> Tensor:
        """Return input embeddings [B, L, D], with tokens of objects in the slots of the rows, in the order of `sequence_BM`."""
        order = sequence_BM[..., None, None].expand_as(token_BMCD)
        ordered_BMCD, there_BM = token_BMCD.gather(1, order), open_BM.gather(1, sequence_BM)
        words_BLD = self.language.embed(layout.id_BL)
        if there_BM.device.type == "cpu":
            token_NCD = ordered_BMCD[there_BM]
        else:  # existing ones before the others, without an index of unknown length, for which the host would wait
            token_NCD = ordered_BMCD.flatten(0, 1)[(~there_BM).flatten().long().argsort(stable=True)]
        return splice(words_BLD, token_NCD, layout.slot_BL, there_BM.sum(1))

    def forward(
        self,
        feature: Tensor,
        box_BM6: Tensor,
        colour_BM3: Tensor,
        open_BM: Tensor,
        sequence_BM: Tensor | None = None,
        layout: Layout | None = None,
        caption_BMCL: Tensor | None = None,
        caption_mask_BMCL: Tensor | None = None,
    ) -> RoomChatFeatures:
        """sequence_BM  indices of objects in the order in which they are read
        caption_BMCL, caption_mask_BMCL  captions of objects, for the alignment of their tokens; without them, answers of the rows
        """
        if caption_BMCL is not None and caption_mask_BMCL is not None:
            feature_BMF = feature if self.point_encoder is None else self.point_encoder(feature)
            own_BMD = self.tokens.attributes(feature_BMF, box_BM6, colour_BM3)
            target_BMD, there_BM = self.caption_means(caption_BMCL, caption_mask_BMCL)
            return RoomChatFeatures(None, None, None, F.cosine_similarity(own_BMD, target_BMD, dim=-1), there_BM)
        assert sequence_BM is not None
        assert layout is not None
        embed_BLD = self.embed(self.things(feature, box_BM6, colour_BM3, open_BM), sequence_BM, open_BM, layout)
        logit_AV, target_A, row_A = self.language.answers(embed_BLD, layout)
        nll_B, count_B = answer_nll(logit_AV, target_A, row_A, len(layout))
        hit_A = (logit_AV.detach().argmax(1) == target_A).to(nll_B.dtype)
        hit_B = torch.zeros_like(nll_B).index_add(0, row_A, hit_A).detach()
        return RoomChatFeatures(nll_B, count_B, hit_B, None, None)

    @torch.no_grad()
    def caption_means(self, caption_BMCL: Tensor, mask_BMCL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean caption embedding of each object [B, M, D] (mean over tokens, then captions),
        and which objects have a caption [B, M].
        """
        weight_BMCL = mask_BMCL.to(self.language.inner.get_input_embeddings().weight.dtype)
        embedded = self.language.embed(caption_BMCL)
        mean_BMCD = (embedded * weight_BMCL[..., None]).sum(-2) / weight_BMCL.sum(-1, keepdim=True).clamp_min(1)
        there_BMC = mask_BMCL.any(-1)
        mean_BMD = (mean_BMCD * there_BMC[..., None]).sum(2) / there_BMC.sum(2, keepdim=True).clamp_min(1)
        return mean_BMD, there_BMC.any(-1)
