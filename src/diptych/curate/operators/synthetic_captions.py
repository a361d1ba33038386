"""A caption for every image from what the data know about it: the second text that ALIP learns from, where no captioner is at hand
(`generated_captions`).

Regions, else labels or tags stand in a fixed sentence; nothing is trained and nothing decoded. Data that name nothing in any image are
refused. Drops no rows. The captions
are the column ``synthetic_caption``, keyed by uid: pass the folder that `curate` wrote to `diptych train alip --captions FOLDER`. Raw
texts are never touched, and never enter a caption by themselves: a template that repeated the raw text could not disagree with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar

COLUMN = "synthetic_caption"


@dataclass(frozen=True)
class TemplateCaptions:
    """template    the sentence; {} is replaced by the objects of the image
    attributes  maximum number of attributes of a region before its label
    origins     origins of texts to use if the image has no regions; the first available origin is used
    language    language of those texts
    """

    slug: ClassVar[str] = "template_captions"

    template: str = "an image of {}"
    attributes: int = 1
    origins: tuple[str, ...] = ("label", "tags")
    language: str = "en"

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise ConfigError(f"template is {self.template!r} (expected one {{}} in it)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        start = time.perf_counter()
        tried = [self._caption(data[row]) for row in range(0, len(data), max(1, len(data) // 24))]
        each = (time.perf_counter() - start) / max(1, len(tried))
        return {"items": len(data), "unit": "template", "seconds_each": each, "seconds": each * len(data)}

    def __call__(self, data: Dataset) -> CurationStepResult:
        start = time.perf_counter()
        samples = with_bar(_samples(data), len(data), "writing captions", least=1_000)
        all_captions = {sample.uid: self._caption(sample) for sample in samples}
        captions = {uid: caption for uid, caption in all_captions.items() if caption}
        if all_captions and not captions:
            raise DataError(
                f"the images of '{data.name}' have no annotations",
                field="regions, texts",
                expected=f"regions or texts of origin {' or '.join(self.origins)}; without, the step generated_captions asks a captioner",
            )
        return CurationStepResult(tuple(all_captions), (), {COLUMN: captions} if captions else {}, time.perf_counter() - start)

    def _caption(self, sample: Sample) -> str:
        """Caption of a sample; "" if the data have neither regions nor a text for it."""
        names = [" ".join((*region.attributes[: self.attributes], region.label)) for region in sample.regions]
        things = [f"{'an' if name[:1].lower() in tuple('aeiou') else 'a'} {name}" for name in dict.fromkeys(names)]
        if not things:
            texts = sample.positives(self.language)
            of_origin = ([text.string for text in texts if text.origin == origin] for origin in self.origins)
            things = next((strings for strings in of_origin if strings), [])[:1]
        if not things:
            return ""
        listed = things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
        return self.template.format(listed)


def _samples(data: Dataset) -> Iterator[Sample]:
    """Samples in order of uid, so that nothing depends on the order of rows."""
    return (data[row] for row in sorted(range(len(data)), key=data.uids.__getitem__))
