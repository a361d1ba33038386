"""Reference images of a sample: each object of the image to be generated, cropped out, with its phrase and box."""

from __future__ import annotations

from diptych.core.contracts import ReferenceImage
from diptych.core.errors import DataError
from diptych.core.sample import Sample


def references_of(sample: Sample) -> list[ReferenceImage]:
    """Reference images of a sample with their phrases and boxes. Raises DataError if the sample has none."""
    facts = sample.extras.get("figures")
    if not facts or "references" not in sample.media:
        raise DataError(f"sample '{sample.uid}' has no reference pictures", field="references", expected="rows of world:figures")
    return [
        ReferenceImage(image, str(one["phrase"]), tuple(one["box"]))
        for image, one in zip(sample.media["references"].parts, facts, strict=True)
    ]
