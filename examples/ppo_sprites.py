"""PPO of stable-baselines3 on a task with sprites, from the slots of a trained encoder of `ocr_rl`.

    diptych train ocr_rl --data "world:sprites?n=20000" --out runs/slots
    python examples/ppo_sprites.py runs/slots/model --task odd_one_out --steps 200000

Needs `pip install 'diptych[rl]'`. The encoder is frozen; its slots are pooled by a transformer that learns with the policy. As published,
the policy is evaluated while it draws its actions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

import diptych
from diptych.core.errors import DiptychError
from diptych.models.slots.object_encoder import ObjectEncoder
from diptych.models.slots.pooling import slot_pooling
from diptych.worlds.sprites.environments import SpriteEnvironment, SpriteTask


class SlotExtractor(BaseFeaturesExtractor):
    """Slots of a frozen encoder, pooled by a transformer."""

    def __init__(self, observation_space: Any, encoder: Any, pooling: str) -> None:
        size = encoder.model.shape.size
        with torch.no_grad():
            slots, width = encoder.model.represent(torch.zeros(1, 3, size, size))[0].shape[1:]
        positions = {} if encoder.model.has_masks or pooling != "transformer" else {"positions": "sine"}
        pool = slot_pooling(pooling, width, slots, **positions)
        super().__init__(observation_space, pool.width)
        self.network, self.pool = encoder.model.requires_grad_(False), pool

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, width]: stable-baselines3 gives pixels from 0 to 1, channels first."""
        self.network.eval()
        with torch.no_grad():
            slot_BSD = self.network.represent(image_BCHW)[0]
        return self.pool(slot_BSD)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a trained encoder")
    parser.add_argument("--task", default="odd_one_out", choices=("target", "push", "odd_one_out"))
    parser.add_argument("--pooling", default="transformer", choices=("transformer", "mlp", "relation_network", "concatenation"))
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--rollout", type=int, default=2048, help="steps of a rollout")
    parser.add_argument("--episodes", type=int, default=100, help="of the evaluation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.rollout < 2 or options.episodes < 1:
        parser.error(
            f"steps {options.steps}, rollout {options.rollout}, episodes {options.episodes} (expected 1, 2 and 1 or more)"
        )
    try:
        encoder = diptych.load(options.model)
    except DiptychError as error:
        parser.error(str(error))
    if not isinstance(encoder, ObjectEncoder):
        parser.error(f"{options.model} holds a {type(encoder).__name__} (expected a model that `diptych train ocr_rl` made)")
    task = SpriteTask.published(options.task, size=encoder.model.shape.size)
    extractor = {
        "features_extractor_class": SlotExtractor,
        "features_extractor_kwargs": {"encoder": encoder, "pooling": options.pooling},
    }
    ppo = PPO(
        "CnnPolicy", SpriteEnvironment(task), n_steps=options.rollout, batch_size=32, learning_rate=3e-4, gamma=0.99, clip_range=0.2,
        ent_coef=0.01, seed=options.seed, policy_kwargs={**extractor, "net_arch": {"pi": [64], "vf": [64]}},
    )  # fmt: skip
    ppo.learn(options.steps, progress_bar=sys.stderr.isatty())
    reward, deviation = evaluate_policy(ppo, SpriteEnvironment(task), options.episodes, deterministic=False, warn=False)
    print(f"{options.task}: solved {reward:.3f} of {options.episodes} episodes after {options.steps} steps")
    return {"solved": float(reward), "deviation": float(deviation)}


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped: nothing is kept of an agent that has not finished")
