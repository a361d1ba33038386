"""Tables of public chest X-ray sets as a `Pool`: NIH ChestX-ray14, CheXpert, PadChest, VinDr-CXR, RSNA, SIIM-ACR and MIMIC-CXR.

A sample is an image, its group the patient (of RSNA, VinDr and SIIM, whose tables name none, the image). Extras: `findings` that are
present, `absent` and `uncertain` ones (CheXpert's table has them; absent of the others is what the table's other labels are), `view`,
`sex`, `age`, `study`. Boxes and masks are regions. Published lists of the images of each split that lie beside a table
(`split_lists`) give the column `split`, and the extra `shares` of a training image that is in train_1.txt or train_10.txt;
MIMIC's table has splits of its own, and CheXpert's folders are its splits. The tables come under their publishers' terms; none is
shipped or downloaded.

NIH       Data_Entry_2017*.csv; boxes of BBox_List_2017*.csv, where it lies beside it
CheXpert  train.csv, valid.csv, test.csv; an image's split is the folder of its path
PadChest  PADCHEST_chest_x_ray_images_labels*.csv; `sentences` has labels and places of each sentence
VinDr     train.csv of the Kaggle challenge; a region's attribute is its reader
RSNA      stage_2_train_labels.csv
SIIM      train-rle.csv, masks of 1024 x 1024
MIMIC     mimic-cxr-2.0.0-metadata.csv, with -chexpert.csv and -split.csv beside it
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.core.disk.paths import path_problem, read_file
from diptych.core.errors import DataError, UnknownName
from diptych.core.image import FileImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.data.masks import box_of, decode
from diptych.data.read.layouts.split_lists import SPLITS, note_of_lists, read_split_lists
from diptych.data.read.naming import uid_of

Row = dict[str, str]
NONE = ("No Finding", "No finding", "normal", "")
LARGEST = 1 << 30
SIIM_SIDE = 1024


def read_chest_table(path: Path, format: str, *, root: Path | None = None, name: str = "") -> Pool:
    """The rows of a table, a sample per image. `root` is the folder of the pictures; without it, the table's.

    path  a .csv, alone or as .csv.gz or in a .zip
    Raises UnknownName for a format, and DataError with file, row and field for what cannot be read.
    """
    if format not in FORMATS:
        raise UnknownName("format of a chest X-ray table", format, FORMATS)
    samples = list(FORMATS[format](path, root or path.parent))
    if not samples:
        raise DataError("contains no image", file=path, expected=f"a table of {format}")
    # CheXpert's pictures have one name in many folders, and its folders are its splits.
    splits, shares = ({}, {}) if format == "chexpert" else read_split_lists(path.parent)
    if splits or shares:
        samples = [_listed_sample(sample, splits, shares) for sample in samples]
    pool = Pool.from_samples(samples, name=name or format)
    patients = len(set(pool.groups))
    pool.notes.append(f"read as {format}: {len(pool):,} images of {patients:,} groups")
    if note := note_of_lists([sample.image.name for sample in samples if sample.image], splits):
        pool.notes.append(note)
    return pool


def rows_of_table(path: Path, needed: tuple[str, ...] = ()) -> Iterator[tuple[int, Row]]:
    """Number and fields of each row; blanks around names and values are dropped. Raises DataError if a needed column is missing."""
    data = read_file(path, None)
    if path.suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            member = next((info for info in archive.infolist() if info.filename.endswith(".csv")), None)
            if member is None or member.file_size > LARGEST:
                raise DataError("contains no table", file=path, expected="a .csv of at most 1 GB")
            data = archive.read(member)
    elif path.suffix == ".gz":
        with gzip.open(io.BytesIO(data)) as stream:
            data = stream.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise DataError("is larger than 1 GB unpacked", file=path, expected="a smaller table")
    reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
    names = [(field or "").strip() for field in reader.fieldnames or ()]
    if missing := [field for field in needed if field not in names]:
        raise DataError("there is no such column", file=path, field=missing[0], expected=", ".join(names[:12]) or "a header")
    for number, row in enumerate(reader):
        yield number, {(key or "").strip(): (value or "").strip() for key, value in row.items() if isinstance(value, str | None)}


def _nih(path: Path, root: Path) -> Iterator[Sample]:
    boxes: dict[str, list[Region]] = {}
    for beside in sorted(path.parent.glob("BBox_List*.csv*")):
        for _, row in rows_of_table(beside, ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")):
            left, top, width, height = (float(row[key]) for key in ("Bbox [x", "y", "w", "h]"))
            region = Region((left, top, left + width, top + height), row["Finding Label"])
            boxes.setdefault(row["Image Index"], []).append(region)
    for number, row in rows_of_table(path, ("Image Index", "Finding Labels", "Patient ID")):
        labels = [label for label in row["Finding Labels"].split("|") if label not in NONE]
        extras = _facts(row, view="View Position", sex="Patient Gender", age="Patient Age")
        regions = tuple(boxes.get(row["Image Index"], ()))
        yield _sample(
            row["Image Index"], root, row["Patient ID"], {**extras, "findings": labels}, (path, number), regions=regions
        )


def _chexpert(path: Path, root: Path) -> Iterator[Sample]:
    for number, row in rows_of_table(path, ("Path", "Sex", "Age")):
        parts = row["Path"].split("/")
        patient = next((part for part in parts if part.startswith("patient")), "")
        study = next((part for part in parts if part.startswith("study")), "")
        extras = _facts(row, sex="Sex", age="Age") | _graded(row) | {"study": f"{patient}/{study}"}
        extras["view"] = row.get("AP/PA") or row.get("Frontal/Lateral", "")
        if folder := next((part for part in parts if part in SPLITS), ""):
            extras["split"] = SPLITS[folder]
        yield _sample(row["Path"], root, patient, extras, (path, number))


def _padchest(path: Path, root: Path) -> Iterator[Sample]:
    for number, row in rows_of_table(path, ("ImageID", "PatientID", "Labels", "Report")):
        labels = [label for label in _listed(row["Labels"], path, number, "Labels") if label not in NONE]
        extras = _facts(row, view="Projection", sex="PatientSex_DICOM", study="StudyID", method="MethodLabel")
        born, taken = row.get("PatientBirth", ""), row.get("StudyDate_DICOM", "")
        if born and taken:
            extras["age"] = int(taken[:4]) - int(float(born))
        extras |= {"findings": labels, "sentences": row.get("LabelsLocalizationsBySentence", "")}
        texts = (Text(row["Report"], "es"),) if row["Report"] else ()
        file = f"{row['ImageDir']}/{row['ImageID']}" if row.get("ImageDir") else row["ImageID"]
        yield _sample(file, root, row["PatientID"], extras, (path, number), texts=texts)


def _vindr(path: Path, root: Path) -> Iterator[Sample]:
    images: dict[str, list[tuple[int, Row]]] = {}
    for number, row in rows_of_table(path, ("image_id", "class_name", "rad_id", "x_min", "y_min", "x_max", "y_max")):
        images.setdefault(row["image_id"], []).append((number, row))
    for image, rows in images.items():
        regions = tuple(
            _region([row[key] for key in ("x_min", "y_min", "x_max", "y_max")], row["class_name"], (row["rad_id"],), path, number)
            for number, row in rows
            if row["x_min"]
        )
        labels = list(dict.fromkeys(region.label for region in regions))
        yield _sample(f"{image}.dicom", root, image, {"findings": labels}, (path, rows[0][0]), regions=regions)


def _rsna(path: Path, root: Path) -> Iterator[Sample]:
    images: dict[str, list[tuple[int, Row]]] = {}
    for number, row in rows_of_table(path, ("patientId", "x", "y", "width", "height", "Target")):
        images.setdefault(row["patientId"], []).append((number, row))
    for image, rows in images.items():
        regions = []
        for number, row in rows:
            if row["Target"] == "1":
                left, top, width, height = (float(row[key]) for key in ("x", "y", "width", "height"))
                box = [str(value) for value in (left, top, left + width, top + height)]
                regions.append(_region(box, "Pneumonia", (), path, number))
        labels = ["Pneumonia"] if regions else []
        yield _sample(f"{image}.dcm", root, image, {"findings": labels}, (path, rows[0][0]), regions=tuple(regions))


def _siim(path: Path, root: Path) -> Iterator[Sample]:
    images: dict[str, list[tuple[int, str]]] = {}
    for number, row in rows_of_table(path, ("ImageId", "EncodedPixels")):
        images.setdefault(row["ImageId"], []).append((number, row["EncodedPixels"]))
    for image, codes in images.items():
        regions = tuple(_mask(code, path, number) for number, code in codes if code not in ("-1", ""))
        labels = ["Pneumothorax"] if regions else []
        yield _sample(f"{image}.dcm", root, image, {"findings": labels}, (path, codes[0][0]), regions=regions)


def _mask(code: str, path: Path, row: int) -> Region:
    """The published code counts zeros and ones in turn down the columns, which is COCO's order; its last zeros are left out."""
    try:
        runs = [int(part) for part in code.split()]
    except ValueError:
        runs = []
    rest = SIIM_SIDE * SIIM_SIDE - sum(runs)
    if not runs or len(runs) % 2 or rest < 0 or min(runs) < 0:
        raise DataError("runs of the mask cannot be read", file=path, row=row, field="EncodedPixels", expected="pairs of numbers")
    mask = {"size": [SIIM_SIDE, SIIM_SIDE], "counts": [*runs, rest]}
    box = box_of(decode(mask))
    if box is None:
        raise DataError("the mask is empty", file=path, row=row, field="EncodedPixels", expected="-1 where there is none")
    return Region(box, "Pneumothorax", mask=mask)


def _mimic(path: Path, root: Path) -> Iterator[Sample]:
    def beside(kind: str, key: str) -> dict[str, Row]:
        files = sorted(path.parent.glob(f"*{kind}.csv*"))
        return {row[key]: row for _, row in rows_of_table(files[0], (key,))} if files else {}

    labels, splits = beside("chexpert", "study_id"), beside("split", "dicom_id")
    for number, row in rows_of_table(path, ("dicom_id", "subject_id", "study_id")):
        patient, study, image = row["subject_id"], row["study_id"], row["dicom_id"]
        extras = _facts(row, view="ViewPosition") | _graded(labels.get(study, {})) | {"study": study}
        if image in splits:
            extras["split"] = {"validate": "val"}.get(splits[image]["split"], splits[image]["split"])
        file = f"files/p{patient[:2]}/p{patient}/s{study}/{image}.jpg"
        yield _sample(file, root, patient, extras, (path, number))


FORMATS: dict[str, Callable[[Path, Path], Iterator[Sample]]] = {
    "nih": _nih,
    "chexpert": _chexpert,
    "padchest": _padchest,
    "vindr": _vindr,
    "rsna": _rsna,
    "siim": _siim,
    "mimic_cxr": _mimic,
}
"""Name of a table's form, as `read(format=...)` takes it."""


def _sample(
    file: str,
    root: Path,
    group: str,
    extras: Mapping[str, Any],
    where: tuple[Path, int],
    *,
    texts: tuple[Text, ...] = (),
    regions: tuple[Region, ...] = (),
) -> Sample:
    path, row = where
    if not file or path_problem(file) or Path(file).is_absolute() or ".." in Path(file).parts:
        raise DataError(f"names the picture {file[:60]!r}", file=path, row=row, expected="a name below the folder of pictures")
    if not group:
        raise DataError("does not name a patient", file=path, row=row, expected="one: images of a patient stay in one split")
    return Sample(
        uid_of(file), FileImage(root / file, str(root)), texts, regions, group=group, source=path.stem, extras=dict(extras)
    )


def _listed_sample(sample: Sample, splits: Mapping[str, str], shares: Mapping[str, list[str]]) -> Sample:
    """The sample with its split and shares of training where lists name its image."""
    assert sample.image is not None
    name = Path(sample.image.name).stem
    extras = dict(sample.extras)
    if splits:
        extras["split"] = splits.get(name, "")
    if name in shares:
        extras["shares"] = shares[name]
    return replace(sample, extras=extras)


def _facts(row: Row, **columns: str) -> dict[str, Any]:
    """Extras by the columns that a row fills; an age in years is a number ("057Y" too)."""
    extras: dict[str, Any] = {name: row[column] for name, column in columns.items() if row.get(column)}
    if "age" in extras:
        digits = str(extras["age"]).rstrip("Yy")
        extras["age"] = int(float(digits)) if digits.replace(".", "", 1).isdigit() else -1
    return extras


def _graded(row: Row) -> dict[str, Any]:
    """Findings of CheXpert's columns: 1 present, 0 absent, -1 uncertain, blank not mentioned."""
    from diptych.data.text.reports.findings import FINDINGS

    grades = {name: float(row[name]) for name in FINDINGS if row.get(name) and not math.isnan(float(row[name]))}
    names = {1.0: "findings", 0.0: "absent", -1.0: "uncertain"}
    return {key: [name for name, grade in grades.items() if grade == value] for value, key in names.items()}


def _listed(text: str, path: Path, row: int, field: str) -> list[str]:
    """A list of strings as Python writes it; [] for a blank field."""
    if not text or text == "nan":
        return []
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        values = None
    if not isinstance(values, list):
        raise DataError(f"is {text[:40]!r}", file=path, row=row, field=field, expected="a list such as ['normal']")
    return [str(value).strip() for value in values]


def _region(corners: list[str], label: str, attributes: tuple[str, ...], path: Path, row: int) -> Region:
    try:
        x0, y0, x1, y1 = (float(corner) for corner in corners)
        return Region((x0, y0, x1, y1), label, attributes)
    except (ValueError, DataError):
        raise DataError(f"has the box {corners}", file=path, row=row, expected="x0 < x1 and y0 < y1, pixels") from None
