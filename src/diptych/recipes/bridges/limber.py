"""LiMBeR: one linear map from image features to tokens of a frozen language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from diptych.core.contracts import Draws, Optimiser
from diptych.core.errors import ConfigError
from diptych.data.load.batch import choose_text
from diptych.data.text.prompts.layout import TextPiece
from diptych.data.text.prompts.template import Template
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.writer import BridgeGenerator
from diptych.recipes._shared.language.bridges import BridgeBatch, BridgeRecipe


@dataclass(frozen=True, kw_only=True)
class LiMBeR(BridgeRecipe):
    """LiMBeR: Linearly Mapping from Image to Text Space (Merullo et al., 2022, arXiv 2209.15162).

    Image encoder and language model are frozen; a linear map of every patch, with dropout on its output and no norm, is all that is
    trained. The picture stands first, then the caption; the loss is the mean over the caption's tokens, its first end mark included.
    What such a map can carry says what the encoder has learned that is linear in words. While it trains nothing stands between picture
    and caption, when it writes `asked` does, as published.

    asked, asked_space   what stands between picture and answer when the model writes, and between that and an answer that is ranked
    unended   of so many rows each the longest captions have no end mark to learn, 16 as released: padding is the end mark there, and what
              fills a process's sixteen captions up ends them; 0: every caption has one
    drop_path stochastic depth of the encoder, of BEiT in training mode (`awake`)
    tokens    for an encoder that gives one vector an image, how many tokens that vector becomes
    pooled    the encoder's patches become one vector first, their mean
    dropout   on what the map gives
    horizon   steps over which the rate would fall to nothing; 0: those of the run. The released configuration says 300,000, twenty times
              the run, and in the same place "auto", which is what counts and means the run's own
    rises     warm-up by the logarithm of the step's number ("log"), as DeepSpeed has it, or evenly with each "step"
    late      steps by which the schedule is late: 1, as released, where it moves after the update. The first step then has the full rate
    """

    slug = "limber"
    presets = ("tiny", "paper", "clip", "resnet")

    asked_space: str = " "
    unended: int = 16
    drop_path: float = 0.0
    tokens: int = 1
    pooled: bool = False
    dropout: float = 0.1
    horizon: int = 0
    rises: Literal["step", "log"] = "log"
    late: int = 1

    image_tower: str = "timm:beit_large_patch16_224"
    template: str = ""
    space: str = ""
    text_length: int = 2048
    rows_a_mean: int = 16
    awake: tuple[str, ...] = ("encoder", "language")
    asked: str = "A picture of"
    batch_size: int = 256
    steps: int = 15_000
    lr: float = 8e-4
    warmup: float = 100.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    def connector_spec(self) -> dict[str, Any]:
        pooled = {"pooled": True} if self.pooled else {}
        return {"kind": "linear", "tokens": self.tokens, "dropout": self.dropout, **pooled}

    def batch(self, draws: Draws) -> BridgeBatch:
        words, template = self.words(), Template(self.template)
        texts = [self.space + choose_text(draw, self.language).string for draw in draws]
        ends = [True] * len(texts)
        for start in range(0, len(texts), self.unended) if self.unended else ():
            sizes = [len(words.pieces(text)) for text in texts[start : start + self.unended]]
            ends[start : start + self.unended] = [size < max(sizes) for size in sizes]
        rows = [
            [*template.pieces(self.slots), TextPiece(text, answer=True, ends=end)] for text, end in zip(texts, ends, strict=True)
        ]
        return self.laid(draws, rows)

    def model(self) -> Bridge:
        bridge = super().model()
        if self.drop_path:
            from diptych.models.towers.packaged.timm_tower import TimmTower  # timm is heavy

            if not isinstance(bridge.encoder, TimmTower):
                raise ConfigError(f"drop_path is {self.drop_path} (expected 0, or an image encoder of timm, such as BEiT)")
            bridge.encoder.drop_paths_(self.drop_path)
        return bridge

    def deploy(self, model: Bridge) -> BridgeGenerator:
        made = super().deploy(model)
        made.space = self.asked_space
        return made

    @property
    def written_after(self) -> str:
        return self.asked

    def optimiser(self) -> Optimiser:
        steps = self.steps or self.horizon
        left = max(0.0, (self.horizon - steps) / max(1.0, self.horizon - self.warmup)) if self.warmup >= 1 else 0.0
        falls = replace(super().optimiser(), betas=(0.9, 0.95), eps=1e-8, schedule="linear", final_lr=left)
        return replace(falls, rises=self.rises, late=self.late, late_peak=True)

    @classmethod
    def tiny(cls) -> Self:
        """A small convolutional network with fresh weights, and a small language model: two minutes on two cores."""
        return cls(
            image_tower="convnet_tiny",
            image_size=64,
            text_length=96,
            space=" ",
            asked="",
            unended=0,
            rows_a_mean=0,
            awake=(),
            pieces=512,
            batch_size=64,
            steps=600,
            lr=3e-3,
            match_norms=True,
            horizon=600,
            warmup=30.0,
            rises="step",
            late=0,
        )

    @classmethod
    def paper(cls) -> Self:
        """BEiT-L/16 (`image_weights` timm:beit_large_patch16_224/FILE, or none for the random one) before GPT-J: give the language model as
        `language_model`. A map of 4,198,400 parameters for its 4,096 dimensions.
        Pictures are shown as BEiT's own, squashed and from -1 to 1. The
        released script divides its 256 pictures among processes and adds up eight such steps, so that an update has 2,048
        (`--micro-batch` divides them here). The frozen BEiT is in training mode there, with its stochastic depth. Answers are drawn at a
        temperature of .7 with a nucleus that is narrower than it says (`models.bridges.narrow_top_p`); `generate` takes the likeliest
        token by default."""
        half = (0.5, 0.5, 0.5)
        shown: dict[str, Any] = {"resize": "squash", "interpolation": "bilinear", "mean": half, "std": half, "own_pictures": True}
        return cls(batch_size=2048, drop_path=0.1, decoding="whole", **shown)

    @classmethod
    def clip(cls) -> Self:
        """As `paper`, of CLIP RN50x16 the 144 places before its attention pool: a map of 12,587,008 parameters. Its frozen batch norms see
        their batch in training, as in the release."""
        return replace(cls.paper(), image_weights="open_clip:RN50x16/openai", image_size=384, own_pictures=False, drop_path=0.0)

    @classmethod
    def resnet(cls) -> Self:
        """As `paper`, of NF-ResNet50 (`image_weights` timm:nf_resnet50/FILE, or none for the random one) the mean over all places: one
        token, a map of 8,392,704 parameters. As released pictures are not resized: what is seen is their middle of 384 pixels, black where
        they are smaller, from 0 to 1, mirrored half the time. We leave out that half of these are enlarged by a pixel, and that pictures
        are mirrored in use, too."""
        as_they_are: dict[str, Any] = {
            "resize": "native",
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
            "image_size": 384,
            "flip": True,
        }
        return replace(cls.paper(), image_tower="timm:nf_resnet50", pooled=True, drop_path=0.0, **as_they_are)
