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
        arg(metavar="SLUG", help="a system (all its claims), its main claim: SLUG/, or another claim: SLUG/NAME"),
    ]
    seeds: Annotated[
        str, arg(help="seeds instead of the claim's own, such as 201,202,203, or their number; writes no verdict")
    ] = ""
    dry: Annotated[bool, arg(help="write no verdict; the run is still logged")] = False
    dirty: Annotated[bool, arg(help="run with uncommitted changes; writes no verdict")] = False
    smoke: Annotated[bool, arg(help="smallest size of arms and controls; gives no verdict")] = False
    ledger: Annotated[Path, arg(help="folder of verdicts (one file per system) and of the log")] = LEDGER
    cells: Annotated[Path, arg(help="folder of finished cells")] = CELLS
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


@dataclass(frozen=True)
class ClaimsCostArgs:
    slugs: Annotated[Positional[tuple[str, ...]], arg(metavar="SLUG", help="systems or claims; default: all")] = ()
    json: Annotated[bool, arg(help="print one JSON object")] = False


@dataclass(frozen=True)
class ClaimsJudgeArgs:
    slugs: Annotated[Positional[tuple[str, ...]], arg(metavar="SLUG", help="systems or claims; default: all with a verdict")] = ()
    dry: Annotated[bool, arg(help="write no line")] = False
    ledger: Annotated[Path, arg(help="the folder of verdicts")] = LEDGER
    cells: Annotated[Path, arg(help="folder of finished cells")] = CELLS
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


@dataclass(frozen=True)
class ClaimsCheckArgs:
    slugs: Annotated[Positional[tuple[str, ...]], arg(metavar="SLUG", help="systems or claims; default: all with a verdict")] = ()
    respelled: Annotated[
        str,
        arg(
            metavar="WHY",
            help="for one claim: reason why its declaration was reworded without a change of meaning since its verdict",
        ),
    ] = ""
    ledger: Annotated[Path, arg(help="the folder of verdicts")] = LEDGER
    json: Annotated[bool, arg(help="print one JSON object")] = False


@dataclass(frozen=True)
class ClaimsTableArgs:
    ledger: Annotated[Path, arg(help="the folder of verdicts")] = LEDGER
    plot: Annotated[Path | None, arg(help="also write the forest plot of all claims to this SVG file")] = None
    json: Annotated[bool, arg(help="print one JSON object")] = False
