"""Captions of every view of an object, ranked by an image-text model: the texts of ULIP-2 (Xue et al., 2024, 2305.08275).

A captioner samples `sampled` captions for every view of an object, an image-text model ranks them by their similarity to that
view, and the best `kept` are kept. Published: BLIP-2 writes 10 and CLIP ranks them; that five are kept is not verified. Without a
captioner, the captions in the data's column ``view_captions`` are ranked.

The column ``view_captions`` holds view, caption and similarity (`diptych train ulip2`). Only rows with an unreadable image are
dropped. An interrupted run resumes from its finished parts. Cost: `sampled` captions and one embedding per image.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset, Drop, Embedder, Streamer
from diptych.core.errors import ConfigError, DataError, DecodeError
from diptych.core.image import ImageSource
from diptych.core.randomness import keyed_seed
from diptych.core.sample import Sample
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.data.text.captions.view_captions import VIEW_CAPTION, VIEW_CAPTIONS, view_caption_column, view_captions
from diptych.models.io.open_address import open_address, require

PART_ROWS = 16
"""Objects per part: the most whose captions an interrupted run can lose."""


@dataclass(frozen=True)
class ViewCaptions:
    """captioner    address of a model that samples captions; "" ranks the captions of the data
    ranker       address of an image-text model, which ranks the captions of each view
    views        name of the pictures among a sample's media; a sample without them has its one picture as view 0
    prompt       prompt of the captioner; "" uses its own default prompt
    sampled      number of captions to sample per view; equal ones count once
    kept         number of captions kept per view
    temperature, top_p    options of the sampling
    max_tokens   maximum number of tokens of a caption
    seed         seed of the captions
    """

    slug: ClassVar[str] = "view_captions"

    captioner: str = ""
    ranker: str = ""
    views: str = "views"
    prompt: str = ""
    sampled: int = 10
    kept: int = 5
    temperature: float = 1.0
    top_p: float = 0.9
    max_tokens: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.sampled, self.kept, self.max_tokens) < 1 or self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"sampled {self.sampled}, kept {self.kept}, max_tokens {self.max_tokens}, temperature {self.temperature}, top_p "
                f"{self.top_p} (expected 1 or more, 1 or more, 1 or more, above 0, above 0 and at most 1)"
            )

    def plan(self, data: Dataset) -> dict[str, Any]:
        models = self._models()
        views = max(1, len(self._views(data[0]))) if len(data) else 1
        estimate = estimate_cost(data, lambda image: self._ranked(models, image, ["a caption"], "plan"), unit="object")
        seconds = ("seconds_each", "seconds")
        return {name: value * views if name in seconds else value for name, value in estimate.items()}

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from captions that an earlier run finished."""
        start = time.perf_counter()
        models = self._models()
        order = sorted(range(len(data)), key=data.uids.__getitem__)

        def work(part: pa.Table) -> pa.Table:
            uids, rows, wrong = [], [], []
            for row in part["row"].to_pylist():
                sample = data[row]
                uids.append(sample.uid)
                try:
                    rows.append(self._captions(models, sample))
                    wrong.append("")
                except DecodeError as error:
                    rows.append([])
                    wrong.append(str(error))
            captions = pa.array(rows, pa.list_(VIEW_CAPTION))
            return pa.table({"uid": pa.array(uids, pa.string()), "captions": captions, "reason": pa.array(wrong, pa.string())})

        fingerprints = "-".join(str(getattr(model, "fingerprint", ""))[:8] for model in models)
        store = PartStore(parts.folder, parts.key, PART_ROWS)
        made = store.mapped(pa.table({"row": pa.array(order, pa.int64())}), f"captions-{fingerprints}", work).to_pylist()
        if made and not any(row["captions"] or row["reason"] for row in made):
            raise DataError(
                f"no view of '{data.name}' has a caption",
                field=VIEW_CAPTIONS,
                expected="a captioner (--captioner MODEL), or data that bring captions",
            )
        dropped = tuple(Drop(row["uid"], self.slug, f"unreadable: {row['reason']}") for row in made if row["reason"])
        kept = tuple(sorted({*data.uids} - {drop.uid for drop in dropped}))
        column = view_caption_column({row["uid"]: row["captions"] for row in made})
        return CurationStepResult(kept, dropped, {VIEW_CAPTIONS: column}, time.perf_counter() - start)

    def _models(self) -> tuple[Any, Embedder]:
        if not self.ranker:
            raise ConfigError("view_captions needs a model of images and texts that ranks captions (--ranker MODEL)")
        captioner = open_address(self.captioner) if self.captioner else None
        if captioner is not None:
            require(captioner, Streamer, who=f"view_captions with --captioner {self.captioner}")
        return captioner, open_embedder(self.ranker)

    def _views(self, sample: Sample) -> tuple[ImageSource, ...]:
        if self.views in sample.media:
            return sample.media[self.views].parts
        return () if sample.image is None else (sample.image,)

    def _captions(self, models: tuple[Any, Embedder], sample: Sample) -> list[dict[str, Any]]:
        given = {} if models[0] is not None else view_captions(sample)
        rows: list[dict[str, Any]] = []
        for view, image in enumerate(self._views(sample)):
            ranked = self._ranked(models, image, given.get(view, []), f"{sample.uid}/{view}")
            rows += [{"view": view, "string": text, "similarity": cosine} for text, cosine in ranked]
        return rows

    def _ranked(
        self, models: tuple[Any, Embedder], image: ImageSource, given: Sequence[str], key: str
    ) -> list[tuple[str, float]]:
        """The kept captions of a view with their similarities, the most similar first."""
        captioner, ranker = models
        drawn = given if captioner is None else [self._drawn(captioner, image, f"{key}/{n}") for n in range(self.sampled)]
        captions = list(dict.fromkeys(text for text in drawn if text))
        return rank_captions(ranker, image, captions)[: self.kept] if captions else []

    def _drawn(self, captioner: Any, image: ImageSource, key: str) -> str:
        output = captioner.stream(
            image,
            self.prompt,
            on_text=lambda piece: True,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=keyed_seed(self.slug, self.seed, key),
        )
        return str(output.text).strip()


def rank_captions(model: Embedder, image: ImageSource, captions: Sequence[str]) -> list[tuple[str, float]]:
    """Captions and their cosine similarity to an image, the most similar first; ties keep their order."""
    cosine_C = np.asarray(model.embed_texts(list(captions)) @ model.embed_images([image])[0], np.float64)
    order = np.argsort(-cosine_C, kind="stable")
    return [(captions[index], float(cosine_C[index])) for index in order]
