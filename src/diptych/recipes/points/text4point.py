"""Text4Point: a point network for rooms, pre-trained on pictures with depth and conditioned on class names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.contracts import Dataset, Draws
from diptych.core.errors import ConfigError, DataError
from diptych.core.media import MediaItem
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import TensorBatch
from diptych.data.points.rgbd import back_project, frame_count, read_frame
from diptych.data.points.room_clouds import IGNORED, RoomPreprocess, point_labels
from diptych.models.points.point_embedder import towers_of
from diptych.models.points.point_segmenter import TextPointSegmenter, prompts_of
from diptych.models.points.pointnet2 import PointNet2Settings
from diptych.models.points.text4point import PointPixelFeatures, Text4PointNet, TextQueryingSettings
from diptych.models.points.voxel_unet import VoxelUNetSettings
from diptych.objectives.pairs.info_nce import Directions
from diptych.objectives.rooms.point_pixel import point_pixel_contrast
from diptych.recipes._shared.frozen.adapted_encoder import AdaptedEncoderRecipe
from diptych.recipes._shared.small_encoder import small_encoder

CLOUDS, NETWORK, VOXELS, QUERYING = RoomPreprocess(), PointNet2Settings(), VoxelUNetSettings(), TextQueryingSettings()


@dataclass(frozen=True)
class RoomBatch(TensorBatch):
    """Points of rooms. Pre-training: pictures, where in them each point is seen, and places of the points of the decoder contrast.
    Fine-tuning: the class of each point."""

    point_BPF: Rows[Tensor]
    image_BCHW: Rows[Tensor] | None = None
    pixel_BP2: Rows[Tensor] | None = None
    pixel_id_BP: Rows[Tensor] | None = None
    pair_BM: Rows[Tensor] | None = None
    label_BP: Rows[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Text4Point(AdaptedEncoderRecipe[Text4PointNet, RoomBatch, PointPixelFeatures]):
    """Joint Representation Learning for Text and 3D Point Cloud (Huang et al., 2023, arXiv 2301.07584).

    Pre-training reads pictures with depth, no texts of points: features of a point network's encoder are contrasted with those of a
    frozen image tower at the same pixels, and features of its decoder with those of a trained image decoder. On their way from encoder
    to decoder the points ask the vectors of class names (`TextQuerying`). Fine-tuning (`phase`) needs clouds with a class per point and
    no pictures: the prompt before each name is learned, and beside the loss of the head the cosines of points with names have a loss.

    No code was published. From the paper's figures: both contrasts, text querying in both phases, frozen towers, the prompt "point cloud
    of a NAME", learned prompts and the auxiliary loss in fine-tuning. Not verified, and options here: weights and temperature of the
    contrasts (`encoder_weight`, `decoder_weight`, `temperature`), their `directions`, pairs of a frame (`pairs`), sizes of text querying,
    the image decoder (two 3 x 3 convolutions behind a factor of two), the form of the auxiliary loss, optimiser and schedule. As in the
    paper the backbone is VoteNet's PointNet++, or a U-Net of sparse convolutions over voxels (`backbone`); both are plain PyTorch.

    phase        "pretrain" or "finetune", which starts from a pre-trained run by `--init`
    classes      names: of the texts in pre-training; in fine-tuning, in the order of their numbers in `point_labels`
    prompt       sentence around a name, {} for it; in fine-tuning `context` learned vectors stand in its place
    pairs        points of a frame in the decoder contrast; the encoder contrast has all seeds
    temperature  of both contrasts and the auxiliary loss
    directions   of both contrasts: "both", or "image_to_text" for point to pixel alone
    encoder_weight, decoder_weight, auxiliary_weight  of the terms
    depth_unit   metres of a whole number in a depth raster of integers
    medium       name of the cloud among a sample's media
    clouds       how clouds are read: `RoomPreprocess`, whose fields are options of their own
    backbone     "pointnet2", or "voxel_unet"
    network      of the first: `PointNet2Settings`, whose fields are options of their own
    voxels       of the second: `VoxelUNetSettings`, whose fields are options of their own
    querying     `TextQueryingSettings`, whose fields are options of their own
    small_steps  without `weights`: steps of a small dual encoder that first learns the pictures and texts of the training data
    small_data   address of the data that it learns instead
    """

    slug = "text4point"
    needs: ClassVar[tuple[str, ...]] = ()
    cacheable: ClassVar[bool] = False  # batch norms

    phase: Literal["pretrain", "finetune"] = "pretrain"
    classes: tuple[str, ...] = ()
    prompt: str = "point cloud of a {}"
    pairs: int = 1024
    temperature: float = 0.07
    directions: Directions = "both"
    encoder_weight: float = 1.0
    decoder_weight: float = 1.0
    auxiliary_weight: float = 1.0
    depth_unit: float = 0.001
    medium: str = "cloud"
    clouds: RoomPreprocess = CLOUDS
    backbone: Literal["pointnet2", "voxel_unet"] = "pointnet2"
    network: PointNet2Settings = NETWORK
    voxels: VoxelUNetSettings = VOXELS
    querying: TextQueryingSettings = QUERYING
    small_steps: int = 0
    small_data: str = ""

    batch_size: int = 8
    epochs: float = 50.0
    lr: float = 1e-3
    warmup: float = 0.02
    weight_decay: float = 0.05
    clip_norm: float = 10.0

    def __post_init__(self) -> None:
        if self.phase not in ("pretrain", "finetune") or self.prompt.count("{}") != 1 or self.pairs < 2 or self.temperature <= 0:
            raise ConfigError(
                f"phase {self.phase!r}, prompt {self.prompt!r}, pairs {self.pairs}, temperature {self.temperature} "
                "(expected pretrain | finetune, one {} in the prompt, 2 or more, and above 0)"
            )
        if len(self.classes) < 2:
            raise ConfigError(f"classes are {list(self.classes)} (expected two names or more)")
        if self.backbone not in ("pointnet2", "voxel_unet"):
            raise ConfigError(f"backbone is {self.backbone!r} (expected pointnet2 | voxel_unet)")
        fewest = max(self.network.centres[0], 3) if self.backbone == "pointnet2" else 3
        if self.network.features != 3 or self.clouds.points < fewest:
            raise ConfigError(
                f"{self.clouds.points} points for {self.network.centres[0]} centres, {self.network.features} features "
                "(expected as many points or more, and 3 features: colours)"
            )

    @property
    def measured_by(self) -> str:
        return "point_segmentation"

    @property
    def decode_size(self) -> int | None:
        """Pictures are read in `load`, whole."""
        return None

    def started(self, model: Any) -> Self:
        """A pre-trained run brings its tensors (`--init`)."""
        return self

    def prepare(self, data: Dataset) -> Self:
        """Trains the small anchor, where one is asked for; else learns the vocabulary of fresh towers that have the data's own."""
        if self.small_steps and not self.weights:
            side = super().preprocess.size
            folder = small_encoder(self.small_data, data, steps=self.small_steps, language="en", size=side)
            return replace(self, weights=str(folder), small_steps=0)
        return self.with_vocabulary([self.prompt.format(name) for name in self.classes])

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        if self.phase == "finetune":
            return self._labelled(sample, rng)
        frame = read_frame(sample, int(rng.integers(max(1, frame_count(sample)))), unit=self.depth_unit)
        picture_HWC = MediaItem("image", (frame.image,)).decode()
        height, width = frame.depth_HW.shape
        if picture_HWC.shape[:2] != (height, width):
            raise DataError(
                f"sample '{sample.uid}': a picture of {list(picture_HWC.shape[:2])} with depth {[height, width]}",
                field="depth",
                expected="equal sides",
            )
        xyz_N3, pixel_N2 = back_project(frame.depth_HW, frame.camera)
        if not len(xyz_N3):
            raise DataError(f"sample '{sample.uid}' has no pixel with a depth", field="depth", expected="some above 0")
        colour_N3 = picture_HWC[pixel_N2[:, 0], pixel_N2[:, 1]]
        chosen_P = self.clouds.rows(len(xyz_N3), rng)
        cloud_P6 = self.clouds(np.concatenate([xyz_N3, colour_N3], 1)[chosen_P], rng=rng)
        row_P, column_P = pixel_N2[chosen_P].T
        seen_P2 = np.stack([(2 * column_P + 1) / width - 1, (2 * row_P + 1) / height - 1], 1).astype(np.float32)
        pair_M = rng.choice(self.clouds.points, min(self.pairs, self.clouds.points), replace=False)
        squashed_HWC = replace(self.preprocess, resize="squash").square(picture_HWC)
        return {
            "points": cloud_P6,
            "picture": squashed_HWC,
            "pixel": seen_P2,
            "pixel_id": row_P * width + column_P,
            "pair": pair_M.astype(np.int64),
        }

    def _labelled(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        if self.medium not in sample.media:
            raise DataError(f"sample '{sample.uid}' has no cloud", field=self.medium, expected="KEY.ply, KEY.cloud.npy, ...")
        cloud_PF = sample.media[self.medium].decode()
        label_P = point_labels(sample, len(cloud_PF), len(self.classes))
        chosen_P = self.clouds.rows(len(cloud_PF), rng)
        return {"points": self.clouds(cloud_PF[chosen_P], rng=rng), "label": label_P[chosen_P]}

    def batch(self, draws: Draws) -> RoomBatch:
        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([draw.media[name] for draw in draws]))

        if self.phase == "finetune":
            return RoomBatch(stacked("points"), label_BP=stacked("label"))
        image_BCHW = self.preprocess.normalise(np.stack([draw.media["picture"] for draw in draws]))
        return RoomBatch(stacked("points"), image_BCHW, stacked("pixel"), stacked("pixel_id"), stacked("pair"))

    def model(self) -> Text4PointNet:
        head = len(self.classes) if self.phase == "finetune" else 0
        points = self.network if self.backbone == "pointnet2" else self.voxels
        model = Text4PointNet(self.base().model, points, self.querying, classes=head, temperature=self.temperature)
        context = self.querying.context if head else 0
        model.set_classes(prompts_of(self.classes, self.words(), self.read_length, context=context, prompt=self.prompt))
        return model

    def features(self, model: Text4PointNet, batch: RoomBatch) -> PointPixelFeatures:
        features: PointPixelFeatures = model(
            batch.point_BPF, batch.image_BCHW, batch.pixel_BP2, batch.pixel_id_BP, batch.pair_BM, batch.label_BP
        )
        return features

    def losses(self, features: PointPixelFeatures, batch: RoomBatch) -> dict[str, Tensor]:
        f = features
        if f.logit_BPK is not None:
            assert batch.label_BP is not None
            assert f.label_BG is not None
            auxiliary = labelled_cross_entropy(f.score_BGK * f.scale, f.label_BG)
            return {
                "segmentation": labelled_cross_entropy(f.logit_BPK, batch.label_BP),
                "auxiliary": self.auxiliary_weight * auxiliary,
            }
        assert f.seen_BGD is not None
        assert f.point_BMC is not None
        assert f.pixel_BMC is not None
        encoder = point_pixel_contrast(f.seed_BGD, f.seen_BGD, f.seed_id_BG, scale=f.scale, directions=self.directions)
        decoder = point_pixel_contrast(f.point_BMC, f.pixel_BMC, f.point_id_BM, scale=f.scale, directions=self.directions)
        return {"encoder": self.encoder_weight * encoder, "decoder": self.decoder_weight * decoder}

    def deploy(self, model: Text4PointNet) -> TextPointSegmenter:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            towers = towers_of(self.base().model)
        clouds = replace(self.clouds, turn=False)
        return TextPointSegmenter(
            model, self.classes, clouds, self.words(), self.read_length, self.slug, prompt=self.prompt, towers=towers
        )

    @classmethod
    def tiny(cls) -> Self:
        """A small network on 512 points of rendered rooms, towards a small dual encoder of their pictures: minutes on two cores."""
        return cls(
            classes=("floor", "wall", "table", "chair", "stool", "bench", "lamp", "box", "ball", "tree"),
            image_tower="vit_micro",
            patch=8,
            text_tower="text_micro",
            width=64,
            image_size=64,
            text_length=24,
            tokenizer="data",
            pairs=128,
            clouds=RoomPreprocess(points=512),
            network=PointNet2Settings(
                centres=(128, 48),
                radii=(0.4, 0.9),
                neighbours=(12, 12),
                down=((24, 32), (48, 64)),
                up=((64,), (48,)),
            ),
            voxels=VoxelUNetSettings(
                voxel=0.2, voxel_stem=16, voxel_down=(24, 32), voxel_up=(32, 24), voxel_blocks=1, voxel_seeds=48
            ),
            querying=TextQueryingSettings(query_heads=4, query_hidden=2.0, pair_width=32, context=4),
            small_steps=200,
            batch_size=8,
            steps=200,
            lr=2e-3,
            warmup=20.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """CLIP's ViT-B/16, PointNet++ on 20,000 points and ScanNet's 20 classes; optimiser and epochs are not those of the paper."""
        return cls(classes=SCANNET)


SCANNET = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter", "desk", "curtain",
    "refrigerator", "shower curtain", "toilet", "sink", "bathtub", "other furniture",
)  # fmt: skip
"""The 20 classes of ScanNet's benchmark."""


def labelled_cross_entropy(logit_BPK: Tensor, label_BP: Tensor) -> Tensor:
    """Mean cross-entropy over the points that have a class; 0 where none has."""
    total = F.cross_entropy(logit_BPK.flatten(0, 1), label_BP.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (label_BP != IGNORED).sum().clamp_min(1)
