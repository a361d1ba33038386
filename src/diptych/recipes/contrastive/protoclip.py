"""ProtoCLIP: prototypes of each modality are targets for the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from diptych.core.contracts import Draw, Draws, Hook, Optimiser, Rule, Stage
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_seed
from diptych.core.rows import Rows
from diptych.core.sample import Sample, Text
from diptych.data.load.batch import PairBatch
from diptych.data.media.augment.colour_views import recoloured
from diptych.models.pairs.encoders.prototype_encoder import KINDS, EpisodePrototypes, Kind, PrototypeEncoder, PrototypePairs
from diptych.objectives.gather import share_of_gradient
from diptych.objectives.pairs.prototypes import ClusterTargets, back_translation, group_means, prototype_accuracy, prototype_loss
from diptych.recipes._shared.pairs import EncoderRecipe
from diptych.recipes._shared.presets import SMALL_CLIP
from diptych.train.clustering import k_means
from diptych.train.episodes import Episodes, from_first

IMAGE = r"^encoder\.(image_tower|image_projection)\b"
HEADS = r"^(image_head|text_head|log_head_scale)\b"
"""Names of parameters: of the image tower, and of what is trained for clusters alone."""


@dataclass(frozen=True, kw_only=True)
class EpisodeBatch(PairBatch):
    """Pairs, the number by which an episode knows each row, and the external teacher's features (width 0 without one)."""

    row_B: Rows[Tensor]
    teacher_BD: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class ProtoCLIP(EncoderRecipe[PrototypeEncoder, EpisodeBatch, PrototypePairs]):
    """Prototypical Contrastive Language Image Pretraining (Chen et al., 2022, arXiv 2206.10996). Baseline: `clip`.

    A run is cut into episodes. At the start of each, the features of everything that it will train on are clustered, images and texts
    apart. An image is then compared with prototypes, the means of image features over the clusters of the *texts* (back translation),
    and a text with means over the clusters of the images. Targets are soft: a cluster counts by its nearness to the right one. With an
    external teacher (say, sentence embeddings) its clusters are targets for both, one-hot. The loss adds this to CLIP's.

    The first episode has CLIP's loss alone. The last share of the run locks the image tower and has CLIP's loss alone (LiT). What is
    deployed is a plain dual encoder. Clusters and prototypes are in every checkpoint.

    We depart in these points: an episode is the next stretch of the run's own order, so that every sample is seen equally often (the
    released code draws with replacement); k-means is scikit-learn's, by mini-batches where an episode is large, as in `paper()`; the LiT
    part starts its optimiser afresh, in the last part of the run's schedule. `tiny()` also leaves a cluster without members out, and
    before LiT its text side has the rate of the image tower, which falls to 0 where LiT begins.

    Logged beside the losses: how many clusters have members, and how often the nearest prototype is that of the row's own cluster
    (`image_to_text_accuracy` and so on, shares; the released code logs them in percent).

    Not for gradient caching: the heads have batch norm, which needs the whole batch. It normalises within a process.

    clusters    K, of either modality and of the teacher
    episode     samples an episode
    hidden      width of the heads' hidden layer; head_width that of their output
    tau_target  temperature of the soft targets; 0 makes them one-hot
    teacher     column with the external teacher's features (a list of floats a sample); "" for none
    weight_...  of CLIP's loss, of the prototypes and of the teacher's prototypes
    lit_share   share of the run, at its end, with a locked image tower
    head_decay  whether the heads have weight decay; False as released
    empty       a cluster without members is "left_out", or a prototype of "zeros", which every row is compared with, as released
    centroids   soft targets are between the means of the clusters' "members", or between the centroids of "k_means", as released: these
                are means of who was nearest one iteration before
    text_rate   the rate of what is no image tower falls to 0 with the "image" tower's, or at the end of the "run", as released
    ascii       letters beyond ASCII are taken out of texts, as released
    augment     "light": a fifth of the views each with other colours, without colours, and blurred, as released (not for texts that name
                colours), or "none"
    iterations, restarts  of the k-means that finds the prototypes
    """

    slug = "protoclip"
    no_prefixes = "its prototypes are of the whole width"
    cacheable = False

    clusters: int = 20_000
    episode: int = 200_000
    iterations: int = 20
    restarts: int = 3
    hidden: int = 2048
    head_width: int = 128
    tau_target: float = 0.01
    teacher: str = ""
    weight_pairs: float = 1.0
    weight_prototypes: float = 1.0
    weight_teacher: float = 1.0
    lit_share: float = 2 / 400
    head_decay: bool = False
    augment: Literal["light", "none"] = "light"
    empty: Literal["left_out", "zeros"] = "left_out"
    centroids: Literal["members", "k_means"] = "members"
    text_rate: Literal["image", "run"] = "image"
    ascii: bool = False

    batch_size: int = 512
    warmup: float = 15_625.0
    weight_decay: float = 0.5
    clip_norm: float = 10.0
    crop: tuple[float, float] = (0.5, 1.0)

    lit: bool = field(default=False, metadata={"prepared": True})

    def __post_init__(self) -> None:
        if self.episode < self.batch_size:
            raise ConfigError(f"an episode of {self.episode} samples is shorter than a batch of {self.batch_size}")
        if self.augment not in ("light", "none"):
            raise ConfigError(f"augment is {self.augment!r} (expected light | none)")
        if not 0 <= self.lit_share < 1:
            raise ConfigError(f"lit_share is {self.lit_share} (expected at least 0, below 1)")

    @property
    def episode_steps(self) -> int:
        return self.episode // self.batch_size

    def stages(self) -> Sequence[Stage]:
        if not self.lit_share:
            return ()
        return [
            Stage("prototypes", self, share=1 - self.lit_share),
            Stage("locked", replace(self, lit=True), share=self.lit_share),
        ]

    def hooks(self) -> Sequence[Hook]:
        return [Episodes(self.episode_steps, _collect, self.cluster, active=lambda recipe: not recipe.lit)]

    def model(self) -> PrototypeEncoder:
        image, text = self.towers()
        return PrototypeEncoder(
            image,
            text,
            width=self.width,
            hidden=self.hidden,
            head_width=self.head_width,
            rows=self.episode_steps * self.batch_size,
            clusters=self.clusters,
        )

    def batch(self, draws: Draws) -> EpisodeBatch:
        pairs = self.pair_batch(draws, recoloured if self.augment == "light" else None, self._ascii_text if self.ascii else None)
        rows = [keyed_seed("episode", draws.step, draw.sample.uid) for draw in draws]
        return EpisodeBatch(
            **{f.name: getattr(pairs, f.name) for f in fields(pairs)},
            row_B=torch.tensor(rows, dtype=torch.int64),
            teacher_BD=torch.tensor([self._teacher_features(draw.sample) for draw in draws], dtype=torch.float32),
        )

    def _ascii_text(self, draw: Draw, language: str) -> Text:
        text = self.text_draw(draw, language)
        return replace(text, string=text.string.encode("ascii", "ignore").decode())

    def _teacher_features(self, sample: Sample) -> list[float]:
        if not self.teacher:
            return []
        if (features := sample.extras.get(self.teacher)) is None:
            expected = f"a column '{self.teacher}' of features in every row, or --teacher '' for none"
            raise DataError(f"sample '{sample.uid}' has no teacher's features", field=self.teacher, expected=expected)
        return [float(value) for value in features]

    def features(self, model: PrototypeEncoder, batch: EpisodeBatch) -> PrototypePairs:
        outputs: PrototypePairs = model(batch.image_BCHW, batch.text_BL, batch.text_mask_BL, batch.row_B)
        return outputs

    @torch.no_grad()
    def cluster(self, model: nn.Module, rows: Mapping[str, Tensor], number: int) -> None:
        """Cluster the features of an episode: assignments of each kind, and prototypes of both modalities over them."""
        assert isinstance(model, PrototypeEncoder)
        sources = {"image": rows["image_ED"], "text": rows["text_ED"], "teacher": rows["teacher_ED"]}
        label_E3 = torch.full((len(rows["row_E"]), 3), -1, dtype=torch.int64, device=rows["row_E"].device)
        prototypes: list[tuple[Tensor, ...]] = []
        for index, kind in enumerate(KINDS):
            if not sources[kind].shape[1]:
                empty_KD = rows["image_ED"].new_zeros(self.clusters, self.head_width)
                prototypes.append((empty_KD, empty_KD, empty_KD, empty_KD[:, 0] > 0))
                continue
            seed = keyed_seed("episode", number, kind)
            label_E, centroid_KD = k_means(
                sources[kind], self.clusters, seed=seed, iterations=self.iterations, restarts=self.restarts
            )
            label_E3[:, index] = from_first(label_E.to(label_E3.device))
            image_KD, filled_K = group_means(rows["image_ED"], label_E3[:, index], self.clusters)
            text_KD, _ = group_means(rows["text_ED"], label_E3[:, index], self.clusters)
            if kind == "teacher":
                own_KD = torch.zeros_like(image_KD)
            elif self.centroids == "k_means":
                own_KD = from_first(centroid_KD.to(image_KD))
            else:
                own_KD = image_KD if kind == "image" else text_KD
            prototypes.append((image_KD, text_KD, own_KD, filled_K))
        stacked = (torch.stack(parts) for parts in zip(*prototypes, strict=True))
        model.episode.store_(rows["row_E"], label_E3, EpisodePrototypes(*stacked))

    def losses(self, features: PrototypePairs, batch: EpisodeBatch) -> dict[str, Tensor]:
        matched = self.contrast(features.image_ND, features.text_ND, scale=features.scale, group_B=batch.group_B)
        terms = {"contrastive": self.weight_pairs * matched}
        if self.lit:
            return terms
        prototypes = features.prototypes
        heads = tuple(share_of_gradient(x_ND, self.feature_gradient) for x_ND in (features.head_image_ND, features.head_text_ND))
        image, text = (
            ClusterTargets(features.labels(kind), prototypes.centroids(kind), self._taking_part(features, kind))
            for kind in ("image", "text")
        )
        terms["prototypes"] = self.weight_prototypes * back_translation(
            heads[0],
            heads[1],
            image_prototype_KD=prototypes.means("image", over="text"),
            text_prototype_KD=prototypes.means("text", over="image"),
            image_clusters=image,
            text_clusters=text,
            scale=features.head_scale,
            tau=self.tau_target,
        )
        if batch.teacher_BD.shape[1]:
            label_N, filled_K = features.labels("teacher"), self._taking_part(features, "teacher")
            means = (prototypes.means("image", over="teacher"), prototypes.means("text", over="teacher"))
            sides = [
                prototype_loss(x_ND, mean_KD, label_N, scale=features.head_scale, filled_K=filled_K)
                for x_ND, mean_KD in zip(heads, means, strict=True)
            ]
            terms["teacher"] = self.weight_teacher * torch.stack(sides).mean()
        return terms

    def metrics(self, features: PrototypePairs, batch: EpisodeBatch) -> dict[str, Tensor]:
        image, text = (features.prototypes.filled(kind).sum().float() for kind in ("image", "text"))
        values = {**super().metrics(features, batch), "image_clusters": image, "text_clusters": text}
        if self.lit:
            return values
        values["image_to_text_accuracy"] = self.accuracy(features, "image", "text")
        values["text_to_image_accuracy"] = self.accuracy(features, "text", "image")
        if batch.teacher_BD.shape[1]:
            values["image_to_teacher_accuracy"] = self.accuracy(features, "image", "teacher")
            values["text_to_teacher_accuracy"] = self.accuracy(features, "text", "teacher")
        return values

    def accuracy(self, features: PrototypePairs, side: Literal["image", "text"], over: Kind) -> Tensor:
        """Share of images or of texts whose nearest prototype is that of their cluster of this kind (the released `acc_img2text`, ...)."""
        prototypes, x_ND = features.prototypes, features.head_image_ND if side == "image" else features.head_text_ND
        part_K = self._taking_part(features, over)
        return prototype_accuracy(x_ND.detach(), prototypes.means(side, over=over), features.labels(over), filled_K=part_K)

    def _taking_part(self, features: PrototypePairs, kind: Kind) -> Tensor | None:
        """Which clusters of a kind rows are compared with; None: all."""
        return features.prototypes.filled(kind) if self.empty == "left_out" else None

    def optimiser(self) -> Optimiser:
        chosen = super().optimiser()
        if self.lit:
            rules = (Rule(rf"{IMAGE}|{HEADS}", 0.0),)
            return replace(chosen, rules=rules, part=(1 - self.lit_share, 1.0))
        length = 1 / (1 - self.lit_share) if self.text_rate == "run" else 1.0
        heads = () if self.head_decay else (Rule(HEADS, decay=False, length=length),)
        others = () if length == 1 else (Rule(rf"^(?!{IMAGE.removeprefix('^')})", length=length),)
        return replace(chosen, rules=(*heads, *others))

    def after_update(self, model: PrototypeEncoder, features: PrototypePairs, batch: EpisodeBatch, progress: float) -> None:
        super().after_update(model, features, batch, progress)
        model.clamp_head_scale_()

    @classmethod
    def tiny(cls) -> Self:
        """The towers, data and budget of `clip`'s; episodes of 16 batches, 64 clusters."""
        own: dict[str, Any] = {"clusters": 64, "episode": 4096, "iterations": 10, "restarts": 1, "hidden": 256, "head_width": 64}
        return cls(**SMALL_CLIP, lit_share=0.0, head_decay=True, augment="none", **own)

    @classmethod
    def paper(cls) -> Self:
        """ResNet-50 on 2.5 million pairs of CC3M, batch 512, 32 epochs (400 episodes). The image tower is CLIP's ResNet-50 with
        its attention pooling, the text tower has QuickGELU, as in the released code, whose eight processes gather features without
        gradient."""
        released: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8}  # open_clip's for residual networks
        released |= {"decoding": "whole", "feature_gradient": 1 / 8, "act": "quick_gelu"}
        released |= {"empty": "zeros", "centroids": "k_means", "text_rate": "run", "ascii": True}
        return cls(image_tower="resnet_clip_50", width=1024, same_group="negative", flip=True, flip_sides="ignore", **released)


def _collect(features: PrototypePairs, batch: EpisodeBatch) -> dict[str, Tensor]:
    head_image_ND, head_text_ND = features.head_image_ND, features.head_text_ND
    return {"image_ED": head_image_ND, "text_ED": head_text_ND, "teacher_ED": batch.teacher_BD, "row_E": batch.row_B}
