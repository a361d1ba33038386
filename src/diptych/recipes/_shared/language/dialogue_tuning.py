"""Shared by recipes that tune a LLaVA on conversations before they reward it: captions, then dialogues, with adapters or without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from torch import Tensor

from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.towers.adapters import MARK, LoRAConfig, add_adapters, merged
from diptych.recipes._shared.language.multilingual_config import AdapterConfig
from diptych.recipes._shared.language.preference_pairs import beneath_adapters, inner_linear_maps
from diptych.recipes._shared.language.visual_instruction import VisualInstructionRecipe


@dataclass(frozen=True, kw_only=True)
class DialogueTuning(VisualInstructionRecipe):
    """LLaVA's two stages on the conversations of a data set, the second with adapters where they have a rank.

    tuned  low-rank adapters that are all that learns of the language model from dialogues (`AdapterConfig`, its fields are options); the
           projector then stays as it is. Rank 0: language model and projector learn
    """

    slug = "dialogue_tuning"
    needs: ClassVar[tuple[str, ...]] = ("image", "questions")

    tuned: AdapterConfig = field(default_factory=lambda: AdapterConfig(adapter_rank=0))

    @property
    def adapts(self) -> bool:
        """True where adapters are what learns."""
        return self.instruct and self.tuned.adapter_rank > 0

    @property
    def trained(self) -> tuple[str, ...]:
        return () if self.adapts else super().trained

    def bridge(self) -> Bridge:
        """The model of a stage, with its adapters."""
        bridge = super().model()
        if self.adapts:
            targets = self.tuned.adapter_targets or inner_linear_maps(bridge.language.inner)
            config = self.tuned
            add_adapters(
                bridge.language.inner, LoRAConfig(config.adapter_rank, targets, config.adapter_alpha, config.adapter_dropout)
            )
        return bridge

    def model(self) -> Any:
        return self.bridge()

    def stored(self, name: str) -> bool:
        if "language." in name and self.adapts:
            return MARK in name or not self.weights_from
        return super().stored(name)

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return beneath_adapters(tensors) if self.adapts else tensors

    def deploy(self, model: Any) -> BridgeGenerator:
        return super().deploy(merged(model))

    def settings(self) -> Mapping[str, Any]:
        """Fields that a subclass shares with this recipe."""
        return {each.name: getattr(self, each.name) for each in fields(DialogueTuning) if each.init}

    @classmethod
    def tiny(cls) -> Self:
        return cls(**cls.small())

    @classmethod
    def paper(cls) -> Self:
        return cls(image_tower="vit_l14", image_size=336, decoding="whole")
