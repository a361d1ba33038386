"""Zero-shot video classification.  Protocol `video_classification`, version 1.

Metrics, ties and intervals are those of `zero_shot`: acc@1, acc@5 and mean per-class recall over all clips, also those of the last batch. A
test of several views takes the softmax over the classes in each and averages, as published tests of 4 x 3 views do; numbers of
different views are different numbers, so they stand in the notes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import pyarrow as pa

from diptych.core.contracts import ClipEmbedder, ClipScorer, Dataset
from diptych.core.errors import ConfigError
from diptych.core.result import Result
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.pairs.classification import class_item_values, score_classes
from diptych.tasks.pairs.clips_as_images import ClipsAsImages, as_images
from diptych.tasks.pairs.zero_shot import ZeroShot


@dataclass(frozen=True, slots=True)
class VideoClassification:
    """acc@1, acc@5 and mean per-class recall of videos.

    medium        name of the clip among a sample's media
    views, crops  temporal views, and spatial crops (1 or 3); published: 1 x 1, and 4 x 3
    templates     templates of class names; X-CLIP uses the bare name
    classes   class names, if not those of the data
    """

    name: ClassVar[str] = "video_classification"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = ClipScorer | ClipEmbedder  # type: ignore[assignment]
    main: ClassVar[str] = "acc@1"

    label: str = "label"
    language: str = "en"
    classes: tuple[str, ...] = ()
    medium: str = "clip"
    views: int = 1
    crops: int = 1
    templates: str = "plain"
    ties: rk.Ties = "expected"
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.views < 1 or self.crops not in (1, 3):
            raise ConfigError(f"{self.views} views of {self.crops} crops (expected one view or more, and 1 or 3 crops)")

    def predict(self, model: ClipScorer | ClipEmbedder, data: Dataset) -> pa.Table:
        """Returns one row per clip."""
        task = ZeroShot(label=self.label, language=self.language, classes=self.classes, templates=self.templates, ties=self.ties)
        seen = as_images(model, views=self.views, crops=self.crops)
        return with_facts(task.predict(seen, ClipsAsImages(data, self.medium)), options=asdict(self))

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        return score_classes(records, self)

    item_values = staticmethod(class_item_values)
