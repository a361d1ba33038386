"""Inference with a trained `RelationDetector`: detects scene graphs of images for given label names; saved as one folder.

Letters: B images, C entity texts, R relation texts, N pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from diptych.core.config import from_plain, to_plain
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.core.triplet_rule import RawDetections, TripletRule
from diptych.data.graphs.label_lists import LabelLists
from diptych.data.graphs.pairs import RegionPairs
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Pixels
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.io.card import detector_card
from diptych.models.io.device import batched
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.rlipv2.relation_detector import PairSet, RelationDetector, RelationDetectorConfig
from diptych.models.rlipv2.ruled_triplets import graph_in_pixels, selection_options
from diptych.models.rlipv2.triplet_selection import (
    ScoreRule,
    TripletDetections,
    best_triplets,
    entity_graphs,
    scene_graph,
    triplet_nms,
)
from diptych.models.towers.label_encoder import label_encoder
from diptych.models.towers.label_texts import LabelTexts, label_texts

R = TypeVar("R")
PAIRS = 100
"""Given pairs per forward pass (fewer for a model with fewer slots)."""


class GraphDetector:
    """Detects objects of given names and the relations between them, or tags relations between given regions (R-Tagger).

    `objects` and `relations` are the names that it was trained with, if there is a closed set; they are the default labels.

    `card` goes into the folder's README.md and config.json: any of "description", "data", "recipe", "licence" (strings) and
    "metrics" (a dict of numbers).
    """

    kind: ClassVar[str] = "relation_detector"

    def __init__(
        self,
        model: RelationDetector,
        texts: LabelTexts,
        images: DetectionPreprocess,
        name: str,
        *,
        lists: LabelLists | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.objects, self.relations = (lists.objects, lists.relations) if lists else ((), ())
        self.model, self.texts, self.images, self.name = model, texts, images, name
        self.card = dict(card or {})

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights and preprocessing, computed at first access."""
        return fingerprint(self.model, {"images": to_plain(self.images), "texts": self.texts.spec})

    # ------------------------------------------------------------ use

    @one_or_many
    def detect(
        self,
        images: Sequence[ImageSource],
        *,
        objects: Sequence[str],
        relations: Sequence[str] = (),
        top: int = 100,
        threshold: float = 0.0,
        batch_size: int = 16,
    ) -> list[SceneGraph]:
        """Return one graph per image: the `top` best triplets with a score above `threshold`,
        without duplicates, boxes in pixels.

        Without `relations`: the `top` best regions and no relations.
        """
        if relations:
            rows = self.triplets(images, objects=objects, relations=relations, top=top, batch_size=batch_size)
            kept = [(triplet_nms(row.rows(row.score_T > threshold)), size) for row, size in rows]
            lists = LabelLists.of_query(objects, relations)
            return [scene_graph(row, size, lists.objects, lists.relations) for row, size in kept]
        lists = LabelLists.of_query(objects)
        blocks = self._in_batches(
            images,
            batch_size,
            lambda part, size_B: entity_graphs(self._predicted(part, lists), size_B, lists.objects, top=top),
        )
        return [_above(graph, threshold) for block in blocks for graph in block]

    detect_rule: ClassVar[dict[str, str]] = {
        "triplet_score": "relation x subject x object",
        "subjects": "their likeliest name",
        "impossible_pairs": "none known",
        "cut": "100 best triplets an image",
        "detector_nms": "triplets of equal names with IoU_s x IoU_o ** .5 above .7; boxes of one name merged from IoU .7",
    }
    """The rule of `detect`, in the terms of `TripletRule.declared`."""

    def detect_by(
        self,
        images: Sequence[ImageSource],
        *,
        objects: Sequence[str],
        relations: Sequence[str],
        rule: TripletRule,
        batch_size: int = 16,
    ) -> list[RawDetections]:
        """Return one graph per image by the rule of a protocol instead of that of `detect`."""
        lists = LabelLists.of_query(objects, relations)
        options = selection_options(rule, lists)
        triplets = self.triplets(images, objects=objects, relations=relations, batch_size=batch_size, **options)
        return [graph_in_pixels(row, size, lists, rule) for row, size in triplets]

    def triplets(
        self,
        images: Sequence[ImageSource],
        *,
        objects: Sequence[str],
        relations: Sequence[str],
        top: int = 100,
        rule: ScoreRule = "graph",
        possible_CR: Tensor | None = None,
        batch_size: int = 16,
    ) -> list[tuple[TripletDetections, tuple[int, int]]]:
        """Return the best triplets of each image for evaluation, duplicates included, with the image's
        (height, width) in pixels.
        """
        lists = LabelLists.of_query(objects, relations)
        if not lists.relations:
            raise DataError("the list is empty", field="relations", expected="at least one relation to look for")

        def best(part: list[Pixels], size_B: list[tuple[int, int]]) -> list[tuple[TripletDetections, tuple[int, int]]]:
            each = best_triplets(self._predicted(part, lists), top=top, rule=rule, possible_CR=possible_CR)
            return list(zip(each, size_B, strict=True))

        return [row for block in self._in_batches(images, batch_size, best) for row in block]

    @one_or_many
    def relate(
        self,
        images: Sequence[ImageSource],
        regions: Sequence[Sequence[Region]],
        *,
        relations: Sequence[str],
        objects: Sequence[str] = (),
        labels_known: bool = True,
        top: int = 1000,
    ) -> list[SceneGraph]:
        """Tag relations between given regions, for a detector of given regions.

        Every ordered pair of an image is scored with every name, and the `top` best are kept (0: all).
        Regions are returned unchanged, in their order.

        objects   further names for the list of texts, in addition to the labels of the regions
        labels_known  must be True: a query is made of a box and its label
        """
        if not labels_known:
            raise ConfigError(f"{self.name} does not classify regions; it needs their labels (expected labels_known=True)")
        if len(images) != len(regions):
            raise DataError(f"{len(images)} images but regions for {len(regions)}", field="regions", expected="a list an image")
        pairs = [list(permutations(range(len(row)), 2)) for row in regions]
        return self.relate_pairs(images, regions, pairs, relations=relations, objects=objects, top=top)

    def relate_pairs(
        self,
        images: Sequence[ImageSource],
        regions: Sequence[Sequence[Region]],
        pairs: Sequence[Sequence[tuple[int, int]]],
        *,
        relations: Sequence[str],
        objects: Sequence[str] = (),
        top: int = 1000,
    ) -> list[SceneGraph]:
        """As `relate`, but only for these pairs, (subject, object) by their indices among the regions of an image.

        Pairs of one forward pass attend to each other, so a score depends on which other pairs are requested.
        If a pair is given twice, the higher of its scores counts.
        """
        if not self.model.shape.given:
            raise ConfigError(f"{self.name} detects its own regions (expected a detector trained on given regions)")
        names = tuple(dict.fromkeys([*objects, *(region.label for row in regions for region in row)]))
        lists = LabelLists(names, tuple(relations))
        rows = zip(images, regions, pairs, strict=True)
        return [self._related(image, row, row_pairs, lists, top) for image, row, row_pairs in rows]

    def _related(
        self, image: ImageSource, regions: Sequence[Region], pairs: Sequence[tuple[int, int]], lists: LabelLists, top: int
    ) -> SceneGraph:
        pixels_HWC = decode(image, exact=True)
        height, width = pixels_HWC.shape[:2]
        box_R4 = torch.tensor([region.box for region in regions], dtype=torch.float32).view(-1, 4)
        corner_R4 = box_R4 / torch.tensor([width, height, width, height])
        centre_R4 = torch.cat(((corner_R4[:, :2] + corner_R4[:, 2:]) / 2, corner_R4[:, 2:] - corner_R4[:, :2]), 1)
        label_R = torch.tensor([lists.objects.index(region.label) for region in regions], dtype=torch.int64)
        edges: list[Relation] = []
        most = min(PAIRS, self.model.relation_decoder.slots or PAIRS)
        for part in parts(pairs, most):
            subject_N, object_N = torch.tensor(part).unbind(1)
            given = RegionPairs(
                centre_R4[subject_N][None],
                centre_R4[object_N][None],
                label_R[subject_N][None],
                label_R[object_N][None],
                torch.ones(1, len(part), dtype=torch.bool),
            )
            predicted = self._predicted([pixels_HWC], lists, given)
            score_NR = predicted.relation_logit_BSQR[0, -1].sigmoid().cpu()
            best = score_NR.flatten().sort(descending=True, stable=True).indices[: top or None]
            for flat in best.tolist():
                pair, relation = divmod(flat, len(lists.relations))
                subject, object_ = part[pair]
                edges.append(Relation(subject, lists.relations[relation], object_, float(score_NR[pair, relation])))
        edges.sort(key=lambda edge: -edge.confidence)
        surest: dict[tuple[int, str, int], Relation] = {}
        for edge in edges:
            surest.setdefault((edge.subject, edge.predicate, edge.object), edge)
        return SceneGraph(tuple(regions), tuple(surest.values())[: top or None])

    def _predicted(self, images: Sequence[Pixels], lists: LabelLists, given: RegionPairs | None = None) -> PairSet:
        image_BCHW, pixel_BHW = self.images(images)
        with self._ready() as device:
            ids, mask = self.texts(lists.texts)
            text_TD = self.model.labels(ids.to(device), None if mask is None else mask.to(device))
            if given is not None:
                given = given.to(device)
            predicted: PairSet = self.model.with_labels(
                image_BCHW.to(device),
                text_TD,
                entities=lists.background + 1,
                pixel_BHW=None if pixel_BHW is None else pixel_BHW.to(device),
                given=given,
            )
        return predicted

    def _in_batches(
        self, images: Sequence[ImageSource], batch_size: int, work: Callable[[list[Pixels], list[tuple[int, int]]], R]
    ) -> list[R]:
        """Apply `work` to the pixels of batches and their sizes, with smaller batches if memory runs out."""
        if self.model.shape.given:
            raise ConfigError(f"{self.name} relates given regions: call relate(images, regions, relations=...)")

        def one(part: Sequence[ImageSource]) -> R:
            decoded = [decode(image, exact=True) for image in part]
            return work(decoded, [(pixels.shape[0], pixels.shape[1]) for pixels in decoded])

        return batched(images, batch_size, next(self.model.parameters()).device, one)

    @contextmanager
    def _ready(self) -> Iterator[torch.device]:
        with torch.no_grad(), evaluating(self.model):
            yield next(self.model.parameters()).device

    # ------------------------------------------------------------ kept

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, README.md, and the tokenizer if there is one, replacing the whole folder."""
        model = self.model
        config = {
            "kind": self.kind,
            "name": self.name,
            "backbone": model.backbone.spec,
            "labels": model.labels.spec,
            "shape": to_plain(model.shape),
            "images": to_plain(self.images),
            "texts": self.texts.spec,
            "lists": {"objects": list(self.objects), "relations": list(self.relations)},
            "card": self.card,
        }
        write_model(folder, model, config, self._readme(), self.texts.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the detector from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            model = RelationDetector(
                detection_backbone(**config["backbone"]),
                label_encoder(**config["labels"]),
                from_plain(RelationDetectorConfig, config["shape"]),
            )
        load_weights(model, folder)
        texts = label_texts(config["texts"], Path(folder))
        images = from_plain(DetectionPreprocess, config["images"])
        lists = from_plain(LabelLists, config["lists"])
        return cls(model.eval(), texts, images, config["name"], lists=lists, card=config.get("card"))

    def _readme(self) -> str:
        shape = self.model.shape
        return detector_card(
            self.name,
            self.card,
            tags=("scene-graphs",),
            about="Finds objects of given names in images, and the relations between them, from free text.",
            facts=f"{parameters(self.model):,} parameters; {shape.variant} with {shape.pairs} pair queries, fusion: {shape.fusion}; "
            f"images at {self.images.size} px.",
            use='graphs = model.detect(images, objects=["person", "horse"], relations=["riding"])',
        )


def _above(graph: SceneGraph, threshold: float) -> SceneGraph:
    return SceneGraph(tuple(region for region in graph.regions if region.score > threshold))
