"""``diptych embed MODEL DATA OUT``: image embeddings that curation and indexes read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, finish, parse


@dataclass(frozen=True)
class EmbedArgs:
    model: Annotated[Positional[str], arg(metavar="MODEL", help="any model that embeds images")]
    data: Annotated[Positional[str], arg(metavar="DATA", help="any readable data")]
    out: Annotated[Positional[Path], arg(metavar="OUT", help="folder of embeddings; may hold those of other models and data")]
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(EmbedArgs, argv, "embed", "Image embeddings, computed once, for curation and search.")
    from diptych.curate.engine.embedding import open_embedder
    from diptych.curate.engine.sources import open_pool
    from diptych.index.embedding_table import EmbeddingTable

    model, data = open_embedder(args.model), open_pool(args.data)
    table = EmbeddingTable(args.out, model)
    start = time.perf_counter()
    computed, unreadable = table.fill(data)
    seconds = time.perf_counter() - start
    lines = [f"{computed:,} pictures of {len(data):,} samples embedded in {seconds:.1f} s; {len(table):,} are in {table.folder}"]
    lines += [f"! {uid} cannot be read: {reason}" for uid, reason in list(unreadable.items())[:5]]
    lines += [f"! and {len(unreadable) - 5:,} more" for _ in range(len(unreadable) > 5)]
    facts = {
        "samples": len(data),
        "computed": computed,
        "rows": len(table),
        "unreadable": len(unreadable),
        "seconds": seconds,
        "out": str(table.folder),
    }
    return finish(facts, lines, args.json)
