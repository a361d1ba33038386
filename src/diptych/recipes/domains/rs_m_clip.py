"""RS-M-CLIP: captions in many languages, and self-distillation of the image tower from whole images to crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from diptych.core.contracts import Draw, Draws, Hook
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_seed
from diptych.core.rows import Rows
from diptych.core.sample import Sample, Text
from diptych.data.load.batch import PairBatch
from diptych.data.media.augment.views import local_views
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.encoders.self_distilled_encoder import SelfDistilledEncoder, SelfDistilledPairs
from diptych.models.towers.vit import VisionTransformer
from diptych.objectives.distillation.self_distillation import self_distillation, updated_centre
from diptych.objectives.gather import gather_rows
from diptych.recipes._shared.pairs import EncoderRecipe
from diptych.recipes._shared.presets import SMALL
from diptych.recipes._shared.teachers import TeacherFromStart, follow_


@dataclass(frozen=True, kw_only=True)
class MultiViewBatch(PairBatch):
    """A text an image, whole views beside the first, and small ones. text_id_B is int64, equal where the texts are."""

    whole_BGCHW: Rows[Tensor]
    local_BVCHW: Rows[Tensor]
    text_id_B: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class RSMCLIP(EncoderRecipe[SelfDistilledEncoder, MultiViewBatch, SelfDistilledPairs]):
    """Multilingual Vision-Language Pre-training for the Remote Sensing Domain (Silva et al., 2024, arXiv 2410.23370). Baseline: `clip`.

    A multilingual CLIP is tuned on captions that were translated: at each step an image is read with a caption in one of its languages,
    drawn first, so that a language with more captions is not read more. Beside CLIP's loss stands `distilled` times DINO's: the student
    sees all views of an image, the teacher, the moving average of image tower and head, the whole ones, and the student says of each view
    which prototypes the teacher sees in every other.

    Published from open_clip's xlm-roberta-base-ViT-B-32, which comes with no package:
    `--init "open_clip:xlm-roberta-base-ViT-B-32/FILE#FOLDER"`, FOLDER with XLM-R's tokenizer. No training code was released, and the
    sources at hand name neither weight, views, momentum nor schedule: they are DINO's here, but that views are cropped and mirrored alone,
    not coloured, that the teacher's temperature does not warm up, and that the last layer of the head learns from the first step.

    languages    tags of the languages that are drawn, of those that an image has; () takes all. A caption of unknown language counts as one
                 of its own
    equal_texts  a text that is word for word that of another image, as captions of the same kind of place often are: "negative", as in
                 CLIP's code, or "mask" leaves the pair out of the sums
    distilled    weight of the self-distillation; 0 leaves it and its views out
    wholes       whole views an image, of `image_size` pixels and `crop` of the area; the first is read with the text
    locals       small views, of local_size pixels and these shares of the area
    momentum     of the teacher at the start; it goes to 1 as a cosine
    prototypes, head_hidden, head_width   of the head, and its inner layers
    student_tau, teacher_tau   temperatures; centre is the momentum of the teacher's centre
    local_size, local_scale    pixels a side of a small view, and the shares of the image's area that it takes
    """

    slug = "rs_m_clip"
    no_prefixes = "its teacher's prototypes are of the whole width"

    languages: tuple[str, ...] = ()
    equal_texts: Literal["negative", "mask"] = "negative"
    distilled: float = 1.0
    wholes: int = 2
    locals: int = 8
    local_size: int = 96
    local_scale: tuple[float, float] = (0.05, 0.4)
    momentum: float = 0.996
    prototypes: int = 65_536
    head_hidden: int = 2048
    head_width: int = 256
    student_tau: float = 0.1
    teacher_tau: float = 0.04
    centre: float = 0.9

    language: str = ""
    text_tower: str = "xlm_roberta_b"
    crop: tuple[float, float] = (0.4, 1.0)

    def __post_init__(self) -> None:
        if self.wholes < 1 or self.locals < 0 or (self.distilled and self.wholes + self.locals < 2):
            raise ConfigError(
                f"wholes is {self.wholes}, locals {self.locals} (expected 1 or more, 0 or more, and two views with the self-distillation)"
            )
        if self.distilled < 0 or self.equal_texts not in ("negative", "mask"):
            raise ConfigError(
                f"distilled is {self.distilled}, equal_texts {self.equal_texts!r} (expected 0 or more, and negative | mask)"
            )

    def model(self) -> SelfDistilledEncoder:
        image, text = self.towers()
        if self.distilled:
            if not isinstance(image, VisionTransformer):
                raise ConfigError(
                    f"image tower {self.image_tower!r} does not see views of several sizes (expected vit_..., or --distilled 0)"
                )
            if self.local_size % image.patches.kernel_size[0]:
                patch = image.patches.kernel_size[0]
                raise ConfigError(f"local_size {self.local_size} cannot be cut into patches of {patch} (expected a multiple)")
        return SelfDistilledEncoder(
            DualEncoder(image, text, width=self.width),
            distilled=self.distilled > 0,
            prototypes=self.prototypes,
            hidden=self.head_hidden,
            bottleneck=self.head_width,
        )

    def hooks(self) -> Sequence[Hook]:
        return [TeacherFromStart()]

    @property
    def spoken(self) -> str:
        return ", ".join(self.languages)

    def texts_of(self, sample: Sample) -> list[str]:
        return [text.string for text in self._texts(sample)]

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        """A sample without a text in one of the languages is left out, as one that cannot be read."""
        if not self._texts(sample):
            languages = f" in {self.spoken}" if self.languages else ""
            raise DataError(f"sample '{sample.uid}' has no text{languages}", field="texts", expected="at least one")
        return super().load(sample, rng)

    def batch(self, draws: Draws) -> MultiViewBatch:
        """The text and the first view, then the other whole ones, then the small ones, all from the draw's own generator."""
        read = self.pair_batch(draws, choose=self._translated)
        more, small = (self.wholes - 1, self.locals) if self.distilled else (0, 0)
        whole_BGCHW = local_views(draws, self.preprocess, count=more, size=self.image_size, scale=self.crop, flip=self.flip)
        local_BVCHW = local_views(
            draws, self.preprocess, count=small, size=self.local_size, scale=self.local_scale, flip=self.flip
        )
        values = {f.name: getattr(read, f.name) for f in fields(PairBatch)}
        ids = [keyed_seed("text", *row[mask].tolist()) for row, mask in zip(read.text_BL, read.text_mask_BL.bool(), strict=True)]
        text_id_B = torch.tensor(ids, dtype=torch.int64)
        return MultiViewBatch(**values, whole_BGCHW=whole_BGCHW, local_BVCHW=local_BVCHW, text_id_B=text_id_B)

    def _translated(self, draw: Draw, language: str) -> Text:
        """One of the languages, then one of its captions; two numbers of the draw's generator."""
        texts = self._texts(draw.sample)
        tags = list(dict.fromkeys(text.language for text in texts))
        tag = tags[int(draw.rng.integers(len(tags)))]
        chosen = [text for text in texts if text.language == tag]
        return chosen[int(draw.rng.integers(len(chosen)))]

    def _texts(self, sample: Sample) -> list[Text]:
        return [text for text in sample.positives() if not self.languages or text.language in self.languages]

    def features(self, model: SelfDistilledEncoder, batch: MultiViewBatch) -> SelfDistilledPairs:
        outputs: SelfDistilledPairs = model(
            batch.image_BCHW, batch.text_BL, batch.text_mask_BL, batch.whole_BGCHW, batch.local_BVCHW
        )
        return outputs

    def losses(self, features: SelfDistilledPairs, batch: MultiViewBatch) -> dict[str, Tensor]:
        keep_NM = batch.text_id_B[:, None] != gather_rows(batch.text_id_B) if self.equal_texts == "mask" else None
        contrastive = self.contrast(
            features.image_ND, features.text_ND, scale=features.scale, group_B=batch.group_B, keep_NM=keep_NM
        )
        losses = {"contrastive": contrastive}
        if (student_NVK := features.student_NVK) is not None:
            teacher_NGK, centre_K = features.teacher_NGK, features.centre_K
            assert teacher_NGK is not None
            assert centre_K is not None
            taus: dict[str, Any] = {"student_tau": self.student_tau, "teacher_tau": self.teacher_tau}
            terms = [
                self_distillation(_without(student_NVK, whole), teacher_NGK[:, whole : whole + 1], centre_K, **taus)
                for whole in range(teacher_NGK.shape[1])
            ]
            losses["distilled"] = self.distilled * torch.stack(terms).mean()
        return losses

    def after_update(
        self, model: SelfDistilledEncoder, features: SelfDistilledPairs, batch: MultiViewBatch, progress: float
    ) -> None:
        super().after_update(model, features, batch, progress)
        follow_(model, self.momentum, progress)
        if features.teacher_NGK is not None and features.centre_K is not None:
            model.recentre_(updated_centre(features.centre_K, features.teacher_NGK, momentum=self.centre))

    @classmethod
    def tiny(cls) -> Self:
        own: dict[str, Any] = {"locals": 2, "local_size": 32, "prototypes": 256, "head_hidden": 128, "head_width": 32}
        return cls(**SMALL, **own, momentum=0.99, equal_texts="mask")

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/32 and XLM-R base, pictures of 224 pixels. CLIP's vocabulary stands in for XLM-R's where nothing is started from."""
        return cls(flip=True, flip_sides="ignore", decoding="whole", resize="squash")


def _without(view_NVK: Tensor, index: int) -> Tensor:
    """All views but the one at this place."""
    return torch.cat([view_NVK[:, :index], view_NVK[:, index + 1 :]], 1)
