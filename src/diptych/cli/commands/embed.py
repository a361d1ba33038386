"""``diptych embed MODEL DATA OUT``: image embeddings that curation and indexes read, by one process or by several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, finish, parse


@dataclass(frozen=True)
class EmbedArgs:
    model: Annotated[Positional[str], arg(metavar="MODEL", help="any model that embeds images")]
    data: Annotated[Positional[str], arg(metavar="DATA", help="any readable data")]
    out: Annotated[
        Positional[Path], arg(metavar="OUT", help="folder of embeddings; it may contain those of other models and data")
    ]
    engine: Annotated[Literal["local", "ray"], arg(help="engine: processes of this machine, or a Ray cluster")] = "local"
    workers: Annotated[int, arg(help="number of Ray actors; 0: one per GPU of the cluster, or per core without GPUs")] = 0
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(
        EmbedArgs,
        argv,
        "embed",
        "Image embeddings, computed once, for curation and search. Several processes share it under torchrun.",
    )
    from diptych.curate.engine.embedding_workers import embed_images
    from diptych.data.lineage.record import add_lineage, made_now

    start = time.perf_counter()
    report = embed_images(args.model, args.data, args.out, engine=args.engine, workers=args.workers, device=args.device)
    if report is None:  # the first of several processes says it
        return 0
    seconds, unreadable = time.perf_counter() - start, report.unreadable
    here = Path(args.data).expanduser()
    source = str(here.resolve()) if here.exists() else args.data
    config = {"model": args.model, "folder": report.folder.name}
    add_lineage(args.out, made_now("embed", source, config=config, samples=report.samples, rows=report.rows), source)
    lines = [
        f"{report.computed:,} pictures of {report.samples:,} samples embedded in {seconds:.1f} s; "
        f"{report.rows:,} are in {report.folder}"
    ]
    lines += [f"! {uid} cannot be read: {reason}" for uid, reason in list(unreadable.items())[:5]]
    lines += [f"! and {len(unreadable) - 5:,} more" for _ in range(len(unreadable) > 5)]
    facts = {
        "samples": report.samples,
        "computed": report.computed,
        "rows": report.rows,
        "unreadable": len(unreadable),
        "seconds": seconds,
        "out": str(report.folder),
    }
    return finish(facts, lines, args.json)
