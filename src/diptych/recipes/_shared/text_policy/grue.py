"""The tasks of GRUE (Ramamurthy et al., 2022, 2210.01241) as data: prompts, rewards, metrics and settings as released.

Their texts come with no package: IMDB, CommonGen, CNN/DailyMail, ToTTo, IWSLT 2017, NarrativeQA and DailyDialog are read from the user's
own files, prompts in the extra "prompt". Rewards that are learned models of others (IMDB's sentiment, DailyDialog's intents) have none
here, and take the folder of a classifier.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from diptych.core.errors import UnknownName
from diptych.data.text.prompts.generation_prompts import PromptForm
from diptych.models.policy.decoding import DecodingConfig
from diptych.models.policy.prompt_rows import Truncate


@dataclass(frozen=True, slots=True)
class GrueTask:
    """One task of GRUE, with the settings of its NLPO run.

    base        the published language model
    prompts     where a prompt comes from, with `prefix` before and `suffix` behind it
    reward      by name (`tasks._scoring.rewards.text_rewards`); "classifier" and "intent" need the folder of one
    metrics     rewards that the evaluation reports. The release also has BERTScore and BLEURT, for which "bert_score:FOLDER" and
                "bleurt:FOLDER" need a model, and SPICE, for which "scene_tuples" stands here
    prompt_length, truncate  tokens of a prompt, and which end of a longer one is cut
    max_tokens, min_tokens, top_k  of the answers that are sampled; top_k 0 takes all
    transitions tokens of a rollout: steps of an environment, of which ten run side by side
    lr, steps   learning rate and rollouts
    kl, target  coefficient of the KL penalty, and the KL that it follows
    top_p, refresh  mass of the mask, and rollouts between two copies of the policy
    entropy, value_weight, lam  weights of entropy and value, and lambda of the advantages
    decoding    of the evaluation
    """

    base: str
    prompts: PromptForm
    reward: str
    metrics: tuple[str, ...]
    prompt_length: int
    max_tokens: int
    kl: float
    target: float | None
    lr: float
    steps: int
    refresh: int
    prefix: str = ""
    suffix: str = ""
    truncate: Truncate = "left"
    min_tokens: int = 0
    top_k: int = 50
    transitions: int = 1280
    top_p: float = 0.9
    entropy: float = 0.0
    value_weight: float = 0.5
    lam: float = 0.95
    decoding: DecodingConfig = field(default_factory=DecodingConfig)


def sampled(top_k: int, *, least: int = 0, temperature: float = 1.0) -> DecodingConfig:
    """Sampling among the likeliest tokens, 0 for all."""
    return DecodingConfig(decode_temperature=temperature, decode_top_k=top_k, decode_min_tokens=least)


OVERLAP = ("meteor", "rouge1", "rouge2", "rougeL", "bleu")
OVERLAP_BEST = ("meteor", "rouge1:best", "rouge2:best", "rougeL:best", "bleu")
TASKS: dict[str, GrueTask] = {
    "imdb": GrueTask(
        "gpt2-imdb", "opening", "classifier", (), 64, 48, 0.1, 0.1, 1e-6, 50, 5, min_tokens=48, decoding=sampled(50, least=48),
    ),
    "commongen": GrueTask(
        "t5-base", "extra", "meteor+commongen_penalty", (*OVERLAP, "cider", "scene_tuples"), 15, 20, 1e-3, 2.0, 2e-6, 100, 20,
        prefix="generate a sentence with: ", suffix=".", min_tokens=9, decoding=sampled(50, least=9),
    ),
    "cnn_daily_mail": GrueTask(
        "t5-base", "extra", "meteor", OVERLAP, 512, 100, 1e-3, 0.2, 2e-6, 100, 20,
        prefix="Summarize: ", truncate="right", min_tokens=49, top_k=100, transitions=5120, decoding=sampled(0, least=49, temperature=0.7),
    ),
    "totto": GrueTask(
        "t5-base", "extra", "meteor", (*OVERLAP_BEST, "sacrebleu", "parent"), 512, 50, 1e-3, 2.0, 2e-6,
        100, 20, min_tokens=9, top_k=0, transitions=2560, decoding=DecodingConfig(beams=5, decode_min_tokens=9),
    ),
    "iwslt2017": GrueTask(
        "t5-base", "extra", "ter", (*OVERLAP, "sacrebleu:intl", "ter", "chrf"), 128, 128, 1e-3, 0.2, 1e-6, 50, 20,
        prefix="translate English to German: ", truncate="right", top_k=10, transitions=5120, top_p=0.5,
        decoding=DecodingConfig(beams=4, length_penalty=0.6),
    ),
    "narrative_qa": GrueTask(
        "t5-base", "extra", "rouge_l_max", (*OVERLAP_BEST, "rouge_l_max"), 512, 50, 1e-3, 1.0, 2e-6, 100, 20,
        truncate="right", transitions=2560, decoding=DecodingConfig(beams=4),
    ),
    "daily_dialog": GrueTask(
        "gpt2", "extra", "0.75*intent+0.25*meteor", (*OVERLAP, "sacrebleu:intl"), 128, 20, 0.2, 0.5,
        1e-6, 100, 20, min_tokens=2, top_k=20, decoding=sampled(20, least=2),
    ),
    "increasing_numbers": GrueTask(
        "gpt2", "nothing", "increasing_numbers:20", ("increasing_numbers:20",), 5, 20, 0.02, 2.0, 1e-5, 200, 100,
        min_tokens=20, top_k=0, value_weight=0.1, lam=0.9, decoding=sampled(0, least=20),
    ),
    "dates": GrueTask("gpt2", "nothing", "dates", ("dates",), 5, 30, 0.02, 2.0, 1e-5, 100, 100, top_k=0, entropy=1e-3, decoding=sampled(0)),
}  # fmt: skip
"""By name. top_k is 50 where a configuration names none: the default of the generation code that the release runs. Its least length counts
the token that T5's answers start with, so that min_tokens is one less there.

Evaluations decode as the configurations of NLPO say; those of PPO and of models that learned references first have five beams and at
least 4 tokens for CommonGen, and the others decode the same. Three habits of the release are left out: its generation code counts T5's
first token, and a decoder's whole prompt, in the length that `length_penalty` takes; NLPO's mask stays on in evaluations; and NLPO's for
NarrativeQA names no greatest length, which makes it 19 tokens of an answer."""


def grue_task(name: str) -> GrueTask:
    """The task of that name."""
    if name not in TASKS:
        raise UnknownName("task of GRUE", name, TASKS)
    return TASKS[name]
