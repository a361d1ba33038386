"""Mix: texts, loss, gates, prefixes and queues of the recipes over pairs, each a field of one recipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draws
from diptych.core.errors import ConfigError, DataError
from diptych.core.own_recipes import is_recipe_file, load_trusted_object
from diptych.core.rows import Rows
from diptych.core.sample import Sample, Text
from diptych.data.load.batch import PairBatch, TripletBatch
from diptych.data.text.captions.text_sets import TextSetBatch, caption_table, sub_captions, text_set_batch
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.encoders.mix_encoder import MixEncoder, MixSets
from diptych.objectives.chosen_loss import LOSS_NAMES, ExtraKeys, chosen_loss
from diptych.objectives.gather import all_gather, share_of_gradient
from diptych.objectives.pairs.agreement_gates import agreement_gates, agreements, initial_means, updated_means
from diptych.objectives.pairs.nested import reduce_terms, truncate
from diptych.objectives.pairs.patch_grouping import patch_grouping
from diptych.recipes._shared.mixed_parts import MixGates, MixPrefixes, MixTexts
from diptych.recipes._shared.pairs import positive_texts
from diptych.recipes._shared.prefixes import truncate_embeddings
from diptych.recipes._shared.presets import PAPER_CLIP, SMALL_CLIP
from diptych.recipes._shared.texts.two_texts import TwoTextRecipe

PROBED_ROWS = 200
"""Rows that `prepare` looks at, evenly spaced, for an image with more than one sentence."""


@dataclass(frozen=True)
class MixBatch(TextSetBatch):
    """Images with K texts each; `strings` where there is one text an image, for teachers with another tokenizer."""

    strings: Rows[tuple[str, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class Mix(TwoTextRecipe[MixEncoder, MixBatch, MixSets]):
    """Parts of the recipes over pairs in any combination that makes sense. Baseline: `clip`, which it is with its defaults, to the bit.

    Each part is what its own recipe does: texts as `clip`, `laclip`, `dreamlip` or `alip` read them, the loss of `clip`, `align` or
    `siglip`, the gates of `alip`, the prefixes of `mrl`, the patch grouping of `dreamlip`. A queue keeps features of earlier steps as
    further negatives. Whatever is trained, a plain dual encoder is deployed. What cannot go together is refused with the reason.

    Gates compare a raw text with captions. With policy "sentences" the raw text is the first one (`raw_first`) and every sentence a
    caption of it: a sentence is weighted by its own gates, the raw text by the mean of its gates over the sentences. This form is ours;
    with one sentence it is ALIP's.

    texts        texts of an image: `MixTexts`
    loss         of pairs: "softmax", "smoothed", "sigmoid", or a function of your own as FILE.py:FUNCTION
                 (`objectives.chosen_loss` says how it is called)
    smoothing    of loss smoothed: share of the target that is spread over the batch
    start_scale  what cosines are multiplied by at the start; 0 takes the loss's own: 10 of a sigmoid, 1 / 0.07 of others
    start_bias   what cosines are shifted by at the start, learned; None takes the loss's own: -10 of a sigmoid, none of others
    gates        weights of pairs: `MixGates`
    prefixes     prefixes of the embeddings: `MixPrefixes`
    lambda_s     weight of the grouping of patches by sentences; 0 leaves it and its head out
    sigma        of the grouping: patches below it do not count, see `dreamlip`
    queue        features of earlier steps that are kept as further negatives, of images and of texts; 0 keeps none
    """

    slug = "mix"
    no_prefixes = "it takes prefixes itself: say mix --dims"

    texts: MixTexts = field(default_factory=MixTexts)
    loss: str = "softmax"
    smoothing: float = 0.0
    start_scale: float = 0.0
    start_bias: float | None = None
    gates: MixGates = field(default_factory=MixGates)
    prefixes: MixPrefixes = field(default_factory=MixPrefixes)
    lambda_s: float = 0.0
    sigma: float = 0.0
    queue: int = 0

    batch_size: int = 32_768

    def __post_init__(self) -> None:
        own = is_recipe_file(self.loss)
        if not own and self.loss not in LOSS_NAMES:
            raise ConfigError(f"loss is '{self.loss}' (expected {', '.join(LOSS_NAMES)}, or FILE.py:FUNCTION)")
        if (self.smoothing > 0) != (self.loss == "smoothed"):
            raise ConfigError(
                f"smoothing is {self.smoothing} and loss {self.loss} (expected loss smoothed with a smoothing, such as 0.1)"
            )
        if self.start_bias is not None and self.loss in ("softmax", "smoothed"):
            raise ConfigError(
                f"start_bias is {self.start_bias}, and loss {self.loss} does not see a bias: it shifts all scores alike"
            )
        if self.gates and not (self.texts.policy == "two" or (self.texts.policy == "sentences" and self.texts.raw_first)):
            raise ConfigError(
                f"gates compare a raw text with captions, and policy {self.texts.policy} has no separate captions "
                "(expected policy two, or sentences with raw_first)"
            )
        if self.prefixes.dims and max(self.prefixes.dims) > self.width:
            raise ConfigError(f"dims reach {max(self.prefixes.dims)} (expected at most {self.width}, the width of the vectors)")
        if self.lambda_s and (self.texts.policy != "sentences" or self.texts.number < 2):
            raise ConfigError(
                "lambda_s groups patches by the sentences of an image (expected policy sentences with two texts or more)"
            )
        if self.queue < 0:
            raise ConfigError(f"queue is {self.queue} (expected 0 or more)")
        if self.queue and own:
            raise ConfigError(
                f"a loss of your own ({self.loss}) is not given the queue (expected queue 0, or one of {', '.join(LOSS_NAMES)})"
            )
        if self.captions and self.texts.policy == "one":
            raise ConfigError(
                "captions are further texts, and policy one draws among those of the data (expected sentences or two)"
            )

    # ------------------------------------------------------------ texts

    def prepare(self, data: Dataset) -> Self:
        """Learn the vocabulary; refuse data in which no image has a second sentence, where sentences are to be drawn."""
        rows = range(0, len(data), max(1, len(data) // PROBED_ROWS)) if self.texts.policy == "sentences" else range(0)
        if rows and self.texts.count > 1:
            drawn = (sub_captions(self._captioned(data[row]).positives(self.language), self.texts.merged) for row in rows)
            if all(len(sentences) < 2 for sentences in drawn):
                raise DataError(
                    f"no image of '{data.name}' has more than one sentence",
                    field="texts",
                    expected="several sentences or texts; `diptych curate template_captions DATA FOLDER` makes some, for --captions FOLDER",
                )
        return super().prepare(data)

    def texts_of(self, sample: Sample) -> Iterable[str]:
        if self.texts.policy == "two":
            return super().texts_of(sample)
        return positive_texts(self._captioned(sample), self.language)

    def _captioned(self, sample: Sample) -> Sample:
        """The sample with the text that `captions` has for it as a further one."""
        caption = caption_table(self.captions).get(sample.uid) if self.captions else None
        return replace(sample, texts=(*sample.texts, Text(caption, self.language, "synthetic"))) if caption else sample

    def batch(self, draws: Draws) -> MixBatch:
        if self.texts.policy == "one":
            return _as_sets(self.pair_batch(draws))
        if self.texts.policy == "two":
            return _as_sets(self.triplet_batch(draws))
        items = tuple(replace(draw, sample=self._captioned(draw.sample)) for draw in draws)
        sets = text_set_batch(
            replace(draws, items=items),
            count=self.texts.count,
            merged=self.texts.merged,
            keep_first=self.texts.raw_first,
            preprocess=self.preprocess,
            tokenizer=self.words(),
            text_length=self.text_length,
            crop_scale=self.crop,
            flip=self.flip,
            sides=self.flip_sides,
            language=self.language,
            cut=self.texts.cut,
        )
        return MixBatch(sets.image_BCHW, sets.text_BKL, sets.text_mask_BKL, sets.text_id_BK, sets.group_B, sets.truncated)

    # ------------------------------------------------------------ model

    def model(self) -> MixEncoder:
        image, text = self.towers()
        sigmoid = self.loss == "sigmoid"
        return MixEncoder(
            image,
            text,
            width=self.width,
            patches=bool(self.lambda_s),
            mean_3=initial_means() if self.gates else None,
            queue=self.queue,
            scale=self.start_scale or (10.0 if sigmoid else 1 / 0.07),
            bias=-10.0 if sigmoid and self.start_bias is None else self.start_bias,
        )

    def features(self, model: MixEncoder, batch: MixBatch) -> MixSets:
        sets: MixSets = model(batch.image_BCHW, batch.text_BKL, batch.text_mask_BKL)
        return sets

    # ------------------------------------------------------------ losses

    def losses(self, features: MixSets, batch: MixBatch) -> dict[str, Tensor]:
        if not self.prefixes.dims:
            return self._losses(features, batch)
        every = [self._losses(_cut(features, d), batch) for d in self.prefixes.dims]
        weights = self.prefixes.weights or None
        return {name: reduce_terms([losses[name] for losses in every], weights, self.prefixes.reduction) for name in every[0]}

    def _losses(self, features: MixSets, batch: MixBatch) -> dict[str, Tensor]:
        """Terms on embeddings of one width."""
        terms = self._pair_losses(features, batch)
        if self.texts.policy == "two":
            losses = dict(zip(("raw", "synthetic"), terms, strict=True))
        else:
            losses = {"contrastive": torch.stack(terms).mean() if len(terms) > 1 else terms[0]}
        if self.lambda_s and features.patch_NPD is not None:
            grouped, _ = patch_grouping(
                features.patch_NPD,
                features.text_NKD,
                scale=features.scale,
                threshold=self.sigma,
                mask_NP=features.patch_mask_NP,
                text_id_NK=batch.text_id_BK,
                negatives="image",
            )
            losses["grouping"] = self.lambda_s * grouped
        return losses

    def _pair_losses(self, features: MixSets, batch: MixBatch) -> list[Tensor]:
        """Loss of the pairs with the k-th texts, for every k."""
        chosen = load_trusted_object(self.loss, "loss") if is_recipe_file(self.loss) else self.loss
        image_ND = share_of_gradient(features.image_ND, self.feature_gradient)
        weights = self.pair_weights(features)
        return [
            chosen_loss(
                chosen,
                image_ND,
                share_of_gradient(text_ND, self.feature_gradient),
                scale=features.scale,
                bias=features.bias,
                group_N=batch.group_B,
                same=self.same_group,
                smoothing=self.smoothing,
                weight_N=weight_N,
                extra=_extra(features),
            )
            for text_ND, weight_N in zip(features.text_NKD.unbind(1), weights, strict=True)
        ]

    def pair_weights(self, features: MixSets) -> Sequence[Tensor | None]:
        """Weights [N] of the pairs with the k-th texts, for every k; None without gates."""
        if not self.gates:
            return [None] * features.text_NKD.shape[1]
        given = {"gamma_language": self.gates.gamma_language, "gamma_description": self.gates.gamma_description}
        means_3 = self.means(features)
        gates = [agreement_gates(agreement_N3, means_3, **given) for agreement_N3 in self._agreements(features)]
        raw_N = torch.stack([gate.raw_N for gate in gates]).mean(0)
        return [raw_N, *(gate.synthetic_N for gate in gates)]

    def means(self, features: MixSets) -> Tensor:
        """The running means with this step's global batch in them."""
        assert features.mean_3 is not None
        return updated_means(features.mean_3, torch.cat(self._agreements(features)), momentum=self.gates.momentum)

    def _agreements(self, features: MixSets) -> list[Tensor]:
        raw_ND, *captions = features.text_NKD.unbind(1)
        return [agreements(features.image_ND, raw_ND, caption_ND) for caption_ND in captions]

    # ------------------------------------------------------------ steps

    def metrics(self, features: MixSets, batch: MixBatch) -> dict[str, Tensor]:
        """Scale; with gates the mean weight of raw texts and of captions; with prefixes the whole loss at every width."""
        values = super().metrics(features, batch)
        if self.gates:
            raw_N, *captions = [weight_N for weight_N in self.pair_weights(features) if weight_N is not None]
            values |= {"weight_raw": raw_N.mean(), "weight_synthetic": torch.stack(captions).mean()}
        for d in self.prefixes.dims:
            values[f"first_{d}"] = torch.stack(list(self._losses(_cut(features, d), batch).values())).sum()
        return values

    def after_update(self, model: MixEncoder, features: MixSets, batch: MixBatch, progress: float) -> None:
        if self.gates:
            model.remember_(self.means(features))
        if self.queue:
            own = (features.image_ND, features.text_NKD, batch.group_B)
            model.push_(*(all_gather(rows).flatten(0, 1) for rows in own))
        super().after_update(model, features, batch, progress)

    def deploy(self, model: MixEncoder) -> PairEmbedder:
        embedder = super().deploy(model)
        if self.prefixes.dims:
            embedder.dims = self.prefixes.dims
        return embedder

    @classmethod
    def tiny(cls) -> Self:
        """The towers, data and budget of `clip`'s. Where captions are asked for, data without any of origin "synthetic" get a stand-in, as
        `alip`'s preset has it."""
        return cls(**SMALL_CLIP, synthetic=("synthetic", "rewrite", "tags"))

    @classmethod
    def paper(cls) -> Self:
        """CLIP's published configuration, ViT-B/32, 151,277,313 parameters: no paper has this recipe."""
        return cls(**PAPER_CLIP)


def _as_sets(pairs: PairBatch) -> MixBatch:
    """A batch of pairs, or of images with a raw text and a caption, with its texts side by side."""
    texts, masks = [pairs.text_BL], [pairs.text_mask_BL]
    if isinstance(pairs, TripletBatch):
        texts, masks = [*texts, pairs.caption_BL], [*masks, pairs.caption_mask_BL]
    number_BK = torch.arange(len(texts)).expand(len(pairs), -1)
    return MixBatch(
        pairs.image_BCHW, torch.stack(texts, 1), torch.stack(masks, 1), number_BK, pairs.group_B, pairs.truncated, pairs.strings
    )


def _cut(features: MixSets, d: int) -> MixSets:
    """Features of the first d dimensions, those of the queues too."""
    short = truncate_embeddings(features, d)
    if features.queue_image_QD is None or features.queue_text_QD is None:
        return short
    return replace(short, queue_image_QD=truncate(features.queue_image_QD, d), queue_text_QD=truncate(features.queue_text_QD, d))


def _extra(features: MixSets) -> ExtraKeys | None:
    """The queues as further negatives; None where they are empty, or there are none."""
    image_QD, text_QD = features.queue_image_QD, features.queue_text_QD
    if image_QD is None or text_QD is None or not len(image_QD):
        return None
    assert features.queue_image_group_Q is not None
    assert features.queue_text_group_Q is not None
    return ExtraKeys(image_QD, features.queue_image_group_Q, text_QD, features.queue_text_group_Q)
