"""A trained `DenseClipDetector` or `DenseClipMaskDetector` as a model folder: boxes of the training classes, and masks from the latter.

Letters: A anchors, K classes, N boxes, C channel, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from diptych.core.config import from_plain, to_plain
from diptych.core.image import ImageSource
from diptych.core.scene_graph import Region, SceneGraph
from diptych.data.masks import encode
from diptych.data.text.tokenize import Tokenizer
from diptych.models.denseclip.built import DenseClipSettings, dense_detector, dense_mask_detector
from diptych.models.denseclip.dense_detector import BoxDetections, DenseClipDetector
from diptych.models.denseclip.dense_mask_detector import DenseClipMaskDetector
from diptych.models.detection.anchor_boxes import AnchorConfig
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.detection.mask_rcnn import MaskRCNNConfig, paste_mask
from diptych.models.io.card import detector_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating
from diptych.models.io.region_detector import ClosedSetDetector, RegionDetector


class DenseClipDetectorModel(RegionDetector, ClosedSetDetector):
    """A trained DenseCLIP detector: a `Detector` of its training classes only.

    The class names are in its weights. Other names are never returned.
    """

    kind: ClassVar[str] = "dense_detector"
    model: DenseClipDetector | DenseClipMaskDetector

    def __init__(
        self,
        model: DenseClipDetector | DenseClipMaskDetector,
        settings: DenseClipSettings,
        images: DetectionPreprocess,
        tokenizer: Tokenizer,
        name: str,
        *,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.settings, self.images, self.tokenizer = model, settings, images, tokenizer
        self.name, self.card = name, dict(card or {})

    @property
    def objects(self) -> tuple[str, ...]:
        """The classes of training."""
        return self.settings.classes

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights and preprocessing, computed at first access."""
        return fingerprint(self.model, {"images": to_plain(self.images), "objects": list(self.objects)})

    def regions(
        self, images: Sequence[ImageSource], objects: Sequence[str], *, top: int, threshold: float, batch_size: int
    ) -> list[SceneGraph]:
        """The `top` best boxes of each image with a score above `threshold` and the least that the model keeps (published 0.05);
        a detector with masks keeps its own number of them at most (published 100), and gives each region its mask as COCO's code.

        `batch_size` is that of other detectors: images are read one by one, since the padding of an image changes its detections.
        """
        class_mask_K = self._class_mask(objects)
        return [self._graph(image, class_mask_K, top, threshold) for image in images]

    def _graph(self, image: ImageSource, class_mask_K: Tensor, top: int, threshold: float) -> SceneGraph:
        pixels_HWC, shown_BCHW, (high, wide) = self._model_input(image)
        with torch.no_grad(), evaluating(self.model):
            detections = self.model.detect(shown_BCHW, (high, wide), top=top, class_mask_K=class_mask_K)
        height, width = pixels_HWC.shape[:2]
        scale_4 = torch.tensor([width / wide, height / high]).repeat(2)
        boxes, labels, scores = (
            (detections.box_N4.float().cpu() * scale_4).tolist(),
            detections.label_N.tolist(),
            detections.score_N.tolist(),
        )
        return SceneGraph(
            tuple(
                Region(tuple(box), self.objects[label], score=score, mask=_mask(detections, row, box, (height, width)))
                for row, (box, label, score) in enumerate(zip(boxes, labels, scores, strict=True))
                if score > threshold and box[2] > box[0] and box[3] > box[1]
            )
        )

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer files, README.md, replacing the whole folder."""
        model = self.model
        config = {
            "kind": self.kind,
            "name": self.name,
            "dense": self.settings.to_json(),
            **(
                {"anchors": to_plain(model.anchors)} if isinstance(model, DenseClipDetector) else {"masks": to_plain(model.shape)}
            ),
            "tau": self.model.tau,
            "objects": list(self.objects),
            "images": to_plain(self.images),
            "card": self.card,
        }
        write_model(folder, self.model, config, self._readme(), self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        settings, words = DenseClipSettings.from_json(config["dense"]), Tokenizer.load(Path(folder))
        with torch.random.fork_rng(devices=[]):
            model: DenseClipDetector | DenseClipMaskDetector = (
                dense_mask_detector(settings, from_plain(MaskRCNNConfig, config["masks"]), config["tau"], words)
                if "masks" in config
                else dense_detector(settings, from_plain(AnchorConfig, config["anchors"]), config["tau"], words)
            )
        load_weights(model, folder)
        return cls(
            model.eval(),
            settings,
            from_plain(DetectionPreprocess, config["images"]),
            words,
            config["name"],
            card=config.get("card"),
        )

    def _readme(self) -> str:
        what = "Boxes" if isinstance(self.model, DenseClipDetector) else "Boxes and masks"
        return detector_card(
            self.name,
            self.card,
            tags=("object-detection", "clip"),
            about=f"{what} of its classes, guided by their names (DenseCLIP, 2021).",
            facts=f"{parameters(self.model):,} parameters; {len(self.objects)} classes; images at {self.images.size} px.",
            use=f'graph = diptych.detect(model, "street.jpg", objects={list(self.objects[:2])})',
        )


def _mask(detections: BoxDetections, row: int, box: Sequence[float], size: tuple[int, int]) -> dict[str, Any] | None:
    """COCO's code of a mask at the image's own size; None from a detector without masks."""
    if detections.share_NHW is None:
        return None
    return encode((paste_mask(detections.share_NHW[row].cpu(), box, size) >= detections.solid).numpy())
