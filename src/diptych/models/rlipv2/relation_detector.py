"""Relation detectors for free label texts: ParSe, ParSeD, ParSeDA (RLIP, 2209.01814; RLIPv2, 2308.09351).

Letters: B images, S decoder layers, Q pair queries, E = 2Q entity queries (subjects, then objects), C entity texts (the last is
"no objects"), R relation texts, T = C + R, L text tokens, D width. Given pairs are N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.data.graphs.pairs import PairPredictions, RegionPairs
from diptych.models.detection.backbone import DetectionBackbone
from diptych.models.detection.decoder_layer import DecoderLayer
from diptych.models.detection.deformable_attention import DeformableAttention
from diptych.models.detection.deformable_encoder import EncoderLayer, LanguageFusedEncoder, LanguageLayer
from diptych.models.detection.feature_pyramid import FeaturePyramid
from diptych.models.detection.language_fusion import GATES, BidirectionalFusion, GateKind, LateFusion
from diptych.models.layers.multi_branch_fusion import MultiBranchFusion
from diptych.models.pairs.classifiers.label_classifier import LabelClassifier
from diptych.models.rlipv2.pair_decoder import EntityDecoder, RelationDecoder, RelationPosition, RelationStart
from diptych.models.rlipv2.pair_queries import AnchorQueries, FreeQueries, GivenQueries, HideTwins, PointQueries
from diptych.models.rlipv2.relation_refinement import RelationRefinement, repeated_last
from diptych.models.towers.label_encoder import LabelEncoder

Variant = Literal["parse", "parsed", "parseda"]
Fusion = Literal["alif", "late", "none"]
Layer = TypeVar("Layer", EncoderLayer, DecoderLayer)


@dataclass(frozen=True, kw_only=True)
class RelationDetectorConfig:
    """Configuration of a `RelationDetector`, without its backbone and label encoder. Defaults: RLIPv2-ParSeDA, as published.

    variant          parse (on DETR), parsed (Deformable DETR), parseda (DAB-Deformable-DETR)
    pairs            Q, pair queries (the published 200 queries are 100 pairs)
    given            queries are given regions (R-Tagger)
    given_point      with the released wiring of given boxes (`GivenQueries`)
    hide_twins       when slots of the same given region are hidden from each other: always; training (as released); never
    relation_start   initial relation queries, and with them their positions (`RelationDecoder`): both (published),
                     slots (a released tagger with ResNet), fused; none: both, but for given pairs fused, at the pair's own box
    width, heads, mlp_width   of encoder and decoders
    encoder_layers, decoder_layers, levels, points   deformable attention: levels of the pyramid, sampling points per level
    branches         of the fusion of subject and object
    dropout          in encoder and decoders
    norm_groups      of the GroupNorms in the pyramid (`FeaturePyramid`); none: the published 32 at the published width
    centred          positions at pixel centres (`map_sine`): Swin as released; not ResNet
    in_padded        positions of boxes in the padded image (`BoxPosition`), as released
    relation_boxes   frozen box heads of the relation decoder (`RelationDecoder`), as released: they have an effect only with a
                     checkpoint's weights; parse has no references, so it has none
    fusion           alif (in the encoder), late (after the decoders, RLIPv1), none
    fusion_before    encoder layers before which image and labels are fused
    fusion_width, fusion_dropout   of a fusion, all heads together
    coarsest_only    only the coarsest level is fused with the labels
    released_masks   attention masks as the release applies them: labels attend to padded positions of the coarsest level, and in
                     training, texts whose encoded values sum to 0 or less (its test for padding, which about half of all
                     texts fail) are masked for other texts and, with late fusion, for queries. False: only padding is masked
    gate             gate on the fused features (`language_fusion.Gate`); published: one learned scalar per direction
    gate_start       its initial value; none: 1 / levels
    language_layers, language_heads, language_mlp   of the self-attention layers of labels after each fusion
    layer_texts      each decoder layer is classified against the labels of its own fusion (as many fusions as decoder layers);
                     off, or with another kind of fusion: all against the last
    refine_steps     message-passing steps between the pairs after the decoders, each with predictions and a loss
                     (`RelationRefinement`); 0: none
    text_scale       initial scale of the logits (`LabelClassifier`); narrow models need more than the published 1/2
    """

    variant: Variant = "parseda"
    pairs: int = 100
    given: bool = False
    given_point: bool = False
    hide_twins: HideTwins = "always"
    relation_start: RelationStart | None = None
    width: int = 256
    heads: int = 8
    mlp_width: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 3
    levels: int = 4
    points: int = 4
    branches: int = 16
    dropout: float = 0.0
    norm_groups: int | None = None
    centred: bool = False
    in_padded: bool = True
    relation_boxes: bool = True
    fusion: Fusion = "alif"
    fusion_before: tuple[int, ...] = (0, 2, 4)
    fusion_width: int = 2048
    fusion_dropout: float = 0.1
    coarsest_only: bool = True
    released_masks: bool = False
    gate: GateKind = "scalar"
    gate_start: float | None = None
    language_layers: int = 1
    language_heads: int = 12
    language_mlp: int = 3072
    layer_texts: bool = True
    refine_steps: int = 0
    text_scale: float = 0.5

    def __post_init__(self) -> None:
        for name, choices in (
            ("variant", ("parse", "parsed", "parseda")),
            ("fusion", ("alif", "late", "none")),
            ("gate", GATES),
            ("hide_twins", get_args(HideTwins)),
            ("relation_start", (None, *get_args(RelationStart))),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"unknown {name} {getattr(self, name)!r} (expected {' | '.join(map(str, choices))})")
        if self.width % 4 or self.width % self.heads:
            raise ConfigError(f"width {self.width} with {self.heads} heads (expected a multiple of 4 and of the heads)")
        if self.norm_groups is not None and (self.norm_groups < 1 or self.width % self.norm_groups):
            raise ConfigError(f"{self.norm_groups} norm_groups for a width of {self.width} (expected a divisor of the width)")
        if self.refine_steps < 0:
            raise ConfigError(f"refine_steps is {self.refine_steps} (expected 0 or more)")
        if min(self.pairs, self.encoder_layers, self.decoder_layers) < 1:
            raise ConfigError("a detector needs one pair query, one encoder layer and one decoder layer or more")
        if self.variant == "parse" and (self.levels != 1 or self.given):
            raise ConfigError("variant 'parse' reads one level and has no given queries (expected levels=1, given=False)")
        if self.variant == "parse" and self.relation_start is not None:
            raise ConfigError("relations of variant 'parse' start from zero (expected relation_start=None)")
        if self.fusion == "alif" and self.layer_texts and len(self.fusion_before) != self.decoder_layers:
            raise ConfigError(
                f"{len(self.fusion_before)} meetings for {self.decoder_layers} decoder layers "
                "(expected as many, or layer_texts=False)"
            )


@dataclass(frozen=True, slots=True)
class PairSet(PairPredictions):
    """Predictions of a relation detector after every decoder layer (inference uses the last).

    Boxes are cxcywh in 0..1 of the image without its padding. Logits are unnormalised: for a softmax over C for entities,
    for R sigmoids for relations.

    relation_text_RD   the encoded relation texts before fusion with any image, for label similarity
    """

    relation_text_RD: Tensor


class RelationDetector(nn.Module):
    """Detector of pairs with relations from images and label texts.

    >>> from diptych.models.detection.backbone import detection_backbone
    >>> from diptych.models.towers.label_encoder import label_encoder
    >>> shape = RelationDetectorConfig(width=32, heads=2, mlp_width=32, levels=2, encoder_layers=1, decoder_layers=1, pairs=3,
    ...     fusion_before=(0,), fusion_width=32, language_heads=2, language_mlp=32)
    >>> detector = RelationDetector(detection_backbone("conv_tiny"), label_encoder("vectors", width=16), shape)
    >>> found = detector(torch.rand(1, 3, 64, 64), torch.rand(5, 16), entities=3)
    >>> list(found.relation_logit_BSQR.shape)
    [1, 1, 3, 2]
    """

    def __init__(self, backbone: DetectionBackbone, labels: LabelEncoder, shape: RelationDetectorConfig) -> None:
        super().__init__()
        self.backbone, self.labels, self.shape = backbone, labels, shape
        width, pairs, dense = shape.width, shape.pairs, shape.variant == "parse"
        self.pyramid = FeaturePyramid(
            backbone.channels, width, levels=shape.levels, centred=shape.centred, groups=shape.norm_groups
        )
        self.encoder = _encoder(shape, labels.width)
        anchors = not dense and (shape.variant == "parseda" or shape.given) and not (shape.given and shape.given_point)
        self.entity_decoder = EntityDecoder(
            _layers(DecoderLayer, shape, shape.decoder_layers), width, anchors=anchors, in_padded=shape.in_padded
        )
        self.relation_decoder = _relation_decoder(shape)
        self.late_entities = self.late_relations = None
        if shape.fusion == "late":
            self.late_entities, self.late_relations = (
                LateFusion(width, shape.heads, mlp_width=shape.mlp_width, layers=shape.decoder_layers, dropout=shape.dropout)
                for _ in range(2)
            )
        self.reset_parameters()
        if shape.relation_boxes and not dense:
            self.relation_decoder.add_boxes(self.entity_decoder)
        # After the general initialisation: these keep their own.
        self.queries: nn.Module = (
            GivenQueries(width, point=shape.given_point, hide_twins=shape.hide_twins)
            if shape.given
            else {"parseda": AnchorQueries, "parsed": PointQueries, "parse": FreeQueries}[shape.variant](pairs, width)
        )
        self.narrow = nn.Sequential(
            nn.Linear(labels.width, width), nn.LayerNorm(width, eps=1e-12), nn.Dropout(shape.fusion_dropout)
        )
        self.classifier = LabelClassifier(width, scale=shape.text_scale)
        self.refinement = RelationRefinement(width, shape.refine_steps) if shape.refine_steps else None

    def reset_parameters(self) -> None:
        """Initialise encoder and decoders as published: every matrix Xavier-uniform, then
        the parts with an initialisation of their own.
        """
        for part in (self.encoder, self.entity_decoder, self.relation_decoder, self.late_entities, self.late_relations):
            if part is None:
                continue
            learned = {id(query) for query in (self.relation_decoder.content_QD, self.relation_decoder.position_ND)}
            for parameter in part.parameters():
                if parameter.ndim > 1 and id(parameter) not in learned:
                    nn.init.xavier_uniform_(parameter)
            for module in part.modules():
                if isinstance(module, DeformableAttention | MultiBranchFusion):
                    module.reset_parameters()
        self.entity_decoder.reset_boxes()

    def forward(
        self,
        image_BCHW: Tensor,
        label_TL: Tensor,
        label_mask_TL: Tensor | None = None,
        *,
        entities: int,
        pixel_BHW: Tensor | None = None,
        given: RegionPairs | None = None,
    ) -> PairSet:
        """label_TL   token ids (or what the label encoder takes) of C entity texts, "no objects" the last of them, then of the
                   relation texts; one list for the whole batch, encoded once
        entities   C
        pixel_BHW  True at real pixels; None when no image is padded
        given      the pairs, for a detector of given regions
        """
        return self.with_labels(
            image_BCHW, self.labels(label_TL, label_mask_TL), entities=entities, pixel_BHW=pixel_BHW, given=given
        )

    def with_labels(
        self,
        image_BCHW: Tensor,
        text_TD: Tensor,
        *,
        entities: int,
        pixel_BHW: Tensor | None = None,
        given: RegionPairs | None = None,
    ) -> PairSet:
        """As `forward`, with encoded labels (`self.labels`), so that a list is encoded once for many batches."""
        self._check(image_BCHW, text_TD, entities, given)
        pyramid = self.pyramid(self.backbone(image_BCHW), pixel_BHW)
        hidden_T = ~(text_TD.sum(-1) > 0) if self.shape.released_masks and self.training else None
        pyramid, met = self.encoder(pyramid, text_TD.expand(len(image_BCHW), -1, -1), hidden_T)
        text_SXTD = [self.narrow(text) for text in met] or [self.narrow(text_TD)]
        if isinstance(self.queries, GivenQueries):
            assert given is not None
            queries = self.queries(given, text_SXTD[-1][..., :entities, :])
        else:
            queries = self.queries(len(image_BCHW))
        entity_BSED, box_BSE4 = self.entity_decoder(queries, pyramid)
        hidden_BNN = None if given is None else _padding(given.valid_BG)
        relation_BSQD = self.relation_decoder(entity_BSED[:, -1], box_BSE4[:, -1], pyramid, hidden_BNN)
        text = self._decoder_texts(text_SXTD, len(image_BCHW))
        if self.late_entities is not None:
            hidden = (None, None) if hidden_T is None else (hidden_T[:entities], hidden_T[entities:])
            decoded = entity_BSED[:, -1], relation_BSQD[:, -1]
            entity_BSED, relation_BSQD, text = self._fuse_late(*decoded, text, entities, given, hidden)
            # Published: the boxes, too, are predicted from the fused queries, with the references of the decoder.
            box_BSE4 = self.entity_decoder.read_boxes(entity_BSED, queries.reference_BQC, box_BSE4)
        text = self.classifier.texts(text)
        subject_box, object_box = box_BSE4.chunk(2, 2)
        subject_logit, object_logit = self.classifier.entities(entity_BSED, text[..., :entities, :]).chunk(2, 2)
        name = text[..., entities:, :]
        relation_logit = self.classifier.relations(relation_BSQD, name)
        if self.refinement is not None:
            valid_BQ = None if given is None else given.valid_BG
            refined_BTQD = self.refinement(relation_BSQD[:, -1], valid_BQ)
            steps = self.refinement.steps
            last_name = name[:, -1:].expand(-1, steps, -1, -1) if name.ndim == 4 else name
            relation_logit = torch.cat((relation_logit, self.classifier.relations(refined_BTQD, last_name)), 1)
            subject_box, object_box = repeated_last(subject_box, steps), repeated_last(object_box, steps)
            subject_logit, object_logit = repeated_last(subject_logit, steps), repeated_last(object_logit, steps)
        return PairSet(subject_box, object_box, subject_logit, object_logit, relation_logit, text_TD[entities:])

    def _decoder_texts(self, texts: list[Tensor], batch: int) -> Tensor:
        """Return the label texts of decoder layers: one list for all, [T, D] (late fusion: [B, T, D]), or one per layer, [B, S,
        T, D].
        """
        if self.late_entities is not None:
            return texts[-1].expand(batch, -1, -1)
        if len(texts) == 1 and texts[0].ndim == 2:
            return texts[0]
        chosen = texts if self.shape.layer_texts else [texts[-1]] * self.shape.decoder_layers
        return torch.stack(chosen, 1)

    def _fuse_late(
        self,
        entity_BED: Tensor,
        relation_BQD: Tensor,
        text_BTD: Tensor,
        entities: int,
        given: RegionPairs | None,
        hidden: tuple[Tensor | None, Tensor | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return entity_BSED, relation_BSQD and text_BSTD after each layer of late fusion, from the decoders' last contents."""
        assert self.late_entities is not None
        assert self.late_relations is not None
        valid_BN = None if given is None else given.valid_BG
        valid_BE = None if valid_BN is None else valid_BN.repeat(1, 2)
        entity_BSED, name_BSCD = self.late_entities(entity_BED, text_BTD[:, :entities], valid_BE, hidden[0])
        relation_BSQD, name_BSRD = self.late_relations(relation_BQD, text_BTD[:, entities:], valid_BN, hidden[1])
        return entity_BSED, relation_BSQD, torch.cat((name_BSCD, name_BSRD), 2)

    def _check(self, image_BCHW: Tensor, text_TD: Tensor, entities: int, given: RegionPairs | None) -> None:
        least = self.backbone.strides[-1]
        if image_BCHW.ndim != 4 or image_BCHW.shape[1] != 3 or min(image_BCHW.shape[2:]) < least:
            raise ShapeError(f"images must be [B, 3, H, W] with sides of {least} pixels or more, got {list(image_BCHW.shape)}")
        if not 2 <= entities <= len(text_TD):
            raise ShapeError(
                f"{entities} entity texts of {len(text_TD)} texts (expected 2 or more, the background among them, and at most all)"
            )
        if (given is not None) != self.shape.given:
            raise ConfigError(
                "this detector detects its own regions (given=False in its shape); it takes no given pairs"
                if given is not None
                else "this detector relates given regions (given=True in its shape): pass given="
            )
        slots = self.relation_decoder.slots
        if given is not None and slots is not None and given.valid_BG.shape[1] > slots:
            raise ShapeError(f"{given.valid_BG.shape[1]} given pairs for {slots} slots (expected at most as many)")


def _encoder(shape: RelationDetectorConfig, label_width: int) -> LanguageFusedEncoder:
    layers = _layers(EncoderLayer, shape, shape.encoder_layers)
    if shape.fusion != "alif":
        return LanguageFusedEncoder(layers)
    fusions = [
        BidirectionalFusion(
            shape.width,
            label_width,
            width=shape.fusion_width,
            heads=shape.heads,
            gate=shape.gate,
            gate_start=1 / shape.levels if shape.gate_start is None else shape.gate_start,
            dropout=shape.fusion_dropout,
        )
        for _ in shape.fusion_before
    ]
    language = [
        [
            LanguageLayer(label_width, shape.language_heads, mlp_width=shape.language_mlp, dropout=shape.fusion_dropout)
            for _ in range(shape.language_layers)
        ]
        for _ in shape.fusion_before
    ]
    return LanguageFusedEncoder(
        layers,
        fusions,
        language,
        fusion_before=shape.fusion_before,
        coarsest_only=shape.coarsest_only,
        read_padding=shape.released_masks,
    )


def _relation_decoder(shape: RelationDetectorConfig) -> RelationDecoder:
    position: RelationPosition
    start: RelationStart | Literal["zero"]
    if shape.variant == "parse":
        position, start = "entities", "zero"
    elif shape.variant == "parseda" or (shape.given and shape.relation_start is None):
        position, start = "box", shape.relation_start or ("fused" if shape.given else "both")
    else:
        start = shape.relation_start or "both"
        position = "entities" if start == "slots" else "learned"
    return RelationDecoder(
        _layers(DecoderLayer, shape, shape.decoder_layers),
        shape.width,
        shape.pairs,
        position=position,
        start=start,
        branches=shape.branches,
        in_padded=shape.in_padded,
    )


def _layers(kind: type[Layer], shape: RelationDetectorConfig, count: int) -> list[Layer]:
    return [
        kind(
            shape.width,
            shape.heads,
            mlp_width=shape.mlp_width,
            levels=shape.levels,
            points=shape.points,
            dense=shape.variant == "parse",
            dropout=shape.dropout,
        )
        for _ in range(count)
    ]


def _padding(valid_BN: Tensor) -> Tensor:
    """Return True where a slot must not attend to another, since the other is padding."""
    itself_NN = torch.eye(valid_BN.shape[1], dtype=torch.bool, device=valid_BN.device)
    return ~valid_BN[:, None] & ~itself_NN
