"""Options of the sub-commands of ``diptych claims``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE

LEDGER = Path("docs/claims")
CELLS = Path("runs/claims")


@dataclass(frozen=True)
class ClaimsRunArgs:
    slugs: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="SLUG", help="a system (all its claims), its main claim alone: SLUG/, or a further one: SLUG/NAME"),
    ]
    seeds: Annotated[str, arg(help="others than the claim's own, such as 201,202,203, or how many; writes no verdict")] = ""
    dry: Annotated[bool, arg(help="write no verdict; the run is logged all the same")] = False
    dirty: Annotated[bool, arg(help="run on changed sources too; writes no verdict")] = False
    smoke: Annotated[bool, arg(help="arms and controls at their smallest; gives no verdict")] = False
    ledger: Annotated[Path, arg(help="the folder of verdicts, a file a system, and of the log")] = LEDGER
    cells: Annotated[Path, arg(help="where finished cells are kept")] = CELLS
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


@dataclass(frozen=True)
class ClaimsCostArgs:
    slugs: Annotated[Positional[tuple[str, ...]], arg(metavar="SLUG", help="systems or claims; all when left out")] = ()
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


@dataclass(frozen=True)
class ClaimsJudgeArgs:
    slugs: Annotated[
        Positional[tuple[str, ...]], arg(metavar="SLUG", help="systems or claims; all that have a verdict when left out")
    ] = ()
    dry: Annotated[bool, arg(help="write no line")] = False
    ledger: Annotated[Path, arg(help="the folder of verdicts")] = LEDGER
    cells: Annotated[Path, arg(help="where finished cells are kept")] = CELLS
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


@dataclass(frozen=True)
class ClaimsCheckArgs:
    slugs: Annotated[
        Positional[tuple[str, ...]], arg(metavar="SLUG", help="systems or claims; all that have a verdict when left out")
    ] = ()
    respelled: Annotated[
        str,
        arg(
            metavar="WHY",
            help="of one claim: why its declaration is written differently than when it was judged, and says the same",
        ),
    ] = ""
    ledger: Annotated[Path, arg(help="the folder of verdicts")] = LEDGER
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


@dataclass(frozen=True)
class ClaimsTableArgs:
    ledger: Annotated[Path, arg(help="the folder of verdicts")] = LEDGER
    plot: Annotated[Path | None, arg(help="also write the forest plot of all claims to this SVG file")] = None
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False
