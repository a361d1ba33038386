"""BiomedCLIP: CLIP on figures of biomedical articles and their captions, with a long context, the domain's vocabulary and a text head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from torch import Tensor

from diptych.core.contracts import Dataset
from diptych.core.errors import ConfigError
from diptych.data.articles.corpus import corpus_texts
from diptych.data.load.batch import PairBatch
from diptych.data.text.tokens.word_pieces import train_word_pieces
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.headed import headed
from diptych.models.towers.outputs import PairFeatures
from diptych.recipes._shared.pairs import DualEncoderRecipe, strings_of
from diptych.recipes._shared.presets import SMALL
from diptych.recipes._shared.texts.vocabulary import learned_vocabulary


@dataclass(frozen=True, kw_only=True)
class BiomedCLIP(DualEncoderRecipe):
    """A Multimodal Biomedical Foundation Model Trained from Fifteen Million Image-Text Pairs (Zhang et al., 2023, arXiv 2303.00915).
    Baseline: `clip`.

    CLIP's loss on figure and caption of articles in PubMed Central (`diptych data build ARTICLES OUT` reads them, `diptych curate
    pubmed` sorts them), with three changes: the text tower is a BERT whose vocabulary and weights are the domain's, read at its first
    token; it reads 256 tokens in place of 77, since captions of figures are long; and its vector goes into the joint space by two layers
    (Linear, GELU, Linear, no bias). The image tower is a ViT-B/16 with a plain projection.

    Published starts: PubMedBERT (`--text-tower hf:FOLDER --tokenizer FOLDER`), and image weights of ImageNet (`--init timm:...`). The
    released model opens and is tuned as `open_clip:FOLDER`. No training code was released: batch, rate, epochs and warm-up are those
    reported by others who name the paper, not read in it. We depart as `clip` does: figures of one article are no negatives of each
    other (`same_group="mask"`); and the vocabulary is learned from the data, where no folder gives PubMedBERT's.

    text_head    "mlp" as published, or "linear" as `clip` projects; of weights that a run starts from, theirs
    learned_pieces  the kind of vocabulary with `tokenizer="data"`: "words" (WordPiece, as BERT's) or "bytes" (byte pairs, as `clip` has)
    corpus       texts that the vocabulary is learned from: a text file, MEDLINE's .xml.gz, or data; "" takes the captions
    """

    slug = "biomedclip"

    text_head: Literal["mlp", "linear"] = "mlp"
    learned_pieces: Literal["words", "bytes"] = "words"
    corpus: str = ""

    image_tower: str = "timm:vit_base_patch16_224"
    text_tower: str = "bert_b"
    text_length: int = 256
    tokenizer: str = "data"
    pieces: int = 30_522
    batch_size: int = 4096
    epochs: float = 32.0
    lr: float = 5e-4
    warmup: float = 2000.0
    weight_decay: float = 0.2

    def __post_init__(self) -> None:
        if self.text_head not in ("mlp", "linear") or self.learned_pieces not in ("words", "bytes"):
            raise ConfigError(
                f"text_head is {self.text_head!r}, learned_pieces {self.learned_pieces!r} (expected mlp | linear, words | bytes)"
            )
        if self.corpus and self.tokenizer != "data":
            raise ConfigError(f"corpus is set and tokenizer is {self.tokenizer!r} (expected data: a vocabulary that is learned)")

    def prepare(self, data: Dataset) -> Self:
        """Learns the vocabulary from the corpus or the captions, where no tokenizer is given."""
        if self.tokenizer != "data" or self.vocabulary or (self.learned_pieces == "bytes" and not self.corpus):
            return super().prepare(data)
        texts = corpus_texts(self.corpus) if self.corpus else strings_of(data, self.texts_of, language=self.spoken)
        if self.learned_pieces == "words":
            return replace(self, vocabulary=train_word_pieces(texts, self.pieces).to_json())
        return replace(self, vocabulary=learned_vocabulary(texts, self.pieces))

    def model(self) -> DualEncoder:
        image, text = self.towers()
        if self.text_head == "mlp" and not text.projection:
            text = headed(text, self.width, "text", kind="mlp")
        return DualEncoder(image, text, width=self.width)

    def losses(self, features: PairFeatures, batch: PairBatch) -> dict[str, Tensor]:
        return {"contrastive": self.contrast(features.image_ND, features.text_ND, scale=features.scale, group_B=batch.group_B)}

    @classmethod
    def tiny(cls) -> Self:
        """64 pixels and a BERT of two layers that reads 128 tokens: minutes on two cores."""
        return cls(**{**SMALL, "text_tower": "bert_tiny", "text_length": 128, "batch_size": 128})

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/16 and BERT-B, 256 tokens: 195,902,721 parameters with 30,522 pieces."""
        return cls(same_group="negative", flip_sides="ignore", decoding="whole")
