"""The 105 templates of class names with which GeoRSCLIP is evaluated (2306.11300): 35 sentences for each of three kinds of picture."""

from __future__ import annotations

KINDS = ("remote sensing image", "aerial image", "satellite image")
QUALITIES = (
    "low resolution",
    "bad",
    "cropped",
    "bright",
    "dark",
    "close-up",
    "black and white",
    "jpeg corrupted",
    "blurry",
    "good",
)
ADJECTIVES = ("large", "nice", "small", "weird", "cool")


def overhead_templates() -> tuple[str, ...]:
    """The published 105, each with one `{}`; EuroSAT, AID and RESISC45 have the same.

    >>> len(set(overhead_templates())), overhead_templates()[35]
    (105, 'an aerial image of many {}.')
    """
    sentences = []
    for kind in KINDS:
        image = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
        sentences += [f"{image} of {named}." for named in ("many {}", "a {}", "the {}", "the hard to see {}", "a hard to see {}")]
        sentences += [f"a {quality} {kind} of {article} {{}}." for quality in QUALITIES for article in ("the", "a")]
        sentences += [f"{image} of {article} {adjective} {{}}." for adjective in ADJECTIVES for article in ("the", "a")]
    return tuple(sentences)
