"""Noun knowledge from the data alone, by a small grammar: the kind from the name, the appearance from attributes that boxes have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from diptych.data.text.descriptions.description_queries import spoken_name


def knowledge_entries(
    names: Sequence[str], seen: Mapping[str, Counter[str]], boxes: Mapping[str, int], *, share: float, parts: int, similar: int
) -> dict[str, dict[str, Any]]:
    """Entries of a knowledge file by name. "alarm clock" is a kind of clock, and so are others that end alike; its attributes
    are attributes of at least `share` of its boxes, the most frequent `parts` first; it could be taken for names of the same kind, then for
    those that share most attributes.

    >>> seen = {"alarm clock": Counter({"round": 3, "red": 1}), "wall clock": Counter({"round": 2}), "cup": Counter()}
    >>> made = knowledge_entries(list(seen), seen, {"alarm clock": 4, "wall clock": 2, "cup": 1}, share=0.5, parts=3, similar=2)
    >>> made["alarm clock"]
    {'type': 'clock', 'description': 'round', 'similar objects': ['wall clock']}
    >>> made["cup"]
    {'type': None, 'description': '', 'similar objects': []}
    """
    kinds = {name: _kind(name) for name in names}
    words = {name: _frequent(seen.get(name, Counter()), boxes.get(name, 0), share, parts) for name in names}
    made: dict[str, dict[str, Any]] = {}
    for name in names:
        alike = {
            other: (bool(kinds[name]) and kinds[other] == kinds[name], len(set(words[name]) & set(words[other])))
            for other in names
            if other != name
        }
        ranked = sorted(
            (other for other, grade in alike.items() if any(grade)), key=lambda other: (*_falling(alike[other]), other)
        )
        made[name] = {
            "type": kinds[name] or None,
            "description": "; ".join(words[name]),
            "similar objects": ranked[:similar],
        }
    return made


def _falling(grade: tuple[bool, int]) -> tuple[int, int]:
    return -int(grade[0]), -grade[1]


def _kind(name: str) -> str:
    words = spoken_name(name).split()
    return words[-1] if len(words) > 1 else ""


def _frequent(counts: Counter[str], boxes: int, share: float, parts: int) -> list[str]:
    """Words of at least this share of the boxes, the most frequent first."""
    often = [(word, count) for word, count in counts.items() if count >= share * boxes]
    return [word for word, _ in sorted(often, key=lambda pair: (-pair[1], pair[0]))[:parts]]
