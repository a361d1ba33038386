"""ArtGPT-4: MiniGPT-4 with adapters in every layer of the language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from diptych.core.grouped_fields import grouped
from diptych.models.bridges.bridge import Bridge
from diptych.recipes._shared.language.two_stage_captions import CHAT_SYSTEM, TwoStageCaptionRecipe


@grouped("former")
@dataclass(frozen=True, kw_only=True)
class ArtGPT4(TwoStageCaptionRecipe):
    """ArtGPT-4: Towards Artistic-understanding Large Vision-Language Models with Enhanced Adapter (Yuan et al., 2023, arXiv 2305.07490).

    As MiniGPT-4, with a bottleneck of a quarter of the width behind the attention of every layer of the language model, for all tokens and
    not only those of the picture. Trained are the bottlenecks, the gain of the norm behind attention in every layer and of the one before
    it in every second, and the linear map. So the language model may forget: watch its loss on texts alone (`BridgeGenerator.text_nll`).

    In the released code adapters begin as fresh linear layers, which changes the language model before the first step, and so in `paper`;
    else they begin as nothing (`zero_start`). Its first stage has a rate of 1e-7 that rises to 8e-7 (`final_lr` 8), which we keep.
    We depart in `clip_norm`: the release holds the norm of gradients at 1 while the factor of half precision, 65,536 at first, is still on
    them, so that nearly every step has the same norm, of 1 over that factor; here it is the gradients' own norm. And its adapters make
    tensors anew in the first forward of half precision, behind the back of an optimiser that holds the old ones; here they are trained.

    adapters    whether there are adapters and trained gains; False: MiniGPT-4
    ratio       width over that of a bottleneck
    zero_start  adapters begin as nothing; False: as released
    """

    slug = "artgpt4"

    adapters: bool = True
    ratio: int = 4
    zero_start: bool = True

    batch_size: int = 32
    steps: int = 21_000
    lr: float = 1e-7
    final_lr: float = 8.0
    warmup_lr: float | None = 1e-8
    second_batch_size: int = 36
    second_rows_a_mean: int = 12
    clip_norm: float = 1.0
    crop: tuple[float, float] = (0.5, 1.0)

    def model(self) -> Bridge:
        bridge = super().model()
        if self.adapters:
            bridge.language.adapt(ratio=self.ratio, zero_start=self.zero_start)
        return bridge

    def stored(self, name: str) -> bool:
        """Adapters and gains of norms are in checkpoints, the rest of the language model is loaded again."""
        own = name.startswith("language.adapters.") or (name.endswith(".weight") and any(part in name for part in NORMS))
        return super().stored(name) or (self.adapters and own)

    @classmethod
    def tiny(cls) -> Self:
        """Patches side by side, small models that are made first, adapters in three layers: two minutes on two cores."""
        return replace(cls(**cls.small()), second_share=0.1, crop=(1.0, 1.0))

    @classmethod
    def paper(cls) -> Self:
        """EVA-g and 32 queries before Vicuna-13B: 20,000 steps of 32 on LAION's aesthetic pictures, then 1,000 of 36 (three times 12). It
        is used in the released chat, whose answers are drawn with top_p 0.9; of one what stands before ### and behind the last
        "Assistant:" is kept, without the end mark that the release leaves in it."""
        used = f"{CHAT_SYSTEM}Human: <Img>{{image}}</Img> {{prompt}}###Assistant:"
        return cls(decoding="whole", resize="squash", zero_start=False, used=used, role="Assistant:")


NORMS = ("input_layernorm", "post_attention_layernorm", "ln_1", "ln_2")
"""Parts of the names of the norms whose gains are trained."""
