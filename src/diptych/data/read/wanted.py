"""Which column is what: named by the user, or guessed from the usual names. A guess that could go two ways is an error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diptych.core.errors import DataError
from diptych.core.registry import MEDIA

IMAGE_NAMES = (
    ("image", "image_path", "filepath", "file_path", "path", "file_name", "filename", "file", "img", "img_path"),
    ("url", "image_url"),
)
TEXT_NAMES = (
    ("caption", "captions", "text", "texts", "txt"),
    ("title", "alt", "alt_text", "description", "sentence", "sentences"),
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
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for. `text` maps a column to the language of its strings ("": see `language`); `media` a column of a
    table, or an ending of file names, to a medium.

    `language` is a column, or a code such as "en" that holds for every text. `follow_links`: whether links may lead out of the folder
    that was given. `delimiter`: of .csv files, "" for what the header shows. `captions`: whether a row without text is left out where
    others have some.
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
    captions: bool = True

    @classmethod
    def of(
        cls,
        image: str | None,
        text: str | Sequence[str] | Mapping[str, str] | None,
        media: Mapping[str, str] | None = None,
        *,
        follow_links: bool = False,
        delimiter: str = "",
        captions: bool = True,
        **others: str | None,
    ) -> Wanted:
        if isinstance(text, str):
            text = {text: ""}
        elif text is not None and not isinstance(text, Mapping):
            text = dict.fromkeys(text, "")
        return cls(image, text, media=media, follow_links=follow_links, delimiter=delimiter, captions=captions, **others)

    def within(self, folder: object) -> str | None:
        """The folder that links may not lead out of, or None where they may."""
        return None if self.follow_links else str(folder)

    def with_caption(self, table: Any) -> Wanted:
        """For readers that have put captions into a column "txt": take it unless the user named another."""
        return replace(self, text={"txt": ""}) if self.text is None and "txt" in table.column_names else self


@dataclass(frozen=True, slots=True)
class Chosen:
    """The columns that were found. `others` maps uid, group, split, ... to a column; `fixed_language` is a code or ""."""

    image: str | None
    text: Mapping[str, str]
    others: Mapping[str, str]
    fixed_language: str = ""
    media: Mapping[str, str] = field(default_factory=dict)

    @property
    def used(self) -> set[str]:
        return {*self.text, *self.others.values(), *self.media, *([self.image] if self.image else [])}


def choose(wanted: Wanted, names: Sequence[str], file: Any, *, image_needed: bool = True, media_columns: bool = True) -> Chosen:
    """Match what is wanted with the columns that are there. No column is taken for the image where images are known already, and
    none has to be there where other media are. `media_columns`: whether `wanted.media` names columns, not endings of files. Of a table
    without pictures, columns that are called as a medium is ("slide", "clip") hold that medium, and "mask" beside a slide its mask."""
    asked_media = (wanted.media or {}) if media_columns else {}
    media = {str(_known_column(name, names, file)): medium for name, medium in asked_media.items()}
    names = [name for name in names if name not in media]
    image = (_known_column(wanted.image, names, file) or _guess("image", IMAGE_NAMES, names, file)) if image_needed else None
    if image is None and image_needed and media_columns and wanted.media is None:
        media = {name: name for name in names if name in MEDIA and name not in ("image", "images")}
        media |= {"mask": "image"} if "slide" in media and "mask" in names else {}
        names = [name for name in names if name not in media]
    if image is None and image_needed and not media:
        raise DataError(f"no column looks like images; columns are {', '.join(names)}", file=file, expected="image=COLUMN")
    if wanted.text is not None:
        text = {str(_known_column(name, names, file)): language for name, language in wanted.text.items()}
    else:
        rest = [name for name in names if name != image]
        guess = _guess("text", TEXT_NAMES, rest, file)
        text = {guess: ""} if guess else {}
    others, language = {}, ""
    for what, usual in OTHER_NAMES.items():
        asked = getattr(wanted, what)
        if what == "language" and asked and asked not in names and _LANGUAGE.fullmatch(asked):
            language = asked
            continue
        found = _known_column(asked, names, file) or next((name for name in usual if name in names and name != image), None)
        if found and (asked or found not in text):
            others[what] = found
    return Chosen(image, text, others, language, media)


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
        found = [lower[name] for name in rank if name in lower]
        if len(found) > 1:
            raise DataError(
                f"columns {' and '.join(map(repr, found))} could both be the {what}; columns are {', '.join(names)}",
                file=file,
                expected=f"{what}=COLUMN",
            )
        if found:
            return found[0]
    return None
