"""Similarity of generated images to their prompts, to reference images, and to the images of a data set, by an embedder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder, ImageGenerator, Role
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.tasks._scoring.intervals import Floats
from diptych.tasks._scoring.means import mean_metrics
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks._scoring.set_distance import frechet_distance, kernel_distance
from diptych.tasks.generation.reference_pictures import references_of

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("group", pa.string()),
        ("prompt", pa.string()),
        ("text_similarity", pa.float64()),
        ("identity_similarity", pa.float64()),
        ("generated", pa.list_(pa.float32())),
        ("real", pa.list_(pa.float32())),
    ]
)
NAMES = ("text_similarity", "identity_similarity")


@dataclass(frozen=True)
class PictureSimilarity:
    """Cosine of each generated image with its prompt (the main metric) and its reference images, and distances between the two
    sets.

    The prompt of a row is its first text, "{}" read as the word that the model learned. `identity_similarity` is the mean cosine with the
    reference images of a sample (`media["references"]`), absent for rows without any. `frechet` and `kernel` compare the
    embeddings of all generated images with those of the rows' own images: the Fréchet distance is biased by the sample size, so
    compare only equal sizes; the kernel distance is unbiased but noisy. The scale of all four depends on the embedder: compare
    models under the same one, and never use one that was not trained on such images, like InceptionV3 on drawings.

    limit     number of rows to generate, the first ones
    steps, guidance  denoising steps, and scale of classifier-free guidance
    draws, seed      bootstrap draws of the intervals, and seed of intervals and noise
    """

    name: ClassVar[str] = "picture_similarity"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = ImageGenerator
    main: ClassVar[str] = "text_similarity"
    roles: ClassVar[tuple[Role, ...]] = (Role("judge", Embedder, "an embedder that knows such pictures"),)

    limit: int = 64
    steps: int = 25
    guidance: float = 3.0
    draws: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ConfigError(f"limit is {self.limit} (expected 1 or more)")

    def predict(self, model: ImageGenerator, data: Dataset, *, judge: Embedder) -> pa.Table:
        samples = [data[row] for row in range(min(self.limit, len(data)))]
        for row, sample in enumerate(samples):
            if sample.image is None or not sample.positives():
                raise DataError(f"sample '{sample.uid}' has no picture or no text", file=data.name, row=row, expected="both")
        word = getattr(model, "placeholder", "")
        prompts = [sample.positives()[0].string.replace("{}", word) for sample in samples]
        references = [references_of(sample) for sample in samples] if getattr(model, "reads_references", False) else None
        pictures_NHWC = model.generate_images(
            prompts, references=references, steps=self.steps, guidance=self.guidance, seed=self.seed
        )
        generated_ND = judge.embed_images([ArrayImage(pixels_HWC) for pixels_HWC in pictures_NHWC])
        real_ND = judge.embed_images([sample.image for sample in samples if sample.image is not None])
        text_ND = judge.embed_texts(prompts)
        identity = [_identity(judge, sample, own_D) for sample, own_D in zip(samples, generated_ND, strict=True)]
        columns: list[Any] = [
            [sample.uid for sample in samples],
            [sample.group or sample.uid for sample in samples],
            prompts,
            (generated_ND * text_ND).sum(1).astype(np.float64),
            np.array(identity, np.float64),
            list(generated_ND),
            list(real_ND),
        ]
        records = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no item", expected="one row or more")
        groups = records.column("group").to_pylist()
        metrics = mean_metrics(_values(records), NAMES, groups, unit="cosine", draws=self.draws, seed=self.seed)
        if len(records) > 1:
            sets = [np.array(records.column(name).to_pylist(), np.float64) for name in ("generated", "real")]
            for name, measure in (("frechet", frechet_distance), ("kernel", kernel_distance)):
                metrics[name] = Metric(measure(*sets), higher_is_better=False, unit="points")
        notes: dict[str, Any] = {
            **facts_of(records),
            "distances": f"of {len(records)} generated and {len(records)} real pictures; Fréchet's is biased by that number",
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)


def _values(records: pa.Table) -> Floats:
    return np.stack([np.asarray(records.column(name).to_numpy(), np.float64) for name in NAMES], 1)


def _identity(judge: Embedder, sample: Sample, own_D: Any) -> float:
    """Mean cosine of a vector with those of a sample's reference images; NaN if there are none."""
    if "references" not in sample.media:
        return float("nan")
    return float((judge.embed_images(list(sample.media["references"].parts)) @ own_D).mean())
