"""``diptych leaderboard RECORDS RECORDS ... --data D --page P``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import finish, parse
from diptych.core.errors import ConfigError


@dataclass(frozen=True)
class LeaderboardArgs:
    records: Annotated[
        Positional[tuple[str, ...]], arg(metavar="RECORDS", help="folders or Parquet files of diptych eval --out, or NAME=FOLDER")
    ]
    data: Annotated[str, arg(help="the evaluated data, for the pictures of the page")] = ""
    page: Annotated[Path | None, arg(help="an HTML page to write")] = None
    shown: Annotated[int, arg(help="maximum number of questions on which the models differ")] = 24
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(
        LeaderboardArgs, argv, "leaderboard", "Models that were asked the same questions: who is better, and where they part."
    )
    from diptych.api import leaderboard

    named = [one.partition("=")[::2] if "=" in one and not Path(one).exists() else ("", one) for one in args.records]
    if len({bool(name) for name, _ in named}) > 1:
        raise ConfigError("only some records have a name (expected NAME=FOLDER for all, or for none)")
    given = dict(named) if named and named[0][0] else [path for _, path in named]
    if len(given) < len(named):
        raise ConfigError("two records have the same name (expected different ones)")
    board = leaderboard(given, data=args.data or None, page=args.page, shown=args.shown)
    lines = [*board.lines(), *([f"page: {args.page}"] if args.page else [])]
    return finish({**board.to_json(), "page": str(args.page or "")}, lines, args.json)
