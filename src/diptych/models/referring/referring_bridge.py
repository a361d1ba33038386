"""Bridge with region prompts, whose reference tokens are decoded into boxes, masks and key points (REF-VLM, 2503.07413).

Letters: B batch, L positions, N regions, G tokens per region, P patches, F features, D width of the language model,
R references, H W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.core.rows import Rows
from diptych.data.text.prompts.layout import Layout
from diptych.models.bridges.answers import answer_nll
from diptych.models.bridges.bridge import AnswerLikelihood, Bridge
from diptych.models.bridges.splice import norm_kurtosis, norm_ratio
from diptych.models.detection.backbone import DetectionBackbone
from diptych.models.referring.point_decoder import DecodedPoints, TargetPointDecoder
from diptych.models.referring.region_prompts import RegionPrompts
from diptych.models.referring.target_decoders import TargetBoxDecoder, TargetMaskDecoder


@dataclass(frozen=True, slots=True)
class ReferringFeatures(AnswerLikelihood):
    """box_BR4    box of each reference, cxcywh in 0..1
    mask_BRHW  mask logits of the first references of each row, up to the size of the mask decoder; None without that decoder
    points     key points of the first references of each row, up to the size of their decoder; None without that decoder
    open_BR    True for the references of a row, in order
    chance_BR  probability of each reference given what precedes it
    """

    box_BR4: Rows[Tensor]
    mask_BRHW: Rows[Tensor] | None
    points: DecodedPoints | None
    open_BR: Rows[Tensor]
    chance_BR: Rows[Tensor]


class ReferringBridge(Bridge):
    """A `Bridge` with region prompts, an image pyramid and decoders.

    regions       region prompts, which go through the connector with the image's patches
    backbone      reads the picture at a larger size; the decoders read its maps and, last, that of the image encoder
    reference_id  of the token whose hidden state is decoded
    decodes       regions and decoders are trained; otherwise they get no gradient, as in the caption stage
    fixed_backbone  the backbone gets no gradient in any stage
    """

    def __init__(
        self,
        *parts: Any,
        regions: RegionPrompts,
        backbone: DetectionBackbone,
        boxes: TargetBoxDecoder,
        masks: TargetMaskDecoder | None,
        points: TargetPointDecoder | None = None,
        reference_id: int,
        decodes: bool = True,
        fixed_backbone: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(*parts, **options)
        self.regions, self.backbone, self.boxes, self.masks, self.points = regions, backbone, boxes, masks, points
        self.reference_id = reference_id
        for part in (regions, backbone, boxes, masks, points):
            if part is not None and (not decodes or (part is backbone and fixed_backbone)):
                part.requires_grad_(False)

    def refer(
        self,
        image_BCHW: Tensor,
        large_BCHW: Tensor,
        layout: Layout,
        most: int,
        region_BNHW: Tensor | None = None,
        given_BN: Tensor | None = None,
    ) -> ReferringFeatures:
        """Return the likelihood of answers, and boxes, masks and key points of their references.

        image_BCHW   for the image encoder; large_BCHW for the backbone
        most         references per row that are decoded; further ones are dropped
        region_BNHW  masks of regions; given_BN: True for real ones, whose tokens follow those of the image in a row's slots
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and "encoder" not in self.still):
            feature_BPF = self.encoder(image_BCHW).tokens_BPD
        if self.blind:
            feature_BPF = torch.zeros_like(feature_BPF)
        embed_BLD, ratio, kurtosis = self._spliced(feature_BPF, layout, region_BNHW, given_BN)
        state_BLD = self.language.inner.base_model(
            inputs_embeds=embed_BLD,
            attention_mask=layout.mask_BL.long(),
            position_ids=layout.positions(),
            use_cache=False,
        ).last_hidden_state
        head = self.language.inner.get_output_embeddings()
        row_A, place_A = layout.answer_BL[:, 1:].nonzero(as_tuple=True)
        logit_AV, target_A = head(state_BLD[row_A, place_A]), layout.id_BL[:, 1:][row_A, place_A]
        nll_B, count_B = answer_nll(logit_AV, target_A, row_A, len(layout))
        hit_A = (logit_AV.detach().argmax(1) == target_A).to(nll_B.dtype)
        hit_B = torch.zeros_like(nll_B).index_add(0, row_A, hit_A).detach()

        reference_BL = (layout.id_BL == self.reference_id) & layout.mask_BL
        place_BR = reference_BL.int().sort(dim=1, descending=True, stable=True).indices[:, :most]
        open_BR = reference_BL.gather(1, place_BR)
        state_BRD = _gathered(state_BLD, place_BR)
        before_BRV = head(_gathered(state_BLD, (place_BR - 1).clamp_min(0)).detach())
        chance_BR = before_BRV.float().softmax(-1)[..., self.reference_id].detach() * open_BR
        maps = self.maps(feature_BPF, large_BCHW)
        mask_BRHW = None
        if self.masks is not None:
            count = min(most, self.masks.queries.position.num_embeddings)
            mask_BRHW = self.masks(maps, state_BRD[:, :count], open_BR[:, :count])
        points = None
        if self.points is not None:
            count = min(most, self.points.size.point_queries)
            points = self.points(maps, state_BRD[:, :count], open_BR[:, :count])
        box_BR4 = self.boxes(maps, state_BRD, open_BR)
        return ReferringFeatures(nll_B, count_B, hit_B, ratio, kurtosis, box_BR4, mask_BRHW, points, open_BR, chance_BR)

    def maps(self, feature_BPF: Tensor, large_BCHW: Tensor) -> list[Tensor]:
        """Return the maps of the backbone, then the patches of the image encoder as a square map."""
        side = round(feature_BPF.shape[1] ** 0.5)
        if self.blind:
            large_BCHW = torch.zeros_like(large_BCHW)
        return [*self.backbone(large_BCHW), feature_BPF.mT.unflatten(2, (side, side))]

    def _spliced(
        self, feature_BPF: Tensor, layout: Layout, region_BNHW: Tensor | None, given_BN: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return input embeddings [B, L, D], and norm ratio and kurtosis of the image's tokens."""
        patches = feature_BPF.shape[1]
        there_BK = torch.ones(feature_BPF.shape[:2], dtype=torch.bool, device=feature_BPF.device)
        if region_BNHW is not None and given_BN is not None:
            prompt_BNGF = self.regions(feature_BPF, region_BNHW)
            feature_BPF = torch.cat([feature_BPF, prompt_BNGF.flatten(1, 2)], 1)
            there_BK = torch.cat([there_BK, given_BN.repeat_interleave(self.regions.count, 1)], 1)
        token_BKD = self.connector(feature_BPF)
        word_BLD = self.language.embed(layout.id_BL)
        if layout.slot_BL.device.type == "cpu" and not torch.equal(layout.slot_BL.sum(1), there_BK.sum(1)):
            raise ShapeError(f"rows have {layout.slot_BL.sum(1).tolist()} slots for {there_BK.sum(1).tolist()} tokens")
        order_N = (
            (~there_BK).flatten().int().sort(stable=True).indices
        )  # real tokens first, without waiting for the GPU to count them
        source_ND = token_BKD.flatten(0, 1)[order_N].to(word_BLD.dtype)
        embed_BLD = word_BLD.masked_scatter(layout.slot_BL[..., None], source_ND)
        picture_BKD = token_BKD[:, :patches]
        return embed_BLD, norm_ratio(picture_BKD, word_BLD, layout.mask_BL & ~layout.slot_BL), norm_kurtosis(picture_BKD)

    def embed_request(
        self, image_BCHW: Tensor, layout: Layout, region_BNHW: Tensor | None = None, given_BN: Tensor | None = None
    ) -> Tensor:
        """Return input embeddings [B, L, D] of requests to be answered."""
        feature_BPF = self.encoder(image_BCHW).tokens_BPD
        feature_BPF = torch.zeros_like(feature_BPF) if self.blind else feature_BPF
        return self._spliced(feature_BPF, layout, region_BNHW, given_BN)[0]


def _gathered(state_BLD: Tensor, place_BR: Tensor) -> Tensor:
    return state_BLD.gather(1, place_BR[..., None].expand(-1, -1, state_BLD.shape[2]))
