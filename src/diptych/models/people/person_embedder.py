"""A trained dual encoder of persons; its folder is marked biometric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import VARIANTS, PairEmbedder
from diptych.models.people.part_encoder import PartEncoder


class PersonEmbedder(PairEmbedder):
    """A `PairEmbedder` whose vectors tell persons apart: config.json has it as "biometric", the model card in words."""

    kind: ClassVar[str] = "person_encoder"
    variants: ClassVar[Mapping[str, type[DualEncoder]]] = {**VARIANTS, "parts": PartEncoder}

    def settings(self) -> dict[str, Any]:
        return {"biometric": True}
