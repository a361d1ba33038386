"""Modality integration rate: Fréchet distance of image tokens and text tokens inside a language model. Protocol `mir`, version 1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import torch

from diptych.core.contracts import Dataset, LayerReader, LayerStates
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.randomness import keyed_rng
from diptych.core.result import Metric, Result
from diptych.tasks._scoring.frechet import frechet, without_outliers
from diptych.tasks._scoring.records import facts_of, with_facts

NUMBERS = ("means", "visual", "text", "root", "product")
COUNTS = ("visual_rows", "text_rows", "visual_outliers", "text_outliers")
SCHEMA = pa.schema([("layer", pa.int32()), *((name, pa.float64()) for name in NUMBERS), *((name, pa.int64()) for name in COUNTS)])
HIGHLIGHT = "@highlight"
"""Marker of the summary in a CNN/Daily Mail story; the released code reads the text before it."""


@dataclass(frozen=True)
class MIR:
    """Modality Integration Rate (Huang et al., 2024, arXiv 2410.07167): scores the pre-training of a bridge without any
    fine-tuning.

    Each of `samples` images is followed by an unrelated text. In every layer the image tokens of all samples form one set of
    vectors and the text tokens after the images another; both are divided by the mean norm of the text tokens, vectors of
    outlying norm are replaced by the median, and the Fréchet distance between the sets is computed. MIR is the base-10 logarithm
    of the sum over layers; lower means closer. It separates untrained bridges from trained ones; whether it ranks trained ones is
    the subject of its claim.

    Values depend on the language model, its width and the number of samples: compare only with all three equal. No interval is
    given, since resampling the same tokens biases the distance. `mir_as_released` uses tr S_a S_b for the trace of the square
    root, which is what the release's default, "fast", amounts to with more tokens than dimensions (with fewer it inverts a
    singular matrix); it is NaN if that term exceeds the rest.

    samples   number of pictures and texts, sampled by `seed`; all if there are fewer (published: 100)
    texts     a folder of text files, or one file with one text per line; of a story in the format of CNN/DM the part before its highlights.
              "": texts of the other pictures
    words     minimum number of words; texts are joined until they have as many; 0 uses one text per picture. A text longer than the model
              allows is truncated
    template  prompt before the text, with "{image}" for the picture; "": the model's own, as published
    language  language of the texts of the data; "" uses all
    memory    GiB for hidden states; with less, fewer layers are computed at a time, in several passes over the pictures
    """

    name: ClassVar[str] = "mir"
    slug: ClassVar[str] = "mir"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = LayerReader
    main: ClassVar[str] = "mir"

    samples: int = 100
    texts: str = ""
    words: int = 100
    template: str = ""
    language: str = "en"
    memory: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 2 or self.words < 0 or not self.memory > 0:
            raise ConfigError(
                f"samples is {self.samples}, words {self.words}, memory {self.memory:g} (expected 2 or more, 0 or more, above 0)"
            )

    def predict(self, model: LayerReader, data: Dataset) -> pa.Table:
        """Returns one row per layer."""
        images, texts = self._pairs(data)
        records: list[dict[str, float]] = []
        layers = list(range(1, model.depth + 1))
        while layers:
            some, layers = self._read(model, images, texts, layers)
            records += some
        table = pa.Table.from_pylist(records, SCHEMA)
        facts = {"options": asdict(self), "fingerprint": data.fingerprint, "samples": len(images)}
        return with_facts(table, **facts, model=getattr(model, "name", ""))

    def _read(
        self, model: LayerReader, images: Sequence[ImageSource], texts: Sequence[str], layers: list[int]
    ) -> tuple[list[dict[str, float]], list[int]]:
        """Records of as many layers as fit in memory, and the remaining layers."""
        rows = model.read_layers(images, texts, layers=layers[:1], template=self.template)
        first = next(rows)
        size = first.visual_EKD.nbytes + first.text_ETD.nbytes
        count = max(1, min(len(layers), int(self.memory * 2**30 / (size * len(images)))))
        states = (
            [first, *rows]
            if count == 1
            else list(model.read_layers(images, texts, layers=layers[:count], template=self.template))
        )
        return [_record(layer, states, index) for index, layer in enumerate(layers[:count])], layers[count:]

    def _pairs(self, data: Dataset) -> tuple[list[ImageSource], list[str]]:
        order = keyed_rng("mir", self.seed).permutation(len(data)).tolist()
        images: list[ImageSource] = []
        chosen: list[int] = []
        for row in order:
            if (image := data[row].image) is not None:
                images.append(image)
                chosen.append(row)
            if len(images) == self.samples:
                break
        if len(images) < 2:
            raise DataError(f"'{data.name}' has {len(images)} pictures", expected="two or more")
        texts = _put_together(self._others(data, order, chosen), len(images), self.words)
        return images, texts

    def _others(self, data: Dataset, order: Sequence[int], chosen: Sequence[int]) -> Iterator[str]:
        """Endless stream of texts: from the option `texts`, else from the data, first those of images that were not sampled, then
        those of the sampled ones, shifted by one so that no image gets its own.
        """
        if self.texts:
            texts = _read_texts(Path(self.texts).expanduser())
        else:
            behind = [*order[len(chosen) :], *chosen[1:], chosen[0]]
            texts = [text.string for row in behind for text in data[row].positives(self.language)[:1] if text.string.split()]
            if not texts:
                raise DataError(
                    f"'{data.name}' has no text in language '{self.language}'", field="texts", expected="--texts FOLDER"
                )
        while True:
            yield from texts

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no layer", expected="one row or more")
        rows = records.to_pylist()
        plain = [row["means"] + row["visual"] + row["text"] for row in rows]
        distance = [max(0.0, base - 2 * row["root"]) for base, row in zip(plain, rows, strict=True)]
        released = sum(base - 2 * row["product"] for base, row in zip(plain, rows, strict=True))
        facts = facts_of(records)
        count = int(facts.get("samples", 0))
        metrics = {
            "mir": Metric(_log10(sum(distance)), higher_is_better=False, unit="log10"),
            "mir_as_released": Metric(_log10(released), higher_is_better=False, unit="log10"),
            **{
                f"outliers/{side}": Metric(
                    sum(row[f"{side}_outliers"] for row in rows) / sum(row[f"{side}_rows"] for row in rows),
                    higher_is_better=False,
                )
                for side in ("visual", "text")
            },
        }
        notes: dict[str, Any] = {
            **facts,
            "layers": {str(row["layer"]): value for row, value in zip(rows, distance, strict=True)},
            "rows": {side: rows[0][f"{side}_rows"] for side in ("visual", "text")},
            "interval": "none: compare only with the same language model and as many samples",
        }
        return Result(self.name, self.version, self.main, metrics, count, count, notes=notes)


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else math.nan


def _record(layer: int, batches: Sequence[LayerStates], index: int) -> dict[str, float]:
    visual_ND = torch.cat([torch.from_numpy(states.visual_EKD[index]) for states in batches]).double()
    text_ND = torch.cat([torch.from_numpy(states.text_ETD[index]) for states in batches]).double()
    if min(len(visual_ND), len(text_ND)) < 2:
        raise DataError(f"{len(visual_ND)} tokens of pictures and {len(text_ND)} of words", expected="two or more of each")
    scale = 1 / text_ND.norm(dim=1).mean()
    visual_ND, far = without_outliers(scale * visual_ND)
    text_ND, far_text = without_outliers(scale * text_ND)
    parts = frechet(visual_ND, text_ND)
    numbers = (parts.means, parts.first, parts.second, parts.root, parts.product)
    counts = (len(visual_ND), len(text_ND), far, far_text)
    return {"layer": layer, **dict(zip(NUMBERS, numbers, strict=True)), **dict(zip(COUNTS, counts, strict=True))}


def _put_together(texts: Iterator[str], count: int, words: int) -> list[str]:
    """`count` texts of at least `words` words, each concatenated from consecutive texts of the stream."""
    made = []
    for _ in range(count):
        parts = [next(texts)]
        while sum(len(part.split()) for part in parts) < words:
            parts.append(next(texts))
        made.append(" ".join(parts))
    return made


def _read_texts(source: Path) -> list[str]:
    """One text per file of a folder, sorted by name, or one text per line of a single file."""
    if not source.exists():
        raise DataError("does not exist", file=source, expected="a folder of text files, or a file with one text per line")
    files = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else [source]
    try:
        read = [path.read_text(encoding="utf-8") for path in files]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=source, expected="text in UTF-8") from error
    texts = [text.partition(HIGHLIGHT)[0] for text in read] if source.is_dir() else read[0].splitlines()
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise DataError("contains no text", file=source, expected="a folder of text files, or a file with one text per line")
    return texts
