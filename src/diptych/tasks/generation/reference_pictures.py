"""Reference pictures of a sample: each thing of the picture that is to be generated, alone, with its phrase and box."""

from __future__ import annotations

from diptych.core.contracts import ReferenceImage
from diptych.core.errors import DataError
from diptych.core.sample import Sample


def references_of(sample: Sample) -> list[ReferenceImage]:
    """Reference pictures of a sample with their phrases and boxes. Raises DataError for a sample without."""
    facts = sample.extras.get("figures")
    if not facts or "references" not in sample.media:
        raise DataError(f"sample '{sample.uid}' has no reference pictures", field="references", expected="rows of world:figures")
    return [
        ReferenceImage(image, str(one["phrase"]), tuple(one["box"]))
        for image, one in zip(sample.media["references"].parts, facts, strict=True)
    ]
