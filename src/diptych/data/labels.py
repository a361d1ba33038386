"""The class of a sample."""

from __future__ import annotations

from diptych.core.errors import DataError, UnknownName
from diptych.core.sample import Sample


def label_of(sample: Sample, field: str, language: str = "en") -> str:
    """The class of a sample: the column of that name or, for "label", its first text whose origin is "label"."""
    value = sample.extras.get(field)
    if value is None and field == "label":
        value = next((text.string for text in sample.positives(language) if text.origin == "label"), None)
    if value is None or value == "":
        if sample.extras and field not in sample.extras:
            if field != "label":
                raise UnknownName(f"label column (sample {sample.uid})", field, [*sample.extras, "label"])
            columns = f"label={'|'.join(sample.extras)}"
            raise DataError(f"sample {sample.uid} has no column and no text 'label'", field=field, expected=columns)
        raise DataError(f"sample {sample.uid} has no label", field=field, expected="a value in every row, or another `label`")
    return str(value)
