"""The head of PE-Net (Zheng et al., 2023, arXiv 2303.07096): a pair of things and every predicate as vectors in one space.

    s = W_s t_s + sigmoid(g_s [W_s t_s ; h(x_s)]) * h(x_s)       t: word vector of the label, x: visual features; o likewise
    r = F(s, o) - sigmoid(g_p [F ; h(x_u)]) * h(x_u)             F(s, o) = relu(s + o) - (s - o)^2, x_u: features of the pair
    c_k = W_p t_k                                                k = 0 is "no relation", with a vector of its own
    score of predicate k = cos(r, c_k) * scale

each after a residual layer and a projection that r and c share. s and o pass LN(dropout(relu(W s)) + s) first. A plain classifier on
the same r (`classifier="linear"`) is the baseline.

The labels of things are true (predicate classification), or renamed from features, the detector's scores and the place of the box.

The release builds one more layer, `linear_pred`, that nothing reads; it is left out. Its subject is the second half of one projection
of both ends, and its background prototype is a random vector.

Letters: N regions of all images, P pairs of all images, C object classes with the background first, K predicates with "no relation"
first, D width, E width of word vectors, V width of visual features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError
from diptych.models.detection.roi_pooler import c2_xavier_fill_
from diptych.models.layers.mlp import MLP

TEMPERATURE = 0.07
"""At the start; learned."""
PLACE_WIDTH = 128


@dataclass(frozen=True, slots=True)
class PENetHeadConfig:
    """width        of pairs and half the width of prototypes (2048)
    word_width   of word vectors (300)
    naming_width  of the layer that names things again (512)
    dropout      after every residual layer and before the projection
    classifier   prototypes, or a linear classifier on the same pairs (the baseline)
    place_momentum   of the running statistics of where boxes lie. The release has .001 and reads them twice a step: .001999
    pair_map     the features of pairs pass the map h of the things' features ("shared", as released), or one of their "own"
                 (SGG-Benchmark)
    """

    width: int = 2048
    word_width: int = 300
    naming_width: int = 512
    dropout: float = 0.2
    classifier: Literal["prototypes", "linear"] = "prototypes"
    place_momentum: float = 0.001
    pair_map: Literal["shared", "own"] = "shared"

    def __post_init__(self) -> None:
        if self.classifier not in ("prototypes", "linear"):
            raise ConfigError(f"classifier is {self.classifier!r} (expected prototypes | linear)")
        if self.pair_map not in ("shared", "own"):
            raise ConfigError(f"pair_map is {self.pair_map!r} (expected shared | own)")
        if min(self.width, self.word_width, self.naming_width) < 2 or self.width % 2:
            raise ConfigError(
                f"widths of the head are {self.width}, {self.word_width}, {self.naming_width} (expected even, above 1)"
            )


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """logit_PK      scores of the predicates, "no relation" first
    pair_PD       the pairs in the space of the prototypes; as read by the classifier where the head is linear
    prototype_KD  None if the head is linear
    """

    logit_PK: Tensor
    pair_PD: Tensor
    prototype_KD: Tensor | None


class PredicatePrototypeHead(nn.Module):
    """Regions, their labels and the pairs among them to scores of predicates. `scale` has shape [1]."""

    def __init__(self, shape: PENetHeadConfig, features: int, objects: int, predicates: int) -> None:
        """`objects` and `predicates` are classes with the background; `features` the width of visual features."""
        super().__init__()
        width, words = shape.width, shape.word_width
        self.shape = shape
        self.ends = nn.Linear(features, 2 * width)  # the object's features first, as released
        self.object_word_CE = nn.Embedding(objects, words)
        self.subject_semantics, self.object_semantics = (MLP((words, width // 2, width)) for _ in range(2))
        self.subject_gate, self.object_gate, self.pair_gate = (nn.Linear(2 * width, width) for _ in range(3))
        self.visual = _map(width, shape.dropout)
        if shape.pair_map == "own":
            self.pair_visual = _map(width, shape.dropout)
        self.subject_residual, self.object_residual, self.pair_residual = (ResidualLayer(width, shape.dropout) for _ in range(3))
        self.pair_features = MLP((features, width, width))
        if shape.classifier == "linear":
            self.scores = nn.Linear(width, predicates)
        else:
            self.predicate_word_KE = nn.Embedding(predicates, words)
            self.predicate_semantics = MLP((words, width // 2, width))
            self.projection = MLP((width, width, 2 * width))
            self.drop = nn.Dropout(shape.dropout)
            self.log_scale = nn.Parameter(torch.full((1,), math.log(1 / TEMPERATURE)))
        self.naming = ObjectRelabelling(shape, features, objects)

    def forward(self, region_NV: Tensor, label_N: Tensor, pair_P2: Tensor, union_PV: Tensor) -> ScoredPairs:
        """region_NV  visual features of the regions
        label_N    their classes, 1 and above
        pair_P2    subject and object as places in N
        union_PV   visual features of the pairs
        """
        object_NW, subject_NW = self.ends(region_NV).chunk(2, 1)
        word_NE = self.object_word_CE(label_N)
        s, o = pair_P2.unbind(1)
        subject_PD = self._end(word_NE[s], subject_NW[s], self.subject_semantics, self.subject_gate, self.subject_residual)
        object_PD = self._end(word_NE[o], object_NW[o], self.object_semantics, self.object_gate, self.object_residual)
        both_PD = F.relu(subject_PD + object_PD) - (subject_PD - object_PD).square()
        read = self.pair_visual if self.shape.pair_map == "own" else self.visual
        seen_PD = read(self.pair_features(union_PV))
        pair_PD = both_PD - seen_PD * self.pair_gate(torch.cat((both_PD, seen_PD), 1)).sigmoid()
        pair_PD = self.pair_residual(pair_PD)
        if self.shape.classifier == "linear":
            return ScoredPairs(self.scores(pair_PD), pair_PD, None)
        pair_PD = self.projection(self.drop(F.relu(pair_PD)))
        prototype_KD = self.prototypes()
        cosine_PK = F.normalize(pair_PD, dim=1) @ F.normalize(prototype_KD, dim=1).T
        return ScoredPairs(cosine_PK * self.log_scale.exp(), pair_PD, prototype_KD)

    def prototypes(self) -> Tensor:
        """[K, 2 width]: one a predicate."""
        prototype_KD: Tensor = self.projection(self.drop(F.relu(self.predicate_semantics(self.predicate_word_KE.weight))))
        return prototype_KD

    def _end(self, word_PE: Tensor, seen_PD: Tensor, semantics: MLP, gate: nn.Linear, residual: ResidualLayer) -> Tensor:
        word_PD, visual_PD = semantics(word_PE), self.visual(seen_PD)
        gate_PD = gate(torch.cat((word_PD, visual_PD), 1)).sigmoid()
        end_PD: Tensor = residual(word_PD + visual_PD * gate_PD)
        return end_PD


def _map(width: int, dropout: float) -> nn.Sequential:
    """h: visual features into the space of words."""
    return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * width, width))


class ResidualLayer(nn.Module):
    """LayerNorm(dropout(relu(W x)) + x)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.linear, self.drop, self.norm = nn.Linear(width, width), nn.Dropout(dropout), nn.LayerNorm(width)

    def forward(self, x_ND: Tensor) -> Tensor:
        out_ND: Tensor = self.norm(self.drop(F.relu(self.linear(x_ND))) + x_ND)
        return out_ND


class ObjectRelabelling(nn.Module):
    """Names regions again: features, what the detector thought of the label, and the place of the box, to class logits."""

    def __init__(self, shape: PENetHeadConfig, features: int, objects: int) -> None:
        super().__init__()
        self.word_CE = nn.Embedding(objects, shape.word_width)
        norm = nn.BatchNorm1d(32, momentum=shape.place_momentum)
        self.place = nn.Sequential(nn.Linear(9, 32), norm, nn.Linear(32, PLACE_WIDTH), nn.ReLU())
        self.hidden = c2_xavier_fill_(nn.Linear(features + shape.word_width + PLACE_WIDTH, shape.naming_width))
        self.out = c2_xavier_fill_(nn.Linear(shape.naming_width, objects))

    def forward(self, region_NV: Tensor, detector_NC: Tensor, code_N9: Tensor) -> Tensor:
        """[N, C] from features, logits of the detector (held fast) and `box_code`. No activation stands between the two layers."""
        word_NE = detector_NC.detach().softmax(1) @ self.word_CE.weight
        lone = len(code_N9) < 2 and self.training  # one row has no variance: the running one is used
        place_N = self._place_of_one(code_N9) if lone else self.place(code_N9)
        logit_NC: Tensor = self.out(self.hidden(torch.cat((region_NV, word_NE, place_N), 1)))
        return logit_NC

    def _place_of_one(self, code_N9: Tensor) -> Tensor:
        norm = self.place[1]
        assert isinstance(norm, nn.BatchNorm1d)
        norm.eval()
        try:
            place_N: Tensor = self.place(code_N9)
        finally:
            norm.train()
        return place_N


def box_code(box_N4: Tensor, size: tuple[int, int], *, inclusive: bool = True) -> Tensor:
    """[N, 9]: width, height, centre, corners and area of xyxy boxes as shares of an image of (height, width) pixels.

    `inclusive` counts the last pixel in, as released: a box from 3 to 5 is 3 wide and its centre lies at 4.5.
    """
    high, wide = size
    side_N2 = box_N4[:, 2:] - box_N4[:, :2] + float(inclusive)
    centre_N2 = box_N4[:, :2] + side_N2 / 2
    image_2 = box_N4.new_tensor([wide, high])
    share_N2 = side_N2 / image_2
    return torch.cat((share_N2, centre_N2 / image_2, box_N4 / image_2.repeat(2), share_N2.prod(1, keepdim=True)), 1)
