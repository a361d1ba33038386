"""Symbolic goals from a picture and a sentence (SGL, Xu et al., 2022, arXiv 2202.12912): two encoders, a fusion, three classifiers.

For pre-training of the encoders there are heads for categories, affordances and relations of boxes,
and the mean of a sentence's tokens.

Letters: B batch, C channels, H W pixels, L tokens, D width, K classes, R boxes, A affordances, P predicates, S side of a map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch
from diptych.models.detection.roi_pooler import RoIPooler
from diptych.models.layers.pooling import mean_pool
from diptych.models.towers.outputs import Tower

Fusion = Literal["concat", "add", "multiply"]
Inputs = Literal["both", "language", "picture"]
Phase = Literal["goals", "scene graphs", "sentences"]
POOLED = 2
"""Positions of a pooled box in each direction."""


@dataclass(frozen=True, kw_only=True)
class GoalBatch(TensorBatch):
    """Pictures with a sentence each.

    target_B3    int64: predicate, subject, object
    named_B3     int64: the parts that the sentence names, -1 for parts that it does not; None if not used in training
    box_BR4      xyxy in pixels of the input, with their labels: category_BR (-1: no box), able_BRA bool, relation_BRR (-1: no
                 pair, 0: none); None if not used in training
    truncated    number of truncated sentences
    """

    image_BCHW: Rows[Tensor]
    text_BL: Rows[Tensor]
    text_mask_BL: Rows[Tensor]
    target_B3: Rows[Tensor]
    named_B3: Rows[Tensor] | None = None
    box_BR4: Rows[Tensor] | None = None
    category_BR: Rows[Tensor] | None = None
    able_BRA: Rows[Tensor] | None = None
    relation_BRR: Rows[Tensor] | None = None
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class GoalFeatures:
    """Outputs of the training phase: logits of the goal's parts, vectors of sentences, or logits of boxes and their pairs."""

    predicate_BK: Rows[Tensor] | None = None
    subject_BK: Rows[Tensor] | None = None
    object_BK: Rows[Tensor] | None = None
    sentence_BD: Rows[Tensor] | None = None
    category_BRK: Rows[Tensor] | None = None
    ability_BRA: Rows[Tensor] | None = None
    relation_BRRP: Rows[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class GoalForm:
    """Names of classes, and the sizes of fusion and classifiers."""

    predicates: tuple[str, ...]
    objects: tuple[str, ...]
    fusion: Fusion = "concat"
    inputs: Inputs = "both"
    hidden: int = 256
    layers: int = 2
    dropout: float = 0.5


class GoalNetwork(nn.Module):
    """Encoders, fusion and classifiers. Encoders of unused inputs are not created."""

    def __init__(self, image_tower: Tower | None, text_tower: Tower | None, form: GoalForm) -> None:
        super().__init__()
        self.form = form
        self.image = image_tower if form.inputs != "language" else None
        self.text = text_tower if form.inputs != "picture" else None
        image_width, text_width = (0 if tower is None else tower.width for tower in (self.image, self.text))
        self.align: nn.Module | None = None
        width = image_width + text_width
        if form.fusion != "concat" and form.inputs == "both":
            self.align = nn.Sequential(weight_norm(nn.Linear(text_width, image_width), dim=None), nn.ReLU())  # type: ignore[arg-type]
            width = image_width
        self.predicate = classifier(width, len(form.predicates), form)
        self.subject = classifier(width, len(form.objects), form)
        self.object = classifier(width, len(form.objects), form)

    def forward(self, image_BCHW: Tensor, text_BL: Tensor, mask_BL: Tensor) -> GoalFeatures:
        image_BD = None if self.image is None else self.image(image_BCHW).pooled_BD
        text_BD = None if self.text is None else self.text(text_BL, mask_BL).pooled_BD
        return self.classified(text_BD, image_BD)

    def classified(self, text_BD: Tensor | None, image_BD: Tensor | None) -> GoalFeatures:
        """Return logits from the pooled vectors of both encoders."""
        fused_BD = self.fused(text_BD, image_BD)
        return GoalFeatures(self.predicate(fused_BD), self.subject(fused_BD), self.object(fused_BD))

    def fused(self, text_BD: Tensor | None, image_BD: Tensor | None) -> Tensor:
        if text_BD is not None and image_BD is not None and self.align is not None:
            aligned_BD: Tensor = self.align(text_BD)
            return aligned_BD + image_BD if self.form.fusion == "add" else aligned_BD * image_BD
        return torch.cat([part_BD for part_BD in (text_BD, image_BD) if part_BD is not None], 1)


def classifier(width: int, classes: int, form: GoalForm) -> nn.Sequential:
    """Return `layers` times linear, batch norm, ReLU, dropout; then linear."""
    layers: list[nn.Module] = []
    for _ in range(form.layers):
        layers += [nn.Linear(width, form.hidden), nn.BatchNorm1d(form.hidden), nn.ReLU(), nn.Dropout(form.dropout)]
        width = form.hidden
    return nn.Sequential(*layers, nn.Linear(width, classes))


class SceneGraphHeads(nn.Module):
    """Linear heads over pooled boxes: categories, affordances with attributes, and relations of ordered pairs (class 0: none)."""

    def __init__(self, width: int, image_size: int, *, categories: int, abilities: int, relations: int) -> None:
        super().__init__()
        self.width, self.image_size = width, image_size
        pooled = width * POOLED**2
        self.category = nn.Linear(pooled, categories)
        self.ability = nn.Linear(pooled, abilities)
        self.one, self.other = nn.Linear(pooled, width), nn.Linear(pooled, width, bias=False)
        self.relation = nn.Linear(width, relations + 1)

    def forward(self, token_BPD: Tensor, box_BR4: Tensor) -> GoalFeatures:
        side = math.isqrt(token_BPD.shape[1])
        if side**2 != token_BPD.shape[1]:
            raise ConfigError(f"the image tower gives {token_BPD.shape[1]} tokens (expected a square map, row by row)")
        map_BCSS = token_BPD.transpose(1, 2).unflatten(2, (side, side))
        pooler = RoIPooler(self.width, [self.image_size // side], side=POOLED, aligned=True)
        pooled_BRD = pooler([map_BCSS], list(box_BR4)).flatten(1).unflatten(0, box_BR4.shape[:2])
        pair_BRRD = torch.relu(self.one(pooled_BRD)[:, :, None] + self.other(pooled_BRD)[:, None])
        return GoalFeatures(
            category_BRK=self.category(pooled_BRD),
            ability_BRA=self.ability(pooled_BRD),
            relation_BRRP=self.relation(pair_BRRD),
        )


class GoalTraining(nn.Module):
    """`GoalNetwork` in one of its phases; `graphs` are the heads of the first one."""

    def __init__(self, goals: GoalNetwork, graphs: SceneGraphHeads | None, phase: Phase) -> None:
        super().__init__()
        self.goals, self.graphs, self.phase = goals, graphs, phase

    def forward(self, batch: GoalBatch) -> GoalFeatures:
        goals = self.goals
        if self.phase == "scene graphs" and self.graphs is not None and goals.image is not None:
            assert batch.box_BR4 is not None
            boxes: GoalFeatures = self.graphs(goals.image(batch.image_BCHW).tokens_BPD, batch.box_BR4)
            return boxes
        if self.phase == "sentences" and goals.text is not None:
            output = goals.text(batch.text_BL, batch.text_mask_BL)
            return GoalFeatures(sentence_BD=mean_pool(output.tokens_BPD, output.mask_BP))
        features: GoalFeatures = goals(batch.image_BCHW, batch.text_BL, batch.text_mask_BL)
        return features
