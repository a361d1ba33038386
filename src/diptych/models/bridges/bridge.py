"""An image encoder, a connector and a language model: image features become input embeddings of the language model.

    features [B, P, F] -> connector -> picture [B, K, D] -> spliced among the word embeddings -> language model -> the answer

Letters: B batch, C channel, H W, P patches, F features, K tokens of a picture, D width of the language model, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from diptych.core.errors import UnknownName
from diptych.core.rows import Rows
from diptych.data.text.prompts.layout import Layout
from diptych.models.bridges.answers import answer_nll
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.bridges.splice import norm_kurtosis, norm_ratio, splice
from diptych.models.towers.outputs import Tower

PARTS = ("encoder", "connector", "language")
DROPOUT_OF_ADAPTERS = "lora_dropout"
"""In the names of its modules, as peft has them."""


@dataclass(frozen=True, slots=True)
class AnswerLikelihood:
    """Negative log-likelihood and token accuracy of each row's answer.

    nll_B    negative log-likelihood, nats, summed over the tokens of the answer
    count_B  how many those are
    hit_B    how many of them are the model's most likely token
    ratio    [1], norm of an image token over that of a word embedding (`norm_ratio`); 0 without pictures
    kurtosis [1], of the norms of pictures' tokens (`norm_kurtosis`); 0 without pictures
    """

    nll_B: Rows[Tensor]
    count_B: Rows[Tensor]
    hit_B: Rows[Tensor]
    ratio: Tensor
    kurtosis: Tensor


class Bridge(nn.Module):
    """trained  which of encoder, connector and language are trained; the others get no gradient and stay in evaluation mode even
    under `.train()`, but gradients flow through them. Parameters that a trained part has frozen itself stay frozen.
    awake    which of the others follow `.train()` nevertheless, as in releases that only turn gradients off:
             their dropout and stochastic depth act in training, batch norms see their batch. Their running statistics stay as they were
    blind    features are zeros, which measures how much of an answer needs no picture

    The calibration of image positions (`models.bridges.calibration`) is trained even if the language model is frozen.

    Dropout of low-rank adapters is active in training, in trained and frozen parts.
    """

    def __init__(
        self,
        encoder: Tower,
        connector: nn.Module,
        language: LanguageModel,
        *,
        trained: Sequence[str] = ("connector",),
        awake: Sequence[str] = (),
        blind: bool = False,
    ) -> None:
        super().__init__()
        for name in (*trained, *awake):
            if name not in PARTS:
                raise UnknownName("part of a bridge", name, PARTS)
        self.encoder, self.connector, self.language = encoder, connector, language
        self.still, self.blind = tuple(name for name in PARTS if name not in trained), blind
        self.awake = tuple(name for name in self.still if name in awake)
        for name in self.still:
            getattr(self, name).requires_grad_(False)
        if language.calibrated:
            language.calibrations.requires_grad_(True)
        for name in self.awake:
            for module in getattr(self, name).modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.momentum = 0.0
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.still:
            if name in self.awake:
                continue
            part = getattr(self, name).eval()
            for inner, module in part.named_modules():
                if DROPOUT_OF_ADAPTERS in inner:
                    module.train(mode)
        return self

    def picture(self, image_BCHW: Tensor, text_BL: Tensor | None = None, text_mask_BL: Tensor | None = None) -> Tensor:
        """Image tokens [B, K, D]; `text_BL` is an instruction for connectors that read one."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and "encoder" not in self.still):
            feature_BPF = self.encoder(image_BCHW).tokens_BPD
        if self.blind:
            feature_BPF = torch.zeros_like(feature_BPF)
        given = () if text_BL is None else (text_BL, text_mask_BL)
        picture_BKD: Tensor = self.connector(feature_BPF, *given)
        return picture_BKD

    def embed(self, picture_BKD: Tensor | None, layout: Layout, count_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Input embeddings of the language model [B, L, D], and the norm ratio [1]. `count_B`: as in `splice`."""
        word_BLD = self.language.embed(layout.id_BL)
        if picture_BKD is None:
            return word_BLD, word_BLD.new_zeros(1, dtype=torch.float32)
        ratio = norm_ratio(picture_BKD, word_BLD, layout.mask_BL & ~layout.slot_BL)
        return splice(word_BLD, picture_BKD, layout.slot_BL, count_B), ratio

    def scored(self, picture_BKD: Tensor | None, layout: Layout, count_B: Tensor | None = None) -> AnswerLikelihood:
        """Likelihood of each row's answer given its pictures."""
        embed_BLD, ratio = self.embed(picture_BKD, layout, count_B)
        logit_AV, target_A, row_A = self.language.answers(embed_BLD, layout)
        nll_B, count_B = answer_nll(logit_AV, target_A, row_A, len(layout))
        hit_A = (logit_AV.detach().argmax(1) == target_A).to(nll_B.dtype)
        kurtosis = ratio.new_zeros(1) if picture_BKD is None else norm_kurtosis(picture_BKD)
        return AnswerLikelihood(nll_B, count_B, torch.zeros_like(nll_B).index_add(0, row_A, hit_A).detach(), ratio, kurtosis)

    def forward(
        self,
        image_BCHW: Tensor | None,
        layout: Layout,
        text_BL: Tensor | None = None,
        text_mask_BL: Tensor | None = None,
        count_B: Tensor | None = None,
    ) -> AnswerLikelihood:
        picture_BKD = None if image_BCHW is None else self.picture(image_BCHW, text_BL, text_mask_BL)
        return self.scored(picture_BKD, layout, count_B)

    @torch.no_grad()
    def match_norms_(self, image_BCHW: Tensor) -> float:
        """Divides the last map of the connector so that tokens of these images have the mean norm of the language model's embeddings;
        returns the previous ratio. Noise images suffice, since only the scale of the untrained map matters."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        # Noise and a fresh connector are of the default type, which need not be that of the encoder.
        feature_BPF = self.encoder(image_BCHW.to(_dtype(self.encoder))).tokens_BPD.to(_dtype(self.connector))
        given: tuple[Tensor, ...] = ()
        if getattr(self.connector, "reads_text", False):
            given = (torch.zeros(len(image_BCHW), 1, dtype=torch.int64, device=image_BCHW.device),)
        picture_BKD: Tensor = self.connector(feature_BPF, *given)
        id_1V = torch.arange(self.language.vocab_size, device=image_BCHW.device)[None]
        ratio = norm_ratio(picture_BKD, self.language.embed(id_1V), torch.ones_like(id_1V, dtype=torch.bool))
        last = [module for module in self.connector.modules() if isinstance(module, nn.Linear)][-1]
        for tensor in (last.weight, last.bias):
            tensor.div_(ratio.to(tensor))
        for module, training in modes:
            module.training = training
        return float(ratio)


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
