"""Helpers shared by all annotation writers: image paths of a format, samples by split, ids, checks of labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.disk.files import write_atomic
from diptych.core.errors import DataError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.media.decode import encode_png, probe
from diptych.data.media.picture import ENDINGS


@dataclass(frozen=True, slots=True)
class ExportedImage:
    """An image where the annotations name it. `name` has its suffix and, if there are any, its folders."""

    name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ImageExporter:
    """Copies images byte for byte (pixels without bytes become PNG), or with `images` off only reads their sizes."""

    folder: Path
    images: bool = True

    def put(self, sample: Sample, stem: str, below: str = "") -> ExportedImage:
        """Write the image of `sample` to ``folder/below/stem.SUFFIX``; the returned name starts after `below`."""
        if sample.image is None:
            expected = "an image in every sample that is exported, or --format parquet"
            if "url" in sample.extras:
                expected += "; fetch the pictures of links with `diptych data download`"
            raise DataError(f"sample '{sample.uid}' has no image", expected=expected)
        if isinstance(sample.image, ArrayImage):
            pixels_HWC = sample.image.pixels_HWC
            height, width = pixels_HWC.shape[:2]
            data, suffix = encode_png(pixels_HWC) if self.images else b"", "png"
        else:
            data = sample.image.read()
            info = probe(data, name=sample.image.name)
            width, height, suffix = info.width, info.height, ENDINGS.get(info.format.lower(), info.format.lower())
        name = f"{stem}.{suffix}"
        if self.images:
            write_atomic(self.folder / below / name, data)
        return ExportedImage(name, width, height)


def by_split(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Samples by their split, in order of first appearance; "" if there is none."""
    samples_by_split: dict[str, list[Sample]] = {}
    for sample in samples:
        samples_by_split.setdefault(str(sample.extras.get("split") or ""), []).append(sample)
    return samples_by_split


def image_ids(samples: Sequence[Sample]) -> dict[str, int]:
    """An image id for every sample, by uid: its own where all have different whole numbers, else 1, 2, 3, ..."""
    own = [sample.extras.get("image_id") for sample in samples]
    given = [number for number in own if isinstance(number, int) and not isinstance(number, bool)]
    ids = given if len(set(given)) == len(samples) else range(1, len(samples) + 1)
    return {sample.uid: number for sample, number in zip(samples, ids, strict=True)}


def label_id(ids: Mapping[str, int], name: str, what: str, sample: Sample) -> int:
    """The id of a label or predicate; one that the format has no id for is an error that names the sample."""
    if name not in ids:
        problem = UnknownName(what, name, ids, hint=f"the format has {len(ids)} of them")
        raise DataError(f"sample '{sample.uid}': {problem}", expected="labels that the format knows, or a format that takes any")
    return ids[name]


def labels_of(samples: Iterable[Sample]) -> tuple[list[str], list[str]]:
    """All labels and all predicates, each sorted."""
    labels = {region.label for sample in samples for region in sample.regions}
    predicates = {relation.predicate for sample in samples for relation in sample.relations}
    return sorted(labels), sorted(predicates)


def number(value: float) -> int | float:
    """A whole number without its ``.0``."""
    return int(value) if float(value).is_integer() else float(value)


def sides(box: Sequence[float]) -> list[int | float]:
    """xyxy as (x, y, width, height)."""
    x0, y0, x1, y1 = box
    return [number(x0), number(y0), number(x1 - x0), number(y1 - y0)]


def per_region_column(sample: Sample, name: str, default: Any) -> list[Any]:
    """A column with one value per region: the sample's own where its length fits, else `default` for each."""
    own = sample.extras.get(name)
    fits = isinstance(own, Sequence) and not isinstance(own, str) and len(own) == len(sample.regions)
    return list(own) if fits else [default] * len(sample.regions)  # type: ignore[arg-type]
