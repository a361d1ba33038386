"""BioViL: a language model of radiology reports, then an image encoder trained with one global contrastive loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Draws, Stage
from diptych.core.errors import ConfigError
from diptych.core.grouped_fields import grouped
from diptych.core.rows import Rows
from diptych.core.sample import Sample, Text
from diptych.data.articles.corpus import corpus_texts
from diptych.data.load.batch import TensorBatch, group_ids, pair_batch
from diptych.data.media.transforms import Preprocess
from diptych.data.text.reports.sections import sections, shuffled_sentences
from diptych.data.text.tokens.masked_words import mask_words
from diptych.data.text.tokens.whole_words import word_starts
from diptych.data.text.tokens.word_pieces import train_word_pieces
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.encoders.report_encoder import ReportEncoder, ReportFeatures
from diptych.models.pairs.phrase_embedder import PhraseEmbedder
from diptych.models.towers.headed import HeadedTower, headed
from diptych.models.towers.projected_map import Order, projected_map
from diptych.objectives.gather import gather_rows
from diptych.objectives.language.masked_words import masked_words
from diptych.objectives.pairs.info_nce import info_nce
from diptych.recipes._shared.pairs import EncoderRecipe, strings_of
from diptych.recipes._shared.presets import SMALL

Phase = Literal["all", "words", "sections", "pairs"]
TEXT_PHASES = ("words", "sections")


@dataclass(frozen=True, kw_only=True)
class ReportBatch(TensorBatch):
    """Texts of a step, and images in the phase of pairs.

    text_BL, text_mask_BL    the text that is embedded: findings, or the report beside its image
    other_BL, other_mask_BL  impressions; empty [B, 0] but while sections are matched
    both_B      bool: the report has both sections
    masked_BL, hidden_BL, position_BM, word_BM  the text with hidden words
    """

    text_BL: Rows[Tensor]
    text_mask_BL: Rows[Tensor]
    other_BL: Rows[Tensor]
    other_mask_BL: Rows[Tensor]
    both_B: Rows[Tensor]
    masked_BL: Rows[Tensor]
    hidden_BL: Rows[Tensor]
    position_BM: Rows[Tensor]
    word_BM: Rows[Tensor]
    group_B: Rows[Tensor]
    image_BCHW: Rows[Tensor] | None = None
    truncated: int = 0


@dataclass(frozen=True, kw_only=True)
class ReportPhases:
    """Steps and losses of the phases.

    words_share, sections_share  of the steps that hidden words alone and sections take, with phase "all"; pairs have the rest
    weight_words_beside  weight of hidden words beside sections, and beside pairs
    weight_pairs   of the contrast of images and reports
    tau_sections, tau_pairs  temperatures of both contrasts, fixed
    shuffled       sentences of a section are shuffled at each step, in the phases of sections and pairs
    dropout        of the text tower while sections are matched; elsewhere it is BERT's 0.1
    hidden         share of tokens that are hidden, in whole words
    read           text of a pair: "report" is findings and impression, or "findings" or "impression", the other where it is missing
    """

    words_share: float = 0.4
    sections_share: float = 0.3
    weight_words_beside: tuple[float, float] = (0.1, 1.0)
    weight_pairs: float = 0.5
    tau_sections: float = 0.5
    tau_pairs: float = 0.5
    shuffled: bool = True
    dropout: float = 0.25
    hidden: float = 0.15
    read: Literal["report", "findings", "impression"] = "report"

    def __post_init__(self) -> None:
        if min(self.words_share, self.sections_share) < 0 or self.words_share + self.sections_share >= 1:
            raise ConfigError(f"shares {self.words_share}, {self.sections_share} (expected 0 or more, below 1 together)")
        if min(self.tau_sections, self.tau_pairs) <= 0 or not 0 < self.hidden < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"tau_sections {self.tau_sections}, tau_pairs {self.tau_pairs}, hidden {self.hidden}, dropout {self.dropout} "
                "(expected above 0, above 0, and two shares below 1)"
            )
        if self.read not in ("report", "findings", "impression"):
            raise ConfigError(f"read is {self.read!r} (expected report | findings | impression)")


@grouped("phases")
@dataclass(frozen=True, kw_only=True)
class BioViL(EncoderRecipe[ReportEncoder, ReportBatch, Any]):
    """Making the Most of Text Semantics to Improve Biomedical Vision-Language Processing (Boecking et al., ECCV 2022, arXiv 2204.09817).
    Baseline: hidden words alone, and a pooled vector that is projected.

    Three phases. Hidden words of a corpus, from scratch, with a vocabulary of its own, whole words at a time (CXR-BERT). Then sections: the
    findings of a report are compared with all impressions of the batch, with sentences shuffled and more dropout, and hidden words go on
    beside it. Then pairs: one vector of an image and one of its report are compared, and hidden words go on, so that the language is not
    forgotten. Image side: a residual network whose map is projected place by place and then averaged, so that patches can be compared with
    phrases (`diptych eval RUN phrase_maps`). Texts lose their last full stop when they are embedded.

    The authors released models and inference, no training code: temperatures and weights are as remembered from the paper, batch, rate and
    the shares of the phases are ours, and images are cropped only. A report without both sections takes no part in the
    matching. The corpus of the first phase are the run's own reports. Released weights open by `biovil:TEXT-FOLDER#IMAGE-FILE`.

    phase        "all" in this order, or one of "words", "sections", "pairs" alone, each started from the one before by --init
    phases       shares, weights and temperatures (`ReportPhases`), whose fields are options like these
    order        "map" projects each place, then averages, as released; "pooled" averages first
    corpus       texts that the vocabulary is learned from: a text file, MEDLINE's .xml.gz, or data; "" takes the reports
    stretched    images are stretched from their least to their greatest value, then grey, as released
    """

    slug = "biovil"
    cacheable: ClassVar[bool] = False
    no_prefixes = "its patches are compared by the whole width"

    phase: Phase = "all"
    phases: ReportPhases = field(default_factory=ReportPhases)
    order: Order = "map"
    corpus: str = ""
    stretched: bool = True

    image_tower: str = "timm:resnet50"
    text_tower: str = "bert_b"
    width: int = 128
    image_size: int = 480
    edge: int = 32
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bilinear"
    crop_interpolation: Literal["bicubic", "bilinear"] = "bilinear"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    text_pooling: Literal["eot", "mean", "last", "cls", "pooler"] | None = "cls"
    text_length: int = 256
    tokenizer: str = "data"
    pieces: int = 30_522
    batch_size: int = 80
    epochs: float = 50.0
    lr: float = 2e-5
    warmup: float = 0.03

    def __post_init__(self) -> None:
        if self.phase not in ("all", "words", "sections", "pairs") or self.order not in ("map", "pooled"):
            raise ConfigError(
                f"phase {self.phase!r}, order {self.order!r} (expected all | words | sections | pairs, map | pooled)"
            )
        if self.corpus and self.tokenizer != "data":
            raise ConfigError(f"corpus is set and tokenizer is {self.tokenizer!r} (expected data: a vocabulary that is learned)")

    def prepare(self, data: Dataset) -> Self:
        """Learns word pieces from the corpus or the reports, where no tokenizer is given."""
        if self.tokenizer != "data" or self.vocabulary:
            return super().prepare(data)
        texts = corpus_texts(self.corpus) if self.corpus else strings_of(data, self.texts_of, language=self.spoken)
        return replace(self, vocabulary=train_word_pieces(texts, self.pieces).to_json())

    def stages(self) -> Sequence[Stage]:
        if self.phase != "all" or not self.steps:
            return ()
        shares = {"words": self.phases.words_share, "sections": self.phases.sections_share}
        shares["pairs"] = 1 - sum(shares.values())
        names: tuple[Literal["words", "sections", "pairs"], ...] = ("words", "sections", "pairs")
        return [Stage(name, replace(self, phase=name), shares[name]) for name in names if shares[name]]

    # ------------------------------------------------------------ model

    def model(self) -> ReportEncoder:
        image, text = self.towers()
        if not image.projects and not image.projection:
            image = projected_map(image, self.width, order=self.order)
        if not text.projects and not text.projection:
            text = headed(text, self.width, "text", kind="cxr_bert")
        encoder = DualEncoder(image, text, width=self.width, scale=1 / self.phases.tau_pairs)
        made = ReportEncoder(encoder, mask_id=self.mask_id, dropout=self.phases.dropout if self.phase == "sections" else None)
        encoder.image_tower.requires_grad_(self.phase not in TEXT_PHASES)
        if self.phase == "words" and isinstance(encoder.text_tower, HeadedTower):
            encoder.text_tower.head.requires_grad_(False)
        return made

    @property
    def mask_id(self) -> int | None:
        """The vocabulary's own token for hidden words; None where it has none."""
        token_id = self.words().inner.token_to_id("[MASK]")
        return None if token_id is None else int(token_id)

    @property
    def deployed_preprocess(self) -> Preprocess:
        return replace(super().deployed_preprocess, levels="stretched" if self.stretched else "as_is")

    # ------------------------------------------------------------ a step

    @property
    def decode_size(self) -> int | None:  # type: ignore[override]  # the contract allows None: no picture is decoded
        return None if self.phase in TEXT_PHASES else super().decode_size

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        """Text phases decode no picture."""
        return {} if self.phase in TEXT_PHASES else super().load(sample, rng)

    def batch(self, draws: Draws) -> ReportBatch:
        """The report first, then shuffled sentences, then crop and flip, then hidden words, all from the draw's own generator."""
        first: list[str] = []
        second: list[str] = []
        for draw in draws:
            report = self.text_draw(draw, self.language).string
            one, other = self.sides(report, draw.rng)
            first.append(one)
            second.append(other)
        words = self.words()
        encoded = words.encode(first, self.text_length)
        length = self.text_length if self.phase == "sections" else 0
        others = words.encode(second, length) if length else None
        ids_BL, mask_BL = torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL)
        images = None
        if self.phase in ("pairs", "all"):
            images = pair_batch(
                draws,
                preprocess=self.preprocess,
                tokenizer=words,
                text_length=self.text_length,
                crop_scale=self.crop,
                flip=self.flip,
                sides=self.flip_sides,
                language=self.language,
                choose=_chosen(first),
                form=self.crop_form,
            )
            ids_BL, mask_BL = images.text_BL, images.text_mask_BL
        masked = mask_words(
            ids_BL,
            mask_BL,
            [draw.rng for draw in draws],
            special=sorted({words.pad_id, *words.prefix, *words.suffix}),
            vocab_size=words.vocab_size,
            share=self.phases.hidden,
            starts_BL=torch.from_numpy(word_starts(words, ids_BL.numpy())),
        )
        empty_B0 = ids_BL[:, :0]
        return ReportBatch(
            text_BL=ids_BL,
            text_mask_BL=mask_BL,
            other_BL=torch.from_numpy(others.ids_BL) if others else empty_B0,
            other_mask_BL=torch.from_numpy(others.mask_BL) if others else empty_B0.bool(),
            both_B=torch.tensor([bool(one and other) for one, other in zip(first, second, strict=True)]),
            masked_BL=masked.ids_BL,
            hidden_BL=masked.hidden_BL,
            position_BM=masked.place_BM,
            word_BM=masked.word_BM,
            group_B=group_ids(draws),
            image_BCHW=None if images is None else images.image_BCHW,
            truncated=encoded.truncated + (others.truncated if others else 0),
        )

    def sides(self, report: str, rng: np.random.Generator) -> tuple[str, str]:
        """Texts of a step: findings and impression while sections are matched, "" for one that is missing; the report's text and ""
        otherwise."""
        parts = sections(report)
        named = {name: parts.get(name, "") for name in ("findings", "impression")}
        if self.phase == "words":
            return " ".join(report.split()), ""
        if self.phases.shuffled:
            named = {name: shuffled_sentences(text, rng) for name, text in named.items()}
        if self.phase == "sections":
            return named["findings"], named["impression"]
        if not any(named.values()):
            whole = " ".join(report.split())
            return (shuffled_sentences(whole, rng) if self.phases.shuffled else whole), ""
        if self.phases.read == "report":
            return " ".join(filter(None, named.values())), ""
        other = "findings" if self.phases.read == "impression" else "impression"
        return named[self.phases.read] or named[other], ""

    def features(self, model: ReportEncoder, batch: ReportBatch) -> ReportFeatures:
        texts: tuple[tuple[Tensor, Tensor], ...] = ()
        if self.phase == "sections":
            texts = ((batch.text_BL, batch.text_mask_BL), (batch.other_BL, batch.other_mask_BL))
        elif self.phase != "words":
            texts = ((batch.text_BL, batch.text_mask_BL),)
        hidden = (batch.masked_BL, batch.hidden_BL, batch.position_BM, batch.text_mask_BL)
        outputs: ReportFeatures = model(*hidden, texts, batch.image_BCHW)
        return outputs

    def losses(self, features: ReportFeatures, batch: ReportBatch) -> dict[str, Tensor]:
        words = masked_words(features.word_NMV, batch.word_BM)
        beside_sections, beside_pairs = self.phases.weight_words_beside
        if self.phase == "words":
            return {"words": words}
        assert features.text_ND is not None
        if self.phase == "sections":
            assert features.other_ND is not None
            matching = section_matching(
                features.text_ND,
                features.other_ND,
                batch.both_B,
                tau=self.phases.tau_sections,
                group_B=batch.group_B,
                same=self.same_group,
            )
            return {"sections": matching, "words": beside_sections * words}
        assert features.image_ND is not None
        pairs = self.contrast(features.image_ND, features.text_ND, scale=features.scale, group_B=batch.group_B)
        return {"pairs": self.phases.weight_pairs * pairs, "words": beside_pairs * words}

    def metrics(self, features: ReportFeatures, batch: ReportBatch) -> dict[str, Tensor]:
        asked_NM = batch.word_BM >= 0
        right_NM = (features.word_NMV.argmax(-1) == batch.word_BM) & asked_NM
        return {"words_right": right_NM.sum() / asked_NM.sum().clamp(min=1)}

    def after_update(self, model: ReportEncoder, features: ReportFeatures, batch: ReportBatch, progress: float) -> None:
        """The temperature is fixed."""

    def deploy(self, model: ReportEncoder) -> PhraseEmbedder:
        return PhraseEmbedder(model.encoder, self.deployed_preprocess, self.words(), self.text_length, name=self.slug)

    @classmethod
    def tiny(cls) -> Self:
        """A small network over 64 pixels and a BERT of two layers."""
        own: dict[str, Any] = {
            **SMALL,
            "image_tower": "convnet_tiny",
            "text_tower": "bert_tiny",
            "text_length": 64,
            "batch_size": 64,
            "width": 64,
            "pieces": 2048,
        }
        return cls(**own, edge=0, crop=(0.8, 1.0))

    @classmethod
    def paper(cls) -> Self:
        """ResNet-50 over 480 pixels out of 512 and CXR-BERT with 30,522 pieces, whose vocabulary is learned from the corpus."""
        return cls(same_group="negative", decoding="whole", text_length=512)


def section_matching(
    findings_ND: Tensor,
    impression_ND: Tensor,
    both_N: Tensor,
    *,
    tau: float = 0.5,
    group_B: Tensor | None = None,
    same: Literal["mask", "positive", "negative"] = "negative",
) -> Tensor:
    """Symmetric InfoNCE between the sections of a report, reports of the whole batch as negatives; a mean over reports with both.

    both_N  bool: False leaves a report out, as anchor and as negative, since one of its sections is empty
    """
    everywhere_M = gather_rows(both_N)
    keep_NM = both_N[:, None] & everywhere_M[None, :]
    weight_N = both_N.to(findings_ND.dtype) * (len(everywhere_M) / everywhere_M.sum().clamp(min=1))
    loss, _ = info_nce(
        findings_ND, impression_ND, scale=1 / tau, keep_NM=keep_NM, weight_N=weight_N, group_N=group_B, group_M=group_B, same=same
    )
    return loss


def _chosen(texts: Sequence[str]) -> Any:
    """Texts that were drawn before, one after the other."""
    drawn = iter(texts)

    def choose(draw: Draw, language: str) -> Text:
        return Text(next(drawn), language)

    return choose
