"""M3I: one-stage pre-training with labels, texts and other views as targets of one objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, cast, get_args

import numpy as np
import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Draws, Hook
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_seed
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import PairBatch, group_ids
from diptych.data.media.augment.views import View, hidden_patches, patches_in, placed_view
from diptych.models.pairs.encoders.mixed_image_encoder import ClassScale, MixedEncoder, MixedPairs, TeacherView
from diptych.models.towers.dense_vit import DenseViT
from diptych.models.towers.outputs import Tower, all_or_none
from diptych.models.towers.towers import image_tower, patches_a_side
from diptych.objectives.pairs.mutual_information import MutualInformation
from diptych.recipes._shared.frozen.initial_weights import dense_names, with_dense_tower
from diptych.recipes._shared.pairs import EncoderRecipe
from diptych.recipes._shared.presets import SMALL_CLIP
from diptych.recipes._shared.teachers import TeacherFromStart, follow_

TEXTS = MutualInformation(symmetric=True)
VIEWS = MutualInformation()
CLASSES = MutualInformation(candidates="set")


@dataclass(frozen=True, kw_only=True)
class MixedBatch(PairBatch):
    """Images, each mixed with another of the batch (row 2k with row 2k + 1), and what is known of each.

    own_BP, place_BM  which patches of the mixture are the image's own, and where the other's are
    worded_B          whether there is a text
    label_B           number of the class, -1 where it is not known
    teacher_BCHW, box_BP4  the other view that the teacher sees, and where its patches lie in the image; None where it sees the image
    """

    mixed_BCHW: Rows[Tensor]
    own_BP: Rows[Tensor]
    place_BM: Rows[Tensor]
    worded_B: Rows[Tensor]
    label_B: Rows[Tensor]
    teacher_BCHW: Rows[Tensor] | None = None
    box_BP4: Rows[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class M3I(EncoderRecipe[MixedEncoder, MixedBatch, MixedPairs]):
    """Towards All-in-one Pre-training via Maximizing Multi-modal Mutual Information (Su et al., 2022, arXiv 2211.09807). Baseline: `clip`.

    One form (`objectives/pairs/mutual_information.py`) has supervised, image-text and self-supervised pre-training as special
    cases, and this recipe trains them together. The input is two images mixed patch by patch. For each of both the tower
    predicts, from the patches that are its own: its class embedding, its text among those of the batch, and what a teacher (a
    moving average) says of the whole image, as one vector and, at the places that the other image covers, patch by patch. A
    sample may have a label, a text, both or neither: every term is the mean over the samples that have what it needs.

    No code was ever released and formulas and settings could not be verified: this is our reading, and no published number is
    claimed. By default the teacher sees the same crop, unmixed, and its patches are guessed where the other image covers them. As
    published it sees another view (`teacher_view="other"`, in `paper()`): another crop of the same image, all of whose patches are guessed
    from where they lie in the student's crop. What is deployed is a plain dual encoder whose image vector is the mean of patches.

    Rows are mixed in pairs, so the batch of a process must be even.

    weight_text, weight_class, weight_view, weight_patch   of the terms; 0 leaves a term out
    mixed      two images in one input, half of the patches each; without, there are no patches to predict
    label      column with the class; "" knows none
    labelled   share of the samples whose label is shown, always the same ones
    worded     share of the samples whose text is shown, likewise
    momentum   of the teacher at the start; it goes to 1 as a cosine
    tau_view   temperature of the teacher's vectors
    class_scale   what cosines with classes are multiplied by: the scale of the texts ("shared": one matrix of targets in one softmax),
               or a learned one of their "own", since 24 classes and 128 texts want different temperatures
    teacher_view  "same": the teacher sees the student's crop, unmixed; "other": another crop and flip, drawn alike
    """

    slug = "m3i"
    no_prefixes = "its teacher's and its classes' vectors are of the whole width"
    needs: ClassVar[tuple[str, ...]] = ("image",)

    weight_text: float = 1.0
    weight_class: float = 1.0
    weight_view: float = 1.0
    weight_patch: float = 1.0
    mixed: bool = True
    label: str = "label"
    labelled: float = 1.0
    worded: float = 1.0
    momentum: float = 0.996
    tau_view: float = 0.2
    class_scale: ClassScale = "shared"
    teacher_view: TeacherView = "same"

    image_tower: str = "dense_b16"
    batch_size: int = 4096
    epochs: float = 400.0
    lr: float = 1e-3

    classes: tuple[str, ...] = field(default=(), metadata={"prepared": True})

    def __post_init__(self) -> None:
        if not 0 <= self.labelled <= 1 or not 0 <= self.worded <= 1:
            raise ConfigError(f"labelled is {self.labelled}, worded {self.worded} (expected shares)")
        if self.batch_size % 2:
            raise ConfigError(f"batch_size is {self.batch_size}: images are mixed in pairs (expected an even number)")
        if self.tau_view <= 0 or max(self.weight_text, self.weight_class, self.weight_view, self.weight_patch) <= 0:
            raise ConfigError("tau_view and at least one weight must be above 0")
        if self.class_scale not in get_args(ClassScale):
            raise ConfigError(f"class_scale is {self.class_scale!r} (expected shared | own)")
        if self.teacher_view not in get_args(TeacherView):
            raise ConfigError(f"teacher_view is {self.teacher_view!r} (expected same | other)")

    def prepare(self, data: Dataset) -> Self:
        prepared = super().prepare(data)
        if prepared.classes or not self.label or not self.weight_class:
            return prepared
        labels = {str(v) for row in range(len(data)) if (v := data[row].extras.get(self.label)) is not None}
        if not labels:
            raise DataError(
                f"'{data.name}' has no column '{self.label}'", field=self.label, expected="--label COLUMN, or --label ''"
            )
        return replace(prepared, classes=tuple(sorted(labels)))

    def towers(self) -> tuple[Tower, Tower]:
        text = super().towers()[1]
        image = image_tower(self.image_tower, **{**self.image_options(), "pool": "mean"})
        return self.projected(image, "image"), text

    @property
    def views(self) -> bool:
        return self.weight_view > 0 or (self.weight_patch > 0 and self.mixed)

    def model(self) -> MixedEncoder:
        image, text = self.towers()
        if not isinstance(image, DenseViT):
            raise ConfigError(f"image tower {self.image_tower!r} does not pool by means of patches (expected dense_...)")
        classes = len(self.classes) if self.weight_class else 0
        kinds: dict[str, Any] = {"class_scale": self.class_scale, "teacher_view": self.teacher_view}
        return MixedEncoder(image, text, width=self.width, classes=classes, views=self.views, **kinds)

    def started(self, model: Any) -> Self:
        """The image tower becomes a dense one with the same weights; its further parameters are fresh."""
        return cast(Self, with_dense_tower(super().started(model), getattr(model, "name", "the weights")))

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return dense_names(tensors)

    def hooks(self) -> Sequence[Hook]:
        return [TeacherFromStart()]

    def batch(self, draws: Draws) -> MixedBatch:
        """Text, then crop and flip, then the mixture's patches, then the teacher's crop and flip, all from the draw's own generator. The
        second of a pair has the patches that the first has not."""
        if len(draws) % 2:
            raise ConfigError(f"{len(draws)} images cannot be mixed in pairs (expected an even batch a process)")
        strings = [self._text(draw) for draw in draws]
        views = [placed_view(draw, self.image_size, self.crop, self.flip) for draw in draws]
        image_BCHW = self.preprocess([view.image_HWC for view in views])
        side = patches_a_side(self.image_tower, self.image_size, self.image_options().get("patch"))
        if self.mixed and side % 2:
            raise ConfigError(f"{side} x {side} patches cannot be shared equally by two images (expected an even number)")
        hidden_BP, _ = hidden_patches(draws, patches=side**2, share=0.5 if self.mixed else 0.0)
        encoded = self.words().encode([string or "" for string in strings], self.text_length)
        return MixedBatch(
            image_BCHW=image_BCHW,
            text_BL=torch.from_numpy(encoded.ids_BL),
            text_mask_BL=torch.from_numpy(encoded.mask_BL),
            group_B=group_ids(draws),
            truncated=encoded.truncated,
            worded_B=torch.tensor([string is not None for string in strings]),
            label_B=torch.tensor([self._label(draw.sample) for draw in draws], dtype=torch.int64),
            **_mixed(image_BCHW, hidden_BP, side),
            **self._teachers(draws, views, side),
        )

    def _teachers(self, draws: Draws, views: Sequence[View], side: int) -> dict[str, Any]:
        """Another view of each image, where the teacher sees one."""
        if self.teacher_view == "same" or not self.views:
            return {}
        others = [placed_view(draw, self.image_size, self.crop, self.flip) for draw in draws]
        boxes = [patches_in(other, view, side) for other, view in zip(others, views, strict=True)]
        return {"teacher_BCHW": self.preprocess([other.image_HWC for other in others]), "box_BP4": torch.stack(boxes)}

    def _text(self, draw: Draw) -> str | None:
        """A text of the sample, or None where it has none or hides it."""
        if not draw.sample.positives(self.language) or not _is_used(draw.sample, "worded", self.worded):
            return None
        return self.text_of(draw)

    def _label(self, sample: Sample) -> int:
        value = sample.extras.get(self.label) if self.label else None
        if value is None or str(value) not in self.classes or not _is_used(sample, "labelled", self.labelled):
            return -1
        return self.classes.index(str(value))

    def features(self, model: MixedEncoder, batch: MixedBatch) -> MixedPairs:
        whole_BCHW = batch.image_BCHW if batch.teacher_BCHW is None else batch.teacher_BCHW
        images = (whole_BCHW, batch.mixed_BCHW, batch.own_BP, batch.place_BM)
        outputs: MixedPairs = model(*images, batch.text_BL, batch.text_mask_BL, batch.box_BP4)
        return outputs

    def losses(self, features: MixedPairs, batch: MixedBatch) -> dict[str, Tensor]:
        """Each term is the mean over both images of a mixture, where it is one."""
        other = torch.arange(len(batch), device=features.image_ND.device) ^ 1
        sides: list[tuple[Tensor, Tensor | None, slice | Tensor]] = [(features.image_ND, features.view_ND, slice(None))]
        if features.other_ND is not None:
            sides.append((features.other_ND, features.other_view_ND, other))
        terms: dict[str, list[Tensor]] = {}
        for image_ND, view_ND, of in sides:
            group_N = batch.group_B[of]
            if self.weight_text:
                options = {"counted_N": batch.worded_B[of], "group_N": self._same(group_N)}
                terms.setdefault("text", []).append(TEXTS(image_ND, features.text_ND[of], scale=features.scale, **options))
            if self.weight_class and features.class_KD is not None and features.class_scale is not None:
                index_N = batch.label_B[of]
                term = CLASSES(image_ND, index_N, scale=features.class_scale, set_KD=features.class_KD, counted_N=index_N >= 0)
                terms.setdefault("class", []).append(term)
            if self.weight_view and view_ND is not None and features.target_ND is not None:
                term = VIEWS(view_ND, features.target_ND[of], scale=1 / self.tau_view, group_N=self._same(group_N))
                terms.setdefault("view", []).append(term)
        if self.weight_patch and (patches := all_or_none(features.patch_NMD, features.target_patch_NMD)):
            mean = MutualInformation("gaussian", variance=patches[0][0].numel() / 2)  # the mean over dimensions
            terms["patch"] = [mean(*patches)]
        return {name: getattr(self, f"weight_{name}") * torch.stack(values).mean() for name, values in terms.items()}

    def _same(self, group_N: Tensor) -> Tensor | None:
        return None if self.same_group == "negative" else group_N

    def metrics(self, features: MixedPairs, batch: MixedBatch) -> dict[str, Tensor]:
        shares = {"texts": batch.worded_B.float().mean(), "labels": (batch.label_B >= 0).float().mean()}
        return {"scale": features.scale.detach(), **shares}

    def after_update(self, model: MixedEncoder, features: MixedPairs, batch: MixedBatch, progress: float) -> None:
        model.clamp_scale_(self.max_scale)
        follow_(model, self.momentum, progress)

    @classmethod
    def tiny(cls) -> Self:
        """The budget of `clip`'s with an image tower of 64 patches."""
        same = {**SMALL_CLIP, "image_tower": "dense_tiny"}
        return cls(**same, momentum=0.99)

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/16 on ImageNet with YFCC15M's texts, half of each image covered. Not verified; 1,000 classes come from the data."""
        return cls(same_group="negative", flip=True, clip_norm=1.0, teacher_view="other", decoding="whole")


def _is_used(sample: Sample, what: str, share: float) -> bool:
    """The same samples in every run and every epoch."""
    return share >= 1 or keyed_seed(what, sample.uid) < share * 2**63


def _mixed(image_BCHW: Tensor, hidden_BP: Tensor, side: int) -> dict[str, Any]:
    """Rows 2k and 2k + 1 in one another: where the first of them hides a patch, the second shows through, and the other way round."""
    own_BP = ~hidden_BP.clone()
    own_BP[1::2] = ~own_BP[0::2]
    patch = image_BCHW.shape[-1] // side
    own_B1HW = own_BP.reshape(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    other = torch.arange(len(image_BCHW)) ^ 1
    if not hidden_BP.any():
        whole_BP = torch.ones_like(own_BP)
        return {"mixed_BCHW": image_BCHW, "own_BP": whole_BP, "place_BM": torch.zeros(len(own_BP), 0, dtype=torch.int64)}
    place_BM = torch.from_numpy(np.nonzero(~own_BP.numpy())[1].reshape(len(own_BP), -1))
    return {"mixed_BCHW": torch.where(own_B1HW, image_BCHW, image_BCHW[other]), "own_BP": own_BP, "place_BM": place_BM}
