"""Continual pre-training of a dual encoder: momentum model, frozen reference and queues (CTP; momentum form of ALBEF,
2107.07651).

Letters: B batch, N items, C channel, H W, L tokens, M masked words per text, K queued keys, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Embeddings, Rows
from diptych.models.layers.feature_queue import FeatureQueue, Start
from diptych.models.layers.frozen_modules import FrozenModules, mix_
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import Bias, DualEncoder
from diptych.models.pairs.matching.fusion_reader import FusionEncoder
from diptych.models.towers.outputs import PairFeatures, Tower


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinualPairs(PairFeatures):
    """`PairFeatures`, and the frozen modules' outputs for the same inputs, without gradient.

    momentum_..._ND     of the momentum model; None if none is kept
    queue_..._KD        keys of earlier steps from the momentum model, and their groups; shared by all rows
    reference_..._ND    of the frozen reference; None as long as there is none
    word_NMV            logits of masked words; None without a fusion reader. momentum_word_NMV: the momentum model's
    """

    momentum_image_ND: Embeddings[Tensor] | None = None
    momentum_text_ND: Embeddings[Tensor] | None = None
    queue_image_KD: Tensor | None = None
    queue_text_KD: Tensor | None = None
    queue_group_K: Tensor | None = None
    reference_image_ND: Embeddings[Tensor] | None = None
    reference_text_ND: Embeddings[Tensor] | None = None
    word_NMV: Rows[Tensor] | None = None
    momentum_word_NMV: Rows[Tensor] | None = None


class ContinualEncoder(nn.Module):
    """`DualEncoder` with a masked-language-model reader, companions and queues.

    fusion_layers  blocks that attend to words and patches to predict masked words; 0: no masked language modelling
    projection_bias  which projections have one: "both" in the released code
    companions     names of those to keep: "momentum", "reference" (which `begin_task_` sets), or fewer
    queue          keys of either modality; 0 keeps none. queue_start: "empty" or "random"
    class_token    the reader reads the image tower's pooled vector, too, in front of the patches: the class token, of a tower with one
    post_norm      the reader's blocks are BERT's (`FusionEncoder`)
    mask_id        the vocabulary's mask token; None: a learned vector is used

    `forward` changes no state, so it may be called in chunks and twice; call `follow_` and `remember_` after the optimiser step.
    """

    def __init__(
        self,
        image_tower: Tower,
        text_tower: Tower,
        *,
        width: int,
        scale: float,
        fusion_layers: int,
        fusion_heads: int,
        queue: int,
        companions: Sequence[str],
        projection_bias: Bias = "none",
        queue_start: Start = "empty",
        class_token: bool = False,
        post_norm: bool = False,
        mask_id: int | None = None,
    ) -> None:
        super().__init__()
        self.class_token = class_token
        if class_token and fusion_layers and image_tower.width != image_tower.token_width:
            raise ConfigError(
                f"the pooled vector has {image_tower.width} dimensions and a patch {image_tower.token_width} (expected class_token False)"
            )
        self.encoder = DualEncoder(image_tower, text_tower, width=width, scale=scale, projection_bias=projection_bias)
        self.reader: FusionEncoder | None = None
        if fusion_layers:
            sizes: dict[str, Any] = {"image_width": image_tower.token_width, "layers": fusion_layers, "heads": fusion_heads}
            self.reader = FusionEncoder(text_tower, **sizes, post_norm=post_norm, mask_id=mask_id)
        self.companions = FrozenModules(self, *companions)
        self.queue_image = FeatureQueue(queue, width, start=queue_start) if queue else None
        self.queue_text = FeatureQueue(queue, width, start=queue_start) if queue else None

    def forward(
        self,
        image_BCHW: Tensor,
        text_BL: Tensor,
        text_mask_BL: Tensor,
        masked_BL: Tensor,
        hidden_BL: Tensor,
        place_BM: Tensor,
    ) -> ContinualPairs:
        given = (image_BCHW, text_BL, text_mask_BL, masked_BL, hidden_BL, place_BM)
        image_ND, text_ND, word_NMV = self.encode(*given)
        output = ContinualPairs(image_ND=image_ND, text_ND=text_ND, scale=self.encoder.log_scale.exp(), word_NMV=word_NMV)
        with torch.no_grad():
            if "momentum" in self.companions:
                image_ND, text_ND, word_NMV = cast(ContinualEncoder, self.companions["momentum"]).encode(*given)
                output = replace(output, momentum_image_ND=image_ND, momentum_text_ND=text_ND, momentum_word_NMV=word_NMV)
            if "reference" in self.companions:
                reference = cast(ContinualEncoder, self.companions["reference"]).encoder
                image_ND, text_ND = reference.encode_image(image_BCHW), reference.encode_text(text_BL, text_mask_BL)
                output = replace(output, reference_image_ND=image_ND, reference_text_ND=text_ND)
        if self.queue_image is not None and self.queue_text is not None:
            (image_KD, group_K), (text_KD, _) = self.queue_image.held(), self.queue_text.held()
            output = replace(output, queue_image_KD=image_KD, queue_text_KD=text_KD, queue_group_K=group_K)
        return output

    def encode(
        self,
        image_BCHW: Tensor,
        text_BL: Tensor,
        text_mask_BL: Tensor,
        masked_BL: Tensor,
        hidden_BL: Tensor,
        place_BM: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return unit-norm image_ND and text_ND, and logits of masked words [N, M, V]."""
        encoder = self.encoder
        output = encoder.image_tower(image_BCHW)
        image_ND = l2_normalise(encoder.image_projection(output.pooled_BD))
        text_ND = encoder.encode_text(text_BL, text_mask_BL)
        if self.reader is None:
            return image_ND, text_ND, None
        x_BPD = torch.cat([output.pooled_BD[:, None], output.tokens_BPD], 1) if self.class_token else output.tokens_BPD
        return image_ND, text_ND, self.reader(encoder.text_tower, masked_BL, hidden_BL, text_mask_BL, x_BPD, place_BM)

    def begin_task_(self) -> None:
        """Set the reference and the momentum model to the current model."""
        for name in self.companions:
            self.companions.copy_(name, self)

    def follow_(self, own: float, source: float, reference: float) -> None:
        """momentum model <- own * itself + source * this model + reference * the frozen reference."""
        others: list[tuple[float, nn.Module]] = [(source, self)]
        if "reference" in self.companions:
            others.append((reference, self.companions["reference"]))
        mix_(self.companions["momentum"], own, *others)

    def remember_(self, image_ND: Tensor, text_ND: Tensor, group_N: Tensor) -> None:
        """Push the keys of a step, from all processes, to the queues."""
        if self.queue_image is not None and self.queue_text is not None:
            self.queue_image.push_(image_ND, group_N)
            self.queue_text.push_(text_ND, group_N)
