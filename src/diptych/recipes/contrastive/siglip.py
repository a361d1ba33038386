"""SigLIP: sigmoid loss, a binary classification of every pair of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from torch import Tensor, nn

from diptych.core.contracts import Optimiser, Rule
from diptych.data.load.batch import PairBatch
from diptych.models.layers.initialisation import lecun_normal_
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.outputs import PairFeatures
from diptych.objectives.pairs.sigmoid_pairs import sigmoid_pairs
from diptych.recipes._shared.pairs import DualEncoderRecipe
from diptych.recipes._shared.presets import SMALL


@dataclass(frozen=True, kw_only=True)
class SigLIP(DualEncoderRecipe):
    """Sigmoid Loss for Language Image Pre-Training (Zhai et al., 2023, arXiv 2303.15343). A baseline beside `clip`.

    The loss is a sigmoid for every image-text pair of the batch, summed over pairs and divided by the number of
    images, with a learned scale and bias. The bias starts at -10 because N*N - N of the N*N pairs are negatives and would drown the
    first steps. Images are squashed to a square instead of cropped, pixels go to [-1, 1].

    Where the released towers differ from CLIP's, and `paper()` with them: patches with a bias, no class token and no norm before the
    blocks, an attention-pooling head in place of a projection, a text read both ways with its padding and pooled at the last place,
    a projection of texts with a bias, tanh GELU, norms with eps 1e-6. `tiny()` keeps `clip`'s towers, so that the loss alone differs.
    Their blocks begin Xavier-uniform, as big_vision's, the scale is free, and the warm-up begins at 0.
    We depart in the vocabulary: "clip", since the published one (32,000 pieces of English C4) is in no package; pass its
    tokenizer.json as `tokenizer`; and in the optimiser, AdamW with the published second beta, where the paper's runs had big_vision's
    Adafactor (its released example has Adam).

    A start from weights that know no bias, such as CLIP's (`--init`), takes their towers and not their scale: a hundred was learned by a
    softmax, which does not see what all cosines of a row have in common, and would make nearly every pair a certain yes.

    project_image  whether the image vector is projected, or taken as its tower gives it (as published; `width` is then the tower's)
    independent_decay  weight decay takes `weight_decay` of a weight at the highest rate, whatever that is, as the published training code
                       (big_vision) does; False: times the learning rate, as AdamW of torch does
    decay          what decays: "kernels", the maps alone, or all "matrices", tables of words and places among them
    text_bias      whether the projection of texts has a bias (as published)
    warmup_from    share of the rate at step 0; None: the first step has lr / warmup
    start_scale, start_bias  what cosines are multiplied by and shifted by at the start; both are learned
    """

    slug = "siglip"

    start_scale: float = 10.0  # learned as log(scale)
    start_bias: float = -10.0
    project_image: bool = True
    text_bias: bool = False

    batch_size: int = 32_768
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 6500.0
    warmup_from: float | None = 0.0
    clip_norm: float = 1.0
    max_scale: float = 0.0
    eps: float = 1e-8
    weight_decay: float = 1e-4
    independent_decay: bool = True
    decay: Literal["kernels", "matrices"] = "kernels"
    crop: tuple[float, float] = (1.0, 1.0)
    resize: Literal["crop", "squash", "pad"] = "squash"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def model(self) -> DualEncoder:
        image, text = self.towers()
        module = DualEncoder(
            image,
            text,
            width=self.width,
            scale=self.start_scale,
            bias=self.start_bias,
            project_image=self.project_image,
            projection_bias="text" if self.text_bias else "none",
        )
        if text.spec.get("start") == "xavier" and isinstance(module.text_projection, nn.Linear):
            lecun_normal_(module.text_projection.weight)
        return module

    def optimiser(self) -> Optimiser:
        chosen = replace(super().optimiser(), warmup_from=self.warmup_from)
        if self.independent_decay:
            chosen = replace(chosen, weight_decay=self.weight_decay / self.lr)
        return (
            replace(chosen, rules=(Rule(r"(\.embed\.weight|position_[PL]D)$", decay=False),))
            if self.decay == "kernels"
            else chosen
        )

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Scale and bias belong together: without a bias in the weights, both start as the recipe's own."""
        return tensors if "bias" in tensors else {name: tensor for name, tensor in tensors.items() if name != "log_scale"}

    def losses(self, features: PairFeatures, batch: PairBatch) -> dict[str, Tensor]:
        assert features.bias is not None
        loss, _ = sigmoid_pairs(
            features.image_ND,
            features.text_ND,
            scale=features.scale,
            bias=features.bias,
            group_N=batch.group_B,
            group_M=batch.group_B,
            same=self.same_group,
        )
        return {"pairs": loss}

    @classmethod
    def tiny(cls) -> Self:
        """The same towers, data and budget as `clip`'s, so that the two differ in the loss alone."""
        same: dict[str, Any] = {**SMALL, "crop": (0.9, 1.0), "max_scale": 100.0, "warmup_from": None}
        return cls(**same, eps=1e-6, independent_decay=False, decay="matrices")

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/16 on WebLI as released at 224 pixels: 64 tokens per text; 203,155,970 parameters with its vocabulary of 32,000."""
        return cls(
            image_tower="siglip_b16",
            text_tower="text_siglip",
            width=768,
            text_length=64,
            project_image=False,
            text_bias=True,
            same_group="negative",
            decoding="whole",
        )
