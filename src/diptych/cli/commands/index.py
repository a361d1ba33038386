"""``diptych index build MODEL DATA OUT | add | remove | judge | tune | info | verify | compact | move | export``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, existing_file, finish, listed, parse
from diptych.cli.options.subcommands import dispatch
from diptych.core.errors import ConfigError

JSON = Annotated[bool, arg(help="print one JSON object")]
UNSET = -1


@dataclass(frozen=True)
class IndexBuildArgs:
    model: Annotated[
        Positional[str],
        arg(metavar="MODEL", help="a model; 'words' (lexical index of texts); 'annotations' (graphs of the data)"),
    ]
    data: Annotated[Positional[str], arg(metavar="DATA")]
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    split: Annotated[str, arg(help="only this split")] = ""
    what: Annotated[
        Literal["images", "texts", "clouds"], arg(help="kind of the items to index; clouds need a model such as ulip")
    ] = "images"
    kind: Annotated[
        str, arg(metavar="KIND", help="dense, nested, lexical, late, hybrid, graphs, or a kind of an installed plug-in")
    ] = "dense"
    set: Annotated[tuple[str, ...], arg(metavar="FIELD=VALUE", help="options of a plug-in's kind")] = ()
    prefix: Annotated[int, arg(help="nested: dimensions of the vector that the first search uses (16)")] = UNSET
    order: Annotated[
        Literal["", "given", "principal"], arg(help="nested: prefix of the vectors themselves, or of their principal components")
    ] = ""
    shortlist: Annotated[int, arg(help="nested, late: number of items that the second stage reranks (200)")] = UNSET
    funnel: Annotated[
        str, arg(help="nested: several stages, each WIDTH:SHORTLIST, instead of prefix and shortlist: 8:200,16:100,32:50")
    ] = ""
    query_terms: Annotated[int, arg(help="lexical: number of query terms to use, those with the highest weights (0: all)")] = (
        UNSET
    )
    item_terms: Annotated[
        int, arg(help="lexical: number of terms to store per item, those with the highest weights (0: all)")
    ] = UNSET
    fusion: Annotated[Literal["", "rrf", "weighted"], arg(help="hybrid: reciprocal ranks (the default) or weighted scores")] = ""
    lexical: Annotated[float, arg(help="hybrid: weight of the lexical score; the vector score has 1 minus this (0.5)")] = UNSET
    fields: Annotated[
        str, arg(help="hybrid, or lexical with words: columns whose words are searched, too, separated by commas")
    ] = ""
    rerank: Annotated[int, arg(help="hybrid: number of top items to rerank by their vectors (0)")] = UNSET
    objects: Annotated[str, arg(help="graphs: objects to detect, separated by commas (those of training)")] = ""
    relations: Annotated[str, arg(help="graphs: relations to detect, separated by commas (those of training)")] = ""
    min_confidence: Annotated[float, arg(help="graphs: minimum confidence of stored triplets (0.05)")] = UNSET
    url: Annotated[str, arg(help="Qdrant server that holds the vectors, such as http://localhost:6333")] = ""
    image: Annotated[str, arg(help="column of the image, if it does not have a usual name")] = ""
    text: Annotated[tuple[str, ...], arg(help="column or columns of texts")] = ()
    media: Annotated[tuple[str, ...], arg(help="other media: a column or a file extension, and its kind, as points=cloud")] = ()
    delimiter: Annotated[str, arg(help="delimiter of a .csv")] = ""
    encoding: Annotated[str, arg(help="encoding of a .csv that is not UTF-8, such as gb18030")] = ""
    inside: Annotated[str, arg(help="allow only files below this folder; 'own' is the folder of the data; default: any file")] = (
        ""
    )
    embeddings: Annotated[str, arg(metavar="FOLDER", help="folder of `diptych embed` with the embeddings to use")] = ""
    overwrite: Annotated[bool, arg(help="replace an existing index")] = False
    download: Annotated[bool, arg(help="allow downloading a model")] = False
    device: DEVICE = "auto"
    json: JSON = False

    def options(self) -> dict[str, Any]:
        """Options of the index kind that were set on the command line; a kind raises an error for those it lacks."""
        names = (
            "prefix",
            "order",
            "shortlist",
            "funnel",
            "query_terms",
            "item_terms",
            "fusion",
            "lexical",
            "rerank",
            "min_confidence",
        )
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        given |= {name: listed(getattr(self, name)) for name in ("fields", "objects", "relations")}
        from diptych.core.terminal.spelling import options

        return {**{name: value for name, value in given.items() if value not in (UNSET, "", ())}, **options(self.set)}


@dataclass(frozen=True)
class IndexAddArgs:
    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    data: Annotated[Positional[str], arg(metavar="DATA")]
    split: Annotated[str, arg(help="only this split")] = ""
    existing: Annotated[Literal["replace", "skip"], arg(help="samples with an existing uid: embed again, or skip")] = "replace"
    model: Annotated[str, arg(help="the model, if it moved since the index was built")] = ""
    device: DEVICE = "auto"
    json: JSON = False


@dataclass(frozen=True)
class IndexRemoveArgs:
    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    uids: Annotated[Positional[tuple[str, ...]], arg(metavar="UID", help="uids of the samples to remove")] = ()
    file: Annotated[Path | None, arg(help="file of further uids, one per line")] = None
    json: JSON = False


@dataclass(frozen=True)
class IndexJudgeArgs:
    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    queries: Annotated[Positional[Path], arg(metavar="QUERIES", help="a CSV file with query, uid and grade")]
    k: Annotated[int, arg(help="number of top hits to score")] = 10
    model: Annotated[str, arg(help="the model, if it moved since the index was built")] = ""
    device: DEVICE = "auto"
    json: JSON = False


@dataclass(frozen=True)
class IndexTuneArgs(IndexJudgeArgs):
    seed: Annotated[int, arg(help="seed of the split of the queries into halves")] = 0
    apply: Annotated[bool, arg(help="write the chosen settings into the index")] = False


@dataclass(frozen=True)
class IndexInfoArgs:
    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    json: JSON = False


@dataclass(frozen=True)
class IndexVerifyArgs:
    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    json: JSON = False


@dataclass(frozen=True)
class IndexCompactArgs:
    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    json: JSON = False


@dataclass(frozen=True)
class IndexMoveArgs:
    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    url: Annotated[str, arg(help="Qdrant server to move the vectors to; default: back into the folder")] = ""
    json: JSON = False


@dataclass(frozen=True)
class IndexExportArgs:
    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    out: Annotated[Positional[Path], arg(metavar="OUT", help="a .parquet file, or a .txt file for only the uids")]
    vectors: Annotated[bool, arg(help="include vectors (--vectors False for only the columns)")] = True
    json: JSON = False


def main(argv: Sequence[str]) -> int:
    subs = {
        "build": (_build, "embed data and make it searchable"),
        "add": (_add, "more data, embedded by the same model"),
        "remove": (_remove, "take samples down by uid"),
        "judge": (_judge, "nDCG and recall on judged queries, with intervals and the queries that fail"),
        "tune": (_tune, "the settings of a hybrid index, chosen on half of the judged queries"),
        "info": (_info, "what an index holds"),
        "verify": (_verify, "whether every item is what was written, by checksums"),
        "compact": (_compact, "write it anew, without what was removed"),
        "move": (_move, "to a Qdrant server, or back"),
        "export": (_export, "items to Parquet, or uids to a text file"),
    }
    return dispatch("index", subs, argv)


def _build(argv: Sequence[str]) -> int:
    args = parse(
        IndexBuildArgs, argv, "index build", "Embed data and make it searchable. A build that was stopped goes on where it was."
    )
    from diptych.api import index, read
    from diptych.cli.commands.data import given_columns
    from diptych.core.registry import INDEXES

    INDEXES.find(args.kind)  # before data and model are opened
    columns = given_columns(args, ("image", "text", "media", "delimiter", "encoding", "inside"))
    data = read(args.data, split=args.split, captions=False, **columns) if args.split or columns else args.data
    begun = time.monotonic()
    options: dict[str, Any] = {"kind": args.kind, "what": args.what, "overwrite": args.overwrite, "url": args.url}
    options |= {"download": args.download, "embeddings": args.embeddings}
    with index(args.model, data, args.out, **options, **args.options()) as made:
        count, unreadable = len(made), made.info.unreadable
    seconds = time.monotonic() - begun
    lines = [f"{args.out}: {count:,} items"]
    if unreadable:
        lines.append(f"{len(unreadable):,} could not be read; the first, {unreadable[0].uid}: {unreadable[0].reason}")
    facts = {"index": str(args.out), "count": count, "unreadable": len(unreadable), "seconds": round(seconds, 2)}
    return finish(facts, lines, args.json)


def _add(argv: Sequence[str]) -> int:
    args = parse(IndexAddArgs, argv, "index add", "Add data to an index.")
    from diptych.api import open_index, read

    source = str(Path(args.data).absolute()) if Path(args.data).exists() else args.data
    with open_index(args.index, model=args.model) as opened:
        data = read(args.data, split=args.split, captions=False)
        added, count = opened.add(data, existing=args.existing, source=source), len(opened)
        refused = list(opened.refused)
    lines = [f"{added:,} added, {count:,} items now"]
    if refused:
        lines.append(f"{len(refused):,} were taken down and are not taken in again, such as {refused[0]}")
    facts = {"added": added, "count": count} | ({"refused": refused} if refused else {})
    return finish(facts, lines, args.json)


def _remove(argv: Sequence[str]) -> int:
    args = parse(IndexRemoveArgs, argv, "index remove", "Take samples down.")
    from diptych.index.kinds import open_index

    uids = [*args.uids, *(_lines(args.file) if args.file else ())]
    if not uids:
        raise ConfigError("no uid is given (expected uids, or --file with one per line)")
    with open_index(args.index) as opened:
        removed, count = opened.remove(uids), len(opened)
    return finish({"removed": removed, "count": count}, [f"{removed:,} removed, {count:,} items left"], args.json)


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in existing_file(file).read_text(encoding="utf-8").splitlines() if line.strip()]


def _judge(argv: Sequence[str]) -> int:
    args = parse(IndexJudgeArgs, argv, "index judge", "Search quality on queries whose answers people have judged.")
    from diptych.api import open_index
    from diptych.index.judging import judge, read_judgements

    judged = read_judgements(args.queries)
    with open_index(args.index, model=args.model) as opened:
        made = judge(opened, judged, k=args.k)
    lines = [one.line() for one in made]
    lines += [f"  nothing relevant: {query}" for query in made[0].failed[:20]]
    return finish({"searches": [one.to_json() for one in made]}, lines, args.json)


def _tune(argv: Sequence[str]) -> int:
    args = parse(IndexTuneArgs, argv, "index tune", "Choose the settings of a hybrid index on judged queries.")
    from diptych.api import open_index
    from diptych.index.judging import apply_settings, read_judgements, tune

    judged = read_judgements(args.queries)
    with open_index(args.index, model=args.model) as opened:
        made = tune(opened, judged, k=args.k, seed=args.seed)
        if args.apply:
            apply_settings(opened, made.options)
    lines = [
        *made.lines(),
        "written into the index" if args.apply else "nothing was changed (--apply True writes it into the index)",
    ]
    return finish(asdict(made), lines, args.json)


def _info(argv: Sequence[str]) -> int:
    args = parse(IndexInfoArgs, argv, "index info", "What an index holds.")
    from diptych.index.kinds import open_index

    with open_index(args.index) as opened:
        info = asdict(opened.info)
    return finish(info, [f"{name:<12}{value}" for name, value in info.items()], args.json)


def _verify(argv: Sequence[str]) -> int:
    args = parse(IndexVerifyArgs, argv, "index verify", "Check every item of an index against the checksum written with it.")
    from diptych.index.kinds import open_index
    from diptych.index.verify import verify_index

    with open_index(args.index) as opened:
        report = verify_index(opened)
    finish(report.to_json(), report.lines(), args.json)
    return report.exit_code


def _compact(argv: Sequence[str]) -> int:
    args = parse(
        IndexCompactArgs, argv, "index compact", "Write an index anew, so that nothing of removed samples stays on disk."
    )
    from diptych.index.kinds import open_index

    with open_index(args.index) as opened:
        saved = opened.compact()
        size = opened.info.bytes
    return finish({"saved": saved, "bytes": size}, [f"{size:,} bytes, {saved:,} fewer than before"], args.json)


def _move(argv: Sequence[str]) -> int:
    args = parse(IndexMoveArgs, argv, "index move", "Bring the vectors of an index to a Qdrant server, or back into its folder.")
    from diptych.index.kinds import open_index

    with open_index(args.index) as opened:
        opened.move(args.url)
        count = len(opened)
    address = args.url or str(args.index)
    return finish({"place": address, "count": count}, [f"{count:,} items are at {address} now"], args.json)


def _export(argv: Sequence[str]) -> int:
    args = parse(IndexExportArgs, argv, "index export", "Write the items of an index to a file.")
    from diptych.index.kinds import open_index

    with open_index(args.index) as opened:
        rows = opened.export(args.out, vectors=args.vectors)
    return finish({"out": str(args.out), "rows": rows}, [f"{args.out}: {rows:,} rows"], args.json)
