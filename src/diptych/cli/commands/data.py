"""``diptych data build | add | compact | inspect | verify | split | export | links | download | why | card | takedown | fetch``."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from diptych.cli.commands import data_lineage, data_web
from diptych.cli.options.output import finish, parse, say
from diptych.cli.options.subcommands import dispatch
from diptych.core.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from diptych.data.dataset import Pool

JSON = Annotated[bool, arg(help="print one JSON object")]


@dataclass(frozen=True)
class ColumnArgs:
    """Names of the columns that hold images, texts and other fields; needed only where they are not the usual ones."""

    image: Annotated[str, arg(help="column of the image: a path or bytes")] = ""
    text: Annotated[tuple[str, ...], arg(help="column or columns of texts")] = ()
    media: Annotated[tuple[str, ...], arg(help="other media: a column or a file extension, and its kind, as npy=volume")] = ()
    uid: str = ""
    group: Annotated[str, arg(help="column of the unit that must stay in one split, such as the patient")] = ""
    split: str = ""
    licence: str = ""
    language: Annotated[str, arg(help="a column, or a code such as en")] = ""
    root: Annotated[str, arg(help="folder of the images, if they are not beside the data")] = ""
    delimiter: Annotated[str, arg(help="delimiter of a .csv: ',', ';', tab or '|'; default: detected from its header")] = ""
    encoding: Annotated[str, arg(help="encoding of a .csv or .tsv that is not UTF-8, such as gb18030")] = ""
    format: Annotated[str, arg(help="format of scene graphs, if it is not recognised: see `diptych data export`")] = ""
    follow_links: Annotated[bool, arg(help="follow symbolic links out of the folder")] = False
    inside: Annotated[str, arg(help="allow only files below this folder; 'own' is the folder of the data; default: any file")] = (
        ""
    )
    longest_text: Annotated[
        int, arg(help="maximum number of bytes of a text; longer texts are left out; 0: the default limit of one MiB")
    ] = 0
    most_columns: Annotated[
        int, arg(help="maximum number of columns of a table of JSON objects; 0: the default limit of 1,000")
    ] = 0
    unpacked_bytes: Annotated[
        int, arg(help="maximum number of bytes of a Parquet table in memory; 0: the default limit of one GiB")
    ] = 0

    def given(self) -> dict[str, Any]:
        return given_columns(self)


def given_columns(args: Any, names: Container[str] | None = None) -> dict[str, Any]:
    """Column options of a command as keyword arguments of `read`. names: those options of `ColumnArgs` that the command has; None:
    all.
    """
    own = [f.name for f in fields(ColumnArgs) if names is None or f.name in names]
    given = {name: getattr(args, name) for name in own if getattr(args, name)}
    if "media" in given:
        pairs = [one.partition("=") for one in given["media"]]
        if wrong := next(("".join(pair) for pair in pairs if not (pair[0] and pair[2])), ""):
            raise ConfigError(f"--media {wrong} does not name a kind (expected COLUMN=KIND or ENDING=KIND, as npy=volume)")
        given["media"] = {name: kind for name, _, kind in pairs}
    return given


@dataclass(frozen=True)
class DataBuildArgs(ColumnArgs):
    source: Positional[str] = ""
    out: Positional[Path] = Path()
    shard_samples: Annotated[int, arg(help="samples per tar shard")] = 10_000
    overwrite: Annotated[bool, arg(help="replace an existing data set")] = False
    blur: Annotated[
        str, arg(metavar="COLUMN", help="column of boxes to blur, such as the face_bboxes of `curate face_boxes`")
    ] = ""
    json: JSON = False


@dataclass(frozen=True)
class DataAddArgs(ColumnArgs):
    folder: Annotated[Positional[Path], arg(help="a folder of `data build`")] = Path()
    source: Annotated[Positional[str], arg(help="the data to add, in any readable format")] = ""
    duplicates: Annotated[Literal["skip", "keep"], arg(help="samples whose picture exists under another uid")] = "skip"
    shard_samples: Annotated[int, arg(help="samples per tar shard")] = 10_000
    json: JSON = False


@dataclass(frozen=True)
class DataCompactArgs:
    folder: Positional[Path]
    json: JSON = False


@dataclass(frozen=True)
class DataInspectArgs(ColumnArgs):
    source: Positional[str] = ""
    batch_size: Annotated[int, arg(help="batch size for the expected false negatives and the loss at chance")] = 256
    tokenizer: Annotated[str, arg(help="clip, or a tokenizer.json: used to count texts that are too long; '' skips this")] = (
        "clip"
    )
    text_length: Annotated[int, arg(help="maximum number of tokens of a model")] = 77
    look_at: Annotated[int, arg(help="number of images to decode in full")] = 200
    look_up: Annotated[bool, arg(help="also print the nearest-neighbour baseline, beside chance, for held-out splits")] = True
    page: Annotated[Path | None, arg(help="also write the report as a page with pictures")] = None
    json: JSON = False


@dataclass(frozen=True)
class DataVerifyArgs:
    folder: Positional[Path]
    json: JSON = False


@dataclass(frozen=True)
class DataSplitArgs:
    folder: Positional[Path]
    shares: Annotated[str, arg(help="shares of the splits, such as train=0.8,val=0.1,test=0.1")] = "train=0.8,val=0.1,test=0.1"
    hold_out: Annotated[
        tuple[str, ...],
        arg(
            metavar="COLUMN=VALUE",
            help="families to hold out, crossed with concepts (groups), in place of shares: vendor=phosphor",
        ),
    ] = ()
    concepts: Annotated[float, arg(help="with --hold-out: share of the groups that is held out as well")] = 0.15
    seed: int = 0
    json: JSON = False


@dataclass(frozen=True)
class DataExportArgs:
    source: Positional[str] = ""
    out: Positional[Path] = Path()
    format: Annotated[
        str,
        arg(
            help="csv | parquet | datasets | img2dataset (every column); or of scene graphs: visual-genome | rlipv2 | hico-det | "
            "hico-det-pairs | v-coco | v-coco-hoia | vg150 | coco | psg | open-images | open-images-csv"
        ),
    ] = "coco"
    split: Annotated[str, arg(help="only this split")] = ""
    no_images: Annotated[bool, arg(help="write only the annotations")] = False
    json: JSON = False


@dataclass(frozen=True)
class DataMapArgs:
    folder: Annotated[Positional[Path], arg(metavar="DIR", help="a folder that `diptych data build` made")]
    json: JSON = False


@dataclass(frozen=True)
class DataFetchArgs:
    name: Annotated[Positional[str], arg(help="openclipart (clipart) | stamps | geography | icons")]
    out: Annotated[Path, arg(help="output folder")] = Path()
    json: JSON = False


def main(argv: Sequence[str]) -> int:
    subs = {
        "build": (_build, "any readable source into tar shards, a manifest and tables"),
        "add": (_add, "more samples into a built folder; duplicates of what is there are left out"),
        "compact": (_compact, "write what a service added, corrected and removed into the shards"),
        "inspect": (_inspect, "what is in the data and what will go wrong in training"),
        "verify": (_verify, "every byte of a built folder against its hash"),
        "map": (_map, "columns of a built folder as memory-mapped files, so that millions of rows open at once"),
        "split": (_split, "train, val and test by group, into a built folder"),
        "export": (
            _export,
            "columns as CSV, Parquet, datasets or tars; regions and relations as HICO-DET, Visual Genome, PSG, ...",
        ),
        "links": (data_web.links, "images with alternative texts out of web archives (WARC, WAT), as a table of links"),
        "download": (data_web.download, "the images of a table of links; opt-outs are honoured, failures can be tried again"),
        "why": (data_lineage.why, "the whole life of a row: where it came from, what each step said of it, why it is gone"),
        "card": (data_lineage.card, "a data card and Croissant metadata of a folder: counts, licences, sources, steps"),
        "takedown": (data_web.takedown, "samples out of tars, manifest, tables and indexes, for good"),
        "fetch": (_fetch, "larger real sets out of packages: openclipart, stamps, geography, icons"),
    }
    return dispatch("data", subs, argv)


def _build(argv: Sequence[str]) -> int:
    args = parse(DataBuildArgs, argv, "data build", "Write data of any readable form as shards, manifest and tables.")
    if not args.source or args.out == Path():
        raise ConfigError("source and output folder are missing: diptych data build SRC OUT")
    from diptych.data.shards.build import build
    from diptych.data.shards.mark import words_of

    command = words_of("diptych", "data", "build", *(word for word in argv if word != "--json"))
    options: dict[str, Any] = {"shard_samples": args.shard_samples, "overwrite": args.overwrite, "blur": args.blur}
    pool = _pool(args)
    report = build(pool, args.out, **options, progress=True, command=command, source=_address(args.source))
    return finish(report.to_json(), report.lines(), args.json)


def _address(source: str) -> str:
    """Address of a source for the lineage: whole, where it lies on this machine."""
    here = Path(source).expanduser()
    return str(here.resolve()) if "://" not in source and here.exists() else source


def _add(argv: Sequence[str]) -> int:
    args = parse(
        DataAddArgs, argv, "data add", "Add samples to a built folder. An addition that was stopped goes on where it was."
    )
    if not args.source or args.folder == Path():
        raise ConfigError("built folder and source are missing: diptych data add BUILT MORE")
    from diptych.data.lineage.record import add_lineage, made_now
    from diptych.data.shards.append import add

    pool, address = _pool(args), _address(args.source)
    report = add(args.folder, pool, duplicates=args.duplicates, shard_samples=args.shard_samples, progress=True)
    step = made_now("data add", address, fingerprint=pool.fingerprint, added=report.samples, samples=report.count)
    add_lineage(args.folder, step, address)
    return finish(report.to_json(), report.lines(), args.json)


def _compact(argv: Sequence[str]) -> int:
    args = parse(
        DataCompactArgs, argv, "data compact", "Write a built folder anew, so that nothing of removed items stays on disk."
    )
    from diptych.data.shards.takedown import compact

    count, rewritten = compact(args.folder)
    facts = {"samples": count, "shards": rewritten}
    return finish(facts, [f"{args.folder}: {count:,} samples, {rewritten} shards written anew"], args.json)


def _inspect(argv: Sequence[str]) -> int:
    args = parse(DataInspectArgs, argv, "data inspect", "The report that training prints before its first step.")
    if not args.source:
        raise ConfigError("no data are given: diptych data inspect DIR")
    from diptych.curate.text.language import read_languages
    from diptych.data.inspect import inspect
    from diptych.data.text.tokenize import Tokenizer

    pool = _pool(args)
    words = Tokenizer.from_spec(args.tokenizer) if args.tokenizer else None
    length = args.text_length if args.tokenizer else 0
    tagger = read_languages if find_spec("py3langid") else None  # in the extra curate; else only stated languages are counted
    folder = Path(args.source).expanduser()
    report = inspect(
        pool,
        tokenizer=words,
        text_length=length,
        batch_size=args.batch_size,
        look_at=args.look_at,
        read_language=tagger,
        folder=folder if folder.is_dir() else None,
    )
    if args.look_up:
        from diptych.tasks.pairs.look_up import look_up_scores

        report.look_up = [str(score) for score in look_up_scores(pool)]
    lines = report.lines()
    if args.page is not None:
        from diptych.core.disk.files import write_atomic
        from diptych.report.pages.inspection import inspection_page

        write_atomic(args.page, inspection_page(pool, report))
        lines.append(f"page: {args.page}")
    return finish(report.to_json(), lines, args.json)


def _pool(args: DataBuildArgs | DataAddArgs | DataInspectArgs) -> Pool:
    """The source as a pool of samples; a rendered world is rendered in full."""
    from diptych.api import read
    from diptych.data.dataset import Pool

    data = read(args.source, **args.given())
    return data if isinstance(data, Pool) else Pool.from_samples((data[row] for row in range(len(data))), name=data.name)


def _map(argv: Sequence[str]) -> int:
    args = parse(
        DataMapArgs, argv, "data map", "Write the columns of a built folder as memory-mapped files. Again after a change."
    )
    from diptych.data.mapped import write_mapped
    from diptych.data.shards.build import open_built

    pool = open_built(args.folder)
    made = write_mapped(pool, args.folder)
    size = sum(path.stat().st_size for path in made.iterdir())
    return finish(
        {"rows": len(pool), "bytes": size, "out": str(made)}, [f"{made}: {len(pool):,} rows, {size:,} bytes"], args.json
    )


def _verify(argv: Sequence[str]) -> int:
    args = parse(
        DataVerifyArgs, argv, "data verify", "Check every byte; what fails goes to the quarantine and is not read again."
    )
    from diptych.data.shards.verify import verify

    report = verify(args.folder)
    finish(report.to_json(), report.lines(), args.json)
    return report.exit_code


def _split(argv: Sequence[str]) -> int:
    args = parse(DataSplitArgs, argv, "data split", "Deal groups to splits; the same seed gives the same splits.")
    from diptych.data.columns import MadeBy
    from diptych.data.lineage.record import add_lineage, made_now
    from diptych.data.shards.build import open_built
    from diptych.data.split import LeakReport, leak_of_row_split, leaks, save_split, split

    if args.hold_out:
        from diptych.data.hold_out import conditions_of, hold_out

        families = conditions_of(args.hold_out)
        pool = hold_out(open_built(args.folder), families, concepts=args.concepts, seed=args.seed)
        made_by = MadeBy("hold_out", {"families": families, "concepts": args.concepts, "seed": args.seed})
        report = leaks(pool)
        report = LeakReport(tuple(leak for leak in report.leaks if leak.kind == "image"), tuple(set(report.checked) & {"image"}))
    else:
        shares = _shares(args.shares)
        pool = split(open_built(args.folder), shares, seed=args.seed)
        made_by = MadeBy("split", {"shares": shares, "seed": args.seed})
        report = leaks(pool)
    save_split(args.folder, pool, made_by)
    counts = {name: pool.column("split").count(name) for name in pool.split_names}
    step = made_now("data split", "", config={"by": made_by.step, **made_by.config})
    add_lineage(args.folder, replace(step, counts=counts))
    lines = [f"{name}: {count:,} samples" for name, count in counts.items()]
    lines += report.lines() if report.checked else []
    if leak := leak_of_row_split(pool.groups, seed=args.seed):
        lines.append(f"dealt row by row, {leak:.1%} of the test rows would share their group with a training row")
    return finish({"splits": counts, "leaks": report.to_json(), "leak_of_row_split": leak}, lines, args.json)


def _export(argv: Sequence[str]) -> int:
    args = parse(
        DataExportArgs,
        argv,
        "data export",
        "Write every column as a table, tars or a data set, or scene graphs in a published form.",
    )
    if not args.source or args.out == Path():
        raise ConfigError("source and output folder are missing: diptych data export SRC OUT --format NAME")
    from diptych.api import read
    from diptych.data.dataset import Pool
    from diptych.data.export import FORMS, export_pool
    from diptych.data.graphs import FORMATS, write

    if args.format not in (*FORMS, *FORMATS):
        raise UnknownName("format", args.format, (*FORMS, *FORMATS))
    data = read(args.source, split=args.split)
    if args.format in FORMS:
        pool = data if isinstance(data, Pool) else data.to_pool()
        count = export_pool(pool, args.out, args.format, images=not args.no_images, source=_address(args.source))
        payload = {"out": str(args.out), "format": args.format, "samples": count}
        return finish(payload, [f"{args.out}: {count:,} samples as {args.format}"], args.json)
    samples = (data[row] for row in range(len(data)))
    written = write(samples, args.out, format=args.format, images=not args.no_images)
    payload = {"out": str(args.out), "format": written.format, "samples": written.samples}
    return finish({**payload, "files": [str(file) for file in written.files]}, written.lines(), args.json)


def _shares(text: str) -> dict[str, float]:
    try:
        return {name.strip(): float(value) for name, value in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise ConfigError(f"--shares is {text!r} (expected NAME=SHARE,NAME=SHARE such as train=0.9,test=0.1)") from None


def _fetch(argv: Sequence[str]) -> int:
    args = parse(
        DataFetchArgs,
        argv,
        "data fetch",
        "Build a larger real set out of packages: of Debian (downloaded, not installed) or, for icons, of Python.",
    )
    from diptych.data.web.fetch import fetch

    out = args.out if args.out != Path() else Path("data") / args.name
    pool = fetch(args.name, out)
    say(f"{len(pool.quarantine)} files were left out; the reasons are in {out}/quarantine.parquet")
    return finish({"out": str(out), "samples": len(pool)}, [f"{out}: {len(pool):,} samples"], args.json)
