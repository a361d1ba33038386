"""WebDataset tars: indexed once, then any sample is one read away. Split members are joined, a cut tar keeps what it has.

The key of a member ends at the first dot after the last slash, as WebDataset has it: ``a/img.v3.jpg`` has the key ``a/img``.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diptych.core.disk.paths import is_utf8, open_file, printable
from diptych.core.disk.remote_folder import is_remote, open_fetched
from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.media.images import Slices
from diptych.data.media.table import MediaTable
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read.assemble import SourceRows, assemble
from diptych.data.read.media import MediaNames, NamedPart
from diptych.data.read.naming import uid_of
from diptych.data.read.read_options import ReadOptions
from diptych.data.read.rows import Rows
from diptych.data.shards.mark import refuse_unfinished_tar
from diptych.data.shards.sidecar import IMAGES, LARGEST, TEXTS, row_of
from diptych.data.shards.tar_index import TarIndex, open_index

KNOWN = (*TEXTS, "json", "cls")
Member = tuple[str, int, int]  # name, offset, size


@dataclass
class _Sample:
    """The members of one key, and at which position in the tar the last one stood."""

    key: str
    images: list[Member] = field(default_factory=list)
    media: list[tuple[NamedPart, Member]] = field(default_factory=list)
    others: dict[str, Member] = field(default_factory=dict)
    last: int = -1
    apart: bool = False


@dataclass
class _TarSamples:
    """Samples of all tars, by column."""

    rows: Rows = field(default_factory=Rows)
    keys: list[str] = field(default_factory=list)
    row_keys: list[str] = field(default_factory=list)
    images: list[tuple[int, int, int, str]] = field(default_factory=list)
    media: list[dict[str, Any]] = field(default_factory=list)
    bad: list[QuarantineEntry] = field(default_factory=list)
    dotted: int = 0
    apart: int = 0


def read_tars(paths: Sequence[Path], options: ReadOptions, *, name: str) -> Pool:
    """One pool over all tars, in the order given. Faulty members are left out, with a quarantine row each."""
    gathered, named = _TarSamples(rows=Rows(options.most_columns)), MediaNames(options.media)
    for number, path in enumerate(paths):
        refuse_unfinished_tar(path)
        if not is_utf8(str(path.resolve())):
            raise DataError("its name is not UTF-8", file=printable(str(path)), expected="another name, which tables can hold")
        if is_remote(path):
            os.close(open_fetched(path, os.O_RDONLY))  # it is read whole here, to see what is in it
        index = open_index(path)
        gathered.bad += [
            QuarantineEntry(
                uid_of(_key(p.member)[0]) if p.member else "", "read", p.reason, f"{path}:{p.member}" if p.member else str(path)
            )
            for p in index.problems
        ]
        with open_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _gather(gathered, number, path, index, data, options, named)
    if not gathered.keys:
        first = f"; first problem: {gathered.bad[0]}" if gathered.bad else ""
        raise DataError(f"no sample with an image{first}", file=paths[0], expected="members KEY.jpg and KEY.txt or KEY.json")
    named.refuse_unused(paths[0])
    files, offsets, sizes, members = zip(*gathered.images, strict=True)
    images = Slices(
        tuple(paths),
        np.array(files, np.int32),
        np.array(offsets, np.int64),
        np.array(sizes, np.int64),
        pa.array(members),
    )
    notes = []
    if gathered.dotted:
        notes.append(
            f"{gathered.dotted:,} members have a dot inside their key; the key ends at the first one, as WebDataset has it"
        )
    if gathered.apart:
        notes.append(f"{gathered.apart:,} samples had members that are not side by side; they were joined")
    source = SourceRows(
        name,
        gathered.rows.table(),
        str(paths[0] if len(paths) == 1 else paths[0].parent),
        images=images,
        media=MediaTable.by_row(gathered.media, len(gathered.keys), "") if gathered.media else None,
        names=gathered.keys,
        row_keys=gathered.row_keys,
        bad=gathered.bad,
        notes=notes,
    )
    return assemble(source, options.with_caption(source.table))


def _gather(
    gathered: _TarSamples, number: int, path: Path, index: TarIndex, data: mmap.mmap, options: ReadOptions, named: MediaNames
) -> None:
    for sample in _group(gathered, path, index, named):
        uid = uid_of(sample.key)
        image = None
        if (sample.images or not sample.media) and (image := _only_image(gathered, sample, path, uid)) is None:
            continue
        if large := next((member for member in sample.others.values() if member[2] > LARGEST), None):
            reason = f"has {large[2]:,} bytes, and at most {LARGEST:,} are read of such a file"
            gathered.bad.append(QuarantineEntry(uid, "text", reason, f"{path}:{large[0]}"))
            continue
        members = {extension: data[offset : offset + size] for extension, (_, offset, size) in sample.others.items()}
        files = {extension: f"{path}:{name}" for extension, (name, _, _) in sample.others.items()}
        row = row_of(members, uid, files, options)
        if isinstance(row, QuarantineEntry):
            gathered.bad.append(row)
            continue
        if fault := gathered.rows.add(row):
            gathered.bad.append(QuarantineEntry(uid, "read", fault, files.get("json", str(path))))
            continue
        for part, (_, offset, size) in sorted(sample.media, key=lambda one: (one[0].name, one[0].number)):
            location = {"file": str(path.resolve()), "offset": offset, "size": size, "row": len(gathered.keys)}
            gathered.media.append({"name": part.name, "medium": part.medium, **location})
        gathered.keys.append(sample.key)
        gathered.row_keys.append(f"{path.name}/{sample.key}")
        gathered.images.append((number, image[1], image[2], image[0]) if image else (-1, 0, 0, ""))
        gathered.apart += sample.apart


def _group(gathered: _TarSamples, path: Path, index: TarIndex, named: MediaNames) -> list[_Sample]:
    """Members by key, in order of first appearance. A duplicate name counts once."""
    samples: dict[str, _Sample] = {}
    seen: set[str] = set()
    columns = (index.members[column].to_pylist() for column in ("name", "offset", "size"))
    for position, (name, offset, size) in enumerate(zip(*columns, strict=True)):
        key, extension = _key(name)
        if not extension or name.rpartition("/")[2].startswith("."):
            continue
        if name in seen:
            gathered.bad.append(
                QuarantineEntry(uid_of(key), "read", "this name comes twice in the tar; the first one is kept", f"{path}:{name}")
            )
            continue
        seen.add(name)
        part = named.part(name.rpartition("/")[2])
        if part is not None and part.key != key.rpartition("/")[2]:
            part = None  # of a member "a.b.ply", say: the key ends at the first dot
        gathered.dotted += "." in extension and part is None
        kind = extension.rpartition(".")[2]
        sample = samples.setdefault(key, _Sample(key))
        sample.apart = sample.apart or (sample.last >= 0 and sample.last != position - 1)
        sample.last = position
        if part is not None:
            sample.media.append((part, (name, offset, size)))
        elif kind in IMAGES:
            sample.images.append((name, offset, size))
        elif kind in KNOWN:
            plain = extension == kind or kind not in sample.others
            if plain:
                sample.others[kind] = (name, offset, size)
    return list(samples.values())


def _only_image(gathered: _TarSamples, sample: _Sample, path: Path, uid: str) -> Member | None:
    """The image of a key, of several the one without a dotted extension; None and a quarantine row where that is unclear."""
    images = sample.images
    if len(images) > 1:
        plain = [image for image in images if "." not in _key(image[0])[1]]
        images = plain if len(plain) == 1 else images
    if len(images) == 1:
        return images[0]
    if images:
        names = ", ".join(name for name, _, _ in images[:3]) + (", ..." if len(images) > 3 else "")
        reason = (
            f"key '{sample.key}' has {len(images)} images ({names}): a key ends at its first dot, so rename them without dots"
        )
    elif sample.others:
        reason = f"key '{sample.key}' has no image, only {', '.join(sorted(sample.others))}"
    else:
        return None  # other data of somebody else's (.npy, .pth): not ours to judge
    gathered.bad.append(QuarantineEntry(uid, "read", reason, str(path)))
    return None


def _key(name: str) -> tuple[str, str]:
    """(key, extension in lower case): split at the first dot after the last slash.

    >>> _key("a.b/img.v3.JPG")
    ('a.b/img', 'v3.jpg')
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}".removeprefix("./"), extension.lower()
