"""HICO's image-level labels: the relations that an image shows, including those without boxes.

    anno.mat   of the original release (hico_20160224_det/): `list_train`, `list_test` (file names), `anno_train`, `anno_test`
               (600 x images: 1 shown; -1, 0 or not-a-number: not shown, doubtful, not looked at)

Known-object scoring asks which images show an *object*, and the official scorer reads that here (Chao et al., 2018): an image counts
for all classes of an object when any of them is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from diptych.core.errors import DataError
from diptych.data.vocabularies import vocabulary

LABELLED = "labelled_objects"
PLACES = ("anno.mat", "annotations/anno.mat", "hico_20160224_det/anno.mat", "../anno.mat", "../hico_20160224_det/anno.mat")


def labelled_objects(source: Path) -> dict[str, list[str]]:
    """File name -> objects of its positive labels, in the order of the vocabulary; empty if there is no ``anno.mat``.

    source  the folder of the annotations, or one file of them
    """
    folder = source.parent if source.is_file() else source
    file = next((path for subfolder in PLACES if (path := folder / subfolder).is_file()), None)
    if file is None:
        return {}
    try:
        read = loadmat(file, variable_names=[f"{kind}_{split}" for kind in ("list", "anno") for split in ("train", "test")])
    except (OSError, ValueError, NotImplementedError, TypeError, MatReadError) as error:
        raise DataError(f"cannot be read as a file of MATLAB: {error}", file=file) from error
    hico_det = vocabulary("hico-det")
    things = [thing for _, _, thing in hico_det.triplets]
    labels_by_name: dict[str, list[str]] = {}
    for split in ("train", "test"):
        if f"list_{split}" not in read or f"anno_{split}" not in read:
            continue
        names = [_text(cell) for cell in read[f"list_{split}"].reshape(-1)]
        label_KN = read[f"anno_{split}"]
        if label_KN.shape != (len(things), len(names)):
            shape = f"{len(things)} classes x {len(names)} images"
            raise DataError(f"has shape {label_KN.shape}", file=file, field=f"anno_{split}", expected=shape)
        for name, label_K in zip(names, (label_KN == 1).T, strict=True):
            labels_by_name[name] = _in_order({things[k] for k in np.flatnonzero(label_K)}, hico_det.objects)
    if not labels_by_name:
        raise DataError("has neither list_test with anno_test nor list_train with anno_train", file=file)
    return labels_by_name


def _text(cell: object) -> str:
    """A cell of MATLAB holds an array that holds the string."""
    return str(np.asarray(cell).reshape(-1)[0])


def _in_order(names: set[str], order: Sequence[str]) -> list[str]:
    return [name for name in order if name in names]
