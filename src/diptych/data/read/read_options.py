"""Options of reading and matching of columns: named by the user, or guessed from the usual names. An ambiguous guess is an error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diptych.core.errors import DataError
from diptych.core.registry import MEDIA

IMAGE_NAMES = (
    ("image", "image_path", "filepath", "file_path", "path", "file_name", "filename", "file", "img", "img_path", "image_name"),
    ("jpg", "jpeg", "png", "webp"),  # bytes, as img2dataset writes them into Parquet
    ("url", "image_url"),
)
TEXT_NAMES = (
    ("caption", "captions", "text", "texts", "txt"),
    ("title", "alt", "alt_text", "description", "sentence", "sentences", "comment"),
    ("label", "class", "class_name"),
)
OTHER_NAMES = {
    "uid": ("uid",),
    "group": ("group",),
    "split": ("split",),
    "licence": ("licence", "license"),
    "source": ("source", "url"),
    "language": ("language", "lang"),
}
ORIGINS = {
    "alt": "alt",
    "alt_text": "alt",
    "tags": "tags",
    "keywords": "tags",
    "label": "label",
    "class": "label",
    "class_name": "label",
    "folder": "label",
}
PROMPT = "prompt"
"""A table with a column of this name may be one of texts alone."""
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")


LONGEST_TEXT, MOST_COLUMNS, UNPACKED_BYTES = 2**20, 1_000, 2**30
"""Default limits of what is read: bytes of a text, columns of a table of JSON objects, bytes in memory of a Parquet table."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Options of reading a data source. `text` maps a column to the language of its strings ("": see `language`); `media` a column of
    a table, or an ending of file names, to a medium.

    `language` is a column, or a code such as "en" that holds for every text. `follow_links`: True if links may lead out of the folder
    that was given. `delimiter`: of .csv files, "" detects it from the header. `encoding`: of .csv and .tsv files, "" is UTF-8.
    `captions`: True leaves out a row without text where others have some. `longest_text`: bytes of a text; `most_columns`: of a table
    of JSON objects, over all its rows; `unpacked_bytes`: of a Parquet table in memory, if that is over 100 times the bytes of its file.
    """

    image: str | None = None
    text: Mapping[str, str] | None = None
    uid: str | None = None
    group: str | None = None
    split: str | None = None
    licence: str | None = None
    source: str | None = None
    language: str | None = None
    media: Mapping[str, str] | None = None
    follow_links: bool = False
    delimiter: str = ""
    encoding: str = ""
    captions: bool = True
    longest_text: int = LONGEST_TEXT
    most_columns: int = MOST_COLUMNS
    unpacked_bytes: int = UNPACKED_BYTES

    @classmethod
    def of(
        cls,
        image: str | None,
        text: str | Sequence[str] | Mapping[str, str] | None,
        media: Mapping[str, str] | None = None,
        *,
        follow_links: bool = False,
        delimiter: str = "",
        encoding: str = "",
        captions: bool = True,
        limits: Mapping[str, int] | None = None,
        **others: str | None,
    ) -> ReadOptions:
        if isinstance(text, str):
            text = {text: ""}
        elif text is not None and not isinstance(text, Mapping):
            text = dict.fromkeys(text, "")
        limits = limits or {}
        return cls(
            image,
            text,
            media=media,
            follow_links=follow_links,
            delimiter=delimiter,
            encoding=encoding,
            captions=captions,
            longest_text=limits.get("longest_text", LONGEST_TEXT),
            most_columns=limits.get("most_columns", MOST_COLUMNS),
            unpacked_bytes=limits.get("unpacked_bytes", UNPACKED_BYTES),
            **others,
        )

    def within(self, folder: object) -> str | None:
        """Folder that links may not lead out of, or None if they may."""
        return None if self.follow_links else str(folder)

    def with_caption(self, table: Any) -> ReadOptions:
        """Options for readers that have put captions into a column "txt": use it unless the user named another."""
        return replace(self, text={"txt": ""}) if self.text is None and "txt" in table.column_names else self


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """Matched columns. `others` maps uid, group, split, ... to a column; `fixed_language` is a code or ""."""

    image: str | None
    text: Mapping[str, str]
    others: Mapping[str, str]
    fixed_language: str = ""
    media: Mapping[str, str] = field(default_factory=dict)

    @property
    def used(self) -> set[str]:
        return {*self.text, *self.others.values(), *self.media, *([self.image] if self.image else [])}


def choose(
    options: ReadOptions, names: Sequence[str], file: Any, *, image_needed: bool = True, media_columns: bool = True
) -> ColumnMapping:
    """Match what is wanted with the columns that are there. No column is taken for the image where images are known already, and
    none has to be there where other media are. `media_columns`: whether `wanted.media` names columns, not endings of files. Of a table
    without pictures, columns that are called as a medium is ("slide", "clip") hold that medium, and "mask" beside a slide its mask; one
    with a column "prompt" holds texts alone."""
    asked_media = (options.media or {}) if media_columns else {}
    media = {str(_known_column(name, names, file)): medium for name, medium in asked_media.items()}
    names = [name for name in names if name not in media]
    image = (_known_column(options.image, names, file) or _guess("image", IMAGE_NAMES, names, file)) if image_needed else None
    if image is None and image_needed and media_columns and options.media is None:
        media = {name: name for name in names if name in MEDIA and name not in ("image", "images")}
        media |= {"mask": "image"} if "slide" in media and "mask" in names else {}
        names = [name for name in names if name not in media]
    if image is None and image_needed and not media and PROMPT not in names:
        raise DataError(
            f"no column looks like images; columns are {', '.join(names)}",
            file=file,
            expected=f"image=COLUMN, or a column '{PROMPT}'",
        )
    if options.text is not None:
        text = {str(_known_column(name, names, file)): language for name, language in options.text.items()}
    else:
        rest = [name for name in names if name != image]
        guess = _guess("text", TEXT_NAMES, rest, file)
        text = {guess: ""} if guess else {}
    others, language = {}, ""
    for what, usual in OTHER_NAMES.items():
        given = getattr(options, what)
        if what == "language" and given and given not in names and _LANGUAGE.fullmatch(given):
            language = given
            continue
        column = _known_column(given, names, file) or next((name for name in usual if name in names and name != image), None)
        if column and (given or column not in text):
            others[what] = column
    if image in IMAGE_NAMES[1] and {"key", "status"} <= set(names) and "uid" not in others:
        others["uid"] = "key"  # of img2dataset: the uid that its tars have
    return ColumnMapping(image, text, others, language, media)


def _known_column(name: str | None, names: Sequence[str], file: Any) -> str | None:
    if name is None or name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise DataError(
        f"no column '{name}'{hint}", file=file, field=name, expected=f"one of {', '.join(names) or 'no columns at all'}"
    )


def _guess(what: str, ranks: Sequence[Sequence[str]], names: Sequence[str], file: Any) -> str | None:
    lower = {name.lower(): name for name in names}
    for rank in ranks:
        candidates = [lower[name] for name in rank if name in lower]
        if len(candidates) == 2 and candidates[1].lower() == f"{candidates[0].lower()}s":
            return candidates[1]  # the first of several, and all of them: as `data export` writes both
        if len(candidates) > 1:
            raise DataError(
                f"columns {' and '.join(map(repr, candidates))} could both be the {what}; columns are {', '.join(names)}",
                file=file,
                expected=f"{what}=COLUMN",
            )
        if candidates:
            return candidates[0]
    return None
