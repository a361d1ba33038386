"""Object polling: questions on objects that are in an image, and on as many that are not (POPE, Li et al., 2023).

random       any object of the data that is not in the image
popular      the most frequent objects that are not in the image
adversarial  the objects that co-occur most often with the object of the question before

Equal counts keep the order in which the data name objects first, as in the released code; where no object is left by the rule, any other
is taken. An object is asked about once an image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng

Setting = Literal["random", "popular", "adversarial"]
SETTINGS: tuple[Setting, ...] = ("random", "popular", "adversarial")


def poll_questions(
    objects: Sequence[Sequence[str]], setting: Setting, *, count: int = 3, seed: int = 0
) -> list[list[tuple[str, bool]]]:
    """Questions of each image: an object, and whether it is in the image; present and absent in turn.

    objects  objects of each image, without repetition, in the order of the questions
    count    maximum number of pairs per image; fewer if an image has fewer objects, or nearly all objects there are
    """
    if setting not in SETTINGS:
        raise ConfigError(f"setting is {setting!r} (expected {' | '.join(SETTINGS)})")
    frequency = Counter(name for there in objects for name in there)
    names = list(frequency)
    popular = [name for name, _ in frequency.most_common()]
    beside: dict[str, Counter[str]] = {name: Counter() for name in names}
    for there in objects:
        for name in there:
            beside[name].update(other for other in there if other != name)
    return [_questions_of_image(there, names, popular, beside, setting, count, seed, row) for row, there in enumerate(objects)]


def _questions_of_image(
    there: Sequence[str],
    names: list[str],
    popular: list[str],
    beside: dict[str, Counter[str]],
    setting: Setting,
    count: int,
    seed: int,
    row: int,
) -> list[tuple[str, bool]]:
    rng = keyed_rng("polling", seed, setting, row)
    questions: list[tuple[str, bool]] = []
    used = set(there)
    for name in there[:count]:
        ranked = {
            "random": [],
            "popular": popular,
            "adversarial": [other for other, _ in beside[name].most_common()],
        }[setting]
        left = [other for other in ranked if other not in used]
        if not left:
            left = [other for other in names if other not in used]
            left = [left[int(rng.integers(len(left)))]] if left else []
        if not left:
            break
        used.add(left[0])
        questions += [(name, True), (left[0], False)]
    return questions
