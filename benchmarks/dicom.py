"""DICOM radiographs read a second: `read_dicom`, plain pydicom's pixels, and pydicom with the same steps.

    python benchmarks/dicom.py [--side 1024] [--rounds 7]

Files are the packaged CT of pydicom (128 x 128) and one of `--side` squared, 12 bits and MONOCHROME1 with a window, uncompressed. The ways
take turns, and each has its best round. Plain pixels have no modality LUT, window or inversion: they are not yet a picture.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from machine_results import keep
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from diptych.data.media.formats.dicom import read_dicom

BITS = 12


def radiograph(side: int) -> bytes:
    """A file of random grey values, as an X-ray detector writes it."""
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    pixel_HW = np.random.default_rng(0).integers(0, 1 << BITS, (side, side), np.uint16)
    dataset.Rows = dataset.Columns = side
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = BITS, BITS - 1, 0
    dataset.PhotometricInterpretation, dataset.WindowCenter, dataset.WindowWidth = "MONOCHROME1", 2000, 3000
    dataset.PixelData = pixel_HW.tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def plain(data: bytes) -> Any:
    return pydicom.dcmread(io.BytesIO(data)).pixel_array


def same_steps(data: bytes) -> Any:
    dataset = pydicom.dcmread(io.BytesIO(data))
    value_HW = np.asarray(apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset), np.float32)
    value_HW = (value_HW - value_HW.min()) / max(np.ptp(value_HW), 1)
    return 1 - value_HW if dataset.PhotometricInterpretation == "MONOCHROME1" else value_HW


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    files = {"CT of 128 pixels": Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()}
    files[f"radiograph of {options.side} pixels"] = radiograph(options.side)
    ways: dict[str, Callable[[bytes], Any]] = {
        "diptych": read_dicom,
        "pydicom, pixels alone": plain,
        "pydicom, same steps": same_steps,
    }
    rows: list[dict[str, Any]] = []
    for name, data in files.items():
        count = 200 if len(data) < 100_000 else 10
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(options.rounds):
            for way, read in ways.items():
                start = time.process_time()
                for _ in range(count):
                    read(data)
                best[way] = min(best[way], (time.process_time() - start) / count)
        rates = {way: round(1 / seconds, 1) for way, seconds in best.items()}
        rows.append({"file": name, "images_a_processor_second": rates})
        print(f"{name}: " + ", ".join(f"{way} {rate:,.0f}" for way, rate in rates.items()) + " images a processor second")
    keep("dicom", {"rounds": options.rounds, "rows": rows}, [])


if __name__ == "__main__":
    main()
