"""Training, validation and test images of protocols that compare encoders, with no patient in two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diptych.core.contracts import Dataset
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample


def patient_of(sample: Sample, column: str) -> str:
    """Patient of a sample by that extra, else its own group, else the sample itself."""
    return str(sample.extras.get(column) or sample.group or sample.uid)


def split_images(
    data: Dataset, splits: Mapping[str, str], *, train: Any = None, val: Any = None, column: str = "patient"
) -> dict[str, list[Sample]]:
    """Samples with an image of "train", "val" and "test".

    splits      names in `data` of the three splits
    train, val  data sets to use instead; then all of `data` is the test
    column      name of the extra with the patient

    Raises ConfigError for a training set without validation, DataError for a part without images or a patient in two parts.
    """
    if train is not None and val is None:
        raise ConfigError("val is empty (expected a validation set beside train)")
    rows: dict[str, Any] = {"train": train, "val": val, "test": data}
    if train is None:
        rows = {part: data.split(name) for part, name in splits.items()}
    parts = {part: [sample for sample in samples if sample.image is not None] for part, samples in rows.items()}
    if empty := [part for part, samples in parts.items() if not samples]:
        raise DataError(
            f"'{data.name}' has no image to use as {empty[0]}", field="image", expected="images for train, val and test"
        )
    _refuse_shared_patients({part: [patient_of(sample, column) for sample in samples] for part, samples in parts.items()})
    return parts


def _refuse_shared_patients(groups: Mapping[str, Sequence[str]]) -> None:
    """Raises DataError if a patient is in two parts."""
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        shared = set(groups[one]) & set(groups[other])
        if shared:
            raise DataError(
                f"{len(shared)} patients are in both {one} and {other}, such as {min(shared)}",
                field="group",
                expected="patients in one split",
            )
