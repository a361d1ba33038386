"""SVLC: training on rule-based negative captions that differ in a word, and on paraphrases as positives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Tuning
from diptych.core.errors import ConfigError
from diptych.data.text.captions.negative_texts import NegativeBatch, sample_texts
from diptych.data.text.english.structured import Lists, analogies, checked_lists, replaced_by_rule, whole_word, word_lists
from diptych.models.pairs.hard_pairs import HardPairs
from diptych.objectives.pairs.hard_negatives import own_negatives, wide_info_nce
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.second_positives import equal_positives_loss, flat_target_loss
from diptych.recipes._shared.pairs import strings_of
from diptych.recipes._shared.presets import ADAPTED, SMALL_CLIP
from diptych.recipes._shared.texts.negatives import LOOKED_AT, NegativeRecipe

Negatives = Literal["rules", "texts", "both", "random_words", "none"]
Positives = Literal["none", "analogies", "texts"]
POSITIVE_COLUMN = "structured_positive"
"""The column of right texts that curation wrote, beside texts of origin "rewrite"."""


@dataclass(frozen=True, kw_only=True)
class SVLC(NegativeRecipe):
    """Teaching Structured Vision & Language Concepts to Vision & Language Models (Doveh et al., 2022, arXiv 2211.11733). Baseline: `clip`.

    Wrong texts replace one word: a colour, material, size, state or relation by another of its list ("rules"), or any word by what a
    fill-mask model proposes ("texts", which `diptych curate structured_negatives` writes); "both" flips a coin for each text. They join the
    contrastive loss of the images, and each image must choose its own text among its own wrong ones. A right text of the same meaning, an
    analogy, is a second positive: of the image, and of the text. Published weights are tuned by adapters of rank 4 on every layer and may
    be blended with the start (`--blend`, `diptych blend`).

    Several processes and gradient caching give the loss of the whole batch; the released code loses the wrong texts with several. We
    depart in how a list's words are found and replaced (`published_rules`), in articles that follow their noun (`articles`), in our own
    lists of words (`word_lists` names a file of others), in the rank of the patches' adapter (`patch_adapter`), and samples of one group
    are no negatives of each other (`same_group`).
    Punctuation stays where a model replaces a word (`diptych curate structured_negatives --published` drops it). The released analogies
    come from BLOOM with 176 billion parameters; ours from rules ("analogies"), from what any local model wrote, or from texts of origin
    "rewrite" ("texts").

    negatives        "rules", "texts", "both"; "random_words" and "none" are controls
    positives        "none", "analogies" by rules, "texts" of origin "rewrite" or written by curation
    types            which lists; empty takes all
    word_lists       a JSON file {type: [words]}; "" takes ours
    data_words       a word is replaced only by such that the training texts have: others give themselves away by being never right
    published_rules  find words inside words, replace every place where their letters stand, and take synonyms for wrong
    in_contrastive   wrong texts join the contrastive loss, too
    negative_weight  factor of the choice among an image's own texts
    symmetric        the second positive is compared in both directions (an option of the released code)
    even_weight      of a loss by which an image likes both of its right texts alike (an option of the released code, then .1)
    spread_weight    of a loss by which it chooses among all texts of the batch nearly evenly (an option of the released code, then .01)
    rank             of the adapters, which count as B A / rank and stand where the release has them: in towers other than CLIP's
                     transformers, on every linear map; 0 trains all weights
    adapter_start    "zero": all adapters start as nothing; "random", as released (`paper`): those of queries, keys and values start random
                     in both maps, so that the first step is not that of the published model
    patch_adapter    "rank": that of the patches has rank `rank`; "side", as released (`paper`): that times the side of a patch
    """

    slug = "svlc"
    tuned_lr: ClassVar[float] = 5e-6
    tuned_warmup: ClassVar[float] = 10_000.0

    negatives: Negatives = "rules"
    positives: Positives = "none"
    types: tuple[str, ...] = ()
    word_lists: str = ""
    data_words: bool = False
    published_rules: bool = False
    in_contrastive: bool = True
    negative_weight: float = 1.0
    symmetric: bool = False
    even_weight: float = 0.0
    spread_weight: float = 0.0
    rank: int = 4
    adapter_start: Literal["zero", "random"] = "zero"
    patch_adapter: Literal["rank", "side"] = "rank"
    listed_words: tuple[str, ...] = field(default=(), metadata={"prepared": True})

    batch_size: int = 512
    epochs: float = 5.0
    lr: float = 5e-6
    warmup: float = 10_000.0
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        if self.negatives not in ("rules", "texts", "both", "random_words", "none") or self.negatives_each < 1:
            raise ConfigError(
                f"negatives {self.negatives!r}, {self.negatives_each} each (expected rules | texts | both | random_words | none, 1 or more)"
            )
        if self.adapter_start not in ("zero", "random"):
            raise ConfigError(f"adapter_start is {self.adapter_start!r} (expected zero | random)")
        if self.patch_adapter not in ("rank", "side"):
            raise ConfigError(f"patch_adapter is {self.patch_adapter!r} (expected rank | side)")
        if self.positives not in ("none", "analogies", "texts"):
            raise ConfigError(f"positives is {self.positives!r} (expected none | analogies | texts)")
        if self.negatives in ("rules", "both"):
            checked_lists(word_lists(self.word_lists), self.types)

    def prepare(self, data: Dataset) -> Self:
        """Learns the vocabulary, the common words, and which words of the lists the texts have, each where it is used."""
        ready = super().prepare(data)
        if not self.data_words or self.listed_words:
            return ready
        texts = list(strings_of(data, self.texts_of, stride=max(1, len(data) // LOOKED_AT), language=self.language))
        listed = tuple(
            word for words in self._lists().values() for word in words if any(whole_word(word).search(text) for text in texts)
        )
        return replace(ready, listed_words=tuple(dict.fromkeys(listed)))

    def _lists(self) -> Lists:
        """The lists in use; with `data_words` only what the training texts have of them."""
        lists = checked_lists(word_lists(self.word_lists), self.types)
        if not self.listed_words:
            return lists
        data_words = set(self.listed_words)
        return {kind: tuple(word for word in words if word in data_words) for kind, words in lists.items()}

    def tuning(self) -> Tuning:
        if not self.rank:
            return Tuning()
        named = self.image_tower.startswith("vit") and self.text_tower.startswith(("text", "transformer"))
        if not named:
            return Tuning(lora=str(self.rank), lora_alpha=1.0)
        random = "qkv" if self.adapter_start == "random" else ""
        kernel = "patches" if self.patch_adapter == "side" else ""
        return Tuning(lora=f"{self.rank}:{ADAPTED}", lora_alpha=1.0, lora_random=random, lora_kernel=kernel)

    @property
    def needs_words(self) -> bool:
        return self.negatives == "random_words"

    @property
    def reads_positives(self) -> bool:
        return self.positives != "none"

    def negatives_of(self, draw: Draw, text: str) -> Sequence[str]:
        if self.negatives == "none":
            return ()
        if self.negatives == "random_words":
            return self.at_random(draw, text)
        by_rule = self.negatives == "rules" or (self.negatives == "both" and draw.rng.random() < 0.5)
        return self._by_rule(draw, text) if by_rule else self.written(draw)

    def _by_rule(self, draw: Draw, text: str) -> list[str]:
        _, made = replaced_by_rule(
            text,
            draw.rng,
            count=self.negatives_each,
            lists=self._lists(),
            published=self.published_rules,
            articles=self.articles,
        )
        return made

    def positives_of(self, draw: Draw, text: str) -> Sequence[str]:
        if self.positives == "analogies":
            return sample_texts(draw.rng, analogies(text), 1)
        rewrites = [
            other.string for other in draw.sample.positives(self.language) if other.origin == "rewrite" and other.string != text
        ]
        written = draw.sample.extras.get(POSITIVE_COLUMN)
        return sample_texts(draw.rng, [*rewrites, *([written] if written else [])], 1)

    def losses(self, features: HardPairs, batch: NegativeBatch) -> dict[str, Tensor]:
        image_ND, text_ND, negative_NKD, scale = features.image_ND, features.text_ND, features.negative_NKD, features.scale
        there_BK = batch.there_BK
        terms = {
            "contrastive": wide_info_nce(
                image_ND,
                text_ND,
                negative_NKD if self.in_contrastive else negative_NKD[:, :0],
                there_BK if self.in_contrastive else there_BK[:, :0],
                scale=scale,
                group_N=batch.group_B,
                same=self.same_group,
            ),
            "negatives": self.negative_weight * own_negatives(image_ND, text_ND, negative_NKD, there_BK, scale=scale),
        }
        if features.positive_ND is not None:
            terms["positives"] = (self._met(image_ND, features, batch) + self._met(text_ND, features, batch)) / 2
            both = image_ND, text_ND, features.positive_ND
            if self.even_weight:
                terms["even"] = self.even_weight * equal_positives_loss(*both, scale=scale)
            if self.spread_weight:
                terms["spread"] = self.spread_weight * flat_target_loss(*both, scale=scale)
        return terms

    def _met(self, anchor_ND: Tensor, features: HardPairs, batch: NegativeBatch) -> Tensor:
        """Each anchor chooses its own right text among those of the batch."""
        assert features.positive_ND is not None
        loss, _ = info_nce(
            anchor_ND,
            features.positive_ND,
            scale=features.scale,
            group_N=batch.group_B,
            group_M=batch.group_B,
            same=self.same_group,
            directions="both" if self.symmetric else "image_to_text",
        )
        return loss

    @classmethod
    def tiny(cls) -> Self:
        """The towers, batch and steps of `clip`'s, from scratch: all weights are trained."""
        return cls(**SMALL_CLIP, rank=0)

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/32 on Conceptual Captions 3M, to be started with `--init hf:openai/clip-vit-base-patch32`: four times 128 images a step,
        rules and a model for the wrong texts, analogies for the right ones; wrong texts of the model and analogies as curation wrote
        them."""
        published = cls(act="quick_gelu", same_group="negative", negatives="both", positives="texts", published_rules=True)
        return replace(published, articles=False, adapter_start="random", patch_adapter="side", decoding="whole")
