"""``diptych ask MODEL IMAGE "question"``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, existing_file, finish, parse


@dataclass(frozen=True)
class AskArgs:
    model: Annotated[
        Positional[str],
        arg(metavar="MODEL", help="a run's folder, hf:NAME of a model that writes, or openai:http://HOST/v1#NAME"),
    ]
    image: Annotated[Positional[Path], arg(metavar="IMAGE", help="a picture file")]
    question: Annotated[Positional[str], arg(metavar="QUESTION", help="words")]
    choices: Annotated[str, arg(help="answers to choose from by likelihood, with commas between them")] = ""
    compared: Annotated[Literal["mean", "sum"], arg(help="nats a token, or of the whole answer")] = "mean"
    max_tokens: Annotated[int, arg(help="of a free answer")] = 32
    download: Annotated[bool, arg(help="allow fetching a model that is not on this machine")] = False
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(AskArgs, argv, "ask", "Answer a question about an image.")
    existing_file(args.image)
    choices = tuple(choice.strip() for choice in args.choices.split(",") if choice.strip())
    from diptych.api import ask, load

    model = load(args.model, download=args.download)
    answer = ask(model, args.image, args.question, choices=choices, compared=args.compared, max_tokens=args.max_tokens)
    if isinstance(answer, str):
        return finish({"answer": answer}, [answer], args.json)
    ordered = sorted(answer.shares, key=lambda choice: -answer.shares[choice])
    lines = [f"{answer.shares[choice]:.3f}  {choice}  ({answer.nats[choice]:.2f} nats)" for choice in ordered]
    return finish({"answer": answer.text, **{k: v for k, v in asdict(answer).items() if k != "text"}}, lines, args.json)
