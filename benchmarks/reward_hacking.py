"""Reward hacking, looked for: a language model tuned on a metric of its texts, with a KL penalty and without, beside controls.

    python benchmarks/reward_hacking.py [--reward meteor+length:20] [--steps 12] [--lr 1e-3] [--rows 240] [--seed 0]

A small language model writes sentences about the phrases of a scene. Arms: the model as it is; the best of eight of its samples by the
reward; trained for longer on the references; PPO with a KL penalty; PPO without; PPO without, rewarded for length alone. Answers to prompts
of other scenes are greedy, but for the best of eight. Printed are the reward, METEOR of the same answers, KL to the model of the beginning
by token in the last rollout, share of word pairs that an answer repeats, share of different word pairs over all answers, length in words.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from diptych.data.load.stream import batches
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.io.saved_model import open_model
from diptych.models.policy.sampled_answers import SamplingRules, sample_answers
from diptych.objectives.policy.action_masks import drawn_actions
from diptych.recipes._shared.text_policy.supervised_text import SupervisedText
from diptych.recipes.alignment.rl4lms import SHARED_FIELDS, RL4LMs
from diptych.tasks._scoring.rewards.text_rewards import text_reward
from diptych.tasks.generation.generated_text import TextGeneration
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.world import scenes

TEXTS = "small:world:scenes?n=2000&seed=1&max_objects=2&lengths=short&paraphrases=0&negatives=false"
SAMPLES, MAX_TOKENS = 8, 24


def texts_of(split: Any, rows: int, seed: int) -> Any:
    return scenes(rows, seed=seed, split=split, max_objects=2, lengths=("short",), paraphrases=0, negatives=False).remembering()


def best_of(recipe: RL4LMs, policy: LanguageModel, test: Any, records: pa.Table, samples: int) -> pa.Table:
    """Records with, for each prompt, the sampled answer of the highest reward."""
    (step,) = batches(test, replace(recipe, batch_size=len(test)), seed=0, stop=1)
    batch, words, generator = step.batch, recipe.words(), torch.Generator().manual_seed(0)
    rules = SamplingRules(words.end_id, words.pad_id, MAX_TOKENS)
    best: dict[str, tuple[float, str]] = {}
    for _ in range(samples):
        drawn = sample_answers(
            policy, batch.prompt_BP, batch.there_BP, rules,
            lambda logit_BV: drawn_actions(logit_BV.log_softmax(-1), torch.rand(len(logit_BV), generator=generator)),
        )  # fmt: skip
        answers = [
            words.decode(ids[: int(kept.sum())]).strip() for ids, kept in zip(drawn.ids_BL.tolist(), drawn.chosen_BL, strict=True)
        ]
        scores = text_reward(recipe.reward)(batch.prompts, answers, batch.references)
        for prompt, scored in zip(batch.prompts, zip(scores, answers, strict=True), strict=True):
            best[prompt] = max(best.get(prompt, scored), scored)
    column = pa.array([best[prompt][1] for prompt in records["prompt"].to_pylist()])
    return records.set_column(records.schema.get_field_index("answer"), "answer", column)


def row(name: str, task: TextGeneration, records: pa.Table, kl: float | None) -> str:
    metrics = task.score(records).metrics
    shown = [metrics[key].value for key in (task.rewards[0], "meteor")]
    shown += [float("nan") if kl is None else kl]
    shown += [metrics[key].value for key in ("repetition", "naturalness/distinct-2", "naturalness/length")]
    return f"| {name} | " + " | ".join("" if value != value else f"{value:.3f}" for value in shown) + " |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", default="meteor+length:20")
    parser.add_argument("--steps", type=int, default=12, help="of every arm that learns")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rows", type=int, default=240, help="scenes to learn from; sixty others are answered")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    train, test = texts_of("train", options.rows, options.seed), texts_of("test", 60, options.seed)
    made = replace(
        RL4LMs.tiny(), language_model=TEXTS, small_steps=400, algorithm="ppo", steps=options.steps, lr=options.lr,
        reward=options.reward, batch_size=16, minibatch=64, max_tokens=MAX_TOKENS,
    )  # fmt: skip
    free = replace(made.ppo, kl=0.0)
    arms = {
        "PPO, KL penalty": made,
        "PPO without": replace(made, ppo=free),
        "PPO without, length alone": replace(made, ppo=free, reward="length:20"),
    }
    task = TextGeneration(rewards=(options.reward, "meteor"), max_tokens=MAX_TOKENS, draws=1, window=50)
    training = TrainOptions(progress=False, log_every=1, save_every=10_000, precision="fp32", seed=options.seed, device="cpu")
    print(
        "| arm | reward | METEOR | KL | repeated word pairs | different word pairs | words |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        start = made.prepare(train)
        policy = start.model().policy.eval()
        records = task.predict(start.generator(policy), test)
        print(row("as it was", task, records, None), flush=True)
        print(row(f"best of {SAMPLES}", task, best_of(start, policy, test, records, SAMPLES), None), flush=True)
        shared = {name: getattr(start, name) for name in SHARED_FIELDS}
        longer = SupervisedText(**shared, lr=options.lr, batch_size=made.batch_size, steps=options.steps)
        run = fit(longer, train, Path(folder, "longer"), training)
        print(row("trained for longer", task, task.predict(open_model(run.model), test), None), flush=True)
        for number, (name, recipe) in enumerate(arms.items()):
            run = fit(recipe, train, Path(folder, str(number)), training)
            kl = [line["kl"] for line in run.metrics() if line.get("kind") == "train"][-1]
            print(row(name, task, task.predict(open_model(run.model), test), kl), flush=True)


if __name__ == "__main__":
    main()
