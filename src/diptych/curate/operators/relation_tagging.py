"""RLIPv2's R-Tagger from the command line: boxes and captions in, the same images with relations out (Yuan et al., 2023, 2308.09351).

`relation_tags` has the step itself, for a tagger and a parser that are objects; here both are named. The tagger is a run of recipe
`rlipv2` that was trained on given regions (``--preset tagger`` or ``tagger_tiny``). Captions are read by a template grammar over the
relation phrases that it was trained with, or over others: the tagger is asked for whatever a caption says.

Published captions come from a captioner, ten an image, since detection data have none. Whoever has such captions gives them as
`captions`; they are then read in place of the texts of the data. A finished block of images is kept, so a step that was killed goes on.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from diptych.core.contracts import Curated, Dataset, Drop
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample, Text
from diptych.curate.engine.parts import Parts
from diptych.curate.operators.caption_triplets import LabelLinker, TemplateGrammar
from diptych.curate.operators.relation_tags import RelationTags
from diptych.data.graphs.relation_splits import Relabelled
from diptych.data.read.caption_sources import captions_by_uid
from diptych.models.io.opened import open_address
from diptych.models.rlipv2.graph_detector import GraphDetector

BLOCK = 256
"""Images that are tagged before what was found is written down."""


@dataclass(frozen=True)
class TagRelations:
    """tagger       run or model folder of a detector that was trained on given regions
    captions     what is read in place of the texts of the data: folder of a curation step that made captions, or a .csv, .jsonl or
                 .parquet file with columns uid and caption; "" reads the texts of the data
    relations    phrases that are looked for in captions, the longest first; none: those that the tagger was trained with
    linking      how the names of a caption find labels: "head" (whole words at the end of a phrase), "substring" (published)
    paraphrases  a .json file, label to list of other names (person: man, woman, rider, ...); ""
    threshold    confidence from which a relation counts (published: 0.05 stored, 0.20 trained on)
    per_pair     the most confident relations of a pair that are kept; 0 keeps all (a published filter takes 2)
    per_image    likewise of an image (published 100)
    overlap      only pairs whose boxes meet
    """

    slug: ClassVar[str] = "relation_tags"
    paths: ClassVar[tuple[str, ...]] = ("tagger", "captions", "paraphrases")

    tagger: str = ""
    captions: str = ""
    relations: tuple[str, ...] = ()
    linking: Literal["head", "substring"] = "head"
    paraphrases: str = ""
    threshold: float = RelationTags.threshold
    per_pair: int = RelationTags.per_pair
    per_image: int = RelationTags.per_image
    overlap: bool = RelationTags.overlap

    def plan(self, data: Dataset) -> dict[str, Any]:
        return self.step().plan(self.captioned(data))

    def __call__(self, data: Dataset) -> Curated:
        return self.run(data, Parts())

    def run(self, data: Dataset, parts: Parts) -> Curated:
        """As a call, going on from the images that an earlier run tagged."""
        start = time.perf_counter()
        step, read = self.step(), self.captioned(data)
        tagger = step.tagger
        assert isinstance(tagger, GraphDetector)
        order = sorted(range(len(data)), key=data.uids.__getitem__)

        def work(part: pa.Table) -> pa.Table:
            done = step(read.select(part["row"].to_pylist()))
            found, counts = (done.columns.get(name, {}) for name in ("tagged_relations", "tagging"))
            reasons = {drop.uid: drop.reason for drop in done.dropped}
            uids = sorted([*done.kept, *reasons])
            answers = [json.dumps([found.get(uid), counts.get(uid)]) for uid in uids]
            columns = (uids, [reasons.get(uid, "") for uid in uids], answers)
            return pa.table([pa.array(column, pa.string()) for column in columns], ["uid", "reason", "answers"])

        rows = pa.table({"row": pa.array(order, pa.int64())})
        made = Parts(parts.folder, parts.key, BLOCK).mapped(rows, "tagged", work).to_pylist()
        answers = {row["uid"]: json.loads(row["answers"]) for row in made}
        kept = tuple(row["uid"] for row in made if not row["reason"])
        columns = {
            "tagged_relations": {uid: answers[uid][0] for uid in kept},
            "tagging": {uid: counts for uid, (_, counts) in answers.items() if counts},
            # Where the relations come from stays with every image: scores of another tagger mean something else.
            "relations_by": dict.fromkeys(kept, f"{tagger.name} {tagger.fingerprint[:16]}"),
        }
        dropped = tuple(Drop(row["uid"], self.slug, row["reason"]) for row in made if row["reason"])
        return Curated(kept, dropped, {name: values for name, values in columns.items() if values}, time.perf_counter() - start)

    def step(self) -> RelationTags:
        """The step with its models and words in place. Raises ConfigError when the tagger is none."""
        tagger = self._tagger()
        relations = self.relations or tagger.relations
        if not relations:
            raise ConfigError(f"{self.tagger} does not say which relations it was trained with (expected --relations PHRASE ...)")
        return RelationTags(
            tagger=tagger,
            parse=TemplateGrammar(tuple(relations)),
            link=LabelLinker(self._paraphrases(), self.linking),
            threshold=self.threshold,
            per_pair=self.per_pair,
            per_image=self.per_image,
            overlap=self.overlap,
        )

    def captioned(self, data: Dataset) -> Dataset:
        """The data with `captions` in place of their texts; an image without a caption has no text."""
        if not self.captions:
            return data
        captions = captions_by_uid(Path(self.captions))
        if captions.keys().isdisjoint(data.uids):
            raise DataError(f"no uid of '{data.name}' has a caption", file=Path(self.captions), expected="the uids of the data")
        return Relabelled(data, _Captioned(captions), {"captions": self.captions})

    def _tagger(self) -> GraphDetector:
        if not self.tagger:
            raise ConfigError("relation_tags needs a trained tagger (--tagger RUN; diptych train rlipv2 --preset tagger_tiny)")
        model = open_address(self.tagger)
        if not isinstance(model, GraphDetector) or not model.model.shape.given:
            raise ConfigError(f"{self.tagger} is no tagger (expected rlipv2 trained with --preset tagger or tagger_tiny)")
        return model

    def _paraphrases(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        if not self.paraphrases:
            return ()
        path = Path(self.paraphrases)
        try:
            answers = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot be read: {error}", file=path, expected='{"person": ["man", "rider"], ...}') from error
        good = isinstance(answers, dict) and all(isinstance(names, list) for names in answers.values())
        if not good or not all(isinstance(name, str) for names in answers.values() for name in names):
            raise DataError("is no table of names", file=path, expected='{"person": ["man", "rider"], ...}')
        return tuple((label, tuple(names)) for label, names in answers.items())


@dataclass(frozen=True)
class _Captioned:
    captions: dict[str, tuple[str, ...]]

    def __call__(self, sample: Sample) -> Sample:
        return replace(sample, texts=tuple(Text(text, origin="synthetic") for text in self.captions.get(sample.uid, ())))
