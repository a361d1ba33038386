"""Several texts of one image: their storage, and the one that a training step reads.

A curation step that writes texts leaves the column ``text_variants``: for each uid a list of texts, each with what it was made from, by
which model and prompt, and the licence of its row. `data.curated` adds them to the texts of the data, in that order, after their own.
The column ``text_similarity`` has a number for each text of a row, in the order of its texts, negatives included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Draw
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import ORIGINS, Text

VARIANTS, SIMILARITY = "text_variants", "text_similarity"
VARIANT = pa.struct(
    [
        ("string", pa.string()),
        ("language", pa.string()),
        ("origin", pa.string()),
        ("source", pa.string()),
        ("style", pa.string()),
        ("model", pa.string()),
        ("terms", pa.string()),
        ("prompt", pa.string()),
        ("licence", pa.string()),
    ]
)
"""source: where the words come from ("alt 0": the row's first text of that origin; or another row); prompt: the hash of the prompt."""
MASKED = "masked_texts"
MASKED_TEXT = pa.struct([("string", pa.string()), ("language", pa.string()), ("origin", pa.string())])
"""Texts that stand in the place of all texts of a row, as `personal_data` writes them."""
Policy = Literal["uniform", "weighted", "similarity"]


@dataclass(frozen=True, kw_only=True)
class TextDraw:
    """Random choice of the text that an image is trained with at a step.

    text_policy       "uniform": each is as likely; "weighted": by the weights of their origins; "similarity": by exp(s / temperature) of
                      their similarity with the image, from the column text_similarity
    text_weights      "ORIGIN=WEIGHT" each, for "weighted"; an origin that is not named has weight 1
    text_temperature  for "similarity"; small: nearly always the most similar
    least_words       a drawn text of fewer words, as spaces cut it, gives way to the image's first text (LaCLIP: 2); 0 takes any
    """

    text_policy: Policy = "uniform"
    text_weights: tuple[str, ...] = ()
    text_temperature: float = 0.07
    least_words: int = 0

    def __post_init__(self) -> None:
        if self.text_policy not in get_args(Policy):
            raise ConfigError(f"text_policy is {self.text_policy!r} (expected {' | '.join(get_args(Policy))})")
        if self.text_temperature <= 0 or self.least_words < 0:
            raise ConfigError(
                f"text_temperature is {self.text_temperature}, least_words {self.least_words} (expected above 0, 0 or more)"
            )
        if bool(self.text_weights) != (self.text_policy == "weighted"):
            raise ConfigError("text_weights go with text_policy 'weighted', and it with them (expected ORIGIN=WEIGHT ...)")
        self.weights()

    def weights(self) -> Mapping[str, float]:
        """Weight by origin."""
        weights: dict[str, float] = {}
        for given in self.text_weights:
            origin, _, value = given.partition("=")
            try:
                weights[origin] = float(value)
            except ValueError:
                weights[origin] = -1.0
            if origin not in ORIGINS or not 0 <= weights[origin] < np.inf:
                raise ConfigError(
                    f"text_weights has {given!r} (expected ORIGIN=WEIGHT, ORIGIN of {' | '.join(ORIGINS)}, 0 or more)"
                )
        return weights

    def chances(self, draw: Draw, texts: Sequence[Text]) -> npt.NDArray[np.float64]:
        """Probability of each of these texts of the sample. [K]"""
        if self.text_policy == "weighted":
            weights = self.weights()
            raw = np.array([weights.get(text.origin, 1.0) for text in texts])
        elif self.text_policy == "similarity":
            similarity = similarities(draw)
            logit = np.array([similarity[id(text)] for text in texts]) / self.text_temperature
            raw = np.exp(logit - logit.max())
        else:
            raw = np.ones(len(texts))
        if not raw.sum() > 0:
            origins = ", ".join(dict.fromkeys(text.origin for text in texts))
            raise DataError(
                f"every text of sample '{draw.sample.uid}' has weight 0 ({origins})",
                field="texts",
                expected="a text of another origin",
            )
        chance: npt.NDArray[np.float64] = raw / raw.sum()
        return chance

    def __call__(self, draw: Draw, language: str = "") -> Text:
        """One of the positive texts, of `language` or an unknown one ("" for any), by the draw's own generator: one number is taken."""
        texts = draw.sample.positives(language)
        if not texts:
            kind = f"text in language '{language}'" if language else "text"
            raise DataError(f"sample '{draw.sample.uid}' has no {kind}", field="texts", expected="at least one")
        if self.text_policy == "uniform":
            position = int(draw.rng.integers(len(texts)))
        else:
            total = np.cumsum(self.chances(draw, texts))
            position = min(int(np.searchsorted(total, draw.rng.random(), side="right")), len(texts) - 1)
        chosen = texts[position]
        return texts[0] if len(chosen.string.split(" ")) < self.least_words else chosen


UNIFORM = TextDraw()


def similarities(draw: Draw) -> dict[int, float]:
    """Similarity with the image of each text of the sample, by the text's identity."""
    sample = draw.sample
    values = sample.extras.get(SIMILARITY)
    if not isinstance(values, list | tuple) or len(values) != len(sample.texts):
        came = "nothing" if values is None else f"{len(values)} numbers" if isinstance(values, list | tuple) else repr(values)
        raise DataError(
            f"sample '{sample.uid}' has {came} for its {len(sample.texts)} texts",
            field=SIMILARITY,
            expected="a number a text: `diptych curate rewrite DATA OUT --match MODEL` writes them",
        )
    return {id(text): float(value) for text, value in zip(sample.texts, values, strict=True)}


def variant_rows(table: pa.Table, name: str = VARIANTS) -> pa.Table:
    """The column `name` as a table of texts, one per row, with "uid", "string", "language" and "origin"."""
    lists = table[name].combine_chunks()
    each = pc.list_flatten(lists)
    columns = {name: pc.struct_field(each, name) for name in ("string", "language", "origin")}
    return pa.table({"uid": table["uid"].take(pc.list_parent_indices(lists)), **columns})


def variant_column(texts_by_uid: Mapping[str, Sequence[Mapping[str, Any]]]) -> pa.Table:
    """The column from lists of texts by uid; uids without any have no row."""
    uids = sorted(uid for uid, texts in texts_by_uid.items() if texts)
    return pa.table(
        {"uid": pa.array(uids, pa.string()), VARIANTS: pa.array([list(texts_by_uid[uid]) for uid in uids], pa.list_(VARIANT))}
    )
