"""A trained `SceneGraphNetwork` ready for use: relates given regions, or finds and relates its own; saved as one folder.

Letters: B images, K regions, P pairs, R predicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.config import from_plain, to_plain
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.graphs.label_lists import LabelLists
from diptych.data.media.decode import decode
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.detection.inclusive_boxes import clip_boxes
from diptych.models.io.card import detector_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating
from diptych.models.io.region_detector import ClosedSetDetector, first_names
from diptych.models.penet.scene_graph_network import SceneGraphConfig, SceneGraphNetwork, SceneGraphPrediction

TOP = 1000


class GraphRelater(ClosedSetDetector):
    """Knows the names of its training and no others: an asked name that training lacked is never answered.

    A relation's confidence is predicate x subject x object; given labels count 1. Kept are the `top` best relations of an image and
    the best one of each of its `top` best pairs, so that recall with and without graph constraint is that of all.
    """

    kind: ClassVar[str] = "graph_relater"
    model: SceneGraphNetwork

    def __init__(
        self,
        model: SceneGraphNetwork,
        images: DetectionPreprocess,
        lists: LabelLists,
        name: str,
        *,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.images, self.lists, self.name, self.card = model, images, lists, name, dict(card or {})

    @property
    def objects(self) -> tuple[str, ...]:
        return self.lists.objects

    @property
    def relations(self) -> tuple[str, ...]:
        return self.lists.relations

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights and preprocessing, computed at first access."""
        return fingerprint(self.model, {"images": to_plain(self.images), "lists": to_plain(self.lists)})

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
        """One graph an image: its regions and the `top` best relations above `threshold`; without `relations`, regions only.

        `batch_size` is that of other detectors: images are read one by one.
        """
        if self.model.shape.setting != "sgdet":
            raise ConfigError(f"{self.name} relates given regions and detects none (expected one trained with --setting sgdet)")
        class_mask_C = self._object_mask(objects)
        names = self._known(relations) if relations else []
        graphs = []
        for image in images:
            graph = self._graph(image, lambda shown, sizes: self.model.find(shown, sizes, class_mask_C), names, top)
            kept = tuple(edge for edge in graph.relations if edge.confidence > threshold)[:top]
            graphs.append(replace(graph, relations=kept) if names else _surest(graph, top, threshold))
        return graphs

    @one_or_many
    def relate(
        self,
        images: Sequence[ImageSource],
        regions: Sequence[Sequence[Region]],
        *,
        objects: Sequence[str],
        relations: Sequence[str],
        labels_known: bool = True,
        top: int = TOP,
    ) -> list[SceneGraph]:
        """Relations between known regions, which come back as they are; without `labels_known` with names of `objects` and scores.

        `top` 0 keeps every predicate of every pair.
        """
        if len(images) != len(regions):
            raise DataError(f"{len(images)} images but regions for {len(regions)}", field="regions", expected="a list an image")
        if not labels_known and self.model.shape.setting == "predcls":
            raise ConfigError(f"{self.name} takes labels as they are (expected one trained with --setting sgcls or sgdet)")
        names = self._known(relations)
        class_mask_C = None if labels_known else self._object_mask(objects)
        return [self._related(image, tuple(row), names, class_mask_C, top) for image, row in zip(images, regions, strict=True)]

    def _related(
        self, image: ImageSource, regions: tuple[Region, ...], names: list[int], class_mask_C: Tensor | None, top: int
    ) -> SceneGraph:
        if not regions:
            decode(image, exact=True)
            return SceneGraph()
        label_K = None if class_mask_C is not None else torch.tensor([self._class(region) for region in regions])

        def ask(shown_BCHW: Tensor, sizes: list[tuple[int, int]], scale_4: Tensor) -> list[SceneGraphPrediction]:
            box_K4 = torch.tensor([region.box for region in regions], dtype=torch.float32)
            if self.model.detector.inclusive:  # cut in pixels of the image itself, as released
                height, width = (
                    round(side / float(scale)) for side, scale in zip(sizes[0], (scale_4[1], scale_4[0]), strict=True)
                )
                box_K4 = clip_boxes(box_K4, (height, width))
            box_K4 = box_K4 * scale_4
            labels = None if label_K is None else [label_K.to(self._device)]
            every_C = torch.ones(len(self.objects) + 1, dtype=torch.bool, device=self._device)
            return self.model.relate(
                shown_BCHW, sizes, [box_K4.to(self._device)], labels, every_C if class_mask_C is None else class_mask_C
            )

        answer, _ = self._answer(image, ask)
        if label_K is None:
            named = zip(regions, answer.label_N.tolist(), answer.score_N.tolist(), strict=True)
            regions = tuple(replace(region, label=self.objects[label - 1], score=score) for region, label, score in named)
        return SceneGraph(regions, self._edges(answer, names, top))

    def _graph(self, image: ImageSource, ask: Any, names: list[int], top: int) -> SceneGraph:
        answer, scale_4 = self._answer(image, lambda shown, sizes, _: ask(shown, sizes))
        corner_N4 = (answer.box_N4.cpu() / scale_4).tolist()
        rows = zip(corner_N4, answer.label_N.tolist(), answer.score_N.tolist(), strict=True)
        detections = [(tuple(box), label, score) for box, label, score in rows]
        solid = [n for n, (box, _, _) in enumerate(detections) if box[2] > box[0] and box[3] > box[1]]
        index = {old: new for new, old in enumerate(solid)}
        regions = tuple(Region(detections[n][0], self.objects[detections[n][1] - 1], score=detections[n][2]) for n in solid)
        edges = self._edges(answer, names, top) if names else ()
        kept = (edge for edge in edges if edge.subject in index and edge.object in index)
        return SceneGraph(regions, tuple(replace(e, subject=index[e.subject], object=index[e.object]) for e in kept))

    def _answer(self, image: ImageSource, ask: Any) -> tuple[SceneGraphPrediction, Tensor]:
        """The network's answer, and by what xyxy pixels of the image were multiplied for it."""
        pixels_HWC, shown_BCHW, (high, wide) = self._model_input(image)
        height, width = pixels_HWC.shape[:2]
        scale_4 = torch.tensor([wide / width, high / height]).repeat(2)
        with torch.no_grad(), evaluating(self.model):
            (answer,) = ask(shown_BCHW, [(high, wide)], scale_4)
        return answer, scale_4

    def _edges(self, answer: SceneGraphPrediction, names: list[int], top: int) -> tuple[Relation, ...]:
        """The best relations among these predicates, the best first."""
        subject_P, object_P = answer.pair_P2.unbind(1)
        ends_P = answer.score_N[subject_P] * answer.score_N[object_P]
        score_PR = (answer.share_PK[:, torch.tensor(names, device=answer.share_PK.device)] * ends_P[:, None]).cpu()
        if not score_PR.numel():
            return ()
        order = score_PR.flatten().sort(descending=True, stable=True).indices
        if top:
            best_P, predicate_P = score_PR.max(1)
            pair_Q = best_P.sort(descending=True, stable=True).indices[:top]
            selected = torch.zeros(score_PR.shape, dtype=torch.bool)
            selected[pair_Q, predicate_P[pair_Q]] = True
            selected.view(-1)[order[:top]] = True
            order = order[selected.view(-1)[order]]
        pairs = answer.pair_P2.tolist()
        edges = []
        for flat in order.tolist():
            pair, name = divmod(flat, len(names))
            edges.append(Relation(pairs[pair][0], self.relations[names[name] - 1], pairs[pair][1], float(score_PR[pair, name])))
        return tuple(edges)

    def _known(self, relations: Sequence[str]) -> list[int]:
        """Places among the predicates, "no relation" counted, of the asked names that training had."""
        index = {name: column + 1 for column, name in enumerate(self.relations)}
        columns = [index[name] for name in dict.fromkeys(relations) if name in index]
        if not columns:
            raise self._unknown_names("relations", relations, self.relations)
        return columns

    def _object_mask(self, objects: Sequence[str]) -> Tensor:
        """`_class_mask` after "no object", which is never asked for. bool [1 + K]"""
        return F.pad(self._class_mask(objects), (1, 0), value=False)

    def _class(self, region: Region) -> int:
        if region.label not in self.objects:
            raise DataError(
                f"{self.name} was not trained on the label {region.label!r}",
                field="regions",
                expected=f"labels of its training: {first_names(self.objects)}",
            )
        return self.objects.index(region.label) + 1

    # ------------------------------------------------------------ kept

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "backbone": self.model.detector.backbone.spec,
            "shape": to_plain(self.model.shape),
            "images": to_plain(self.images),
            "lists": to_plain(self.lists),
            "card": self.card,
        }
        write_model(folder, self.model, config, self._readme())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        lists = from_plain(LabelLists, config["lists"])
        with torch.random.fork_rng(devices=[]):
            model = SceneGraphNetwork(
                detection_backbone(**config["backbone"]),
                from_plain(SceneGraphConfig, config["shape"]),
                len(lists.objects),
                len(lists.relations),
            )
        load_weights(model, folder)
        return cls(
            model.eval(), from_plain(DetectionPreprocess, config["images"]), lists, config["name"], card=config.get("card")
        )

    def _readme(self) -> str:
        finds = self.model.shape.setting == "sgdet"
        example = f"objects={list(self.objects[:2])}, relations={list(self.relations[:1])}"
        return detector_card(
            self.name,
            self.card,
            tags=("scene-graphs",),
            about="Scene graphs with one prototype a predicate (PE-Net, 2023).",
            facts=f"{parameters(self.model):,} parameters; setting {self.model.shape.setting}; {len(self.objects)} objects, "
            f"{len(self.relations)} relations; images at {self.images.size} px.",
            use=f"graphs = model.detect(images, {example})" if finds else f"graphs = model.relate(images, regions, {example})",
        )


def _surest(graph: SceneGraph, top: int, threshold: float) -> SceneGraph:
    regions = sorted((region for region in graph.regions if region.score > threshold), key=lambda region: -region.score)
    return SceneGraph(tuple(regions[:top]))
