"""Text-to-image diffusion: a network that predicts the noise of a picture from the noisy picture and a prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from diptych.core.contracts import Optimiser, Rule
from diptych.recipes._shared.diffusion.text_to_image_recipe import TextToImageRecipe


@dataclass(frozen=True, kw_only=True)
class TextToImage(TextToImageRecipe):
    """High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022, arXiv 2112.10752), the network without
    its adversary.

    A UNet predicts the noise that was added to the latents of a picture, at a random one of 1,000 steps, from the noisy latents
    and the states of a text encoder. A share of the prompts is left out, so that pictures can be drawn with guidance. `--init
    hf:FOLDER` starts from a folder of Stable Diffusion 1.x, 2.x or XL of diffusers. The autoencoder is never trained.

    layout      "pixels": a small network without an autoencoder, of the sizes in `network`; "sd15" or "sdxl": as published
    network     sizes of "pixels": `SmallNetwork`, whose fields are options of their own
    image_size  pixels of a side in training; 0 takes the network's own
    resize      "crop": short side to that size, then the middle; "squash": both sides
    tokenizer   "clip", "data" (byte pairs learned from the training texts), or a path to a tokenizer.json
    pieces      vocabulary size when it is learned
    language    of the texts; "" takes all
    text_draw   which of several texts a step reads: `TextDraw`, whose fields are options of their own
    drop_text   share of the prompts that are left out
    train_text  the text encoder is trained, too
    betas, eps  of AdamW
    optimised   "released": the rate rises from a millionth of `lr` and stays, and all weights decay; "plain": it falls by a cosine after a
                warm-up from near 0, and matrices alone decay
    """

    slug = "text_to_image"

    batch_size: int = 2048
    epochs: float = 1.0
    lr: float = 1e-4
    warmup: float = 10_000.0
    weight_decay: float = 0.01
    optimised: Literal["released", "plain"] = "released"

    def optimiser(self) -> Optimiser:
        chosen = super().optimiser()
        if self.optimised == "plain":
            return chosen
        return replace(chosen, schedule="constant", warmup_from=1e-6, rules=(*chosen.rules, Rule("", decay=True)))

    @classmethod
    def tiny(cls) -> Self:
        """Pictures of 32 pixels by a network of a million parameters: ten minutes on two cores."""
        return cls(**cls.small(), optimised="plain")

    @classmethod
    def paper(cls) -> Self:
        """Stable Diffusion 1.x as its model card states it: batches of 2,048 at a rate of 1e-4 after 10,000 steps of warm-up."""
        return cls()
