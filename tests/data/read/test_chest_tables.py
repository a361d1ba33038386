"""Tables of chest X-ray sets: real ones where torchxrayvision's wheel brings them, a few rows otherwise; bad rows say where they stand."""

from __future__ import annotations

import csv
import gzip
import importlib.util
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from diptych.core.errors import DataError, UnknownName
from diptych.data.masks import decode
from diptych.data.read import read
from diptych.data.read.layouts.chest_tables import read_chest_table, rows_of_table
from diptych.data.split import leak_of_row_split, leaks, split

SPEC = importlib.util.find_spec("torchxrayvision")
TABLES = Path(SPEC.origin).parent / "data" if SPEC and SPEC.origin else Path("missing")
real = pytest.mark.skipif(not TABLES.is_dir(), reason="torchxrayvision is not installed")


def head(tmp_path: Path, name: str, rows: int) -> Path:
    """The first rows of a table of the wheel, in a file of their own."""
    with gzip.open(TABLES / f"{name}.gz", "rt", encoding="utf-8-sig") as file:
        kept = list(islice(csv.reader(file), rows + 1))
    with (tmp_path / name).open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows(kept)
    return tmp_path / name


@real
def test_nih_and_its_boxes(tmp_path: Path) -> None:
    path = head(tmp_path, "Data_Entry_2017_v2020.csv", 400)
    head(tmp_path, "BBox_List_2017.csv", 984)
    pool = read(path, format="nih")
    assert len(pool) == 400
    first = pool[0]
    assert (first.group, first.extras["findings"], first.extras["view"], first.extras["age"]) == ("1", ["Cardiomegaly"], "PA", 57)
    boxed = [sample for sample in pool if sample.regions]
    assert boxed
    assert all({region.label for region in sample.regions} <= {*sample.extras["findings"], "Infiltrate"} for sample in boxed)


@real
def test_the_leak_of_a_split_by_image(tmp_path: Path) -> None:
    """The published figure of the whole table: 81.4 % of a random fifth of the images show a patient of the training rows."""
    patients = [row["Patient ID"] for _, row in rows_of_table(TABLES / "Data_Entry_2017_v2020.csv.gz")]
    assert (len(patients), len(set(patients))) == (112_120, 30_805)
    assert abs(leak_of_row_split(patients) - 0.814) < 0.01
    pool = split(read(head(tmp_path, "Data_Entry_2017_v2020.csv", 300), format="nih"))
    assert leaks(pool).clean
    by_image = pool.with_columns({"split": ["train" if n % 3 else "test" for n in range(len(pool))]})
    assert "group" in [leak.kind for leak in leaks(by_image).leaks]
    assert leak_of_row_split([str(n) for n in range(50)]) == 0


@real
def test_chexpert_and_padchest(tmp_path: Path) -> None:
    pool = read(head(tmp_path, "chexpert_train.csv", 50), format="chexpert")
    first = pool[0]
    assert first.extras["findings"] == ["No Finding", "Support Devices"]
    assert (first.extras["absent"], first.group, first.extras["study"]) == (
        ["Pneumothorax"],
        "patient00001",
        "patient00001/study1",
    )
    pool = read(head(tmp_path, "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", 200), format="padchest")
    first = pool[0]
    assert (first.texts[0].language, first.extras["findings"], first.extras["age"]) == ("es", [], 84)
    assert first.extras["sentences"] == "[['normal'], ['normal']]"
    assert any("cardiomegaly" in sample.extras["findings"] for sample in pool)


@real
def test_siim_masks_and_vindr_boxes(tmp_path: Path) -> None:
    path = head(tmp_path, "siim-pneumothorax-train-rle.csv", 60)
    masked = next(sample for sample in read(path, format="siim") if sample.regions)
    code = next(row["EncodedPixels"] for _, row in rows_of_table(path) if row["EncodedPixels"] != "-1")
    flat, place = np.zeros(1024 * 1024, bool), 0  # as torchxrayvision reads it
    for start, length in zip(*[iter(map(int, code.split()))] * 2, strict=True):
        place += start
        flat[place : place + length] = True
        place += length
    np.testing.assert_array_equal(decode(masked.regions[0].mask), flat.reshape(1024, 1024).T)
    vindr = read(head(tmp_path, "vinbigdata-train.csv", 300), format="vindr")
    readers = {region.attributes[0] for sample in vindr for region in sample.regions}
    assert len(readers) > 1
    assert any(not sample.regions and not sample.extras["findings"] for sample in vindr)


def test_rsna_and_mimic(tmp_path: Path) -> None:
    (tmp_path / "rsna.csv").write_text("patientId,x,y,width,height,Target\na,,,,,0\nb,1,2,3,4,1\nb,5,6,7,8,1\n")
    pool = read(tmp_path / "rsna.csv", format="rsna")
    assert [len(sample.regions) for sample in pool] == [0, 2]
    assert pool[1].regions[0].box == (1, 2, 4, 6)
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").write_text("dicom_id,subject_id,study_id,ViewPosition\nd1,10000032,50414267,PA\n")
    (tmp_path / "mimic-cxr-2.0.0-chexpert.csv").write_text(
        "subject_id,study_id,Edema,Pneumonia,Fracture\n10000032,50414267,1.0,-1.0,\n"
    )
    (tmp_path / "mimic-cxr-2.0.0-split.csv").write_text("dicom_id,study_id,subject_id,split\nd1,50414267,10000032,validate\n")
    (sample,) = read(tmp_path / "mimic-cxr-2.0.0-metadata.csv", format="mimic_cxr")
    assert (sample.extras["findings"], sample.extras["uncertain"], sample.extras["split"]) == (["Edema"], ["Pneumonia"], "val")
    assert sample.image is not None
    assert sample.image.name.endswith("files/p10/p10000032/s50414267/d1.jpg")


NIH_TABLE = "Image Index,Finding Labels,Patient ID\n" + "".join(f"{n:08}_000.png,Mass,{n}\n" for n in range(6))


def test_published_lists_give_the_splits(tmp_path: Path) -> None:
    """NIH's own two lists; three of BenchX with a share, one with labels behind the names; RSNA's by patient; CheXpert's by folder."""
    table = tmp_path / "Data_Entry_2017.csv"
    table.write_text(NIH_TABLE)
    assert read(table, format="nih").split_names == []
    (tmp_path / "train_val_list.txt").write_text("00000000_000.png\n00000001_000.png\n00000002_000.png\n")
    (tmp_path / "test_list.txt").write_text("00000003_000.png\r\n00000004_000.png\r\n\n")
    (tmp_path / "readme.txt").write_text("00000005_000.png is blank\n")
    pool = read(table, format="nih")
    assert pool.column("split") == ["train"] * 3 + ["test"] * 2 + [""]
    assert "3 train, 2 test; 1 images in no list" in pool.notes[-1]
    (tmp_path / "train.txt").write_text("00000000_000.png 0 1 0\n00000001_000.png 0 0 0\n")
    (tmp_path / "val.txt").write_text("00000002_000\n")
    (tmp_path / "train_1.txt").write_text("00000001_000.png\n")
    pool = read(table, format="nih")
    assert pool.column("split") == ["train", "train", "val", "test", "test", ""]
    assert [sample.extras.get("shares") for sample in pool] == [None, ["train_1"], None, None, None, None]
    (tmp_path / "val.txt").write_text("00000002_000\n00000004_000.png\n")
    with pytest.raises(DataError, match=r"val\.txt.*row 1.*00000004_000.*test too"):
        read(table, format="nih")
    rsna = tmp_path / "rsna"
    rsna.mkdir()
    (rsna / "labels.csv").write_text("patientId,x,y,width,height,Target\na-1,,,,,0\nb-2,1,2,3,4,1\n")
    (rsna / "test.txt").write_text("b-2\n")
    assert read(rsna / "labels.csv", format="rsna").column("split") == ["", "test"]
    own = tmp_path / "own"
    own.mkdir()
    rows = "".join(
        f"CheXpert-v1.0/{part}/patient{n}/study1/view1_frontal.jpg,Male,50\n" for n, part in enumerate(("train", "valid", "test"))
    )
    (own / "valid.csv").write_text("Path,Sex,Age\n" + rows)
    for part in ("train", "test"):
        (own / f"{part}.txt").write_text("view1_frontal.jpg\n")
    assert read(own / "valid.csv", format="chexpert").column("split") == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("format", "table", "match"),
    [
        ("nih", "Image Index,Finding Labels\na.png,Mass\n", "Patient ID"),
        ("nih", "Image Index,Finding Labels,Patient ID\n../a.png,Mass,1\n", "row 0.*below the folder"),
        ("nih", "Image Index,Finding Labels,Patient ID\na.png,Mass,\n", "row 0: does not name a patient"),
        ("siim", "ImageId, EncodedPixels\na,1 2 3\n", "row 0, field 'EncodedPixels'"),
        ("padchest", "ImageID,PatientID,Labels,Report\na.png,1,normal,x\n", "row 0, field 'Labels'"),
        ("rsna", "patientId,x,y,width,height,Target\nb,1,2,0,4,1\n", "row 0: has the box"),
    ],
)
def test_bad_rows(tmp_path: Path, format: str, table: str, match: str) -> None:
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(DataError, match=match):
        read(tmp_path / "t.csv", format=format)


def test_an_unknown_format() -> None:
    with pytest.raises(UnknownName, match="nih"):
        read_chest_table(Path("a.csv"), "nihh")
