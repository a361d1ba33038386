"""Boxes of faces, for blurring: nothing is dropped, except for images that cannot be read.

    diptych curate face_boxes pairs/ faces/
    diptych data build faces/ blurred/ --blur face_bboxes

The column ``face_bboxes`` holds a list of [left, top, right, bottom] for each image, in shares of its width and height, under the name
and in the form of DataComp (Gadre et al., 2023, 2304.14108); ``face_scores`` holds their scores. An image without a face has an empty
list. `data build --blur face_bboxes` blurs them, and so does `data download --blur face_bboxes` for links that have the column.

DataComp detects faces with SCRFD, whose weights are for research only; here it is CenterFace (`models.io.face_detector`, MIT). No detector
finds every face: look at what is left before you publish.

Cost: a decode and a forward pass for each image; finished parts of a killed run are reused.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.images import image_facts
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.verdicts import ColumnByUid, DropTable, StringColumn
from diptych.data.media.decode import decode
from diptych.data.ragged import one_chunk
from diptych.models.io.face_detector import FaceDetector

BOXES, SCORES = "face_bboxes", "face_scores"
SCHEMA = pa.schema([(BOXES, pa.list_(pa.list_(pa.float64()))), (SCORES, pa.list_(pa.float64()))])


@dataclass(frozen=True)
class FaceBoxes:
    """least    minimum score of a face, 0..1; lower values find more faces and more that are none
    longest  longer side, in pixels, above which an image is scaled down before detection; 0: never
    """

    slug: ClassVar[str] = "face_boxes"

    least: float = 0.5
    longest: int = 1280

    def __post_init__(self) -> None:
        if not 0 < self.least < 1 or self.longest < 0:
            raise ConfigError(f"least is {self.least}, longest {self.longest} (expected between 0 and 1, 0 or more pixels)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        detector = FaceDetector(longest=self.longest)
        return estimate_cost(data, lambda image: self._faces(detector, image), unit="decode and detection")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from the boxes that an earlier run has found."""
        start = time.perf_counter()
        detector = FaceDetector(longest=self.longest)
        facts = image_facts(data, parts, lambda image: self._faces(detector, image), SCHEMA, "faces")
        uids, fault = one_chunk(facts["uid"]), one_chunk(facts["fault"])
        broken, seen = fault.is_valid(), one_chunk(facts[BOXES]).is_valid()
        reasons = pc.binary_join_element_wise("unreadable: ", fault.filter(broken), "")
        drops = DropTable.of_step(self.slug, uids.filter(broken), reasons)
        columns = {
            name: ColumnByUid(pa.table({"uid": uids.filter(seen), name: one_chunk(facts[name]).filter(seen)}))
            for name in SCHEMA.names
        }
        counts = pc.list_value_length(one_chunk(facts[BOXES]).filter(seen))
        faces, some = pc.sum(counts).as_py() or 0, pc.sum(pc.greater(counts, 0)).as_py() or 0
        notes = (f"{faces:,} faces in {some:,} of {len(counts):,} images",)
        kept = StringColumn(uids.filter(pc.invert(broken)))
        columns = columns if len(counts) else {}
        return CurationStepResult(kept, drops, columns, time.perf_counter() - start, notes=notes)

    def _faces(self, detector: FaceDetector, image: ImageSource) -> tuple[list[list[float]], list[float]]:
        box_N4, score_N = detector.detect(decode(image), least=self.least)
        return box_N4.tolist(), score_N.tolist()
