"""``diptych blend A B --share 0.5 --out R``, ``diptych blend A B C --how greedy --data D --out R``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.output import finish, parse
from diptych.core.errors import ConfigError


@dataclass(frozen=True)
class BlendArgs:
    models: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="A B ...",
            help="models of the same architecture: RUN/start and RUN, or several runs with the same initial weights",
        ),
    ]
    share: Annotated[float, arg(help="weight of B in the mean of A and B: 0 is A, 1 is B")] = 0.5
    how: Annotated[
        Literal["share", "uniform", "greedy"],
        arg(
            help="share: two models by --share; uniform: equal weights; greedy: add models that improve the score, the best first"
        ),
    ] = "share"
    out: Annotated[Path | None, arg(help="output model folder")] = None
    curve: Annotated[Path | None, arg(help="output page with the scores for shares from 0 to 1 on --data and --source")] = None
    data: Annotated[str, arg(help="target data, for --curve and --how greedy")] = ""
    split: Annotated[str, arg(help="split on which a greedy mean is chosen")] = "val"
    source: Annotated[str, arg(help="source data, on which A is good, for --curve")] = ""
    task: Annotated[str, arg(help="evaluation task")] = "retrieval"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(
        BlendArgs,
        argv,
        "blend",
        "The mean of models' weights: a published model and its tuned one, or several runs from one start.",
    )
    if args.out is None and args.curve is None:
        raise ConfigError("no output is given: --out R for the model, or --curve PAGE.html for the curve")
    if len(args.models) < 2:
        raise ConfigError(f"a mean needs two models or more, got {len(args.models)}")
    if args.how != "share":
        return _soup(args)
    if len(args.models) > 2:
        raise ConfigError(f"--share is for two models, got {len(args.models)} (expected --how uniform or --how greedy)")
    first, second = args.models
    payload: dict[str, Any] = {"share": args.share}
    lines = []
    if args.curve is not None:
        if not args.data:
            raise ConfigError("--curve needs --data, on which every share is measured")
        from diptych.api.tuning import blend_curve
        from diptych.report.pages.tuning import blend_chart

        points = blend_curve(first, second, args.data, source=args.source or None, task=args.task)
        args.curve.write_text(blend_chart(points), encoding="utf-8")
        finite = [p for p in points if p.target == p.target]
        payload["curve"] = [[p.share, p.target, p.source if p.source == p.source else None] for p in finite]
        lines += [
            f"  share {p.share:.1f}: target {p.target:.3f}" + (f", source {p.source:.3f}" if args.source else "") for p in points
        ]
        lines.append(f"curve: {args.curve}")
    if args.out is not None:
        from diptych.api.tuning import blend

        blend(first, second, args.out, share=args.share)
        payload["out"] = str(args.out)
        lines.append(f"{args.out}: {args.share:g} of {second}, {1 - args.share:g} of {first}")
    return finish(payload, lines, args.json)


def _soup(args: BlendArgs) -> int:
    """The mean of several models."""
    from diptych.api import soup

    if args.curve is not None or args.out is None:
        raise ConfigError("a curve is of two models by --share (expected --out R and no --curve)")
    made = soup(args.models, args.out, how=args.how, data=args.data or None, split=args.split, task=args.task)  # type: ignore[arg-type]
    lines = [
        f"  {address}: {score:.3f} alone" + ("" if address in made.used else ", left out")
        for address, score in made.scores.items()
    ]
    scored = made.score == made.score
    lines.append(f"{args.out}: the mean of {len(made.used)} models" + (f", {made.score:.3f} on {args.split}" if scored else ""))
    payload = {"used": list(made.used), "scores": made.scores, "score": made.score if scored else None, "out": str(args.out)}
    return finish(payload, lines, args.json)
