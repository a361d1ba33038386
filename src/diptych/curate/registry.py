"""Curation steps by slug: those whose whole configuration is plain values.

Steps that hold a trained model (`near_duplicates.NearDuplicateEmbeddings`) are made in Python.
"""

from __future__ import annotations

from typing import Any

from diptych.core.errors import UnknownName

ENTRIES = {
    "align": "diptych.curate.align:AlignFilters",
    "exact_duplicates": "diptych.curate.exact_duplicates:ExactDuplicates",
    "laion": "diptych.curate.laion:LAION",
    "metaclip": "diptych.curate.metaclip:MetaCLIP",
    "near_duplicates": "diptych.curate.near_duplicates:NearDuplicates",
    "relation_tags": "diptych.curate.relation_tagging:TagRelations",
    "semantic_duplicates": "diptych.curate.semantic_duplicates:SemanticDuplicates",
    "text_duplicates": "diptych.curate.text_duplicates:TextDuplicates",
    "tldr": "diptych.curate.tldr:TLDR",
    "template_captions": "diptych.curate.synthetic_captions:TemplateCaptions",
}

ABOUT = {
    "align": "sizes, shapes and texts of web pairs, by counting",
    "exact_duplicates": "images that are the same file, or the same pixels",
    "laion": "web pairs: language, agreement of image and text, duplicates, safety",
    "metaclip": "texts that mention known entries, and no entry too often",
    "near_duplicates": "images that look like another one",
    "relation_tags": "relations for images that have boxes and captions, by a trained tagger",
    "semantic_duplicates": "images that mean the same, by a model's embeddings",
    "text_duplicates": "texts that are nearly those of another row",
    "tldr": "a share that still shows everything, with captions that fit",
    "template_captions": "drops nothing: writes a caption from what the data know",
}
"""A line each for the help."""


def find(slug: str) -> type[Any]:
    """The dataclass of a step; an unknown slug gets a near match.

    >>> find("near_duplicates")().bits
    6
    """
    if slug not in ENTRIES:
        raise UnknownName("curation step", slug, ENTRIES)
    import importlib

    module, name = ENTRIES[slug].split(":")
    operator: type[Any] = getattr(importlib.import_module(module), name)
    return operator
