"""A dual encoder of persons, ready for use; its folder says that it is biometric."""

from __future__ import annotations

from typing import Any, ClassVar

from diptych.models.pairs.embedder import PairEmbedder


class PersonEmbedder(PairEmbedder):
    """A `PairEmbedder` whose vectors tell persons apart: config.json has it as "biometric", the model card in words."""

    kind: ClassVar[str] = "person_encoder"

    def settings(self) -> dict[str, Any]:
        return {"biometric": True}
