"""``diptych generate MODEL PROMPT...``: pictures from prompts, with a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import finish, parse
from diptych.core.errors import ConfigError


@dataclass(frozen=True)
class GenerateArgs:
    model: Annotated[
        Positional[str],
        arg(
            metavar="MODEL",
            help="a run of text_to_image, reversion or relationbooth, hf:FOLDER of Stable Diffusion, reversion:FILE",
        ),
    ]
    prompts: Annotated[
        Positional[tuple[str, ...]], arg(metavar="PROMPT ...", help="prompts, in quotes", help_behavior_hint="(one or more)")
    ]
    count: Annotated[int, arg(aliases=["-n"], help="pictures per prompt")] = 8
    out: Annotated[Path, arg(help="output folder of the pictures and sheet.png")] = Path("generated")
    reference: Annotated[
        tuple[str, ...],
        arg(
            help="objects to show, each as FILE:PHRASE:X0,Y0,X1,Y1 with the box as shares of the picture's sides; for relationbooth"
        ),
    ] = ()
    negative: Annotated[str, arg(help="negative prompt")] = ""
    steps: Annotated[int, arg(help="denoising steps")] = 50
    guidance: Annotated[float, arg(help="scale of classifier-free guidance")] = 7.5
    seed: Annotated[int, arg(help="seed of the noise")] = 0
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(GenerateArgs, argv, "generate", "Make pictures from prompts, by a model of diffusion.")
    if not args.prompts or any(not prompt.strip() for prompt in args.prompts):
        raise ConfigError("no prompt is given (expected words in quotes, such as 'red circle left of blue cross')")
    if args.count < 1 or args.steps < 1:
        raise ConfigError(f"--count is {args.count} and --steps {args.steps} (expected 1 or more)")
    from diptych.api import generate

    made = generate(
        args.model,
        list(args.prompts),
        n=args.count,
        out=args.out,
        references=[reference_words(words) for words in args.reference] or None,
        negative=args.negative,
        steps=args.steps,
        guidance=args.guidance,
        seed=args.seed,
    )
    files = [str(path) for path in made.files]
    lines = [f"{len(files)} pictures in {args.out}", f"contact sheet: {made.sheet}"]
    return finish({"pictures": files, "sheet": str(made.sheet)}, lines, args.json)


def reference_words(words: str) -> tuple[str, str, tuple[float, float, float, float]]:
    """File, phrase and box of FILE:PHRASE:X0,Y0,X1,Y1. Raises ConfigError for other words."""
    file, _, rest = words.partition(":")
    phrase, _, numbers = rest.rpartition(":")
    try:
        x0, y0, x1, y1 = (float(number) for number in numbers.split(","))
    except ValueError as error:
        raise ConfigError(f"--reference is {words!r} (expected FILE:PHRASE:X0,Y0,X1,Y1)") from error
    return file, phrase, (x0, y0, x1, y1)
