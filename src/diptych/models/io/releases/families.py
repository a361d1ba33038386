"""Model families of libraries as rows of the table of releases."""

from __future__ import annotations

from diptych.models.io.foreign.transformers_layout import FAMILIES
from diptych.models.io.foreign.transformers_library import LIBRARY_FAMILIES
from diptych.models.io.releases.release import Release
from diptych.models.io.releases.table import RELEASES


def library_releases() -> tuple[Release, ...]:
    """A row for each family of transformers that opens as an embedder, and one for architectures of open_clip and of timm."""
    rows = [
        Release(
            slug=f"hf_{family.model_type}",
            systems=(),
            title=family.about,
            address="hf:FOLDER",
            source=f"huggingface.co/{family.published} and others",
            licence="as its model card says",
            opens="PairEmbedder",
            checked=f"{family.classes[0]} of transformers on a small folder",
            model_type=family.model_type,
        )
        for family in FAMILIES.values()
    ]
    rows += [
        Release(
            slug=f"hf_{family.model_type}{family.address.partition('#')[2] and '_naflex'}".replace("-", "_"),
            systems=(),
            title=family.about,
            address=family.address,
            source=f"huggingface.co/{family.published} and others",
            licence="as its model card says",
            opens=family.opens,
            checked=f"{family.name} of transformers on a small folder",
            model_type=family.model_type,
        )
        for family in LIBRARY_FAMILIES
    ]
    return (*rows, OPEN_CLIP, TIMM)


OPEN_CLIP = Release(
    slug="open_clip",
    systems=(),
    title="Architectures of open_clip: CLIP, SigLIP 1 and 2, CoCa, EVA-CLIP, MobileCLIP 1 and 2, Perception Encoder, MetaCLIP 2",
    address="open_clip:ARCH/FILE",
    source="huggingface.co, by the tags of open_clip.list_pretrained()",
    licence="as their model cards say",
    opens="PairEmbedder",
    checked="open_clip itself on fresh weights",
)
TIMM = Release(
    slug="timm",
    systems=(),
    title="Image models of timm",
    address="timm:NAME/FILE",
    source="huggingface.co/timm",
    licence="as their model cards say",
    opens="ImageEmbedding",
    checked="timm itself on fresh weights",
)


def all_releases() -> tuple[Release, ...]:
    """Every row of the table: releases of systems, then families of libraries."""
    return (*RELEASES, *library_releases())
