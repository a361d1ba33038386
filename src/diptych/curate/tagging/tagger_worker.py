"""Worker of relation tagging: pictures, boxes and captions in, answers as JSON out. Travels to other machines as addresses."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from diptych.core.contracts import Relater
from diptych.core.errors import ConfigError, DecodeError
from diptych.core.image import BytesImage, ImageSource
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, SceneGraph
from diptych.curate.tagging.caption_triplets import LabelLinker, TemplateGrammar
from diptych.curate.tagging.relation_tags import PairRelater, RelationTags, impossible
from diptych.curate.tagging.summary import TaggingResult
from diptych.models.io.open_address import open_address


@dataclass(frozen=True)
class AllPairsRelater:
    """Relater with all predicates of all pairs, where its own default would keep the best thousand."""

    model: Any

    @property
    def name(self) -> str:
        return str(self.model.name)

    @property
    def fingerprint(self) -> str:
        return str(self.model.fingerprint)

    def relate(
        self,
        images: Sequence[ImageSource],
        regions: Sequence[Sequence[Region]],
        *,
        objects: Sequence[str],
        relations: Sequence[str],
        labels_known: bool,
    ) -> list[SceneGraph]:
        graphs: list[SceneGraph] = self.model.relate(
            images, regions, objects=objects, relations=relations, labels_known=labels_known, top=0
        )
        return graphs

    def relate_pairs(
        self,
        images: Sequence[ImageSource],
        regions: Sequence[Sequence[Region]],
        pairs: Sequence[Sequence[tuple[int, int]]],
        *,
        objects: Sequence[str],
        relations: Sequence[str],
    ) -> list[SceneGraph]:
        graphs: list[SceneGraph] = self.model.relate_pairs(images, regions, pairs, objects=objects, relations=relations, top=0)
        return graphs


@dataclass
class TaggerWorker:
    """tagger   address of the model
    relations  phrases to search for in captions
    options    further fields of `RelationTags`
    """

    tagger: str
    relations: tuple[str, ...]
    link: LabelLinker
    options: dict[str, Any]
    step: RelationTags | None = field(default=None, repr=False)
    kind: ClassVar[pa.DataType] = pa.string()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "step": None}

    def __call__(self, *columns: pa.Array) -> pa.Array:
        contents, samples = (column.to_pylist() for column in columns)
        rows = zip(contents, samples, strict=True)
        return pa.array([self.answer(unpacked(text, content)).to_json() for content, text in rows], pa.string())

    def answer(self, sample: Sample) -> TaggingResult:
        if reason := impossible(sample):
            return TaggingResult(reason)
        assert sample.image is not None
        self.step = self.step or self.make_step(open_tagger(self.tagger))
        start = time.perf_counter()
        try:
            tags, counts, trace = self.step.traced(sample, sample.image)
        except (DecodeError, OSError) as error:
            return TaggingResult(f"unreadable: {error}")
        return TaggingResult(counts.ended, tags, counts, trace, time.perf_counter() - start)

    def make_step(self, model: Any) -> RelationTags:
        if self.options.get("asked") == "said" and not isinstance(model, PairRelater):
            raise ConfigError(f"{model.name} scores all pairs of an image (expected --asked all)")
        tagger: Relater = AllPairsRelater(model)
        return RelationTags(tagger=tagger, parse=TemplateGrammar(self.relations), link=self.link, **self.options)


def open_tagger(address: str) -> Any:
    """Model that relates given regions. Raises ConfigError for one that does not."""
    if not address:
        raise ConfigError("relation_tags needs a trained tagger (--tagger RUN; diptych train rlipv2 --preset tagger_tiny)")
    model = open_address(address)
    shape = getattr(getattr(model, "model", None), "shape", None)
    if not isinstance(model, Relater) or not getattr(shape, "given", True):
        raise ConfigError(f"{address} is not a tagger (expected rlipv2 trained with --preset tagger or tagger_tiny, or penet)")
    return model


def packed(sample: Sample) -> str:
    """JSON of a sample for the tagger, without its picture."""
    regions = [(region.box, region.label) for region in sample.regions]
    texts = [asdict(text) for text in sample.texts]
    return json.dumps({"uid": sample.uid, "regions": regions, "texts": texts})


def unpacked(text: str, content: bytes | None) -> Sample:
    """Sample from the JSON of `packed`, with the bytes of its picture."""
    plain = json.loads(text)
    return Sample(
        uid=plain["uid"],
        image=None if content is None else BytesImage(content, plain["uid"]),
        texts=tuple(Text(**each) for each in plain["texts"]),
        regions=tuple(Region(tuple(box), label) for box, label in plain["regions"]),
    )
