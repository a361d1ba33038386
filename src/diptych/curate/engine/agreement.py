"""Image-text similarity of each text of a row, by a model that embeds both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.curate.engine.embedding import embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.rows import Ints, OrderedRows
from diptych.curate.engine.verdicts import BLOCK, ColumnByUid
from diptych.data.ragged import one_chunk
from diptych.data.text.captions.variants import SIMILARITY, VARIANTS
from diptych.index.embed import text_blocks


def agreements(rows: OrderedRows, address: str, variants: pa.Table | None, parts: PartStore) -> Mapping[str, Any]:
    """Cosines of the image with each text of its row, then with each of its `variants`, in their order, by uid. A row whose image is
    missing or cannot be read has none, and so has one without a text."""
    model = open_embedder(address)
    embeddings = embed_pool(rows.data, model, parts)
    at_N = rows.positions(embeddings.uids)
    count_N, strings = _texts(rows, at_N, variants)
    if not len(strings):
        return {}
    owner_R = np.repeat(np.arange(len(at_N)), count_N)
    cosine_R = np.zeros(len(owner_R))
    for row_B, number_B, vector_BD in text_blocks(model, strings, lambda row: embeddings.uids[int(owner_R[row])]):
        for row, number in zip(row_B.tolist(), number_B.tolist(), strict=True):
            cosine_R[row] = float(embeddings.vector_ND[owner_R[row]] @ vector_BD[number])
    some_N = count_N > 0
    end_K = pa.array(np.concatenate([[0], np.cumsum(count_N[some_N])]), pa.int32())
    lists = pa.ListArray.from_arrays(end_K, pa.array(cosine_R))
    return ColumnByUid(pa.table({"uid": rows.uids.take(pa.array(at_N[some_N])), SIMILARITY: lists}))


def _texts(rows: OrderedRows, at_N: Ints, variants: pa.Table | None) -> tuple[Ints, pa.Array]:
    """Number of texts of the samples at some positions, [N], and the texts."""
    index = None if variants is None else pc.index_in(rows.uids.take(pa.array(at_N)), value_set=one_chunk(variants["uid"]))
    counts, blocks = [np.zeros(0, np.int64)], [pa.array([], pa.large_string())]
    for start in range(0, len(at_N), BLOCK):
        samples = list(rows.samples(at_N[start : start + BLOCK]))
        more: list[Any] = [None] * len(samples)
        if variants is not None and index is not None:
            more = variants[VARIANTS].take(index.slice(start, BLOCK)).to_pylist()
        lists = [
            [*(text.string for text in sample.texts), *(one["string"] for one in some or ())]
            for sample, some in zip(samples, more, strict=True)
        ]
        counts.append(np.array([len(some) for some in lists], np.int64))
        blocks.append(pa.array([text for some in lists for text in some], pa.large_string()))
    return np.concatenate(counts), pa.concat_arrays(blocks)
