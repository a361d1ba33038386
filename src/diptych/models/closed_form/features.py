"""Raw features of training rows: pixels of shrunken pictures, words and word pairs of their texts, answers to their questions.

Letters: N rows, D pixel values, V words, word pairs and answers.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.contracts import Dataset
from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.sample import Sample
from diptych.core.scene_graph import SceneGraph
from diptych.core.terminal.progress import with_bar
from diptych.data.media.decode import decode
from diptych.data.text.question_answering.questions import questions_of
from diptych.models.closed_form.ridge import Ridge, fit_ridge

Floats: TypeAlias = npt.NDArray[np.float32]
SIDE, FRAMES = 16, 4
"""Pixels per side of a shrunken picture, and frames of a clip, which lie side by side."""
WORDS, PAIRS, RAREST = 3000, 1500, 2
"""The most frequent words and answers, and word pairs, of those that stand in this many rows at least."""
MOST_ROWS = 20_000
"""Maximum number of rows for features, evenly spaced over all: a larger set would fill the memory, and a control needs no more."""
ANSWER = " => "
KEPT = 4
_WORD = re.compile(r"\w+")
_cache: OrderedDict[tuple[str, str, int], RawFeatures] = OrderedDict()


def words_of(text: str, *, pairs: bool = True) -> set[str]:
    """Words of a text in lower case, and pairs of neighbouring words.

    >>> sorted(words_of("A red circle"))
    ['a', 'a red', 'circle', 'red', 'red circle']
    """
    words = _WORD.findall(text.casefold())
    return {*words, *(f"{one} {other}" for one, other in pairwise(words))} if pairs else set(words)


def is_pair(name: str) -> bool:
    """True for the column of two neighbouring words."""
    return " " in name and ANSWER not in name


def answer_key(question: str, answer: str) -> str:
    """Column of an answer to a question, in one spelling."""
    return f"{' '.join(_WORD.findall(question.casefold()))}{ANSWER}{answer.casefold().strip()}"


def pixels(images: Sequence[ImageSource], side: int = SIDE) -> Floats:
    """[N, side * side * 3] between 0 and 1: pictures squeezed into a square, by the mean over areas."""
    return np.stack([_shrunk(decode(image), side) for image in images]) if images else np.zeros((0, side * side * 3), np.float32)


def clip_pixels(clips: Iterable[Any], side: int = SIDE) -> Floats:
    """[N, FRAMES * D]: shrunken frames of clips, evenly spaced, one after the other."""
    return np.stack([np.concatenate([_shrunk(frame, side // 2) for frame in clip.decode(frames=FRAMES)]) for clip in clips])


def _shrunk(pixels_HWC: npt.NDArray[np.uint8], side: int) -> Floats:
    small = Image.fromarray(np.ascontiguousarray(pixels_HWC[..., :3])).resize((side, side), Image.Resampling.BOX)
    return (np.asarray(small, np.float32).ravel() / 255).astype(np.float32)


@dataclass(frozen=True, eq=False)
class RawFeatures:
    """Features of training rows, with what a look-up returns.

    pixels_ND   of the picture, or of the clip if there is no picture
    words_NV    share of a row's texts that hold the word or pair; 1 for an answer that its question has
    columns     word, pair or answer -> column; `alone` are the columns of single words and answers
    texts       first text of each row, "" without one
    graphs      regions and relations of each row
    """

    pixels_ND: Floats
    words_NV: Floats
    columns: dict[str, int]
    texts: list[str]
    graphs: list[SceneGraph]

    @cached_property
    def ridge(self) -> Ridge:
        """Regression from the pixels to all columns."""
        return fit_ridge(self.pixels_ND, self.words_NV)

    @property
    def alone(self) -> dict[str, int]:
        return {name: column for name, column in self.columns.items() if not is_pair(name)}

    def text_features(self, texts: Sequence[str]) -> Floats:
        """[N, V]: 1 where a text holds the word or pair."""
        value_NV = np.zeros((len(texts), len(self.columns)), np.float32)
        for row, text in enumerate(texts):
            value_NV[row, [self.columns[name] for name in words_of(text) if name in self.columns]] = 1.0
        return value_NV


def raw_features(rows: Dataset, *, language: str = "en", side: int = SIDE) -> RawFeatures:
    """Features of the rows with a picture or clip and a text, question or label, of at most `MOST_ROWS`. The last few data sets are kept
    by fingerprint.

    language  texts of this language or of an unknown one; a row without any gives all its texts
    Raises DataError if no row has both.
    """
    key = (rows.fingerprint, language, side)
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    spaced = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).astype(np.int64))
    samples = [sample for row in spaced if _seen(sample := rows[int(row)]) and _counts(sample, language)]
    if not samples:
        raise DataError(
            f"'{rows.name}' has no row with a picture and a text", expected="pictures with texts, questions or labels"
        )
    shown = [sample.image for sample in samples if sample.image is not None]
    if shown and len(shown) < len(samples):
        samples = [sample for sample in samples if sample.image is not None]
    counts = [_counts(sample, language) for sample in samples]
    frequency = Counter(name for count in counts for name in count)
    names = [name for name, rows_with in frequency.most_common() if rows_with >= min(RAREST, len(samples))]
    kept = [name for name in names if not is_pair(name)][:WORDS] + [name for name in names if is_pair(name)][:PAIRS]
    columns = {name: column for column, name in enumerate(kept)}
    words_NV = np.zeros((len(samples), len(columns)), np.float32)
    for row, count in enumerate(counts):
        for name, share in count.items():
            if name in columns:
                words_NV[row, columns[name]] = share
    shrunk = (pixels([image], side) for image in with_bar(shown, len(shown), "pixels of training pictures", least=2000))
    picture_ND = np.concatenate(list(shrunk)) if shown else clip_pixels((sample.media["clip"] for sample in samples), side)
    texts = [text[0] if (text := _texts(sample, language)) else "" for sample in samples]
    features = RawFeatures(picture_ND, words_NV, columns, texts, [sample.graph for sample in samples])
    _cache[key] = features
    while len(_cache) > KEPT:
        _cache.popitem(last=False)
    return features


def _seen(sample: Sample) -> bool:
    return sample.image is not None or "clip" in sample.media


def _texts(sample: Sample, language: str) -> list[str]:
    return [text.string for text in sample.positives(language) or sample.positives()]


def _counts(sample: Sample, language: str) -> dict[str, float]:
    """Share of a row's texts with each word and pair, and its answers. Without texts the label stands for one."""
    texts = _texts(sample, language) or [str(sample.extras[name]) for name in ("label",) if sample.extras.get(name)]
    count = Counter(name for text in texts for name in words_of(text))
    shares = {name: times / len(texts) for name, times in count.items()}
    for question in questions_of(sample):
        shares |= {answer_key(question.text, answer): 1.0 for answer in question.answers}
    return shares
