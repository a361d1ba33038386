"""DenseCLIP for boxes: a RetinaNet with pixel-text scores, on the image tower of a trained dual encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from torch import Tensor

from diptych.data.graphs.batch import GraphBatch
from diptych.models.denseclip.built import dense_detector
from diptych.models.denseclip.dense_detector import DenseClipDetector, DenseClipDetectorOutput
from diptych.models.detection.anchor_boxes import AnchorConfig
from diptych.objectives.boxes.anchors import anchor_losses
from diptych.recipes._shared.frozen.dense_detection import SMALL_DETECTOR, DenseDetectionRecipe, targets


@dataclass(frozen=True, kw_only=True)
class DenseCLIPBoxes(DenseDetectionRecipe[DenseClipDetector, DenseClipDetectorOutput]):
    """DenseCLIP (Rao et al., 2021, arXiv 2112.01518) as a detector, its RetinaNet (1708.02002); `denseclip` names pixels.

    The image side of a trained dual encoder is fine-tuned under a pyramid from stride 8 on, whose every place says a class and a box. Class
    names, behind eight learned vectors and refined by the picture, are compared with every place; these scores, divided by `tau`, stand
    beside the last map before the pyramid, and have to say of every place in a box which classes it shows. Its baseline is the same
    detector without language (`language` "none").

    Losses are mmdetection's, with which it was trained: sums over the batch's boxes (`anchor_losses`). We depart in these: a picture
    with no box but crowds has a score loss of 0, and a batch mixes wide and upright ones. With masks: `denseclip_masks`.

    anchors      which boxes there are and which are kept (`AnchorConfig`); its fields are options like these
    """

    slug = "denseclip_boxes"
    anchors: AnchorConfig = field(default_factory=AnchorConfig)

    def model(self) -> DenseClipDetector:
        encoder = self.encoder()
        model = dense_detector(self.settings(encoder), self.anchors, self.tau, self.words(), encoder)
        self.started_(model)
        return model

    def features(self, model: DenseClipDetector, batch: GraphBatch) -> DenseClipDetectorOutput:
        detected: DenseClipDetectorOutput = model(batch.image_BCHW)
        return detected

    def losses(self, features: DenseClipDetectorOutput, batch: GraphBatch) -> dict[str, Tensor]:
        boxes, labels = targets(batch)
        real_NA = self.real(features.anchor_A4, batch)
        terms = anchor_losses(features.logit_NAK, features.change_NA4, features.anchor_A4, boxes, labels, real_NA)
        if features.score_NKHW is not None:
            terms["score"] = self.score_loss(features.score_NKHW, batch)
        return terms

    # ------------------------------------------------------------ presets

    @classmethod
    def tiny(cls) -> Self:
        """A small vision transformer with patches of 8 pixels, images squashed to 64: minutes. Give a trained model as `weights`."""
        return cls(
            **SMALL_DETECTOR,
            anchors=AnchorConfig(size=1.5, octave=2, extra=0),
        )

    @classmethod
    def paper(cls) -> Self:
        """RetinaNet on ResNet-50 of CLIP, twelve passes over COCO in batches of 16. Give its released weights as `weights`."""
        anchors = AnchorConfig(limits="anchors")
        return cls(image_tower="resnet_clip_50", width=1024, released_edges=True, positions="cut", anchors=anchors)
