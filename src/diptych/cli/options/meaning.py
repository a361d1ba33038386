"""Help text of a field: from the docstrings of its class and its bases, or from a table for names with one meaning everywhere.

An entry of a docstring is a line "name  what it is"; lines that are set in go on with it. One entry may name several fields ("a, b  ..."),
all with one beginning ("weight_...  ..."), or another one on its way ("...; other: ...").
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

NAMES = r"^ {0,4}(\w+(?:\.\.\.)?(?:, \w+(?:\.\.\.)?)*)"
ENTRY = re.compile(NAMES + r"  +(\S.*)$")
CLOSE = re.compile(NAMES + r" (\S.*)$")
MENTION = re.compile(r"(?:^|[;.,] )(?:and )?`?(\w+)`?:? (?=\S)")

EVERYWHERE = {
    "batch_size": "samples that the model is given at once",
    "betas": "how much of the running means of gradients and of their squares is kept, in AdamW",
    "crop": "area of the random square crop, as shares of the image",
    "draws": "times that groups are drawn anew for the intervals",
    "dropout": "share of activations that are set to 0 at random while training",
    "eps": "what AdamW adds to the root of the mean square",
    "flip": "half of the images are mirrored",
    "image_size": "side of the image tower's input in pixels",
    "image_tower": "the network that reads images (docs/training.md lists them)",
    "interpolation": "how pictures are resized: bicubic, bilinear or lanczos",
    "ks": "depths of the recalls",
    "label": "the column that holds the class",
    "language": "language of the texts that are read",
    "max_tokens": "tokens of an answer at most",
    "mean": "of the three colours, from 0 to 1, taken away from every pixel",
    "over": 'what a schedule goes over: the "run" with its warm-up, the "rest" behind it, or "both": the run, with warm-up as a factor',
    "progress": "a progress bar, where stderr is a terminal",
    "resize": 'how a picture becomes square: its middle ("crop"), squeezed ("squash"), with a border ("pad"), not at all ("native")',
    "seed": "of everything that is drawn at random",
    "std": "of the three colours, from 0 to 1, by which every pixel is divided",
    "temperature": "what cosines are divided by",
    "test_split": "rows that are scored",
    "text_length": "tokens of a text that are read; what is longer is cut, and counted",
    "ties": "how equal scores count: the mean over their orders, the worst place, the best place, or the order of rows",
    "train_split": "rows that are learned from",
    "val_split": "rows on which settings are chosen",
    "warmup_from": "share of the learning rate at the first step; None starts near 0",
    "warmup_lr": "learning rate at the first step; None starts near 0",
    "width": "dimensions of the embedding of an image or a text",
}


def documented(kind: Any) -> Mapping[str, str]:
    """Field name -> description."""
    names = {item.name for item in fields(kind)} if is_dataclass(kind) else set[str]()
    meanings = {name: words for name, words in EVERYWHERE.items() if name in names}
    for base in reversed(inspect.getmro(kind)):
        meanings |= _entries(inspect.cleandoc(base.__dict__.get("__doc__") or ""), names)
    return meanings


def _entries(text: str, names: set[str]) -> dict[str, str]:
    """Entries of one docstring. A name with one space before its text is an entry among others."""
    entries: dict[str, str] = {}
    last: list[str] = []
    for line in text.splitlines():
        match = ENTRY.match(line) or (CLOSE.match(line) if last else None)
        heads = match[1].split(", ") if match else []
        if match and (ENTRY.match(line) or all(name in names for name in heads)):
            last = heads
            entries |= dict.fromkeys(last, match[2].strip())
        elif last and line.startswith("     "):
            entries |= {name: f"{entries[name]} {line.strip()}" for name in last}
        else:
            last = []
    return {**_mentioned_in_entries(entries, names), **_beginning(entries, names), **entries}


def _beginning(help_texts: Mapping[str, str], names: set[str]) -> dict[str, str]:
    """Help texts of entries such as "weight_...", for every field whose name starts that way."""
    starts = {name.removesuffix("..."): words for name, words in help_texts.items() if name.endswith("...")}
    return {name: words for start, words in starts.items() for name in names if name.startswith(start)}


def _mentioned_in_entries(help_texts: Mapping[str, str], names: set[str]) -> dict[str, str]:
    """Fields described in the entry of another: "hidden  width of the layer; head_width that of its output"."""
    more: dict[str, str] = {}
    for words in help_texts.values():
        mentions = [match for match in MENTION.finditer(words) if match[1] in names]
        for index, match in enumerate(mentions):
            end = mentions[index + 1].start() if index + 1 < len(mentions) else len(words)
            more.setdefault(match[1], words[match.end() : end].rstrip(" .;,"))
    return more
