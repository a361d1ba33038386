"""Content hash of a data set, independent of the order of its rows."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from diptych.data.media.images import Images
from diptych.data.media.table import Media
from diptych.data.metadata import Metadata
from diptych.data.ragged import Ragged
from diptych.data.texts import Texts


def content_fingerprint(
    metadata: Metadata, texts: Texts, images: Images, media: Media | None = None, relations: Ragged | None = None
) -> str:
    """Sixteen hex digits over every uid, its texts, group, image and media (sha256 where known, else size), and over its relations
    where they are given."""
    uids, groups = metadata.column("uid"), metadata.column("group")
    hashes = metadata.column("sha256") if "sha256" in metadata.columns else [None] * len(metadata)
    digest = hashlib.sha256()
    for row in sorted(range(len(metadata)), key=uids.__getitem__):
        base = int(metadata.rows[row])
        image = hashes[row] or images.identity(base)
        given: list[Any] = [{"media": parts}] if media and (parts := media.identity(base)) else []
        given += [relations.row(base)] if relations else []
        digest.update(json.dumps([uids[row], groups[row], image, texts.fields_of(base), *given]).encode())
    return digest.hexdigest()[:16]
