"""CoCu's training: captions as in CLIP, with concepts of the image as additional positive texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from diptych.core.contracts import Dataset, Draw, Draws, Optimiser, Rule
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.load.batch import group_ids, view
from diptych.data.media.augment.increasing_augment import increasing_augment
from diptych.data.media.augment.random_erasing import erase_
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD
from diptych.data.text.captions.text_sets import TextSetBatch
from diptych.models.pairs.encoders.concept_encoder import ConceptEncoder, ConceptSets
from diptych.models.towers.headed import headed
from diptych.models.towers.outputs import Tower
from diptych.objectives.pairs.several_texts import several_texts
from diptych.recipes._shared.pairs import EncoderRecipe
from diptych.recipes._shared.presets import SMALL_CLIP
from diptych.tasks.pairs.templates import templates

PROBED_ROWS = 200
GROUPVIT = {"model_type": "groupvit_vision_model", "num_output_groups": (64, 8, 8), "image_size": 224}
"""GroupViT-S of transformers: stages of 6, 3 and 3 blocks, 64 then 8 groups, 28,837,136 parameters."""

GROUPVIT_TEXT = {"width": 256, "layers": 12, "heads": 4}


@dataclass(frozen=True, kw_only=True)
class ConceptTexts(EncoderRecipe[ConceptEncoder, TextSetBatch, ConceptSets]):
    """Rewrite Caption Semantics: Bridging Semantic Gaps for Language-Supervised Semantic Segmentation (CoCu; Xing et al., 2023,
    arXiv 2309.13505). Baseline: `clip`, with GroupViT's towers GroupViT itself (2202.11094).

    Data come from `diptych curate cocu`, whose extras say which concepts an image shows. A step reads the caption and M concepts, each in
    a sentence drawn at random. The loss is CLIP's on the captions plus a contrastive loss of images against M texts each, all of which are
    positives to equal parts, with a temperature of its own. Where an image has fewer concepts, the caption stands in. With M = 0 this is
    CLIP.

    The M concepts are the M best ("top", as released by default), or drawn: different clusters by the softmax of their mean score, then one
    concept in each by the softmax of its score ("clusters"; the released code for it does not run, and would draw a cluster twice).

    concepts      M
    sampling      "top" or "clusters"
    labels        where a row has no concepts from `curate cocu`, the labels of its regions are its concepts (in `tiny`)
    sentences     set of templates for concepts, see the task zero_shot
    lambda_c      weight of the loss on concepts
    own_scale     whether that loss has a temperature of its own
    hidden        width of a hidden layer with batch norm between tower and projection, on both sides (published 4,096); 0 has none. Batch
                  norm reads the whole batch, so gradients are not cached then
    groupvit      the image tower is GroupViT-S of transformers
    drop_path     highest rate of GroupViT's stochastic depth
    augment       "timm" changes views by timm's RandAugment, `rand-m9-mstd0.5-inc1`, as published; not for texts that name colours
    erase         the chance that a box of a view becomes noise, by timm's random erasing (published .25)
    as_released   what the released code has and CLIP's has not: the last layer of a projector and the MLPs of the text tower start with
                  PyTorch's weights and biases; temperatures decay as weights do; they are kept from above only, where they are read, and
                  get no gradient there. Otherwise both stay within [1, max_scale] after each step
    final_lr      of the cosine, as a share of lr
    late          steps by which the schedule is late: 1, as released, where it moves after the update
    """

    slug = "concept_texts"
    concepts: int = 3
    sampling: Literal["top", "clusters"] = "top"
    labels: bool = False
    sentences: str = "eighty"
    lambda_c: float = 1.0
    own_scale: bool = True
    hidden: int = 0
    groupvit: bool = False
    drop_path: float = 0.0
    augment: Literal["none", "timm"] = "none"
    erase: float = 0.0
    as_released: bool = False
    final_lr: float = 0.025
    warmup_from: float | None = 0.0025
    over: Literal["rest", "run"] = "run"
    late: int = 1

    batch_size: int = 1024
    epochs: float = 30.0
    lr: float = 4e-4
    warmup: float = 2 / 30
    weight_decay: float = 0.05
    clip_norm: float = 5.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.concepts < 0 or self.hidden < 0:
            raise ConfigError(f"concepts is {self.concepts}, hidden {self.hidden} (expected 0 or more)")
        if self.sampling not in ("top", "clusters") or self.augment not in ("none", "timm"):
            raise ConfigError(f"sampling is {self.sampling!r}, augment {self.augment!r} (expected top | clusters, none | timm)")
        if not 0 <= self.erase <= 1 or not 0 <= self.drop_path < 1:
            raise ConfigError(f"erase is {self.erase:g}, drop_path {self.drop_path:g} (expected 0..1, and below 1)")
        if self.drop_path and not self.groupvit:
            raise ConfigError(
                f"drop_path is {self.drop_path:g} without groupvit (expected 0: other towers have no stochastic depth here)"
            )
        if self.same_group == "positive":
            raise ConfigError("same_group is 'positive' (expected mask | negative: positives are the texts of one image)")

    @property
    def cacheable(self) -> bool:  # type: ignore[override]  # depends on the configuration here
        return not self.hidden

    def prepare(self, data: Dataset) -> Self:
        """Learn the vocabulary from captions and sentences of concepts; refuse data in which no image has a concept."""
        rows = range(0, len(data), max(1, len(data) // PROBED_ROWS))
        if self.concepts and not any(self.concepts_of(data[row]) for row in rows):
            raise DataError(
                f"no image of '{data.name}' has concepts",
                field="concepts",
                expected="`diptych curate cocu DATA OUT --model MODEL` finds them; --data OUT trains on them",
            )
        return super().prepare(data)

    def image_options(self) -> dict[str, Any]:
        if not self.groupvit:
            return super().image_options()
        return {"config": GROUPVIT, "image_size": self.image_size, "drop_path": self.drop_path}

    def text_options(self) -> dict[str, Any]:
        spread = {"start": "spread"} if self.as_released and self.text_tower.startswith(("text_", "transformer")) else {}
        return {**super().text_options(), **spread, **(GROUPVIT_TEXT if self.groupvit else {})}

    def towers(self) -> tuple[Tower, Tower]:
        image, text = super().towers()
        return (headed(image, self.hidden, "image"), headed(text, self.hidden, "text")) if self.hidden else (image, text)

    def model(self) -> ConceptEncoder:
        image, text = self.towers()
        model = ConceptEncoder(
            image,
            text,
            own_scale=self.own_scale and self.concepts > 0,
            read_most=self.max_scale if self.as_released else None,
            width=self.width,
            projection_bias="both" if self.hidden else "none",
        )
        for projection in (model.encoder.image_projection, model.encoder.text_projection) if self.as_released else ():
            if isinstance(projection, nn.Linear):
                projection.reset_parameters()
        return model

    def batch(self, draws: Draws) -> TextSetBatch:
        """Of each draw first the caption, then its concepts and their sentences, then crop, flip, `augment` and `erase`."""
        texts: list[str] = []
        images = []
        for draw in draws:
            caption = self.text_of(draw)
            texts += [caption, *self.concept_texts(draw, caption)]
            shown_HWC = view(draw, self.preprocess.size, self.crop, self.flip, self.crop_form)
            images.append(increasing_augment(shown_HWC, draw.rng, mean=self.mean) if self.augment == "timm" else shown_HWC)
        encoded = self.words().encode(texts, self.text_length)
        shape = (len(draws), 1 + self.concepts)
        image_BCHW = self.preprocess(images)
        for draw, image_CHW in zip(draws, image_BCHW, strict=True) if self.erase else ():
            erase_(image_CHW, draw.rng, chance=self.erase)
        return TextSetBatch(
            image_BCHW=image_BCHW,
            text_BKL=torch.from_numpy(encoded.ids_BL).unflatten(0, shape),
            text_mask_BKL=torch.from_numpy(encoded.mask_BL).unflatten(0, shape),
            text_id_BK=torch.arange(shape[1]).repeat(shape[0], 1),
            group_B=group_ids(draws),
            truncated=encoded.truncated,
        )

    def concepts_of(self, sample: Sample) -> list[str]:
        """The concepts of a sample, the best first."""
        concepts: list[str] = sample.extras.get("concepts") or []
        return concepts or (list(dict.fromkeys(region.label for region in sample.regions)) if self.labels else [])

    def concept_texts(self, draw: Draw, caption: str) -> list[str]:
        """M texts: chosen concepts in drawn sentences, then the caption as often as it takes."""
        extras, forms = draw.sample.extras, templates(self.sentences)
        names = self.concepts_of(draw.sample)
        if self.sampling == "clusters" and self.concepts and extras.get("concepts"):
            names = sample_concepts(
                names, extras.get("concept_scores") or [], extras.get("concept_clusters") or [], self.concepts, draw
            )
        texts = [forms[int(draw.rng.integers(len(forms)))].format(name) for name in names[: self.concepts]]
        return texts + [caption] * (self.concepts - len(texts))

    def features(self, model: ConceptEncoder, batch: TextSetBatch) -> ConceptSets:
        sets: ConceptSets = model(batch.image_BCHW, batch.text_BKL, batch.text_mask_BKL)
        return sets

    def losses(self, features: ConceptSets, batch: TextSetBatch) -> dict[str, Tensor]:
        group_B = batch.group_B
        losses = {"contrastive": self.contrast(features.image_ND, features.text_ND, scale=features.scale, group_B=group_B)}
        if features.concept_NKD is not None and features.concept_scale is not None:
            several, _ = several_texts(
                features.image_ND,
                features.concept_NKD,
                scale=features.concept_scale,
                group_N=group_B if self.same_group == "mask" else None,
            )
            losses["concepts"] = self.lambda_c * several
        return losses

    def optimiser(self) -> Optimiser:
        chosen = replace(super().optimiser(), final_lr=self.final_lr, warmup_from=self.warmup_from)
        rules = (*chosen.rules, Rule(r"log_scale$", decay=True)) if self.as_released else chosen.rules
        return replace(chosen, over=self.over, late=self.late, rules=rules)

    def after_update(self, model: ConceptEncoder, features: ConceptSets, batch: TextSetBatch, progress: float) -> None:
        if not self.as_released:
            model.clamp_scale_(self.max_scale)

    @classmethod
    def tiny(cls) -> Self:
        """The towers, data, optimiser and budget of `clip`'s; labels of boxes stand in where the data have no concepts."""
        return cls(**SMALL_CLIP, labels=True, betas=(0.9, 0.98), eps=1e-6, final_lr=0.0, warmup_from=None, over="rest", late=0)

    @classmethod
    def paper(cls) -> Self:
        """GroupViT-S beside a text tower of width 256, both with a projector of two layers, 55,726,610 parameters; CC3M, batch 4 x 256,
        whose rate is the released 1.6e-3 times 1,024 / 4,096. Pictures are shown by the middle 224 of 256 pixels."""
        return cls(
            decoding="whole",
            image_tower="hf_image",
            groupvit=True,
            text_tower="transformer",
            act="quick_gelu",
            width=256,
            hidden=4096,
            crop=(0.08, 1.0),
            flip=True,
            drop_path=0.1,
            augment="timm",
            erase=0.25,
            as_released=True,
            crop_interpolation="bilinear",
            interpolation="bilinear",
            edge=32,
            same_group="negative",
        )


def sample_concepts(names: list[str], scores: list[float], clusters: list[int], count: int, draw: Draw) -> list[str]:
    """Different clusters by the softmax of their mean score, and of each a concept by the softmax of its score."""
    if not len(names) == len(scores) == len(clusters):
        raise DataError(
            f"sample '{draw.sample.uid}' has {len(names)} concepts, {len(scores)} scores and {len(clusters)} clusters",
            field="concepts",
            expected="lists of equal lengths, from `diptych curate cocu`",
        )
    members: dict[int, list[int]] = {}
    for index, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(index)
    keys = list(members)
    chosen: list[str] = []
    while keys and len(chosen) < count:
        means = [sum(scores[index] for index in members[key]) / len(members[key]) for key in keys]
        key = keys.pop(_by_softmax(means, draw.rng))
        chosen.append(names[members[key][_by_softmax([scores[index] for index in members[key]], draw.rng)]])
    return chosen


def _by_softmax(scores: list[float], rng: np.random.Generator) -> int:
    raw = np.exp(np.array(scores) - max(scores))
    total = np.cumsum(raw / raw.sum())
    return min(int(np.searchsorted(total, rng.random(), side="right")), len(scores) - 1)
