"""``diptych explain caption "text"`` or ``--data PAIRS``: how a caption is read, and the wrong ones that are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, finish, parse
from diptych.core.errors import ConfigError

DESCRIPTION = (
    "How an English caption is read (parts of speech, who does what to whom), and beside it the wrong captions that negclip and svlc make "
    "of it: every exchange of two words, and one replaced word of each list."
)


@dataclass(frozen=True)
class ExplainCaptionArgs:
    text: Annotated[Positional[str], arg(metavar="TEXT", help="a caption; default: those of --data")] = ""
    data: Annotated[str, arg(help="data whose captions are explained")] = ""
    rows: Annotated[int, arg(help="number of rows, evenly spaced")] = 5
    word_lists: Annotated[str, arg(help="a JSON file {type: [words]} instead of the built-in lists")] = ""
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(ExplainCaptionArgs, argv, "explain caption", DESCRIPTION)
    if bool(args.text) == bool(args.data):
        raise ConfigError("nothing to explain is given: a caption in quotes, or --data PAIRS for captions of a data set")
    captions = [args.text] if args.text else _captions(args.data, args.rows)
    readings = [explained(caption, args.word_lists) for caption in captions]
    return finish({"captions": readings}, [line for each in readings for line in _lines(each)], args.json)


def explained(caption: str, lists: str = "") -> dict[str, Any]:
    """Words with tags, relations, paraphrases, and hard negatives by kind."""
    from diptych.core.randomness import keyed_rng
    from diptych.data.text.english.scene_parser import SceneParser
    from diptych.data.text.english.structured import analogies, replaced_by_rule, word_lists
    from diptych.data.text.english.swaps import SWAPS, every_swap
    from diptych.data.text.english.tagger import tag

    wrong = {f"swapped {kind.replace('_', ' ')}": list(every_swap(caption, kind)) for kind in SWAPS}
    for kind, words in word_lists(lists).items():
        wrong[f"another {kind}"] = replaced_by_rule(caption, keyed_rng("explain", caption), lists={kind: words})[1]
    return {
        "caption": caption,
        "words": [[word.text, word.tag] for word in tag(caption)],
        "relations": [list(triple) for triple in SceneParser()(caption)],
        "right": list(analogies(caption)),
        "wrong": {kind: texts for kind, texts in wrong.items() if texts},
    }


def _captions(source: str, rows: int) -> list[str]:
    from diptych.api import read

    data = read(source)
    chosen = range(0, len(data), max(1, len(data) // max(1, rows)))
    texts = (data[row].positives("en") for row in list(chosen)[:rows])
    captions = [texts_of_row[0].string for texts_of_row in texts if texts_of_row]
    if not captions:
        raise ConfigError(f"'{source}' has no English text in the rows looked at (expected captions)")
    return captions


def _lines(explanation: dict[str, Any]) -> list[str]:
    lines = [explanation["caption"], "  " + " ".join(f"{word}/{tag}" for word, tag in explanation["words"])]
    lines += [f"  {subject} | {predicate} | {thing}" for subject, predicate, thing in explanation["relations"]]
    lines += [f"  same   {text}" for text in explanation["right"]]
    lines += [f"  wrong  {text}   ({kind})" for kind, texts in explanation["wrong"].items() for text in texts]
    return lines if explanation["wrong"] else [*lines, "  no wrong caption can be made of it"]
