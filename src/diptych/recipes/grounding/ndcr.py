"""NDCR: a long text is divided into propositions, each compared with the pictures of a set, and the results are combined."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draws, Optimiser, Recipe, Rule
from diptych.core.disk.cache import cache_folder
from diptych.core.errors import ConfigError, DataError
from diptych.data.load.features import FeatureTable
from diptych.data.read.image_sets import ImageSet, image_set_of
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.open_address import open_address
from diptych.models.reasoning.divide_conquer import Answers, Picks
from diptych.models.reasoning.set_features import SetEncoder, Vectors, products
from diptych.models.reasoning.set_picker import MOST, PickerForm, PickerNetwork, SetBatch, SetPicker, stacked, tokens_of
from diptych.models.towers.towers import pools_last, text_tower
from diptych.objectives.proposition_losses import (
    diversity_hinge,
    negation_hinge,
    pick_nll,
    proposition_cross_entropy,
    word_alignment,
)
from diptych.recipes._shared.small_encoder import small_encoder
from diptych.recipes._shared.texts.vocabulary import learned_vocabulary, tokenizer_of

SMALL = "small"


@dataclass(frozen=True, kw_only=True)
class NDCR(Recipe[PickerNetwork, SetBatch, Picks]):
    """A Neural Divide-and-Conquer Reasoning framework for image retrieval from linguistically complex text (Li et al., 2023, arXiv
    2305.02265), on sets of ten similar pictures (ImageCoDe, 2203.15867).

    Learned queries read the text and become a vector for each of its propositions. System 1 compares each with every picture; System 2
    negates what a proposition says, conjoins propositions and negations with the whole text, and mixes both through a gate. Every
    proposition is trained to point at the right picture, its negation away from it. The baseline is the whole text alone (`answers`
    "context").

    Pictures, and the whole text with each of them, are read by a frozen encoder whose features are computed once (published: OFA-large;
    here a model that embeds both, the product of two towers' vectors where it does not fuse them). The published first phase trains the
    generator by writing the propositions, and another one the context; their code was not released. Here both learn with the rest
    (`context`), and the generator may be drawn to the encoder's vectors of the propositions' words (`align`).

    We depart: the answer's loss is the negative log of its share; `answer_softmax` is the released second softmax. Modules of the release
    that nothing reads are left out.

    encoder      address of the frozen model, or "small:ADDRESS": a small one that learns the pairs of those data first
    small_image_steps  updates of it
    text_tower   what reads the text: bart_b, BART-base's encoder as published, with fresh weights, text_tiny and the others of
                 docs/training.md, or hf:FOLDER with its weights
    text_length  tokens, the others are cut
    tokenizer    "clip", "data" (byte pairs learned from the texts), or a path to a tokenizer.json
    pieces       vocabulary size when it is learned
    heads, mlp_width   of every layer of attention; layers: over the pictures; generator_layers: of the queries
    answers      "full"; "system1", the mean of the propositions' distributions; or "context", the whole text alone
    context      weight of the cross-entropy of the whole text; 0 leaves that part as it is, as in the released phase
    negation     weight of the hinge that keeps a negation from saying the same
    negation_margin, negation_temperature   of it
    align        weight of 1 - cosine between the generator's vectors and the encoder's of the propositions' words
    diversity    weight of the hinge on the cosine of neighbouring propositions (computed, and not added, by the released code)
    cross_minus  the generator's queries are subtracted from what they read, as released, and not added
    freeze_generator  all of it but its last map stays as it is, as in the released phase
    answer_softmax    the answer goes through another softmax before its cross-entropy, as released
    summed_gradients  gradients of a batch are added up, as released, so that weight decay, a part of the gradient, counts the less the
                 larger the batch; False: averaged
    decay_rate   factor of the learning rate after each epoch; generator_lr: factor of it for the generator
    width        of the encoder; pictures: of a set, of the data
    vocabulary   learned pieces
    encoder_folder, data_fingerprint   where the encoder lies, and of what its features are
    """

    slug = "ndcr"
    needs = ("images", "image_set")

    encoder: str = ""
    small_image_steps: int = 400
    text_tower: str = "bart_b"
    text_length: int = 180
    tokenizer: str = "clip"
    pieces: int = 4096
    layers: int = 2
    generator_layers: int = 3
    heads: int = 8
    mlp_width: int = 3072
    answers: Answers = "full"
    context: float = 1.0
    negation: float = 1.0
    negation_margin: float = 0.2
    negation_temperature: float = 0.25
    align: float = 0.0
    diversity: float = 0.0
    cross_minus: bool = False
    freeze_generator: bool = False
    answer_softmax: bool = False
    summed_gradients: bool = True
    decay_rate: float = 0.95
    generator_lr: float = 0.75

    batch_size: int = 32
    epochs: float = 30.0
    lr: float = 4e-5
    warmup: float = 0.0
    weight_decay: float = 0.1

    width: int = field(default=1024, metadata={"prepared": True})
    pictures: int = field(default=10, metadata={"prepared": True})
    vocabulary: str = field(default="", metadata={"prepared": True})
    encoder_folder: str = field(default="", metadata={"prepared": True})
    data_fingerprint: str = field(default="", metadata={"prepared": True})

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in ("context", "negation", "align", "diversity")}
        if wrong := [f"{name} is {value}" for name, value in weights.items() if value < 0]:
            raise ConfigError(f"{wrong[0]} (expected 0 or more)")
        if self.answers == "context" and not self.context:
            raise ConfigError("answers is 'context' and its weight 0 (expected a weight above 0)")

    @property
    def measured_by(self) -> str:
        return "image_choice"

    @property
    def decode_size(self) -> None:
        """Batches are made of features: images are not decoded."""
        return None

    def prepare(self, data: Dataset) -> Self:
        """Finds or makes the encoder, learns the vocabulary, and encodes what is not encoded yet: pictures, texts and propositions, which
        lie in the cache folder and are found again by fingerprint."""
        made = self
        if not made.encoder_folder:
            kind, _, address = made.encoder.partition(":")
            folder = made.encoder
            if not folder or (kind == SMALL and not address):
                raise ConfigError(
                    f"encoder is {folder!r} (expected the address of a model, or {SMALL}:DATA of pictures with captions)"
                )
            if kind == SMALL:
                folder = str(small_encoder(address, data, steps=made.small_image_steps, language="en", size=48))
            made = replace(made, encoder_folder=folder)
        samples = [data[row] for row in range(len(data))]
        asked = [image_set_of(sample) for sample in samples]
        counts = {len(sample.media["images"].parts) for sample in samples}
        if len(counts) > 1:
            raise DataError(
                f"'{data.name}' has sets of {min(counts)} and of {max(counts)} pictures", field="images", expected="one size"
            )
        if made.tokenizer == "data" and not made.vocabulary:
            made = replace(made, vocabulary=learned_vocabulary([one.text for one in asked], made.pieces))
        features = _encoder(made.encoder_folder)
        made = replace(made, width=features.width(), pictures=counts.pop(), data_fingerprint=data.fingerprint)
        keys = [f"{sample.uid}/{number}" for sample in samples for number in range(made.pictures)]
        sources = [source for sample in samples for source in sample.media["images"].parts]
        _made(made, "images", keys, lambda rows: features.images([sources[row] for row in rows]))
        strings = list(dict.fromkeys(text for one in asked for text in (one.text, *one.propositions[:MOST])))
        _made(made, "texts", strings, lambda rows: features.texts([strings[row] for row in rows]))
        if features.fused:
            texts = [one.text for one in asked for _ in range(made.pictures)]
            _made(made, "pairs", keys, lambda rows: np.concatenate([features.pairs([sources[row]], texts[row]) for row in rows]))
        return made

    def words(self) -> Tokenizer:
        return tokenizer_of(self.tokenizer, self.vocabulary)

    def model(self) -> PickerNetwork:
        form = PickerForm(
            width=self.width,
            pictures=self.pictures,
            layers=self.layers,
            heads=self.heads,
            mlp_width=self.mlp_width,
            generator_layers=self.generator_layers,
            minus=self.cross_minus,
            answers=self.answers,
        )
        return PickerNetwork(None if self.answers == "context" else self._tower(), form)

    def _tower(self) -> Any:
        if self.text_tower.startswith("hf:"):
            return text_tower(self.text_tower, length=self.text_length)
        words = self.words()
        options: dict[str, Any] = {"vocab_size": words.vocab_size, "length": self.text_length}
        if not self.text_tower.startswith(("bert", "bart")):
            options["eot_id"] = words.eot_id
        if self.text_tower.startswith("bart") or pools_last(self.text_tower):
            options["pad_id"] = words.pad_id
        return text_tower(self.text_tower, **options)

    def batch(self, draws: Draws) -> SetBatch:
        """The features of each set, text and proposition, and the tokens of the text."""
        asked = [image_set_of(draw.sample) for draw in draws]
        image_BKD, texts = self._rows("images", draws), _opened(self, "texts")
        if _stored(self, "pairs"):
            pair_BKD = self._rows("pairs", draws)
        else:
            text_BD = texts.rows([one.text for one in asked])
            pair_BKD = np.stack([products(image_KD, text_D) for image_KD, text_D in zip(image_BKD, text_BD, strict=True)])
        words_BPD, exists_BP = stacked([texts.rows(list(one.propositions[:MOST])) for one in asked], MOST)
        text_BL, mask_BL, truncated = tokens_of(self.words(), [one.text for one in asked], self.text_length)
        return SetBatch(
            pair_BKD=torch.from_numpy(pair_BKD),
            image_BKD=torch.from_numpy(image_BKD),
            words_BPD=words_BPD,
            exists_BP=exists_BP,
            text_BL=text_BL,
            text_mask_BL=mask_BL,
            ordered_B=torch.tensor([one.ordered for one in asked]),
            target_B=torch.tensor([_target(one) for one in asked]),
            truncated=truncated,
        )

    def _rows(self, part: Literal["images", "pairs"], draws: Draws) -> Vectors:
        keys = [f"{draw.sample.uid}/{number}" for draw in draws for number in range(self.pictures)]
        rows: Vectors = _opened(self, part).rows(keys).reshape(len(draws), self.pictures, -1)
        return rows

    def features(self, model: PickerNetwork, batch: SetBatch) -> Picks:
        picks: Picks = model(batch)
        return picks

    def losses(self, features: Picks, batch: SetBatch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        exists_BP, target_B, proposition_BPK = batch.exists_BP, batch.target_B, features.proposition_BPK
        if self.context:
            terms["context"] = self.context * torch.nn.functional.cross_entropy(features.context_BK.float(), target_B)
        if proposition_BPK is None:
            return terms
        terms["propositions"] = proposition_cross_entropy(proposition_BPK, exists_BP, target_B, features.conjoined_BK)
        if features.negated_BPK is not None:
            terms["answer"] = pick_nll(features.answer_BK, target_B, twice=self.answer_softmax)
            terms["negation"] = self.negation * negation_hinge(
                proposition_BPK,
                features.negated_BPK,
                exists_BP,
                margin=self.negation_margin,
                temperature=self.negation_temperature,
            )
        if features.vector_BPD is not None and self.align:
            terms["align"] = self.align * word_alignment(features.vector_BPD, batch.words_BPD, exists_BP)
        if features.vector_BPD is not None and self.diversity:
            terms["diversity"] = self.diversity * diversity_hinge(features.vector_BPD, exists_BP)
        return terms

    def metrics(self, features: Picks, batch: SetBatch) -> dict[str, Tensor]:
        """Share of sets whose right picture comes first, by the answer and by the whole text."""
        right = {"accuracy": features.answer_BK, "context_accuracy": features.context_BK}
        return {name: (share_BK.argmax(1) == batch.target_B).float().mean() for name, share_BK in right.items()}

    def optimiser(self) -> Optimiser:
        """Adam whose decay is part of the gradient and spares nothing; the rate falls after each epoch."""
        frozen = [Rule(r"^reasoner\.context", lr_scale=0.0)] if not self.context else []
        if self.freeze_generator:
            frozen.append(Rule(r"^generator\.(tower|queries|layers)\.", lr_scale=0.0))
        generator = Rule(r"^generator\.(tower|queries|layers)\.", lr_scale=self.generator_lr, decay=True)
        falls = (
            {"schedule": "decay", "decay_rate": self.decay_rate, "periods": self.epochs}
            if self.decay_rate < 1
            else {"schedule": "constant"}
        )
        # a mean of gradients with decay and eps divided by their number takes the steps that their sum takes
        count = self.batch_size if self.summed_gradients else 1
        return replace(
            super().optimiser(),
            eps=1e-6 / count,
            weight_decay=self.weight_decay / count,
            coupled_decay=True,
            rules=(*frozen, generator, Rule("", decay=True)),
            **falls,
        )

    def deploy(self, model: PickerNetwork) -> SetPicker:
        return SetPicker(model, self.encoder_folder, self.words(), self.text_length, self.slug)

    # ------------------------------------------------------------ presets

    @classmethod
    def tiny(cls) -> Self:
        """128 dimensions over a small encoder of rendered pictures, the whole learned at once: a minute or two on two cores."""
        return cls(
            encoder="small:world:image_sets?kind=captions&n=6000&seed=1",
            small_image_steps=500,
            text_tower="text_tiny",
            text_length=32,
            tokenizer="data",
            pieces=512,
            generator_layers=2,
            mlp_width=256,
            align=1.0,
            summed_gradients=False,
            decay_rate=1.0,
            generator_lr=1.0,
            batch_size=32,
            steps=400,
            lr=1e-3,
            warmup=50.0,
            weight_decay=0.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """As released: 30 epochs of 32 sets over an encoder of 1,024 dimensions, whose address `encoder` says."""
        return cls()


def _target(asked: ImageSet) -> int:
    if asked.target is None:
        raise DataError(
            f"the right picture of '{asked.text[:60]}' is not published", field="target", expected="a number, to learn from"
        )
    return asked.target


@lru_cache(maxsize=2)
def _encoder(folder: str) -> SetEncoder:
    return SetEncoder(open_address(folder))


def _folder(recipe: NDCR, part: str) -> Path:
    key = f"{recipe.data_fingerprint[:32]}-{_encoder(recipe.encoder_folder).fingerprint[:16]}-{part}"
    return cache_folder() / "features" / f"sets-{key}"


def _stored(recipe: NDCR, part: str) -> bool:
    return (_folder(recipe, part) / "values.npy").exists()


def _made(recipe: NDCR, part: str, keys: list[str], encode: Any) -> FeatureTable:
    return FeatureTable.open_or_make(_folder(recipe, part), keys, encode, what=f"features of {part}")


def _opened(recipe: NDCR, part: str) -> FeatureTable:
    return _table(str(_folder(recipe, part)))


@lru_cache(maxsize=8)
def _table(folder: str) -> FeatureTable:
    return FeatureTable(Path(folder))
