"""A whole slide of real tissue without a download: the immunostained colon that comes with scikit-image, tiled to 4096 x 4096 pixels.

    pip install "diptych[slides]" scikit-image tifffile
    python examples/real_slide.py colon/

writes colon/colon.tif, a tiled TIFF of three levels with half a micrometre a pixel, which OpenSlide and tiffslide open, and a slides.csv.
The picture has no known copyright restrictions; it was acquired at the Center for Microscopy And Molecular Imaging.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tifffile
from skimage import data

PIXELS_A_CENTIMETRE = 20_000
SIDES = 8


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    whole = np.tile(data.immunohistochemistry(), (SIDES, SIDES, 1))
    with tifffile.TiffWriter(folder / "colon.tif", bigtiff=True) as writer:
        for step in (1, 2, 4):
            scale = PIXELS_A_CENTIMETRE / step
            writer.write(
                np.ascontiguousarray(whole[::step, ::step]), tile=(256, 256), photometric="rgb", compression="zlib",
                subfiletype=int(step > 1), resolution=(scale, scale), resolutionunit="CENTIMETER",
            )  # fmt: skip
    (folder / "slides.csv").write_text("slide,label,group\ncolon.tif,colon,colon\n", encoding="utf-8")
    print(f"{folder / 'colon.tif'}: {whole.shape[1]:,} x {whole.shape[0]:,} pixels")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "colon"))
