"""DICOM in one fixed order: each fixture of pydicom's wheel, an inverted copy that loads alike, and every trap."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_modality_lut, apply_rescale, apply_voi_lut, apply_windowing, pixel_array

from diptych.core.errors import ConfigError, DecodeError, TooLarge
from diptych.core.image import ArrayImage, FileImage
from diptych.data.media.decode import decode, probe
from diptych.data.media.formats.dicom import CT_WINDOWS, ct_channels, read_dicom, windowed


def fixture(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(str(path))


def written(dataset: Any, **changes: Any) -> bytes:
    for key, value in changes.items():
        setattr(dataset, key, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_a_window_is_divided_by_its_own_range(parity: Any) -> None:
    """pydicom gives the values of a window in the units of the modality LUT; we divide by the range that those can have."""
    pairs = []
    for name, low, high in (("MR_small.dcm", -32768, 32767), ("dicomdirtests/77654033/CR1/6154", 200, 0.684 * 4095 + 200)):
        dataset = pydicom.dcmread(fixture(name))
        theirs = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
        theirs = (theirs - low) / (high - low)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            theirs = 1 - theirs
        pairs.append((torch.from_numpy(read_dicom(fixture(name).read_bytes()).pixels), torch.from_numpy(theirs).float()))
    parity(
        "biovil",
        "grey values behind modality LUT and window",
        "pydicom 3 scaled by the window's output range",
        pairs,
        tolerance=1e-6,
    )


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_the_standard(function: Any) -> None:
    dataset = pydicom.dcmread(fixture("CT_small.dcm"))
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 40, 400, function
    value = apply_rescale(dataset.pixel_array, dataset)
    theirs = (apply_windowing(value, dataset) - (-32768 - 1024)) / 65535
    np.testing.assert_allclose(windowed(value, 40, 400, function=function), theirs, atol=1e-12)


@pytest.mark.parametrize("windows", [True, False])
def test_an_inverted_copy_loads_alike(windows: bool) -> None:
    dataset = pydicom.dcmread(fixture("CT_small.dcm"))
    if windows:
        dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 100, 600, "LINEAR_EXACT"
    upright = read_dicom(written(dataset)).pixels
    stored = dataset.pixel_array
    mirrored = (int(stored.max()) + int(stored.min()) - stored.astype(np.int64)).astype(np.int16)
    copy = pydicom.dcmread(fixture("CT_small.dcm"))
    if windows:  # the window is mirrored with the values that it is laid over
        copy.WindowCenter = int(stored.max()) + int(stored.min()) - 2048 - 100
        copy.WindowWidth, copy.VOILUTFunction = 600, "LINEAR_EXACT"
    copy.PixelData = mirrored.tobytes()
    inverted = read_dicom(written(copy, PhotometricInterpretation="MONOCHROME1")).pixels
    np.testing.assert_allclose(upright, inverted, atol=1e-6)
    assert np.abs(read_dicom(written(copy, PhotometricInterpretation="MONOCHROME2")).pixels - upright).max() > 0.5


def test_without_a_window_the_picture_is_stretched_and_a_constant_one_is_zero() -> None:
    pixels = read_dicom(fixture("CT_small.dcm").read_bytes()).pixels
    assert (pixels.min(), pixels.max()) == (0, 1)
    dataset = pydicom.dcmread(fixture("CT_small.dcm"))
    dataset.PixelData = np.full((128, 128), 7, np.int16).tobytes()
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        assert not read_dicom(written(dataset, PhotometricInterpretation=kind)).pixels.any()


def test_a_lookup_table_is_divided_by_its_bits() -> None:
    dataset = pydicom.dcmread(fixture("CT_small.dcm"))
    item = pydicom.Dataset()
    stored = dataset.pixel_array
    item.LUTDescriptor = [4096, -1024, 12]
    item.LUTData = np.arange(4096, dtype=np.uint16)[::-1].tolist()
    item.add_new(0x00283002, "SS", [4096, -1024, 12])
    item.add_new(0x00283006, "US", list(range(4095, -1, -1)))
    dataset.VOILUTSequence = pydicom.Sequence([item])
    dataset.WindowCenter, dataset.WindowWidth = 0, 10  # a table is preferred
    pixels = read_dicom(written(dataset)).pixels
    np.testing.assert_allclose(pixels, (4095 - np.clip(stored.astype(float), 0, 4095)) / 4095, atol=1e-6)


def test_colours() -> None:
    rgb = read_dicom(fixture("examples_rgb_color.dcm").read_bytes())
    np.testing.assert_array_equal(rgb.rgb, pydicom.dcmread(fixture("examples_rgb_color.dcm")).pixel_array)
    palette = read_dicom(fixture("examples_palette.dcm").read_bytes())
    assert palette.pixels.shape == (350, 800, 3)
    assert palette.pixels.std() > 0.1
    packed = read_dicom(fixture("examples_jpeg2k.dcm").read_bytes())
    np.testing.assert_array_equal(packed.rgb, pixel_array(str(fixture("examples_jpeg2k.dcm"))))
    mask = read_dicom(fixture("liver_1frame.dcm").read_bytes())
    assert set(np.unique(mask.pixels)) == {0.0, 1.0}


def test_frames_are_chosen_and_not_taken_silently() -> None:
    data = fixture("examples_ybr_color.dcm").read_bytes()
    with pytest.raises(DecodeError, match="30 frames"):
        read_dicom(data, name="cine.dcm")
    middle, every = read_dicom(data, frames="middle").pixels, read_dicom(data, frames="all").pixels
    assert every.shape == (30, 240, 320, 3)
    np.testing.assert_array_equal(middle, every[15])
    with pytest.raises(ConfigError, match="frames"):
        read_dicom(data, frames="last")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"WindowCenter": 1, "WindowWidth": 0}, r"window of width 0\.0.*expected above 0"),
        ({"WindowCenter": 1, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "function 'CUBIC'.*LINEAR_EXACT"),
        ({"PhotometricInterpretation": "HSV"}, "field 'PhotometricInterpretation': is 'HSV'.*MONOCHROME1"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "Palette Color"),
        ({"Rows": 200}, "bytes of pixel data is less than expected"),
        ({"Rows": 60_000, "Columns": 60_000}, "1 x 60000 x 60000 pixels are more than the limit"),
        ({"NumberOfFrames": 2}, "it has 2 frames .*first"),
    ],
)
def test_headers_that_cannot_be_trusted(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(DecodeError, match=match) as raised:
        read_dicom(written(pydicom.dcmread(fixture("CT_small.dcm")), **changes), name="a.dcm")
    message = str(raised.value)
    assert message.startswith("a.dcm")
    assert "\n" not in message
    assert message.count("(expected") <= 1


@pytest.mark.parametrize(
    ("file", "match"),
    [
        (lambda: fixture("CT_small.dcm").read_bytes()[:20_000], "cannot be decoded"),
        (lambda: fixture("MR_truncated.dcm").read_bytes(), "bytes of pixel data is less than expected"),
        (lambda: fixture("rtplan.dcm").read_bytes(), "it has no Rows"),
        (lambda: b"", "cannot be decoded"),
        (lambda: bytes(128) + b"DICM", "it has no Rows"),
    ],
)
def test_bad_files_say_why(file: Any, match: str) -> None:
    with pytest.raises(DecodeError, match=rf"a\.dcm.*{match}") as raised:
        read_dicom(file(), name="a.dcm")
    assert "\n" not in str(raised.value)


def test_a_large_file_is_refused_by_its_header() -> None:
    with pytest.raises(TooLarge):
        read_dicom(fixture("CT_small.dcm").read_bytes(), max_pixels=100)


def test_ct_windows_become_channels() -> None:
    value = np.array([[-1350.0, -600.0, 40.0, 240.0, 1300.0]])
    channels = ct_channels(value)
    assert channels.shape == (1, 5, 3)
    for place, name in enumerate(("lung", "soft tissue", "bone")):
        centre, width = CT_WINDOWS[name]
        np.testing.assert_allclose(channels[..., place], np.clip((value - centre + width / 2) / width, 0, 1), atol=1e-6)
    whole = read_dicom(fixture("CT_small.dcm").read_bytes(), window=CT_WINDOWS["soft tissue"])
    hounsfield = pydicom.dcmread(fixture("CT_small.dcm")).pixel_array.astype(float) - 1024
    np.testing.assert_allclose(whole.pixels, ct_channels(hounsfield, ["soft tissue"])[..., 0], atol=1e-6)


def test_dicom_files_are_pictures_everywhere() -> None:
    path = fixture("dicomdirtests/77654033/CR1/6154")
    image = FileImage(path)
    info = probe(image.read())
    assert (info.format, info.width, info.height, info.mode) == ("DICOM", 16, 16, "L")
    pixels = decode(image)
    assert not isinstance(image, ArrayImage)
    np.testing.assert_array_equal(pixels, read_dicom(path.read_bytes()).rgb)
    read = read_dicom(path.read_bytes())
    assert read.fields["patient"] == "77654033"
    assert read.fields["photometric"] == "MONOCHROME1"
