"""Sets of similar pictures with a text about one of them: ImageCoDe (Krojer et al., 2022, arXiv 2203.15867), as JSON:

{"MSR-VTT-videoTrainValVideo_video2044-shot1_0": {"6": "a mom holding her babies", "7": "..."}, "open-images-...": {...}}

The pictures of a set are img0.jpg to img9.jpg of the folder of that name in `games`, `image-sets` or the file's own folder. The order of
frames of a video means something; that of photographs ("open-images") does not. A file of propositions, {"text": ["statement", ...]},
may lie beside it: train_model_split_2.json, dev_model_split_2.json and test_model_split_2.json are those of the authors of NDCR.

What a sample asks is `extras["image_set"]`: {"text", "target": 6, "ordered": true, "propositions": [...]}; "target" is null where it is
kept secret, and without propositions they are cut by rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.disk.json_text import parse_json
from diptych.core.disk.paths import read_file
from diptych.core.errors import DataError
from diptych.core.image import FileImage
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.text.english.propositions import propositions

FIELD = "image_set"
STATIC = "open-images"
FILES = {"train": "train", "valid": "val", "dev": "val", "test": "test", "human": "test"}
"""How names of files begin -> their split."""
FOLDERS = ("games", "image-sets", "")
LARGEST = 1 << 28
NUMBERED = re.compile(r"img(\d+)\.(?:jpe?g|png)")
HEAD = re.compile(rb'\s*\{\s*"[^"]{1,200}"\s*:\s*(?:\{\s*"\d"\s*:\s*"|\[\s*")')


@dataclass(frozen=True, slots=True)
class ImageSet:
    """A text about one of several pictures.

    target   which picture it is; None if it is kept secret
    ordered  whether the order of the pictures means something
    propositions  the statements of the text, one at least
    """

    text: str
    target: int | None
    ordered: bool
    propositions: tuple[str, ...]


def image_set_of(sample: Sample) -> ImageSet:
    """Image set, text and target of a sample with several pictures. Raises DataError that names the sample."""
    entry = sample.extras.get(FIELD)
    where = f"sample '{sample.uid}'"
    several = sample.media.get("images")
    if several is None or len(several.parts) < 2:
        raise DataError(f"{where} has no set of pictures", field="images", expected="two pictures or more")
    if not isinstance(entry, Mapping) or not str(entry.get("text", "")).strip():
        raise DataError(f"{where} asks {str(entry)[:60]}", field=FIELD, expected='{"text": words, "target": a number}')
    target = entry.get("target")
    if target is not None and (not isinstance(target, int) or not 0 <= target < len(several.parts)):
        raise DataError(f"{where} means picture {target!r}", field="target", expected=f"0 to {len(several.parts) - 1}, or null")
    text = str(entry["text"])
    given = tuple(str(one) for one in entry.get("propositions") or () if str(one).strip())
    return ImageSet(text, target, bool(entry.get("ordered", False)), given or propositions(text))


def holds(path: Path) -> bool:
    """True where a file, or a file of a folder, has ImageCoDe's form."""
    if path.is_dir():
        return bool(_files(path))
    if path.suffix != ".json" or not path.is_file() or not 0 < path.stat().st_size <= LARGEST:
        return False
    with path.open("rb") as file:
        head = HEAD.match(file.read(2_000))
    return head is not None and _folder_of(path, _first_name(head.group())) is not None


def read_image_sets(path: Path, *, name: str = "", root: Path | None = None) -> Pool:
    """One sample per text. A folder has the splits of its files; of two files of one split the one with labels is taken.

    root  the folder that holds the folders of pictures
    Raises DataError that names file and set.
    """
    files = _files(path) if path.is_dir() else {"": path}
    samples = [sample for split, file in files.items() for sample in _samples(file, split, root)]
    pool = Pool.from_samples(samples, name=name or path.stem)
    pool.notes.append(f"read as ImageCoDe: {len(pool):,} texts")
    return pool


def _files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.glob("*.json"), key=lambda file: ("unlabeled" in file.name, file.name)):
        split = FILES.get(file.name.split("_")[0], "")
        if split and "split" not in file.stem and split not in files and holds(file):
            files[split] = file
    return files


def _samples(path: Path, split: str, root: Path | None) -> Iterator[Sample]:
    plain, statements = _json(path), _statements(path)
    if not isinstance(plain, Mapping) or not plain:
        raise DataError("contains no set", file=path, expected='{"set": {"0": "text"}}')
    for folder, texts in plain.items():
        asked = texts.items() if isinstance(texts, Mapping) else enumerate(texts) if isinstance(texts, list) else None
        if asked is None or leaves(folder):
            raise DataError(
                f"the set {folder[:80]!r} is {str(texts)[:40]}", file=path, expected='{"0": "text"}, or a list of texts'
            )
        pictures = _pictures(path, folder, root)
        for number, text in asked:
            target = int(number) if isinstance(texts, Mapping) and str(number).isdigit() else None
            if not isinstance(text, str) or not text.strip() or (isinstance(texts, Mapping) and target is None):
                raise DataError(
                    f"the text {number!r} of {folder!r} is {str(text)[:40]!r}", file=path, expected="words about a picture"
                )
            entry: dict[str, Any] = {"text": text, "target": target, "ordered": STATIC not in folder}
            if statements.get(text):
                entry["propositions"] = statements[text]
            sample = Sample(
                f"{folder}-{number}".replace(".", "_").replace("/", "_"),
                media={"images": MediaItem("images", pictures)},
                group=folder,
                source="imagecode",
                extras={FIELD: entry, **({"split": split} if split else {})},
            )
            try:
                image_set_of(sample)
            except DataError as error:
                raise DataError(str(error), file=path) from error
            yield sample


def _statements(path: Path) -> dict[str, list[str]]:
    """The propositions of the file beside this one, if there is one."""
    start = path.name.split("_")[0]
    split = FILES.get(start, "")
    for file in sorted(path.parent.glob("*_split*.json")):
        if FILES.get(file.name.split("_")[0]) == split:
            statements_of = _json(file)
            if not isinstance(statements_of, Mapping) or not all(isinstance(one, list) for one in statements_of.values()):
                raise DataError("contains no propositions", file=file, expected='{"text": ["statement", ...]}')
            return {str(text): list(map(str, one)) for text, one in statements_of.items()}
    return {}


def leaves(folder: str) -> bool:
    """True where the name of a set leads out of the folder of pictures."""
    return "/" in folder or "\\" in folder or folder in ("", ".", "..")


def _folder_of(path: Path, name: str, root: Path | None = None) -> Path | None:
    tops = (
        [root] if root is not None else [top / inner for top in (path.parent, path.resolve().parent.parent) for inner in FOLDERS]
    )
    return next((top / name for top in tops if not leaves(name) and (top / name).is_dir()), None)


def _pictures(path: Path, name: str, root: Path | None) -> tuple[FileImage, ...]:
    folder = _folder_of(path, name, root)
    if folder is None:
        where = root or path.parent / FOLDERS[0]
        raise DataError(
            f"the set {name!r} has no pictures", file=path, expected=f"img0.jpg and further ones in {where / name}, or root="
        )
    numbered = sorted((int(match[1]), file) for file in folder.iterdir() if (match := NUMBERED.fullmatch(file.name)))
    if [number for number, _ in numbered] != list(range(len(numbered))) or len(numbered) < 2:
        raise DataError(f"has the pictures {[number for number, _ in numbered]}", file=folder, expected="img0, img1 and so on")
    return tuple(FileImage(file) for _, file in numbered)


def _first_name(head: bytes) -> str:
    return head.split(b'"')[1].decode("utf-8", "replace")


def _json(path: Path) -> Any:
    try:
        return parse_json(read_file(path, most=LARGEST).decode("utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"is not valid JSON: {error}", file=path, expected="sets of pictures with texts") from error
