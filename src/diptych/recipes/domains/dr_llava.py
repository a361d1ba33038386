"""Dr-LLaVA: conversations about an image, rewarded by a table of valid combinations for right and consistent answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn

from diptych.core.contracts import Dataset, Draws, Stage
from diptych.core.errors import ConfigError, RunError
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch, view
from diptych.data.text.prompts.layout import Layout, lay_out
from diptych.data.text.question_answering.questions import questions_of
from diptych.models.policy.dialogue_generator import DialogueGenerator, question_pieces
from diptych.models.policy.dialogue_policy import DialoguePolicy, DialogueTokens, sample_dialogues
from diptych.objectives.gather import all_gather
from diptych.objectives.policy.action_masks import drawn_actions
from diptych.objectives.policy.advantages import answer_gae, group_relative, whitened
from diptych.objectives.policy.divergence import KLEstimate, kl_estimate
from diptych.objectives.policy.surrogate import clipped_surrogate, value_loss
from diptych.recipes._shared.language.dialogue_tuning import DialogueTuning
from diptych.recipes._shared.language.multilingual_config import AdapterConfig
from diptych.recipes._shared.language.preference_pairs import carry_beneath_adapters
from diptych.tasks._scoring.rewards.symbolic_table import RewardParts, TableReward, symbolic_table
from diptych.train.engines.companions import frozen_copy
from diptych.train.engines.rollouts import RowNoise
from diptych.train.gradient_cache import to_float32

UNWHITENED = 10.0
"""Rewards are multiplied by it where they are not whitened, as released."""


@dataclass(frozen=True)
class AskedDialogues(TensorBatch):
    """Images, the questions about each in order, their names, and reference answers."""

    image_BCHW: Rows[Tensor]
    asked: Rows[tuple[tuple[str, ...], ...]]
    names: Rows[tuple[tuple[str, ...], ...]]
    references: Rows[tuple[tuple[str, ...], ...]]


@dataclass(frozen=True)
class DialogueRollout(TensorBatch):
    """Conversations that were drawn. answer_BL is True on what the policy wrote; M = L - 1.

    reward, right, consistent, kl, length  of the rollout: means over conversations; KL by token, words of an answer
    unfinished  share of conversations with an answer that was cut at its longest
    """

    image_BCHW: Rows[Tensor]
    id_BL: Rows[Tensor]
    slot_BL: Rows[Tensor]
    mask_BL: Rows[Tensor]
    answer_BL: Rows[Tensor]
    old_log_BM: Rows[Tensor]
    old_value_BM: Rows[Tensor]
    advantage_BM: Rows[Tensor]
    return_BM: Rows[Tensor]
    reward: Tensor
    right: Tensor
    consistent: Tensor
    kl: Tensor
    length: Tensor
    unfinished: Tensor

    @property
    def layout(self) -> Layout:
        return Layout(self.id_BL, self.slot_BL, self.mask_BL, self.answer_BL)


@dataclass(frozen=True, slots=True)
class TableRewardConfig:
    """Reward of a conversation (`tasks._scoring.rewards.symbolic_table`).

    table     a shipped table by name, or a YAML file
    correct, consistent, brief  weights of right answers, of pairs of answers that stand together, of lengths beyond the reference's
    unfinished  added where an answer has no end mark
    """

    table: str = "bone_marrow"
    correct: float = 1.0
    consistent: float = 1.0
    brief: float = 1.0
    unfinished: float = -2.0


@dataclass(frozen=True, slots=True)
class DialoguePPO:
    """Proximal policy optimisation of whole conversations.

    advantages  "gae" with a value model of its own, or "group": rewards of `samples` conversations about an image against their mean
    samples     conversations of an image in a rollout
    kl, kl_form price of leaving the supervised model, and its estimate; "k1" is 0 at least, as released
    clip, value_clip, value_weight  of the ratio, of the value, and of its error
    gamma, lam  of the advantages
    whiten_rewards  rewards of the tokens are divided by their deviation, their mean kept; else multiplied by 10
    temperature of the draw, and of the log-probabilities
    """

    advantages: Literal["gae", "group"] = "gae"
    samples: int = 1
    kl: float = 0.1
    kl_form: KLEstimate = "k1"
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    gamma: float = 1.0
    lam: float = 1.0
    whiten_rewards: bool = True
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.samples < 1 or (self.advantages == "group" and self.samples < 2) or self.temperature <= 0:
            raise ConfigError(
                f"samples {self.samples}, temperature {self.temperature:g} (expected 1 or more, 2 or more for advantages 'group', above 0)"
            )


@dataclass(frozen=True, kw_only=True)
class DrLLaVA(DialogueTuning):
    """Dr-LLaVA: Visual Instruction Tuning with Symbolic Clinical Grounding (Sun et al., 2024, arXiv 2405.19567).

    A LLaVA that was tuned on conversations of several questions about an image answers them in turn: each question is put behind its own
    answers. A table of logic gives the reward of the whole conversation: right answers, neighbouring answers that stand together in a row
    of the table whether they are right or not, and no more words than the reference has. Policy gradients follow it, at a price for
    leaving the tuned model; tokens of questions count nowhere. Samples are images with the same questions, whose kind is their name in
    the table; "reference" among a question's facets is the right answer, where the one that is learned first may be another.

    We depart from the release: its reward cannot run (see `symbolic_table`), so lengths are those of answers and references; its table
    finds keywords within words ("bone_marrow_released"); its means and whitening run over questions and padding, here over answers; its
    value model begins as a reward model of 13B, here as the policy; questions come in the order of the sample, where the release shuffles
    them (`world:tissue_dialogues?shuffled=true` has them so).

    reward       table and weights (`TableRewardConfig`)
    ppo          of conversations (`DialoguePPO`). Fields of both are options like these
    tuning_clip_norm  largest gradient norm of the dialogues that are learned before; `clip_norm` is that of captions and of the policy
    policy_share share of the steps that the policy learns in; the rest are LLaVA's own stages on the same data, captions first
    policy_batch_size, policy_lr, policy_warmup  of these steps; a batch are images
    passes       times that updates see each rollout
    minibatch    conversations of an update, over all processes; 0: the rollout
    shuffled     conversations of a minibatch are drawn at random
    max_tokens   of an answer
    """

    slug = "dr_llava"
    engine: ClassVar[str] = "policy"

    reward: TableRewardConfig = field(default_factory=TableRewardConfig)
    ppo: DialoguePPO = field(default_factory=DialoguePPO)
    tuning_clip_norm: float = 0.3
    policy_share: float = 0.5
    policy_batch_size: int = 512
    policy_lr: float = 3e-5
    policy_warmup: float = 5.0
    passes: int = 2
    minibatch: int = 256
    shuffled: bool = True
    max_tokens: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "needs", ("image", "questions"))
        if not 0 < self.policy_share <= 1 or self.max_tokens < 1:
            raise ConfigError(
                f"policy_share {self.policy_share:g}, max_tokens {self.max_tokens} (expected above 0 and at most 1, 1 or more)"
            )

    @property
    def measured_by(self) -> str:
        return f"clinical_dialogue:table={self.reward.table}"

    # ------------------------------------------------------------ data

    def prepare(self, data: Dataset) -> Self:
        """Opens the table first, and looks whether it has the questions of the first sample. Raises RunError where it has not."""
        table = symbolic_table(self.reward.table)
        kinds = [question.kind for question in questions_of(data[0])] if len(data) else []
        if unknown := [kind for kind in kinds if kind not in table.questions]:
            raise RunError(
                f"table '{self.reward.table}' has no question '{unknown[0]}', which is asked of sample '{data[0].uid}' (expected kinds "
                f"{', '.join(table.questions)})"
            )
        return super().prepare(data)

    def load(self, sample: Any, rng: Any) -> Mapping[str, Any]:
        return super(DialogueTuning, replace(self, instruct=True)).load(sample, rng)

    def batch(self, draws: Draws) -> Any:
        """The images of the draws with their questions. Raises RunError for conversations of different lengths."""
        asked = [questions_of(draw.sample) for draw in draws]
        if len({len(questions) for questions in asked}) > 1:
            raise RunError(f"conversations have {sorted({len(one) for one in asked})} questions (expected as many in each)")
        return AskedDialogues(
            self.preprocess([view(draw, self.image_size, self.crop, self.flip) for draw in draws]),
            tuple(tuple(question.text for question in one) for one in asked),
            tuple(tuple(question.kind for question in one) for one in asked),
            tuple(tuple(question.facets.get("reference", question.answers)[0] for question in one) for one in asked),
        )

    # ------------------------------------------------------------ model

    def model(self) -> Any:
        return DialoguePolicy(self.bridge(), values=self.ppo.advantages == "gae", temperature=self.ppo.temperature)

    @property
    def adapts(self) -> bool:
        return self.tuned.adapter_rank > 0

    @property
    def trained(self) -> tuple[str, ...]:
        return () if self.adapts else ("connector", "language")

    def stored(self, name: str) -> bool:
        return name.startswith("value_") or super().stored(name.removeprefix("bridge."))

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights of a bridge as those of the policy and, without adapters, of the value model."""
        given = super().fitted(tensors)
        policy = {name if name.startswith(("bridge.", "value_")) else f"bridge.{name}": value for name, value in given.items()}
        decoder = re.compile(r"^language\.inner\.(?:model|transformer|gpt_neox|decoder)\.")
        values = {decoder.sub("value_model.", name): value for name, value in given.items() if decoder.match(name)}
        return {**values, **policy} if self.ppo.advantages == "gae" else policy

    def companions(self, model: DialoguePolicy) -> dict[str, nn.Module]:
        return {"reference": frozen_copy(DialoguePolicy(model.bridge, values=False, temperature=self.ppo.temperature))}

    def rollout(self, model: DialoguePolicy, companions: Mapping[str, nn.Module], batch: AskedDialogues) -> DialogueRollout:
        """Conversations about each image, with advantages of their tokens."""
        words, ppo = self.words(), self.ppo
        index = [row for row in range(len(batch.asked)) for _ in range(ppo.samples)]
        image_BCHW = batch.image_BCHW[torch.tensor(index, device=batch.image_BCHW.device)]
        noise = RowNoise(len(index), image_BCHW.device)
        made = sample_dialogues(
            model.bridge,
            image_BCHW,
            [question_pieces(self.template, self.later, batch.asked[row], self.slots) for row in index],
            words,
            lambda logit_BV: drawn_actions((logit_BV / ppo.temperature).log_softmax(-1), noise.uniform()),
            max_tokens=self.max_tokens,
        )
        layout = _widened(lay_out(made.rows, words), words.pad_id).to(image_BCHW.device)
        policy, reference = to_float32([one(image_BCHW, layout) for one in (model, companions["reference"])])
        counts_BM = layout.answer_BL[:, 1:]
        table = symbolic_table(self.reward.table)
        judge = TableReward(table)
        texts = made.texts(words)
        parts = [judge(batch.names[row], text, batch.references[row]) for row, text in zip(index, texts, strict=True)]
        ended = made.finished(words)
        rewards = [self._total(one) + (0.0 if whole else self.reward.unfinished) for one, whole in zip(parts, ended, strict=True)]
        reward_B = torch.tensor(rewards, device=image_BCHW.device).to(policy.log_BM)
        kl_BM = kl_estimate(policy.log_BM, reference.log_BM, ppo.kl_form, floor=0.0 if ppo.kl_form == "k1" else None) * counts_BM
        advantage_BM, return_BM = self.advantages(reward_B, kl_BM, policy.value_BM, counts_BM)
        pairs = sum(len(one.values) - 1 for one in parts)
        numbers = {
            "reward": reward_B.mean(),
            "right": torch.tensor([float(one.all_right) for one in parts]).mean(),
            "consistent": torch.tensor(sum(one.consistent for one in parts) / max(pairs, 1)),
            "kl": kl_BM.sum() / counts_BM.sum(),
            "length": torch.tensor([float(len(text.split())) for one in texts for text in one]).mean(),
            "unfinished": torch.tensor([float(not whole) for whole in ended]).mean(),
        }
        return DialogueRollout(
            image_BCHW,
            layout.id_BL,
            layout.slot_BL,
            layout.mask_BL,
            layout.answer_BL,
            policy.log_BM,
            policy.value_BM,
            advantage_BM,
            return_BM,
            **{name: value.to(reward_B) for name, value in numbers.items()},
        )

    def _total(self, parts: RewardParts) -> float:
        weights = self.reward
        return weights.correct * parts.correct + weights.consistent * parts.consistent + weights.brief * parts.length

    def advantages(self, reward_B: Tensor, kl_BM: Tensor, value_BM: Tensor, counts_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns of each token, [B, M] each, zero where `counts_BM` is False."""
        ppo = self.ppo
        if ppo.advantages == "group":
            gained_B = reward_B - ppo.kl * kl_BM.sum(1)
            relative_B = group_relative(gained_B.reshape(-1, ppo.samples)).flatten()
            return relative_B[:, None] * counts_BM, torch.zeros_like(value_BM)
        last_BM = counts_BM & (counts_BM.long().cumsum(1) == counts_BM.sum(1, keepdim=True))
        token_BM = -ppo.kl * kl_BM + reward_B[:, None] * last_BM
        scaled_BM = whitened(token_BM, counts_BM, shift_mean=False, eps_on="deviation")
        token_BM = scaled_BM if ppo.whiten_rewards else UNWHITENED * token_BM
        made = answer_gae(token_BM, value_BM, counts_BM, gamma=ppo.gamma, lam=ppo.lam)
        return whitened(made.advantage, counts_BM, eps_on="deviation"), made.returns

    # ------------------------------------------------------------ loss

    def features(self, model: DialoguePolicy, batch: DialogueRollout) -> DialogueTokens:  # type: ignore[override]
        features: DialogueTokens = model(batch.image_BCHW, batch.layout)
        return features

    def losses(self, features: DialogueTokens, batch: DialogueRollout) -> dict[str, Tensor]:  # type: ignore[override]
        counts_BM, ppo = batch.answer_BL[:, 1:], self.ppo
        made = clipped_surrogate(features.log_BM, batch.old_log_BM, batch.advantage_BM, clip=ppo.clip, counts=counts_BM)
        if ppo.advantages == "group":
            return {"policy": made.loss}
        error = value_loss(
            features.value_BM,
            batch.return_BM,
            old_value=batch.old_value_BM,
            clip=ppo.value_clip,
            form="pessimistic",
            counts=counts_BM,
        )
        return {"policy": made.loss, "value": ppo.value_weight * error}

    def metrics(self, features: DialogueTokens, batch: DialogueRollout) -> dict[str, Tensor]:  # type: ignore[override]
        names = ("reward", "right", "consistent", "kl", "length", "unfinished")
        counts_BM = batch.answer_BL[:, 1:]
        entropy = (features.entropy_BM.detach() * counts_BM).sum() / counts_BM.sum()
        return {**{name: getattr(batch, name) for name in names}, "entropy": entropy}

    # ------------------------------------------------------------ stages

    def stages(self) -> Sequence[Stage]:
        if self.instruct:
            return ()
        tuning = DialogueTuning(**self.settings())
        before = []
        for stage in tuning.stages():
            recipe = cast(DialogueTuning, stage.recipe)
            recipe = replace(recipe, clip_norm=self.tuning_clip_norm) if recipe.instruct else recipe
            share = stage.share * (1 - self.policy_share)
            before.append(replace(stage, recipe=recipe, share=share, carry=carry_beneath_adapters))
        acting = replace(self, instruct=True, batch_size=self.policy_batch_size, lr=self.policy_lr, warmup=self.policy_warmup)
        return (*(stage for stage in before if stage.share > 0), Stage("policy", acting, self.policy_share, carry=carry_policy))

    def deploy(self, model: Any) -> DialogueGenerator:
        made = super().deploy(model.bridge if isinstance(model, DialoguePolicy) else model)
        return DialogueGenerator.of(made, self.later)

    @classmethod
    def tiny(cls) -> Self:
        """A small LLaVA that is tuned on conversations first, then 60 steps of eight conversations an image against their mean: four
        minutes on two cores with `world:tissue_dialogues`."""
        settings: dict[str, Any] = cls.small() | {"steps": 700, "projector_share": 0.2}
        return cls(
            **settings,
            reward=TableRewardConfig(table="tissue"),
            ppo=DialoguePPO(advantages="group", samples=8, kl=0.02),
            policy_share=60 / 700,
            policy_batch_size=8,
            policy_lr=1e-4,
            passes=1,
            minibatch=0,
            shuffled=False,
            max_tokens=12,
        )

    @classmethod
    def paper(cls) -> Self:
        """LLaVA of 7B at 224 pixels (`weights_from` hf:FOLDER), adapters of rank 64 on every linear map of the language model, the table of
        bone marrow. Published are four epochs of dialogues by 32s at 1e-4, and four of rollouts of 512: choose `steps` by your data."""
        return cls(
            image_tower="vit_l14",
            image_size=224,
            decoding="whole",
            projector_share=0.0,
            instruct_batch_size=32,
            instruct_lr=1e-4,
            tuned=AdapterConfig(64, 16.0, 0.0),
        )


def carry_policy(before: nn.Module, after: nn.Module) -> None:
    """Policy and value model begin with the weights of the tuned bridge."""
    bridge = before.bridge if isinstance(before, DialoguePolicy) else before
    assert isinstance(after, DialoguePolicy)
    carry_beneath_adapters(bridge, after.bridge)
    if hasattr(after, "value_model"):
        after.value_model.load_state_dict(after.bridge.language.inner.base_model.state_dict())


def _widened(layout: Layout, pad_id: int) -> Layout:
    """As wide as the widest layout of all processes."""
    width = int(all_gather(torch.tensor([layout.id_BL.shape[1]])).max())
    more = width - layout.id_BL.shape[1]
    if not more:
        return layout
    pad = torch.nn.functional.pad
    slot_BL, mask_BL, answer_BL = (
        pad(part, (0, more), value=False) for part in (layout.slot_BL, layout.mask_BL, layout.answer_BL)
    )
    return Layout(pad(layout.id_BL, (0, more), value=pad_id), slot_BL, mask_BL, answer_BL)
