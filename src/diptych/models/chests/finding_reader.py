"""Inference with a trained two-stream model: findings, anatomical places, pairs of both, and heat maps.

Letters: N images, A places, K findings, T texts, P map positions per side, H W pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.models.chests.finding_streams import FindingStreams
from diptych.models.chests.name_book import book_vectors
from diptych.models.io.card import model_card
from diptych.models.io.device import batched
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating
from diptych.models.pairs.map_frames import Interpolation, in_frame
from diptych.models.towers.towers import image_tower

Floats = npt.NDArray[np.float32]


class FindingReader:
    """A trained `FindingStreams` with its preprocessing and the names of its books.

    As a `Classifier` it gives the probability that each finding is present; as a `PhraseMapper` the attention of a finding's
    query, of a place's, or of both. A text that names neither is encoded as a new finding by `book_encoder`.
    """

    kind: ClassVar[str] = "finding_reader"

    def __init__(
        self,
        model: FindingStreams,
        preprocess: Preprocess,
        findings: Sequence[str],
        sites: Sequence[str],
        name: str,
        *,
        book_encoder: str = "",
        text_length: int = 128,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.preprocess, self.name = model, preprocess, name
        self.classes, self.places = tuple(findings), tuple(sites)
        self.book_encoder, self.text_length, self.card = book_encoder, text_length, dict(card or {})

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights, the names and the preprocessing."""
        return fingerprint(self.model, {"preprocess": self.preprocess.to_json(), "names": [*self.classes, *self.places]})

    @one_or_many
    def classify(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Floats:
        """Return the probability that each finding is present, float32 [N, K]."""
        return self._over(
            images, batch_size, lambda pixels: self.model(pixels).status_finding_BK2.softmax(-1)[..., 1], self.classes
        )

    def classify_places(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Floats:
        """Return the probability of a finding at each place, float32 [N, A]. Raises ConfigError for a model of one stream."""
        if self.model.streams == "one":
            raise ConfigError(f"'{self.name}' asks no places (expected a model of two streams)")
        return self._over(images, batch_size, lambda pixels: self.model(pixels).status_place_BA2.softmax(-1)[..., 1], self.places)

    def classify_pairs(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Floats:
        """Return the probability of each finding at each place, float32 [N, A, K]."""
        return self._over(images, batch_size, lambda pixels: self.model(pixels).pair_BAK.sigmoid(), self.places, self.classes)

    def classify_texts(self, images: Sequence[ImageSource], texts: Sequence[str], *, batch_size: int = 64) -> Floats:
        """Return the probability that the finding described by each text is present, float32 [N, T],
        for findings not seen in training.

        Each text is queried together with the book's findings, as in training, but not together with the other texts.
        """
        book_TE = self._encoded(texts)

        def present(pixels_BCHW: Tensor) -> Tensor:
            token_BPD, _ = self.model.tokens(pixels_BCHW)
            state_BTD, _ = self._beside_the_book(token_BPD, book_TE)
            return torch.softmax(self.model.finding_status(state_BTD), -1)[..., 1]

        return self._over(images, batch_size, present, texts)

    def map_phrases(
        self, image: ImageSource, phrases: Sequence[str], *, interpolation: Interpolation = "bilinear", every_place: bool = False
    ) -> list[Floats]:
        """Return a heat map float32 [H, W] with maximum 1 for each phrase.

        It is the attention of the finding that the phrase names, mean over layers, times that of the place that it names.
        The release interpolates by "nearest" and divides by the maximum of a whole batch.

        every_place  the map of a phrase without a place is multiplied by the mean map of all places, an option of the release
        """
        pixels_HWC = decode(image, exact=True)
        named = [(_longest(phrase, self.classes), _longest(phrase, self.places)) for phrase in phrases]
        others = [phrase for phrase, names in zip(phrases, named, strict=True) if names == (None, None)]
        with self._ready() as device:
            finding_BPD, place_BPD = self.model.tokens(self.preprocess([pixels_HWC]).to(device))
            decoder = self.model.finding_decoder
            finding_QP = self.model.asked(finding_BPD, self.model.finding_book_KE, decoder)[1].mean(0)[0].cpu()
            if others:
                other_TP = self._beside_the_book(finding_BPD, self._encoded(others))[1].mean(0)[0].cpu()
                finding_QP = torch.cat([finding_QP, other_TP])
            place_AP = None
            if place_BPD is not None:
                place_AP = self.model.asked(place_BPD, self.model.place_book_AE, self.model.place_decoder)[1].mean(0)[0].cpu()
        maps = []
        for phrase, (finding, site) in zip(phrases, named, strict=True):
            if finding is None and site is None:
                finding = len(self.classes) + others.index(phrase)
            map_P = torch.ones(finding_QP.shape[1]) if finding is None else finding_QP[finding]
            if place_AP is not None and (site is not None or every_place):
                map_P = map_P * (place_AP.mean(0) if site is None else place_AP[site])
            side = math.isqrt(len(map_P))
            if side * side != len(map_P):
                raise ConfigError(f"the {len(map_P)} image tokens of '{self.name}' do not form a square")
            map_PP = (map_P / map_P.max().clamp_min(torch.finfo(map_P.dtype).tiny)).view(side, side).numpy()
            maps.append(in_frame(map_PP, self.preprocess, pixels_HWC.shape[0], pixels_HWC.shape[1], interpolation))
        return maps

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "image_tower": self.model.image_tower.spec,
            "streams": self.model.options,
            "preprocess": self.preprocess.to_json(),
            "findings": list(self.classes),
            "places": list(self.places),
            "book_encoder": self.book_encoder,
            "book_width": self.model.finding_book_KE.shape[1],
            "text_length": self.text_length,
            "card": self.card,
        }
        write_model(folder, self.model, config, model_card(self.name, config, parameters(self.model)))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the reader from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        books = [torch.zeros(len(config[names]), config["book_width"]) for names in ("findings", "places")]
        with torch.random.fork_rng(devices=[]):
            model = FindingStreams(image_tower(**config["image_tower"]), *books, **config["streams"])
        load_weights(model, folder)
        return cls(
            model.eval(),
            Preprocess.from_json(config["preprocess"]),
            config["findings"],
            config["places"],
            config["name"],
            book_encoder=config["book_encoder"],
            text_length=config["text_length"],
            card=config.get("card"),
        )

    def _encoded(self, texts: Sequence[str]) -> Tensor:
        if not self.book_encoder:
            raise ConfigError(
                f"'{self.name}' has no text encoder for {texts[0][:40]!r} (expected a name of a finding or a place)"
            )
        vector_TE = book_vectors(texts, self.book_encoder, length=self.text_length)
        if vector_TE.shape[1] != self.model.finding_book_KE.shape[1]:
            raise ConfigError(
                f"vectors of {self.book_encoder} have {vector_TE.shape[1]} dimensions "
                f"(expected {self.model.finding_book_KE.shape[1]}, as in training)"
            )
        return vector_TE

    def _beside_the_book(self, token_BPD: Tensor, book_TE: Tensor) -> tuple[Tensor, Tensor]:
        """Return states [B, T, D] and attention [L, B, T, P] of queries that are not in the book,
        each run together with only the book's.
        """
        book_KE, decoder = self.model.finding_book_KE, self.model.finding_decoder
        asked = [self.model.asked(token_BPD, torch.cat([book_KE, one_E[None]]), decoder) for one_E in book_TE.to(book_KE)]
        return torch.stack([state[:, -1] for state, _ in asked], 1), torch.stack([maps[:, :, -1] for _, maps in asked], 2)

    def _over(
        self, images: Sequence[ImageSource], batch_size: int, read: Callable[[Tensor], Tensor], *names: Sequence[str]
    ) -> Floats:
        with self._ready() as device:

            def one(part: Sequence[ImageSource]) -> Tensor:
                return read(self.preprocess([decode(image, exact=True) for image in part]).to(device)).float().cpu()

            blocks = batched(images, batch_size, device, one)
        return torch.cat(blocks).numpy() if blocks else np.zeros((0, *map(len, names)), np.float32)

    @contextmanager
    def _ready(self) -> Iterator[torch.device]:
        with torch.no_grad(), evaluating(self.model):
            yield next(self.model.parameters()).device


def _longest(phrase: str, names: Sequence[str]) -> int | None:
    """Return the index of the longest name that a phrase contains as whole words; underscores in names are read as spaces."""
    held = [
        (len(name), at)
        for at, name in enumerate(names)
        if re.search(rf"\b{re.escape(name.replace('_', ' '))}\b", phrase.replace("_", " "), re.IGNORECASE)
    ]
    return max(held)[1] if held else None
