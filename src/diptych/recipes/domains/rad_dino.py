"""RAD-DINO: an image encoder of radiographs by self-distillation, without any text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from diptych.core.contracts import Draws, Hook, Optimiser, Recipe, Rule, Stage
from diptych.core.errors import ConfigError
from diptych.core.grouped_fields import grouped
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch, pixels
from diptych.data.media.augment.block_masks import masked_images
from diptych.data.media.transforms import Preprocess, random_crop
from diptych.models.pairs.encoders.image_distiller import DistilledViews, ImageDistiller
from diptych.models.pairs.image_embedder import ImageTowerEmbedder
from diptych.models.towers.dense_vit import DenseViT
from diptych.models.towers.towers import image_tower
from diptych.objectives.distillation.koleo import koleo
from diptych.objectives.distillation.self_distillation import self_distillation, updated_centre
from diptych.objectives.distillation.sinkhorn import sinkhorn_knopp
from diptych.recipes._shared.teachers import TeacherFromStart, follow_

MEAN, STD = 0.5307, 0.2583
"""Of grey radiographs, as RAD-DINO's processor has them."""


@dataclass(frozen=True, kw_only=True)
class ViewBatch(TensorBatch):
    """Views of images: whole_BGCHW, local_BVCHW; hidden_BGP bool, the patches that are hidden of whole views; position_BGM int64, their
    positions, -1 where there are fewer."""

    whole_BGCHW: Rows[Tensor]
    local_BVCHW: Rows[Tensor]
    hidden_BGP: Rows[Tensor]
    position_BGM: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """Views of an image.

    wholes       whole views an image, of `image_size` pixels
    whole_scale  shares of the image's area that they take
    locals       small views
    local_size   pixels a side of a small view
    local_scale  shares of the area that small views take
    flip         share of views that are mirrored
    jitter       brightness and contrast change by up to this share, in `jittered` of the views
    jittered     share of views whose brightness and contrast change
    blur         share of views that are blurred: of the first whole view, of the others, of small ones. DINOv2's code asks for these
                 shares and blurs the others, so that what it does is 0, 0.9 and 0.5
    """

    wholes: int = 2
    whole_scale: tuple[float, float] = (0.32, 1.0)
    locals: int = 8
    local_size: int = 98
    local_scale: tuple[float, float] = (0.05, 0.32)
    flip: float = 0.5
    jitter: float = 0.4
    jittered: float = 0.8
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)

    def __post_init__(self) -> None:
        if self.wholes < 2 or self.locals < 0:
            raise ConfigError(f"wholes is {self.wholes}, locals {self.locals} (expected 2 or more, and 0 or more)")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Heads, teacher and weights of the terms.

    prototypes    of either head
    head_hidden   width of the heads' inner layers
    head_width    of the last layer before the prototypes
    learned_norms  of prototypes, as in DINOv2's code; otherwise they stay 1, as DINO has it
    shared_head   patches are compared by the head of class tokens
    student_tau   temperature of the student
    teacher_tau   of the teacher, at the start and after `tau_warmup`
    tau_warmup    share of the whole schedule over which it grows
    momentum      of the teacher at the start; it goes to 1 as a cosine
    centring      "centre" takes a running mean from the teacher's answers, "sinkhorn" balances those of a batch
    centre        momentum of the running mean
    weight_classes, weight_patches, weight_koleo  of the terms
    masked        share of whole views with hidden patches
    hidden        least and greatest share of their patches
    """

    prototypes: int = 65_536
    head_hidden: int = 2048
    head_width: int = 256
    learned_norms: bool = True
    shared_head: bool = True
    student_tau: float = 0.1
    teacher_tau: tuple[float, float] = (0.04, 0.07)
    tau_warmup: float = 0.3
    momentum: float = 0.992
    centring: Literal["centre", "sinkhorn"] = "centre"
    centre: float = 0.9
    weight_classes: float = 1.0
    weight_patches: float = 1.0
    weight_koleo: float = 0.1
    masked: float = 0.5
    hidden: tuple[float, float] = (0.1, 0.5)

    def __post_init__(self) -> None:
        if self.centring not in ("centre", "sinkhorn"):
            raise ConfigError(f"centring is {self.centring!r} (expected centre | sinkhorn)")
        if not 0 <= self.hidden[0] <= self.hidden[1] < 1 or not 0 <= self.masked <= 1 or min(self.teacher_tau) <= 0:
            raise ConfigError(
                f"hidden {self.hidden}, masked {self.masked}, teacher_tau {self.teacher_tau} (expected shares, and above 0)"
            )


@grouped("views", "teacher")
@dataclass(frozen=True, kw_only=True)
class RadDINO(Recipe[ImageDistiller, ViewBatch, DistilledViews]):
    """RAD-DINO: Exploring scalable medical image encoders beyond text supervision (Pérez-García et al., 2024, arXiv 2401.10815). Baseline:
    `clip`.

    DINOv2 on radiographs: a student sees whole views, some with hidden patches, and small ones; a teacher, its moving average,
    sees the whole views as they are. The student says of each view which prototypes the teacher sees in every other whole view
    (DINO), and at hidden patches what the teacher sees there (iBOT); class tokens are spread evenly (KoLeo). Without texts,
    features keep what reports never mention. The deployed model embeds images alone, `embed_dense` gives its patches; `diptych
    eval RUN linear_probe` measures a label.

    The authors released weights and inference, no training code: terms and their weights are those of DINOv2's code, from whose
    weights they went on for 35,000 steps of 2,560 images. `rad_dino:FOLDER` opens the released folder. Of views the paper says
    that radiographs want larger crops and milder changes, without colours; its values are not at hand, so that these are DINOv2's
    without hue, saturation, grey and solarisation. The learning rate is DINOv2's for 1,024 images times the root of 2.5;
    RAD-DINO's own is not at hand either. The 35,000 steps are the first of a schedule of 100,000 (`schedule_share`).

    `teacher_entropy` and `class_std` in the log show a collapse: all answers alike, or all class tokens.

    image_tower  a dense_* tower; its second class token is left out
    image_size   pixels of a whole view and of deployed images
    layer_rate   factor of the learning rate from one block to the one before it
    patch_rate   factor of the learning rate of the patch convolution
    still        share of the whole schedule in which prototypes stay as they are
    drop_path    share of images that skip a branch in training
    final_decay  weight decay grows to it from `weight_decay`, where `optimised` is "dinov2"
    schedule_share  share of the whole schedule, of rates, decay and teacher, that the run goes through; it is its beginning
    optimised    "dinov2": betas .9 and .999, eps 1e-8, rates that rise from 0 and fall to 1e-6, gradients of tower and head clipped apart,
                 weight decay that grows, also on the class token, the mask vector and the norms of prototypes, and gradients of
                 prototypes that stay are counted; "plain": betas .9 and .98, eps 1e-6, to 0, matrices alone, decay constant
    views        views of an image (`ViewsConfig`)
    teacher      heads, teacher and weights (`TeacherConfig`). Fields of both are options like these
    stretched    images are stretched from their least to their greatest value, then grey, as released
    mean, std    of the pixels
    """

    slug = "rad_dino"
    needs: ClassVar[tuple[str, ...]] = ("image",)
    cacheable: ClassVar[bool] = True

    image_tower: str = "dense_b14"
    image_size: int = 518
    layer_rate: float = 0.9
    patch_rate: float = 0.2
    still: float = 0.01
    drop_path: float = 0.3
    views: ViewsConfig = field(default_factory=ViewsConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    stretched: bool = True
    mean: tuple[float, float, float] = (MEAN,) * 3
    std: tuple[float, float, float] = (STD,) * 3

    batch_size: int = 2560
    steps: int = 35_000
    lr: float = 4e-3 * (2560 / 1024) ** 0.5
    warmup: float = 0.1
    weight_decay: float = 0.04
    final_decay: float = 0.4
    schedule_share: float = 1.0
    clip_norm: float = 3.0
    optimised: Literal["dinov2", "plain"] = "dinov2"
    part: tuple[float, float] = field(default=(0.0, 1.0), metadata={"prepared": True})

    def __post_init__(self) -> None:
        if not 0 <= self.still < self.schedule_share <= 1 or not 0 <= self.drop_path < 1 or not 0 < self.layer_rate <= 1:
            raise ConfigError(
                f"still {self.still}, schedule_share {self.schedule_share}, drop_path {self.drop_path}, layer_rate {self.layer_rate} "
                "(expected still below schedule_share, drop_path below 1, and both others above 0, up to 1)"
            )

    @property
    def measured_by(self) -> str:
        return "linear_probe"

    @property
    def decode_size(self) -> int:
        return 0

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing of the deployed model."""
        return Preprocess(self.image_size, self.mean, self.std, levels="stretched" if self.stretched else "as_is")

    # ------------------------------------------------------------ model

    def tower(self) -> DenseViT:
        options: dict[str, Any] = {"second": False, "drop_path": self.drop_path, "resized": "dinov2"}
        made = image_tower(self.image_tower, image_size=self.image_size, **options)
        if not isinstance(made, DenseViT) or self.views.local_size % made.patch:
            raise ConfigError(
                f"image tower {self.image_tower!r}, local_size {self.views.local_size} (expected dense_..., and a multiple of its patch)"
            )
        return made

    def model(self) -> ImageDistiller:
        teacher = self.teacher
        return ImageDistiller(
            self.tower(),
            prototypes=teacher.prototypes,
            hidden=teacher.head_hidden,
            bottleneck=teacher.head_width,
            learned_norms=teacher.learned_norms,
            shared_head=teacher.shared_head,
            teacher_tau=teacher.teacher_tau[0] if teacher.tau_warmup else teacher.teacher_tau[1],
        )

    def hooks(self) -> Sequence[Hook]:
        return [TeacherFromStart()]

    def stages(self) -> Sequence[Stage]:
        """Prototypes stay as they are first, under one schedule."""
        if not self.still or not self.steps or self.part != (0.0, 1.0):
            return ()
        still = self.still / self.schedule_share
        first, rest = replace(self, part=(0.0, still)), replace(self, part=(still, 1.0))
        return [Stage("prototypes_still", first, still), Stage("all", rest, 1 - still, keep_optimiser=True)]

    @property
    def scheduled(self) -> tuple[float, float]:
        """Begin and end of these steps as shares of the whole schedule."""
        return (self.part[0] * self.schedule_share, self.part[1] * self.schedule_share)

    def optimiser(self) -> Optimiser:
        """Earlier blocks learn more slowly; the patch convolution by its own factor beside."""
        with torch.device("meta"):
            layers = len(self.tower().blocks)
        rate, tower, decay = self.layer_rate, r"^image_tower\.", True if self.optimised == "dinov2" else None
        rules = [Rule(rf"{tower}patches\.", lr_scale=rate ** (layers + 1) * self.patch_rate)]
        rules += [Rule(rf"{tower}(class_D|mask_D|position_PD)$", lr_scale=rate ** (layers + 1), decay=decay)]
        rules += [Rule(rf"{tower}blocks\.{block}\.", lr_scale=rate ** (layers - block)) for block in range(layers)]
        still = self.still and 0 < self.part[1] < 1 and not self.part[0]
        released = self.optimised == "dinov2"
        rules.append(Rule(r"_head\.(prototype_KD|norm_K)$", lr_scale=0.0 if still else 1.0, decay=decay, counted=released))
        chosen = replace(super().optimiser(), rules=tuple(rules), part=self.scheduled)
        if not released:
            return chosen
        shape: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "final_lr": 1e-6 / self.lr, "final_decay": self.final_decay}
        return replace(chosen, **shape, warmup_from=0.0, warmup_peak="last", clip_by="parts")

    # ------------------------------------------------------------ a step

    def batch(self, draws: Draws) -> ViewBatch:
        """Views from each draw's own generator, then hidden patches from that of the batch."""
        views = self.views
        wholes, smalls = [], []
        for draw in draws:
            image_HWC = self.preprocess.levelled(pixels(draw))
            for number in range(views.wholes):
                wholes.append(self.view(image_HWC, draw.rng, self.image_size, views.whole_scale, views.blur[min(number, 1)]))
            for _ in range(views.locals):
                smalls.append(self.view(image_HWC, draw.rng, views.local_size, views.local_scale, views.blur[2]))
        with torch.device("meta"):
            side = self.tower().count
        least, most = self.teacher.hidden
        hidden_NP = masked_images(draws.rng, len(wholes), side, share=self.teacher.masked, least=least, most=most)
        position_NM = np.full((len(wholes), max(1, round(most * side * side))), -1, np.int64)
        for row, hidden_P in enumerate(hidden_NP):
            positions = np.flatnonzero(hidden_P)[: position_NM.shape[1]]
            position_NM[row, : len(positions)] = positions
        local_BVCHW = torch.zeros(len(draws), 0, 3, views.local_size, views.local_size)
        if smalls:
            local_BVCHW = self.preprocess.normalise(np.stack(smalls)).unflatten(0, (len(draws), views.locals))
        return ViewBatch(
            whole_BGCHW=self.preprocess.normalise(np.stack(wholes)).unflatten(0, (len(draws), views.wholes)),
            local_BVCHW=local_BVCHW,
            hidden_BGP=torch.from_numpy(hidden_NP).unflatten(0, (len(draws), views.wholes)),
            position_BGM=torch.from_numpy(position_NM).unflatten(0, (len(draws), views.wholes)),
        )

    def view(
        self, image_HWC: npt.NDArray[np.uint8], rng: np.random.Generator, size: int, scale: tuple[float, float], blurred: float
    ) -> npt.NDArray[np.uint8]:
        """uint8 [size, size, 3]: a part, mirrored, brighter or darker, blurred. Always as many random numbers behind the crop."""
        view_HWC = random_crop(image_HWC, size, rng, scale)
        flip, jitter, blur = rng.random(3)
        light, contrast = rng.uniform(1 - self.views.jitter, 1 + self.views.jitter, 2)
        radius = float(rng.uniform(0.1, 2.0))
        if flip < self.views.flip:
            view_HWC = np.ascontiguousarray(view_HWC[:, ::-1])
        if jitter < self.views.jittered:
            grey_HWC = view_HWC.astype(np.float32) * light
            grey_HWC = (grey_HWC - grey_HWC.mean()) * contrast + grey_HWC.mean()
            view_HWC = np.clip(np.rint(grey_HWC), 0, 255).astype(np.uint8)
        if blur < blurred:
            view_HWC = np.asarray(Image.fromarray(view_HWC).filter(ImageFilter.GaussianBlur(radius)))
        return view_HWC

    def features(self, model: ImageDistiller, batch: ViewBatch) -> DistilledViews:
        outputs: DistilledViews = model(batch.whole_BGCHW, batch.local_BVCHW, batch.hidden_BGP, batch.position_BGM)
        return outputs

    def losses(self, features: DistilledViews, batch: ViewBatch) -> dict[str, Tensor]:
        """DINO over every pair of a view and another whole one, iBOT over hidden patches of each whole view, KoLeo of each whole view."""
        config = self.teacher
        target_NGK, target_NGMK, centres = self.targets(features, batch)
        wholes, smalls = features.whole_NGK.shape[1], batch.local_BVCHW.shape[1]
        centre_K, patch_centre_K = centres
        taus: dict[str, Any] = {"student_tau": config.student_tau, "teacher_tau": 1.0}
        terms = []
        for seen in range(wholes):
            target_N1K = target_NGK[:, seen : seen + 1]
            others_NVK = torch.cat([features.whole_NGK[:, :seen], features.whole_NGK[:, seen + 1 :]], 1)
            terms.append(self_distillation(others_NVK, target_N1K, centre_K, **taus) * (wholes - 1))
            if smalls:
                terms.append(self_distillation(features.local_NVK, target_N1K, centre_K, **taus) * smalls)
        pairs = wholes * (wholes - 1 + smalls)
        student_NMK, teacher_NMK = features.patch_NGMK.flatten(0, 1), target_NGMK.flatten(0, 1)
        mask_NM = (batch.position_BGM >= 0).flatten(0, 1)
        patches = self_distillation(student_NMK, teacher_NMK, patch_centre_K, **taus, mask_NV=mask_NM)
        losses = {"classes": config.weight_classes * torch.stack(terms).sum() / pairs, "patches": config.weight_patches * patches}
        if config.weight_koleo:
            spread = [koleo(features.class_NGD[:, view]) for view in range(wholes)]
            losses["koleo"] = config.weight_koleo * torch.stack(spread).sum()
        return losses

    def targets(self, features: DistilledViews, batch: ViewBatch) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """The teacher's answers and centres in units of its temperature, so that a softmax of their difference is its distribution."""
        tau = features.teacher_tau
        if self.teacher.centring == "centre":
            centres = (features.class_centre_K / tau, features.patch_centre_K / tau)
            return features.teacher_NGK / tau, features.teacher_patch_NGMK / tau, centres
        tiny = torch.finfo(torch.float32).tiny
        share_NK = sinkhorn_knopp(features.teacher_NGK.flatten(0, 1), tau=tau)
        mask_N = (batch.position_BGM >= 0).flatten()
        patch_NK = sinkhorn_knopp(features.teacher_patch_NGMK.flatten(0, 2), tau=tau, mask_N=mask_N)
        zeros = (torch.zeros_like(features.class_centre_K), torch.zeros_like(features.patch_centre_K))
        log_NGK = share_NK.clamp_min(tiny).log().reshape(features.teacher_NGK.shape)
        return log_NGK, patch_NK.clamp_min(tiny).log().reshape(features.teacher_patch_NGMK.shape), zeros

    def metrics(self, features: DistilledViews, batch: ViewBatch) -> dict[str, Tensor]:
        """Collapse monitor: entropy of the teacher's mean answer and mean entropy of its answers, in nats, and the spread of
        class tokens."""
        target_NGK, _, (centre_K, _) = self.targets(features, batch)
        share_NK = (target_NGK - centre_K).softmax(-1).flatten(0, 1).float()
        unit_ND = torch.nn.functional.normalize(features.class_NGD.flatten(0, 1).float(), dim=-1)
        return {
            "teacher_entropy": _entropy(share_NK).mean(),
            "teacher_mean_entropy": _entropy(share_NK.mean(0)),
            "class_std": unit_ND.std(0).mean() * unit_ND.shape[1] ** 0.5,
        }

    def after_update(self, model: ImageDistiller, features: DistilledViews, batch: ViewBatch, progress: float) -> None:
        config, (begin, end) = self.teacher, self.scheduled
        overall = begin + progress * (end - begin)
        follow_(model, config.momentum, overall)
        mask_NM = (batch.position_BGM >= 0).flatten(0, 1)
        if config.centring == "centre":
            centre_K = updated_centre(features.class_centre_K, features.teacher_NGK, momentum=config.centre)
            patches_NMK = features.teacher_patch_NGMK.flatten(0, 1)
            patch_K = updated_centre(features.patch_centre_K, patches_NMK, momentum=config.centre, mask_NV=mask_NM)
            model.class_centre_K.copy_(centre_K)
            model.patch_centre_K.copy_(patch_K)
        first, last = config.teacher_tau
        grown = min(1.0, overall / config.tau_warmup) if config.tau_warmup else 1.0
        model.teacher_tau.fill_(first + (last - first) * grown)

    def started(self, model: Any) -> Self:
        """Weights that a run starts from are those of an image tower without a second class token, of any size that fits."""
        size = getattr(getattr(model, "preprocess", None), "size", self.image_size)
        return replace(self, image_size=int(size))

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """An image tower's own names stand under `image_tower`."""
        own = "patches.weight" in tensors
        return {f"image_tower.{name}": tensor for name, tensor in tensors.items()} if own else tensors

    def deploy(self, model: ImageDistiller) -> ImageTowerEmbedder:
        """The teacher, as DINOv2 deploys it."""
        teacher = cast(torch.nn.ModuleDict, model.companions["teacher"])
        tower = teacher["image_tower"]
        assert isinstance(tower, DenseViT)
        return ImageTowerEmbedder(tower, self.preprocess, self.slug)

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            image_tower="dense_tiny",
            image_size=64,
            views=ViewsConfig(locals=2, local_size=32, whole_scale=(0.5, 1.0), local_scale=(0.1, 0.4), blur=(0.5, 0.1, 0.2)),
            teacher=TeacherConfig(prototypes=256, head_hidden=128, head_width=32, momentum=0.99, learned_norms=False),
            batch_size=64,
            steps=300,
            lr=8e-4,
            layer_rate=1.0,
            patch_rate=1.0,
            drop_path=0.0,
            optimised="plain",
        )

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/14 over 518 pixels, 65,536 prototypes, the first 35,000 of 100,000 steps of 2,560 images."""
        return cls(schedule_share=0.35)


def _entropy(share: Tensor) -> Tensor:
    return -(share * share.clamp_min(torch.finfo(share.dtype).tiny).log()).sum(-1)
