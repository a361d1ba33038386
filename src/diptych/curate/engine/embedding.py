"""Image embeddings of a pool, in order of uid: from a table that outlives the step, or kept in parts until the step ends.

Models are given by address, as for `diptych.load`: a run folder, a model folder, "hf:...", "open_clip:...", "timm:...".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset, Embedder, Unit
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.verdicts import ColumnByUid, StringColumn
from diptych.data.ragged import one_chunk
from diptych.data.subset import sorted_rows
from diptych.index.embed import image_blocks
from diptych.index.embedding_table import EmbeddingTable
from diptych.models.io.open_address import open_address, require

PART_ROWS = 2_048
UNREADABLE = pa.schema([("uid", pa.string()), ("reason", pa.string())])


def open_embedder(address: str) -> Any:
    """Model that embeds; nothing is downloaded."""
    model = open_address(address)
    require(model, Embedder, who=f"the step with model {address}")
    return model


@dataclass(frozen=True, slots=True)
class ImageEmbeddings:
    """uids        rows with an image that could be read, in order
    vector_ND   their embeddings, unit-norm
    unreadable  uid -> why, of a table with the columns uid and reason
    """

    uids: Sequence[str]
    vector_ND: Unit
    unreadable: ColumnByUid


def embed_pool(data: Dataset, model: Embedder, parts: PartStore) -> ImageEmbeddings:
    """Image embeddings of a pool. Rows without an image are in neither list."""
    if parts.embeddings is not None:
        read = EmbeddingTable(parts.embeddings, model).read(data)
        bad = pa.table([[*read.unreadable], [*read.unreadable.values()]], schema=UNREADABLE)
        return ImageEmbeddings(StringColumn(read.uids), read.vector_ND, ColumnByUid(bad))
    rows = pa.table({"row": sorted_rows(data)})

    def work(part: pa.Table) -> pa.Table:
        chosen = data.select(part["row"].to_pylist())
        uids: list[str] = []
        vectors: list[Unit] = []
        wrong: dict[str, str] = {}
        for block in image_blocks(model, chosen):
            uids += [sample.uid for sample in block.samples]
            vectors += list(block.vectors_ND)
            wrong |= {one.uid: one.reason for one in block.unreadable}
        return pa.table(
            {
                "uid": pa.array([*uids, *wrong], pa.string()),
                "vector": pa.array([*(v.tolist() for v in vectors), *([None] * len(wrong))], pa.list_(pa.float32())),
                "reason": pa.array([*([""] * len(uids)), *wrong.values()], pa.string()),
            }
        )

    made = PartStore(parts.folder, parts.key, PART_ROWS).mapped(rows, f"embed-{model.fingerprint}", work)
    good = made.filter(pc.is_valid(made["vector"]))
    flat = good["vector"].combine_chunks().flatten().to_numpy()
    vector_ND = flat.reshape(good.num_rows, -1) if good.num_rows else np.zeros((0, 1), np.float32)
    bad = made.filter(pc.is_null(made["vector"])).select(["uid", "reason"]).combine_chunks()
    return ImageEmbeddings(StringColumn(one_chunk(good["uid"])), np.ascontiguousarray(vector_ND, np.float32), ColumnByUid(bad))
