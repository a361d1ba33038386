"""DICOM files to grey or colour pictures between 0 and 1, in one fixed order (extra `medical`).

    pixels -> palette or YBR to RGB -> modality LUT -> VOI LUT or window -> MONOCHROME1 inverted -> [0, 1]

The last step divides by the range that a window or VOI LUT gives; only a grey picture with neither is stretched from its least to its
greatest value. Colours are divided by the range of their bits.

What readers get wrong: a window that is skipped, so that one bright wire darkens the chest; MONOCHROME1, in which bones are dark (about
half of the files of OpenI); stretching after a window; a division by zero where a picture is constant; the first frame of many, silently.

Letters: F frames, H W pixels, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError, DecodeError, MissingExtra, TooLarge

Floats = npt.NDArray[np.float32]
Frames = Literal["one", "first", "middle", "all"]
WindowFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
GREYS = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT")
"""Photometric interpretations, with `GREYS`; others (HSV, CMYK) are retired."""
CT_WINDOWS: dict[str, tuple[float, float]] = {
    "lung": (-600.0, 1500.0),
    "soft tissue": (40.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
}
"""Centre and width in Hounsfield units."""
FIELDS: dict[str, str] = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "modality": "Modality",
    "view": "ViewPosition",
    "laterality": "ImageLaterality",
    "sex": "PatientSex",
    "age": "PatientAge",
    "date": "StudyDate",
    "site": "InstitutionName",
    "photometric": "PhotometricInterpretation",
    "burned_in": "BurnedInAnnotation",
}
"""Name in `DicomImage.fields` -> attribute of the standard."""


@dataclass(frozen=True, slots=True)
class DicomImage:
    """pixels  float32 [H, W] or [H, W, 3], with F in front where all frames were asked for; between 0 and 1, white is bright
    spacing  millimetres between rows and between columns; None if the file does not say
    fields   what `FIELDS` names and the file has
    """

    pixels: Floats
    spacing: tuple[float, float] | None
    fields: dict[str, str]

    @property
    def rgb(self) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, 3] of one frame."""
        if self.pixels.ndim != 2 and self.pixels.shape[-1] != 3:
            raise ConfigError(f"pixels are {list(self.pixels.shape)} (expected one frame)")
        eight = np.rint(self.pixels * 255).astype(np.uint8)
        return np.repeat(eight[..., None], 3, -1) if eight.ndim == 2 else eight


def is_dicom(data: bytes) -> bool:
    """True if bytes have DICOM's mark after its preamble.

    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"DICM")
    (True, False)
    """
    return data[128:132] == b"DICM"


def dataset_of(data: bytes, *, name: str = "<bytes>") -> Any:
    """The file as pydicom's `Dataset`; pixels are not decoded. Raises DecodeError, also where pydicom is not installed."""
    try:
        import pydicom
    except ImportError as error:
        raise DecodeError(str(MissingExtra("pydicom", "medical", needed_for="a DICOM file")), file=name) from error
    try:
        return pydicom.dcmread(io.BytesIO(data))
    except Exception as error:  # parsers raise anything on hostile bytes
        raise _broken(name, error) from error


def read_dicom(
    data: bytes,
    *,
    name: str = "<bytes>",
    frames: Frames = "one",
    window: tuple[float, float] | None = None,
    voi: int = 0,
    max_pixels: int = 100_000_000,
) -> DicomImage:
    """A DICOM file as values between 0 and 1.

    frames      "one" refuses a file of several, "first" and "middle" take one of them, "all" takes all
    window      centre and width in the units after the modality LUT (Hounsfield of a CT), as `CT_WINDOWS` has them, in place of the
                file's; edges are centre -+ width / 2
    voi         which of the file's VOI LUTs or windows, if there are several
    max_pixels  of all frames together; a larger file is refused by its header

    Raises DecodeError (broken, without pixels, several frames, a codec that is not installed), TooLarge, ConfigError for a bad option.
    """
    if frames not in get_args(Frames) or (window is not None and window[1] <= 0):
        raise ConfigError(f"frames {frames!r}, window {window} (expected {' | '.join(get_args(Frames))}, a width above 0)")
    dataset = dataset_of(data, name=name)
    count = _checked_frames(dataset, frames, name, max_pixels)
    try:
        stored = _stored(dataset, frames, count)
        grey = dataset.PhotometricInterpretation in GREYS
        pixels = _grey(stored, dataset, window, voi) if grey else _colour(stored, dataset)
    except ConfigError as error:  # a window of the file
        raise DecodeError(str(error), file=name) from error
    except Exception as error:  # codecs and tables raise anything
        raise _broken(name, error) from error
    return DicomImage(pixels, _spacing(dataset), fields_of(dataset))


def _checked_frames(dataset: Any, frames: Frames, name: str, max_pixels: int) -> int:
    missing = [key for key in ("Rows", "Columns", "PhotometricInterpretation", "BitsStored") if key not in dataset]
    if missing or not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        what = f"it has no {missing[0]}" if missing else "it has no pixels"
        raise DecodeError(what, file=name, expected="a DICOM image")
    if dataset.PhotometricInterpretation not in GREYS + COLOURS:
        kind = str(dataset.PhotometricInterpretation)
        raise DecodeError(f"is {kind[:20]!r}", file=name, field="PhotometricInterpretation", expected=" | ".join(GREYS + COLOURS))
    count = int(dataset.get("NumberOfFrames") or 1)
    if count * int(dataset.Rows) * int(dataset.Columns) > max_pixels:
        size = f"{count} x {dataset.Rows} x {dataset.Columns}"
        raise TooLarge(f"{size} pixels are more than the limit of {max_pixels:,}", file=name)
    if count > 1 and frames == "one":
        raise DecodeError(f"it has {count} frames", file=name, expected="one, or a choice of frames: first | middle | all")
    return count


def _stored(dataset: Any, frames: Frames, count: int) -> npt.NDArray[Any]:
    """Stored values [H, W], [H, W, 3], or with F in front; YBR is RGB already, palettes are looked up."""
    from pydicom.pixels import apply_color_lut, pixel_array

    if count == 1:
        frames, index = "all" if frames == "all" else "first", None
    else:
        index = {"first": 0, "middle": count // 2}.get(frames)
    stored: npt.NDArray[Any] = pixel_array(dataset, index=index)
    if count == 1 and frames == "all":
        stored = stored[None]
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)[..., :3]
    return stored


def _colour(stored: npt.NDArray[Any], dataset: Any) -> Floats:
    if dataset.PhotometricInterpretation == "PALETTE COLOR" or dataset.BitsStored in (8, 16):
        most = np.iinfo(stored.dtype).max
    else:
        most = 2 ** int(dataset.BitsStored) - 1
    return np.clip(stored / np.float32(most), 0, 1).astype(np.float32)


def _grey(stored: npt.NDArray[Any], dataset: Any, window: tuple[float, float] | None, voi: int) -> Floats:
    from pydicom.pixels import apply_modality_lut, apply_voi

    value = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
    if window is not None:
        scaled = windowed(value, *window, function="LINEAR_EXACT")
    elif "VOILUTSequence" in dataset:
        index = min(voi, len(dataset.VOILUTSequence) - 1)
        most = 2 ** int(dataset.VOILUTSequence[index].LUTDescriptor[2]) - 1
        scaled = apply_voi(np.rint(value).astype(np.int64), dataset, index=index) / most
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        centre, width = (_nth(dataset[key].value, voi) for key in ("WindowCenter", "WindowWidth"))
        scaled = windowed(value, centre, width, function=dataset.get("VOILUTFunction") or "LINEAR")
    else:
        scaled, inverse = stretched_to_one(-value if inverse else value), False
    pixels = scaled.astype(np.float32)
    if inverse:
        np.subtract(1, pixels, out=pixels)
    return np.clip(pixels, 0, 1, out=pixels)


def windowed(
    value: npt.NDArray[Any], centre: float, width: float, *, function: WindowFunction = "LINEAR_EXACT"
) -> npt.NDArray[np.float64]:
    """The share of a window's range that each value reaches, between 0 and 1 (DICOM PS3.3 C.11.2.1.2).

    LINEAR        from centre - width / 2 to centre + width / 2 - 1: integers are steps of a grey scale (a width of 1 is a threshold)
    LINEAR_EXACT  from centre - width / 2 to centre + width / 2
    SIGMOID       1 / (1 + exp(-4 (value - centre) / width))

    >>> windowed(np.array([-1350.0, -600.0, 150.0]), *CT_WINDOWS["lung"]).tolist()
    [0.0, 0.5, 1.0]
    """
    function = str(function).upper().strip()  # type: ignore[assignment]
    if function not in get_args(WindowFunction) or width <= 0:
        raise ConfigError(
            f"window of width {width}, function {function!r} (expected above 0, {' | '.join(get_args(WindowFunction))})"
        )
    value = np.asarray(value, np.float64)
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (value - centre) / width)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width <= 0:
        return np.asarray(value > centre, np.float64)
    share = value - centre
    share /= width
    share += 0.5
    return np.clip(share, 0, 1, out=share)


def ct_channels(
    value_HW: npt.NDArray[Any], windows: Sequence[str | tuple[float, float]] = ("lung", "soft tissue", "bone")
) -> Floats:
    """Hounsfield units [..., H, W] in several windows, as channels [..., H, W, len(windows)] between 0 and 1: three for a tower
    that reads colours. A window is a name of `CT_WINDOWS`, or centre and width."""
    named = [CT_WINDOWS.get(one) if isinstance(one, str) else one for one in windows]
    if None in named or not named:
        raise ConfigError(f"windows are {list(windows)} (expected {' | '.join(CT_WINDOWS)}, or centre and width)")
    return np.stack([windowed(value_HW, *one) for one in named if one is not None], -1).astype(np.float32)


def stretched_to_one(value: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Values from their least (0) to their greatest (1); zeros where all are equal."""
    value = np.asarray(value, np.float64)
    least, most = value.min(), value.max()
    return (value - least) / (most - least) if most > least else np.zeros_like(value)


def fields_of(dataset: Any) -> dict[str, str]:
    """Attributes of `FIELDS` that a data set has, as text."""
    return {name: str(dataset[key].value) for name, key in FIELDS.items() if key in dataset and dataset[key].value is not None}


def _spacing(dataset: Any) -> tuple[float, float] | None:
    for key in ("PixelSpacing", "ImagerPixelSpacing"):
        if dataset.get(key):
            rows, columns = dataset[key].value[:2]
            return float(rows), float(columns)
    return None


def _nth(value: Any, index: int) -> float:
    """Of one or several values, that one; the last if there are fewer."""
    values = [value] if isinstance(value, int | float) or not isinstance(value, Sequence) else list(value)
    return float(values[min(index, len(values) - 1)])


def _broken(name: str, error: Exception) -> DecodeError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DecodeError(f"cannot be decoded: {reason[:300]}", file=name, expected="a sound DICOM image")
