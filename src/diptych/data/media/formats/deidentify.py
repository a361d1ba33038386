"""DICOM files without what names a patient: keyed hashes, dates that are moved, fields that are blanked (extra `medical`).

A start for data that stay in one house: it covers the header, not the pixels (a file that says that names are burned in, or comes from a
device that often does it, is refused) and not free text. It does not replace a review under the law that applies.
"""

from __future__ import annotations

import hashlib
import hmac
import io
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.formats.dicom import dataset_of

LEAST_KEY = 16
IDS = ("PatientID", "AccessionNumber", "StudyID")
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
UID_ROOT = "2.25."
"""UIDs made of 128 random bits (ISO/IEC 9834-8)."""
BLANKED = (
    *("PatientName", "PatientBirthDate", "PatientAddress", "PatientTelephoneNumbers", "OtherPatientIDs", "OtherPatientNames"),
    *("PatientMotherBirthName", "PatientComments", "EthnicGroup", "Occupation", "AdditionalPatientHistory", "ImageComments"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy"),
    *("RequestingPhysician", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName"),
    *("DeviceSerialNumber", "RequestedProcedureDescription", "StudyDescription", "SeriesDescription", "ProtocolName"),
)
OFTEN_BURNED = ("US", "SC", "OT", "XC", "ES")
"""Modalities whose pixels often show names."""
OLDEST = 89


@dataclass(frozen=True, slots=True)
class Deidentifier:
    """Rewrites DICOM files; the same patient gets the same hash and the same shift of dates under one key.

    key       bytes that stay secret, `LEAST_KEY` or more
    days      dates are moved back by 1 to this many days, each patient by its own number
    scrubbed  the pixels were cleaned before, so that a file that says otherwise is taken
    """

    key: bytes
    days: int = 365
    scrubbed: bool = False

    def __post_init__(self) -> None:
        if len(self.key) < LEAST_KEY or self.days < 1:
            raise ConfigError(f"key of {len(self.key)} bytes, {self.days} days (expected {LEAST_KEY} or more, 1 or more)")

    def __call__(self, data: bytes, *, name: str = "<bytes>") -> bytes:
        """The file without private tags, names, places and free text. Raises DataError if pixels may show names, or no
        patient is named."""
        dataset = dataset_of(data, name=name)
        burned = str(dataset.get("BurnedInAnnotation", "")).upper()
        if not self.scrubbed and (burned == "YES" or (burned != "NO" and str(dataset.get("Modality", "")) in OFTEN_BURNED)):
            raise DataError(
                "its pixels may show names", file=name, field="BurnedInAnnotation", expected="NO, or pixels scrubbed before"
            )
        patient = str(dataset.get("PatientID", ""))
        if not patient:
            raise DataError(
                "it does not name a patient", file=name, field="PatientID", expected="one, for hash and shift of dates"
            )
        dataset.remove_private_tags()
        dataset.walk(lambda parent, element: self._changed(parent, element, patient))
        dataset.PatientIdentityRemoved, dataset.DeidentificationMethod = "YES", "keyed hash, dates moved, private tags removed"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        return file.getvalue()

    def hashed(self, value: str) -> str:
        """Sixteen hex digits of a keyed hash (HMAC-SHA-256)."""
        return hmac.new(self.key, value.encode(), hashlib.sha256).hexdigest()[:16]

    def shift(self, patient: str) -> int:
        """Days that the dates of a patient are moved back by."""
        digest = hmac.new(self.key, b"shift" + patient.encode(), hashlib.sha256).digest()
        return 1 + int.from_bytes(digest[:8], "big") % self.days

    def _changed(self, parent: Any, element: Any, patient: str) -> None:
        if element.keyword in BLANKED:
            element.value = ""
        elif element.keyword in IDS and element.value:
            element.value = self.hashed(str(element.value))
        elif element.keyword in UIDS or (element.VR == "UI" and element.keyword == "ReferencedSOPInstanceUID"):
            digest = hmac.new(self.key, str(element.value).encode(), hashlib.sha256).digest()[:16]
            element.value = UID_ROOT + str(int.from_bytes(digest, "big"))
        elif element.VR in ("DA", "DT") and element.value:
            element.value = self._moved(str(element.value), patient)
        elif element.keyword == "PatientAge" and str(element.value).rstrip("Y").isdigit():
            element.value = f"{min(int(str(element.value).rstrip('Y')), OLDEST + 1):03d}Y"

    def _moved(self, value: str, patient: str) -> str:
        """A date, or a date and time, moved back; blank where it cannot be read."""
        try:
            day = datetime.strptime(value[:8], "%Y%m%d")
        except ValueError:
            return ""
        return (day - timedelta(days=self.shift(patient))).strftime("%Y%m%d") + value[8:]
