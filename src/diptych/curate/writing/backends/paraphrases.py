"""Paraphrase table of English captions: the substitutions of the grammar. Only pairs that hold for any image."""

from __future__ import annotations

SYNONYMS: dict[str, tuple[str, ...]] = {
    "photo": ("photograph", "picture", "image"),
    "photograph": ("photo", "picture", "image"),
    "picture": ("image",),
    "image": ("picture",),
    "small": ("little",),
    "little": ("small",),
    "big": ("large",),
    "large": ("big",),
    "top left": ("upper left", "at the top left"),
    "top right": ("upper right", "at the top right"),
    "bottom left": ("lower left", "at the bottom left"),
    "bottom right": ("lower right", "at the bottom right"),
    "centre": ("middle",),
    "center": ("middle", "centre"),
    "next to": ("beside",),
    "beside": ("next to",),
    "in front of": ("before",),
    "left of": ("to the left of",),
    "right of": ("to the right of",),
    "to the left of": ("left of",),
    "to the right of": ("right of",),
    "on the left of": ("left of",),
    "on the right of": ("right of",),
    "at the top left": ("top left",),
    "at the top right": ("top right",),
    "at the bottom left": ("bottom left",),
    "at the bottom right": ("bottom right",),
    "above": ("over",),
    "below": ("under", "beneath"),
    "underneath": ("under", "below"),
    "close to": ("near",),
    "near": ("close to",),
    "bike": ("bicycle",),
    "bicycle": ("bike",),
    "couch": ("sofa",),
    "sofa": ("couch",),
    "kid": ("child",),
    "child": ("kid",),
    "kids": ("children",),
    "children": ("kids",),
    "automobile": ("car",),
    "airplane": ("plane", "aeroplane"),
    "plane": ("airplane",),
    "road": ("street",),
    "street": ("road",),
    "rock": ("stone",),
    "stone": ("rock",),
    "woods": ("forest",),
    "forest": ("woods",),
    "ship": ("vessel",),
    "rabbit": ("bunny",),
    "puppy": ("young dog",),
    "kitten": ("young cat",),
    "television": ("TV",),
    "sunset": ("setting sun",),
    "seaside": ("seashore",),
    "many": ("numerous",),
    "looking at": ("watching",),
    "watching": ("looking at",),
    "shows": ("depicts",),
    "depicts": ("shows",),
    "standing next to": ("standing beside",),
    "sitting on top of": ("sitting on",),
    "on top of": ("atop",),
    "crimson": ("deep red",),
    "violet": ("purple",),
    "purple": ("violet",),
    "gray": ("grey",),
    "grey": ("gray",),
}

CONVERSE: dict[str, tuple[str, ...]] = {
    "left of": ("right of",),
    "to the left of": ("to the right of", "right of"),
    "on the left of": ("on the right of",),
    "right of": ("left of",),
    "to the right of": ("to the left of", "left of"),
    "on the right of": ("on the left of",),
    "above": ("below",),
    "below": ("above",),
    "beneath": ("above",),
    "next to": ("next to",),
    "beside": ("beside",),
    "in front of": ("behind",),
    "behind": ("in front of",),
    "near": ("near",),
    "larger than": ("smaller than",),
    "smaller than": ("larger than",),
}
"""A R B is B S A, for every S."""

NEUTRAL_PASSIVE: dict[str, str] = {
    "holding": "held",
    "carrying": "carried",
    "eating": "being eaten",
    "chasing": "chased",
    "pulling": "pulled",
    "pushing": "pushed",
    "riding": "ridden",
    "wearing": "worn",
    "driving": "driven",
    "kicking": "kicked",
    "throwing": "thrown",
    "catching": "caught",
    "hugging": "hugged",
    "feeding": "fed",
    "petting": "petted",
    "covering": "covered",
    "surrounding": "surrounded",
}
"""A V-ing B is B V-ed by A."""

OPENINGS = (
    "a photo of ", "a photograph of ", "a picture of ", "an image of ", "photo of ", "picture of ", "image of ", "there is ", "this is ",
)  # fmt: skip

FRAMES = (
    "here you can see {}",
    "what is shown is {}",
    "a picture in which there is {}",
    "{}, as seen in a picture",
    "the picture shows {}",
    "an image with {}",
)

DROPPED = frozenset(
    {"beautiful", "nice", "lovely", "cute", "pretty", "amazing", "stunning", "great", "old", "young", "new", "big", "large"}
    | {"small", "little", "tiny", "huge", "tall", "short", "long", "bright", "dark", "wooden", "metal", "modern", "vintage"}
    | {"fresh", "happy", "quiet", "busy", "famous"}
)
"""Attributes that can be dropped without changing the kind of object. Colours, numbers and negations are not among them."""
