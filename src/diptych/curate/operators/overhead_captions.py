"""Generates captions for overhead images that only have a label: RS3 of RS5M (Zhang et al., 2024, 2306.11300).

A captioner samples `sampled` captions of every image; one image-text model keeps the `first` most similar, a second one `second`
of those; of these, the `kept` captions whose similarity (by the second model) changes least under rotation are kept, since "on
the left" of an overhead image is true of only one rotation. Published: 20, 10 and 5; the number kept in the last step is not
published. A meta caption from label, country, month and UTM zone is added where these are known.

The texts are additional texts of each row (column ``text_variants``, origin "synthetic"); only rows with an unreadable image are
dropped. An interrupted run resumes from its finished parts. Cost: `sampled` captions per image, one embedding per image, rotation
and model.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset, Drop, Embedder, Streamer
from diptych.core.errors import ConfigError, DecodeError
from diptych.core.image import ImageSource
from diptych.core.randomness import keyed_rng, keyed_seed
from diptych.core.sample import Sample
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.curate.operators.rs5m import consistent_captions
from diptych.data.text.captions.geo_templates import geo_caption, read_geo_templates
from diptych.data.text.captions.meta_captions import meta_caption
from diptych.data.text.captions.variants import VARIANTS, variant_column
from diptych.models.io.open_address import open_address, require

FACTS = ("label", "country", "month", "longitude", "latitude", "location")
PART_ROWS = 64
"""Images per part: the most whose captions an interrupted run can lose."""


@dataclass(frozen=True)
class OverheadCaptions:
    """captioner    address of a model that samples captions; "" writes only meta captions
    scorer       address of an image-text model, which keeps the best `first` captions
    reranker     address of a second one, which keeps the best `second` of them
    prompt       prompt of the captioner; "" uses its own default prompt
    sampled      number of captions to sample per picture; equal ones count once
    first, second, kept   numbers of captions kept after the scorer, the reranker and the rotations
    angles       rotations of the picture in degrees
    temperature, top_p    options of the sampling
    max_tokens   maximum number of tokens of a caption
    meta         also write a meta caption, from the extras label, country, month, longitude, latitude and location
    templates    "FILE.json#NAME": templates of meta captions, filled from the extras (`geo_caption`), such as RS5M's
                 geometa_template.json#fmow_complex; "" uses the built-in sentences
    seed         seed of the captions and of the wording of meta captions
    """

    slug: ClassVar[str] = "overhead_captions"

    captioner: str = ""
    scorer: str = ""
    reranker: str = ""
    prompt: str = ""
    sampled: int = 20
    first: int = 10
    second: int = 5
    kept: int = 5
    angles: tuple[float, ...] = (0.0, 90.0, 180.0, 270.0)
    temperature: float = 1.0
    top_p: float = 0.9
    max_tokens: int = 30
    meta: bool = True
    templates: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sampled >= self.first >= self.second >= self.kept >= 1:
            raise ConfigError(
                f"sampled {self.sampled}, first {self.first}, second {self.second}, kept {self.kept} "
                "(expected 1 or more, each at most the one before)"
            )
        if bool(self.captioner) != bool(self.scorer and self.reranker):
            raise ConfigError("a captioner needs a scorer and a reranker, and these need one (expected all three, or none)")
        if self.templates:
            read_geo_templates(self.templates)  # a wrong file is refused before any caption
        if not self.captioner and not self.meta:
            raise ConfigError("captioner and meta caption are both missing (expected at least one)")
        if len(self.angles) < 2 or self.temperature <= 0 or not 0 < self.top_p <= 1 or self.max_tokens < 1:
            raise ConfigError(
                f"{len(self.angles)} angles, temperature {self.temperature}, top_p {self.top_p}, max_tokens {self.max_tokens} "
                "(expected two or more, above 0, above 0 and at most 1, 1 or more)"
            )

    def plan(self, data: Dataset) -> dict[str, Any]:
        models = self._models()
        return estimate_cost(data, lambda image: self._captions(models, image, "plan") if models else None, unit="picture")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from captions that an earlier run finished."""
        start = time.perf_counter()
        models = self._models()
        order = sorted(range(len(data)), key=data.uids.__getitem__)

        def work(part: pa.Table) -> pa.Table:
            uids, texts, meta, wrong = [], [], [], []
            for row in part["row"].to_pylist():
                sample = data[row]
                captions, reason = self._written(models, sample)
                uids.append(sample.uid)
                texts.append(captions)
                meta.append("" if reason else self._meta(sample))
                wrong.append(reason)
            strings = pa.list_(pa.string())
            columns = {"uid": pa.array(uids, pa.string()), "texts": pa.array(texts, strings)}
            return pa.table(columns | {"meta": pa.array(meta, pa.string()), "reason": pa.array(wrong, pa.string())})

        fingerprints = "-".join(str(getattr(model, "fingerprint", ""))[:8] for model in models)
        if self.templates:
            fingerprints += f"-{zlib.crc32(json.dumps(self._templates).encode()):08x}"
        store = PartStore(parts.folder, parts.key, PART_ROWS)
        made = store.mapped(pa.table({"row": pa.array(order, pa.int64())}), f"captions-{fingerprints}", work).to_pylist()
        name = str(getattr(models[0], "name", self.captioner)) if models else ""
        variants = {row["uid"]: self._variants(row["texts"], row["meta"], name) for row in made}
        dropped = tuple(Drop(row["uid"], self.slug, f"unreadable: {row['reason']}") for row in made if row["reason"])
        kept = tuple(sorted({*data.uids} - {drop.uid for drop in dropped}))
        columns = {VARIANTS: variant_column(variants)} if any(variants.values()) else {}
        return CurationStepResult(kept, dropped, columns, time.perf_counter() - start)

    def _models(self) -> tuple[Any, ...]:
        if not self.captioner:
            return ()
        captioner = open_address(self.captioner)
        require(captioner, Streamer, who=f"overhead_captions with --captioner {self.captioner}")
        return captioner, open_embedder(self.scorer), open_embedder(self.reranker)

    def _written(self, models: tuple[Any, ...], sample: Sample) -> tuple[list[str], str]:
        """Captions of a row by the captioner, and the reason if its image cannot be read."""
        if not models or sample.image is None:
            return [], ""
        try:
            return self._captions(models, sample.image, sample.uid), ""
        except DecodeError as error:
            return [], str(error)

    def _meta(self, sample: Sample) -> str:
        rng = keyed_rng(self.slug, self.seed, sample.uid)
        if self.meta and self.templates:
            return geo_caption(self._templates, sample.extras, rng)
        return meta_caption({name: sample.extras.get(name) for name in FACTS}, rng) if self.meta else ""

    @cached_property
    def _templates(self) -> tuple[str, ...]:
        return read_geo_templates(self.templates)

    def _variants(self, captions: Sequence[str], meta: str, model: str) -> list[dict[str, Any]]:
        shared = {"language": "en", "origin": "synthetic", "source": "", "terms": "", "licence": ""}
        written = [{"string": text, "style": "captioner", "model": model, "prompt": self.prompt, **shared} for text in captions]
        return [*written, *([{"string": meta, "style": "meta", "model": "", "prompt": "", **shared}] if meta else [])]

    def _captions(self, models: tuple[Any, ...], image: ImageSource, uid: str) -> list[str]:
        captioner, scorer, reranker = models
        drawn = [
            captioner.stream(
                image,
                self.prompt,
                on_text=lambda piece: True,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=keyed_seed(self.slug, self.seed, uid, number),
            ).text.strip()
            for number in range(self.sampled)
        ]
        captions = list(dict.fromkeys(text for text in drawn if text))
        if not captions:
            return []
        captions = most_similar(scorer, image, captions, self.first)
        captions = most_similar(reranker, image, captions, self.second)
        return consistent_captions(reranker, image, captions, angles=self.angles, keep=self.kept)


def most_similar(model: Embedder, image: ImageSource, captions: Sequence[str], keep: int) -> list[str]:
    """The captions most similar to a picture, the most similar first."""
    cosine_C = (model.embed_texts(list(captions)) @ model.embed_images([image])[0]).tolist()
    order = sorted(range(len(captions)), key=lambda index: (-cosine_C[index], index))
    return [captions[index] for index in order[:keep]]
