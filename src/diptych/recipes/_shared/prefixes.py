"""Features cut to the first dimensions of their embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from diptych.core.rows import embedding_fields
from diptych.objectives.pairs.nested import truncate
from diptych.recipes._shared.pairs import S


def truncate_embeddings(features: S, d: int) -> S:
    """The same features, embeddings cut to their first d dimensions and normalised again; other fields are unchanged."""
    named = {name: getattr(features, name) for name in embedding_fields(type(features))}
    shorter: S = replace(cast(Any, features), **{name: truncate(x, d) for name, x in named.items() if x is not None})
    return shorter
