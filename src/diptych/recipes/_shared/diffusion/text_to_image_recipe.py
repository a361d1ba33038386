"""Text-to-image diffusion from pairs: a small model of pixels from scratch, or a published layout."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from torch import Tensor

from diptych.core.contracts import Dataset, Draws, Optimiser, Recipe, Rule
from diptych.core.errors import ConfigError, UnknownName
from diptych.data.media.transforms import Preprocess
from diptych.data.text.captions.variants import UNIFORM, TextDraw
from diptych.data.text.tokenize import Tokenizer
from diptych.models.diffusion.denoiser import Denoising, DiffusionNet
from diptych.models.diffusion.settings import PUBLISHED, DiffusionSettings, small_pixels
from diptych.models.diffusion.text_to_image import TextToImageModel, prompt_ids
from diptych.objectives.diffusion.denoising import denoising_loss
from diptych.recipes._shared.diffusion.batch import DiffusionBatch, diffusion_batch, image_preprocess
from diptych.recipes._shared.pairs import VOCABULARY_ROWS, positive_texts, strings_of
from diptych.recipes._shared.texts.vocabulary import learned_vocabulary, tokenizer_of

LAYOUTS = ("pixels", *PUBLISHED)


@dataclass(frozen=True)
class SmallNetwork:
    """Sizes of the layout "pixels".

    side      pixels of a picture along a side
    patch     side of the blocks of pixels that become channels
    channels  of each level of the network, each half as large as the one before; all but the first read the words
    text_width, text_layers, heads   of the text encoder; the network's attention has equally many heads
    words     tokens of a prompt, marks included
    """

    side: int = 32
    patch: int = 2
    channels: tuple[int, ...] = (32, 64)
    text_width: int = 64
    text_layers: int = 2
    heads: int = 4
    words: int = 12


SMALL_NETWORK = SmallNetwork()


@dataclass(frozen=True, kw_only=True)
class TextToImageRecipe(Recipe[DiffusionNet, DiffusionBatch, Denoising]):
    """Fields and methods of `TextToImage`."""

    layout: Literal["pixels", "sd15", "sdxl"] = "sd15"
    network: SmallNetwork = SMALL_NETWORK
    image_size: int = 0
    resize: Literal["crop", "squash"] = "crop"
    tokenizer: str = "clip"
    pieces: int = 400
    language: str = "en"
    text_draw: TextDraw = UNIFORM
    drop_text: float = 0.1
    train_text: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    vocabulary: str = field(default="", metadata={"prepared": True})
    settings_from: str = field(default="", metadata={"prepared": True})

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UnknownName("layout", self.layout, LAYOUTS)
        if not 0 <= self.drop_text < 1:
            raise ConfigError(f"drop_text is {self.drop_text} (expected a share below 1)")

    @property
    def measured_by(self) -> str:
        return "relation_generation"

    @property
    def decode_size(self) -> int:
        """Whole pictures."""
        return 0

    def started(self, model: Any) -> Self:
        """The recipe with networks, tokenizer and text length of the model that it starts from."""
        if not isinstance(model, TextToImageModel):
            raise ConfigError(f"--init of '{self.slug}' names a {type(model).__name__} (expected a text-to-image model)")
        words = model.tokenizers[0].to_json()
        return replace(self, settings_from=model.settings.to_json(), tokenizer="weights", vocabulary=words)

    def prepare(self, data: Dataset) -> Self:
        """Learns the vocabulary, where it is the data's own."""
        if self.tokenizer != "data" or self.vocabulary:
            return self
        stride = max(1, len(data) // VOCABULARY_ROWS)
        texts = strings_of(data, lambda sample: positive_texts(sample, self.language), stride=stride, language=self.language)
        return replace(self, vocabulary=learned_vocabulary(texts, self.pieces))

    def words(self) -> list[Tokenizer]:
        """A tokeniser for each text encoder; the second one of SDXL pads with id 0, and all pad as their encoder says."""
        made = [Tokenizer.from_spec(tokenizer_of(self.tokenizer, self.vocabulary).to_json()) for _ in self.settings().texts]
        for tokenizer, text in zip(made, self.settings().texts, strict=True):
            tokenizer.pad_id = int(text.get("pad_token_id", tokenizer.pad_id))
        return made

    def settings(self) -> DiffusionSettings:
        """Configuration of the networks: of the weights, published, or of the fields."""
        if self.settings_from:
            return DiffusionSettings.from_json(self.settings_from)
        if self.layout != "pixels":
            return PUBLISHED[self.layout]()
        words, small = tokenizer_of(self.tokenizer, self.vocabulary), self.network
        return small_pixels(
            vocab_size=words.vocab_size,
            eot_id=words.eot_id,
            pad_id=words.pad_id,
            text_length=small.words,
            image_size=small.side,
            patch=small.patch,
            channels=small.channels,
            text_width=small.text_width,
            text_layers=small.text_layers,
            heads=small.heads,
        )

    @property
    def preprocess(self) -> Preprocess:
        """Pictures to [-1, 1] at the size of the network, or at `image_size`."""
        return image_preprocess(self.image_size or self.settings().image_size, self.resize)

    def model(self) -> DiffusionNet:
        return DiffusionNet(self.settings())

    def batch(self, draws: Draws) -> DiffusionBatch:
        texts = [self.text_draw(draw, self.language).string for draw in draws]
        shown = ["" if draw.rng.random() < self.drop_text else text for draw, text in zip(draws, texts, strict=True)]
        settings = self.settings()
        text_BEL, _ = prompt_ids(self.words(), shown, settings.text_length)
        return diffusion_batch(draws, text_BEL, settings, self.preprocess)

    def features(self, model: DiffusionNet, batch: DiffusionBatch) -> Denoising:
        denoising: Denoising = model(
            batch.image_BCHW, batch.text_BEL, batch.timestep_B, batch.noise_BCHW, batch.posterior_BCHW
        )
        return denoising

    def losses(self, features: Denoising, batch: DiffusionBatch) -> dict[str, Tensor]:
        return {"denoising": denoising_loss(features.prediction_BCHW, features.target_BCHW)}

    def optimiser(self) -> Optimiser:
        frozen = ("vae",) if self.train_text else ("vae", "texts")
        rules = tuple(Rule(rf"^{part}\.", lr_scale=0.0) for part in frozen)
        return replace(super().optimiser(), betas=self.betas, eps=self.eps, rules=rules)

    def deploy(self, model: DiffusionNet) -> TextToImageModel:
        return TextToImageModel(model, self.words(), self.slug)

    @classmethod
    def small(cls) -> dict[str, Any]:
        """Fields of the small model that trains in minutes on two cores."""
        return {
            "layout": "pixels",
            "tokenizer": "data",
            "resize": "squash",
            "train_text": True,
            "batch_size": 32,
            "steps": 1500,
            "lr": 2e-3,
            "warmup": 50.0,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
        }
