"""SITTA: a matrix in closed form maps images to the token embeddings of a language model; the nearest words form the prompt."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draws, Stage
from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch, view
from diptych.data.media.transforms import Preprocess
from diptych.data.text.captions.stop_words import content_words
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.bridges.semantic_map import (
    AlignmentDistances,
    ImageOnlyEncoder,
    SemanticMap,
    Solution,
    fold_accuracies,
    gram_matrices,
    image_statistics,
    solve_map,
    solve_map_of_rows,
    statistics_of,
)
from diptych.models.bridges.word_writer import WordCaptioner, WordPrompt
from diptych.models.io.inference import parts
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.outputs import Tower
from diptych.recipes._shared.language.language_model_recipe import LanguageModelRecipe, open_once
from diptych.recipes._shared.pairs import positive_texts
from diptych.tasks.pairs.templates import fill, templates


@dataclass(frozen=True)
class WordsBatch(TensorBatch):
    """Images, and the tokens of the words of their captions."""

    image_BCHW: Rows[Tensor]
    token_BT: Rows[Tensor]
    token_mask_BT: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class SITTA(LanguageModelRecipe[SemanticMap, WordsBatch, AlignmentDistances]):
    """SITTA: A Semantic Image-Text Alignment for Image Captioning (Paischer et al., 2023, arXiv 2307.05591).

    A picture's feature in the joint space of an image-text model is mapped into the embedding table of a language model by one matrix in
    closed form: least squares, ridge, Procrustes, or Procrustes made robust in rounds. The nearest tokens are the prompt; in several
    orders they give several captions, of which the image-text model chooses. Nothing has a gradient, so `lr`, `warmup`, `weight_decay`
    and `clip_norm` change nothing; fewer `steps` see fewer images.

    Rows pair an image with each token of its captions' words, stop words left out; or, with `learned_from` "vocabulary", the text
    embedding of every token with its own row of the table, and images only give the statistics by which they are standardised.

    A caption ends at the language model's end mark, too, over which the released code writes on. We depart from that code, which
    standardises the images that it captions by their own mean and deviation: here those of the training images are kept beside the map. Its
    pipeline compares with the raw table what was mapped into the standardised one; here both are standardised. Its random orders run on
    from picture to picture; here every picture has those of the first, so that a caption does not depend on what was captioned before. Rows
    are not written down: normal equations add up by image, which gives the same map.

    image_weights  an image-text model, or an image encoder alone (timm:NAME/FILE, a run of mrl_classes), whose features are then what its
                  classifier would see. With those, near to collinear as they are, take ridge or robust
    judge         the image-text model that chooses among captions, for an encoder alone (released: RN50x64 of CLIP); "" is
                  `image_weights` itself
    solution      how the map is found
    learned_from  "captions" (external data) or "vocabulary" (lexical matching)
    penalty       of ridge, on the whole sum
    rounds, floor  of the robust map: each round weighs rows by one over their distance plus `floor`
    templates     sentences into which tokens are put, with "vocabulary": a named set of `tasks.pairs.templates`
    folds         with "vocabulary", how often a part of the tokens is left out to measure whether the map finds them, 0 for not at all;
                  the released script does so with 5, drawn under `order_seed`
    marks         the tokenizer's marks are among a caption's tokens, tokens without letters count as words, words stand in a sentence as
                  they are decoded, and pieces of words enter the templates as the tokenizer spells them: all as in the released code, none
                  by default
    start_behind  the start mark stands between the words and what follows them, as released for LLaMA
    shown, orders, nearest, order_seed, template, spaced, within   see `WordPrompt`; published: 8 words, 40 orders for COCO; 10, 15 for
                  Flickr30k
    """

    slug = "sitta"
    engine = "solve"

    image_weights: str = "small"
    judge: str = ""
    solution: Solution = "least_squares"
    learned_from: Literal["captions", "vocabulary"] = "captions"
    penalty: float = 1.0
    rounds: int = 5
    floor: float = 1e-3
    templates: str = "eighty"
    folds: int = 0
    marks: bool = False
    within: bool = False
    shown: int = 8
    orders: int = 40
    nearest: int = 50
    order_seed: int = 101
    template: str = "A picture of"
    spaced: bool = True
    batch_size: int = 128
    epochs: float = 1.0
    warmup: float = 0.0
    round: int = field(default=0, metadata={"prepared": True})

    def __post_init__(self) -> None:
        if self.penalty < 0 or self.floor <= 0:
            raise ConfigError(f"penalty is {self.penalty}, floor {self.floor} (expected 0 or more, and more than 0)")
        if self.folds < 0 or self.folds == 1 or (self.folds and self.learned_from != "vocabulary"):
            raise ConfigError(f"folds is {self.folds} (expected 0, or 2 or more with learned_from='vocabulary')")
        if min(self.shown, self.orders, self.nearest) < 1 or self.rounds < 0:
            raise ConfigError(f"shown, orders, nearest are {self.shown}, {self.orders}, {self.nearest} (expected 1 or more)")

    @property
    def measured_by(self) -> str:
        return "word_ranking"

    # ------------------------------------------------------------ data

    def prepare(self, data: Dataset) -> Self:
        """Finds language model and image-text model, or makes the small ones."""
        prepared = super().prepare(data)
        prepared.joint()
        if self.judge and isinstance(prepared.images(), DualEncoder):
            raise ConfigError(
                f"judge is {self.judge!r}, but {self.image_weights!r} embeds texts itself (expected no judge, or an encoder of images only)"
            )
        if self.learned_from == "vocabulary" and not isinstance(prepared.images(), DualEncoder):
            raise ConfigError(
                f"image_weights is {self.image_weights!r}, which does not read words of a vocabulary (expected learned_from='captions', or "
                "a model of images and texts)"
            )
        return prepared

    def joint(self) -> PairEmbedder:
        """The image-text model that chooses among captions. Raises ConfigError where there is none."""
        opened = open_once(self.judge) if self.judge else self.trained_images()
        if not isinstance(opened, PairEmbedder) or not isinstance(opened.model, DualEncoder):
            name, value = ("judge", self.judge) if self.judge else ("image_weights", self.image_weights)
            more = "" if self.judge else ", or one that chooses among captions as judge"
            raise ConfigError(
                f"{name} is {value!r}, which does not read texts (expected a model of both, such as a run of clip or hf:{more})"
            )
        return opened

    def images(self) -> DualEncoder | ImageOnlyEncoder:
        """Image encoder: the module of `image_weights`, or its image tower where it has no text side."""
        module = self.trained_images().model
        if isinstance(module, DualEncoder):
            return module
        tower = getattr(module, "image_tower", None)
        if not isinstance(tower, Tower):
            raise ConfigError(
                f"image_weights is {self.image_weights!r}, which contains no image tower (expected timm:NAME/FILE, or a run of clip)"
            )
        return ImageOnlyEncoder(tower)

    @property
    def image_preprocess(self) -> Preprocess:
        """Preprocessing of the image encoder."""
        preprocess: Preprocess = self.trained_images().preprocess
        return preprocess

    @property
    def decode_size(self) -> int:
        """0, which asks for whole pictures, until `prepare` knows the encoder."""
        return self.image_preprocess.size if self.image_folder else 0

    def batch(self, draws: Draws) -> WordsBatch:
        preprocess = self.image_preprocess
        image_BCHW = preprocess([view(draw, preprocess.size, (1.0, 1.0), False) for draw in draws])
        rows = [self.tokens(positive_texts(draw.sample, self.language)) for draw in draws]
        token_BT = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        mask_BT = torch.zeros(token_BT.shape, dtype=torch.bool)
        for number, row in enumerate(rows):
            token_BT[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask_BT[number, : len(row)] = True
        return WordsBatch(image_BCHW, token_BT, mask_BT)

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """The tokens of the words of an image's captions, read as one text."""
        words = self.words()
        ids = words.pieces(" ".join(content_words(" ".join(texts))))
        ids = [*words.start_ids, *ids, *words.close_ids] if self.marks else ids
        unknown = getattr(words.tokenizer.inner.model, "unk_token", None)
        left_out = words.tokenizer.inner.token_to_id(unknown) if unknown else None
        return [token for token in ids if token != left_out]

    # ------------------------------------------------------------ model

    def model(self) -> SemanticMap:
        language = LanguageModel.from_folder(self.language_path)
        words = min(self.words().tokenizer.vocab_size, language.vocab_size)
        return SemanticMap(copy.deepcopy(self.images()), language, words=words)

    def features(self, model: SemanticMap, batch: WordsBatch) -> AlignmentDistances:
        aligned: AlignmentDistances = model(batch.image_BCHW, batch.token_BT, batch.token_mask_BT)
        return aligned

    def losses(self, features: AlignmentDistances, batch: WordsBatch) -> dict[str, Tensor]:
        """Mean squared distance over rows, which least squares minimise."""
        return {"distance": features.distance_B.sum() / features.count_B.sum().clamp_min(1)}

    def statistics(self, model: SemanticMap, batch: WordsBatch) -> dict[str, Tensor]:
        floor = self.floor if self.round else None
        return model.sums(batch.image_BCHW, batch.token_BT, batch.token_mask_BT, floor=floor)

    def solve(self, model: SemanticMap, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """Writes map and statistics. Logs the rows, and the share of the standardised tokens' variance that the map explains."""
        mean_D, std_D = image_statistics(totals)
        measured: dict[str, float] = {}
        if self.learned_from == "vocabulary":
            x_VD, y_VE = self._vocabulary(model)
            settings: dict[str, Any] = {"penalty": self.penalty, "rounds": self.rounds, "floor": self.floor}
            map_DE = solve_map_of_rows(x_VD, y_VE, self.solution, **settings)
            if self.folds:
                measured = fold_accuracies(x_VD, y_VE, self.solution, folds=self.folds, seed=self.order_seed, **settings)
            rows, explained = float(len(x_VD)), 1 - float((y_VE - x_VD @ map_DE).square().sum() / y_VE.square().sum())
        else:
            rows = float(totals["rows"])
            if not rows:
                raise ConfigError("no caption has a word to learn from (expected captions, or --learned-from vocabulary)")
            gram_DD, cross_DE = gram_matrices(totals, mean_D, std_D)
            map_DE = solve_map(gram_DD, cross_DE, self.solution, penalty=self.penalty)
            left = totals["yy"] - 2 * (map_DE * cross_DE).sum() + (map_DE * (gram_DD @ map_DE)).sum()
            explained = 1 - float(left / totals["yy"])
        model.map.map_DE.copy_(map_DE)
        model.map.mean_D.copy_(mean_D)
        model.map.std_D.copy_(std_D)
        return {"rows": rows, "explained": explained, **measured}

    def _vocabulary(self, model: SemanticMap) -> tuple[Tensor, Tensor]:
        """Standardised rows of every token: its text embedding, the mean over the templates, and its row of the table."""
        joint, inner, sentences = self.joint(), self.words().tokenizer.inner, templates(self.templates)
        embeddings = []
        for token in range(model.words):
            word = inner.id_to_token(token) if self.marks else inner.decode([token], skip_special_tokens=False).strip()
            embeddings.append(self._read(model, joint, [fill(sentence, word or "") for sentence in sentences]).mean(0))
        x_VD, y_VE = torch.stack(embeddings).double(), model.word_table().double()
        mean_D, std_D = statistics_of(x_VD)
        return (x_VD - mean_D) / std_D, y_VE

    @staticmethod
    def _read(model: SemanticMap, joint: PairEmbedder, texts: Sequence[str]) -> Tensor:
        device, blocks = model.map.mean_D.device, []
        for some in parts(texts, 256):
            encoded = joint.tokenizer.encode(list(some), joint.text_length)
            given = (torch.from_numpy(array).to(device) for array in (encoded.ids_BL, encoded.mask_BL))
            blocks.append(model.text_features(*given))
        return torch.cat(blocks)

    def stages(self) -> Sequence[Stage]:
        """The robust map sees the images once for every round; all others once."""
        if self.solution != "robust" or self.learned_from == "vocabulary" or self.round:
            return ()
        later = [Stage(f"round {number}", replace(self, round=number)) for number in range(1, self.rounds + 1)]
        return [Stage("procrustes", self), *later]

    def stored(self, name: str) -> bool:
        """Language model and image-text model are loaded again and not kept in checkpoints."""
        return name.startswith("map.")

    def deploy(self, model: SemanticMap) -> WordCaptioner:
        joint = self.joint()
        chooses = model.joint if isinstance(model.joint, DualEncoder) else copy.deepcopy(joint.model)
        judge = PairEmbedder(chooses, joint.preprocess, joint.tokenizer, joint.text_length, joint.name)
        prompt = WordPrompt(
            self.shown, self.orders, self.template, self.spaced, self.nearest, self.order_seed, self.marks, within=self.within
        )
        away = self.language_folder if self.given_language else ""
        return WordCaptioner(model, judge, self.words(), prompt, self.slug, images=self.image_preprocess, folder=away)

    @classmethod
    def tiny(cls) -> Self:
        """A small image-text model and a small language model, both made first; the map takes seconds."""
        return cls(pieces=512, shown=6, orders=8, nearest=12, template=":", spaced=False, templates="one")

    @classmethod
    def paper(cls) -> Self:
        """CLIP RN50x64 before LLaMA-7B, COCO: give the language model as `language_model`. A map of 1,024 x 4,096 weights."""
        return cls(image_weights="open_clip:RN50x64/openai", marks=True, start_behind=True, within=True)
