"""LexLIP: images and texts as sparse weights over the words of a vocabulary, for an inverted index."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from diptych.core.contracts import Dataset, Draws, Hook, Optimiser, Rule, Run, Stage
from diptych.core.errors import ConfigError, DataError
from diptych.core.grouped_fields import grouped
from diptych.data.load.batch import PairBatch
from diptych.data.load.restored_batch import RestoredBatch
from diptych.data.media.augment.rand_augment import rand_augment
from diptych.data.text.tokens.masked_words import MaskedWords, mask_words
from diptych.data.text.tokens.whole_words import empty_text_reasons, unknown_share, word_starts
from diptych.models.lexlip.bottleneck import BottleneckEncoder, BottleneckOutput
from diptych.models.lexlip.lexical_embedder import LexicalModel
from diptych.models.lexlip.lexical_encoder import LexicalEncoder
from diptych.models.lexlip.momentum import MomentumEncoder, MomentumOutput
from diptych.models.lexlip.word_head import adopt_head_, packaged_head
from diptych.models.towers.beit import BEiT, Other
from diptych.models.towers.dense_vit import DenseViT
from diptych.objectives.gather import all_gather
from diptych.objectives.language.masked_words import masked_words
from diptych.objectives.pairs.queue_contrast import queue_contrast
from diptych.objectives.pairs.sparsity import Over, flops
from diptych.recipes._shared.lexical_config import BottleneckConfig, MomentumConfig
from diptych.recipes._shared.pairs import PairRecipe, strings_of
from diptych.recipes._shared.presets import SMALL_CLIP
from diptych.train.weights import copy_matching

LexicalOutput = BottleneckOutput | MomentumOutput
PROBED_ROWS = 2000
"""Rows, evenly spaced, whose texts show whether the vocabulary knows their language."""


RELEASED_DECAY = (
    Rule(r"image_tower\.blocks\.\d+\.bias\.table_RN$", decay=False),
    Rule(r"image_tower\.(class_D|blocks\.\d+\.(norm_\d\.weight|scale_\d_D))$", decay=True),
)
"""The release spares what has "bias" or a norm's name as it expects it in its own; those in BEiT's blocks have others."""


@grouped("restoring", "second_phase")
@dataclass(frozen=True, kw_only=True)
class LexLIP(PairRecipe[nn.Module, PairBatch, LexicalOutput]):
    """LexLIP: Lexicon-Bottlenecked Language-Image Pre-Training for Large-Scale Image-Text Sparse Retrieval (Luo et al., ICCV 2023, arXiv
    2302.02908). Baseline: `clip`, whose vectors need a dense index.

    Both towers end in BERT's word head: the logit of a word, its highest over all places, above zero, as log(1 + it), is the word's
    weight. What is compared is the vector of all weights at norm 1, at a fixed temperature; FLOPS regularisation asks for few words that
    differ between items. Two phases. In the first the words are a bottleneck: softmax over them, times the table of word vectors, is
    all that a weak decoder gets beside a caption of which half is hidden, once from the picture and once from the text, whose own encoder
    guesses words, too; items of the batch are contrasted. In the second a momentum model says what the partner is, and its vectors of
    earlier batches, in queues, are the only negatives. The deployed model gives weights by word (`lexicalise_images`), which
    `diptych index build --kind lexical` searches, and their vectors at norm 1, which every task for embedders takes.

    Words are those of the vocabulary in use: learned from the data (`tokenizer="data"`), CLIP's, or a folder's. `text_tower="hf:FOLDER"`
    of a masked language model (BERT) brings its word head along, from which both heads start.

    We depart in these points: terms of hidden words are means over the global batch (released: over each process, then over processes);
    the smaller size is drawn a step for all processes (released: each for itself); a queue wraps (released: of a batch that
    reaches beyond its end the rest is dropped, which the published sizes never do); and in the second phase a step is one batch, where the
    release reads it in parts (720 of 2,880), after each of which momentum model and queues move.

    bottleneck     share of the steps that the first phase has; 1 leaves out the second, 0 the first
    restoring      hidden words and the decoder that guesses them (`BottleneckConfig`)
    second_phase   the momentum model and its queues (`MomentumConfig`). The fields of both are options like these
    tau            temperature, fixed
    sparsity       weight of the FLOPS term of either tower, on vectors of norm 1
    sparsity_over  its mean is over the items of the whole "batch", or of each "process" (released)
    class_token    the image head reads the tower's pooled vector too, as one place more (released: the class token)
    small_images   in the second phase half of the steps, by chance, see images of half the size (towers beit_* and dense_*)
    other_sizes    what BEiT's position biases do at another size than they are made for: see `RelativeBias`; "released" gives patches the
                   biases of others
    bias_size      images that they are made for, in pixels; 0 takes image_size
    adam           AdamW as the "transformers" of the release has it (`CorrectedAdamW`), or as "torch" does
    augment        "rand" changes pictures by RandAugment, as published: not for texts that name colours
    decay          weight decay by the names of the release ("released"): also on the image tower's class token, scales of branches and
                   gains of the norms within blocks, and not on its tables of positions; or on "matrices" alone
    terms          words of each item that the deployed model keeps, the heaviest; 0 keeps all
    """

    slug = "lexlip"
    presets = ("tiny", "paper", "paper_tuned")
    no_prefixes = "its features are weights of words, whose order means nothing"

    bottleneck: float = 0.5
    restoring: BottleneckConfig = field(default_factory=BottleneckConfig)
    second_phase: MomentumConfig = field(default_factory=MomentumConfig)
    tau: float = 0.05
    sparsity: float = 0.002
    sparsity_over: Over = "batch"
    class_token: bool = True
    small_images: bool = False
    other_sizes: Other = "resampled"
    bias_size: int = 0
    augment: Literal["none", "rand"] = "none"
    decay: Literal["released", "matrices"] = "released"
    adam: Literal["torch", "transformers"] = "transformers"
    terms: int = 0

    image_tower: str = "beit_b16"
    text_tower: str = "bert_b"
    batch_size: int = 800
    epochs: float = 20.0
    lr: float = 5e-5
    warmup: float = 0.1
    warmup_from: float | None = 0.0
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    text_length: int = 40
    crop: tuple[float, float] = (1.0, 1.0)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ConfigError(f"tau is {self.tau} (expected above 0, at most 1)")
        if not 0 <= self.bottleneck <= 1:
            raise ConfigError(f"bottleneck is {self.bottleneck} (expected a share of the steps)")
        if self.augment not in ("none", "rand"):
            raise ConfigError(f"augment is {self.augment!r} (expected none | rand)")
        if self.same_group == "positive":
            raise ConfigError("same_group positive: a queue has no further positives (expected mask or negative)")
        second = self.second_phase
        if self.bottleneck < 1 and (largest := second.momentum_batch or self.batch_size) > second.queue:
            raise ConfigError(
                f"a batch of {largest} is larger than the queue of {second.queue}: keys would leave the queue in the step that adds them "
                f"(expected --queue {largest} or more)"
            )

    # ------------------------------------------------------------ what depends on the data, and on weights

    def started(self, model: Any) -> Self:
        """Of a model of this recipe towers and vocabulary; the size of images stays the recipe's, where the tower reads several."""
        if not isinstance(model, LexicalModel):
            return super().started(model)
        sides = {"image": model.model.image_tower, "text": model.model.text_tower}
        options = {side: {key: value for key, value in tower.spec.items() if key != "name"} for side, tower in sides.items()}
        free, preprocess = isinstance(sides["image"], BEiT | DenseViT), model.preprocess
        return replace(
            self,
            image_tower=sides["image"].spec["name"],
            text_tower=sides["text"].spec["name"],
            image_size=self.image_size if free else preprocess.size,
            text_length=model.text_length,
            tokenizer="weights",
            vocabulary=model.tokenizer.to_json(),
            mean=preprocess.mean,
            std=preprocess.std,
            class_token=model.model.class_token,
            towers_from=json.dumps({side: {"options": given} for side, given in options.items()}),
        )

    def prepare(self, data: Dataset) -> Self:
        """Learns the vocabulary, or refuses one that does not know the language of the texts; counts the steps of both phases."""
        prepared = super().prepare(data)
        texts = list(strings_of(data, self.texts_of, stride=max(1, len(data) // PROBED_ROWS), language=self.language))
        if (share := unknown_share(prepared.words(), texts, self.text_length)) > 0.5:
            raise DataError(
                f"{share:.0%} of the tokens of '{data.name}' are not words of the vocabulary '{self.tokenizer}'",
                field="texts",
                expected="--tokenizer data, a vocabulary of the texts' language, or another --language",
            )
        if prepared.second_phase.momentum_steps and not prepared.steps:
            first = math.ceil(prepared.epochs * len(data) / prepared.batch_size)
            total = first + prepared.second_phase.momentum_steps
            prepared = replace(prepared, steps=total, bottleneck=first / total)
        return prepared

    def stages(self) -> Sequence[Stage]:
        later = {f.name: getattr(self, f.name) for f in fields(self)}
        second = MomentumPhase(**{**later, "batch_size": self.second_phase.momentum_batch or self.batch_size})
        stages = [Stage("bottleneck", self, share=self.bottleneck)] if self.bottleneck else []
        if self.bottleneck < 1:
            carry = partial(_carry, own=self.second_phase.momentum_start == "fresh")
            stages.append(Stage("momentum", second, share=1 - self.bottleneck, carry=carry))
        return stages

    def hooks(self) -> Sequence[Hook]:
        return [_MomentumFromStart(own=self.second_phase.momentum_start == "fresh")]

    # ------------------------------------------------------------ the first phase

    def image_options(self) -> dict[str, Any]:
        """BEiT's position biases are made for `bias_size`, where no weights say otherwise."""
        options = super().image_options()
        if not self.image_tower.startswith("beit"):
            return options
        size = options["image_size"] if "image" in self._given else self.bias_size or self.image_size
        return {**options, "image_size": size, "other_sizes": self.other_sizes}

    def encoder(self) -> LexicalEncoder:
        """Towers and heads; of a folder of transformers the word head, too, where it has one."""
        words = self.words()
        if not words.prefix:
            raise ConfigError(
                "the vocabulary has no start token, in whose place the bottleneck stands (expected one that begins texts)"
            )
        encoder = LexicalEncoder(*self.towers(), class_token=self.class_token)
        if encoder.width < words.vocab_size:
            raise ConfigError(
                f"the text tower reads {encoder.width:,} words and the vocabulary has {words.vocab_size:,} (expected the tower's own)"
            )
        if self.text_tower.startswith("hf:") and (given := packaged_head(self.text_tower.removeprefix("hf:"))):
            adopt_head_(encoder.text_head, given)
            adopt_head_(encoder.image_head, given)
        return encoder

    def model(self) -> nn.Module:
        return BottleneckEncoder(
            self.encoder(),
            layers=self.restoring.decoder_layers,
            heads=self.restoring.decoder_heads,
            dropout=self.restoring.decoder_dropout,
            mask_token=self.mask_id is not None,
        )

    @property
    def mask_id(self) -> int | None:
        """The vocabulary's own token for hidden words; None where it has none, and a learned vector stands in."""
        token_id = self.words().inner.token_to_id("[MASK]")
        return None if token_id is None else int(token_id)

    def batch(self, draws: Draws) -> PairBatch:
        """The text, crop and flip first, then what is hidden from the encoder, then from the decoder, all from the draw's own generator."""
        pairs = self.view_batch(draws)
        own, other = (self._hidden(draws, pairs, share) for share in (self.restoring.hidden_own, self.restoring.hidden_other))
        return RestoredBatch(
            **{f.name: getattr(pairs, f.name) for f in fields(pairs)},
            own_BL=own.ids_BL,
            own_hidden_BL=own.hidden_BL,
            own_place_BM=own.place_BM,
            own_word_BM=own.word_BM,
            other_BL=other.ids_BL,
            other_hidden_BL=other.hidden_BL,
            other_place_BM=other.place_BM,
            other_word_BM=other.word_BM,
        )

    def view_batch(self, draws: Draws) -> PairBatch:
        """One text and one view of every draw. A text without a token is refused."""
        pairs = self.pair_batch(draws, rand_augment if self.augment == "rand" else None)
        problems = empty_text_reasons(self.words(), pairs.text_BL.numpy(), pairs.text_mask_BL.numpy())
        for draw, problem in zip(draws, problems, strict=True):
            if problem == "has no token":
                raise DataError(
                    f"a text of sample '{draw.sample.uid}' {problem}", field="texts", expected="a word at least in every text"
                )
        return pairs

    def _hidden(self, draws: Draws, pairs: PairBatch, share: float) -> MaskedWords:
        words = self.words()
        starts_BL = torch.from_numpy(word_starts(words, pairs.text_BL.numpy())) if self.restoring.whole_words else None
        masked = mask_words(
            pairs.text_BL,
            pairs.text_mask_BL,
            [draw.rng for draw in draws],
            special=sorted({words.pad_id, *words.prefix, *words.suffix}),
            vocab_size=words.vocab_size,
            share=share,
            starts_BL=starts_BL,
            padding_counts=self.restoring.padding_counts,
        )
        if self.mask_id is None:
            return masked
        return replace(masked, ids_BL=masked.ids_BL.masked_fill(masked.hidden_BL, self.mask_id))

    def features(self, model: nn.Module, batch: PairBatch) -> LexicalOutput:
        assert isinstance(batch, RestoredBatch)
        outputs: BottleneckOutput = model(
            batch.image_BCHW,
            batch.text_BL,
            batch.text_mask_BL,
            (batch.own_BL, batch.own_hidden_BL, batch.own_place_BM),
            (batch.other_BL, batch.other_hidden_BL, batch.other_place_BM),
        )
        return outputs

    def losses(self, features: LexicalOutput, batch: PairBatch) -> dict[str, Tensor]:
        assert isinstance(features, BottleneckOutput)
        assert isinstance(batch, RestoredBatch)
        scale = features.image_NV.new_full((1,), 1 / self.tau)
        return {
            "contrastive": self.contrast(features.image_NV, features.text_NV, scale=scale, group_B=batch.group_B),
            **self.sparse(features),
            "own_words": self.restoring.weight_words * masked_words(features.own_word_NMV, batch.own_word_BM),
            "words_from_image": self.restoring.weight_words * masked_words(features.image_word_NJV, batch.other_word_BM),
            "words_from_text": self.restoring.weight_words * masked_words(features.text_word_NJV, batch.other_word_BM),
        }

    def sparse(self, features: LexicalOutput) -> dict[str, Tensor]:
        both = (flops(side_NV, over=self.sparsity_over) for side_NV in (features.image_NV, features.text_NV))
        return {"sparsity": self.sparsity * torch.stack(list(both)).sum()}

    def metrics(self, features: LexicalOutput, batch: PairBatch) -> dict[str, Tensor]:
        """Mean number of words with a positive weight, of an image and of a text."""
        sides = {"image": features.image_NV, "text": features.text_NV}
        return {f"words_of_{name}": (side_NV > 0).sum(1).double().mean() for name, side_NV in sides.items()}

    def optimiser(self) -> Optimiser:
        chosen = replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8, schedule="linear", warmup_from=self.warmup_from)
        chosen = replace(chosen, adam=self.adam, warmup_rounds="down")
        return replace(chosen, rules=RELEASED_DECAY) if self.decay == "released" else chosen

    def deploy(self, model: nn.Module) -> LexicalModel:
        encoder = model.encoder
        assert isinstance(encoder, LexicalEncoder)
        return LexicalModel(encoder, self.preprocess, self.words(), self.text_length, name=self.slug, terms=self.terms)

    @classmethod
    def tiny(cls) -> Self:
        """The budget of `clip`'s, an image tower of 16 patches that reads two sizes, and the vocabulary of the data."""
        same = {**SMALL_CLIP, "image_tower": "beit_tiny", "mean": (0.5,) * 3, "std": (0.5,) * 3}
        return cls(
            **same,
            restoring=BottleneckConfig(decoder_heads=3, decoder_dropout=0.0),
            second_phase=MomentumConfig(queue=1024),
            small_images=True,
            warmup_from=None,
            decay="matrices",
            adam="torch",
        )

    @classmethod
    def paper(cls) -> Self:
        """BEiT-B/16 and BERT-B, 20 epochs at batch 800, then 40,000 steps at batch 2,880, on CC3M, SBU, COCO and Flickr30k. The
        vocabulary is CLIP's, since BERT's word pieces are not at hand without a download; `--tokenizer FOLDER` takes them. The released
        scripts run eight processes, which in the first phase gather features without gradient."""
        return cls(
            same_group="negative",
            restoring=BottleneckConfig(padding_counts=True),
            second_phase=MomentumConfig(
                momentum_steps=40_000,
                momentum_batch=2880,
                momentum_start="fresh",
                momentum_dropout=True,
                momentum_behind=True,
                queue_start="random",
            ),
            small_images=True,
            feature_gradient=1 / 8,
            decoding="whole",
            sparsity_over="process",
            other_sizes="released",
            augment="rand",
        )

    @classmethod
    def paper_tuned(cls) -> Self:
        """Published fine-tuning on COCO or Flickr30k, from a finished run (`--init RUN`): the second phase alone, images of 384 pixels, 10
        epochs at batch 1,536. Position biases of 224 pixels are interpolated. The release goes on with the momentum model and the
        queues of the run before; here that model begins as the weights themselves, and queues at random."""
        tuned: dict[str, Any] = {"image_size": 384, "bias_size": 224, "batch_size": 1536, "epochs": 10.0, "bottleneck": 0.0}
        paper = cls.paper()
        second = replace(paper.second_phase, momentum_start="model", momentum_steps=0, momentum_batch=0)
        return replace(paper, second_phase=second, small_images=False, **tuned)


@grouped("restoring", "second_phase")
@dataclass(frozen=True, kw_only=True)
class MomentumPhase(LexLIP):
    """LexLIP's second phase, a stage of its runs."""

    def model(self) -> nn.Module:
        module = MomentumEncoder(
            self.encoder(),
            queue=self.second_phase.queue,
            start=self.second_phase.queue_start,
            dropout=self.second_phase.momentum_dropout,
            behind=self.second_phase.momentum_behind,
        )
        if self.small_images and not isinstance(module.encoder.image_tower, BEiT | DenseViT):
            raise ConfigError(
                f"image tower {self.image_tower!r} reads one size (expected small_images False, or beit_* or dense_*)"
            )
        return module

    def batch(self, draws: Draws) -> PairBatch:
        """By chance of the step, images of half the size."""
        small = self.small_images and draws.rng.random() < 0.5
        sized = replace(self, image_size=self.image_size // 2) if small else self
        return sized.view_batch(draws)

    def features(self, model: nn.Module, batch: PairBatch) -> LexicalOutput:
        outputs: MomentumOutput = model(batch.image_BCHW, batch.text_BL, batch.text_mask_BL)
        return outputs

    def losses(self, features: LexicalOutput, batch: PairBatch) -> dict[str, Tensor]:
        assert isinstance(features, MomentumOutput)
        assert self.same_group != "positive"
        sides = (
            (features.image_NV, features.key_text_NV, features.image_queue_NK),
            (features.text_NV, features.key_image_NV, features.text_queue_NK),
        )
        both = [
            queue_contrast(*side, scale=1 / self.tau, group_N=batch.group_B, group_K=features.queue_group_K, same=self.same_group)
            for side in sides
        ]
        return {"momentum": torch.stack(both).mean(), **self.sparse(features)}

    def after_update(self, model: nn.Module, features: LexicalOutput, batch: PairBatch, progress: float) -> None:
        assert isinstance(model, MomentumEncoder)
        assert isinstance(features, MomentumOutput)
        model.follow_(self.second_phase.momentum)
        keys = (features.key_image_NV, features.key_text_NV, batch.group_B)
        model.remember_(*(all_gather(rows).flatten(0, 1) for rows in keys))


class _MomentumFromStart(Hook):
    """Of a run without a first phase: the copy that is taken when a model is built knows nothing of the weights of `--init`."""

    name = "momentum_from_start"

    def __init__(self, *, own: bool) -> None:
        self.own = own

    def on_stage(self, run: Run, stage: Stage) -> None:
        if run.step == 0 and isinstance(run.model, MomentumEncoder):
            run.model.begin_(own=self.own)


def _carry(before: nn.Module, after: nn.Module, *, own: bool) -> None:
    copy_matching(before, after)
    if isinstance(after, MomentumEncoder):
        after.begin_(own=own)
