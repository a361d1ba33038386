"""The 64 templates of class names with which ULIP is trained and tested (2212.05171): one of point clouds, 63 of photographs."""

from __future__ import annotations

ADJECTIVES = ("nice", "cool", "weird", "small", "large", "clean", "dirty")
LIGHT = ("bright", "dark")
PHOTOS = ("low resolution", "cropped", "close-up", "jpeg corrupted", "blurry", "pixelated")
MADE = ("a plastic", "the plastic", "a toy", "the toy", "a plushie", "the plushie")
DRAWN = ("a cartoon", "the cartoon", "an embroidered", "the embroidered")


def cloud_templates() -> tuple[str, ...]:
    """The published 64, each with one `{}`.

    >>> len(set(cloud_templates())), cloud_templates()[0]
    (64, 'a point cloud model of {}.')
    """
    in_scenes = [f"There is {article} {{}} in the scene." for article in ("a", "the")]
    in_scenes += [f"a photo of {article} {{}} in the scene." for article in ("a", "the", "one")]
    photos = [f"itap of {article} {{}}." for article in ("a", "my", "the")]
    photos += [f"a photo of {article} {{}}." for article in ("a", "my", "the", "one", "many")]
    photos += [f"a {kind} photo of {article} {{}}." for kind in ("good", "bad") for article in ("a", "the")]
    photos += [f"a photo of {article} {kind} {{}}." for kind in ADJECTIVES for article in ("a", "the")]
    photos += [f"a {kind} photo of {article} {{}}." for kind in LIGHT for article in ("a", "the")]
    photos += [f"a photo of {article} hard to see {{}}." for article in ("a", "the")]
    photos += [f"a {kind} photo of {article} {{}}." for kind in PHOTOS for article in ("a", "the")]
    # one sentence of the published list has no full stop
    photos += ["a black and white photo of the {}.", "a black and white photo of a {}"]
    made = [f"{kind} {{}}." for kind in (*MADE, *DRAWN)]
    return ("a point cloud model of {}.", *in_scenes, *photos, *made, "a painting of the {}.", "a painting of a {}.")
