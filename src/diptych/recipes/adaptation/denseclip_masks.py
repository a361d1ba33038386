"""DenseCLIP for instances: a Mask R-CNN with pixel-text scores, on the image tower of a trained dual encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from diptych.data.graphs.batch import GraphBatch
from diptych.models.denseclip.built import dense_mask_detector
from diptych.models.denseclip.dense_mask_detector import DenseClipMaskDetector, DenseClipMaskOutput
from diptych.models.detection.mask_rcnn import MaskRCNNConfig
from diptych.objectives.boxes.sampling import BoxSampling, Drawn, sample_regions
from diptych.objectives.boxes.two_stage import mask_loss, proposal_losses, region_losses
from diptych.objectives.gather import mean_over_processes
from diptych.recipes._shared.frozen.dense_detection import SMALL_DETECTOR, DenseDetectionRecipe, targets


@dataclass(frozen=True, kw_only=True)
class DenseCLIPMasks(DenseDetectionRecipe[DenseClipMaskDetector, DenseClipMaskOutput]):
    """DenseCLIP (Rao et al., 2021, arXiv 2112.01518) with masks of instances, its Mask R-CNN (1703.06870); `denseclip_boxes` finds boxes.

    The image side of a trained dual encoder is fine-tuned under a pyramid of all four strides. Class names, behind eight learned vectors
    and refined by the picture, are compared with every place; these scores, divided by `tau`, stand beside the last map before the
    pyramid, and have to say of every place in a box which classes it shows. From the pyramid a first head proposes boxes, a second names
    and corrects them, a third draws the mask of each. Its baseline is the same detector without language (`language` "none").

    Heads and losses are mmdetection's, with which it was trained (`MaskRCNN`, `objectives.boxes.two_stage`); 512 proposals of an image are
    learned from, true boxes among them. Every region needs a mask. We depart in these: a picture with no box but crowds has a score loss
    of 0, and a batch mixes wide and upright ones.

    shape         sizes and thresholds of the heads (`MaskRCNNConfig`); its fields are options like these
    anchor_high   an anchor that overlaps a box by as much shows a thing
    anchor_low    an anchor that overlaps every box by less shows background; in between it is not learned from
    anchor_least  the anchor that fits a box best shows it, too, from this overlap on
    anchor_count  anchors of an image that are learned from
    anchor_positive  the share of these that show things, at most
    region_high   a proposal that overlaps a box by as much shows a thing
    region_low    a proposal that overlaps every box by less shows background
    region_least  the proposal that fits a box best shows it, too, from this overlap on
    region_count  proposals of an image that are learned from, true boxes among them
    region_positive  the share of these that show things, at most
    """

    slug = "denseclip_masks"
    cacheable = False  # proposals are drawn while features are made, and losses are over all of them
    masked = True

    lr: float = 2e-4
    shape: MaskRCNNConfig = field(default_factory=MaskRCNNConfig)
    anchor_high: float = 0.7
    anchor_low: float = 0.3
    anchor_least: float = 0.3
    anchor_count: int = 256
    anchor_positive: float = 0.5
    region_high: float = 0.5
    region_low: float = 0.5
    region_least: float = 0.5
    region_count: int = 512
    region_positive: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.anchor_sampling, self.region_sampling  # refuses what they refuse

    @property
    def anchor_sampling(self) -> BoxSampling:
        """Which anchors the proposals learn from."""
        low, high = self.anchor_low, self.anchor_high
        return BoxSampling(high=high, low=low, least=self.anchor_least, count=self.anchor_count, positive=self.anchor_positive)

    @property
    def region_sampling(self) -> BoxSampling:
        """Which proposals classes, boxes and masks learn from."""
        low, high = self.region_low, self.region_high
        return BoxSampling(high=high, low=low, least=self.region_least, count=self.region_count, positive=self.region_positive)

    @property
    def measured_by(self) -> str:
        return "open_detection:shapes=masks"

    def model(self) -> DenseClipMaskDetector:
        encoder = self.encoder()
        model = dense_mask_detector(self.settings(encoder), self.shape, self.tau, self.words(), encoder)
        self.started_(model)
        return model

    def features(self, model: DenseClipMaskDetector, batch: GraphBatch) -> DenseClipMaskOutput:
        boxes, _ = targets(batch)

        def choose(proposals: Sequence[Tensor]) -> list[Drawn]:
            return sample_regions(proposals, boxes, self.region_sampling)

        detected: DenseClipMaskOutput = model(batch.image_BCHW, batch.size_B2.tolist(), choose)
        return detected

    def losses(self, features: DenseClipMaskOutput, batch: GraphBatch) -> dict[str, Tensor]:
        boxes, labels = targets(batch)
        assert batch.masks is not None
        real_NA = self.real(features.anchor_A4, batch)
        terms = proposal_losses(features.thing_NA, features.change_NA4, features.anchor_A4, boxes, self.anchor_sampling, real_NA)
        terms |= region_losses(features.logit_SC, features.change_SK4, features.regions, boxes, labels)
        terms |= mask_loss(features.mask_PKHW, features.regions, batch.masks, labels)
        if features.score_NKHW is not None:
            terms["score"] = self.score_loss(features.score_NKHW, batch)
        return {name: mean_over_processes(term) for name, term in terms.items()}

    def metrics(self, features: DenseClipMaskOutput, batch: GraphBatch) -> dict[str, Tensor]:
        """Share of the drawn regions that have a true box."""
        counts = torch.tensor([(len(box_S4), len(place_P)) for box_S4, place_P in features.regions], dtype=torch.float32)
        return {"positive": counts[:, 1].sum() / counts[:, 0].sum().clamp_min(1)}

    # ------------------------------------------------------------ presets

    @classmethod
    def tiny(cls) -> Self:
        """A small vision transformer with patches of 8 pixels, images squashed to 64: minutes. Give a trained model as `weights`."""
        return cls(
            **SMALL_DETECTOR,
            shape=MaskRCNNConfig(
                size=3.0, considered=200, learns_considered=200, proposals=60, region_width=128, mask_width=32, mask_layers=2
            ),
            anchor_count=64,
            region_count=32,
        )

    @classmethod
    def paper(cls) -> Self:
        """Mask R-CNN on ResNet-50 of CLIP, twelve passes over COCO in batches of 16. Give its released weights as `weights`."""
        return cls(image_tower="resnet_clip_50", width=1024, released_edges=True, positions="cut")
