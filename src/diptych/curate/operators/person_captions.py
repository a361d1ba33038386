"""Generates person captions from six attributes by one of 1,664 templates: SYNTH-PEDES's third caption (PLIP, 2305.08386).

The column ``synthetic_caption`` holds the sentence and ``template`` the template used ("person_captions/17"). No rows are
dropped; rows without attributes get no caption. The attributes come from the data (the extra ``attributes``: gender, head, upper
and lower clothes, shoes, belongings, "unknown" if not known).

Cost: negligible. The draw depends only on the seed and the row's uid.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import DataError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.curate.engine.costs import estimate_cost
from diptych.data.text.persons.attribute_captions import BANK, PLACES, Wordings, numbers_of, person_caption

CAPTION, TEMPLATE = "synthetic_caption", "template"


@dataclass(frozen=True)
class PersonCaptions:
    """column    name of the extra with the six attributes
    wordings  "all", "training", or "held_out": the templates that "training" does not use
    seed      seed of the templates
    """

    slug: ClassVar[str] = "person_captions"
    paths: ClassVar[tuple[str, ...]] = ()

    column: str = "attributes"
    wordings: Wordings = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        numbers_of(self.wordings)

    def plan(self, data: Dataset) -> dict[str, Any]:
        return estimate_cost(data, lambda image: image.name, unit="sentence")

    def __call__(self, data: Dataset) -> CurationStepResult:
        start = time.perf_counter()
        captions, templates = dict[str, str](), dict[str, str]()
        numbers = numbers_of(self.wordings)
        for row in with_bar(range(len(data)), len(data), "writing sentences", least=1_000):
            sample = data[row]
            attributes = self._attributes(sample, row)
            if not attributes:
                continue
            number = numbers[int(keyed_rng(self.slug, self.seed, sample.uid).integers(len(numbers)))]
            captions[sample.uid], templates[sample.uid] = person_caption(attributes, number), f"{BANK}/{number}"
        if len(data) and not captions:
            raise DataError(
                f"no row of '{data.name}' has attributes", field=self.column, expected=f"six a row: {', '.join(PLACES)}"
            )
        columns = {CAPTION: captions, TEMPLATE: templates} if captions else {}
        return CurationStepResult(tuple(sorted(data.uids)), (), columns, time.perf_counter() - start)

    def _attributes(self, sample: Sample, row: int) -> tuple[str, ...]:
        given = sample.extras.get(self.column)
        if not given:
            return ()
        if isinstance(given, str) or len(given) != len(PLACES):
            count = "one string" if isinstance(given, str) else f"{len(given)} entries"
            raise DataError(
                f"the attributes of '{sample.uid}' are {count}", row=row, field=self.column, expected=f"six: {', '.join(PLACES)}"
            )
        return tuple(str(phrase) for phrase in given)
