"""Dense captioning of 3D scenes: CIDEr, BLEU-4 and ROUGE-L at IoU.  Protocol `room_captions`, version 1.

Scan2Cap (2012.02206), the form m@kIoU: every described object counts; its caption is that of the best-fitting box, or empty if
that box has an IoU below k. Captions and references are wrapped in "sos" and "eos", as in the released scorer, which raises all
scores slightly and gives the empty caption a score above 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, RoomDescriber
from diptych.core.errors import DataError
from diptych.core.points.boxes_3d import box_iou_3d
from diptych.core.result import Metric, Result
from diptych.core.terminal.progress import with_bar
from diptych.data.points.room_language import room_descriptions, room_objects
from diptych.tasks._scoring.captions.metrics import bleu_counts, cider_d, rouge_l, words_of
from diptych.tasks._scoring.intervals import percentiles, resampled_means
from diptych.tasks._scoring.records import array, facts_of, with_facts

LEVELS = (0.25, 0.5)
FIRST, LAST = "sos", "eos"


@dataclass(frozen=True, slots=True)
class RoomCaptions:
    """CIDEr-D, ROUGE-L and BLEU-4 of captions of things at IoU .25 and .5."""

    name: ClassVar[str] = "room_captions"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = RoomDescriber
    main: ClassVar[str] = "cider@0.5"

    draws: int = 2000
    seed: int = 0

    def predict(self, model: RoomDescriber, data: Dataset) -> pa.Table:
        """Returns one row per described object: the caption of the best-fitting box, that box's IoU, and the references."""
        rows: list[dict[str, Any]] = []
        for number in with_bar(range(len(data)), len(data), "describing", least=4):
            sample = data[number]
            references: dict[int, list[str]] = {}
            for one in room_descriptions(sample):
                if len(one.object_ids) == 1:
                    references.setdefault(one.object_ids[0], []).append(one.text)
            if not references:
                continue
            answer = model.describe_room(sample)
            for thing in room_objects(sample):
                if thing.id not in references:
                    continue
                iou_N = box_iou_3d(answer.box_N6, [thing.box])[:, 0]
                best = int(iou_N.argmax()) if len(iou_N) else -1
                caption, iou = (answer.texts[best], float(iou_N[best])) if best >= 0 else ("", 0.0)
                facts = {"uid": f"{sample.uid}/{thing.id}", "group": sample.group or sample.uid}
                rows.append({**facts, "caption": caption, "iou": iou, "references": references[thing.id]})
        if not rows:
            raise DataError(
                f"'{data.name}' has no descriptions of things", field="descriptions", expected="rooms with descriptions"
            )
        return with_facts(pa.Table.from_pylist(rows), options=asdict(self))

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        groups, iou_N = records.column("group").to_pylist(), array(records, "iou").astype(np.float64)
        written = [framed_words(text) for text in records.column("caption").to_pylist()]
        references = [[framed_words(text) for text in texts] for texts in records.column("references").to_pylist()]
        metrics = {}
        for level in LEVELS:
            captions = [words if iou >= level else [FIRST, LAST] for words, iou in zip(written, iou_N, strict=True)]
            columns = {
                "cider": cider_d(captions, references),
                "rouge_l": np.array([rouge_l(*pair) for pair in zip(captions, references, strict=True)]),
            }
            drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
            for number, (name, value_N) in enumerate(columns.items()):
                unit = "points" if name == "cider" else "share"
                metrics[f"{name}@{level}"] = Metric(float(value_N.mean()), *percentiles(drawn_RM[:, number]), unit=unit)
            metrics[f"bleu_4@{level}"] = Metric(bleu_counts(captions, references).score())
            metrics[f"found@{level}"] = Metric(float((iou_N >= level).mean()))
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=dict(facts_of(records)))


def framed_words(text: str) -> list[str]:
    """Words of a caption between "sos" and "eos"."""
    return [FIRST, *words_of(text), LAST]
