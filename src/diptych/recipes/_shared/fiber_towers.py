"""Shared by recipes on FIBER's towers: sizes, initial weights, learning rates and image augmentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from re import search
from typing import Any, Literal, Self

import numpy as np

from diptych.core.contracts import Dataset, Optimiser, Rule
from diptych.core.errors import ConfigError
from diptych.core.sample import Sample
from diptych.data.media.augment import boxed_views
from diptych.models.fiber.fiber import Fiber
from diptych.models.fiber.fiber_model import FiberModel
from diptych.models.fiber.image_encoder import FiberImageEncoder
from diptych.models.fiber.released import from_released, is_released, resized_tables
from diptych.models.fiber.text_encoder import FiberTextEncoder
from diptych.recipes._shared.pairs import B, F, M, PairRecipe
from diptych.recipes._shared.text_epochs import Counted, steps_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GATES = r"\.gates\.|\.gate\.|_transform\.|_pooler\.|_projection\.|fiber\.(image|text)_head\.|\.narrow\.|\.top\."
"""What joins the two sides; the rest of a tower is as it was pre-trained."""
HEADS = r"\.guess\.|\.fits\.|\.answer\.|\.statement\."
SMALL: dict[str, Any] = {
    "image_size": 64, "swin_width": 24, "swin_depths": (1, 1, 2, 1), "swin_heads": (2, 2, 4, 4), "swin_window": 4, "drop_path": 0.0,
    "text_width": 128, "text_layers": 4, "text_heads": 4, "text_places": 32, "text_length": 24, "fused_layers": 3, "dropout": 0.0,
    "width": 128, "tokenizer": "data", "pieces": 2048, "gate_scale": 2.0, "head_scale": 2.0, "clip_norm": 1.0, "decay": "matrices",
    "warmup_from": None, "adam": "torch", "decoding": "reduced",
}  # fmt: skip
"""Sizes and rates of the small presets, for two cores."""


@dataclass(frozen=True, kw_only=True)
class FiberRecipe(PairRecipe[M, B, F]):
    """A recipe whose module holds a `Fiber` by the name `fiber`.

    fused_layers     blocks of either tower that read the other side
    gate_scale, head_scale   learning rates of what joins the sides, and of the heads, times that of the towers
    swin_...         of the image tower: patch, width of the first stage, depths, heads, side of a window (None: image_size / 32)
    text_...         of the text tower; text_places: positions it has, of which `text_length` are read
    augment          "rand": random crops, flips and two operations, as for fine-tuning; "none": the whole picture squashed, as published
    decay            which parameters decay: "matrices", or also those that the "released" list of names misses
    adam             AdamW as the "transformers" of the release has it (`CorrectedAdamW`), or as "torch" does
    counted          rows of an epoch: "pictures", or, as released for fine-tuning, "texts": captions that differ, or questions
    drop_path        share of a block's answers that are left out at random while training, in the last block; earlier ones have less
    """

    fused_layers: int = 6
    gate_scale: float = 5.0
    head_scale: float = 5.0
    decay: Literal["matrices", "released"] = "released"
    adam: Literal["torch", "transformers"] = "transformers"
    decoding: Literal["reduced", "whole"] = "whole"
    warmup_from: float | None = 0.0
    counted: Counted = "pictures"
    augment: Literal["none", "rand"] = "none"
    swin_patch: int = 4
    swin_width: int = 128
    swin_depths: tuple[int, ...] = (2, 2, 18, 2)
    swin_heads: tuple[int, ...] = (4, 8, 16, 32)
    swin_window: int | None = None
    drop_path: float = 0.1
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_places: int = 512
    dropout: float = 0.1

    image_tower: str = "swin"
    text_tower: str = "roberta"
    width: int = 768
    image_size: int = 384
    text_length: int = 40
    crop: tuple[float, float] = (1.0, 1.0)
    resize: Literal["crop", "squash", "pad"] = "squash"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if (self.image_tower, self.text_tower) != ("swin", "roberta") or self.text_pooling is not None:
            raise ConfigError(
                f"towers are {self.image_tower} and {self.text_tower}, text_pooling {self.text_pooling} "
                "(expected swin and roberta, whose sizes are swin_... and text_...)"
            )

    @property
    def fused(self) -> int:
        """Blocks of either tower that have a gate."""
        return self.fused_layers

    def prepare(self, data: Dataset) -> Self:
        """Learns the vocabulary, where it is the data's own, and counts the texts, where they are the rows of an epoch."""
        prepared = super().prepare(data).listed(data)
        if prepared.steps:
            return prepared
        steps = steps_of(prepared.counted, data, prepared.rows_in, epochs=prepared.epochs, batch_size=prepared.batch_size)
        return replace(prepared, steps=steps)

    def listed(self, data: Dataset) -> Self:
        """The recipe with what else it reads from the data."""
        return self

    def rows_in(self, sample: Sample) -> int:
        """Texts of a sample that each are a row of an epoch that counts texts."""
        return len({*self.texts_of(sample)})

    # ------------------------------------------------------------ weights to start from

    def started(self, model: Any) -> Self:
        """The recipe with the towers, tokenizer and image settings of a trained FIBER. The side of the picture stays the recipe's own, and
        tables of relative positions are resized to the windows that it asks for."""
        if not isinstance(model, FiberModel):
            raise ConfigError(
                f"'{self.slug}' starts from a FIBER, and {getattr(model, 'name', model)} is not one (expected a run of fiber)"
            )
        return replace(self, **self.sizes_of(model))

    def sizes_of(self, model: FiberModel) -> dict[str, Any]:
        """Fields of the recipe as the model has them."""
        image, text, preprocess = model.model.image_tower.spec, model.model.text.spec, model.preprocess
        return {
            "fused_layers": len(text["image_widths"]) or self.fused_layers, "swin_patch": image["patch"], "swin_width": image["width"],
            "swin_depths": tuple(image["depths"]), "swin_heads": tuple(image["heads"]), "swin_window": image["window"],
            "text_width": text["width"], "text_layers": text["layers"], "text_heads": text["heads"], "text_places": text["length"],
            "width": model.model.width, "resize": preprocess.resize, "mean": preprocess.mean, "std": preprocess.std,
            "text_length": model.text_length, "tokenizer": "weights", "vocabulary": model.tokenizer.to_json(),
        }  # fmt: skip

    def fitted(self, tensors: Any) -> Any:
        """Those of a model that stands alone or of a released file, under their names in training; tables of relative positions at the size
        of this recipe's windows."""
        if is_released(tensors):
            renamed = from_released(tensors, depths=self.swin_depths, text_layers=self.text_layers, fused=self.fused)
        else:
            alone = not any(name.startswith("fiber.") for name in tensors)
            renamed = {f"fiber.{name}" if alone else name: tensor for name, tensor in tensors.items()}
        return resized_tables(
            renamed, self.swin_window or self.image_size // (self.swin_patch * 2 ** (len(self.swin_depths) - 1))
        )

    # ------------------------------------------------------------ model

    def fiber(self, **parts: Any) -> Fiber:
        """Fresh towers; `parts` are the heads that they get (`Fiber`)."""
        image = FiberImageEncoder(
            image_size=self.image_size,
            patch=self.swin_patch,
            width=self.swin_width,
            depths=self.swin_depths,
            heads=self.swin_heads,
            window=self.swin_window,
            drop_path=self.drop_path,
            fused=self.fused,
            text_width=self.text_width,
        )
        words = self.words()
        text = FiberTextEncoder(
            vocab_size=words.vocab_size,
            mask_id=words.inner.token_to_id("<mask>"),
            length=max(self.text_places, self.text_length),
            width=self.text_width,
            layers=self.text_layers,
            heads=self.text_heads,
            dropout=self.dropout,
            image_widths=image.fused_widths,
        )
        return Fiber(image, text, width=self.width, top_heads=self.text_heads, **parts)

    def fiber_without(self, unused: str, **parts: Any) -> Fiber:
        """The same, where parameters whose names `unused` matches never have a gradient here and so do not learn."""
        made = self.fiber(**parts)
        for name, parameter in made.named_parameters():
            if search(unused, name):
                parameter.requires_grad_(False)
        return made

    @property
    def operations(self) -> Callable[[boxed_views.Pixels, np.random.Generator], boxed_views.Pixels] | None:
        """Augmentation beside crop and flip; None for none."""
        return _operations if self.augment == "rand" else None

    def optimiser(self) -> Optimiser:
        rules = [Rule(GATES, lr_scale=self.gate_scale), Rule(HEADS, lr_scale=self.head_scale)]
        if self.decay == "released":
            rules = [
                Rule(r"alpha_1$|\.gates\.\d+\.norm\.weight$", lr_scale=self.gate_scale, decay=True),
                Rule(r"\.(answer|statement)\.1\.weight$", lr_scale=self.head_scale, decay=True),
                Rule(r"temperature_1$", decay=True),
                Rule(r"relative_position_bias_table$", decay=False),
                *rules,
            ]
        chosen = replace(super().optimiser(), betas=(0.9, 0.98), eps=1e-8, schedule="linear", warmup_from=self.warmup_from)
        return replace(chosen, adam=self.adam, warmup_rounds="down", rules=tuple(rules))


def _operations(image_HWC: boxed_views.Pixels, rng: np.random.Generator) -> boxed_views.Pixels:
    """ALBEF's: two operations at seven tenths of their range, each in half of the cases."""
    return boxed_views.augmented((image_HWC, None), rng, level=0.7)[0]
