"""FIBER's CIDEr optimisation: captions are sampled and rewarded by CIDEr-D."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Literal, Self

import torch
from torch import Tensor, nn

from diptych.core.contracts import Dataset, Draws
from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.load.batch import PairBatch
from diptych.models.fiber.caption_sampling import SampledCaptions, sample_captions
from diptych.models.fiber.fiber import Fiber
from diptych.models.fiber.fiber_model import FiberModel
from diptych.objectives.language.captioning import caption_loss
from diptych.objectives.language.self_critical import mean_log_probability, self_critical_loss
from diptych.recipes._shared.fiber_towers import SMALL, FiberRecipe
from diptych.tasks._scoring.captions.metrics import cider_d, document_frequencies, words_of

UNUSED_IN_CAPTIONING = r"^(image|text)_(projection|head|pooler)\.|^image_transform\.|^image_tower\.(gates|net\.norm)\."
"""What writing does not use."""
END = "<eos>"
"""Stands behind every caption in the release, so that where a caption ends is rewarded."""
Frequencies = Mapping[tuple[str, ...], int]


@dataclass(frozen=True, kw_only=True)
class RewardedBatch(PairBatch):
    """Pairs, all captions of each picture, and, after the rollout, S drawn ones with their rewards.

    chosen_BSM is True where a token behind the first was chosen; baseline_BS is what each reward is compared with
    """

    references: Rows[tuple[tuple[str, ...], ...]] = ()
    drawn_BSL: Rows[Tensor] | None = None
    chosen_BSM: Rows[Tensor] | None = None
    reward_BS: Rows[Tensor] | None = None
    baseline_BS: Rows[Tensor] | None = None


@dataclass(frozen=True, slots=True)
class CaptionLogits:
    """Logits of the next tokens of the given caption, and the mean log-probability of each drawn one."""

    caption_BLV: Rows[Tensor]
    log_BS: Rows[Tensor]


class CiderTraining(nn.Module):
    """A `Fiber` that writes."""

    def __init__(self, fiber: Fiber) -> None:
        super().__init__()
        self.fiber = fiber

    def forward(
        self, image_BCHW: Tensor, text_BL: Tensor, mask_BL: Tensor, drawn_BSL: Tensor, chosen_BSM: Tensor
    ) -> CaptionLogits:
        fiber, (batch, count, _) = self.fiber, drawn_BSL.shape
        seen_BPC = fiber.image_tokens(image_BCHW)
        drawn_NL, chosen_NM = drawn_BSL.flatten(0, 1), chosen_BSM.flatten(0, 1)
        there_NL = torch.cat([torch.ones_like(chosen_NM[:, :1]), chosen_NM], 1)
        logit_NLV = fiber.write(seen_BPC.repeat_interleave(count, 0), drawn_NL, there_NL)
        log_N = mean_log_probability(logit_NLV, drawn_NL, chosen_NM)
        return CaptionLogits(fiber.write(seen_BPC, text_BL, mask_BL), log_N.view(batch, count))


@dataclass(frozen=True, kw_only=True)
class FIBERCider(FiberRecipe[CiderTraining, RewardedBatch, CaptionLogits]):
    """FIBER (Dou et al., 2022, arXiv 2206.07643), the last stage of its captions: self-critical sequence training (1612.00563) on CIDEr-D.

    Of every picture the model draws `drawn` captions, each is rewarded by its CIDEr-D against all captions of the picture, and the mean
    log-probability of its tokens is pushed up where the reward is above the baseline and down where it is below; beside it stays the
    cross-entropy of a given caption. `--init` takes a run of `fiber` with `caption`, or released weights.

    How rare a run of words is, CIDEr-D counts over the training captions. As released, the words of a caption are what stands between
    blanks, without a full stop at the end and with an end mark.

    We depart: captions are drawn without dropout, as all rollouts are; padding is never drawn; runs of words are counted over the data of
    the run, where the release reads a table of COCO.

    drawn         captions of a picture
    baseline      "one", as released: a reward of 1; "greedy": that of the caption of likeliest tokens (1612.00563); "others": the mean of
                  the other captions drawn of the picture
    mixed         share of the cross-entropy; 1 - mixed is that of the rewarded captions
    reward_words  "released", or "coco": the words that the captioning protocol scores
    minibatch     rows an update, over all processes; 0 is all that were drawn at once
    shuffled      rows of a minibatch are drawn at random; else they are consecutive
    """

    slug = "fiber_cider"
    no_prefixes = "it reads pairs together"
    engine = "policy"
    presets = ("tiny", "paper")

    drawn: int = 5
    baseline: Literal["one", "greedy", "others"] = "one"
    mixed: float = 0.3
    reward_words: Literal["released", "coco"] = "released"
    image_size: int = 576
    text_length: int = 50
    batch_size: int = 512
    epochs: float = 10.0
    lr: float = 1e-6
    warmup: float = 0.1
    weight_decay: float = 0.01
    crop: tuple[float, float] = (0.5, 1.0)
    flip: bool = True
    flip_sides: Literal["keep", "swap", "ignore"] = "ignore"
    augment: Literal["none", "rand"] = "rand"
    passes: int = 1
    minibatch: int = 0
    shuffled: bool = False

    corpus: str = field(default="", metadata={"prepared": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drawn < 1 + (self.baseline == "others") or self.baseline not in ("one", "greedy", "others"):
            raise ConfigError(
                f"drawn is {self.drawn}, baseline {self.baseline!r} (expected 1 or more, and one | greedy | others; 2 or more for others)"
            )
        if not 0 <= self.mixed < 1 or self.reward_words not in ("released", "coco"):
            raise ConfigError(
                f"mixed is {self.mixed}, reward_words {self.reward_words!r} (expected 0 or more, below 1, and released | coco)"
            )

    @property
    def measured_by(self) -> str:
        return "captions"

    def listed(self, data: Dataset) -> Self:
        """In how many pictures' captions each run of words stands; one that stands in a single one weighs as one unseen."""
        if self.corpus:
            return self
        frequencies = document_frequencies([self.cut(self.captions_of(data, row)) for row in range(len(data))])
        table = {" ".join(run): count for run, count in sorted(frequencies.items()) if count > 1}
        return replace(self, corpus=json.dumps({"items": len(data), "runs": table}))

    def captions_of(self, data: Dataset, row: int) -> tuple[str, ...]:
        return tuple(text.string for text in data[row].positives(self.language))

    def cut(self, captions: Sequence[str]) -> list[list[str]]:
        """The words of captions, as the reward reads them."""
        if self.reward_words == "coco":
            return [words_of(caption) for caption in captions]
        return [[*caption.strip().removesuffix(".").split(), END] for caption in captions]

    def model(self) -> CiderTraining:
        return CiderTraining(self.fiber_without(UNUSED_IN_CAPTIONING, matches=False, guesses=True, writes=True))

    def batch(self, draws: Draws) -> RewardedBatch:
        pairs = self.pair_batch(draws, self.operations)
        references = tuple(tuple(text.string for text in draw.sample.positives(self.language)) for draw in draws)
        return RewardedBatch(**{one.name: getattr(pairs, one.name) for one in fields(pairs)}, references=references)

    # ------------------------------------------------------------ rollout

    def companions(self, model: CiderTraining) -> dict[str, nn.Module]:
        return {}

    def rollout(self, model: CiderTraining, companions: Mapping[str, nn.Module], batch: RewardedBatch) -> RewardedBatch:
        """The batch with captions drawn of each picture, and their rewards."""
        seen_BPC = model.fiber.image_tokens(batch.image_BCHW)
        drawn = self._sample_captions(model.fiber, seen_BPC, count=self.drawn)
        rows = len(seen_BPC)
        reward_BS = self.rewards(drawn.ids_NL, batch.references).view(rows, self.drawn)
        baseline_BS = torch.ones_like(reward_BS)
        if self.baseline == "greedy":
            greedy = self._sample_captions(model.fiber, seen_BPC, likeliest=True)
            baseline_BS = self.rewards(greedy.ids_NL, batch.references)[:, None].expand(-1, self.drawn)
        if self.baseline == "others":
            baseline_BS = (reward_BS.sum(1, keepdim=True) - reward_BS) / (self.drawn - 1)
        device = seen_BPC.device
        return replace(
            batch,
            drawn_BSL=drawn.ids_NL.unflatten(0, (rows, -1)),
            chosen_BSM=drawn.chosen_NM.unflatten(0, (rows, -1)),
            reward_BS=reward_BS.to(device),
            baseline_BS=baseline_BS.to(device),
        )

    def _sample_captions(self, fiber: Fiber, seen_BPC: Tensor, *, count: int = 1, likeliest: bool = False) -> SampledCaptions:
        words = self.words()
        return sample_captions(
            fiber, seen_BPC, words.prefix, length=self.text_length, end_id=words.eot_id, pad_id=words.pad_id, count=count,
            likeliest=likeliest,
        )  # fmt: skip

    def rewards(self, ids_NL: Tensor, references: Sequence[Sequence[str]]) -> Tensor:
        """CIDEr-D [N], 0 to 10, of captions against the references of their pictures; as many captions for each picture."""
        words = self.words()
        texts = [words.decode([one for one in row if one not in (*words.prefix, *words.suffix)]) for row in ids_NL.tolist()]
        each = len(texts) // len(references)
        cut_references = [self.cut(some) for some in references for _ in range(each)]
        items, table = corpus_frequencies(self.corpus)
        return torch.from_numpy(cider_d(self.cut(texts), cut_references, frequencies=table, items=items)).float()

    # ------------------------------------------------------------ loss

    def features(self, model: CiderTraining, batch: RewardedBatch) -> CaptionLogits:
        outputs: CaptionLogits = model(batch.image_BCHW, batch.text_BL, batch.text_mask_BL, batch.drawn_BSL, batch.chosen_BSM)
        return outputs

    def losses(self, features: CaptionLogits, batch: RewardedBatch) -> dict[str, Tensor]:
        assert batch.reward_BS is not None
        assert batch.baseline_BS is not None
        given = caption_loss(features.caption_BLV, batch.text_BL, batch.text_mask_BL, over="tokens")
        drawn = self_critical_loss(
            features.log_BS.flatten(), batch.reward_BS.flatten(), batch.baseline_BS.flatten(), pictures=len(batch.reward_BS)
        )
        return {"caption": self.mixed * given, "rewarded": (1 - self.mixed) * drawn}

    def metrics(self, features: CaptionLogits, batch: RewardedBatch) -> dict[str, Tensor]:
        assert batch.reward_BS is not None
        assert batch.baseline_BS is not None
        return {"reward": batch.reward_BS.mean(), "baseline": batch.baseline_BS.mean()}

    def deploy(self, model: CiderTraining) -> FiberModel:
        return FiberModel(model.fiber, self.deployed_preprocess, self.words(), self.text_length, self.slug)

    # ------------------------------------------------------------ presets

    @classmethod
    def tiny(cls) -> Self:
        return cls(**SMALL, batch_size=32, steps=100, lr=1e-4, crop=(1.0, 1.0), flip=False, augment="none")

    @classmethod
    def paper(cls) -> Self:
        """As released: 576 pixels, ten epochs of the captions behind the stage `captions_gold` of `fiber`."""
        return cls(counted="texts")


@lru_cache(maxsize=4)
def corpus_frequencies(corpus: str) -> tuple[int, Frequencies]:
    """Number of pictures, and for each n-gram the number of pictures with it in a caption (document frequencies of CIDEr-D)."""
    if not corpus:
        raise ConfigError("CIDEr-D needs the captions that it counts words in: call prepare(data) first")
    plain = json.loads(corpus)
    return int(plain["items"]), {tuple(run.split(" ")): count for run, count in plain["runs"].items()}
