"""A text encoder that learns what an ontology knows, by a metric loss between concepts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Deployable, Draws, Optimiser, Order
from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch, group_ids
from diptych.data.load.exhaustive_groups import ExhaustiveGroupOrder
from diptych.data.load.order import GroupedOrder
from diptych.models.pairs.text_encoder import TextEncoder, TextEncoderOutput
from diptych.models.towers.headed import headed
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import text_tower
from diptych.objectives.gather import gather_rows
from diptych.objectives.pairs.block_metric import block_metric
from diptych.recipes._shared.pairs import PairRecipe
from diptych.recipes._shared.texts.ontologies import MAIN

Drawn = Literal["text", "concept"]


@dataclass(frozen=True)
class KnowledgeBatch(TensorBatch):
    """Texts about concepts; group_B: equal numbers, same concept."""

    text_BL: Rows[Tensor]
    text_mask_BL: Rows[Tensor]
    group_B: Rows[Tensor]
    truncated: int = 0


def headed_text(tower: Tower, width: int, *, head: bool) -> tuple[Tower, bool]:
    """The tower, with KEEP's hidden layer behind it where asked, and whether it is to be projected: not where it has the joint width."""
    if head and not tower.projection:
        return headed(tower, width, "text", kind="gelu", std=width**-0.5), False
    return tower, tower.width != width


@dataclass(frozen=True, kw_only=True)
class KnowledgeTexts(PairRecipe[TextEncoder, KnowledgeBatch, TextEncoderOutput]):
    """The first stage of KEEP (2412.13126) and of KEP before it (2404.09942): texts of a concept lie together, those of others apart, by
    AdaSP (`block_metric`). A stage of a recipe over pairs, whose text side it trains: it has no pictures and cannot be deployed alone.

    members      texts a concept in a batch
    anchored     the main name of a concept is among its texts in every batch, as in KEP's released code
    drawn        concepts come by their texts ("text"), so that those of many come more often, as released (`ExhaustiveGroupOrder`), or all
                 equally often ("concept")
    temperature  of the loss, fixed
    text_head    see `headed_text`
    """

    needs: ClassVar[tuple[str, ...]] = ("texts",)

    members: int = 8
    anchored: bool = True
    drawn: Drawn = "text"
    temperature: float = 0.04
    text_head: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    language: str = ""

    @property
    def decode_size(self) -> int:
        return 0  # there are no pictures

    def row_order(self, data: Dataset) -> Order:
        main = [bool(data[row].extras.get(MAIN)) for row in range(len(data))] if self.anchored else []
        if self.drawn == "concept":
            return GroupedOrder(data.groups, self.members, always=main)
        return ExhaustiveGroupOrder(
            data.groups, self.members, self.batch_size // self.members, always=main or [False] * len(data)
        )

    def model(self) -> TextEncoder:
        tower = self.projected(text_tower(self.text_tower, **self.text_options()), "text")
        tower, project = headed_text(tower, self.width, head=self.text_head)
        return TextEncoder(tower, width=self.width, project=project)

    def batch(self, draws: Draws) -> KnowledgeBatch:
        encoded = self.words().encode([self.text_of(draw) for draw in draws], self.text_length)
        ids_BL, mask_BL = torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL)
        return KnowledgeBatch(ids_BL, mask_BL, group_ids(draws), encoded.truncated)

    def features(self, model: TextEncoder, batch: KnowledgeBatch) -> TextEncoderOutput:
        texts: TextEncoderOutput = model(batch.text_BL, batch.text_mask_BL)
        return texts

    def losses(self, features: TextEncoderOutput, batch: KnowledgeBatch) -> dict[str, Tensor]:
        text_RD, group_R = gather_rows(features.text_ND), gather_rows(batch.group_B)
        loss = block_metric(text_RD @ text_RD.T, group_R, group_R, scale=1 / self.temperature)
        return {"knowledge": loss}

    def optimiser(self) -> Optimiser:
        return replace(super().optimiser(), betas=self.betas, eps=self.eps)

    def deploy(self, model: TextEncoder) -> Deployable:
        raise ConfigError("a text encoder without pictures cannot be deployed (expected the stages that follow it)")

    @classmethod
    def tiny(cls) -> Self:
        """As `paper`; the recipe whose stage it is gives the sizes."""
        return cls.paper()

    @classmethod
    def paper(cls) -> Self:
        """BERT-B, 32 concepts of eight texts."""
        shape: dict[str, Any] = {"text_tower": "bert_b", "text_pooling": "pooler", "width": 768, "text_length": 256}
        return cls(**shape, batch_size=256, epochs=500.0, lr=3e-5, warmup=1000.0)
