"""Position prompts by image block (PTP, Wang et al., 2022, arXiv 2212.09737): one for every region of the stored image.

They are correct for images that are used uncropped and unflipped, as in evaluation and captioning. A recipe that crops or flips
has to write the prompts itself after augmentation: `diptych train ptp` does so, and needs only the regions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from diptych.core.contracts import CurationStepResult, Dataset, Drop
from diptych.core.errors import ConfigError, DataError, DecodeError
from diptych.core.image import ArrayImage, ImageSource, content_untold
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.curate.engine.costs import estimate_cost
from diptych.data.media.decode import upright_size
from diptych.data.text.prompts.position_prompts import GRID, block_of, prompt

COLUMN = "position_prompts"


@dataclass(frozen=True)
class PositionPrompts:
    """Writes the column ``position_prompts``: for each picture a list of "The block 4 has a cup.", in the order of its regions.

    regions     maximum number of regions per picture, the first ones (published: ten)
    attributes  number of attributes of a region before its label
    grid        grid cells per side
    """

    slug: ClassVar[str] = "position_prompts"

    regions: int = 10
    attributes: int = 0
    grid: int = GRID

    def __post_init__(self) -> None:
        if self.regions < 1 or self.attributes < 0 or self.grid < 1:
            raise ConfigError(
                f"regions is {self.regions}, attributes {self.attributes}, grid {self.grid} (expected 1 or more, 0 or more, 1 or more)"
            )

    def plan(self, data: Dataset) -> dict[str, Any]:
        return estimate_cost(data, _size, unit="picture")

    def __call__(self, data: Dataset) -> CurationStepResult:
        start = time.perf_counter()
        prompts: dict[str, list[str]] = {}
        kept, dropped = [], []
        for row in with_bar(range(len(data)), len(data), "writing sentences", least=1_000):
            sample = data[row]
            try:
                texts = self._prompts(sample)
            except DecodeError as error:
                dropped.append(Drop(sample.uid, self.slug, str(error)))
                continue
            kept.append(sample.uid)
            if texts:
                prompts[sample.uid] = texts
        if kept and not prompts:
            raise DataError(f"no picture of '{data.name}' has a region", field="regions", expected="boxes with labels")
        return CurationStepResult(tuple(kept), tuple(dropped), {COLUMN: prompts} if prompts else {}, time.perf_counter() - start)

    def _prompts(self, sample: Sample) -> list[str]:
        regions = sample.regions[: self.regions]
        if not regions or sample.image is None:
            return []
        width, height = _size(sample.image)
        names = [" ".join((*region.attributes[: self.attributes], region.label)) for region in regions]
        blocks = [block_of(region.box, width, height, grid=self.grid) for region in regions]
        return [prompt(block, name) for block, name in zip(blocks, names, strict=True)]


def _size(image: ImageSource) -> tuple[int, int]:
    """Width and height, by the header alone where there is one."""
    if isinstance(image, ArrayImage):
        height, width = image.pixels_HWC.shape[:2]
        return width, height
    try:
        with content_untold(image):
            return upright_size(image.read(), name=image.name)
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror or error}", file=image.name) from error
