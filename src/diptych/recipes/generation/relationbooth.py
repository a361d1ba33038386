"""RelationBooth: a low-rank adapter for one relation, on a diffusion model conditioned on pictures of the two objects."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Optimiser, Rule
from diptych.core.errors import ConfigError, DataError
from diptych.data.load.batch import pixels
from diptych.data.masks import decode as decode_mask
from diptych.data.text.tokenize import Tokenizer
from diptych.models.diffusion.adapters import add_adapter
from diptych.models.diffusion.reference_model import ReferenceImageModel
from diptych.models.diffusion.reference_net import ReferenceDenoising, ReferenceDiffusion, ReferenceSettings
from diptych.models.diffusion.settings import DiffusionSettings, stable_diffusion_xl
from diptych.objectives.diffusion.denoising import denoising_loss
from diptych.objectives.diffusion.figures import attention_outside, gated_mean, key_point_matching
from diptych.recipes._shared.diffusion.placement import mask_boxes, placed_on_black
from diptych.recipes._shared.diffusion.reference_base import ReferenceBase, reference_base, small_reference
from diptych.recipes._shared.diffusion.reference_recipe import ReferenceBatch, ReferenceRecipe, TargetView


@dataclass(frozen=True, kw_only=True)
class RelationBooth(ReferenceRecipe):
    """RelationBooth: Towards Relation-Aware Customized Object Generation (Shi et al., 2024, arXiv 2410.23280; later DreamRelation).

    Each row is a picture of two things in a relation, a picture of each thing alone, the prompt, names, boxes, masks, and 17 key
    points of each thing in both pictures: `extras["figures"]` and `media["references"]`, as `world:figures` has them. SDXL with
    the adapter of MS-Diffusion is frozen; a low-rank adapter on the cross-attention with the text is trained, one for each
    relation. Beside the denoising error, estimated clean latents at the key points of the target are drawn to those of the
    reference pictures at theirs, at steps of little noise; and the attention of the predicate's tokens is moved into the masks of
    the things. The adapter is exported as pytorch_lora_weights.safetensors, which diffusers loads.

    The release reads its condition on the step for a batch of one, scales the key points of the reference pictures by the number
    of channels, resizes each layer's mask from the one before, and reads local tokens when pictures are made, but not in training
    (`local_encoder`). It also places pictures at random on black without moving their key points (`placement`), and matches a predicate
    that does not occur in the prompt with nothing, which is an error here.

    weights         hf:FOLDER of SDXL, or the folder of a model with reference pictures
    adapter         MS-Diffusion's ms_adapter.bin, with hf:FOLDER
    image_encoder   hf:FOLDER of CLIP ViT-bigG/14, with hf:FOLDER
    local_encoder   the CLIP of local tokens, features of 4 x 4 boxes of large reference pictures: the release's epoch_6.pt, whose names are
                    open_clip's, or hf:FOLDER; "" reads none
    rank            of the adapter, whose product counts once (alpha = rank)
    key_points      weight of the key-point loss; 0 leaves it out
    key_point_share share of the steps of noise, the first ones, at which it counts
    attention       weight of the attention loss; 0 leaves it out
    point_scale     "latents", or "channels" as released (`key_point_matching`)
    masks_overwritten  each layer's mask is made from the layer's before, as released
    placement       "squash": pictures become squares, and boxes are those of the rows; "black": pictures are cropped and placed on
                    black at random, and boxes are those of their masks, as released, whose key points stay (`placed_on_black`)
    small_steps     without `weights`: steps of a small model of pixels that is trained once and kept in the cache; 0 builds the published
                    networks with fresh weights
    small_data      address of the figures that it learns
    """

    slug = "relationbooth"
    keeps_adapters: ClassVar[bool] = True

    weights: str = ""
    adapter: str = ""
    image_encoder: str = ""
    local_encoder: str = ""
    rank: int = 4
    key_points: float = 0.1
    key_point_share: float = 1 / 3
    attention: float = 0.001
    point_scale: str = "latents"
    masks_overwritten: bool = False
    placement: str = "squash"
    small_steps: int = 0
    small_data: str = ""

    batch_size: int = 4
    steps: int = 500
    lr: float = 1e-4
    warmup: float = 0.0
    weight_decay: float = 1e-4
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.placement not in ("squash", "black"):
            raise ConfigError(f"placement is {self.placement!r} (expected squash | black)")
        if self.point_scale not in ("latents", "channels") or self.rank < 1 or not 0 <= self.key_point_share <= 1:
            raise ConfigError(
                f"point_scale {self.point_scale!r}, rank {self.rank}, key_point_share {self.key_point_share} "
                "(expected latents | channels, 1 or more, and a share)"
            )

    def prepare(self, data: Dataset) -> Self:
        """Trains the small model, where one is asked for."""
        if self.weights or not self.small_steps:
            return self
        if not self.small_data:
            raise ConfigError("small_steps without small_data (expected an address of figures, such as world:figures)")
        return replace(self, weights=str(small_reference(self.small_data, steps=self.small_steps)), small_steps=0)

    def base(self) -> ReferenceBase | None:
        """The model that is adapted; None where the published networks are built with fresh weights."""
        return reference_base(self.weights, self.adapter, self.image_encoder, self.local_encoder) if self.weights else None

    def settings(self) -> DiffusionSettings:
        base = self.base()
        return base.model.net.settings if base else stable_diffusion_xl()

    def references(self) -> ReferenceSettings:
        base = self.base()
        return base.model.references if base else ReferenceSettings()

    def words(self) -> list[Tokenizer]:
        base = self.base()
        if base:
            return list(base.words)
        first, second = Tokenizer.from_spec("clip"), Tokenizer.from_spec("clip")
        first.pad_id = first.eot_id
        return [first, second]

    def view(self, draw: Draw) -> TargetView:
        if self.placement == "squash":
            return super().view(draw)
        size, side = self.preprocess.size, self.mask_side
        masks = [decode_mask(region.mask) for region in draw.sample.regions if region.mask is not None]
        if len(masks) != len(draw.media["references"]):
            raise DataError(
                f"sample '{draw.sample.uid}' has {len(masks)} masks",
                field="regions",
                expected="the mask of each reference in the target",
            )
        references = [placed_on_black(picture, (), size, side, draw.rng)[0] for picture in draw.media["references"]]
        image_HWC, mask_KSS = placed_on_black(pixels(draw), masks, size, side, draw.rng)
        return TargetView(image_HWC, references, mask_boxes(mask_KSS), mask_KSS.any(0).float())

    def model(self) -> ReferenceDiffusion:
        """The frozen networks with a fresh adapter."""
        base = self.base()
        model = copy.deepcopy(base.model) if base else ReferenceDiffusion(self.settings(), self.references())
        model.requires_grad_(False)
        add_adapter(model.net.unet, self.rank, self.rank)
        return model

    def stored(self, name: str) -> bool:
        """The adapter alone; the rest is the model's that `weights` names."""
        return "lora_" in name or not self.weights

    def losses(self, features: ReferenceDenoising, batch: ReferenceBatch) -> dict[str, Tensor]:
        denoising = features.denoising
        terms = {"denoising": denoising_loss(denoising.prediction_BCHW, denoising.target_BCHW)}
        if self.key_points:
            loss_B = key_point_matching(
                features.estimate_BCHW,
                features.reference_BRCHW,
                batch.target_BRK2,
                batch.point_BRK2,
                visible_BRK=batch.visible_BRK,
                scale="latents" if self.point_scale == "latents" else "channels",
            )
            last = int(self.settings().timesteps * self.key_point_share)
            terms["key_points"] = self.key_points * gated_mean(loss_B, denoising.timestep_B, last)
        if self.attention:
            outside_B = attention_outside(features.maps, batch.mask_BHW, overwritten=self.masks_overwritten)
            terms["attention"] = self.attention * outside_B.mean()
        return terms

    def optimiser(self) -> Optimiser:
        rules = (Rule(r"lora_"), Rule("", lr_scale=0.0))
        return replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8, schedule="constant", rules=rules)

    def deploy(self, model: ReferenceDiffusion) -> ReferenceImageModel:
        return ReferenceImageModel(model, self.words(), self.slug, rank=self.rank)

    @classmethod
    def tiny(cls) -> Self:
        """A small model of 32 pixels, trained first on figures side by side and in other relations: minutes on two cores."""
        return cls(
            small_steps=1200,
            small_data="world:figures?n=2000&seed=9999&apart=0.6&relations=waving to,dancing with",
            batch_size=4,
            steps=60,
            lr=2e-3,
        )

    @classmethod
    def paper(cls) -> Self:
        """SDXL at 1,024 pixels: 500 steps of one picture, four times accumulated, for each relation."""
        return cls()
