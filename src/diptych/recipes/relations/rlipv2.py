"""RLIPv2: detection of objects and relations given as free text, with early fusion of image and label features in the encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, Self

import torch
from torch import Tensor

from diptych.core.config import with_changes
from diptych.core.contracts import Draws, Optimiser, Rule
from diptych.core.errors import ConfigError
from diptych.data.graphs.batch import GraphBatch
from diptych.data.graphs.label_lists import NO_OBJECTS, LabelLists
from diptych.data.graphs.region_noise import RegionNoise
from diptych.data.vocabularies import vocabulary
from diptych.models.detection.backbone import DetectionBackbone, detection_backbone
from diptych.models.rlipv2.graph_detector import GraphDetector
from diptych.models.rlipv2.published import BACKBONES, FROZEN, ROBERTA
from diptych.models.rlipv2.relation_detector import PairSet, RelationDetector, RelationDetectorConfig
from diptych.models.towers.label_encoder import LabelEncoder, label_encoder
from diptych.models.towers.label_texts import TokenTexts
from diptych.objectives.boxes.pair_set import PairSetLoss
from diptych.recipes._shared.scene_graphs import GraphRecipe, Triplet
from diptych.tasks.relations.hico_det_splits import unseen

Unseen = Literal["", "uc_rf", "uc_nf", "uo"]

FILL_PAIRS = 100
"""Pairs of given regions an image, unrelated ones drawn in: what the tagger is trained on."""


@dataclass(frozen=True, kw_only=True)
class RLIPv2(GraphRecipe):
    """RLIPv2: Fast Scaling of Relational Language-Image Pre-training (Yuan et al., 2023, arXiv 2308.09351).

    An image is matched with two lists of free texts, objects and relations, each text encoded alone. In the encoder, places of the
    image and labels read each other through one matrix of scores (ALIF); subjects and objects are decoded in parallel, pair by
    pair, and relations after them (ParSe). Each query is assigned to one true pair; the relations of a pair are worth as much as its
    boxes lie well (quality labels), and similar names earn a part (pseudo-labels). Its baselines are fields of its `shape`:
    `fusion` "late" is RLIPv1 (2209.01814), "none" lets texts meet the image in the classifier only; `variant` takes ParSe back to DETR
    or Deformable DETR.

    With `given` the queries are known regions: the R-Tagger, which finds relations for detection data
    (`curate/tagging/relation_tags.py`).

    Published settings are presets: paper (pre-training, ResNet-50), swin_tiny, swin_large, hico_det, hico_det_few, hico_det_uc_rf,
    hico_det_uc_nf, v_coco, open_images, tagger, tagger_released. Zero-shot evaluation needs no preset: ask a pre-trained model by
    other names.

    We depart where the released code does not do what it means: attention masks hide what they should (`released_masks`); pairs
    beyond the number of queries are drawn, not cut by file order; mirrored images never keep a wrong "left"; the noise on given
    labels takes all labels; an object that does not exist costs nothing in matching (`missing`); divisors of all loss terms count
    over all processes (`divisors`); a subject of HICO-DET is called what it is (`subject_name`); pictures without a relation stay, as
    negatives, where released pre-training leaves them out.

    backbone     conv_tiny, or timm:NAME
    frozen_norm  BatchNorm of the backbone as fixed scale and shift (for trained weights only)
    drop_path    highest rate of stochastic depth in the backbone
    frozen       regular expression of parameters that are not trained; published: stem and first stage of ResNet, norms and position
                 tables of Swin, which come trained (`--init`). For a ResNet from scratch: ""
    backbone_lr, text_lr   learning rate of backbone and label encoder, as shares of lr
    decay        weight decay is on "all" parameters, as released, or on "matrices" alone
    lr_drop      share of the run after which the learning rate is a tenth
    late         steps by which the schedule is late: 1, as released, where it moves after the update
    hide         HICO-DET's unseen classes whose relations are left out of training: uc_rf, uc_nf, uo
    subject_name  what every true subject is called; "": by its own label. Released scripts for HICO-DET and V-COCO call all of them
                 "bicycle", the second name, where they mean "person", the first
    noise_box, noise_label   strength of the noise on given boxes, share of given labels that are replaced
    loss         weights and rules of the loss (`PairSetLoss`); its fields are options like these. Given regions are matched by place,
                 whatever its `matching` says. With `unlabelled` "left_out", for relations that a tagger or captions said and that miss
                 many, other pairs of the image's regions are targets, too, up to the number of queries, of boxes and names alone
    start_queries  which queries of weights with more of them are the start: the first "pairs", or, as released, the "first" rows of all,
                 of which some were objects' and become subjects'
    shape        everything else about the detector (`RelationDetectorConfig`); its fields are options like these
    """

    slug = "rlipv2"
    presets = (
        "tiny",
        "paper",
        "swin_tiny",
        "swin_large",
        "hico_det",
        "hico_det_few",
        "hico_det_uc_rf",
        "hico_det_uc_nf",
        "v_coco",
        "open_images",
        "tagger",
        "tagger_released",
        "tagger_tiny",
    )

    batch_size: int = 64
    epochs: float = 20.0
    lr: float = 1.41e-4
    warmup: float = 0.0
    weight_decay: float = 1e-4
    clip_norm: float = 0.1
    lr_drop: float = 0.75
    late: int = 1
    backbone_lr: float = 0.1
    text_lr: float = 0.1
    frozen: str = FROZEN["resnet50"]
    decay: Literal["all", "matrices"] = "all"

    hide: Unseen = ""
    subject_name: str = ""
    noise_box: float = 0.6
    noise_label: float = 0.3

    backbone: str = "timm:resnet50"
    frozen_norm: bool = True
    drop_path: float = 0.0
    loss: PairSetLoss = field(default_factory=PairSetLoss)
    start_queries: Literal["pairs", "first"] = "pairs"
    shape: RelationDetectorConfig = field(default_factory=RelationDetectorConfig)
    labels_from: str = field(default="", metadata={"prepared": True})

    def __post_init__(self) -> None:
        if self.loss.matching == "given" and not self.shape.given:
            raise ConfigError("matching is 'given', but no regions are (expected layer | last, or --given True)")
        if self.subject_name and self.lists != "closed":
            raise ConfigError(f"subject_name is {self.subject_name!r} with sampled lists (expected --lists closed)")

    @property
    def measured_by(self) -> str:
        """Recall of triplets; where pictures are small worlds with a few relations, of the first five."""
        if self.lists == "closed" and self.vocabulary == "v-coco" and not self.shape.given:
            return "v_coco_triplets"  # what the release prints in training; V-COCO's texts are not the names of its data
        task = "vg150_predcls" if self.shape.given else "vg150"
        return f"{task}:ks=[5]" if self.square else task

    # ------------------------------------------------------------ model

    def started(self, model: Any) -> Self:
        """The recipe with backbone, text encoder, tokenizer and architecture of a detector's weights. Its own stay: the number of pairs,
        dropout, the released masks (off unless they are asked for), and what it is trained for."""
        if not isinstance(model, GraphDetector) or not isinstance(model.texts, TokenTexts):
            raise ConfigError(
                f"{getattr(model, 'name', model)} is not a detector of relations that reads names (expected rlipv2:... or a run)"
            )
        if model.model.shape.given != self.shape.given:
            kind = "given regions" if model.model.shape.given else "regions that it finds"
            raise ConfigError(
                f"{model.name} is a detector of {kind} (expected a preset of that kind: tagger_released, or another)"
            )
        own = {name: getattr(self.shape, name) for name in ("pairs", "dropout", "fusion_dropout", "released_masks")}
        spec = dict(model.model.backbone.spec)
        return replace(
            self,
            backbone=spec.pop("name"),
            frozen_norm=bool(spec.get("frozen_norm", False)),
            drop_path=float(spec.get("drop_path", 0.0)),
            frozen=FROZEN["resnet50" if "resnet" in model.model.backbone.spec["name"] else "swin_tiny"] if self.frozen else "",
            label_encoder="hf",
            labels_from=json.dumps({key: value for key, value in model.model.labels.spec.items() if key != "name"}),
            tokenizer="weights",
            learned_words=model.texts.tokenizer.to_json(),
            text_length=model.texts.length,
            shape=replace(model.model.shape, **own),
        )

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """With as many queries as this recipe has, where the weights have more."""
        pairs = self.shape.pairs
        out = dict(tensors)
        for name in ("queries.content_QD", "queries.anchor_Q4", "queries.position_QD", "relation_decoder.content_QD"):
            if name in out and len(out[name]) > 2 * pairs:
                halves = out[name].chunk(2)
                first = torch.cat([half[:pairs] for half in halves])
                out[name] = out[name][: 2 * pairs] if self.start_queries == "first" else first
        if (name := "relation_decoder.position_ND") in out:
            out[name] = out[name][:pairs]
        return out

    def model(self) -> RelationDetector:
        return RelationDetector(self.image_backbone(), self.text_part(), self.shape)

    def default_lists(self) -> LabelLists:
        """Of a tagger every name: it is asked for those of one image, and these say what captions can be read for."""
        if not self.shape.given or self.lists == "closed":
            return super().default_lists()
        return LabelLists(tuple(name for name in self.names.objects if name != NO_OBJECTS), self.names.relations)

    def image_backbone(self) -> DetectionBackbone:
        options: dict[str, Any] = {}
        if self.backbone.startswith("timm:"):
            options = {"frozen_norm": self.frozen_norm, "drop_path": self.drop_path}
        return detection_backbone(self.backbone, **options)

    def text_part(self) -> LabelEncoder:
        """One vector a label."""
        if self.label_encoder == "table":
            return label_encoder("table", labels=len(self.all_names()), width=self.shape.width)
        if self.label_encoder == "vectors":
            return label_encoder("vectors", width=self.frozen_texts().width)
        if self.label_encoder.startswith("hf:"):
            return label_encoder(self.label_encoder, length=self.text_length)
        if self.labels_from:
            return label_encoder("hf", **json.loads(self.labels_from))
        words = self.words()
        if self.label_encoder == "hf":
            # Our own pieces have marks and padding elsewhere than roberta-base; its sizes stay.
            marks = {"pad_token_id": words.pad_id, "bos_token_id": words.prefix[0], "eos_token_id": words.eot_id}
            return label_encoder("hf", config={**ROBERTA, **marks})
        return label_encoder(self.label_encoder, vocab_size=words.vocab_size, length=self.text_length)

    # ------------------------------------------------------------ a step

    def batch(self, draws: Draws) -> GraphBatch:
        return self.graph_batch(
            draws,
            max_pairs=self.shape.pairs,
            fill_pairs=FILL_PAIRS if self.shape.given else self.shape.pairs if self.loss.unlabelled == "left_out" else 0,
            noise=RegionNoise(box=self.noise_box, label=self.noise_label) if self.shape.given else None,
            hidden=_hidden(self.hide),
        )

    def features(self, model: RelationDetector, batch: GraphBatch) -> PairSet:
        predicted: PairSet = model(
            batch.image_BCHW,
            batch.text_TL,
            batch.text_mask_TL,
            entities=batch.lists.background + 1,
            pixel_BHW=None if self.square else batch.pixel_BHW,
            given=batch.given_pairs() if self.shape.given else None,
        )
        return predicted

    def losses(self, features: PairSet, batch: GraphBatch) -> dict[str, Tensor]:
        return self._terms(features, batch)[0]

    def metrics(self, features: PairSet, batch: GraphBatch) -> dict[str, Tensor]:
        return self._terms(features, batch)[1]

    def _terms(self, features: PairSet, batch: GraphBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        loss = replace(self.loss, matching="given") if self.shape.given else self.loss
        true = batch.true_pairs()
        if self.subject_name:
            if self.subject_name not in batch.lists.objects:
                examples = ", ".join(batch.lists.objects[:5])
                raise ConfigError(f"subject_name is {self.subject_name!r} (expected a name of the closed set: {examples}, ...)")
            subject_index = batch.lists.objects.index(self.subject_name)
            true = replace(true, subject_label_BG=torch.full_like(true.subject_label_BG, subject_index))
        return loss(features, true, relation_text_RD=features.relation_text_RD)

    def optimiser(self) -> Optimiser:
        decay = True if self.decay == "all" else None
        return replace(
            super().optimiser(),
            betas=(0.9, 0.999),
            eps=1e-8,
            schedule="step",
            drop_at=self.lr_drop,
            late=self.late,
            rules=(
                *([Rule(self.frozen, lr_scale=0.0)] if self.frozen else []),
                Rule(r"^backbone\.", lr_scale=self.backbone_lr, decay=decay),
                Rule(r"^labels\.", lr_scale=self.text_lr, decay=decay),
                *([Rule("", decay=True)] if decay else []),
            ),
        )

    # ------------------------------------------------------------ presets

    @classmethod
    def tiny(cls) -> Self:
        """0.9 million parameters at 64 pixels: minutes on two cores."""
        return cls(
            label_encoder="text_micro",
            pieces=512,
            text_length=8,
            image_size=64,
            square=True,
            mirror=0.0,
            backbone="conv_tiny",
            frozen_norm=False,
            frozen="",
            decay="matrices",
            shape=RelationDetectorConfig(
                pairs=8,
                width=64,
                heads=4,
                mlp_width=128,
                encoder_layers=4,
                decoder_layers=2,
                levels=2,
                branches=8,
                centred=True,
                in_padded=False,
                relation_boxes=False,
                fusion_before=(0, 2),
                fusion_width=128,
                fusion_dropout=0.0,
                language_heads=4,
                language_mlp=128,
                text_scale=4.0,
            ),
            loss=PairSetLoss(pseudo=None),
            batch_size=16,
            steps=3000,
            lr=1e-3,
            warmup=100.0,
            lr_drop=0.8,
            late=0,
            backbone_lr=1.0,
            text_lr=1.0,
            clip_norm=1.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """Pre-training with ResNet-50 on free-form scene graphs, 200 queries, 20 epochs."""
        return cls()

    @classmethod
    def swin_tiny(cls) -> Self:
        """Pre-training with Swin-T."""
        return cls(**SWIN_TINY)

    @classmethod
    def swin_large(cls) -> Self:
        """Pre-training with Swin-L."""
        return cls(**SWIN_LARGE)

    @classmethod
    def hico_det(cls) -> Self:
        """Fine-tuning on all of HICO-DET: 80 objects, 117 verbs, 128 queries."""
        return cls(lists="closed", vocabulary="hico-det", shape=FEWER, loss=TUNING)

    @classmethod
    def hico_det_few(cls) -> Self:
        """Fine-tuning on 1 % or 10 % of HICO-DET (`relation_splits.few_shot_rows` chooses the images): 10 epochs, batch 32. Its released
        scripts, other than all others, do not name subjects in matching and loss."""
        return cls(lists="closed", vocabulary="hico-det", **{**SHORT, "loss": replace(TUNING, subjects=False)})

    @classmethod
    def hico_det_uc_rf(cls) -> Self:
        """HICO-DET with 120 combinations of verb and object hidden, the rare ones first. Its released scripts train for 20 epochs, those
        of `hico_det_uc_nf` for 10."""
        return cls(lists="closed", vocabulary="hico-det", shape=FEWER, hide="uc_rf", batch_size=32, lr=1e-4, loss=TUNING)

    @classmethod
    def hico_det_uc_nf(cls) -> Self:
        """HICO-DET with 120 combinations of verb and object hidden, the frequent ones first."""
        return cls(lists="closed", vocabulary="hico-det", shape=FEWER, hide="uc_nf", **SHORT)

    @classmethod
    def v_coco(cls) -> Self:
        """Fine-tuning on V-COCO: 29 action-roles; no quality labels, since some pairs have no object."""
        loss = PairSetLoss(pseudo=None, quality=False, focal="corner")
        return cls(lists="closed", vocabulary="v-coco", batch_size=32, lr=1e-4, loss=loss)

    @classmethod
    def open_images(cls) -> Self:
        """Fine-tuning on the scene graphs of Open Images V6: the objects of the data, 30 predicates."""
        return cls(lists="closed", vocabulary="open-images", batch_size=32, lr=1e-4, loss=TUNING)

    @classmethod
    def tagger(cls) -> Self:
        """The R-Tagger: ParSeD on given regions with noise, no quality labels, trained on Visual Genome alone. Its script leaves dropout
        at 0.1, other than those of ParSeDA."""
        return cls(
            shape=RelationDetectorConfig(variant="parsed", given=True, mlp_width=1024, dropout=0.1, gate="vector"),
            loss=PairSetLoss(focal="corner", quality=False, pseudo=None),
        )

    @classmethod
    def tagger_released(cls) -> Self:
        """The R-Tagger wired as released: points read off the given boxes, relations from learned slots, no leak mask in evaluation."""
        return with_changes(cls.tagger(), {"given_point": True, "relation_start": "slots", "hide_twins": "training"})

    @classmethod
    def tagger_tiny(cls) -> Self:
        """The tagger at the size of `tiny`."""
        changes = {"variant": "parsed", "given": True, "focal": "corner", "quality": False, "steps": 600}
        return with_changes(cls.tiny(), changes)


FEWER = RelationDetectorConfig(pairs=64)
"""128 queries, as for HICO-DET."""
SWIN: dict[str, Any] = {"frozen_norm": False, "frozen": FROZEN["swin_tiny"], "shape": RelationDetectorConfig(centred=True)}
SWIN_TINY: dict[str, Any] = {**SWIN, "backbone": BACKBONES["swin_tiny"]["name"], "drop_path": 0.2}
SWIN_LARGE: dict[str, Any] = {**SWIN, "backbone": BACKBONES["swin_large"]["name"], "drop_path": 0.5}
TUNING = PairSetLoss(pseudo=None)
"""On the names of a closed set every released script goes without pseudo-labels: they are for free-form names."""
SHORT: dict[str, Any] = {"batch_size": 32, "epochs": 10.0, "lr_drop": 0.7, "lr": 1e-4, "loss": TUNING}
"""Few labels: 10 epochs, a tenth of the rate after 7."""


@lru_cache
def _hidden(setting: Unseen) -> frozenset[Triplet]:
    classes = vocabulary("hico-det").triplets
    return frozenset(classes[number] for number in unseen(setting)) if setting else frozenset()
