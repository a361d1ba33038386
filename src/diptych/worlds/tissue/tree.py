"""Ontology of the rendered tissue: a tree of three levels. Names are borrowed or invented; nothing here is medicine."""

from __future__ import annotations

from functools import cache

from diptych.data.ontologies.ontology import Concept, Ontology

ROOT = "TIS:0"
NORMAL = "normal"
"""The label of tissue without a tumour, which is no concept."""
UNKNOWN = "unknown"
"""The label of a group whose captions name nothing."""

FAMILIES: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, ...]]]] = {
    "glandular tumour": (
        ("adenoid neoplasm", "glandular growth"),
        {
            "tubuloma": ("tubule growth",),
            "mucinoma": ("mucin growth",),
            "papilloma": ("papillary growth",),
            "cribroma": ("sieve growth",),
        },
    ),
    "squamous tumour": (
        ("epidermoid neoplasm", "squamous growth"),
        {
            "keratoma": ("horn growth",),
            "acanthoma": ("spine growth",),
            "verrucoma": ("wart growth",),
            "basaloma": ("basal growth",),
        },
    ),
    "lymphoid tumour": (
        ("lymphatic neoplasm", "lymphoid growth"),
        {
            "centroma": ("centre growth",),
            "immunoma": ("immune growth",),
            "plasmoma": ("plasma growth",),
            "folliculoma": ("follicle growth",),
        },
    ),
    "spindle tumour": (
        ("fusiform neoplasm", "spindle growth"),
        {
            "fibroma": ("fibre growth",),
            "myoma": ("muscle growth",),
            "neuroma": ("nerve growth",),
            "angioma": ("vessel growth",),
        },
    ),
}
"""Family -> its synonyms, and its kinds with theirs. A kind's place says how it looks: small or large nuclei, two stains of them."""

LEAVES = tuple(leaf for _, kinds in FAMILIES.values() for leaf in kinds)
"""The sixteen kinds in order."""


@cache
def tissue_ontology() -> Ontology:
    """TIS:0 is any tumour, TIS:1 to TIS:4 the families, TIS:11 to TIS:44 the kinds."""
    concepts = [Concept(ROOT, "tumour", ("neoplasm",), ("Tissue that should not be there.",))]
    for f, (family, (synonyms, kinds)) in enumerate(FAMILIES.items(), 1):
        concepts.append(Concept(f"TIS:{f}", family, synonyms, (f"A tumour of the {family.split()[0]} family.",), (ROOT,)))
        concepts += [
            Concept(f"TIS:{f}{k}", kind, others, (f"A {family} of the {others[0].split()[0]} type.",), (f"TIS:{f}",))
            for k, (kind, others) in enumerate(kinds.items(), 1)
        ]
    return Ontology(concepts, name="world:tissue")


def leaf_id(leaf: str) -> str:
    """The concept of a kind.

    >>> leaf_id("mucinoma")
    'TIS:12'
    """
    return tissue_ontology().by_name[leaf][0]


def family_id(leaf: str) -> str:
    """The concept of its family."""
    return tissue_ontology()[leaf_id(leaf)].parents[0]
