"""A caption for every image: from what the data know about it, or from a captioner. The second text that ALIP learns from.

`TemplateCaptions`   names what stands in the image (regions, else labels or tags) in a fixed sentence. Nothing trained; costs no decode
`GeneratedCaptions`  asks any model that answers `Generator`. ALIP took OFA with the prompt below, 10 to 15 tokens

Data that name nothing in any image are refused by the first. No row leaves but one whose image a captioner cannot read. The captions
are the column ``synthetic_caption``, keyed by uid: pass the folder that `curate` wrote to `diptych train alip --captions FOLDER`. Raw
texts are never touched, and never enter a caption by themselves: a template that repeated the raw text could not disagree with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from diptych.core.contracts import Curated, Dataset, Drop, Generator
from diptych.core.errors import ConfigError, DataError, DecodeError
from diptych.core.image import ImageSource
from diptych.core.sample import Sample
from diptych.curate.engine.costs import planned

COLUMN = "synthetic_caption"
ALIP_PROMPT = "What does the image describe?"


@dataclass(frozen=True)
class TemplateCaptions:
    """template    the sentence; {} stands for what is in the image
    attributes  how many of a region's attributes come before its label
    origins     texts that name the image where it has no regions; the first origin that a sample has is taken
    language    of those texts
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

    def __call__(self, data: Dataset) -> Curated:
        start = time.perf_counter()
        found = {sample.uid: self._caption(sample) for sample in _samples(data)}
        captions = {uid: caption for uid, caption in found.items() if caption}
        if found and not captions:
            raise DataError(
                f"nothing says what is in the images of '{data.name}'",
                field="regions, texts",
                expected=f"regions or texts of origin {' or '.join(self.origins)}; without, `GeneratedCaptions` asks a captioner",
            )
        return Curated(tuple(found), (), {COLUMN: captions} if captions else {}, time.perf_counter() - start)

    def _caption(self, sample: Sample) -> str:
        """ "" where the data know nothing about the image."""
        names = [" ".join((*region.attributes[: self.attributes], region.label)) for region in sample.regions]
        things = [f"{'an' if name[:1].lower() in tuple('aeiou') else 'a'} {name}" for name in dict.fromkeys(names)]
        if not things:
            texts = sample.positives(self.language)
            of_origin = ([text.string for text in texts if text.origin == origin] for origin in self.origins)
            things = next((found for found in of_origin if found), [])[:1]
        if not things:
            return ""
        listed = things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
        return self.template.format(listed)


@dataclass(frozen=True)
class GeneratedCaptions:
    """captioner   a model that writes text from images and a prompt
    prompt      what it is asked
    max_tokens  of a caption
    batch_size  images asked at once
    """

    slug: ClassVar[str] = "generated_captions"

    captioner: Generator = field()
    prompt: str = ALIP_PROMPT
    max_tokens: int = 15
    batch_size: int = 16

    def plan(self, data: Dataset) -> dict[str, Any]:
        return planned(data, lambda image: self._captions([image]), unit="caption (one at a time)")

    def __call__(self, data: Dataset) -> Curated:
        start = time.perf_counter()
        captions: dict[str, str] = {}
        dropped: list[Drop] = []
        waiting: list[tuple[str, ImageSource]] = []

        def ask() -> None:
            try:
                answers = self._captions([image for _, image in waiting])
                captions.update({uid: answer for (uid, _), answer in zip(waiting, answers, strict=True)})
            except (DecodeError, OSError):
                for uid, image in waiting:  # one of them is broken: find out which
                    try:
                        captions[uid] = self._captions([image])[0]
                    except (DecodeError, OSError) as error:
                        dropped.append(Drop(uid, self.slug, f"unreadable: {error}"))
            waiting.clear()

        for sample in _samples(data):
            if sample.image is not None:
                waiting.append((sample.uid, sample.image))
            if len(waiting) == self.batch_size:
                ask()
        if waiting:
            ask()
        captions = {uid: caption for uid, caption in captions.items() if caption}
        kept = sorted(set(data.uids) - {drop.uid for drop in dropped})
        return Curated(tuple(kept), tuple(dropped), {COLUMN: captions} if captions else {}, time.perf_counter() - start)

    def _captions(self, images: list[ImageSource]) -> list[str]:
        return [text.strip() for text in self.captioner.generate(images, [self.prompt] * len(images), max_tokens=self.max_tokens)]


def _samples(data: Dataset) -> Iterator[Sample]:
    """In order of uid, so that nothing depends on the order of rows."""
    return (data[row] for row in sorted(range(len(data)), key=data.uids.__getitem__))
