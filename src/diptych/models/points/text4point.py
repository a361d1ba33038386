"""Text4Point (2301.07584): point features are aligned with image pixels, and attend to class names inside the network.

Letters: B rooms, P points, G seeds, M pairs, K classes, L tokens, D width of the joint space, C channels, H W.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError
from diptych.core.rows import Embeddings, Rows
from diptych.data.text.prompts.class_prompts import ClassPrompts
from diptych.models.layers.frozen_modules import FrozenModules
from diptych.models.layers.learned_context import LearnedContext
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.points.pointnet2 import PointNet2, PointNet2Settings
from diptych.models.points.sampling import gather_points
from diptych.models.points.voxel_unet import VoxelUNet, VoxelUNetSettings
from diptych.models.towers.clip_resnet import CLIPResNet
from diptych.models.towers.dense_tap import dense_pool
from diptych.models.towers.text_embeddings import read_mask, token_table


@dataclass(frozen=True)
class TextQueryingSettings:
    """Sizes of what Text4Point adds to a point network.

    query_heads  of the cross-attention from points to texts
    query_hidden  factor of the hidden layer after it
    keep_start, add_start  initial values of the two learned weights of the points' own features and of the attended text
    pair_width   of the vectors of the decoder contrast
    context      learned vectors before a class name in fine-tuning; 0 keeps the fixed prompt
    """

    query_heads: int = 8
    query_hidden: float = 4.0
    keep_start: float = 1.0
    add_start: float = 1.0
    pair_width: int = 128
    context: int = 8

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class PointPixelFeatures:
    """seed_BGD, seen_BGD   unit vectors of seeds in the joint space, and of the frozen feature map at their pixels
    point_BMC, pixel_BMC  unit vectors of points and of the decoded image map at their pixels
    seed_id_BG, point_id_BM  index of each one's pixel in its frame
    score_BGK    cosines of seeds with class names; logit_BPK of the head; label_BG of seeds. None in the other phase
    scale        factor of both contrasts
    """

    seed_BGD: Embeddings[Tensor]
    seen_BGD: Embeddings[Tensor] | None
    point_BMC: Embeddings[Tensor] | None
    pixel_BMC: Embeddings[Tensor] | None
    seed_id_BG: Rows[Tensor] | None
    point_id_BM: Rows[Tensor] | None
    score_BGK: Rows[Tensor]
    logit_BPK: Rows[Tensor] | None
    label_BG: Rows[Tensor] | None
    scale: Tensor


class TextQuerying(nn.Module):
    """Cross-attention from points to class names, added to the points' own features.

    h_text = MLP(LN(attention(LN(h), LN(t), LN(t)))), in the width of the points' own features; the result is keep * own + add *
    h_text with learned scalars keep and add.
    """

    def __init__(self, width: int, own_width: int, settings: TextQueryingSettings) -> None:
        super().__init__()
        if width % settings.query_heads:
            raise ConfigError(f"width {width} in {settings.query_heads} heads (expected heads that divide the width)")
        self.norm_query, self.norm_text, self.norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, settings.query_heads, batch_first=True)
        hidden = int(settings.query_hidden * width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.out = nn.Linear(width, own_width)
        self.keep_1, self.add_1 = (
            nn.Parameter(torch.tensor([settings.keep_start])),
            nn.Parameter(torch.tensor([settings.add_start])),
        )

    def forward(self, own_BGC: Tensor, lifted_BGD: Tensor, text_KD: Tensor) -> Tensor:
        """[B, G, C]."""
        text_BKD = self.norm_text(text_KD).expand(len(own_BGC), -1, -1)
        read_BGD, _ = self.attention(self.norm_query(lifted_BGD), text_BKD, text_BKD, need_weights=False)
        text_BGC = self.out(self.mlp(self.norm(read_BGD)))
        mixed_BGC: Tensor = self.keep_1 * own_BGC + self.add_1 * text_BGC
        return mixed_BGC


class Text4PointNet(nn.Module):
    """Point network with text querying and a frozen dual encoder; pre-training adds an image decoder, fine-tuning a head.

    classes  of the head, 0 for pre-training
    """

    scale_1: Tensor
    ids_KL: Tensor
    mask_KL: Tensor
    order_KL: Tensor

    def __init__(
        self,
        anchor: DualEncoder,
        points: PointNet2Settings | VoxelUNetSettings,
        querying: TextQueryingSettings,
        *,
        classes: int = 0,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.points, self.querying, self.width, self.classes = points, querying, anchor.width, classes
        self.anchors = FrozenModules(encoder=anchor)
        self.net: Any = PointNet2(points) if isinstance(points, PointNet2Settings) else VoxelUNet(points)
        self.lift = nn.Linear(points.seed_width, anchor.width)
        self.ask = TextQuerying(anchor.width, points.seed_width, querying)
        self.register_buffer("scale_1", torch.tensor([1 / temperature]), persistent=False)
        self.span = (0, 0)
        for name in ("ids_KL", "mask_KL", "order_KL"):
            self.register_buffer(name, torch.zeros(0, 0, dtype=torch.int64), persistent=False)
        if classes:
            words = token_table(anchor.text_tower).embedding_dim
            self.context = LearnedContext(words, querying.context) if querying.context else None
            self.head = nn.Linear(points.out_width, classes)
        else:
            self.project = nn.Linear(points.out_width, querying.pair_width)
            self.decode_image = nn.Sequential(
                nn.Conv2d(anchor.width, querying.pair_width, 3, padding=1),
                nn.GroupNorm(1, querying.pair_width),
                nn.ReLU(),
                nn.Conv2d(querying.pair_width, querying.pair_width, 3, padding=1),
            )

    @property
    def encoder(self) -> DualEncoder:
        """The frozen dual encoder."""
        encoder = self.anchors["encoder"]
        assert isinstance(encoder, DualEncoder)
        return encoder

    def set_classes(self, prompts: ClassPrompts) -> None:
        """Set the token rows of the class names, which are not weights."""
        device = self.scale_1.device
        self.ids_KL, self.mask_KL = (torch.from_numpy(rows).to(device) for rows in (prompts.ids_KL, prompts.mask_KL))
        self.order_KL, self.span = torch.from_numpy(prompts.order_KL).to(device), prompts.context

    def texts(self) -> Tensor:
        """Return unit-norm text vectors [K, D] of class names after learned context, or in a fixed prompt without gradient."""
        tower, context = self.encoder.text_tower, getattr(self, "context", None)
        if context is None:
            with torch.no_grad():
                return self.encoder.encode_text(self.ids_KL, self.mask_KL)
        prompt_KLD = context(token_table(tower)(self.ids_KL), self.order_KL, self.span)
        mask_KL = read_mask(tower, self.ids_KL, self.mask_KL)
        return l2_normalise(self.encoder.text_projection(tower(prompt_KLD, mask_KL).pooled_BD))

    def read_points(self, point_BPF: Tensor, text_KD: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode points: unit vectors of seeds in the joint space, and features of points.

        Returns seed vectors [B, G, D], indices of the seeds [B, G], point features [B, P, C], and xyz of the seeds [B, G, 3].
        """
        levels = self.net.encode(point_BPF)
        own_BNC = self.net.coarsest(levels)
        lifted_BND = self.lift(own_BNC)
        mixed_BNC = self.ask(own_BNC, lifted_BND, self.texts() if text_KD is None else text_KD)
        seed, point = self.net.seeds(levels, lifted_BND), self.net.decode(levels, mixed_BNC)
        return l2_normalise(seed.feature_BGC), seed.index_BG, point.feature_BGC, seed.xyz_BG3

    def forward(
        self,
        point_BPF: Tensor,
        image_BCHW: Tensor | None = None,
        pixel_BP2: Tensor | None = None,
        pixel_id_BP: Tensor | None = None,
        pair_BM: Tensor | None = None,
        label_BP: Tensor | None = None,
    ) -> PointPixelFeatures:
        """image_BCHW  pictures of the rooms
        pixel_BP2   image coordinates of each point: column and row in -1..1, as `grid_sample` takes them without aligned corners
        pixel_id_BP index of that pixel
        pair_BM     indices of the points of the decoder contrast
        label_BP    classes of points
        """
        text_KD = self.texts()
        seed_BGD, index_BG, feature_BPC, _ = self.read_points(point_BPF, text_KD)
        score_BGK = seed_BGD @ text_KD.T
        scale = self.scale_1
        if self.classes:
            label_BG = None if label_BP is None else label_BP.gather(1, index_BG)
            return PointPixelFeatures(seed_BGD, None, None, None, None, None, score_BGK, self.head(feature_BPC), label_BG, scale)
        assert image_BCHW is not None
        assert pixel_BP2 is not None
        assert pixel_id_BP is not None
        assert pair_BM is not None
        with torch.no_grad():
            map_BDHW = dense_map(self.encoder, image_BCHW)
        decoded_BCHW = self.decode_image(F.interpolate(map_BDHW, scale_factor=2.0, mode="bilinear", align_corners=False))
        return PointPixelFeatures(
            seed_BGD,
            l2_normalise(at_pixels(map_BDHW, gather_points(pixel_BP2, index_BG))),
            l2_normalise(self.project(gather_points(feature_BPC, pair_BM))),
            l2_normalise(at_pixels(decoded_BCHW, gather_points(pixel_BP2, pair_BM))),
            pixel_id_BP.gather(1, index_BG),
            pixel_id_BP.gather(1, pair_BM),
            score_BGK,
            None,
            None,
            scale,
        )


def point_network_settings(plain: Mapping[str, Any]) -> PointNet2Settings | VoxelUNetSettings:
    """Return settings of a point network from the output of their `to_json`."""
    return VoxelUNetSettings.from_json(plain) if "voxel" in plain else PointNet2Settings.from_json(plain)


def dense_map(encoder: DualEncoder, image_BCHW: Tensor) -> Tensor:
    """Return a map of projected features [B, D, H, W] of images: through the attention pool for CLIP's residual network,
    else tokens.

    Tokens of other towers are projected. Raises ConfigError if they do not form a square.
    """
    tower = encoder.image_tower
    if isinstance(tower, CLIPResNet):
        return dense_pool(tower.pool, tower.maps(image_BCHW)[-1])[1]  # type: ignore[arg-type]
    token_BPD = encoder.image_projection(tower(image_BCHW).tokens_BPD)
    side = round(token_BPD.shape[1] ** 0.5)
    if side * side != token_BPD.shape[1]:
        raise ConfigError(
            f"the {token_BPD.shape[1]} places of the image tower do not form a square (expected a tower with a square of patches)"
        )
    map_BDHW: Tensor = token_BPD.transpose(1, 2).unflatten(2, (side, side))
    return map_BDHW


def at_pixels(map_BCHW: Tensor, pixel_BM2: Tensor) -> Tensor:
    """Sample a map bilinearly at columns and rows in -1..1, [B, M, C]; border values outside."""
    sampled_BCM1 = F.grid_sample(map_BCHW, pixel_BM2[:, :, None].to(map_BCHW), padding_mode="border", align_corners=False)
    return sampled_BCM1[..., 0].transpose(1, 2)
