"""PE-Net as a whole: a detector, features of regions and of pairs, the prototype head; three settings.

    predcls   boxes and labels are given, predicates are asked for
    sgcls     boxes are given, labels are predicted from what the detector thinks of them
    sgdet     nothing is given: the detector's boxes are renamed and related

Letters: B images, N regions of all images, P pairs of all images, C object classes with the background first, K predicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError
from diptych.models.detection.backbone import DetectionBackbone
from diptych.models.detection.faster_rcnn import FasterRCNN, FasterRCNNConfig, Proposals, nms_labels
from diptych.models.detection.inclusive_boxes import Sizes
from diptych.models.detection.roi_pooler import RoIBoxHead, RoIPooler
from diptych.models.host_copy import on_host
from diptych.models.penet.pair_regions import PairRegions
from diptych.models.penet.pair_sampling import PairSampling, SampledPairs, SceneGraphTargets
from diptych.models.penet.predicate_head import PENetHeadConfig, PredicatePrototypeHead, ScoredPairs, box_code

Setting = Literal["predcls", "sgcls", "sgdet"]


@dataclass(frozen=True, slots=True)
class SceneGraphConfig:
    """setting     predcls, sgcls, sgdet
    head        sizes of the head; its fields are options like these
    detector    sizes and thresholds of the detector; likewise
    repeats     overlap from which two boxes may not share a label that is predicted (sgdet)
    """

    setting: Setting = "predcls"
    head: PENetHeadConfig = field(default_factory=PENetHeadConfig)
    detector: FasterRCNNConfig = field(default_factory=FasterRCNNConfig)
    repeats: float = 0.5

    def __post_init__(self) -> None:
        if self.setting not in ("predcls", "sgcls", "sgdet"):
            raise ConfigError(f"setting is {self.setting!r} (expected predcls | sgcls | sgdet)")


@dataclass(frozen=True, slots=True)
class GraphScores:
    """Scores and targets of a batch; M regions of all images.

    scored        of the pairs; None if the detector alone is trained
    relation_P    predicates of the pairs, 0 for none
    naming_MC     logits of the labels that are predicted; None if labels are given
    label_M       true labels of the regions, 0 for a box that holds nothing
    detecting     losses of the detector where it is trained along
    scale         of the cosines, [1]; None if the head is linear
    """

    scored: ScoredPairs | None
    relation_P: Tensor
    naming_MC: Tensor | None
    label_M: Tensor
    detecting: dict[str, Tensor]
    scale: Tensor | None


@dataclass(frozen=True, slots=True)
class SceneGraphPrediction:
    """Of one image: boxes xyxy in pixels as the network saw them, classes (1 and above) with their scores, pairs, and probabilities
    of the predicates, "no relation" first."""

    box_N4: Tensor
    label_N: Tensor
    score_N: Tensor
    pair_P2: Tensor
    share_PK: Tensor


class SceneGraphNetwork(nn.Module):
    """`forward` is for training, `relate` and `detect` answer."""

    def __init__(self, backbone: DetectionBackbone, shape: SceneGraphConfig, objects: int, predicates: int) -> None:
        """`objects` and `predicates` are names without the background."""
        super().__init__()
        self.shape, self.objects, self.predicates = shape, objects, predicates
        sizes = shape.detector
        self.detector = FasterRCNN(backbone, sizes, objects + 1)
        self.pool = RoIPooler(sizes.channels, backbone.strides, side=sizes.pooled_side)
        self.regions = RoIBoxHead(sizes.channels, sizes.region_width, side=sizes.pooled_side)
        self.pairs = PairRegions(sizes.channels, backbone.strides, sizes.region_width, side=sizes.pooled_side)
        self.head = PredicatePrototypeHead(shape.head, sizes.region_width, objects + 1, predicates + 1)

    # ------------------------------------------------------------ training

    def forward(
        self,
        image_BCHW: Tensor,
        sizes: Sizes,
        targets: Sequence[SceneGraphTargets],
        sampling: PairSampling,
        *,
        detects: bool,
        relates: bool = True,
    ) -> GraphScores:
        """`detects` trains the detector along, else it is only asked; without `relates` it is trained alone.

        targets  on any device; pairs are drawn in main memory, where no step waits for the next
        """
        on_cpu, targets = targets, [each.to(image_BCHW.device) for each in targets]
        maps = self.detector.maps(image_BCHW)
        detecting: dict[str, Tensor] = {}
        boxes, labels = [t.box_K4 for t in targets], [t.label_K for t in targets]
        pairs, relations = [t.pair_G2 for t in targets], [t.relation_G for t in targets]
        if not relates:
            detecting = self.detector.losses(image_BCHW, maps, sizes, boxes, labels)[1]
            return GraphScores(None, torch.cat(relations), None, torch.cat(labels), detecting, None)
        seen_NC: Tensor | None = None
        if self.shape.setting == "sgcls":
            seen_NC = self.detector.logits(maps, boxes)
            if detects:
                detecting = {
                    "loss_classifier": F.cross_entropy(seen_NC, torch.cat(labels), reduction="sum") / max(1, len(seen_NC))
                }
        elif self.shape.setting == "sgdet":
            if detects:
                proposals, detecting = self.detector.losses(image_BCHW, maps, sizes, boxes, labels)
            else:
                proposals = self.detector.proposals(image_BCHW, maps, sizes)
            proposals_B = self._predict_regions(maps, proposals, targets, sizes, keep_true=detects)
            boxes = [f.boxes() for f in proposals_B]
            drawn = _sampled(sampling, [f.proposal_N4 for f in proposals_B], boxes, on_cpu)
            labels = [draw.label_N for draw in drawn]
            pairs, relations = [draw.pair_P2 for draw in drawn], [draw.relation_P for draw in drawn]
            seen_NC = torch.cat([f.logit_NC for f in proposals_B])
        region_NV = self.regions(self.pool(maps, boxes))
        naming_NC = None
        if seen_NC is None:
            label_N = torch.cat(labels)
        else:
            naming_NC = self.head.naming(region_NV, seen_NC, _codes(boxes, sizes))
            label_N = naming_NC[:, 1:].argmax(1) + 1
        scored = self._scored(maps, region_NV, label_N, boxes, pairs, sizes)
        scale = None if self.shape.head.classifier == "linear" else self.head.log_scale.exp()
        return GraphScores(scored, torch.cat(relations), naming_NC, torch.cat(labels), detecting, scale)

    def _predict_regions(
        self,
        maps: dict[str, Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[SceneGraphTargets],
        sizes: Sizes,
        *,
        keep_true: bool,
    ) -> list[Proposals]:
        """True boxes are among the proposals. A detector that has learned nothing would drop them: `keep_true` keeps them beside what
        it finds, so that there is something to relate from the first step."""
        true = [t.box_K4 for t in targets]
        if not keep_true:
            regions = [torch.cat(both) for both in zip(proposals, true, strict=True)]
            return self.detector.predict_regions(maps, regions, sizes)
        proposals_B = self.detector.predict_regions(maps, [proposal_N4.detach() for proposal_N4 in proposals], sizes)
        with torch.no_grad():
            logits = self.detector.logits(maps, true).split([len(box_K4) for box_K4 in true])
        return [f.joined(t.box_K4, t.label_K, logit_KC) for f, t, logit_KC in zip(proposals_B, targets, logits, strict=True)]

    # ------------------------------------------------------------ answers

    def relate(
        self, image_BCHW: Tensor, sizes: Sizes, boxes: Sequence[Tensor], labels: Sequence[Tensor] | None, class_mask_C: Tensor
    ) -> list[SceneGraphPrediction]:
        """Predicates of all ordered pairs of given boxes; without `labels` these are rebuilt among `class_mask_C`."""
        maps = self.detector.maps(image_BCHW)
        region_NV = self.regions(self.pool(maps, boxes))
        if labels is not None:
            label_N = torch.cat(list(labels))
            score_N = torch.ones(len(label_N), device=label_N.device)
        else:
            naming_NC = self.head.naming(region_NV, self.detector.logits(maps, boxes), _codes(boxes, sizes))
            share_NC = naming_NC.softmax(1)
            score_N, label_N = share_NC.masked_fill(~class_mask_C, -1).max(1)
        return self._answers(maps, region_NV, label_N, score_N, boxes, boxes, sizes)

    def find(self, image_BCHW: Tensor, sizes: Sizes, class_mask_C: Tensor) -> list[SceneGraphPrediction]:
        """Boxes of the classes `class_mask_C` and the predicates of all their ordered pairs."""
        maps = self.detector.maps(image_BCHW)
        proposals_B = self.detector.predict_regions(maps, self.detector.proposals(image_BCHW, maps, sizes), sizes, class_mask_C)
        boxes = [f.boxes() for f in proposals_B]
        region_NV = self.regions(self.pool(maps, boxes))
        naming_NC = self.head.naming(region_NV, torch.cat([f.logit_NC for f in proposals_B]), _codes(boxes, sizes))
        named = [
            nms_labels(logit_NC, f.box_NC4, self.shape.repeats, class_mask_C, inclusive=self.detector.inclusive)
            for logit_NC, f in zip(naming_NC.split([len(b) for b in boxes]), proposals_B, strict=True)
        ]
        region_label_N = torch.cat(named)
        score_N = naming_NC.softmax(1).gather(1, region_label_N[:, None])[:, 0]
        shown = [f.boxes_of(label_N) for f, label_N in zip(proposals_B, named, strict=True)]
        return self._answers(maps, region_NV, region_label_N, score_N, boxes, shown, sizes)

    def _answers(
        self,
        maps: dict[str, Tensor],
        region_NV: Tensor,
        label_N: Tensor,
        score_N: Tensor,
        boxes: Sequence[Tensor],
        shown: Sequence[Tensor],
        sizes: Sizes,
    ) -> list[SceneGraphPrediction]:
        counts = [len(box_K4) for box_K4 in boxes]
        pairs = [all_ordered_pairs(count, region_NV.device) for count in counts]
        share_PK = self._scored(maps, region_NV, label_N, boxes, pairs, sizes).logit_PK.softmax(1)
        parts = (label_N.split(counts), score_N.split(counts), pairs, share_PK.split([len(p) for p in pairs]))
        return [SceneGraphPrediction(*row) for row in zip(shown, *parts, strict=True)]

    def _scored(
        self,
        maps: dict[str, Tensor],
        region_NV: Tensor,
        label_N: Tensor,
        boxes: Sequence[Tensor],
        pairs: Sequence[Tensor],
        sizes: Sizes,
    ) -> ScoredPairs:
        ends = [[box_K4[pair_P2[:, end]] for box_K4, pair_P2 in zip(boxes, pairs, strict=True)] for end in (0, 1)]
        union_PV = self.pairs(maps, ends[0], ends[1], sizes)
        starts = [0]
        for box_K4 in boxes:
            starts.append(starts[-1] + len(box_K4))
        pair_P2 = torch.cat([pair_P2 + start for pair_P2, start in zip(pairs, starts, strict=False)])
        scored: ScoredPairs = self.head(region_NV, label_N, pair_P2, union_PV)
        return scored


def _sampled(
    sampling: PairSampling, proposals: Sequence[Tensor], boxes: Sequence[Tensor], targets: Sequence[SceneGraphTargets]
) -> list[SampledPairs]:
    """Pairs of each image, drawn in main memory; the host waits once for the boxes of all images."""
    counts, device = [len(box_N4) for box_N4 in boxes], boxes[0].device
    proposal_N4, box_N4 = on_host((torch.cat(list(proposals)), torch.cat(list(boxes))))
    rows = zip(proposal_N4.split(counts), box_N4.split(counts), targets, strict=True)
    return [sampling(proposal, box, target.to(torch.device("cpu"))).to(device) for proposal, box, target in rows]


def all_ordered_pairs(count: int, device: torch.device | None = None) -> Tensor:
    """int64 [P, 2]: all ordered pairs of different things among `count`, by subject."""
    pair_P2 = torch.cartesian_prod(torch.arange(count, device=device), torch.arange(count, device=device)).view(-1, 2)
    return pair_P2[pair_P2[:, 0] != pair_P2[:, 1]]


def copy_detector_layers(model: SceneGraphNetwork) -> None:
    """Features of regions and pairs become those of the detector, which later phases start from."""
    for layers in (model.regions, model.pairs.layers):
        layers.load_state_dict(model.detector.heads.box_head.state_dict())


def _codes(boxes: Sequence[Tensor], sizes: Sizes) -> Tensor:
    return torch.cat([box_code(box_K4, size) for box_K4, size in zip(boxes, sizes, strict=True)])
