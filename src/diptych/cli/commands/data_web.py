"""``diptych data links | download | takedown``: pairs from the web, and their removal on request."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.output import finish, parse
from diptych.core.errors import ConfigError


@dataclass(frozen=True)
class LinksArgs:
    source: Annotated[Positional[Path], arg(help="a WARC or WAT file, or a folder of them")]
    out: Annotated[Positional[Path], arg(help="folder of the table")]
    json: Annotated[bool, arg(help="print one JSON object")] = False


@dataclass(frozen=True)
class DownloadArgs:
    source: Annotated[
        Positional[Path], arg(help="links: Parquet with url and text, or the folder that `data links` or `curate` wrote")
    ]
    out: Annotated[Positional[Path], arg(help="folder of the shards")]
    size: Annotated[int, arg(help="side of a stored picture in pixels")] = 256
    resize: Annotated[Literal["border", "keep_ratio", "keep_ratio_largest", "center_crop", "no"], arg(help="resizing mode")] = (
        "border"
    )
    encode: Annotated[Literal["jpg", "webp", "png"], arg(help="format of the stored pictures")] = "jpg"
    quality: Annotated[int, arg(help="quality of JPEG and WebP")] = 95
    only_if_bigger: Annotated[bool, arg(help="only resize images that are larger")] = False
    filters: Annotated[Literal["opencv", "pil"], arg(help="resampling: as published, or faster")] = "opencv"
    min_side: Annotated[int, arg(help="skip images with a smaller side; 0 is off")] = 0
    max_area: Annotated[int, arg(help="skip images with more pixels; 0 is off")] = 0
    max_aspect: Annotated[float, arg(help="skip images with a larger ratio of long to short side; 0 is off")] = 0.0
    shard_links: Annotated[int, arg(help="links per shard")] = 10_000
    threads: Annotated[int, arg(help="number of parallel requests")] = 64
    processes: Annotated[int, arg(help="additional processes that decode and resize pictures; 0: the download threads do it")] = 0
    engine: Annotated[
        Literal["local", "ray"], arg(help="engine for decoding and resizing: this machine, or tasks of a Ray cluster")
    ] = "local"
    blur: Annotated[
        str,
        arg(metavar="COLUMN", help="blur the boxes of this column, such as faces: lists of [left, top, right, bottom] in 0..1"),
    ] = ""
    memory: Annotated[int, arg(help="MiB of memory for decoding pictures, per process")] = 1024
    retries: Annotated[int, arg(help="immediate retries per link")] = 0
    timeout: Annotated[float, arg(help="seconds for a link as a whole, redirects included")] = 10.0
    robots: Annotated[bool, arg(help="respect robots.txt of each site")] = True
    tdm: Annotated[bool, arg(help="respect reservations of text and data mining (TDMRep)")] = True
    per_host: Annotated[int, arg(help="parallel requests to one host")] = 4
    pause: Annotated[float, arg(help="seconds between two requests to one host; a longer Crawl-delay is respected")] = 0.0
    longest_wait: Annotated[
        float, arg(help="maximum seconds to wait after Retry-After; if it is longer, the links of the host fail")
    ] = 60.0
    opted_out: Annotated[
        Path | None,
        arg(help="file of addresses that are never requested; those that opt out are added; default: in OUT"),
    ] = None
    retry_failed: Annotated[bool, arg(help="only retry links that failed in an earlier run")] = False
    add: Annotated[bool, arg(help="add new links to a finished folder, as additional shards")] = False
    allow_private: Annotated[
        bool, arg(help="also request addresses that are not public, such as a server in your own network")
    ] = False
    json: Annotated[bool, arg(help="print one JSON object")] = False


@dataclass(frozen=True)
class TakedownArgs:
    folder: Annotated[Positional[Path], arg(help="a folder of `data build`, or of tables that `curate` wrote")]
    uids: Annotated[Positional[tuple[str, ...]], arg(help="uids of the samples to remove")] = ()
    file: Annotated[Path | None, arg(help="a file with one uid per line")] = None
    where: Annotated[
        tuple[str, ...],
        arg(metavar="COLUMN=VALUE", help="every sample that matches all of these conditions, such as group=p0412"),
    ] = ()
    sha256: Annotated[
        tuple[str, ...], arg(help="every sample whose picture or media have this hash; later additions are refused, too")
    ] = ()
    copies: Annotated[bool, arg(help="also samples with exactly the same picture or media; otherwise they are only listed")] = (
        True
    )
    reason: Annotated[str, arg(help="reason to store in the quarantine")] = "taken down"
    curated: Annotated[tuple[Path, ...], arg(help="folders of `curate` from which to remove them, too")] = ()
    embeddings: Annotated[tuple[Path, ...], arg(help="folders of `diptych embed` from which to remove them, too")] = ()
    index: Annotated[
        tuple[Path, ...], arg(help="search indexes from which to remove them, too; a service may have them open")
    ] = ()
    json: Annotated[bool, arg(help="print one JSON object")] = False


def links(argv: Sequence[str]) -> int:
    args = parse(LinksArgs, argv, "data links", "Images with alternative texts out of web archives, as a table of links.")
    from diptych.data.web.link_table import extract_links

    report = extract_links(args.source, args.out)
    facts = {
        "files": report.files,
        "found": report.pairs,
        "links": report.links,
        "left_out": len(report.bad),
        "out": str(args.out),
    }
    return finish(facts, report.lines(), args.json)


def download(argv: Sequence[str]) -> int:
    args = parse(DownloadArgs, argv, "data download", "Images of a table of links, in shards as img2dataset writes them.")
    import pyarrow as pa

    from diptych.curate.engine.sources import open_pool
    from diptych.curate.engine.verdicts import string_column
    from diptych.data.web.download import Download
    from diptych.data.web.download import download as run
    from diptych.data.web.polite_http import FetchPolicy

    pool = open_pool(args.source / "links.parquet" if (args.source / "links.parquet").is_file() else args.source)
    if "url" not in pool.column_names:
        raise ConfigError(f"{args.source} has no column of addresses (expected 'url' among {', '.join(pool.column_names)})")
    texts = string_column(sample.texts[0].string if sample.texts else "" for sample in pool)
    further = {name: pool.arrow(name) for name in pool.column_names if name not in ("uid", "url") and _travels(pool, name)}
    table = pa.table({"uid": pool.arrow("uid"), "url": pool.arrow("url"), "text": texts, **further})
    options = Download(
        args.size,
        args.resize,
        quality=args.quality,
        only_if_bigger=args.only_if_bigger,
        filters=args.filters,
        min_side=args.min_side,
        max_area=args.max_area,
        max_aspect=args.max_aspect,
        shard_links=args.shard_links,
        encode=args.encode,
        threads=args.threads,
        processes=args.processes,
        engine=args.engine,
        blur=args.blur,
        memory=args.memory,
        retries=args.retries,
        opted_out=args.opted_out,
        policy=FetchPolicy(
            timeout=args.timeout,
            robots=args.robots,
            tdm=args.tdm,
            per_host=args.per_host,
            pause=args.pause,
            longest_wait=args.longest_wait,
            allow_private=args.allow_private,
        ),
    )
    report = run(table, args.out, options, retry_failed=args.retry_failed, add=args.add, source=str(args.source.resolve()))
    facts = {
        "links": report.links,
        "succeeded": report.succeeded,
        "asked": report.tried,
        "errors": report.errors,
        "out": str(args.out),
    }
    return finish(facts, report.lines(), args.json)


def _travels(pool: Any, name: str) -> bool:
    """True if a column of links says something about them: flat values or JSON, not all of them missing."""
    if not (pool.is_flat(name) or pool.is_json(name)):
        return False
    import pyarrow as pa
    import pyarrow.compute as pc

    given = pool.arrow(name).drop_null()
    if pa.types.is_string(given.type) or pa.types.is_large_string(given.type):
        given = given.filter(pc.not_equal(given, ""))
    return len(given) > 0


def takedown(argv: Sequence[str]) -> int:
    args = parse(TakedownArgs, argv, "data takedown", "Take samples out of tars, manifest, tables and indexes, for good.")
    from diptych.cli.options.vectors_nearby import vectors_nearby
    from diptych.data.curated import is_curated
    from diptych.data.lineage.record import add_lineage, made_now
    from diptych.data.shards.takedown import TakedownReport
    from diptych.data.shards.takedown import takedown as run
    from diptych.index.embedding_table import check_has_embeddings, take_down_embeddings
    from diptych.index.kinds import open_index

    uids = [*args.uids, *(args.file.read_text(encoding="utf-8").split() if args.file else ())]
    if not uids and not args.where and not args.sha256:
        raise ConfigError("no uid is given (expected uids, --file with one per line, --where COLUMN=VALUE, or --sha256 HASH)")
    for folder in args.curated:
        if not is_curated(folder):
            raise ConfigError(f"{folder} is not an output of `diptych curate` (expected --curated FOLDER)")
    for folder in args.embeddings:
        check_has_embeddings(folder)
    with ExitStack() as stack:
        indexes = [stack.enter_context(open_index(folder)) for folder in args.index]  # before the first change
        indexed: list[int] = []
        embedded: list[int] = []

        def take_out(report: TakedownReport) -> None:
            for folder in args.curated:
                run(folder, report.uids, reason=args.reason)
            embedded.extend(take_down_embeddings(folder, report.uids, report.hashes) for folder in args.embeddings)
            indexed.extend(index.take_down(report.uids, report.hashes) for index in indexes)

        report = run(
            args.folder, uids, where=args.where, hashes=args.sha256, copies=args.copies, reason=args.reason, then=take_out
        )
    for folder in (args.folder, *args.curated):
        add_lineage(folder, made_now("data takedown", "", config={"reason": args.reason}, samples=report.samples))
    lines = report.lines()
    if args.index:
        lines.append(f"{sum(indexed):,} items are gone from {len(args.index)} indexes")
    if args.embeddings:
        lines.append(f"{sum(embedded):,} embeddings are gone from {len(args.embeddings)} folders of tables")
    named = (*args.index, *args.embeddings)
    left = vectors_nearby((args.folder, *args.curated), report.uids, report.hashes, named) if report.samples else []
    lines += [f"! vectors of them may be left, and go with {option}" for option in left]
    if report.samples and not (left or named):
        lines.append(
            "no table of embeddings and no index of them is beside the data; those elsewhere go with --embeddings and --index"
        )
    facts = {
        "asked": report.asked,
        "samples": report.samples,
        "shards": report.shards,
        "tables": report.tables,
        "copies": report.copies,
        "indexed": sum(indexed),
        "embedded": sum(embedded),
        "left": left,
    }
    return finish(facts, lines, args.json)
