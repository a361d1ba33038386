"""Shared by recipes in front of a language model: its name, the trained image encoder, and where both are loaded from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from typing_extensions import TypeVar

from diptych.core.contracts import Dataset, Recipe
from diptych.core.disk.json_text import read_object
from diptych.core.errors import ConfigError
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.language_model import LanguageVocabulary
from diptych.models.io.open_address import open_address
from diptych.models.io.weights import in_single_precision
from diptych.recipes._shared.language.small_language import SmallLanguage, small_language
from diptych.recipes._shared.pairs import B, F, M
from diptych.recipes._shared.small_encoder import small_encoder

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LanguageModelRecipe(Recipe[M, B, F]):
    """A recipe with a language model, and where it says so a trained image encoder.

    language_model  "hf:FOLDER" of transformers, causal or sequence-to-sequence; "small": one of half a million parameters that learns the
                  texts of the data first, `small_steps` of them, once, and lies in the cache (`small_language`); "small:ADDRESS": those
                  of other data, so that several runs share it
    image_weights  the address of a trained model whose image encoder it is (a run of clip, hf:, open_clip:, timm:), with that model's
                  image settings; "small" or "small:ADDRESS": a small one that learns the pairs of the data first, for
                  `small_image_steps`, in the same way
    start         whether a start mark stands before everything; none: as the language model's tokenizer has it
    start_behind  the start mark stands behind a picture that a row begins with, and not before
    end_starts    the end mark is the start mark, where there is one, as LAVIS has it for Vicuna
    language      texts of this language or of an unknown one are read; "" takes all
    pieces        of a vocabulary that is learned from the data
    small_steps   training steps of the small language model, 100 passes over its rows at most
    small_image_steps  training steps of the small image encoder, 100 passes at most, which cuts an image into patches of 16 pixels
    small_image_size  side in pixels of the images that the small image encoder reads
    """

    language_model: str = "small"
    image_weights: str = ""
    start: bool | None = None
    start_behind: bool = False
    end_starts: bool = False
    language: str = "en"
    pieces: int = 4096
    small_steps: int = 2500
    small_image_steps: int = 400
    small_image_size: int = 64
    language_folder: str = field(default="", metadata={"prepared": True})
    image_folder: str = field(default="", metadata={"prepared": True})

    def prepare(self, data: Dataset) -> Self:
        """Finds language model and image encoder, or makes the small ones."""
        return replace(self, language_folder=str(self._language(data)), image_folder=self._images(data))

    def _language(self, data: Dataset) -> Path:
        kind, _, address = self.language_model.partition(":")
        if kind == "small":
            settings = SmallLanguage(steps=self.small_steps, pieces=self.pieces, language=self.language)
            return small_language(address, data, settings)
        folder = Path(address).expanduser()
        if kind != "hf" or not (folder / "config.json").is_file():
            raise ConfigError(
                f"language_model is {self.language_model!r} (expected hf:FOLDER, a folder of transformers with config.json, or small)"
            )
        return folder

    def _images(self, data: Dataset) -> str:
        kind, _, address = self.image_weights.partition(":")
        if kind == "small":
            return str(
                small_encoder(address, data, steps=self.small_image_steps, size=self.small_image_size, language=self.language)
            )
        return self.image_weights

    @property
    def given_language(self) -> bool:
        """True if the language model is in a folder of the user's; a small one is saved with the run."""
        return not self.language_model.startswith("small")

    def words(self) -> LanguageVocabulary:
        """The tokenizer of the language model. Raises ConfigError before `prepare`."""
        folder = self.language_path
        reads = bool(read_object(Path(folder, "config.json")).get("is_encoder_decoder"))
        return LanguageVocabulary(
            _tokenizer(folder), start=self.start, start_behind=self.start_behind, end_starts=self.end_starts, closes=reads
        )

    @property
    def language_path(self) -> str:
        """The folder of the language model."""
        if not self.language_folder:
            raise ConfigError(f"'{self.slug}' has no language model yet: call prepare(data) first")
        if not Path(self.language_folder, "config.json").is_file():
            raise ConfigError(f"the language model is no longer in {self.language_folder} (start the run again)")
        return self.language_folder

    def trained_images(self) -> Any:
        """The model that the image encoder comes from. Raises ConfigError before `prepare`."""
        if self.image_weights and not self.image_folder:
            raise ConfigError(f"'{self.slug}' has no image encoder yet: call prepare(data) first")
        return open_once(self.image_folder)


@lru_cache(maxsize=4)
def _tokenizer(folder: str) -> Tokenizer:
    return Tokenizer.load(Path(folder))


@lru_cache(maxsize=2)
def open_once(address: str) -> Any:
    """The model at an address, opened once per process, in single precision also where a run in double asks first.

    It is shared: copy its module before training it.
    """
    with in_single_precision():
        return open_address(address)
