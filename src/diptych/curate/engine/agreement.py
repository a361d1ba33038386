"""Image-text similarity of each text of a row, by a model that embeds both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diptych.core.contracts import Dataset
from diptych.curate.engine.embedding import embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.index.embed import embed_texts


def agreements(data: Dataset, address: str, texts: Mapping[str, Sequence[str]], parts: PartStore) -> dict[str, list[float]]:
    """Cosines of the image with each of its row's `texts`, in their order, by uid. A row whose image is missing or cannot be read has
    none, and so has one without a text."""
    model = open_embedder(address)
    embeddings = embed_pool(data, model, parts)
    pairs = [(row, text) for row, uid in enumerate(embeddings.uids) for text in texts.get(uid, ())]
    if not pairs:
        return {}
    text_MD = embed_texts(model, [text for _, text in pairs], [embeddings.uids[row] for row, _ in pairs])
    cosines: dict[str, list[float]] = {}
    for (row, _), vector_D in zip(pairs, text_MD, strict=True):
        cosines.setdefault(embeddings.uids[row], []).append(float(embeddings.vector_ND[row] @ vector_D))
    return cosines
