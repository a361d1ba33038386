"""Captions: the three scores against the COCO evaluation code, and what the protocol does with bad rows."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.tasks._scoring.captions.metrics import (
    bleu_counts,
    cider_d,
    document_frequencies,
    rouge_l,
    words_of,
)
from diptych.tasks.generation.captions import Captions

RELEASED: dict[str, Any] = json.loads(Path(__file__).with_name("released_scores.json").read_text())
CAPTIONS = [caption.split() for caption, _ in RELEASED["items"]]
REFERENCES = [[reference.split() for reference in known] for _, known in RELEASED["items"]]


def test_scores_equal_the_coco_evaluation_code() -> None:
    counts = bleu_counts(CAPTIONS, REFERENCES)
    np.testing.assert_allclose([counts.score(order) for order in (1, 2, 3, 4)], RELEASED["bleu"], rtol=1e-12)
    np.testing.assert_allclose(list(map(rouge_l, CAPTIONS, REFERENCES)), RELEASED["rouge_l"], rtol=1e-12)
    np.testing.assert_allclose(cider_d(CAPTIONS, REFERENCES), RELEASED["cider_d"], rtol=1e-12, atol=1e-12)


def test_cider_of_a_part_needs_the_table_of_the_whole() -> None:
    table = document_frequencies(REFERENCES)
    part = cider_d(CAPTIONS[:5], REFERENCES[:5], frequencies=table, items=len(REFERENCES))
    np.testing.assert_allclose(part, RELEASED["cider_d"][:5], rtol=1e-12)
    assert cider_d(CAPTIONS[:1], REFERENCES[:1]).tolist() == [0.0], "one item has no rare words"
    with pytest.raises(DataError, match="number of items"):
        cider_d(CAPTIONS, REFERENCES, frequencies=table)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's dog isn't here.", "a man 's dog is n't here"),
        ("Two dogs -- (one black)!", "two dogs -lrb- one black -rrb-"),
        ("{a} [b]", "-lcb- a -rcb- -lsb- b -rsb-"),
        ('He said "go"; they\'ll come.', "he said go they 'll come"),
        ("black-and-white t-shirt, 3.5 kg", "black-and-white t-shirt 3.5 kg"),
        ("can't", "ca n't"),
        ("", ""),
    ],
)
def test_words(caption: str, words: str) -> None:
    assert words_of(caption) == words.split()
    assert words_of(caption, brackets="dropped") == [word for word in words.split() if not re.fullmatch("-[lr][rcs]b-", word)]


CAPITALS = [
    "''",
    "'",
    "``",
    "`",
    "-LRB-",
    "-RRB-",
    "-LCB-",
    "-RCB-",
    ".",
    "?",
    "!",
    ",",
    ":",
    "-",
    "--",
    "...",
    ";",
]  # what the COCO evaluation code drops
BRACKETED = (  # captions, references, and both as the Java program cuts them with `-lowerCase`
    (
        "A dog (brown) runs.",
        "A dog (brown) is running.",
        "a dog -lrb- brown -rrb- runs .",
        "a dog -lrb- brown -rrb- is running .",
    ),
    ("Two {old} cats", "Two cats {old} sit", "two -lcb- old -rcb- cats", "two cats -lcb- old -rcb- sit"),
    ("A sign [red]", "A red sign (large)", "a sign -lsb- red -rsb-", "a red sign -lrb- large -rrb-"),
)


def test_brackets_stay_because_the_released_list_is_in_capitals() -> None:
    data = pool(*((reference,) for _, reference, *_ in BRACKETED))
    model = Says([caption for caption, *_ in BRACKETED])
    task = Captions(draws=20, blind=False)
    records = task.predict(model, data)
    cut = [[[word for word in text.split() if word not in CAPITALS] for text in texts] for _, _, *texts in BRACKETED]
    kept = cider_d([caption for caption, _ in cut], [[reference] for _, reference in cut]).mean()
    clean = [[[word for word in text if not word.endswith("b-")] for text in texts] for texts in cut]
    dropped = cider_d([caption for caption, _ in clean], [[reference] for _, reference in clean]).mean()
    assert abs(kept - dropped) > 0.1
    assert task.score(records).metrics["cider_d"].value == pytest.approx(kept)
    assert Captions(draws=20, brackets="dropped").score(records).metrics["cider_d"].value == pytest.approx(dropped)
    with pytest.raises(ConfigError, match=r"brackets is 'some' \(expected kept \| dropped\)"):
        Captions(brackets="some")  # type: ignore[arg-type]


def test_words_of_languages_without_spaces_and_with_marks() -> None:
    """As mBLIP scores: Chinese by its characters, spaces or none between them; a letter and its mark as one character."""
    cut = Captions(cut="letters")
    assert cut._words("一只 狗\n坐着 A") == ["一", "只", "狗", "坐", "着", "a"] == cut._words("一只狗坐着A")
    assert Captions()._words("一只 狗") == ["一只", "狗"]
    decomposed, composed = "un cafe\u0301 noir", "un caf\u00e9 noir"
    assert Captions(composed=True)._words(decomposed) == Captions()._words(composed) == ["un", "caf\u00e9", "noir"]
    assert Captions()._words(decomposed) != Captions()._words(composed)


class Says:
    """Writes what it is given to write."""

    name = "says"

    def __init__(self, captions: list[str]) -> None:
        self.captions, self.asked = captions, list[str]()

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        self.asked += prompts
        return self.captions[: len(images)]


def pool(*texts: tuple[str, ...]) -> Pool:
    pixels = np.zeros((8, 8, 3), np.uint8)
    return Pool.from_samples(
        Sample(uid=f"u{row}", image=ArrayImage(pixels, f"u{row}"), texts=tuple(Text(text, "en") for text in known))
        for row, known in enumerate(texts)
    )


def test_a_true_caption_scores_full_and_a_broken_one_is_counted() -> None:
    data = pool(("A red circle.",), ("a blue square left of a star",), ("a green ring",))
    model = Says(["a red circle", "a star a star a star a star", ""])
    task = Captions(prompt="Describe it.", draws=20)
    result = task.score(task.predict(model, data))
    assert model.asked == ["Describe it."] * 6, "of grey pictures too"
    value = {name: metric.value for name, metric in result.metrics.items()}
    assert value["exact"] == pytest.approx(1 / 3)
    assert value["empty"] == pytest.approx(1 / 3)
    assert value["repeats"] == pytest.approx(1 / 3)
    assert not result.metrics["repeats"].higher_is_better
    assert result.metrics["cider_d"].higher_is_better
    records = task.predict(model, data)
    for metric in ("cider_d", "rouge_l", "exact"):
        items = task.item_values(records, metric)
        assert items is not None
        assert items.mean() == pytest.approx(value[metric])
    assert task.item_values(records, "bleu_4") is None
    assert math.isfinite(value["bleu_4"])


class Sees:
    """Reads the level of a picture's first pixel."""

    name = "sees"

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        levels = [int(decode(image)[0, 0, 0]) for image in images]
        return ["a grey nothing" if level == 128 else f"a ring of {level}" for level in levels]


def test_the_blind_row_is_what_grey_pictures_get() -> None:
    pixels = [np.full((8, 8, 3), level, np.uint8) for level in (1, 2)]
    data = Pool.from_samples(
        Sample(f"u{row}", ArrayImage(level, f"u{row}"), (Text(f"a ring of {row + 1}", "en"),)) for row, level in enumerate(pixels)
    )
    task = Captions(draws=20)
    records = task.predict(Sees(), data)
    assert records.column("blind_caption").to_pylist() == ["a grey nothing"] * 2
    found = task.score(records).metrics
    assert found["rouge_l"].value == 1
    assert found["rouge_l/blind"].value == pytest.approx(rouge_l(["a", "grey", "nothing"], [["a", "ring", "of", "1"]]))
    assert found["cider_d/blind"].value < found["cider_d"].value
    without = task.score(Captions(blind=False).predict(Sees(), data)).metrics
    assert not any(name.endswith("/blind") for name in without)
    assert "cider_d/blind" not in task.score(records.drop_columns(["blind_caption"])).metrics, "records from before have none"


def test_a_sample_without_a_reference_is_named() -> None:
    with pytest.raises(DataError, match=r"u1.*no text"):
        Captions().predict(Says(["a", "b"]), pool(("a",), ()))
