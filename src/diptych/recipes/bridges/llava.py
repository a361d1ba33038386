"""LLaVA 1.5: a two-layer projector before a language model, trained on captions and then, with the language model, on dialogues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from diptych.recipes._shared.language.visual_instruction import VisualInstructionRecipe


@dataclass(frozen=True, kw_only=True)
class LLaVA(VisualInstructionRecipe):
    """Improved Baselines with Visual Instruction Tuning (Liu et al., 2023, arXiv 2310.03744; LLaVA: arXiv 2304.08485).

    Patches of CLIP's last block but one become tokens of a language model through two linear maps with a GELU between. The first stage
    trains these maps on short captions: start mark, image, caption, line break, the loss on the last two. The second trains maps and
    language model on dialogues in the form of Vicuna 1.1: all answers of a dialogue and the end mark behind each are learned. The image
    encoder stays as it is. Images are cut to their middle square in the first stage and padded to a square with CLIP's mean colour in the
    second, as released.

    Rows of the second stage are samples with extras["questions"], one question a turn; samples without an image are dialogues without one.
    A step of the second stage has rows of similar length, all or none of them with an image, as released (`group_by_length`).
    The release takes the labels from a dialogue whose answer spells the role mark; here it keeps them.
    `moca` puts calibrations into the language model; `mir` measures any run.
    """

    slug = "llava"

    group_by_length: bool = True

    @classmethod
    def tiny(cls) -> Self:
        """A small image encoder and a small language model, both made first: two minutes on two cores."""
        return cls(**cls.small(), group_by_length=False)

    @classmethod
    def paper(cls) -> Self:
        """CLIP-L/14 at 336 pixels (`image_weights` hf:FOLDER) before Vicuna-7B 1.5 (`language_model` hf:FOLDER): 558,128 captions in 2,181
        steps of 256, then 665,298 dialogues in 5,198 steps of 128. A process has 32 rows of a step, then 16."""
        return cls(
            image_tower="vit_l14",
            image_size=336,
            decoding="whole",
            steps=2181 + 5198,
            projector_share=2181 / (2181 + 5198),
        )
