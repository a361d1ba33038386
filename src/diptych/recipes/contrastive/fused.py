"""Fused: a fusion model that scores pairs of image and text, as a teacher and as a reference."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.recipes._shared.fused_pairs import FusedRecipe


@dataclass(frozen=True, kw_only=True)
class FusedMatcher(FusedRecipe):
    """A matcher in the manner of ALBEF (Li et al., 2021, arXiv 2107.07651). A baseline, and the teacher of `dcd`.

    Two towers are contrasted as in CLIP; above them, blocks let the words of a text read the patches of an image, and a head says whether
    the two fit. Each image is read with its own text, with a wrong one and each text with a wrong image, drawn by how alike they are. What
    is deployed scores every pair by reading it: exact and slow, since nothing of a pair can be computed before a query comes.

    We depart from ALBEF: no masked words, no momentum model and no queue; pre-norm blocks over whole towers, and the mean of the words
    instead of a class token.
    """

    slug = "fused"
