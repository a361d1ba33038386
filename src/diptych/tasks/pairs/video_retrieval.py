"""Video retrieval: texts by video and videos by text.  Protocol `video_retrieval`, version 1.

Metrics, ties, groups and intervals are those of `retrieval`, with clips where that has images. A model whose texts depend on the clip is
asked for the scores of all pairs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal

import pyarrow as pa

from diptych.core.contracts import ClipEmbedder, ClipScorer, Dataset
from diptych.core.result import Result
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.pairs.clips_as_images import ClipsAsImages, as_images
from diptych.tasks.pairs.retrieval import Retrieval


@dataclass(frozen=True, slots=True)
class VideoRetrieval:
    """Recall at K both ways, mean reciprocal rank, median rank; i2t: texts by video, t2i: videos by text.

    medium    name of the clip among a sample's media
    language, origins, texts_per_image, relevant, ks  see `retrieval`
    """

    name: ClassVar[str] = "video_retrieval"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = ClipScorer | ClipEmbedder  # type: ignore[assignment]
    main: ClassVar[str] = "r@1"

    medium: str = "clip"
    language: str = "en"
    origins: tuple[str, ...] = ()
    texts_per_image: int = 0
    relevant: Literal["auto", "group", "uid"] = "auto"
    ks: tuple[int, ...] = (1, 5, 10)
    ties: rk.Ties = "expected"
    draws: int = 2000
    seed: int = 0

    @property
    def _task(self) -> Retrieval:
        plain = {name: value for name, value in asdict(self).items() if name != "medium"}
        return Retrieval(**plain)

    def predict(self, model: ClipScorer | ClipEmbedder, data: Dataset) -> pa.Table:
        """Returns one row per query, texts first."""
        records = self._task.predict(as_images(model), ClipsAsImages(data, self.medium))
        return with_facts(records, options=asdict(self))

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        return replace(self._task.score(records), task=self.name, version=self.version)
