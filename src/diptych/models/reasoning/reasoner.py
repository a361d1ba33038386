"""Inference with a trained relational network and the names of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from diptych.core.config import from_plain, to_plain
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.data.problems.problem import problem_of
from diptych.models.io.card import described_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.reasoning.batches import batch_of
from diptych.models.reasoning.encoders import CONV_SIDE
from diptych.models.reasoning.network import NetworkForm, RelationalNetwork, predicted

PICTURES = Preprocess(CONV_SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class RelationalReasoner:
    """`Reasoner` over problems of one kind; `steps` may be more than in training."""

    kind: ClassVar[str] = "relational_reasoner"

    def __init__(self, model: RelationalNetwork, name: str, steps: int, card: Mapping[str, Any] | None = None) -> None:
        self.model, self.name, self.steps, self.card = model, name, steps, dict(card or {})

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, {"shape": to_plain(self.model.shape), "steps": self.steps})

    def reason(self, samples: Sequence[Sample], *, steps: int = 0, batch_size: int = 64) -> list[list[tuple[str, ...]]]:
        """Return the answers of each sample after each of `steps` (0: the model's own).
        Raises DataError for a problem of another kind.
        """
        if steps < 0:
            raise ConfigError(f"steps is {steps} (expected 1 or more, or 0 for the model's own)")
        names, answers = self.model.shape.form.names, []
        with torch.no_grad(), evaluating(self.model):
            device = next(self.model.parameters()).device
            for some in parts(samples, batch_size):
                image = None
                if self.model.shape.pixels:
                    image = PICTURES([decode(_picture(sample), exact=True) for sample in some])
                batch = batch_of([problem_of(sample) for sample in some], self.model.shape.form, image=image).to(device)
                class_BTA = predicted(self.model(batch, steps or self.steps).logit_BTAK).tolist()
                answers += [[tuple(names[number] for number in step) for step in row] for row in class_BTA]
        return answers

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "network": to_plain(self.model.shape),
            "steps": self.steps,
            "card": self.card,
        }
        shape = self.model.shape
        readme = described_card(
            self.name,
            self.card,
            tags=("graph-ml", "reasoning"),
            about=f"Answers problems of the kind '{shape.form.problem}' in steps.",
            facts=f"{parameters(self.model):,} parameters; {shape.steps} steps in training, {self.steps} where nobody says otherwise.",
            use="answers = model.reason(samples)",
        )
        write_model(folder, self.model, config, readme)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            model = RelationalNetwork(from_plain(NetworkForm, config["network"]))
        load_weights(model, folder)
        return cls(model.eval(), config["name"], int(config["steps"]), config.get("card"))


def _picture(sample: Sample) -> Any:
    if sample.image is None:
        raise DataError(f"sample '{sample.uid}' has no picture", field="image", expected="one of its things")
    return sample.image
