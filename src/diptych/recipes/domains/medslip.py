"""MeDSLIP: findings and anatomical locations of a chest X-ray in two streams, aligned with each other and with texts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Draws, Optimiser, Recipe
from diptych.core.errors import ConfigError, DataError
from diptych.core.grouped_fields import grouped
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import TensorBatch, pixels
from diptych.data.media.augment.boxed_views import augmented
from diptych.data.media.transforms import CropForm, Preprocess, random_crop
from diptych.data.text.captions.sides import Sides, mirrored
from diptych.data.text.reports.finding_places import FindingPlace, finding_matrix, finding_places
from diptych.models.chests.finding_reader import FindingReader
from diptych.models.chests.finding_streams import FindingStreams, StreamFeatures, Streams
from diptych.models.chests.name_book import EXPECTED, book_vectors, read_book
from diptych.models.towers.dense_vit import DenseViT
from diptych.models.towers.towers import image_tower
from diptych.objectives.finding_losses import pair_loss, prototype_loss, stated, status_loss

PUBLISHED_SIZES = (75, 51, 768)
"""Findings, places and width of the books of the released model."""
WARMUP_STAIR = 100
"""Steps of the released warm-up that have one rate."""


@dataclass(frozen=True, kw_only=True)
class FindingBatch(TensorBatch):
    """Images and the findings that their reports state.

    matrix_BAK           int64: 1 present, 0 absent, -1 not mentioned
    other_place_BKN      int64: places without a finding, drawn for each finding; -1 pads
    other_finding_BAN    int64: findings that are not at a place, drawn for each place; -1 pads
    """

    image_BCHW: Rows[Tensor]
    matrix_BAK: Rows[Tensor]
    other_place_BKN: Rows[Tensor]
    other_finding_BAN: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Layers behind the image tower.

    streams      "two" of findings and of places, or "one": a decoder of twice as many layers over findings, with a linear layer that says
                 the place (the baseline)
    width, heads, layers, mlp_width, dropout  of a decoder
    """

    streams: Streams = "two"
    width: int = 256
    heads: int = 4
    layers: int = 4
    mlp_width: int = 1024
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class StreamLosses:
    """Weights of the losses.

    weight_status      of present or absent, for each finding and each place that is stated
    weight_pairs       of each finding at each place (intra-image contrast)
    weight_prototypes  of a finding against the mean vector of its places, and of a place against that of its findings; 0 leaves it out
    negatives          other places, or findings, that a prototype is compared with
    """

    weight_status: float = 1.0
    weight_pairs: float = 1.0
    weight_prototypes: float = 1.0
    negatives: int = 7


@grouped("decoder", "terms")
@dataclass(frozen=True, kw_only=True)
class MeDSLIP(Recipe[FindingStreams, FindingBatch, StreamFeatures]):
    """MeDSLIP: Medical Dual-Stream Language-Image Pre-training with Pathology-Anatomy Semantic Alignment (Fan et al., 2024, arXiv
    2403.10635). Baseline: one stream with a layer that says the place (`streams one`).

    Reports become a matrix of findings and places, present, absent or not mentioned. A gate divides the channels of each image token
    between two streams, and two decoders ask them by the frozen vectors of texts: an explanation of each finding and a sentence about each
    place. Three losses: whether each finding and each place is present; whether each finding is at each place, by the dot product of
    their queries; and a finding's query against the mean text vector of the places where it is and vectors of others, and the other way
    round. The model says which findings are there, also ones that are explained in new words (`classify_texts`), and where, by attention
    (`diptych eval RUN phrase_maps`).

    The matrix comes from the column `pairs` (RadGraph's parses, for example), from PadChest's sentences, or from reports by rules
    (`finding_places`), which needs the names of a `book`. Findings and places that are not in the book are not read.

    We depart in one point: where a name of a place says left or right, an image is not mirrored (`flip_sides ignore` is the release).
    Something present without any partner takes no part in the prototypes. Warm-up is 500 steps of the first epoch, as the release has it.

    decoder       layers behind the image tower (`StreamConfig`), whose fields are options like these
    terms         weights of the losses (`StreamLosses`), the same
    book          a JSON file {"findings": {name: explanation}, "places": [name, ...]}; "" takes the names in the data's own pairs
    book_encoder  what makes vectors of these texts: hf:FOLDER of a BERT, whose [CLS] is read, hf-bare:FOLDER without [SEP] behind a
                  text (published: Bio_ClinicalBERT, so), minilm-l6, or random:64, a random vector a word
    place_text    sentence about a place
    text_length   tokens of a text of the book
    image_tower   the network that reads images; of a residual network of timm the first `stage` stages
    stage         of timm:resnet50 and its like, 1 to 4
    image_size    pixels
    crop          area of the random square crop, as shares of the image
    flip          half of the images are mirrored
    flip_sides    where a place says left or right, the image is not mirrored ("keep"), the places change sides ("swap"), or nothing is
                  looked at ("ignore", as released)
    augment       "rand" changes images by two operations of RandAugment at level 7 of 10, each half of the time, as published; "none"
    mean, std     of the pixels
    falls         "period", as released: the learning rate rises every 100 steps of the warm-up and falls after each of `epochs`; "step": at
                  each step
    """

    slug = "medslip"
    needs: ClassVar[tuple[str, ...]] = ("image",)

    decoder: StreamConfig = field(default_factory=StreamConfig)
    terms: StreamLosses = field(default_factory=StreamLosses)
    book: str = ""
    book_encoder: str = ""
    place_text: str = "It is located at {}. "
    text_length: int = 128
    image_tower: str = "timm:resnet50"
    stage: int = 3
    image_size: int = 224
    crop: tuple[float, float] = (0.2, 1.0)
    flip: bool = True
    flip_sides: Sides = "keep"
    augment: Literal["rand", "none"] = "rand"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    batch_size: int = 64
    epochs: float = 100.0
    lr: float = 1e-4
    warmup: float = 500.0
    falls: Literal["step", "period"] = "period"
    weight_decay: float = 0.02
    findings: tuple[str, ...] = field(default=(), metadata={"prepared": True})
    explanations: tuple[str, ...] = field(default=(), metadata={"prepared": True})
    places: tuple[str, ...] = field(default=(), metadata={"prepared": True})

    def __post_init__(self) -> None:
        if self.terms.negatives < 1 or "{}" not in self.place_text or self.augment not in ("rand", "none"):
            raise ConfigError(
                f"negatives {self.terms.negatives}, place_text {self.place_text!r}, augment {self.augment!r} "
                "(expected 1 or more, a text with {}, and rand | none)"
            )

    def prepare(self, data: Dataset) -> Self:
        """Reads the book, or collects names of the data's pairs in alphabetical order."""
        if self.findings:
            return self
        if not self.book_encoder:
            raise ConfigError(f"book_encoder is not set (expected {EXPECTED})")
        if self.book:
            findings, sites = read_book(Path(self.book))
            return replace(self, findings=tuple(findings), explanations=tuple(findings.values()), places=sites)
        pairs = [pair for row in range(len(data)) for pair in finding_places(data[row])]
        names = tuple(sorted({pair.finding for pair in pairs}))
        if len(names) < 2 or len({pair.place for pair in pairs}) < 2:
            raise DataError(
                f"'{data.name}' names {len(names)} findings with their places",
                field="pairs",
                expected="a column pairs, or --book",
            )
        return replace(self, findings=names, explanations=names, places=tuple(sorted({pair.place for pair in pairs})))

    @property
    def measured_by(self) -> str:
        return "phrase_maps"

    @property
    def decode_size(self) -> int:
        return 0

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing of the deployed model."""
        return Preprocess(self.image_size, self.mean, self.std, "squash", "bilinear")

    # ------------------------------------------------------------ model

    def model(self) -> FindingStreams:
        options: dict[str, Any] = {"image_size": self.image_size}
        if self.image_tower.startswith("timm:resnet"):
            options |= {"stage": self.stage, "zero_last": False}
        tower = image_tower(self.image_tower, **options)
        if isinstance(tower, DenseViT):
            tower.mask_D.requires_grad_(False)  # no patch is hidden
        config = self.decoder
        return FindingStreams(
            tower,
            *self.books,
            width=config.width,
            heads=config.heads,
            layers=config.layers,
            mlp_width=config.mlp_width,
            dropout=config.dropout,
            streams=config.streams,
        )

    @cached_property
    def books(self) -> tuple[Tensor, Tensor]:
        """Vectors of findings [K, E] and of places [A, E]; zeros of the published sizes before `prepare`."""
        if not self.findings:
            findings, sites, width = PUBLISHED_SIZES
            return torch.zeros(findings, width), torch.zeros(sites, width)
        sentences = [self.place_text.format(site) for site in self.places]
        vector_NE = book_vectors([*self.explanations, *sentences], self.book_encoder, length=self.text_length)
        return vector_NE[: len(self.findings)], vector_NE[len(self.findings) :]

    def optimiser(self) -> Optimiser:
        """Cosine over the whole run from lr to a tenth of it, warm-up from a tenth."""
        shape: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "final_lr": 0.1, "warmup_from": 0.1, "over": "run"}
        if self.falls == "period" and self.warmup >= 1:
            shape |= {"warmup": self.warmup + 1, "warmup_peak": "last", "warmup_stair": WARMUP_STAIR, "rises": "first"}
        return replace(super().optimiser(), **shape, falls=self.falls, periods=self.epochs)

    # ------------------------------------------------------------ a step

    def pairs_of(self, sample: Sample) -> list[FindingPlace]:
        """Stated pairs of a sample."""
        return finding_places(sample, self.findings, self.places)

    def batch(self, draws: Draws) -> FindingBatch:
        """Crop, mirror and RandAugment, then negatives, all from each draw's own generator."""
        views, matrices, other_places, other_findings = [], [], [], []
        for draw in draws:
            view_HWC, matrix_AK = self.view(draw)
            views.append(view_HWC)
            matrices.append(matrix_AK)
            other_places.append(drawn_others(matrix_AK.T, self.terms.negatives, draw.rng))
            other_findings.append(drawn_others(matrix_AK, self.terms.negatives, draw.rng))
        return FindingBatch(
            image_BCHW=self.preprocess(views),
            matrix_BAK=torch.from_numpy(np.stack(matrices)).long(),
            other_place_BKN=torch.from_numpy(np.stack(other_places)),
            other_finding_BAN=torch.from_numpy(np.stack(other_findings)),
        )

    def view(self, draw: Draw) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
        """uint8 [size, size, 3] and the matrix [A, K] that holds of it."""
        pairs = self.pairs_of(draw.sample)
        image_HWC = random_crop(pixels(draw), self.image_size, draw.rng, self.crop, CropForm(interpolation="bicubic"))
        if self.flip:
            names = tuple(pair.place.replace("_", " ") for pair in pairs)
            image_HWC, turned = mirrored(image_HWC, names, draw.rng, self.flip_sides)
            if turned != names:
                spelled = {site.replace("_", " "): site for site in self.places}
                pairs = [pair._replace(place=spelled.get(name, "")) for pair, name in zip(pairs, turned, strict=True)]
        if self.augment == "rand":
            image_HWC = augmented((image_HWC, None), draw.rng, level=0.7)[0]
        return np.ascontiguousarray(image_HWC), finding_matrix(pairs, self.findings, self.places)

    def features(self, model: FindingStreams, batch: FindingBatch) -> StreamFeatures:
        outputs: StreamFeatures = model(batch.image_BCHW)
        return outputs

    def losses(self, features: StreamFeatures, batch: FindingBatch) -> dict[str, Tensor]:
        matrix_BAK, terms = batch.matrix_BAK, self.terms
        matrix_BKA = matrix_BAK.transpose(1, 2)
        status = status_loss(features.status_finding_BK2, stated(matrix_BKA))
        losses = {
            "findings": terms.weight_status * status,
            "pairs": terms.weight_pairs * pair_loss(features.pair_BAK, matrix_BAK),
        }
        if features.status_place_BA2 is None:
            return losses
        losses["places"] = terms.weight_status * status_loss(features.status_place_BA2, stated(matrix_BAK))
        if terms.weight_prototypes:
            assert features.prototype_finding_BKE is not None
            assert features.prototype_place_BAE is not None
            of_findings = prototype_loss(
                features.prototype_finding_BKE, features.place_book_AE, matrix_BKA == 1, batch.other_place_BKN
            )
            of_places = prototype_loss(
                features.prototype_place_BAE, features.finding_book_KE, matrix_BAK == 1, batch.other_finding_BAN
            )
            losses["prototypes"] = terms.weight_prototypes * (of_findings + of_places)
        return losses

    def deploy(self, model: FindingStreams) -> FindingReader:
        return FindingReader(
            model,
            self.preprocess,
            self.findings,
            self.places,
            self.slug,
            book_encoder=self.book_encoder,
            text_length=self.text_length,
        )

    @classmethod
    def tiny(cls) -> Self:
        """A small transformer over 64 pixels, and names by random vectors of their words."""
        return cls(
            decoder=StreamConfig(width=64, layers=2, mlp_width=128, dropout=0.0),
            book_encoder="random:64",
            image_tower="dense_tiny",
            image_size=64,
            crop=(0.8, 1.0),
            augment="none",
            steps=300,
            lr=8e-4,
            warmup=20.0,
            falls="step",
        )

    @classmethod
    def paper(cls) -> Self:
        """Three stages of ResNet-50 over 224 pixels, two decoders of four layers, 100 epochs of 64 images. The text encoder's folder is
        given by --book-encoder hf-bare:FOLDER."""
        return cls()


def drawn_others(matrix_QR: npt.NDArray[np.int8], count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """int64 [Q, count]: for each row some of the columns that are not present there, drawn without replacement; -1 where there are too
    few. Always as many random numbers."""
    rank_QR = np.where(matrix_QR == 1, np.inf, rng.random(matrix_QR.shape))
    order_QR = np.argsort(rank_QR, axis=1)[:, :count]
    drawn_QC = np.where(np.isinf(np.take_along_axis(rank_QR, order_QR, 1)), -1, order_QR)
    padded_QN = np.full((len(matrix_QR), count), -1, np.int64)
    padded_QN[:, : drawn_QC.shape[1]] = drawn_QC
    return padded_QN
