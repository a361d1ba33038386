"""Barcodes of The Cancer Genome Atlas: the patient of a slide.

TCGA-BP-4161-01Z-00-DX1.a5c24186-a438-4c65-857e-d6da30340342
^^^^^^^^^^^^ project, site and patient; slides of one patient must not stand on both sides of a split
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from diptych.core.errors import DataError
from diptych.data.dataset import Pool

PATIENT = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Z0-9])", re.IGNORECASE)


def patient_of(barcode: str) -> str:
    """The first twelve characters of a barcode, or of a file's name that starts with one.

    >>> patient_of("TCGA-BP-4161-01Z-00-DX1.a5c24186")
    'TCGA-BP-4161'
    """
    match = PATIENT.match(barcode)
    if match is None:
        raise DataError(
            f"barcode {barcode!r} does not name a patient",
            field="barcode",
            expected="TCGA-SS-PPPP..., S the site and P the patient",
        )
    return match.group().upper()


def patient_column(column: str, values: Sequence[Any], *, file: str = "") -> list[str]:
    """The patient of each row's barcode. Raises DataError with the row of one that names none."""
    patients = []
    for row, barcode in enumerate(values):
        try:
            patients.append(patient_of(str(barcode)))
        except DataError as error:
            raise DataError(error.problem, file=file, row=row, field=column, expected=error.expected) from error
    return patients


def grouped_by_patient(pool: Pool, column: str = "uid") -> Pool:
    """The pool with the patient of each barcode as its group. Raises DataError with the row of one that names none."""
    return pool.with_columns({"group": patient_column(column, pool.column(column), file=pool.name)})
