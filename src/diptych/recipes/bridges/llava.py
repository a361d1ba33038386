"""LLaVA 1.5: a two-layer projector before a language model, trained on captions and then, with the language model, on dialogues."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from diptych.core.contracts import Optimiser, Rule
from diptych.core.errors import ConfigError
from diptych.recipes._shared.language.dialogue_tuning import DialogueTuning
from diptych.recipes._shared.language.multilingual_config import AdapterConfig

CAPTION_STEPS, DIALOGUE_STEPS = 2181, 5198


@dataclass(frozen=True, kw_only=True)
class LLaVA(DialogueTuning):
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

    tuned  low-rank adapters, which are then all that learns of the language model from dialogues, beside the projector (preset `lora`).
           Rank 0: all of it learns
    projector_lr  of the projector among dialogues; 0: `instruct_lr`, as that of the language model
    """

    slug = "llava"
    needs: ClassVar[tuple[str, ...]] = ("image", "texts")
    presets = ("tiny", "paper", "lora")

    projector_lr: float = 0.0

    group_by_length: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projector_lr < 0:
            raise ConfigError(f"projector_lr is {self.projector_lr:g} (expected above 0, or 0 for instruct_lr)")

    @property
    def trained(self) -> tuple[str, ...]:
        return ("connector",) if self.adapts else super().trained

    def optimiser(self) -> Optimiser:
        chosen = super().optimiser()
        if not self.instruct or not self.projector_lr:
            return chosen
        return replace(chosen, rules=(Rule(r"^connector\.", lr_scale=self.projector_lr / self.lr), *chosen.rules))

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
            steps=CAPTION_STEPS + DIALOGUE_STEPS,
            projector_share=CAPTION_STEPS / (CAPTION_STEPS + DIALOGUE_STEPS),
        )

    @classmethod
    def lora(cls) -> Self:
        """As `paper`, but of the language model adapters of rank 128 on every linear map learn from dialogues, at a rate of 2e-4, and the
        projector at 2e-5. From a trained LLaVA: `weights_from` hf:FOLDER, `projector_share` 0, 5,198 `steps`."""
        return replace(
            cls.paper(),
            tuned=AdapterConfig(adapter_rank=128, adapter_alpha=256.0, adapter_dropout=0.05),
            instruct_lr=2e-4,
            projector_lr=2e-5,
        )
