"""Types of attributes (colour, size, shape, ...) and the words of each: which attributes are asked for, and what is offered beside one.

The list is ours; a JSON file `{"color": ["red", ...], ...}` replaces it (`AttributeTypes.read`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diptych.core.disk.json_text import parse_json
from diptych.core.errors import DataError

OTHER = "other"
WORDS = {
    "color": "red orange yellow green cyan teal turquoise blue purple violet pink magenta brown black white gray silver gold golden beige "
    "tan cream maroon navy khaki blond bronze copper transparent dark light",
    "size": "tiny small little medium large big huge giant short tall long narrow wide thin thick deep shallow",
    "shape": "round square rectangular triangular oval circular curved straight flat pointed bent hollow cylindrical spherical curly "
    "crooked arched conical",
    "material": "wooden metal plastic glass paper cardboard brick stone concrete leather ceramic rubber steel marble cotton cloth "
    "wicker straw clay porcelain denim wool",
    "texture": "plain striped dotted checkered plaid spotted patterned floral smooth rough shiny glossy matte fuzzy furry fluffy woven "
    "wrinkled bumpy grassy muddy sandy rusty dusty",
    "state": "open closed empty full wet dry broken clean dirty new old worn lit unlit ripe cooked raw sliced frozen melted parked folded "
    "painted bare calm cloudy blurry",
    "activity": "sitting standing walking running riding lying jumping flying swimming eating drinking sleeping playing smiling looking "
    "waiting talking reading driving surfing skiing grazing holding",
    "orientation": "upright tilted horizontal vertical diagonal leaning sideways",
    "mood": "happy sad angry tired calm curious serious excited",
    "gender": "male female",
    OTHER: "young wild modern ancient electric digital decorative public",
}


@dataclass(frozen=True)
class AttributeTypes:
    """Attributes by type. A word of several types belongs to the first."""

    words: Mapping[str, tuple[str, ...]]

    @classmethod
    def usual(cls) -> AttributeTypes:
        """The built-in list."""
        return cls({name: tuple(words.split()) for name, words in WORDS.items()})

    @classmethod
    def read(cls, path: Path) -> AttributeTypes:
        """A JSON file of lists by type. Raises DataError that names the file."""
        try:
            value = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValueError) as error:
            kind = "is not valid JSON" if isinstance(error, json.JSONDecodeError) else "cannot be read"
            raise DataError(f"{kind}: {error}", file=path, expected='{"color": ["red", ...], ...}') from error
        good = isinstance(value, dict) and all(
            isinstance(words, list) and all(isinstance(word, str) for word in words) for words in value.values()
        )
        if not good or not value:
            raise DataError("contains no lists of words by type", file=path, expected='{"color": ["red", ...], ...}')
        return cls({str(name): tuple(words) for name, words in value.items()})

    @cached_property
    def type_of(self) -> dict[str, str]:
        """Type by attribute."""
        kinds: dict[str, str] = {}
        for name, words in self.words.items():
            for word in words:
                kinds.setdefault(word, name)
        return kinds

    @cached_property
    def every(self) -> tuple[str, ...]:
        """All attributes."""
        return tuple(self.type_of)

    def normalised(self, attributes: Iterable[str]) -> tuple[str, ...]:
        """Attributes of the list, each once, in order.

        >>> AttributeTypes.usual().normalised(["red and grey", "unheard-of", "red"])
        ('red', 'gray')
        """
        parts = (part for attribute in attributes for part in attribute.split(" and "))
        named = ("gray" if part == "grey" else part for part in parts)
        return tuple(dict.fromkeys(part for part in named if part in self.type_of))
