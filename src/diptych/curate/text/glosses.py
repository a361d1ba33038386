"""Glosses of nouns from a dictionary (WordNet; LVIS's own definitions): definition, hypernym, sister terms.

dict/              the files `index.noun` and `data.noun` of WordNet (Princeton, 3.0 and 3.1)
lvis_v1_val.json   {"categories": [{"name", "synset", "def"}]}
glosses.json       {"cup": "a small open container used for drinking"}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from diptych.core.disk.json_text import parse_json
from diptych.core.errors import DataError

BREAK = re.compile(
    r"\b(?:that|which|who|whose|where|with|without|of|for|used|usually|having|made|consisting|worn|from|in|on|to|by|and|or)\b"
    r"|[,:(]|\b\w+(?:ing|ed)\b(?= (?:of|by|from|with|in|on|to|a|an|the)\b)"
)
"""Where the kind of a thing ends in its definition: "a dispenser | that holds a substance"."""
GENUS_WORDS = 3
"""Words of a kind at most; what is longer was not cut at the right place."""
PARTITIVE = re.compile(r"^(?:any of (?:various|several|numerous)|any|an?|the|one of)\s+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Gloss:
    """text     the definition, examples left out
    kind     the noun above it, "" if the dictionary has none
    sisters  nouns of the same kind
    """

    text: str
    kind: str = ""
    sisters: tuple[str, ...] = ()

    def entry(self) -> dict[str, Any]:
        """Entry of a knowledge file. Without a kind of the dictionary, the first words of the definition are the kind.

        >>> Gloss("a dispenser that holds a substance under pressure").entry()["type"]
        'dispenser'
        >>> Gloss("any of various burrowing animals; rodents", kind="mammal").entry()["description"]
        'burrowing animals; rodents'
        """
        first, *rest = [part.strip() for part in self.text.split(";") if part.strip()]
        plain = PARTITIVE.sub("", first)
        kind, definition = self.kind, plain
        if not kind and (match := BREAK.search(plain)) and 0 < len(plain[: match.start()].split()) <= GENUS_WORDS:
            kind, definition = plain[: match.start()].strip(), plain[match.start() :].lstrip(",:( ")
        parts = [part for part in (definition, *rest) if part]
        return {"type": kind or None, "description": "; ".join(parts), "similar objects": list(self.sisters)}


def read_glosses(path: Path) -> Mapping[str, Gloss]:
    """Definitions by noun, lower case with blanks. Raises DataError that names file and entry."""
    if path.is_dir():
        return _wordnet(path)
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        expected = "a folder with index.noun and data.noun, or JSON: {noun: definition}, or LVIS's categories"
        raise DataError(f"cannot be read: {error}", file=path, expected=expected) from error
    if isinstance(value, dict) and isinstance(value.get("categories"), list):
        value = {_field(c, "name", path, row): _field(c, "def", path, row) for row, c in enumerate(value["categories"])}
    if not isinstance(value, dict) or not value:
        raise DataError("contains no definition", file=path, expected='{"cup": "a small open container used for drinking"}')
    for noun, text in value.items():
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{noun!r} is {str(text)[:60]!r}", file=path, expected="a definition in words")
    return {lemma(noun): Gloss(_definition(text)) for noun, text in value.items()}


def lemma(noun: str) -> str:
    """Lookup form of a noun: lower case, blanks for underscores.

    >>> lemma("Bow_(weapon)"), lemma("aerosol_can")
    ('bow (weapon)', 'aerosol can')
    """
    return " ".join(noun.replace("_", " ").lower().split())


def _field(category: Any, name: str, path: Path, row: int) -> str:
    if not isinstance(category, dict) or not isinstance(category.get(name), str):
        raise DataError(f"category {row} has no '{name}'", file=path, field=name, expected="words")
    return str(category[name])


def _definition(gloss: str) -> str:
    """Definition without its examples, which stand in quotes.

    >>> _definition('a set of two; "a pair of shoes"')
    'a set of two'
    """
    return re.sub(r'"[^"]*"', "", gloss).strip(" ;.,")


@dataclass(frozen=True, slots=True)
class _Synset:
    words: tuple[str, ...]
    above: tuple[str, ...]
    below: tuple[str, ...]
    gloss: str


class _WordNet(Mapping[str, Gloss]):
    """First sense of each WordNet noun: its definition, the first word of its hypernym, and the hypernym's other hyponyms."""

    def __init__(self, first: Mapping[str, str], synsets: Mapping[str, _Synset]) -> None:
        self.first, self.synsets = first, synsets

    def __getitem__(self, noun: str) -> Gloss:
        key = self.first[noun]
        synset = self.synsets[key]
        above = self.synsets.get(synset.above[0]) if synset.above else None
        sisters = [self.synsets[one].words[0] for one in above.below if one != key and one in self.synsets] if above else []
        return Gloss(_definition(synset.gloss), above.words[0] if above else "", tuple(dict.fromkeys(sisters)))

    def __iter__(self) -> Any:
        return iter(self.first)

    def __len__(self) -> int:
        return len(self.first)


def _wordnet(folder: Path) -> Mapping[str, Gloss]:
    synsets: dict[str, _Synset] = {}
    first: dict[str, str] = {}
    for name, keep in (("data.noun", _data), ("index.noun", _index)):
        path, table = folder / name, cast(dict[str, Any], synsets if name == "data.noun" else first)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot be read: {error}", file=path, expected="index.noun and data.noun of WordNet") from error
        for row, line in enumerate(lines):
            if line.startswith("  ") or not line.strip():
                continue  # the licence
            try:
                key, value = keep(line)
            except (ValueError, IndexError) as error:
                raise DataError(f"row {row} is not an entry: {line[:60]!r}", file=path, expected="WordNet's own form") from error
            table[key] = value
    missing = next((f"{noun!r} at {key}" for noun, key in first.items() if key not in synsets), "")
    if missing:
        raise DataError(f"has no synset of {missing}", file=folder / "data.noun", expected="files of one version")
    return _WordNet(first, synsets)


def _data(line: str) -> tuple[str, Any]:
    fields, _, gloss = line.partition("|")
    part = fields.split()
    words = int(part[3], 16)
    named = tuple(lemma(word) for word in part[4 : 4 + 2 * words : 2])
    at = 4 + 2 * words
    pointers = [part[at + 1 + 4 * n : at + 5 + 4 * n] for n in range(int(part[at]))]
    above = tuple(p[1] for p in pointers if p[0] in ("@", "@i") and p[2] == "n")
    below = tuple(p[1] for p in pointers if p[0] == "~" and p[2] == "n")
    if not named:
        raise ValueError("no word")
    return part[0], _Synset(named, above, below, gloss.strip())


def _index(line: str) -> tuple[str, str]:
    part = line.split()
    senses, pointers = int(part[2]), int(part[3])
    return lemma(part[0]), part[6 + pointers : 6 + pointers + senses][0]
