"""NIfTI by anatomical planes on an asymmetric phantom, and DICOM without names."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.testing import data_path
from pydicom.data import get_testdata_file

from diptych.core.errors import ConfigError, DataError, DecodeError, TooLarge
from diptych.data.media.formats.deidentify import BLANKED, Deidentifier
from diptych.data.media.formats.nifti import read_nifti


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "ASL"])
def test_left_is_left_however_a_file_is_stored(axes: str, tmp_path: Path) -> None:
    """One bright voxel at the patient's right, front and head; the file is stored in several orders of axes."""
    voxel = np.zeros((6, 8, 10), np.float32)
    voxel[5, 7, 9] = 1.0
    image = nibabel.Nifti1Image(voxel, np.diag([2.0, 3.0, 4.0, 1.0]))
    target = nibabel.orientations.axcodes2ornt(axes)
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), target))
    nibabel.save(turned, tmp_path / "x.nii.gz")
    volume = read_nifti(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(volume.voxel_XYZ, voxel)
    assert volume.spacing == (2.0, 3.0, 4.0)
    axial, coronal, sagittal = (volume.slice(plane, 1.0) for plane in ("axial", "coronal", "sagittal"))
    assert axial.shape == (8, 6)
    assert axial[0, 0] == 1  # front on top, the patient's right on the left
    assert coronal[0, 0] == 1
    assert sagittal.shape == (10, 8)
    assert sagittal[0].max() == 1


def test_times_are_chosen_and_bad_files_say_why(tmp_path: Path) -> None:
    functional = Path(data_path) / "functional.nii"
    with pytest.raises(DecodeError, match="times"):
        read_nifti(functional)
    every = np.asarray(nibabel.as_closest_canonical(nibabel.load(functional)).dataobj, np.float32)
    np.testing.assert_allclose(read_nifti(functional, times="mean").voxel_XYZ, every.mean(3), rtol=1e-5)
    np.testing.assert_array_equal(read_nifti(functional, times="first").voxel_XYZ, every[..., 0])
    assert read_nifti(Path(data_path) / "anatomical.nii").voxel_XYZ.ndim == 3
    (tmp_path / "broken.nii").write_bytes(b"no volume")
    for path in (tmp_path / "broken.nii", tmp_path / "missing.nii"):
        with pytest.raises(DecodeError, match=path.name):
            read_nifti(path)
    with pytest.raises(TooLarge):
        read_nifti(functional, times="first", limit=10)
    with pytest.raises(ConfigError, match="plane"):
        read_nifti(functional, times="first").slice("oblique")  # type: ignore[arg-type]


def ct(**changes: Any) -> bytes:
    path = get_testdata_file("CT_small.dcm", download=False)
    dataset = pydicom.dcmread(str(path))
    for key, value in changes.items():
        setattr(dataset, key, value)
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def test_names_are_gone_dates_move_and_hashes_need_the_key() -> None:
    clean = Deidentifier(b"a key of 16 byte")
    before = pydicom.dcmread(io.BytesIO(ct()))
    after = pydicom.dcmread(io.BytesIO(clean(ct())))
    assert all(not after.get(key) for key in BLANKED)
    assert not [element for element in after if element.tag.is_private]
    assert after.PatientID == clean.hashed(before.PatientID) != before.PatientID
    assert Deidentifier(b"another 16 bytes").hashed(before.PatientID) != after.PatientID
    moved = (pydicom.valuerep.DA(before.StudyDate) - pydicom.valuerep.DA(after.StudyDate)).days
    assert moved == clean.shift(before.PatientID)
    assert after.StudyInstanceUID != before.StudyInstanceUID
    assert clean(ct()) == clean(ct())
    np.testing.assert_array_equal(after.pixel_array, before.pixel_array)
    text = clean(ct(PatientName="Doe^Jane", InstitutionName="St. Elsewhere"))
    assert b"Doe" not in text
    assert b"Elsewhere" not in text
    assert pydicom.dcmread(io.BytesIO(clean(ct(PatientAge="097Y")))).PatientAge == "090Y"


def test_burned_in_names_are_refused() -> None:
    clean = Deidentifier(b"a key of 16 byte")
    for changes in ({"BurnedInAnnotation": "YES"}, {"Modality": "US"}):
        with pytest.raises(DataError, match="may show names"):
            clean(ct(**changes), name="a.dcm")
    assert Deidentifier(b"a key of 16 byte", scrubbed=True)(ct(BurnedInAnnotation="YES"))
    assert clean(ct(Modality="US", BurnedInAnnotation="NO"))
    with pytest.raises(DataError, match="does not name a patient"):
        clean(ct(PatientID=""))
    with pytest.raises(ConfigError, match="key of 3 bytes"):
        Deidentifier(b"abc")
