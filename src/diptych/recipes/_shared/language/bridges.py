"""Shared by recipes with a bridge from an image encoder to a language model.

Letters: B batch, C channel, H W, L places.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draws
from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch, choose_text, view
from diptych.data.media.transforms import OPENAI_MEAN, OPENAI_STD, Preprocess
from diptych.data.text.prompts.layout import AnswerPlaces, Layout, Piece, lay_out
from diptych.data.text.prompts.template import Template
from diptych.models.bridges.bridge import AnswerLikelihood, Bridge
from diptych.models.bridges.connectors import connector
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import image_tower
from diptych.objectives.language.answers import Per, answer_loss
from diptych.recipes._shared.language.language_model_recipe import LanguageModelRecipe


@dataclass(frozen=True)
class BridgeBatch(TensorBatch):
    """Images, and rows of a language model that end in what it is to write."""

    image_BCHW: Rows[Tensor]
    id_BL: Rows[Tensor]
    slot_BL: Rows[Tensor]
    mask_BL: Rows[Tensor]
    answer_BL: Rows[Tensor]
    truncated: int = 0
    places: AnswerPlaces | None = None
    split: tuple[Tensor, Tensor] | None = None

    @property
    def layout(self) -> Layout:
        return Layout(self.id_BL, self.slot_BL, self.mask_BL, self.answer_BL, self.truncated, self.places, self.split)

    def rows(self, start: int, stop: int) -> Self:
        """Only these rows; the places of answers are those of all, and are searched for anew."""
        whole = start == 0 and stop >= len(self)
        return self if whole else replace(super().rows(start, stop), places=None, split=None)


@dataclass(frozen=True, kw_only=True)
class BridgeRecipe(LanguageModelRecipe[Bridge, BridgeBatch, AnswerLikelihood]):
    """A frozen image encoder, a connector that is trained, a frozen language model. Subclasses choose the connector and the template.

    image_tower   by name, with fresh weights, where there are no `image_weights`
    template      what stands before the answer, "{image}" and "{prompt}" where they go; `space` stands between it and the answer
    per           the loss is the mean over "token"s of the batch, or over the tokens of a "row" first
    rows_a_mean   the mean over tokens is of so many rows each, and then over these, as many as a process of the release had; 0: of all
    awake         parts that are frozen and stay in training mode all the same ("encoder", "language"), as where a release turns
                  gradients off and nothing else: their dropout and stochastic depth act
    blind         features are zeros: what the language model writes without seeing. A control
    language_act  the activation of a T5's feed-forward maps, by its name in transformers; "" for its own
    own_pictures  images are shown by this recipe's own settings also where the encoder is a trained one, and not as that model shows them
    decoding      in training: "whole" pictures, as published code reads them, or JPEG files "reduced" to the least size that is at least
                  image_size
    moca          the places of a picture are scaled and shifted behind every layer of the language model, a decoder, by numbers that are
                  learned beside the connector (MoCa, 2410.07167); `moca_std`: of what they have beside 1 and 0 in the beginning, 0 in the
                  released script
    match_norms   a fresh connector starts with tokens of the norm of words (`models.bridges.splice.norm_ratio`); the releases leave it
                  as it comes, which beside small embeddings can be thirty times as large
    """

    needs: ClassVar[tuple[str, ...]] = ("image", "texts")
    presets: ClassVar[tuple[str, ...]] = ("tiny", "paper")
    image_tower: str = "vit_b32"
    template: str = "A picture of"
    space: str = " "
    per: Per = "token"
    rows_a_mean: int = 0
    awake: tuple[str, ...] = ()
    blind: bool = False
    language_act: str = ""
    match_norms: bool = False
    moca: bool = False
    moca_std: float = 0.0
    image_size: int = 224
    resize: Literal["crop", "squash", "pad", "native", "square"] = "crop"
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    crop: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    own_pictures: bool = False
    text_length: int = 128
    decoding: Literal["reduced", "whole"] = "reduced"
    slots: int = field(default=0, metadata={"prepared": True})

    @property
    def trained(self) -> tuple[str, ...]:
        """Parts that are trained, of encoder, connector and language."""
        return ("connector",)

    @property
    def measured_by(self) -> str:
        return "captions"

    @property
    def written_after(self) -> str:
        """The template of use, where it differs from that of training."""
        return self.template

    @abstractmethod
    def connector_spec(self) -> dict[str, Any]:
        """The connector by kind and options (`models.bridges.connectors.connector`)."""

    # ------------------------------------------------------------ data

    def prepare(self, data: Dataset) -> Self:
        """Finds language model and image encoder, or makes the small ones, and counts the tokens that a picture becomes."""
        prepared = super().prepare(data)
        if prepared.image_weights and not prepared.own_pictures:
            prepared = replace(prepared, image_size=prepared._trained()[1].size)
        return replace(prepared, slots=prepared._slots())

    def _slots(self) -> int:
        """K, by one image through a tower without memory."""
        trained = self._trained()[0].spec if self.image_weights else None  # opened here, and not without memory
        with torch.device("meta"):
            tower = self._fresh_encoder() if trained is None else image_tower(**trained)
            spec = self.connector_spec()
            made: Any = connector(spec.pop("kind"), tower.token_width, 8, **spec)
            patches = tower(torch.zeros(1, 3, self.image_size, self.image_size)).tokens_BPD.shape[1]
        count: int = made.count(patches)
        return count

    def _trained(self) -> tuple[Tower, Preprocess]:
        """The image tower of a trained model, and how it sees images."""
        opened = self.trained_images()
        tower = getattr(getattr(opened, "model", None), "image_tower", None)
        if not isinstance(tower, Tower):
            raise ConfigError(
                f"image_weights is {self.image_weights!r}, which contains no image tower (expected the run of a dual encoder, such as clip)"
            )
        return tower.eval(), opened.preprocess

    def _fresh_encoder(self) -> Tower:
        return image_tower(self.image_tower, image_size=self.image_size)

    @property
    def preprocess(self) -> Preprocess:
        if self.image_weights and not self.own_pictures:
            return self._trained()[1]
        return Preprocess(self.image_size, self.mean, self.std, self.resize, self.interpolation)

    @property
    def decode_size(self) -> int:
        return 0 if self.decoding == "whole" else self.image_size

    def batch(self, draws: Draws) -> BridgeBatch:
        texts = [choose_text(draw, self.language).string for draw in draws]
        template = Template(self.template)
        return self.laid(draws, [template.pieces(self.slots, "", self.space + text) for text in texts])

    def laid(self, draws: Draws, rows: Sequence[Sequence[Piece]]) -> BridgeBatch:
        """The images of the draws beside rows of their pictures and words."""
        views = [view(draw, self.image_size, self.crop, self.flip) for draw in draws]
        image_BCHW = self.preprocess.batched(views, draws.uint8_images)
        laid = lay_out(rows, self.words(), length=self.text_length, names=[draw.sample.uid for draw in draws])
        return BridgeBatch(image_BCHW, laid.id_BL, laid.slot_BL, laid.mask_BL, laid.answer_BL, laid.truncated, laid.places)

    # ------------------------------------------------------------ model

    def model(self) -> Bridge:
        language = self._language_model()
        if self.moca:
            language.calibrate(std=self.moca_std)
        encoder = self._encoder()
        spec = self.connector_spec()
        made = connector(spec.pop("kind"), encoder.token_width, language.width, **spec)
        bridge = Bridge(encoder, made, language, trained=self.trained, awake=self.awake, blind=self.blind)
        if self.match_norms:
            bridge.match_norms_(torch.randn(4, 3, self.image_size, self.image_size))
        return bridge

    def _language_model(self) -> LanguageModel:
        return LanguageModel.from_folder(self.language_path, act=self.language_act)

    def _encoder(self) -> Tower:
        """The image encoder, a copy of the trained one or a fresh one."""
        return copy.deepcopy(self._trained()[0]) if self.image_weights else self._fresh_encoder()

    def features(self, model: Bridge, batch: BridgeBatch) -> AnswerLikelihood:
        written: AnswerLikelihood = model(batch.image_BCHW, batch.layout)
        return written

    def losses(self, features: AnswerLikelihood, batch: BridgeBatch) -> dict[str, Tensor]:
        return {"answer": answer_loss(features.nll_B, features.count_B, per=self.per, rows=self.rows_a_mean)}

    def metrics(self, features: AnswerLikelihood, batch: BridgeBatch) -> dict[str, Tensor]:
        hits = features.hit_B.sum() / features.count_B.sum().clamp_min(1)
        return {"token_accuracy": hits.detach(), "norm_ratio": features.ratio.mean().detach()}

    def deploy(self, model: Bridge) -> BridgeGenerator:
        return BridgeGenerator(
            model,
            self.preprocess,
            self.words(),
            Template(self.written_after),
            self.slug,
            connector=self.connector_spec(),
            length=model.language.context_length,
            space=self.space,
            folder=self.language_folder if self.given_language else "",
        )

    def stored(self, name: str) -> bool:
        """A frozen language model, and an encoder from another run, are loaded again and not kept in checkpoints."""
        away = (("language.", "language" not in self.trained), ("encoder.", self.image_weights))
        return not any(name.startswith(part) and source for part, source in away) or name.startswith("language.calibrations.")
