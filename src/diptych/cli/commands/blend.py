"""``diptych blend A B --share 0.5 --out R``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diptych.cli.options.output import finish, parse
from diptych.core.errors import ConfigError


@dataclass(frozen=True)
class BlendArgs:
    first: Annotated[Positional[str], arg(metavar="A", help="a model, such as RUN/start")]
    second: Annotated[Positional[str], arg(metavar="B", help="a model of the same architecture, such as RUN")]
    share: Annotated[float, arg(help="how much of B: 0 is A, 1 is B")] = 0.5
    out: Annotated[Path | None, arg(help="the model folder to make")] = None
    curve: Annotated[Path | None, arg(help="a page to make: the scores of shares from 0 to 1 on --data, and on --source")] = None
    data: Annotated[str, arg(help="target data, for --curve")] = ""
    source: Annotated[str, arg(help="data that A is good at, for --curve")] = ""
    task: Annotated[str, arg(help="what is measured")] = "retrieval"
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(BlendArgs, argv, "blend", "The mean of two models' weights: between a published model and its tuned one.")
    if args.out is None and args.curve is None:
        raise ConfigError("say where the model goes, --out R, or where the curve goes, --curve PAGE.html")
    payload: dict[str, Any] = {"share": args.share}
    lines = []
    if args.curve is not None:
        if not args.data:
            raise ConfigError("--curve needs --data, on which every share is measured")
        from diptych.api.tuning import blend_curve
        from diptych.report.pages.tuning import blend_chart

        points = blend_curve(args.first, args.second, args.data, source=args.source or None, task=args.task)
        args.curve.write_text(blend_chart(points), encoding="utf-8")
        finite = [p for p in points if p.target == p.target]
        payload["curve"] = [[p.share, p.target, p.source if p.source == p.source else None] for p in finite]
        lines += [
            f"  share {p.share:.1f}: target {p.target:.3f}" + (f", source {p.source:.3f}" if args.source else "") for p in points
        ]
        lines.append(f"curve: {args.curve}")
    if args.out is not None:
        from diptych.api.tuning import blend

        blend(args.first, args.second, args.out, share=args.share)
        payload["out"] = str(args.out)
        lines.append(f"{args.out}: {args.share:g} of {args.second}, {1 - args.share:g} of {args.first}")
    return finish(payload, lines, args.json)
