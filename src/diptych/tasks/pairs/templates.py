"""Prompt templates for class names. A template set is part of a zero-shot protocol: name it.

A number of a paper holds for its set only; one photo sentence against eighty moves accuracy by several points.
"""

from __future__ import annotations

from collections.abc import Sequence

from diptych.core.errors import ConfigError, UnknownName
from diptych.data.text.prompts.cloud_templates import cloud_templates
from diptych.data.text.prompts.overhead_templates import overhead_templates

NAMES = ("plain", "one", "symbols", "filip", "seven", "eighty", "clouds", "overhead")
"""plain    the bare name: data whose texts are names or tags
one      the sentence for photographs of the first CLIP experiments
symbols  drawings, icons and emoji
filip    for photographs, plain and with FILIP's suffix (2111.07783), for `ensemble` mean_scores
seven    the published selection of seven for photographs, read from open_clip
eighty   the published eighty for photographs, read from open_clip
clouds   ULIP's 64 for point clouds and their pictures
overhead  GeoRSCLIP's 105 for pictures from above
"""

_OWN = {
    "plain": ("{}",),
    "one": ("a photo of a {}.",),
    "symbols": ("{}", "an emoji of {}", "an icon of {}", "a drawing of {}", "a small picture of {}"),
}


def composed(*, prefixes: Sequence[str] = ("",), description: str = "", suffixes: Sequence[str] = ("",)) -> tuple[str, ...]:
    """Prompts in FILIP's form (2111.07783), "[prefix] {label}, [category description]. [suffix]", for every prefix and suffix.

    >>> composed(prefixes=("a photo of a",), description="a type of pet", suffixes=("", "I like it."))
    ('a photo of a {}, a type of pet.', 'a photo of a {}, a type of pet. I like it.')
    """
    middle = f"{{}}, {description}." if description else "{}."
    return tuple(" ".join(part for part in (prefix, middle, suffix) if part) for prefix in prefixes for suffix in suffixes)


def templates(which: str | Sequence[str]) -> tuple[str, ...]:
    """Templates of a named set, or one's own checked: each holds `{}` exactly once.

    >>> templates("one")
    ('a photo of a {}.',)
    """
    if isinstance(which, str):
        if which in _OWN:
            return _OWN[which]
        if which == "filip":
            return composed(prefixes=("a photo of a",), suffixes=("", "I like it."))
        if which == "clouds":
            return cloud_templates()
        if which == "overhead":
            return overhead_templates()
        if which in NAMES:
            return _published_templates(which)
        if "{}" not in which:
            raise UnknownName("template set", which, NAMES)
        which = (which,)
    if not which:
        raise ConfigError(f"no templates were given (expected sentences with {{}} or one of {', '.join(NAMES)})")
    for sentence in which:
        if sentence.count("{}") != 1:
            raise ConfigError(f"template {sentence!r} has {sentence.count('{}')} places for the class name (expected one '{{}}')")
    return tuple(which)


def fill(sentence: str, name: str) -> str:
    """Template with the name filled in; other braces of the sentence stay as they are."""
    return sentence.replace("{}", name)


def _published_templates(which: str) -> tuple[str, ...]:
    import open_clip

    published = open_clip.SIMPLE_IMAGENET_TEMPLATES if which == "seven" else open_clip.OPENAI_IMAGENET_TEMPLATES
    return tuple(str(sentence("{}")) for sentence in published)
