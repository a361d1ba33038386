"""RL4LMs: a language model trained by reinforcement learning on a reward of its texts; NLPO masks unlikely tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from diptych.core.contracts import Dataset, Draws, Optimiser, Stage
from diptych.core.errors import ConfigError
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.io.device import choose_device
from diptych.models.policy.classifier_reward import ClassifierReward, IntentReward
from diptych.models.policy.language_policy import ActionLogits, LanguagePolicy, answer_logits, value_model
from diptych.models.policy.sampled_answers import SamplingRules, sample_answers
from diptych.models.policy.sequence_classifier import SequenceClassifier
from diptych.models.policy.text_generator import TextGenerator
from diptych.objectives.policy.action_masks import (
    drawn_actions,
    masked_entropy,
    masked_log_probabilities,
    top_k_mask,
    top_p_mask,
)
from diptych.objectives.policy.advantages import standardised
from diptych.objectives.policy.divergence import KLController
from diptych.objectives.policy.surrogate import clipped_surrogate, value_loss
from diptych.recipes._shared.text_policy.grue import grue_task
from diptych.recipes._shared.text_policy.prompted_text import PromptBatch, PromptedTextRecipe, without_shared_padding
from diptych.recipes._shared.text_policy.supervised_text import SupervisedText
from diptych.recipes._shared.text_policy.token_transitions import (
    AnswerEpisodes,
    TransitionBatch,
    joined_episodes,
    mean_log_ratio,
    transitions,
)
from diptych.tasks._scoring.rewards.reward import Reward, checked_rewards
from diptych.tasks._scoring.rewards.text_rewards import reward_names, text_reward
from diptych.train.engines.companions import frozen_copy
from diptych.train.engines.rollouts import RowNoise
from diptych.train.gradient_cache import to_float32


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Proximal policy optimisation.

    transitions   tokens of a rollout, over all processes; answers are drawn until there are so many
    gamma, lam    discount, and lambda of the advantages
    clip          of the ratio
    value_weight, entropy_weight  weights of the value model's error and of the entropy
    value_clip    how far the value may move in a rollout; 0 sets no limit
    kl, kl_target coefficient of the KL penalty, and the KL by token that it follows; 0: the coefficient is fixed
    normalised_rewards  rewards of the tokens have mean 0 and deviation 1
    dropout       dropout acts in updates, so that the ratio does not begin at 1; the release turns it off
    """

    transitions: int = 1280
    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.0
    value_clip: float = 0.0
    kl: float = 0.1
    kl_target: float = 0.1
    normalised_rewards: bool = False
    dropout: bool = False

    def __post_init__(self) -> None:
        if self.transitions < 1 or not 0 < self.gamma <= 1 or not 0 <= self.lam <= 1 or self.clip <= 0:
            raise ConfigError(
                f"transitions {self.transitions}, gamma {self.gamma}, lam {self.lam}, clip {self.clip} (expected 1 or more, above 0 and at "
                "most 1, 0 to 1, above 0)"
            )


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Tokens that may be sampled, and NLPO's mask.

    form          of NLPO: "top_p" or "top_k" of the mask model, "own_top_k" of the policy itself
    top_p, top_k  mass, or number, of the tokens of the mask
    min_keep      so many tokens are kept whatever their mass (released: 100)
    refresh       rollouts between two copies of the policy that the mask is taken of
    renormalised  False, as released: log-probabilities under the mask do not add up to 1
    refreshed     False, as released: masks stay those of the first copy, since its generation keeps the model that it was given
    extra_kept    one more token is kept where `min_keep` is above 1, as the release has it for encoder-decoders
    sampled_top_k, min_tokens  rules of sampling beside the mask: the likeliest tokens (0: all), and no end mark before so many others
    rules_in_ratio  rules of sampling are part of the stored mask. False, as released for PPO: the ratio is that of all tokens
    """

    form: Literal["top_p", "top_k", "own_top_k"] = "top_p"
    top_p: float = 0.9
    top_k: int = 100
    min_keep: int = 1
    refresh: int = 5
    renormalised: bool = True
    refreshed: bool = True
    extra_kept: bool = False
    sampled_top_k: int = 0
    min_tokens: int = 0
    rules_in_ratio: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1 or self.top_k < 1 or self.refresh < 1 or self.min_keep < 1:
            raise ConfigError(
                f"top_p {self.top_p}, top_k {self.top_k}, refresh {self.refresh}, min_keep {self.min_keep} (expected above 0 and at most "
                "1, and 1 or more)"
            )


@dataclass(frozen=True, kw_only=True)
class RL4LMs(PromptedTextRecipe[LanguagePolicy, Any, ActionLogits]):
    """Is Reinforcement Learning (Not) for Natural Language Processing (Ramamurthy et al., 2022, arXiv 2210.01241): PPO and NLPO.

    A token is an action. A step samples an answer to each prompt of the batch; the reward of the answer comes with its last token, and each
    token pays for its log ratio to the frozen model of the beginning, at a price that follows a target. Advantages (GAE) come from a second
    language model with a linear head, which shares nothing with the policy; `passes` times over the tokens of the rollout follow clipped
    updates of both. NLPO takes the tokens that may be written from an older copy of the policy: the mask is stored with each token and
    holds in sampling and in every update. With `supervised` a share of the steps learns the references first.

    We depart: log-probabilities under a mask are renormalised, the copy is refreshed, and the rules of sampling are part of the mask; each
    released habit is an option of `masks`. Prompts come in the run's order, where the release draws them anew, and a rollout that has too
    few tokens answers them again.

    algorithm      "nlpo", or "ppo" without a mask model
    reward         of an answer, by name: meteor, rougeL, bleu, cider, chrf, ter, increasing_numbers:20, dates, length:20, joined by "+",
                  "0.5*NAME" for a share of one; "classifier" and "intent" for learned ones; "meteor:FOLDER" is the released METEOR, with
                  the synonyms of WordNet in that folder of NLTK's data; "bert_score:FOLDER", "bleurt:FOLDER" and "entailment:FOLDER"
                  take a model of transformers; "parent" the table in a prompt; "scene_tuples" stands for SPICE
    classifier     "FOLDER" of a sequence classifier of transformers, with its label behind a colon: the probability of that label is the
                  reward of prompt and answer. Of "intent" without a label: 1 where the likeliest label of the last turn and the answer
                  is that of the row's extra "intent", counted from 1
    supervised     share of the steps that learn references first; 0 for none
    supervised_lr  learning rate of these
    ppo            proximal policy optimisation
    masks          what may be sampled, and NLPO's mask
    passes         times that updates see each rollout
    minibatch      tokens of an update, over all processes
    shuffled       tokens of a minibatch are drawn at random
    """

    slug = "rl4lms"
    engine = "policy"
    presets = (
        "tiny", "paper", "commongen", "cnn_daily_mail", "totto", "iwslt2017", "narrative_qa", "daily_dialog", "increasing_numbers", "dates",
    )  # fmt: skip

    algorithm: Literal["nlpo", "ppo"] = "nlpo"
    reward: str = "meteor"
    classifier: str = ""
    supervised: float = 0.0
    supervised_lr: float = 1e-5
    ppo: PPOConfig = field(default_factory=PPOConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    passes: int = 5
    minibatch: int = 64
    shuffled: bool = True
    batch_size: int = 30
    steps: int = 50
    lr: float = 1e-6
    warmup: float = 0.0
    weight_decay: float = 1e-6
    clip_norm: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm not in ("nlpo", "ppo") or not 0 <= self.supervised < 1:
            raise ConfigError(
                f"algorithm is {self.algorithm!r}, supervised {self.supervised} (expected nlpo | ppo, and 0 or more, below 1)"
            )
        if self.classifier and not self._learned():
            raise ConfigError(
                f"classifier is {self.classifier!r}, reward {self.reward!r} (expected reward 'classifier' or 'intent')"
            )

    @property
    def measured_by(self) -> str:
        metric = "" if self._learned() else f",rewards=[{self.reward}]"
        return f"generated_text:prompts={self.prompts},max_tokens={self.max_tokens}{metric}"

    def prepare(self, data: Dataset) -> Self:
        """Opens the reward first, so that a wrong name or folder is refused before a language model is trained."""
        self._reward()
        return super().prepare(data)

    def model(self) -> LanguagePolicy:
        return LanguagePolicy(self.language_policy(), dropout=self.ppo.dropout)

    def batch(self, draws: Draws) -> PromptBatch:
        return self.prompt_batch(draws)

    # ------------------------------------------------------------ rollout

    def companions(self, model: LanguagePolicy) -> dict[str, nn.Module]:
        made = {"reference": frozen_copy(model.policy), "controller": KLController(self.ppo.kl, self.ppo.kl_target or None)}
        return made | ({"mask": frozen_copy(model.policy)} if self.algorithm == "nlpo" else {})

    def rollout(self, model: LanguagePolicy, companions: Mapping[str, nn.Module], batch: PromptBatch) -> TransitionBatch:
        """Tokens of sampled answers, with advantages."""
        # Some encoders count padding as positions; they read prompts of the whole length in evaluations, too.
        if not model.policy.reads_and_writes:
            batch = without_shared_padding(batch)
        noise, rounds = RowNoise(len(batch), batch.prompt_BP.device), list[AnswerEpisodes]()
        while sum(one.tokens for one in rounds) < self.ppo.transitions:
            rounds.append(self._episodes(model, companions, batch, noise).of_all_processes())
        episodes, controller = joined_episodes(rounds), companions["controller"]
        assert isinstance(controller, KLController)
        made = transitions(
            episodes,
            self.ppo.transitions,
            coefficient=controller.coefficient[0],
            gamma=self.ppo.gamma,
            lam=self.ppo.lam,
            normalised_rewards=self.ppo.normalised_rewards,
        )
        controller.update(mean_log_ratio(episodes))
        if "mask" in companions and self.masks.refreshed and int(controller.updates) % self.masks.refresh == 0:
            companions["mask"].load_state_dict(model.policy.state_dict())
        return made

    def _episodes(
        self, model: LanguagePolicy, companions: Mapping[str, Any], batch: PromptBatch, noise: RowNoise
    ) -> AnswerEpisodes:
        words, given = self.words(), (batch.prompt_BP, batch.there_BP)
        rules = SamplingRules(words.end_id, words.pad_id, self.max_tokens, min(self.masks.min_tokens, self.max_tokens))
        answers = sample_answers(
            model.policy,
            *given,
            rules,
            lambda logit_BV: drawn_actions(logit_BV.log_softmax(-1), noise.uniform()),
            mask_model=None if self.masks.form == "own_top_k" else companions.get("mask"),
            mask=self._mask(words.tokenizer) if self.algorithm == "nlpo" else None,
            narrowed=(lambda logit_BV: top_k_mask(logit_BV, self.masks.sampled_top_k)) if self.masks.sampled_top_k else None,
        )
        mask_BLV = answers.mask_BLV if self.algorithm == "nlpo" or self.masks.rules_in_ratio else None
        logit_BLV = to_float32(answer_logits(model.policy, *given, answers.ids_BL))
        log_BL = self._log_of(logit_BLV, mask_BLV, answers.ids_BL)
        log_ratio_BL = self._log_of(logit_BLV, None, answers.ids_BL) - self._log_of(
            to_float32(answer_logits(companions["reference"], *given, answers.ids_BL)), None, answers.ids_BL
        )
        reward_B = self._rewards(batch, [words.decode(row[: int(chosen.sum())]).strip() for row, chosen in
                                         zip(answers.ids_BL.tolist(), answers.chosen_BL, strict=True)])  # fmt: skip
        value_BL = to_float32(model.values(*given, answers.ids_BL))
        return AnswerEpisodes(
            *given,
            answers.ids_BL,
            answers.chosen_BL,
            mask_BLV,
            log_BL.masked_fill(~answers.chosen_BL, 0.0),
            log_ratio_BL.masked_fill(~answers.chosen_BL, 0.0),
            value_BL,
            torch.from_numpy(reward_B).to(value_BL),
        )

    def _log_of(self, logit_BLV: Tensor, mask_BLV: Tensor | None, ids_BL: Tensor) -> Tensor:
        flat_MV = None if mask_BLV is None else mask_BLV.flatten(0, 1)
        log_MV = masked_log_probabilities(logit_BLV.flatten(0, 1), flat_MV, renormalised=self.masks.renormalised)
        return log_MV.gather(1, ids_BL.flatten()[:, None])[:, 0].view_as(ids_BL)

    def _mask(self, tokenizer: Any) -> Callable[[Tensor], Tensor]:
        masks, always = self.masks, tuple(sorted({tokenizer.eot_id, tokenizer.pad_id, *tokenizer.prefix}))
        if masks.form == "top_p":
            keep = masks.min_keep + (masks.extra_kept and masks.min_keep > 1)
            return lambda logit_BV: top_p_mask(logit_BV, masks.top_p, min_keep=keep, always=always)
        return lambda logit_BV: top_k_mask(logit_BV, masks.top_k, always=always)

    def _rewards(self, batch: PromptBatch, answers: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return checked_rewards(self.reward, self._reward(batch.intents), batch.prompts, answers, batch.references)

    def _learned(self) -> set[str]:
        return {"classifier", "intent"} & reward_names(self.reward)

    def _reward(self, intents: Sequence[int] = ()) -> Reward:
        learned, device = self._learned(), str(choose_device())
        return text_reward(
            self.reward,
            classifier=classifier_reward(self.classifier, device) if "classifier" in learned else None,
            intent=IntentReward(intent_classifier(self.classifier, device), intents) if "intent" in learned else None,
        )

    # ------------------------------------------------------------ loss

    def features(self, model: LanguagePolicy, batch: TransitionBatch) -> ActionLogits:
        features: ActionLogits = model(batch.prompt_EP, batch.there_EP, batch.answer_EL, batch.episode_N, batch.place_N)
        return features

    def losses(self, features: ActionLogits, batch: TransitionBatch) -> dict[str, Tensor]:
        ppo = self.ppo
        surrogate = clipped_surrogate(
            self._taken(features, batch), batch.old_log_N, standardised(batch.advantage_N), clip=ppo.clip
        )
        value = value_loss(features.value_N, batch.return_N, old_value=batch.old_value_N, clip=ppo.value_clip or None)
        losses = {"policy": surrogate.loss, "value": ppo.value_weight * value}
        if ppo.entropy_weight:
            entropy_N = masked_entropy(features.logit_NV, batch.mask_NV, renormalised=self.masks.renormalised)
            losses["entropy"] = -ppo.entropy_weight * entropy_N.mean()
        return losses

    def _taken(self, features: ActionLogits, batch: TransitionBatch) -> Tensor:
        log_NV = masked_log_probabilities(features.logit_NV, batch.mask_NV, renormalised=self.masks.renormalised)
        return log_NV.gather(1, batch.action_N[:, None])[:, 0]

    def metrics(self, features: ActionLogits, batch: TransitionBatch) -> dict[str, Tensor]:
        moved = clipped_surrogate(self._taken(features, batch), batch.old_log_N, batch.advantage_N, clip=self.ppo.clip)
        return {
            "reward": batch.reward,
            "kl": batch.kl,
            "kl_coefficient": batch.coefficient,
            "answer_length": batch.length,
            "unfinished": (batch.answer_EL != self.words().end_id).all(1).float().mean(),
            "clip_fraction": moved.clip_fraction,
            "approx_kl": moved.approx_kl,
        }

    def optimiser(self) -> Optimiser:
        return Optimiser(
            lr=self.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=self.weight_decay, schedule="constant", warmup=self.warmup,
            clip_norm=self.clip_norm,
        )  # fmt: skip

    def stages(self) -> Sequence[Stage]:
        if not self.supervised:
            return ()
        shared = {name: getattr(self, name) for name in SHARED_FIELDS}
        first = SupervisedText(**shared, lr=self.supervised_lr, batch_size=self.batch_size, clip_norm=1.0)
        return (
            Stage("supervised", first, self.supervised),
            Stage("policy", replace(self, supervised=0.0), 1 - self.supervised, carry=carry_supervised),
        )

    def deploy(self, model: LanguagePolicy) -> TextGenerator:
        return self.generator(model.policy)

    # ------------------------------------------------------------ presets

    @classmethod
    def grue(cls, name: str) -> Self:
        """A task of GRUE with the settings of its released NLPO run; `language_model` is to be a folder of the published one."""
        task = grue_task(name)
        ppo = PPOConfig(
            transitions=task.transitions, lam=task.lam, value_weight=task.value_weight, entropy_weight=task.entropy, kl=task.kl,
            kl_target=task.target or 0.0,
        )  # fmt: skip
        masks = MaskConfig(
            top_p=task.top_p, min_keep=100, refresh=task.refresh, sampled_top_k=task.top_k, min_tokens=task.min_tokens
        )
        rounds = -(-task.transitions // (10 * task.max_tokens))
        return cls(
            language_model=f"hf:{task.base}", prompts=task.prompts, prefix=task.prefix, suffix=task.suffix, reward=task.reward,
            prompt_length=task.prompt_length, truncate=task.truncate, max_tokens=task.max_tokens, ppo=ppo, masks=masks, lr=task.lr,
            steps=task.steps, batch_size=10 * rounds, decoding=task.decoding,
        )  # fmt: skip

    @classmethod
    def tiny(cls) -> Self:
        """Sentences about the concepts of a prompt, rewarded by METEOR, from a small language model."""
        return cls(
            prompt_length=32, max_tokens=16, pieces=512, batch_size=32, steps=20, lr=1e-4, passes=4, minibatch=96,
            ppo=PPOConfig(transitions=192, kl=0.05, kl_target=0.0),
        )  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """IMDB by NLPO, as released."""
        return cls.grue("imdb")

    @classmethod
    def commongen(cls) -> Self:
        """A sentence with given concepts, METEOR less a penalty for repeating the prompt."""
        return cls.grue("commongen")

    @classmethod
    def cnn_daily_mail(cls) -> Self:
        """Summaries of news, METEOR."""
        return cls.grue("cnn_daily_mail")

    @classmethod
    def totto(cls) -> Self:
        """A sentence from the marked cells of a table, METEOR."""
        return cls.grue("totto")

    @classmethod
    def iwslt2017(cls) -> Self:
        """English to German, 1 - TER."""
        return cls.grue("iwslt2017")

    @classmethod
    def narrative_qa(cls) -> Self:
        """Answers about stories, the best ROUGE-L over the references."""
        return cls.grue("narrative_qa")

    @classmethod
    def daily_dialog(cls) -> Self:
        """The next turn of a dialogue, rewarded for the intent of the row and by METEOR, three to one. In the release the METEOR of an
        answer is the mean over it and the answers before it in the batch; here it is its own."""
        return cls.grue("daily_dialog")

    @classmethod
    def increasing_numbers(cls) -> Self:
        """Numbers that increase."""
        return cls.grue("increasing_numbers")

    @classmethod
    def dates(cls) -> Self:
        """Any text with a date."""
        return cls.grue("dates")


SHARED_FIELDS = (
    "language_model", "start", "start_behind", "end_starts", "language", "pieces", "small_steps", "language_folder", "prompts", "prefix",
    "suffix", "prompt_length", "truncate", "max_tokens", "decoding",
)  # fmt: skip
"""Fields that the supervised stage has in common with the policy's."""


def carry_supervised(before: nn.Module, after: nn.Module) -> None:
    """Policy and value model begin with the weights of the supervised one."""
    assert isinstance(after, LanguagePolicy)
    policy = before.policy
    assert isinstance(policy, LanguageModel)
    after.policy.load_state_dict(policy.state_dict())
    after.value_model.load_state_dict(value_model(policy).state_dict())


@lru_cache(maxsize=2)
def classifier_reward(address: str, device: str) -> ClassifierReward:
    """The reward of a classifier's folder and label, opened once per process and device."""
    if not address:
        raise ConfigError("reward is 'classifier' and classifier is '' (expected FOLDER:LABEL of a sequence classifier)")
    return ClassifierReward.open(address, device=device)


@lru_cache(maxsize=2)
def intent_classifier(folder: str, device: str) -> SequenceClassifier:
    """The classifier of intents in a folder, opened once per process and device."""
    if not folder:
        raise ConfigError("reward is 'intent' and classifier is '' (expected FOLDER of a sequence classifier of intents)")
    return SequenceClassifier.open(folder, device=device)
