"""``diptych ask MODEL IMAGE "question"``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, existing_file, finish, note_empty, parse


@dataclass(frozen=True)
class AskArgs:
    model: Annotated[
        Positional[str],
        arg(metavar="MODEL", help="a run's folder, hf:NAME of a generative model, or openai:http://HOST/v1#NAME"),
    ]
    image: Annotated[Positional[Path], arg(metavar="IMAGE", help="a picture file, or none for a prompt without one")]
    question: Annotated[Positional[str], arg(metavar="QUESTION", help="the question")]
    choices: Annotated[str, arg(help="answers to choose from by likelihood, separated by commas")] = ""
    compared: Annotated[Literal["mean", "sum"], arg(help="likelihood per token (mean), or of the whole answer (sum)")] = "mean"
    describe: Annotated[str, arg(help="request for a description, which then stands before the question (STIC)")] = ""
    description_tokens: Annotated[int, arg(help="maximum number of tokens of that description")] = 1024
    max_tokens: Annotated[int, arg(help="maximum number of tokens of a generated answer")] = 32
    download: Annotated[bool, arg(help="allow downloading a model")] = False
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(AskArgs, argv, "ask", "Answer a question about an image.")
    image = None if str(args.image) == "none" and not args.image.exists() else existing_file(args.image)
    choices = tuple(choice.strip() for choice in args.choices.split(",") if choice.strip())
    from diptych.api import ask, load

    model = load(args.model, download=args.download)
    answer = ask(
        model, image, args.question, choices=choices, compared=args.compared, max_tokens=args.max_tokens,
        describe=args.describe, description_tokens=args.description_tokens,
    )  # fmt: skip
    if isinstance(answer, str):
        note_empty([answer])
        return finish({"answer": answer}, [answer], args.json)
    ordered = sorted(answer.shares, key=lambda choice: -answer.shares[choice])
    lines = [f"{answer.shares[choice]:.3f}  {choice}  ({answer.nats[choice]:.2f} nats)" for choice in ordered]
    return finish({"answer": answer.text, **{k: v for k, v in asdict(answer).items() if k != "text"}}, lines, args.json)
