"""MiniGPT-4: one linear map between a frozen Q-Former and a frozen chat model, with a second stage on detailed captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from diptych.core.grouped_fields import grouped
from diptych.recipes._shared.language.two_stage_captions import CHAT_SYSTEM, TwoStageCaptionRecipe


@grouped("former")
@dataclass(frozen=True, kw_only=True)
class MiniGPT4(TwoStageCaptionRecipe):
    """MiniGPT-4: Enhancing Vision-Language Understanding with Advanced Large Language Models (Zhu et al., 2023, arXiv 2304.10592).

    Image encoder, Q-Former, queries and language model come trained and stay as they are; one linear map is trained. The first stage shows
    millions of pictures with short captions and no prompt: start mark, picture, caption, line break. What the model then writes repeats
    itself and breaks off. The second stage shows a few thousand pictures with long, clean captions in the form of a chat, for minutes, and
    mends that. The variant without Q-Former (`queries` 0) takes four neighbouring patches side by side. Pictures are shown whole in
    training, too: the released code names a share that a crop would have, and makes none.

    The release ranks answers (`multi_select`) by the mean of nats over all places of a row, those of picture and request and padding among
    them; here by their sum or mean over an answer's tokens (`compared` of `ask`).

    Without `former_weights` Q-Former and image encoder are fresh ones, which those of the published system never are.
    """

    slug = "minigpt4"

    batch_size: int = 256
    rows_a_mean: int = 64
    steps: int = 21_000
    lr: float = 1e-4

    @classmethod
    def tiny(cls) -> Self:
        """Four patches side by side, a small image-text model and a small language model, both made first: two minutes on two cores."""
        return cls(**cls.small())

    @classmethod
    def paper(cls) -> Self:
        """EVA-g, 32 queries, Vicuna-13B as `language_model`, BLIP-2 as `former_weights`: 20,000 steps of 256, then 1,000 of 12. A process
        has 64 of the 256, of LAION 115 times where of CC and SBU 14 times: name them as `sources` with those `shares`. It is used in the
        released chat, which draws answers (top_p 0.9, and a repetition penalty of 1.05), where `generate` takes the likeliest by
        default; of an answer what stands before ### and behind the last "Assistant:" is kept."""
        used = f"{CHAT_SYSTEM}Human: <Img>{{image}}</Img> {{prompt}}###Assistant: "
        return cls(decoding="whole", resize="squash", norm_features=True, used=used, role="Assistant:")
