"""ReVersion: textual inversion of a relation from a few exemplar pictures, for a frozen text-to-image model."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Draws, Optimiser, Recipe, Rule
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.media.transforms import Preprocess
from diptych.data.text.prompts.relation_words import PREPOSITIONS, STOP_WORDS
from diptych.data.text.tokenize import Tokenizer
from diptych.models.diffusion.denoiser import Denoising, DiffusionNet
from diptych.models.diffusion.settings import DiffusionSettings, stable_diffusion_15
from diptych.models.diffusion.text_to_image import TextToImageModel, placeholder_id, prompt_ids, with_placeholder
from diptych.models.diffusion.token_table import ExtendedEmbedding
from diptych.objectives.diffusion.denoising import denoising_loss
from diptych.objectives.diffusion.relation_steering import relation_steering
from diptych.recipes._shared.diffusion.base_model import base_model, small_text_to_image
from diptych.recipes._shared.diffusion.batch import DiffusionBatch, diffusion_batch, image_preprocess

PLACE = "{}"
"""Where the relation stands in a description of an exemplar."""


@dataclass(frozen=True)
class ExemplarBatch(DiffusionBatch):
    """A diffusion batch with the ids of the drawn positive words [B, P], and which tokens of the prompts are negatives [B, L]."""

    positive_BP: Rows[Tensor]
    positive_mask_BP: Rows[Tensor]
    negative_mask_BL: Rows[Tensor]


@dataclass(frozen=True)
class InversionFeatures:
    """A step of denoising, the relation's vector [D], and the vectors of positives and of the prompts' tokens, detached."""

    denoising: Denoising
    positive_BPD: Rows[Tensor]
    token_BLD: Rows[Tensor]
    relation_D: Tensor


@dataclass(frozen=True, kw_only=True)
class ReVersion(Recipe[DiffusionNet, ExemplarBatch, InversionFeatures]):
    """ReVersion: Diffusion-Based Relation Inversion from Images (Huang et al., 2024, arXiv 2303.13495).

    Samples are exemplars of one relation with descriptions such as "cat {} stone": `text.json` beside the pictures, as the
    benchmark has it. "{}" becomes a new word whose vector is all that is trained: on the denoising error of the exemplars, and on
    a contrast that pulls it towards prepositions and away from the entities of the descriptions. Steps of much noise come up more
    often. Nothing else changes, bit by bit; the vector is exported as a file of textual inversion (`learned_embeds.safetensors`
    in the model folder).

    Negatives are all tokens of the descriptions that are no stop word, preposition, mark or padding. A word of several pieces
    ("astride" in CLIP's vocabulary) counts with each of them, as in the released code. That code takes the word's vector from the
    first row of the batch and restores the other rows of the table after each step, which comes to the same.

    weights        the model that is adapted: hf:FOLDER of Stable Diffusion 1.x or 2.x, a run of text_to_image; also `--init`
    placeholder    the new word
    initializer    the word whose vector it starts from, one token
    steering       weight of the contrast; 0 is textual inversion
    positives      prepositions that are drawn for each picture
    positive_words prepositions; none takes the published 56
    temperature    of the contrast
    skew           alpha of the distribution of steps; 0 takes all equally often
    steered_rows   pictures whose words stand in one contrast: two, four times a step, as published
    image_size     pixels of a side; 0 takes the model's own
    resize         "squash", as released, or "crop"
    language       of the descriptions; "" takes all
    small_steps    without `weights`: steps of a small model of pixels that is trained once and kept in the cache; 0 builds the published
                   networks with fresh weights
    small_data     address of the pictures and captions that it learns
    """

    slug = "reversion"
    needs: ClassVar[tuple[str, ...]] = ("image", "texts")

    weights: str = ""
    placeholder: str = "<R>"
    initializer: str = "and"
    steering: float = 0.01
    positives: int = 4
    positive_words: tuple[str, ...] = ()
    temperature: float = 0.07
    skew: float = 0.5
    steered_rows: int = 2
    image_size: int = 0
    resize: Literal["crop", "squash"] = "squash"
    language: str = "en"
    small_steps: int = 0
    small_data: str = ""

    batch_size: int = 8
    steps: int = 3000
    lr: float = 2e-3
    warmup: float = 0.0
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        if self.steering < 0 or not 0 <= self.skew <= 1 or self.temperature <= 0 or self.steered_rows < 1:
            raise ConfigError(
                f"steering {self.steering}, skew {self.skew}, temperature {self.temperature}, steered_rows {self.steered_rows} "
                "(expected 0 or more, a share, above 0, and 1 or more)"
            )
        if self.steering and self.batch_size % self.steered_rows:
            raise ConfigError(f"batch_size is {self.batch_size} with steered_rows {self.steered_rows} (expected whole blocks)")
        if self.steering and not 1 <= self.positives <= len(self.prepositions):
            raise ConfigError(f"positives is {self.positives} of {len(self.prepositions)} words (expected 1 to all of them)")

    @property
    def prepositions(self) -> tuple[str, ...]:
        """The words that positives are drawn from."""
        return self.positive_words or PREPOSITIONS

    @property
    def measured_by(self) -> str:
        return "relation_generation"

    @property
    def decode_size(self) -> int:
        """Whole pictures."""
        return 0

    def started(self, model: Any) -> Self:
        """The recipe on this model, which must have been opened from an address."""
        if not isinstance(model, TextToImageModel):
            raise ConfigError(f"--init of '{self.slug}' names a {type(model).__name__} (expected a text-to-image model)")
        return replace(self, weights=model.name, small_steps=0)

    def prepare(self, data: Dataset) -> Self:
        """Trains the small model, where one is asked for; the first exemplars are checked before."""
        for row in range(min(len(data), 100)):
            self.descriptions(data[row])
        if self.weights or not self.small_steps:
            return self
        if not self.small_data:
            raise ConfigError(
                "small_steps without small_data (expected the address of captioned pictures, such as world:related)"
            )
        return replace(self, weights=str(small_text_to_image(self.small_data, data, steps=self.small_steps)), small_steps=0)

    def settings(self) -> DiffusionSettings:
        """Configuration of the networks. Raises ConfigError for a model with two text encoders."""
        settings = base_model(self.weights).settings if self.weights else stable_diffusion_15()
        if len(settings.texts) != 1:
            raise ConfigError(f"{self.weights} has two text encoders (expected one, as Stable Diffusion 1.x and 2.x have)")
        return settings

    def words(self) -> Tokenizer:
        """The model's tokeniser with the new word."""
        return _extended(self.weights, self.placeholder)

    @property
    def preprocess(self) -> Preprocess:
        """Pictures to [-1, 1], both sides resized as released."""
        return image_preprocess(self.image_size or self.settings().image_size, self.resize)

    def model(self) -> DiffusionNet:
        """The frozen networks and the new word, which starts as the initializer."""
        if self.weights:
            net = copy.deepcopy(base_model(self.weights).model).with_learned_tokens(1)
        else:
            net = DiffusionNet(self.settings(), learned_tokens=1)
        (row_1D,), (table,) = net.learned_rows(), net.token_tables()
        words = self.words()
        ids = words.inner.encode(words.cleaned(self.initializer), add_special_tokens=False).ids
        if len(ids) != 1:
            raise ConfigError(f"initializer {self.initializer!r} is {len(ids)} tokens (expected a word of one token)")
        assert isinstance(table, ExtendedEmbedding)
        with torch.no_grad():
            row_1D.copy_(table.weight[ids])
        return net

    def stored(self, name: str) -> bool:
        """The new word alone; the rest is the model's that `weights` names."""
        return name.endswith("learned_KD") or not self.weights

    def descriptions(self, sample: Sample) -> list[str]:
        """Descriptions of an exemplar, each with one place for the new word. Raises DataError for any other."""
        texts = [text.string for text in sample.positives(self.language)]
        if not texts:
            raise DataError(f"exemplar '{sample.uid}' has no description", field="texts", expected="such as 'cat {} stone'")
        if bad := next((text for text in texts if text.count(PLACE) != 1), None):
            raise DataError(
                f"exemplar '{sample.uid}' is described as {bad!r}", field="texts", expected="one {} where the relation stands"
            )
        return texts

    def prompt(self, draw: Draw) -> str:
        """A description with the new word in its place."""
        texts = self.descriptions(draw.sample)
        return texts[int(draw.rng.integers(len(texts)))].replace(PLACE, self.placeholder)

    def batch(self, draws: Draws) -> ExemplarBatch:
        words, settings = self.words(), self.settings()
        text_BEL, _ = prompt_ids([words], [self.prompt(draw) for draw in draws], settings.text_length, self.placeholder)
        positives = [
            " ".join(self.prepositions[int(at)] for at in draw.rng.choice(len(self.prepositions), self.positives, replace=False))
            for draw in draws
        ]
        positive_BL = torch.from_numpy(words.encode(positives, settings.text_length).ids_BL)
        silent = torch.tensor(_silent_ids(self.weights, self.placeholder, self.prepositions))
        marks = torch.tensor(sorted({*words.prefix, *words.suffix, words.pad_id}))
        made = diffusion_batch(draws, text_BEL, settings, self.preprocess, skew=self.skew)
        return ExemplarBatch(
            made.image_BCHW,
            made.text_BEL,
            made.timestep_B,
            made.noise_BCHW,
            made.posterior_BCHW,
            positive_BL,
            ~torch.isin(positive_BL, marks),
            ~torch.isin(text_BEL[:, 0], silent),
        )

    def features(self, model: DiffusionNet, batch: ExemplarBatch) -> InversionFeatures:
        denoising: Denoising = model(batch.image_BCHW, batch.text_BEL, batch.timestep_B, batch.noise_BCHW, batch.posterior_BCHW)
        (table,), (row_1D,) = model.token_tables(), model.learned_rows()
        with torch.no_grad():
            positive_BPD, token_BLD = table(batch.positive_BP), table(batch.text_BEL[:, 0])
        return InversionFeatures(denoising, positive_BPD, token_BLD, row_1D[0])

    def losses(self, features: InversionFeatures, batch: ExemplarBatch) -> dict[str, Tensor]:
        terms = {"denoising": denoising_loss(features.denoising.prediction_BCHW, features.denoising.target_BCHW)}
        if self.steering:
            terms["steering"] = self.steering * relation_steering(
                features.relation_D,
                features.positive_BPD,
                features.token_BLD,
                positive_mask_BP=batch.positive_mask_BP,
                negative_mask_BL=batch.negative_mask_BL,
                temperature=self.temperature,
                rows=self.steered_rows,
            )
        return terms

    def optimiser(self) -> Optimiser:
        rules = (Rule(r"learned_KD$"), Rule("", lr_scale=0.0))
        return replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8, schedule="constant", rules=rules)

    def deploy(self, model: DiffusionNet) -> TextToImageModel:
        return TextToImageModel(model, [self.words()], self.slug, placeholder=self.placeholder)

    @classmethod
    def tiny(cls) -> Self:
        """A small model of 32 pixels, trained first on captioned pairs of shapes: minutes on two cores."""
        return cls(
            small_steps=1500,
            small_data="world:related?n=3000&seed=9999&hold_out=up left of,down right of",
            positive_words=("left", "right", "above", "below", "around"),
            positives=2,
            batch_size=4,
            steps=80,
            lr=3e-2,
        )

    @classmethod
    def paper(cls) -> Self:
        """Stable Diffusion 1.5 at 512 pixels (`weights` hf:FOLDER): 3,000 steps of two pictures, four times accumulated, at 8 x 2.5e-4."""
        return cls()


@lru_cache(maxsize=4)
def _extended(address: str, placeholder: str) -> Tokenizer:
    words = base_model(address).tokenizers[0] if address else Tokenizer.from_spec("clip")
    extended = with_placeholder(words, placeholder)
    if not address:
        extended.pad_id = extended.eot_id
    return extended


@lru_cache(maxsize=4)
def _silent_ids(address: str, placeholder: str, prepositions: tuple[str, ...]) -> tuple[int, ...]:
    """Ids that are never negatives: pieces of stop words and prepositions, marks, padding, the new word."""
    words = _extended(address, placeholder)
    joined = words.cleaned(" ".join([*STOP_WORDS, *PREPOSITIONS, *prepositions]))
    pieces = words.inner.encode(joined, add_special_tokens=False).ids
    return tuple(sorted({*pieces, *words.prefix, *words.suffix, words.pad_id, placeholder_id(words, placeholder)}))
