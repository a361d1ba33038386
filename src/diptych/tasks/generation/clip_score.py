"""CLIPScore: reference-free image-caption similarity by an embedder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder, Generator, Role
from diptych.core.errors import DataError
from diptych.core.result import Metric, Result
from diptych.tasks._scoring.answers.blind import BLIND, grey_images
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts

NUMBERS = ("cosine", "reference_cosine", "human_cosine", "blind_cosine")
SCHEMA = pa.schema(
    [("uid", pa.string()), ("group", pa.string()), ("caption", pa.string()), *((name, pa.float64()) for name in NUMBERS)]
)


@dataclass(frozen=True)
class CLIPScore:
    """CLIPScore of one caption per image, without references: `weight` times the cosine of image and caption, clipped at 0
    (2104.08718). `ref_clip_score` is the harmonic mean of it and the best cosine of the caption to a text of the image. Both are
    means over images, and their scale depends on the judge: compare captions only under the same judge, and never use the encoder
    that the captioner was trained with.

    Also reported: the score of the images' own texts (`human`, the first of each), and the blind row: captions of plain grey
    images, scored with the real images.

    weight   factor of the cosine (published 2.5)
    prefix   text before every caption for the judge (published "A photo depicts ", for CLIP ViT-B/32)
    prompt   prompt of the model; "" uses its own default prompt
    blind    also caption grey pictures
    draws, seed of the intervals, which draw groups of images
    """

    name: ClassVar[str] = "clip_score"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Generator
    main: ClassVar[str] = "clip_score"
    roles: ClassVar[tuple[Role, ...]] = (Role("judge", Embedder, "an embedder that the captioner was not trained with"),)

    weight: float = 2.5
    prefix: str = "A photo depicts "
    prompt: str = ""
    language: str = "en"
    blind: bool = True
    max_tokens: int = 64
    draws: int = 1000
    seed: int = 0

    def predict(self, model: Generator, data: Dataset, *, judge: Embedder) -> pa.Table:
        samples = [data[row] for row in range(len(data))]
        for row, sample in enumerate(samples):
            if sample.image is None:
                raise DataError(f"sample '{sample.uid}' has no image", file=data.name, row=row, field="image")
        images = [sample.image for sample in samples if sample.image is not None]
        prompts = [self.prompt] * len(images)
        captions = model.generate(images, prompts, max_tokens=self.max_tokens)
        references = [[text.string for text in sample.positives(self.language)] for sample in samples]
        image_ND, caption_ND = judge.embed_images(images), self._read(judge, captions)
        nan_N = np.full(len(images), np.nan)
        numbers = {"cosine": (image_ND * caption_ND).sum(1), **dict.fromkeys(NUMBERS[1:], nan_N)}
        if all(references):
            flat_MD = self._read(judge, [text for texts in references for text in texts])
            ends = np.cumsum([len(texts) for texts in references])[:-1]
            parts = np.split(flat_MD, ends)
            numbers["reference_cosine"] = np.array([(part @ one).max() for part, one in zip(parts, caption_ND, strict=True)])
            numbers["human_cosine"] = np.array([part[0] @ one for part, one in zip(parts, image_ND, strict=True)])
        if self.blind:
            blind = model.generate(grey_images(images), prompts, max_tokens=self.max_tokens)
            numbers["blind_cosine"] = (image_ND * self._read(judge, blind)).sum(1)
        columns: dict[str, Any] = {
            "uid": [sample.uid for sample in samples],
            "group": [sample.group or sample.uid for sample in samples],
            "caption": captions,
            **{name: value.astype(np.float64) for name, value in numbers.items()},
        }
        records = pa.table(columns, schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def _read(self, judge: Embedder, texts: list[str]) -> Any:
        return judge.embed_texts([f"{self.prefix}{text}" for text in texts])

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no item", expected="one row or more")
        groups = records.column("group").to_pylist()
        columns = {name: value for name, value in self._columns(records).items() if not np.isnan(value).all()}
        drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
        metrics = {
            name: Metric(float(value_N.mean()), *percentiles(drawn_RM[:, column]), unit="points")
            for column, (name, value_N) in enumerate(columns.items())
        }
        notes: dict[str, Any] = {
            **facts_of(records),
            "references": "all images have texts"
            if "ref_clip_score" in metrics
            else "some images have none, so there is no RefCLIPScore",
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    def _columns(self, records: pa.Table) -> dict[str, Floats]:
        weight = float(facts_of(records).get("options", {}).get("weight", self.weight))
        cosine = {name: np.array(records.column(name).to_pylist(), np.float64) for name in NUMBERS}
        score_N, reference_N = weight * np.clip(cosine["cosine"], 0, None), np.clip(cosine["reference_cosine"], 0, None)
        with np.errstate(invalid="ignore", divide="ignore"):
            harmonic_N = np.where(score_N + reference_N > 0, 2 * score_N * reference_N / (score_N + reference_N), 0.0)
        harmonic_N[np.isnan(reference_N)] = np.nan
        return {
            "clip_score": score_N,
            "ref_clip_score": harmonic_N,
            "human": weight * np.clip(cosine["human_cosine"], 0, None),
            f"clip_score{BLIND}": weight * np.clip(cosine["blind_cosine"], 0, None),
        }

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """Values [N, 1] of each metric: all are means over images."""
        columns = self._columns(records)
        return columns[metric][:, None] if metric in columns else None
