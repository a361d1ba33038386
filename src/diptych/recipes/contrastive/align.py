"""ALIGN: a plain dual encoder, trained on many texts with little cleaning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from torch import Tensor

from diptych.core.contracts import Optimiser
from diptych.core.errors import ConfigError
from diptych.data.load.batch import PairBatch
from diptych.data.media.transforms import CropForm
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.outputs import PairFeatures
from diptych.recipes._shared.pairs import DualEncoderRecipe
from diptych.recipes._shared.presets import SMALL_CLIP

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class ALIGN(DualEncoderRecipe):
    """Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision (Jia et al., 2021, arXiv 2102.05918).
    Baseline: `clip`.

    Two towers and one contrastive loss: the sum, not the mean, of the two directions' cross-entropies, with label smoothing in
    both and one learned temperature sigma. Data are cleaned by counting only (`diptych curate align`). Published towers: an
    EfficientNet pooled before its last 1x1 convolution, whose channels are the embedding as they are, and BERT's first token
    with one linear layer.

    The temperature is stored as log(1/sigma), because a divisor that is learned directly may cross zero, and kept within [1/100, 1].
    At sigma 1 a small batch gives almost no gradient for many steps: start at 0.07 when the batch is below a thousand, as `tiny`
    does. EfficientNets have batch norm: with `--micro-batch` it normalises within a chunk. We depart in `same_group` as `clip`
    does; `paper` takes the published "negative". The vocabulary is learned from the data, since BERT's is not at hand without a download,
    and pixels go to [-1, 1], as EfficientNet's released code has it: the paper says nothing of them.

    A trained model answers image and text together: `pipelines.composed_search.ComposedSearch` adds twice the text to the image,
    the published weight.

    smoothing      share of the target that is spread over the batch, in both directions
    start_sigma    temperature at the start; similarities are divided by it
    optimiser_kind  "lamb" as published, or "adamw" for small batches
    schedule       after the warm-up: "linear" to 0 as published, "cosine" or "constant"
    warmup_from    share of the rate at step 0, published: 0; None: the first step has lr / warmup
    project_image  a linear layer after the image tower; published without, so that width is the tower's own
    text_bias      whether the linear layer behind the text has a bias
    windows        training sees any square of image_size pixels of the whole picture, squashed to `edge` more (published: 289 of 346);
                   evaluation sees the middle. False crops by `crop`; so it is where pictures are not squashed or have no edge
    """

    slug = "align"
    presets = ("tiny", "paper", "paper_tuned")

    smoothing: float = 0.1
    start_sigma: float = 1.0
    optimiser_kind: Literal["lamb", "adamw"] = "lamb"
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    warmup_from: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    project_image: bool = False
    text_bias: bool = True
    windows: bool = True

    image_tower: str = "efficientnet_l2"
    text_tower: str = "bert_l"
    width: int = 1376
    image_size: int = 289
    text_length: int = 64
    tokenizer: str = "data"
    pieces: int = 30_522
    crop: tuple[float, float] = (0.7, 0.7)
    resize: Literal["crop", "squash", "pad"] = "squash"
    edge: int = 57
    flip: bool = True
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    batch_size: int = 16_384
    steps: int = 1_200_000
    lr: float = 1e-3
    warmup: float = 10_000.0
    weight_decay: float = 1e-5

    def model(self) -> DualEncoder:
        if not 0.01 <= self.start_sigma <= 1:
            raise ConfigError(f"start_sigma is {self.start_sigma} (expected 0.01..1)")
        image, text = self.towers()
        return DualEncoder(
            image,
            text,
            width=self.width,
            scale=1 / self.start_sigma,
            project_image=self.project_image,
            projection_bias="text" if self.text_bias else "none",
        )

    @property
    def decode_size(self) -> int:
        return super().decode_size and super().decode_size + self.window

    @property
    def window(self) -> int:
        """Pixels by which the picture is larger than what training sees of it; 0 where crops are not windows."""
        return self.edge if self.windows and self.resize == "squash" else 0

    @property
    def crop_form(self) -> CropForm:
        return replace(super().crop_form, window=self.image_size + self.window if self.window else 0)

    def losses(self, features: PairFeatures, batch: PairBatch) -> dict[str, Tensor]:
        mean = self.contrast(
            features.image_ND, features.text_ND, scale=features.scale, group_B=batch.group_B, smoothing=self.smoothing
        )
        return {"contrastive": 2 * mean}  # the sum of both directions

    def metrics(self, features: PairFeatures, batch: PairBatch) -> dict[str, Tensor]:
        return {"sigma": 1 / features.scale.detach()}

    def optimiser(self) -> Optimiser:
        return replace(super().optimiser(), kind=self.optimiser_kind, schedule=self.schedule, warmup_from=self.warmup_from)

    @classmethod
    def tiny(cls) -> Self:
        """The towers, batch and optimiser of `clip`'s: the loss and the schedule differ. Published shape in small:
        `--image-tower timm:efficientnet_lite0 --text-tower bert_tiny --optimiser-kind lamb`."""
        own: dict[str, Any] = {"start_sigma": 0.07, "project_image": True, "text_bias": False, "windows": False}
        return cls(**SMALL_CLIP, optimiser_kind="adamw", betas=(0.9, 0.98), **own)

    @classmethod
    def paper(cls) -> Self:
        """EfficientNet-L2 and BERT-Large, batch 16,384, 1.2 million steps: about 12 epochs of 1.8 billion pairs. The vocabulary is
        learned from the data, as large as BERT's."""
        return cls(same_group="negative", flip_sides="ignore", decoding="whole", warmup_from=0.0)

    @classmethod
    def paper_tuned(cls) -> Self:
        """Published fine-tuning for retrieval on Flickr30k, from a finished run (`--init RUN`): the same loss at batch 2,048, 3,000 steps
        from a rate of 1e-5; on COCO 6,000 (`--steps`).
        """
        return replace(cls.paper(), batch_size=2048, lr=1e-5, warmup=0.0, steps=3000)
