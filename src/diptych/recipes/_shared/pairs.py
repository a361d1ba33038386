"""Shared by recipes over image-text pairs: two towers, a tokeniser, square crops, one text an image a step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, Self

from torch import Tensor, nn
from typing_extensions import TypeVar

from diptych.core.contracts import Batch, Dataset, Draw, Draws, Optimiser, Recipe
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample, Text
from diptych.data.load.batch import Augment, PairBatch, pair_batch
from diptych.data.media.transforms import OPENAI_MEAN, OPENAI_STD, CropForm, Preprocess
from diptych.data.text.captions.sides import Sides
from diptych.data.text.captions.variants import UNIFORM, TextDraw
from diptych.data.text.tokenize import Tokenizer
from diptych.models.pairs.dual_encoder import DualEncoder, encoder_of
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.outputs import PairFeatures, Tower
from diptych.models.towers.towers import image_tower, pools_last, text_tower
from diptych.objectives.gather import share_of_gradient
from diptych.objectives.pairs.info_nce import info_nce
from diptych.recipes._shared.frozen.initial_weights import from_weights
from diptych.recipes._shared.texts.vocabulary import learned_vocabulary, tokenizer_of

VOCABULARY_ROWS = 200_000
"""A vocabulary is learned from at most so many rows, evenly spaced."""

Choice = Callable[[Draw, str], Text]
"""The text of a draw in a language."""

M = TypeVar("M", bound=nn.Module, default=Any)
B = TypeVar("B", bound=Batch, default=Any)
F = TypeVar("F", default=Any)


class HasScale(Protocol):
    """Features with the factor [1] that multiplies their similarities."""

    @property
    def scale(self) -> Tensor: ...


S = TypeVar("S", bound=HasScale, default=Any)


@dataclass(frozen=True, kw_only=True)
class PairRecipe(Recipe[M, B, F]):
    """A recipe over image-text pairs: its data, towers and tokeniser. Subclasses choose module and loss.

    image_tower  the network that reads images: vit_tiny, vit_b16, convnet_tiny and the others of docs/training.md (Towers), or timm:NAME
    text_tower   the network that reads texts: text_tiny, text_clip, bert_b6 and the others of that list, or hf:FOLDER with its weights
    act          the activation of both towers: "gelu", "quick_gelu" (as OpenAI released CLIP), "gelu_tanh" (as SigLIP's code has it); None
                 takes each tower's own. A tower without such a choice (convolutions, transformers' or timm's) refuses one, but that
                 resnet_clip_* has ReLU as released whatever its text tower has
    image_pool   how a vit_* tower becomes one vector: "class" token or "attention" (SigLIP's head); a dense_* one "class" or "mean", a
                 resnet_clip_* one "attention" or "max"; None takes the tower's own
    patch_bias   whether the patches of a vit_* tower get a bias; None takes the tower's own
    text_pooling  how a text becomes one vector: "eot", "mean", "last" (SigLIP), or "cls" or "pooler" (BERT's layer behind it) for bert_*
                  and hf:; None takes the tower's own
    tokenizer    "clip" (its 49,408 pieces), "data" (byte pairs learned from the training texts), or a path to a tokenizer.json
    pieces       vocabulary size when it is learned
    language     texts of this language or of an unknown one are drawn; "" draws from all
    text_draw    which of several texts of an image a step reads: `TextDraw`, whose fields are options of their own
    crop         area of the random square crop, as shares of the image
    crop_interpolation  how crops are resized in training: "bicubic" as open_clip's, "bilinear" as torchvision's by default
    decoding     in training: "whole" pictures, as published code reads them, or JPEG files "reduced" to the least size that is at least
                 image_size, several times faster: crops of less than the whole are then softer, and augmentations that move by pixels
                 move further
    flip         half of the images are mirrored
    flip_sides   where a text says left or right in English, its image is not mirrored ("keep"), or is with the words exchanged ("swap"), or
                 texts are not looked at, as published ("ignore"). Recipes that make views of their own mirror whatever texts say
    same_group   what another sample of the same group is to a sample: neither positive nor negative ("mask"), a further
                 "positive", or a "negative" as in the published losses
    feature_gradient  share of the contrast's gradient that reaches the features: published code that gathers the features of its
                 processes without gradient has 1 / processes. The temperature has all of it
    max_scale    the learned factor of similarities stays at or below it (of weights that start above: their own); 0 leaves it free
    interpolation  how images are resized in evaluation: PIL's filters, or "area", as OpenCV shrinks, with resize "pad" or "squash"
    edge         pixels a side that are cut off after resizing, in evaluation

    With `--init` towers, activation, tokenizer, lengths and image settings are those of the weights (`from_weights`).
    """

    no_prefixes: ClassVar[str] = ""
    """Why its losses cannot be taken on prefixes of its features (`mrl`), in words; "" where they can."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuses a class between two recipes with losses of their own: by Python's rules it would have those of the first alone."""
        super().__init_subclass__(**options)
        if "losses" in cls.__dict__:
            return
        owners = [next((one for one in base.__mro__ if "losses" in one.__dict__), base) for base in cls.__bases__]
        owners = [
            one for one in dict.fromkeys(owners) if not any(other is not one and issubclass(other, one) for other in owners)
        ]
        if len(owners := [one for one in owners if "losses" in one.__dict__]) > 1:
            names = " and ".join(one.__name__ for one in owners)
            raise ConfigError(
                f"{cls.__name__} inherits losses from {names} and would be trained by those of {owners[0].__name__} alone (expected a "
                "method losses of its own, or the parts by their names: diptych train mix --help)"
            )

    image_tower: str = "vit_b32"
    text_tower: str = "text_clip"
    width: int = 512
    image_size: int = 224
    act: Literal["gelu", "quick_gelu", "gelu_tanh"] | None = None
    image_pool: Literal["class", "mean", "attention", "max"] | None = None
    patch_bias: bool | None = None
    text_pooling: Literal["eot", "mean", "last", "cls", "pooler"] | None = None
    text_length: int = 77
    tokenizer: str = "clip"
    pieces: int = 4096
    language: str = "en"
    text_draw: TextDraw = UNIFORM
    crop: tuple[float, float] = (0.9, 1.0)
    crop_interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    decoding: Literal["reduced", "whole"] = "reduced"
    flip: bool = False
    flip_sides: Sides = "keep"
    resize: Literal["crop", "squash", "pad"] = "crop"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    same_group: Literal["mask", "positive", "negative"] = "mask"
    feature_gradient: float = 1.0
    max_scale: float = 100.0
    interpolation: Literal["bicubic", "bilinear", "lanczos", "area"] = "bicubic"
    edge: int = 0
    vocabulary: str = field(default="", metadata={"prepared": True})
    towers_from: str = field(default="", metadata={"prepared": True})

    tuned_lr: ClassVar[float] = 1e-5
    """Learning rate of a start from published weights where none is asked for: ALIGN's for fine-tuning (2102.05918), a fiftieth of CLIP's
    from scratch."""
    tuned_warmup: ClassVar[float] = 50.0

    def started(self, model: Any) -> Self:
        """The recipe with the architecture, tokenizer, lengths and image settings of the weights that it starts from: those of a model of
        two sides, or of an image tower alone (`timm:`), beside which the text side stays the recipe's."""
        return from_weights(self, model)

    def prepare(self, data: Dataset) -> Self:
        """Learns the vocabulary, where it is the data's own."""
        if self.tokenizer != "data" or self.vocabulary:
            return self
        texts = strings_of(data, self.texts_of, stride=max(1, len(data) // VOCABULARY_ROWS), language=self.spoken)
        return replace(self, vocabulary=learned_vocabulary(texts, self.pieces))

    @property
    def spoken(self) -> str:
        """The language of its texts, for messages."""
        return self.language

    def texts_of(self, sample: Sample) -> Iterable[str]:
        """The texts of a sample that a step may draw."""
        return positive_texts(sample, self.language)

    def words(self) -> Tokenizer:
        """The tokeniser in use."""
        return tokenizer_of(self.tokenizer, self.vocabulary)

    @property
    def preprocess(self) -> Preprocess:
        """Of a training step, whose images are crops already unless `crop` leaves them whole."""
        return self.deployed_preprocess if self.crop[0] >= 1 else replace(self.deployed_preprocess, margin=0)

    @property
    def deployed_preprocess(self) -> Preprocess:
        """Preprocessing of the deployed model."""
        return Preprocess(self.image_size, self.mean, self.std, self.resize, self.interpolation, margin=self.edge)

    @property
    def decode_size(self) -> int:
        return 0 if self.decoding == "whole" else self.image_size

    def image_options(self) -> dict[str, Any]:
        """Options of the image tower beside its name: from the initial weights, or from the fields of this recipe."""
        if "image" in self._given:
            return dict(self._given["image"]["options"])
        act = None if self.image_tower.startswith("resnet_clip") else self.act
        options = {"act": act, "pool": self.image_pool, "patch_bias": self.patch_bias}
        return {"image_size": self.image_size, **{name: value for name, value in options.items() if value is not None}}

    def text_options(self) -> dict[str, Any]:
        """Options of the text tower beside its name: from the initial weights, or from the fields and the tokeniser of this recipe."""
        if "text" in self._given:
            return dict(self._given["text"]["options"])
        words = self.words()
        options: dict[str, Any] = {"act": self.act, "pooling": self.text_pooling}
        if not self.text_tower.startswith(("hf", "bert", "roberta")):  # those pool at the first token, or over all
            options["eot_id"] = words.eot_id
            if pools_last(self.text_tower, self.text_pooling):
                options["pad_id"] = words.pad_id
        if self.text_tower.startswith(("roberta", "xlm")):
            options["pad_id"] = words.pad_id
        given = {name: value for name, value in options.items() if value is not None}
        return {"vocab_size": words.vocab_size, "length": self.text_length, **given}

    @property
    def _given(self) -> dict[str, Any]:
        """Options and projection of the towers "image" and "text" in the initial weights; empty without weights."""
        given: dict[str, Any] = json.loads(self.towers_from) if self.towers_from else {}
        return given

    def towers(self) -> tuple[Tower, Tower]:
        image = image_tower(self.image_tower, **self.image_options())
        return self.projected(image, "image"), self.projected(text_tower(self.text_tower, **self.text_options()), "text")

    def projected(self, tower: Tower, side: Literal["image", "text"]) -> Tower:
        """The tower with the form of projection that its weights have; as it is where there are none."""
        tower.projection = self._given.get(side, {}).get("projection", "")
        return tower

    def pair_batch(self, draws: Draws, augment: Augment | None = None, choose: Choice | None = None) -> PairBatch:
        """One text and one crop of every draw; `augment` changes the pixels of the crop, `choose` takes the text where `text_draw` does
        not."""
        return pair_batch(
            draws,
            preprocess=self.preprocess,
            tokenizer=self.words(),
            text_length=self.text_length,
            crop_scale=self.crop,
            flip=self.flip,
            sides=self.flip_sides,
            language=self.language,
            augment=augment,
            choose=choose or self.text_draw,
            form=self.crop_form,
        )

    @property
    def crop_form(self) -> CropForm:
        """Random crop and resize settings of training."""
        return CropForm(interpolation=self.crop_interpolation)

    def text_of(self, draw: Draw) -> str:
        """The text that a step reads of a draw; takes one number of its generator."""
        return self.text_draw(draw, self.language).string

    def contrast(
        self,
        image_ND: Tensor,
        text_ND: Tensor,
        *,
        scale: Tensor,
        group_B: Tensor,
        smoothing: float = 0.0,
        weight_N: Tensor | None = None,
        keep_NM: Tensor | None = None,
    ) -> Tensor:
        """CLIP's loss, the mean of both directions' cross-entropies; samples of one group as `same_group` says, pairs that `keep_NM` leaves
        out as `info_nce` has it."""
        loss, _ = info_nce(
            share_of_gradient(image_ND, self.feature_gradient),
            share_of_gradient(text_ND, self.feature_gradient),
            scale=scale,
            smoothing=smoothing,
            weight_N=weight_N,
            keep_NM=keep_NM,
            group_N=group_B,
            group_M=group_B,
            same=self.same_group,
        )
        return loss


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe(PairRecipe[M, B, S]):
    """Trains a dual encoder, alone or with heads, companions and memories beside it, and deploys the encoder.

    betas, eps   of the optimiser (AdamW, unless a recipe says otherwise)
    """

    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6

    def optimiser(self) -> Optimiser:
        return replace(super().optimiser(), betas=self.betas, eps=self.eps)

    def metrics(self, features: S, batch: B) -> dict[str, Tensor]:
        return {"scale": features.scale.detach()}

    def after_update(self, model: M, features: S, batch: B, progress: float) -> None:
        encoder_of(model).clamp_scale_(self.max_scale)

    def deploy(self, model: M) -> PairEmbedder:
        return PairEmbedder(encoder_of(model), self.deployed_preprocess, self.words(), self.text_length, name=self.slug)


@dataclass(frozen=True, kw_only=True)
class DualEncoderRecipe(EncoderRecipe[DualEncoder, PairBatch, PairFeatures]):
    """Trains a dual encoder on one text an image, with nothing beside it. Subclasses choose the loss."""

    def model(self) -> DualEncoder:
        image, text = self.towers()
        return DualEncoder(image, text, width=self.width)

    def batch(self, draws: Draws) -> PairBatch:
        return self.pair_batch(draws)

    def features(self, model: DualEncoder, batch: PairBatch) -> PairFeatures:
        pairs: PairFeatures = model(batch.image_BCHW, batch.text_BL, batch.text_mask_BL)
        return pairs


def positive_texts(sample: Sample, language: str) -> list[str]:
    """The positive texts of a sample in that language."""
    return [text.string for text in sample.positives(language)]


def strings_of(data: Dataset, texts: Callable[[Sample], Iterable[str]], *, language: str = "", stride: int = 1) -> Iterator[str]:
    """Texts of every `stride`-th row of a data set, by `texts`. Raises DataError if there are none."""
    any_text = False
    for row in range(0, len(data), stride):
        for string in texts(data[row]):
            any_text = True
            yield string
    if not any_text:
        raise DataError(
            f"'{data.name}' has no text in language '{language}'",
            field="texts",
            expected="another --language, or '' for every language",
        )
