"""PE-Net: scene graphs by one prototype per predicate, computed from word vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.contracts import Dataset, Draws, Optimiser, Recipe
from diptych.core.errors import ConfigError, DataError
from diptych.core.grouped_fields import grouped
from diptych.data.graphs.batch import GraphBatch, graph_batch
from diptych.data.graphs.label_lists import NO_OBJECTS, CorpusNames, LabelLists
from diptych.data.graphs.transforms import DetectionTransform
from diptych.data.vocabularies import vocabulary
from diptych.models.detection.backbone import DetectionBackbone, detection_backbone
from diptych.models.detection.faster_rcnn import FasterRCNNConfig
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.penet.batch_targets import sample_predicate, scene_graph_targets, sizes_of
from diptych.models.penet.graph_relater import GraphRelater
from diptych.models.penet.opened import RELEASED
from diptych.models.penet.pair_sampling import PairSampling
from diptych.models.penet.predicate_head import PENetHeadConfig
from diptych.models.penet.scene_graph_network import (
    GraphScores,
    SceneGraphConfig,
    SceneGraphNetwork,
    Setting,
    copy_detector_layers,
)
from diptych.models.towers.name_vectors import RANDOM, name_vectors
from diptych.objectives.boxes.predicate_prototypes import mean_over_pairs, nearest_distances, pair_cross_entropy
from diptych.objectives.gather import mean_over_processes
from diptych.recipes._shared.scene_graph_config import PrototypeLosses, SceneGraphRates, SceneGraphViews

BACKGROUND = "__background__"
"""What the release looks up in its word vectors for "no object" and "no relation", and does not find."""
STRIDES = (4, 8, 16, 32)
COUNTS = ("considered", "proposals", "learns_considered", "detections")
"""Of the detector's fields those that are a phase's own and no property of its weights."""
DETECTOR_FROZEN = r"^detector\.backbone\.net\.(conv1|bn1|layer1)\."
"""Stem and first stage stay as they are while the detector is trained."""


@grouped("pictures", "prototype_losses", "rates")
@dataclass(frozen=True, kw_only=True)
class PENet(Recipe[SceneGraphNetwork, GraphBatch, GraphScores]):
    """Prototype-based Embedding Network for Scene Graph Generation (Zheng et al., 2023, arXiv 2303.07096).

    Every predicate has a prototype made from its word vector, and a pair of things a vector made from their labels, their looks and the
    region around both. Pairs are named by cosine; losses draw them to their own prototype and away from the nearest others, and keep
    the prototypes apart, so that rare predicates are not swallowed by frequent ones that look alike. Two stages: the detector comes
    trained and stays as it is. Its baseline is a linear classifier on the same vectors (`classifier` "linear"), and the trivial one
    that with `adjust` 1.

    `setting` is what is given: predcls boxes and labels, sgcls boxes, sgdet nothing. A network trained for one answers those before it.
    Presets: paper (predcls on VG150), sgcls, sgdet, and detection, the phase before them, whose run is their `--init`.

    A part of the published mean recall comes from how it was scored: `diptych eval RUN vg150_predcls --relation-nms` applies the
    relation NMS of the released scorer, to this or any other model.

    We depart: a released layer that nothing reads (`linear_pred`) is left out. A mirrored box lies a pixel further than the release's.
    Images have ImageNet's mean and deviation, not Caffe's (`pixel_mean`, `pixel_std`), unless a run starts from released weights.

    setting      predcls, sgcls, sgdet
    trains       relations: the detector stays as it is (published). detector: that alone. both: at once, from scratch, with true boxes
                 beside the found ones, for small models
    vocabulary   vg150, open-images: names in their published order; "" takes those of the data
    words        where word vectors come from: a file of GloVe's form (published: 6B tokens, 300 dimensions), minilm-l6, or random
    image_size   short side in pixels, or both sides when `square`
    pictures, prototype_losses, rates   sizes of pictures (`SceneGraphViews`), losses (`PrototypeLosses`) and rates (`SceneGraphRates`)
    adjust       logit adjustment (Menon et al., 2020, arXiv 2007.07314): so many times the log of a predicate's share of all relations
                 is added to its score in the cross-entropy, and not when it is asked; 0 leaves it out, as published
    max_scale    most that the learned factor of the cosines may be, which starts at 1 / .07; 0 leaves it free, as released
    backbone     conv_tiny, or timm:NAME with maps of strides 4, 8, 16 and 32
    frozen_norm  BatchNorm of the backbone as fixed scale and shift (for trained weights only)
    frozen       regular expression of what stays as it is when the detector is trained
    repeats      overlap from which two found boxes may not be named alike anew
    outside      a name outside the vocabulary: refuse, or drop its region or relation
    relation_head, detector, sampling   the rest (`PENetHeadConfig`, `FasterRCNNConfig`, `PairSampling`). The fields of all
                 configurations are options like these
    """

    slug = "penet"
    presets = ("tiny", "paper", "sgcls", "sgdet", "detection")
    needs = ("image", "regions")
    cacheable = False  # batch norms over all regions and pairs, and means over all pairs

    setting: Setting = "predcls"
    trains: Literal["relations", "detector", "both"] = "relations"
    vocabulary: str = ""
    words: str = RANDOM
    image_size: int = 600
    pictures: SceneGraphViews = field(default_factory=SceneGraphViews)

    batch_size: int = 8
    steps: int = 60_000
    lr: float = 8e-3
    warmup: float = 500.0
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    rates: SceneGraphRates = field(default_factory=SceneGraphRates)

    prototype_losses: PrototypeLosses = field(default_factory=PrototypeLosses)
    adjust: float = 0.0
    max_scale: float = 0.0

    backbone: str = "timm:resnext101_32x8d"
    frozen_norm: bool = True
    frozen: str = DETECTOR_FROZEN
    repeats: float = 0.5
    outside: Literal["refuse", "drop"] = "refuse"
    relation_head: PENetHeadConfig = field(default_factory=PENetHeadConfig)
    detector: FasterRCNNConfig = field(default_factory=FasterRCNNConfig)
    sampling: PairSampling = field(default_factory=PairSampling)
    corpus: CorpusNames | None = field(default=None, metadata={"prepared": True, "json": CorpusNames})
    start_names: LabelLists | None = field(default=None, metadata={"prepared": True, "json": LabelLists, "style": {}})

    def __post_init__(self) -> None:
        if self.trains not in ("relations", "detector", "both"):
            raise ConfigError(f"trains is {self.trains!r} (expected relations | detector | both)")
        if self.max_scale and not self.max_scale >= 1:
            raise ConfigError(f"max_scale is {self.max_scale} (expected 1 or above, or 0 for no bound)")

    # ------------------------------------------------------------ names and pictures

    def prepare(self, data: Dataset) -> Self:
        """The names of the data and how often each occurs. Weights to start from must know the same ones."""
        made = self
        if made.corpus is None:
            names = CorpusNames.of(data)
            if not names.relations:
                raise DataError(f"no image of '{data.name}' has a relation", field="relations", expected="scene graphs")
            made = replace(made, corpus=names)
        if made.start_names is not None and made.start_names != made.lists:
            raise ConfigError(
                f"the weights to start from know other names than '{data.name}' (expected --vocabulary, or the data they were trained on)"
            )
        return made

    @property
    def names(self) -> CorpusNames:
        """Every name of the training data, the most frequent first."""
        if self.corpus is None:
            raise ConfigError("the names are those of the data: call prepare(data) first")
        return self.corpus

    @property
    def lists(self) -> LabelLists:
        """The names of the vocabulary in its order, and the data's where that leaves something open."""
        return _lists(self)

    @property
    def measured_by(self) -> str:
        """Recall of triplets in its setting; where pictures are small worlds with a few relations, of the first five."""
        task = {"predcls": "vg150_predcls", "sgcls": "vg150_sgcls", "sgdet": "vg150"}[self.setting]
        return f"{task}:ks=[5]" if self.pictures.square else task

    @property
    def decode_size(self) -> int:
        """Full size: boxes are in pixels of it."""
        return 0

    @property
    def views(self) -> DetectionTransform:
        return self.pictures.training(self.image_size)

    @property
    def images(self) -> DetectionPreprocess:
        """Preprocessing of the deployed model."""
        return self.pictures.deployed(self.image_size)

    # ------------------------------------------------------------ a step

    def model(self) -> SceneGraphNetwork:
        shape = SceneGraphConfig(self.setting, self.relation_head, self.detector, self.repeats)
        lists = self.lists
        network = SceneGraphNetwork(self.image_backbone(), shape, len(lists.objects), len(lists.relations))
        width = self.relation_head.word_width
        objects = name_vectors((BACKGROUND, *lists.objects), self.words, rule="longest", width=width)
        with torch.no_grad():
            for table in (network.head.object_word_CE, network.head.naming.word_CE):
                table.weight.copy_(objects)
            if self.relation_head.classifier == "prototypes":  # "no relation" keeps its normal vector
                predicates = name_vectors(lists.relations, self.words, rule="mean", width=width)
                network.head.predicate_word_KE.weight[1:] = predicates
        return network

    def image_backbone(self) -> DetectionBackbone:
        if not self.backbone.startswith("timm:"):
            return detection_backbone(self.backbone)
        return detection_backbone(self.backbone, strides=STRIDES, frozen_norm=self.frozen_norm)

    def batch(self, draws: Draws) -> GraphBatch:
        items = tuple(sample_predicate(draw) for draw in draws)
        return graph_batch(
            replace(draws, items=items),
            views=self.views,
            labels=self.lists,
            outside=self.outside,
            max_pairs=int(self.sampling.pairs * self.sampling.positive),
            fill_pairs=self.sampling.pairs,
            multiple=1 if self.pictures.square else self.images.stride,
            mean=self.pictures.pixel_mean,
            std=self.pictures.pixel_std,
        )

    def features(self, model: SceneGraphNetwork, batch: GraphBatch) -> GraphScores:
        scores: GraphScores = model(
            batch.image_BCHW,
            sizes_of(batch),
            scene_graph_targets(batch),
            self.sampling,
            detects=self.trains != "relations",
            relates=self.relates,
        )
        return scores

    @property
    def relates(self) -> bool:
        return self.trains != "detector"

    def losses(self, features: GraphScores, batch: GraphBatch) -> dict[str, Tensor]:
        terms = {name.removeprefix("loss_"): mean_over_processes(value) for name, value in features.detecting.items()}
        scored, relation_P = features.scored, features.relation_P
        if scored is None:
            return terms
        logit_PK = scored.logit_PK + self.adjustment().to(scored.logit_PK) if self.adjust else scored.logit_PK
        terms["relations"] = pair_cross_entropy(logit_PK, relation_P)
        if features.naming_MC is not None:
            each_M = F.cross_entropy(features.naming_MC, features.label_M, reduction="none")
            terms["objects"] = mean_over_pairs(each_M)
        if scored.prototype_KD is not None:
            terms |= self.prototype_losses.terms(scored.pair_PD, scored.prototype_KD, relation_P)
        return terms

    def metrics(self, features: GraphScores, batch: GraphBatch) -> dict[str, Tensor]:
        """Share of related pairs whose predicate is the likeliest; the least distance between two prototypes; the scale."""
        values: dict[str, Tensor] = {}
        scored = features.scored
        if scored is None:
            return values
        related_P = features.relation_P > 0
        if related_P.any():
            right_P = scored.logit_PK[:, 1:].argmax(1) + 1 == features.relation_P
            values["accuracy"] = right_P[related_P].float().mean()
        if scored.prototype_KD is not None:
            values["nearest"] = nearest_distances(scored.prototype_KD).min().detach()
        if features.scale is not None:
            values["scale"] = features.scale.detach().mean()
        return values

    def adjustment(self) -> Tensor:
        """[K]: what `adjust` adds, "no relation" being left as it is."""
        counts = dict(zip(self.names.relations, self.names.relation_counts, strict=True))
        count_R = torch.tensor([max(1, counts.get(name, 0)) for name in self.lists.relations], dtype=torch.float64)
        return self.adjust * torch.cat((count_R.new_zeros(1), (count_R / count_R.sum()).log()))

    def after_update(self, model: SceneGraphNetwork, features: GraphScores, batch: GraphBatch, progress: float) -> None:
        if self.relation_head.classifier == "prototypes" and self.max_scale:
            with torch.no_grad():
                model.head.log_scale.clamp_(0, math.log(self.max_scale))

    def optimiser(self) -> Optimiser:
        unused = {"predcls": [r"^head\.naming\."], "sgcls": [], "sgdet": []}[self.setting]
        if self.trains == "detector":
            unused = [r"^(head|regions|pairs)\."]
        frozen = [r"^detector\."] if self.trains == "relations" else [self.frozen] if self.frozen else []
        if self.trains == "both" and self.setting != "sgdet":
            frozen += [r"^detector\.proposer\.", r"^detector\.heads\.box_predictor\.bbox_pred\."]
        if self.trains == "both" and self.setting == "predcls":
            frozen.append(r"^detector\.heads\.")
        return self.rates.applied_to(super().optimiser(), (*frozen, *unused))

    # ------------------------------------------------------------ weights and use

    def started(self, model: Any) -> Self:
        """The recipe for weights of another run of it: the same network and names; settings may differ."""
        if not isinstance(model, GraphRelater):
            raise ConfigError(
                f"{getattr(model, 'name', model)} is not a network of penet (expected one of its runs, --preset detection say)"
            )
        spec = dict(model.model.detector.backbone.spec)
        shape = model.model.shape
        return replace(
            self,
            backbone=spec.pop("name"),
            frozen_norm=bool(spec.get("frozen_norm", False)),
            relation_head=shape.head,
            detector=replace(shape.detector, **{name: getattr(self.detector, name) for name in COUNTS}),
            image_size=model.images.size,
            pictures=replace(
                self.pictures,
                longest=model.images.longest or self.pictures.longest,
                square=model.images.square,
                pixel_mean=model.images.mean,
                pixel_std=model.images.std,
            ),
            start_names=model.lists,
        )

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights of a detector alone: features of regions and pairs start as its own, as published."""
        out, layers = dict(tensors), "detector.heads.box_head."
        for name, tensor in tensors.items():
            if name.startswith(layers):
                for part in ("regions.", "pairs.layers."):
                    out.setdefault(part + name.removeprefix(layers), tensor)
        return out

    def deploy(self, model: SceneGraphNetwork) -> GraphRelater:
        if self.trains == "detector":
            copy_detector_layers(model)
        return GraphRelater(model, self.images, self.lists, name=self.slug)

    # ------------------------------------------------------------ presets

    @classmethod
    def tiny(cls) -> Self:
        """0.3 million parameters at 64 pixels, detector and relations at once from scratch: minutes on two cores."""
        return cls(
            setting="sgdet",
            trains="both",
            image_size=64,
            pictures=SceneGraphViews(square=True, mirror=0.0),
            backbone="conv_tiny",
            frozen_norm=False,
            frozen="",
            relation_head=PENetHeadConfig(width=64, word_width=32, naming_width=64, dropout=0.0),
            detector=FasterRCNNConfig(
                channels=32,
                region_width=128,
                pooled_side=5,
                anchors=(10, 18, 30),
                ratios=(0.5, 1.0, 2.0),
                considered=300,
                proposals=50,
                detections=16,
            ),
            sampling=PairSampling(pairs=32, positive=0.5),
            batch_size=16,
            steps=2000,
            lr=1e-3,
            warmup=100.0,
            rates=SceneGraphRates(momentum=0.0, lr_drops=(0.8,), warmup_from=None),
            clip_norm=1.0,
            max_scale=100.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """Predicates of VG150 with a frozen ResNeXt-101 detector: 60,000 steps of 8 images."""
        return cls(vocabulary="vg150", **PUBLISHED)

    @classmethod
    def sgcls(cls) -> Self:
        """As paper, labels made anew."""
        return cls(vocabulary="vg150", setting="sgcls", **PUBLISHED)

    @classmethod
    def sgdet(cls) -> Self:
        """As paper, boxes found by the detector."""
        return cls(vocabulary="vg150", setting="sgdet", **PUBLISHED)

    @classmethod
    def detection(cls) -> Self:
        """The detector that the others need: 50,000 steps of 8 images (Tang et al., 2020). Biases learn twice as fast; 12,000
        proposals of a map are considered while it trains, and 2,000 kept of an image. Gradients are not clipped, and the schedule moves
        before each update, as in the release's script for detectors."""
        shape = FasterRCNNConfig(learns_considered=12_000, proposals=2_000, detections=256, counting="inclusive")
        rates = SceneGraphRates(bias_lr=2.0, lr_drops=(0.6, 0.9), late=-1)
        plan: dict[str, Any] = {**PUBLISHED, "detector": shape, "steps": 50_000, "rates": rates, "clip_norm": 0.0}
        return cls(vocabulary="vg150", setting="sgdet", trains="detector", **plan)


PUBLISHED: dict[str, Any] = {
    "relation_head": RELEASED.head,
    "detector": RELEASED.detector,
    "sampling": PairSampling(last_pixel=True),
}


@lru_cache(maxsize=8)
def _lists(recipe: PENet) -> LabelLists:
    vocab = vocabulary(recipe.vocabulary) if recipe.vocabulary else None
    objects = vocab.objects if vocab and vocab.objects else tuple(sorted(n for n in recipe.names.objects if n != NO_OBJECTS))
    return LabelLists(objects, vocab.predicates if vocab and vocab.predicates else tuple(sorted(recipe.names.relations)))
