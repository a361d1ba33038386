"""``diptych curate SLUG IN OUT [--plan]``, ``diptych curate --config laion2b IN OUT``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.config_file import ConfigFile, config_of, leading
from diptych.cli.options.flat import flat, select_fields
from diptych.cli.options.output import DEVICE, finish, parse
from diptych.core.disk.files import write_atomic
from diptych.core.errors import ConfigError, UnknownName
from diptych.curate.engine.chain import PUBLISHED, CurationChain, chain_file, read_chain
from diptych.data.quarantine import FILE, QuarantineEntry


@dataclass(frozen=True)
class CurateArgs:
    step: Annotated[Positional[str], arg(metavar="SLUG", help="the curation step")]
    source: Annotated[Positional[str], arg(metavar="IN", help="any readable data")]
    out: Annotated[
        Positional[Path], arg(metavar="OUT", help="output folder of the kept rows and of the table of removed rows")
    ] = Path()
    preset: Annotated[str, arg(help="paper, released: the published configuration, if the step has one")] = ""
    config: Annotated[Path, arg(metavar="FILE.yaml", help="options, in a section curate (`diptych config curate STEP`)")] = Path()
    plan: Annotated[bool, arg(help="print the estimated cost and stop")] = False
    engine: Annotated[Literal["local", "ray"], arg(help="engine for text steps: this machine, or a Ray cluster")] = "local"
    embeddings: Annotated[
        Path | None, arg(metavar="FOLDER", help="folder of `diptych embed`; missing image embeddings are computed and added")
    ] = None
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


@dataclass(frozen=True)
class ChainArgs:
    source: Annotated[Positional[str], arg(metavar="IN", help="any readable data")]
    out: Annotated[
        Positional[Path], arg(metavar="OUT", help="output folder of the tables, and of chain.yaml, which repeats the run")
    ] = Path()
    config: Annotated[str, arg(metavar="NAME|FILE.yaml", help="a published chain, or a file with the list curate.steps")] = ""
    set: Annotated[tuple[str, ...], arg(metavar="STEP.FIELD=VALUE", help="fields of steps: laion.model=runs/clip")] = ()
    plan: Annotated[bool, arg(help="print the estimated cost of each step on the whole input and stop")] = False
    engine: Annotated[Literal["local", "ray"], arg(help="engine for text steps: this machine, or a Ray cluster")] = "local"
    embeddings: Annotated[
        Path | None, arg(metavar="FOLDER", help="folder of `diptych embed`; missing image embeddings are computed and added")
    ] = None
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    from diptych.core.registry import OPERATORS

    if (chain := _chain(argv)) is not None:
        return _run_chain(argv, chain)
    file = config_of(argv, "curate")
    argv = leading(argv, file, "curate", ("step", "source", "out"))
    if not argv or argv[0].startswith("-"):
        if set(argv) & {"-h", "--help"}:
            steps = "\n".join(f"  {slug:<22}{entry.about}" for slug, entry in OPERATORS.items())
            print(f"usage: diptych curate SLUG IN OUT [--plan]        (diptych curate SLUG --help says more)\n\n{steps}")
            print(f"\nchains of steps: diptych curate --config NAME IN OUT   ({', '.join(PUBLISHED)}, or a file)")
            return 0
        raise ConfigError(f"no step is given: diptych curate SLUG IN OUT ({', '.join(OPERATORS)})")
    kind = OPERATORS.load(argv[0])
    preset = _preset(kind, argv)
    every = flat("Options", [(CurateArgs, None), (kind, preset)])
    args: Any = parse(every, argv, f"curate {argv[0]}", "A reason for every row that leaves.", file.default(every, "curate"))
    operator = kind(**select_fields(kind, args))
    return _run(args, [operator])


def _chain(argv: Sequence[str]) -> CurationChain | None:
    """The chain that --config names, where it is one."""
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        if word == "--config" or word.startswith("--config="):
            name = word.partition("=")[2] or ("" if "=" in word else following)
            if not name or name.startswith("-"):
                raise ConfigError(f"--config names nothing (expected a file, or one of {', '.join(PUBLISHED)})")
            return read_chain(name)
    return None


def _run_chain(argv: Sequence[str], chain: CurationChain) -> int:
    from diptych.core.terminal.spelling import options

    if unknown := sorted(chain.options.keys() - {"source", "out"}):
        raise UnknownName(f"field of {chain.name}: curate", unknown[0], ("steps", "source", "out"))
    at = next(at for at, word in enumerate(argv) if word.partition("=")[0] == "--config")
    width = 1 if "=" in argv[at] else 2
    rest = [*argv[:at], *argv[at + width :], *argv[at : at + width]]  # IN and OUT may follow the file
    words = leading(rest, ConfigFile(sections={"curate": chain.options}), "curate", ("source", "out"))
    args = parse(ChainArgs, words, "curate", "A chain of curation steps, each over what the one before kept.")
    operators = chain.operators(options(args.set))
    code = _run(args, operators)
    if not args.plan:
        write_atomic(args.out / "chain.yaml", chain_file(operators))
    return code


def _run(args: Any, operators: Sequence[Any]) -> int:
    """Plan or run steps, and say what came out."""
    from diptych.curate.engine.pool import curate, kind_of, plan
    from diptych.curate.engine.sources import open_pool

    if args.engine != "local":
        from diptych.curate.engine.run import start

        start(args.engine)
    data = open_pool(args.source)
    if args.plan:
        costs = plan(data, operators)
        lines = [f"{name.replace('_', ' '):<20}{_short(value)}" for cost in costs for name, value in cost.items()]
        return finish(costs[0] if len(costs) == 1 else {"steps": costs}, lines, args.json)
    if args.out == Path():
        raise ConfigError("no output folder is given: diptych curate SLUG IN OUT")
    here = Path(args.source).expanduser()
    address = str(here.resolve()) if here.exists() else args.source
    done = curate(data, operators, args.out, source=address, embeddings=args.embeddings)
    reasons = Counter(kind_of(drop.reason) for drop in done.removed)
    unread = list(getattr(data, "quarantine", []))
    lines = [*done.lines(), *_unreadable_lines(unread, args.out), f"tables: {args.out}"]
    payload = {
        "before": len(data),
        "after": len(done.kept),
        "removed": len(done.removed),
        "reasons": dict(reasons),
        "unread": len(unread),
        "seconds": sum(step.seconds for step in done.steps),
        "out": str(args.out),
    }
    return finish(payload, lines, args.json)


def _preset(kind: Any, argv: Sequence[str]) -> Any:
    """The preset decides the defaults of the options, so it is read before them; None: the step's own defaults."""
    for word, value in zip(argv, [*argv[1:], ""], strict=True):
        if word == "--preset" or word.startswith("--preset="):
            name = word.partition("=")[2] or value
            presets = [preset for preset in ("paper", "released") if hasattr(kind, preset)]
            if name not in presets:
                expected = " | ".join(presets) or f"none: {kind.slug} has no presets"
                raise ConfigError(f"unknown preset '{name}' (expected {expected})")
            return getattr(kind, name)()
    return None


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _unreadable_lines(rows: Sequence[QuarantineEntry], out: Path) -> list[str]:
    """Lines about rows that could not be read: their count, the file that lists them all, and the first three."""
    if not rows:
        return []
    return [f"{len(rows):,} left out while reading, see {out / FILE}", *(f"  {row}" for row in rows[:3])]
