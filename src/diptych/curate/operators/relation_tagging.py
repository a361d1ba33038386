"""Relation tagging (RLIPv2's R-Tagger): boxes and captions in, the same images with relations out (Yuan et al., 2023, 2308.09351).

`relation_tags` implements the step for tagger and parser objects; here both are given by name. The tagger is a run of recipe
`rlipv2` trained on given regions (``--preset tagger`` or ``tagger_tiny``), or of another recipe whose models relate given regions
(`penet`). Captions are parsed by a template grammar over the relation phrases that the tagger was trained with, or over others:
RLIPv2's tagger accepts any phrase.

Published captions come from a captioner, ten per image, since detection data have no captions. Pass such captions as `captions`;
they replace the texts of the data. Finished blocks of images are stored, so an interrupted run resumes. On Ray the encoded images
are sent to the workers, each of which opens the tagger from its address.

Files: tagging.json (counts of every stage, kinds, predicates, and the accuracy where the data have relations), relation_tags.html
(images with the relations proposed, kept and dropped, and why).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset, Drop
from diptych.core.errors import ConfigError, DataError, DecodeError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import SceneGraph
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.run import mapped_where
from diptych.curate.tagging.caption_triplets import LabelLinker
from diptych.curate.tagging.relation_tags import Asked, RelationTags
from diptych.curate.tagging.summary import TaggingResult, TaggingSummary
from diptych.curate.tagging.tagger_worker import TaggerWorker, open_tagger, packed
from diptych.data.graphs.relation_splits import Relabelled
from diptych.data.media.decode import decode, encode_exactly
from diptych.data.read.caption_sources import captions_by_uid
from diptych.report.pages.tagging import TaggedPicture, tagging_page

BLOCK = 256
"""Images per block: tags are saved after each block."""
SHOWN = 50
"""Images on the page, drawn by the hash of their uids."""


@dataclass(frozen=True)
class TagRelations:
    """tagger       run or model folder of a model that relates given regions
    captions     what is read in place of the texts of the data: folder of a curation step that made captions (`generated_captions`,
                 `rewrite`, `template_captions`), or a .csv, .jsonl or .parquet file with columns uid and caption; "" reads the texts
                 of the data
    relations    phrases to search for in captions, the longest first; empty: those that the tagger was trained with
    linking      rule that links names of a caption to labels: "head" (whole words at the end of a phrase), "substring" (published)
    paraphrases  a .json file, label to list of other names (person: man, woman, rider, ...); ""
    threshold    minimum confidence of a relation (published: 0.05 stored, 0.20 trained on)
    per_pair     maximum number of relations per pair, the most confident; 0 keeps all (a published filter takes 2)
    per_image    the same per image (published 100)
    overlap      only pairs whose boxes overlap
    asked        "all": the tagger scores all pairs of labelled boxes together; "said": only pairs whose labels a caption relates
                 (published)
    names        labels given to the tagger in addition to those of a picture (published: all labels of the data)
    foreign      use the tagger even if it was trained with none of the labels of the boxes
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
    asked: Asked = RelationTags.asked
    names: tuple[str, ...] = ()
    foreign: bool = False

    def plan(self, data: Dataset) -> dict[str, Any]:
        return self.step().plan(self.captioned(data))

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from the images that an earlier run tagged."""
        start = time.perf_counter()
        model, read = open_tagger(self.tagger), self.captioned(data)
        self._check_labels(model, data)
        worker = self._worker(model)
        order = sorted(range(len(data)), key=data.uids.__getitem__)

        def work(part: pa.Table) -> pa.Table:
            rows: list[int] = part["row"].to_pylist()
            return pa.table({"row": pa.array(rows, pa.int64()), "answer": pa.array(_answers(read, rows, worker), pa.string())})

        rows = pa.table({"row": pa.array(order, pa.int64())})
        made = PartStore(parts.folder, parts.key, BLOCK).mapped(rows, "tagged", work).to_pylist()
        answers = {data.uids[row["row"]]: TaggingResult.from_json(row["answer"]) for row in made}
        kept = tuple(uid for uid, answer in answers.items() if not answer.reason)
        columns = {
            "tagged_relations": {uid: [asdict(relation) for relation in answers[uid].relations] for uid in kept},
            "tagging": {uid: asdict(answer.counts) for uid, answer in answers.items() if answer.counts},
            # Each image records the tagger of its relations: scores of different taggers are not comparable.
            "relations_by": dict.fromkeys(kept, f"{model.name} {model.fingerprint[:16]}"),
        }
        dropped = tuple(Drop(uid, self.slug, answer.reason) for uid, answer in answers.items() if answer.reason)
        summary = _summary(data, order, answers)
        files = {"tagging.json": summary.file(), "relation_tags.html": self._page(read, order, answers, summary).encode()}
        taken = {name: values for name, values in columns.items() if values}
        return CurationStepResult(kept, dropped, taken, time.perf_counter() - start, files, tuple(summary.lines()))

    def step(self) -> RelationTags:
        """Tagging step with its models and phrases. Raises ConfigError if the model is not a tagger."""
        model = open_tagger(self.tagger)
        return self._worker(model).make_step(model)

    def _worker(self, model: Any) -> TaggerWorker:
        relations = self.relations or tuple(getattr(model, "relations", ()))
        if not relations:
            raise ConfigError(
                f"{self.tagger} has no list of the relations that it was trained with (expected --relations PHRASE ...)"
            )
        options = {name: getattr(self, name) for name in ("threshold", "per_pair", "per_image", "overlap", "asked", "names")}
        here = Path(self.tagger)
        address = str(here.resolve()) if here.exists() else self.tagger  # workers elsewhere start in another folder
        worker = TaggerWorker(address, tuple(relations), LabelLinker(self._paraphrases(), self.linking), options)
        worker.step = worker.make_step(model)
        return worker

    def _check_labels(self, model: Any, data: Dataset) -> None:
        """Raises an error if the tagger knows none of the box labels, unless `foreign` allows it."""
        tagger_labels = set(getattr(model, "objects", ()))
        rows = range(0, len(data), max(1, len(data) // BLOCK))
        box_labels = {region.label for row in rows for region in data[row].regions if region.label.strip()}
        if tagger_labels and box_labels and not self.foreign and tagger_labels.isdisjoint(box_labels):
            mine, theirs = (", ".join(sorted(names)[:5]) for names in (box_labels, tagger_labels))
            raise DataError(
                f"the boxes of '{data.name}' are called {mine}; {self.tagger} was trained with {theirs}",
                field="regions",
                expected="labels of the tagger, or --foreign to run it all the same",
            )

    def captioned(self, data: Dataset) -> Dataset:
        """Data with `captions` in place of their texts; an image without a caption has no text."""
        if not self.captions:
            return data
        captions = captions_by_uid(Path(self.captions))
        if captions.keys().isdisjoint(data.uids):
            raise DataError(f"no uid of '{data.name}' has a caption", file=Path(self.captions), expected="the uids of the data")
        return Relabelled(data, _Captioned(captions), {"captions": self.captions})

    def _page(self, data: Dataset, order: Sequence[int], answers: dict[str, TaggingResult], summary: TaggingSummary) -> str:
        drawn = sorted(order, key=lambda row: keyed_rng("shown", data.uids[row]).random())
        pictures: list[TaggedPicture] = []
        for row in drawn:
            if len(pictures) == SHOWN:
                break
            answer = answers[data.uids[row]]
            sample = data[row]
            if answer.trace is None or sample.image is None:
                continue  # images that could not be tagged have their reason in the removal table
            trace, graph = answer.trace, SceneGraph(sample.regions, answer.relations)
            pixels_HWC = decode(sample.image, exact=True)
            shown = (trace.captions, trace.parsed, trace.proposed)
            pictures.append(TaggedPicture(sample.uid, pixels_HWC, graph, answer.reason, *shown))
        lead = f"{summary.images:,} images, {summary.kept:,} of them with relations above {self.threshold}"
        facts = [line for line in summary.lines() if "per second" not in line]
        return tagging_page("Tagged relations", lead, facts, list(summary.stages.items()), pictures)

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
            raise DataError("is not a table of names", file=path, expected='{"person": ["man", "rider"], ...}')
        return tuple((label, tuple(names)) for label, names in answers.items())


def _answers(data: Dataset, rows: Sequence[int], worker: TaggerWorker) -> list[str]:
    """The tagger's answers for some rows, as JSON, in their order."""
    contents: list[bytes | None] = []
    samples: list[str] = []
    broken: dict[int, str] = {}
    for index, row in enumerate(rows):
        sample = data[row]
        content = None
        if sample.image is not None:
            try:
                content = encode_exactly(sample.image)
            except (DecodeError, OSError) as error:
                broken[index] = TaggingResult(f"unreadable: {error}").to_json()
        contents.append(content)
        samples.append(packed(sample))
    given = pa.table(
        {
            "row": pa.array(range(len(rows)), pa.int64()),
            "image": pa.array(contents, pa.binary()),
            "sample": pa.array(samples, pa.string()),
        }
    )
    answers: list[str] = mapped_where(given, ["image", "sample"], worker, "told")["told"].to_pylist() if rows else []
    return [broken.get(index, answer) for index, answer in enumerate(answers)]


def _summary(data: Dataset, order: Sequence[int], answers: dict[str, TaggingResult]) -> TaggingSummary:
    samples = [data[row] for row in order]
    related = any(sample.relations for sample in samples)
    truths = [frozenset((r.subject, r.predicate, r.object) for r in s.relations) if related else None for s in samples]
    labels = [[region.label for region in sample.regions] for sample in samples]
    return TaggingSummary.of([answers[sample.uid] for sample in samples], labels, truths)


@dataclass(frozen=True)
class _Captioned:
    captions: dict[str, tuple[str, ...]]

    def __call__(self, sample: Sample) -> Sample:
        return replace(sample, texts=tuple(Text(text, origin="synthetic") for text in self.captions.get(sample.uid, ())))
