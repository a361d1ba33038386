"""A grounding detector: regions of an image, and for each its logit for every token of a text.

Letters: B images, S decoder layers, Q queries, L tokens of a text (padded), D width, T width of tokens, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.data.graphs.grounded import TokenRegions
from diptych.models.detection.backbone import DetectionBackbone
from diptych.models.detection.box_reference import BoxPosition, refine_reference
from diptych.models.detection.decoder_layer import DecoderLayer
from diptych.models.detection.deformable_attention import DeformableAttention
from diptych.models.detection.deformable_encoder import EncoderLayer, LanguageFusedEncoder, LanguageLayer
from diptych.models.detection.feature_pyramid import FeaturePyramid, PyramidTokens
from diptych.models.detection.language_fusion import GATES, BidirectionalFusion, GateKind
from diptych.models.detection.text_pieces import encode_pieces
from diptych.models.detection.token_head import TokenHead
from diptych.models.layers.mlp import MLP
from diptych.models.towers.outputs import Tower


@dataclass(frozen=True, kw_only=True)
class GroundingConfig:
    """Everything about a `GroundingDetector` but its backbone and its text tower. Defaults: GLIP's fusion of six layers, over the
    encoder and decoder of DAB-Deformable-DETR.

    queries          learned anchor boxes, each a vector and a box
    width, heads, mlp_width   of encoder and decoder
    encoder_layers, decoder_layers, levels, points   deformable attention: levels of the pyramid, points read on each
    dropout          in encoder and decoder
    norm_groups      of the GroupNorms in the pyramid (`FeaturePyramid`); none: 32 at the width of 256
    centred          positions at pixel centres (`map_sine`): Swin as released; not ResNet
    fusion_before    encoder layers before which places and tokens read each other; empty: image and text meet in the head alone
    fusion_width, fusion_dropout   of a meeting, all heads together
    coarsest_only    only the coarsest level meets the tokens; GLIP fuses all
    gate, gate_start   gate of the fused features (`language_fusion.Gate`); GLIP: a number per channel that starts at 1 / layers
    language_layers, language_heads, language_mlp   of the layers among tokens after each meeting
    text_scale       reach of the logits at the start (`TokenHead`)
    text_ends        ids of tokens that end a piece of a text, each of which its tower reads alone (`text_pieces`); empty: it is
                     read whole
    """

    queries: int = 300
    width: int = 256
    heads: int = 8
    mlp_width: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    levels: int = 4
    points: int = 4
    dropout: float = 0.0
    norm_groups: int | None = None
    centred: bool = True
    fusion_before: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    fusion_width: int = 2048
    fusion_dropout: float = 0.1
    coarsest_only: bool = False
    gate: GateKind = "vector"
    gate_start: float | None = None
    language_layers: int = 1
    language_heads: int = 12
    language_mlp: int = 3072
    text_scale: float = 0.5
    text_ends: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.gate not in GATES:
            raise ConfigError(f"unknown gate {self.gate!r} (expected {' | '.join(GATES)})")
        if self.width % 4 or self.width % self.heads:
            raise ConfigError(f"width {self.width} with {self.heads} heads (expected a multiple of 4 and of the heads)")
        if min(self.queries, self.encoder_layers, self.decoder_layers) < 1:
            raise ConfigError("a detector needs one query, one encoder layer and one decoder layer or more")


class BoxDecoder(nn.Module):
    """Learned anchors through decoder layers; each layer gives its content and its boxes, which the next one starts from.

    A layer's box is sigmoid(MLP(content) + logit(reference)); heads start at no change (DAB-Deformable-DETR).
    """

    def __init__(self, layers: list[DecoderLayer], width: int, queries: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.content_QD = nn.Parameter(torch.randn(queries, width))
        self.anchor_Q4 = nn.Parameter(torch.randn(queries, 4))
        self.boxes = nn.ModuleList(MLP((width, width, width, 4)) for _ in layers)
        self.position = BoxPosition(width)

    def reset_boxes(self) -> None:
        """The published start of the box heads."""
        for head in self.boxes:
            assert isinstance(head, MLP)
            nn.init.zeros_(head.last.weight)
            nn.init.zeros_(head.last.bias)

    def forward(self, pyramid: PyramidTokens) -> tuple[Tensor, Tensor]:
        """content_BSQD and box_BSQ4 (cxcywh in 0..1) after each layer."""
        batch = len(pyramid.tokens_BPD)
        x_BQD = self.content_QD[None].expand(batch, -1, -1)
        box_BQ4 = self.anchor_Q4.sigmoid()[None].expand(batch, -1, -1)
        contents, boxes = [], []
        for row, (layer, head) in enumerate(zip(self.layers, self.boxes, strict=True)):
            position_BQD = self.position(box_BQ4, x_BQD, pyramid, first=row == 0)
            x_BQD = layer(x_BQD, position_BQD, box_BQ4, pyramid)
            found_BQ4 = refine_reference(box_BQ4, head(x_BQD))
            contents.append(x_BQD)
            boxes.append(found_BQ4)
            box_BQ4 = found_BQ4.detach()
        return torch.stack(contents, 1), torch.stack(boxes, 1)


class GroundingDetector(nn.Module):
    """Images and one text each to boxes, with a logit for every token of the text.

    >>> from diptych.models.detection.backbone import detection_backbone
    >>> from diptych.models.towers.towers import text_tower
    >>> shape = GroundingConfig(queries=3, width=32, heads=2, mlp_width=32, levels=2, encoder_layers=1, decoder_layers=2,
    ...     fusion_before=(0,), fusion_width=32, language_heads=2, language_mlp=32)
    >>> detector = GroundingDetector(detection_backbone("conv_tiny"), text_tower("text_micro", vocab_size=9, width=32), shape)
    >>> found = detector(torch.rand(1, 3, 64, 64), torch.ones(1, 5, dtype=torch.int64), torch.ones(1, 5, dtype=torch.bool))
    >>> list(found.box_BSQ4.shape), list(found.token_logit_BSQL.shape)
    ([1, 2, 3, 4], [1, 2, 3, 5])
    """

    def __init__(self, backbone: DetectionBackbone, text: Tower, shape: GroundingConfig) -> None:
        super().__init__()
        self.backbone, self.text, self.shape = backbone, text, shape
        width = shape.width
        self.pyramid = FeaturePyramid(
            backbone.channels, width, levels=shape.levels, centred=shape.centred, groups=shape.norm_groups
        )
        start = 1 / max(1, len(shape.fusion_before)) if shape.gate_start is None else shape.gate_start
        self.encoder = LanguageFusedEncoder(
            [
                EncoderLayer(
                    width,
                    shape.heads,
                    mlp_width=shape.mlp_width,
                    levels=shape.levels,
                    points=shape.points,
                    dropout=shape.dropout,
                )
                for _ in range(shape.encoder_layers)
            ],
            [
                BidirectionalFusion(
                    width,
                    text.width,
                    width=shape.fusion_width,
                    heads=shape.heads,
                    gate=shape.gate,
                    gate_start=start,
                    dropout=shape.fusion_dropout,
                )
                for _ in shape.fusion_before
            ],
            [
                [
                    LanguageLayer(text.width, shape.language_heads, mlp_width=shape.language_mlp, dropout=shape.fusion_dropout)
                    for _ in range(shape.language_layers)
                ]
                for _ in shape.fusion_before
            ],
            fusion_before=shape.fusion_before,
            coarsest_only=shape.coarsest_only,
        )
        layers = [
            DecoderLayer(
                width, shape.heads, mlp_width=shape.mlp_width, levels=shape.levels, points=shape.points, dropout=shape.dropout
            )
            for _ in range(shape.decoder_layers)
        ]
        self.decoder = BoxDecoder(layers, width, shape.queries)
        self.reset_parameters()
        self.head = TokenHead(width, text.width, scale=shape.text_scale)

    def reset_parameters(self) -> None:
        """Every matrix of encoder and decoder Xavier-uniform, then the parts that have a start of their own."""
        unchanged = {id(self.decoder.content_QD), id(self.decoder.anchor_Q4)}
        for part in (self.encoder, self.decoder):
            for parameter in part.parameters():
                if parameter.ndim > 1 and id(parameter) not in unchanged:
                    nn.init.xavier_uniform_(parameter)
            for module in part.modules():
                if isinstance(module, DeformableAttention):
                    module.reset_parameters()
        self.decoder.reset_boxes()

    def forward(self, image_BCHW: Tensor, text_BL: Tensor, mask_BL: Tensor, *, pixel_BHW: Tensor | None = None) -> TokenRegions:
        """text_BL   token ids of one text per image; mask_BL is True at real tokens
        pixel_BHW  True at real pixels; None when no image is padded
        """
        if len(image_BCHW) != len(text_BL):
            raise ShapeError(f"{len(image_BCHW)} images but {len(text_BL)} texts (expected a text an image)")
        return self.ground(self.backbone(image_BCHW), self.read(text_BL, mask_BL), mask_BL, pixel_BHW=pixel_BHW)

    def read(self, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """token_BLT of the text tower, before image and text meet."""
        if self.shape.text_ends:
            return encode_pieces(self.text, text_BL, mask_BL, self.shape.text_ends)
        token_BLT: Tensor = self.text(text_BL, mask_BL).tokens_BPD
        return token_BLT

    def ground(self, maps: list[Tensor], token_BLT: Tensor, mask_BL: Tensor, *, pixel_BHW: Tensor | None = None) -> TokenRegions:
        """The same from the maps of the backbone and the tokens of the text tower, where those have met already or are kept."""
        pyramid, met = self.encoder(self.pyramid(maps, pixel_BHW), token_BLT, label_mask_BT=mask_BL)
        content_BSQD, box_BSQ4 = self.decoder(pyramid)
        logit_BSQL = self.head(content_BSQD, met[-1] if met else token_BLT)
        return TokenRegions(box_BSQ4, logit_BSQL, mask_BL)
