"""Content hash of a data set, independent of the order of its rows."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow.compute as pc

from diptych.data.media.images import Images
from diptych.data.media.table import Media
from diptych.data.metadata import Metadata
from diptych.data.ragged import Ragged
from diptych.data.texts import Texts

BLOCK = 16_384
"""Rows of which there are Python objects at a time."""


def content_fingerprint(
    metadata: Metadata, texts: Texts, images: Images, media: Media | None = None, relations: Ragged | None = None
) -> str:
    """Sixteen hex digits over every uid, its texts, group, image and media (sha256 where known, else size), and over its relations
    where they are given."""
    uids = metadata.arrow("uid")
    order = pc.sort_indices(uids).to_numpy()
    digest = hashlib.sha256()
    for start in range(0, len(order), BLOCK):
        part = metadata.chosen(order[start : start + BLOCK], "")
        hashes = part.column("sha256") if "sha256" in part.columns else [None] * len(part)
        each = zip(part.row_array.tolist(), part.column("uid"), part.column("group"), hashes, strict=True)
        for base, uid, group, known in each:
            image = known or images.identity(base)
            given: list[Any] = [{"media": parts}] if media and (parts := media.identity(base)) else []
            given += [relations.row(base)] if relations else []
            digest.update(json.dumps([uid, group, image, texts.fields_of(base), *given]).encode())
    return digest.hexdigest()[:16]
