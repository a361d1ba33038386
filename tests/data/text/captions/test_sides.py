"""A mirrored picture and its text agree: either it is not mirrored, or the words change places."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.contracts import Draw, Draws
from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.load.stream import batches
from diptych.data.text.captions.sides import mentions_side, mirrored, swapped_sides
from diptych.recipes.contrastive.alip import ALIP
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.dreamlip import DreamLIP
from diptych.worlds.small_pairs import small_pairs

IMAGE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
SIDED, PLAIN = "a cat left of a dog", "a cat and a dog"


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("a cat left of a dog", "a cat right of a dog"),
        ("LEFT and Right", "RIGHT and Left"),
        ("the leftmost, right-hand, rightwards", "the rightmost, left-hand, leftwards"),
        ("a bright cleft, righteous", "a bright cleft, righteous"),
    ],
)
def test_words_change_places(text: str, other: str) -> None:
    assert (swapped_sides(text), swapped_sides(other)) == (other, text)
    assert mentions_side(text) == (text != other)


@given(st.text(max_size=40))
def test_twice_is_the_text_again(text: str) -> None:
    assert (
        swapped_sides(swapped_sides(text)) == text
        or not text.isascii()
        or any(word.isupper() != word.islower() for word in text.split())
    )


@pytest.mark.parametrize("sides", ["keep", "swap", "ignore"])
def test_what_is_mirrored_and_what_is_said(sides: Any) -> None:
    seen: set[tuple[str, bool]] = set()
    for seed in range(20):
        for text in (SIDED, PLAIN):
            rng = np.random.default_rng(seed)
            image, (said,) = mirrored(IMAGE, [text], rng, sides)
            assert rng.random() == np.random.default_rng(seed).random(2)[1], "one number is drawn, whatever the text says"
            seen.add((said, bool((image != IMAGE).any())))
    plain = {(PLAIN, False), (PLAIN, True)}
    sided_ones = {
        "keep": {(SIDED, False)},
        "swap": {(SIDED, False), ("a cat right of a dog", True)},
        "ignore": {(SIDED, False), (SIDED, True)},
    }
    assert seen == plain | sided_ones[sides]


def test_an_unknown_word_for_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="keep \\| swap \\| ignore"):
        mirrored(IMAGE, [SIDED], np.random.default_rng(0), "leave")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [CLIP, ALIP, DreamLIP])
def test_recipes_over_pairs_keep_pictures_and_texts_in_step(kind: Any) -> None:
    """Half of a picture is black: where it is says whether it was mirrored."""
    pixels_HWC = np.zeros((64, 64, 3), np.uint8)
    pixels_HWC[:, 32:] = 255
    texts = (Text("white right", "en", "alt"), Text("white right", "en", "synthetic"))
    recipe = replace(kind.tiny(), tokenizer="clip", crop=(1.0, 1.0), flip=True, flip_sides="swap", text_length=16)
    draws = [Draw(Sample(str(seed), texts=texts), keyed_rng(seed), pixels_HWC) for seed in range(12)]
    batch = recipe.batch(Draws(tuple(draws), rng=keyed_rng(0), step=0))
    words = recipe.words()
    ids = batch.text_BKL[:, 0] if kind is DreamLIP else batch.text_BL
    masks = batch.text_mask_BKL[:, 0] if kind is DreamLIP else batch.text_mask_BL
    turned = (batch.image_BCHW[:, 0, 32, 5] > batch.image_BCHW[:, 0, 32, 60]).tolist()
    said = [words.decode(row[mask].tolist()) for row, mask in zip(ids, masks, strict=True)]
    assert said == ["white left" if each else "white right" for each in turned]
    assert 2 < sum(turned) < 10
    again = Draws(tuple(replace(one, rng=keyed_rng(seed)) for seed, one in enumerate(draws)), rng=keyed_rng(0), step=0)
    kept = replace(recipe, flip_sides="keep").batch(again)
    assert not (kept.image_BCHW[:, 0, 32, 5] > kept.image_BCHW[:, 0, 32, 60]).any()


def test_without_sides_nothing_changes() -> None:
    """Where no text says left or right, the three ways give the same batch."""
    data = small_pairs(8, captioned=True).to_pool()
    data = data.select(range(8))
    recipe = replace(CLIP.tiny(), tokenizer="clip", batch_size=8, image_size=48, flip=True)
    found = []
    for sides in ("keep", "swap", "ignore"):
        (step,) = batches(_named(data), replace(recipe, flip_sides=sides), seed=1, stop=1)  # type: ignore[arg-type]
        found.append(step.batch)
    assert all(bool((found[0].image_BCHW == other.image_BCHW).all()) for other in found[1:])
    assert all(found[0].strings == other.strings for other in found[1:])


def _named(data: Any) -> Any:
    from diptych.data.dataset import Pool

    return Pool.from_samples(replace(data[row], texts=(Text("a picture", "en"),)) for row in range(len(data)))
