"""RS5M's staged filter: selects overhead images from web pairs (Zhang et al., 2024, 2306.11300), with a removal table by stage.

Dropped in this order: texts without a keyword, unreadable images, duplicates (equal pixels), images that an image-text model
classifies as something else, and those that a second model does. The score of a model is the softmax mass of the overhead prompts
among all prompts. Published for eleven web collections: 6,121,583 pairs with a keyword, 5,244,251 downloaded; 236 invalid,
1,224,790 duplicate and 1,011,416 outliers were dropped, 3,007,809 kept.

The authors' keywords, prompts and thresholds were not released: these are ours. The column `overhead` holds the score of the
first model, and ``stages.json`` the table. `consistent_captions` ranks captions by the stability of their similarity under
rotation of the image.

Cost: one decode per row with a keyword, then one embedding per row and model.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.contracts import CurationStepResult, Dataset, Drop, Embedder
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage, ImageSource
from diptych.curate.duplicates.exact import ExactDuplicates
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.data.media.decode import decode

COLUMN = "overhead"
KEYWORDS = (
    *(
        "satellite image",
        "satellite imagery",
        "satellite photo",
        "satellite view",
        "aerial image",
        "aerial imagery",
        "aerial photo",
    ),
    *("aerial photograph", "aerial view", "from above", "bird's eye view", "remote sensing", "drone view", "overhead view"),
    *("landsat", "sentinel-2", "worldview-2", "orthophoto", "google earth"),
)
ABOVE = ("a satellite image", "an aerial photograph of the ground", "an overhead view of buildings and roads")
OTHER = (
    "a photo of a person",
    "a photo of an object",
    "a drawing",
    "a map",
    "a screenshot with text",
    "a landscape from the ground",
)
STAGES = ("keyword", "invalid", "duplicate", "model", "detector")


@dataclass(frozen=True, kw_only=True)
class RS5M:
    """keywords   a text must contain one of these, as whole words in any case; () skips this filter
    model      address of an image-text model; "" skips this filter
    detector   address of a second one, applied to the remaining pictures; "" skips this filter
    above      prompts for pictures from above
    other      prompts for all other pictures
    least      minimum softmax share of the prompts from above
    scale      factor of the cosines in the softmax
    language   language of the texts; texts of unknown language are included; "" uses all
    """

    slug: ClassVar[str] = "rs5m"
    paths: ClassVar[tuple[str, ...]] = ()

    keywords: tuple[str, ...] = KEYWORDS
    model: str = ""
    detector: str = ""
    above: tuple[str, ...] = ABOVE
    other: tuple[str, ...] = OTHER
    least: float = 0.5
    scale: float = 100.0
    language: str = ""

    def __post_init__(self) -> None:
        if not self.above or not self.other or not 0 <= self.least <= 1 or self.scale <= 0:
            raise ConfigError(
                f"{len(self.above)} and {len(self.other)} prompts, least {self.least}, scale {self.scale} "
                "(expected prompts of both kinds, 0..1, above 0)"
            )
        if self.detector and not self.model:
            raise ConfigError("detector is set and model is not (expected --model, which is asked first)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        models = [open_embedder(address) for address in (self.model, self.detector) if address]

        def work(image: ImageSource) -> None:
            decode(image, exact=True)
            for model in models:
                model.embed_images([image])

        return estimate_cost(data, work, unit="picture")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from embeddings that an earlier run finished."""
        start = time.perf_counter()
        models = {
            stage: open_embedder(address) for stage, address in (("model", self.model), ("detector", self.detector)) if address
        }
        row_of = {uid: row for row, uid in enumerate(data.uids)}
        reasons = self._without_keyword(data)
        reasons |= self._duplicates(data.select([row_of[uid] for uid in sorted(row_of) if uid not in reasons]))
        column: dict[str, float] = {}
        for stage, model in models.items():
            left = data.select([row_of[uid] for uid in sorted(row_of) if uid not in reasons])
            share = self._shares(left, model, parts)
            column = column or share
            reasons |= {
                uid: f"{stage}: share {value:.3f} from above (expected {self.least} or more)"
                for uid, value in share.items()
                if value < self.least
            }
        kept = tuple(uid for uid in sorted(row_of) if uid not in reasons)
        dropped = tuple(Drop(uid, self.slug, reasons[uid]) for uid in sorted(reasons))
        columns = {COLUMN: {uid: column[uid] for uid in kept}} if column and kept else {}
        files = {"stages.json": (json.dumps(stage_table(len(data), list(reasons.values())), indent=1) + "\n").encode()}
        return CurationStepResult(kept, dropped, columns, time.perf_counter() - start, files)

    def _without_keyword(self, data: Dataset) -> dict[str, str]:
        if not self.keywords:
            return {}
        pattern = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?:s|es)?(?!\w)" for word in self.keywords), re.IGNORECASE)
        samples = (data[row] for row in range(len(data)))
        return {
            sample.uid: "keyword: in no text"
            for sample in samples
            if not any(pattern.search(text.string) for text in sample.positives(self.language))
        }

    def _duplicates(self, data: Dataset) -> dict[str, str]:
        """Drop reasons of images that are unreadable or have the same pixels as an earlier one."""
        missing = {data.uids[row]: "invalid: there is no picture" for row in range(len(data)) if data[row].image is None}
        dropped = ExactDuplicates(pixels=True)(data).dropped
        kinds = {drop.uid: "invalid" if drop.reason.startswith("unreadable") else "duplicate" for drop in dropped}
        return missing | {drop.uid: f"{kinds[drop.uid]}: {drop.reason}" for drop in dropped}

    def _shares(self, data: Dataset, model: Embedder, parts: PartStore) -> dict[str, float]:
        embeddings = embed_pool(data, model, parts)
        if not len(embeddings.uids):
            return {}
        share_N = overhead_share(
            embeddings.vector_ND, model.embed_texts([*self.above]), model.embed_texts([*self.other]), scale=self.scale
        )
        return {uid: float(value) for uid, value in zip(embeddings.uids, share_N, strict=True)}


def overhead_share(
    image_ND: npt.NDArray[np.float32],
    above_PD: npt.NDArray[np.float32],
    other_QD: npt.NDArray[np.float32],
    *,
    scale: float = 100.0,
) -> npt.NDArray[np.float64]:
    """Softmax mass of the overhead prompts among all prompts, [N]."""
    logit_NK = scale * (image_ND.astype(np.float64) @ np.concatenate([above_PD, other_QD]).T.astype(np.float64))
    weight_NK = np.exp(logit_NK - logit_NK.max(1, keepdims=True))
    share_N: npt.NDArray[np.float64] = weight_NK[:, : len(above_PD)].sum(1) / weight_NK.sum(1)
    return share_N


def stage_table(rows: int, reasons: Sequence[str]) -> list[dict[str, Any]]:
    """Stages in order with the rows before, removed and after.

    >>> stage_table(5, ["keyword: in no text", "duplicate: same pixels as a"])[2]
    {'stage': 'duplicate', 'before': 4, 'removed': 1, 'after': 3}
    """
    kinds = [reason.partition(":")[0] for reason in reasons]
    table = []
    for stage in STAGES:
        removed = kinds.count(stage)
        table.append({"stage": stage, "before": rows, "removed": removed, "after": rows - removed})
        rows -= removed
    return table


def consistent_captions(
    model: Embedder,
    image: ImageSource,
    captions: Sequence[str],
    *,
    angles: Sequence[float] = (0.0, 90.0, 180.0, 270.0),
    keep: int = 1,
) -> list[str]:
    """Captions whose similarity to the image changes least under rotation, most stable first (by standard deviation over the
    angles; ties by similarity)."""
    if not captions or keep < 1 or len(angles) < 2:
        raise ConfigError(
            f"{len(captions)} captions, {len(angles)} angles, keep {keep} (expected 1 or more, two or more, 1 or more)"
        )
    picture = Image.fromarray(decode(image, exact=True))
    turned = [ArrayImage(np.asarray(picture.rotate(angle, resample=Image.Resampling.BILINEAR, expand=True))) for angle in angles]
    cosine_AC = model.embed_images(turned) @ model.embed_texts(list(captions)).T
    order = np.lexsort((-cosine_AC.mean(0), cosine_AC.std(0)))
    return [captions[int(index)] for index in order[:keep]]
