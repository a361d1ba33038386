"""Inference with a trained goal network: its tokenizer and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from diptych.core.config import from_plain, to_plain
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.card import described_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.reasoning.goal_network import GoalForm, GoalNetwork
from diptych.models.towers.towers import image_tower, text_tower


class GoalPredictorModel:
    """`GoalPredictor`: predicts the symbolic goal of a sentence in a picture.

    padded  sentences are padded to their full length and padding is attended to like words, as released
    """

    kind: ClassVar[str] = "goal_predictor"

    def __init__(
        self,
        model: GoalNetwork,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        text_length: int,
        name: str,
        *,
        padded: bool = False,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.preprocess, self.tokenizer, self.text_length = model, preprocess, tokenizer, text_length
        self.name, self.padded, self.card, self.truncated = name, padded, dict(card or {}), 0

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, {"form": to_plain(self.model.form), "preprocess": self.preprocess.to_json()})

    def predict_goals(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, batch_size: int = 64
    ) -> list[tuple[str, str, str]]:
        """Return (predicate, subject, object) for each picture and sentence."""
        if len(images) != len(texts):
            raise ConfigError(f"{len(images)} pictures and {len(texts)} sentences (expected as many of each)")
        form, goals = self.model.form, []
        with torch.no_grad(), evaluating(self.model):
            device = next(self.model.parameters()).device
            for rows in parts(range(len(texts)), batch_size):
                image_BCHW = self.preprocess([decode(images[row], exact=True) for row in rows])
                text_BL, mask_BL, truncated = sentence_tokens(
                    self.tokenizer, [texts[row] for row in rows], self.text_length, padded=self.padded
                )
                self.truncated += truncated
                logits = self.model(image_BCHW.to(device), text_BL.to(device), mask_BL.to(device))
                chosen = [part_BK.argmax(1).tolist() for part_BK in (logits.predicate_BK, logits.subject_BK, logits.object_BK)]
                goals += [
                    (form.predicates[predicate], form.objects[subject], form.objects[other])
                    for predicate, subject, other in zip(*chosen, strict=True)
                ]
        return goals

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer.json, README.md, replacing the whole folder."""
        towers = {"image_tower": self.model.image, "text_tower": self.model.text}
        config = {
            "kind": self.kind,
            "name": self.name,
            "network": to_plain(self.model.form),
            **{name: None if tower is None else tower.spec for name, tower in towers.items()},
            "preprocess": self.preprocess.to_json(),
            "text_length": self.text_length,
            "padded": self.padded,
            "card": self.card,
        }
        form = self.model.form
        readme = described_card(
            self.name,
            self.card,
            tags=("robotics",),
            about="Predicts the symbolic goal (predicate, subject, object) of an instruction or an intent in a picture.",
            facts=f"{parameters(self.model):,} parameters; {len(form.predicates)} predicates, {len(form.objects)} names of things.",
            use='goals = model.predict_goals([picture], ["cook the egg"])',
        )
        write_model(folder, self.model, config, readme, self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            image = None if config["image_tower"] is None else image_tower(**config["image_tower"])
            text = None if config["text_tower"] is None else text_tower(**config["text_tower"])
            model = GoalNetwork(image, text, from_plain(GoalForm, config["network"]))
        load_weights(model, folder)
        return cls(
            model.eval(),
            Preprocess.from_json(config["preprocess"]),
            Tokenizer.load(folder),
            int(config["text_length"]),
            config["name"],
            padded=bool(config["padded"]),
            card=config.get("card"),
        )


def sentence_tokens(
    tokenizer: Tokenizer, texts: Sequence[str], length: int, *, padded: bool
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return ids and mask [B, L] of sentences, and how many were truncated.

    Columns of only padding are removed; with `padded`, rows are padded to `length`, and the mask is True on padding.
    """
    encoded = tokenizer.encode(list(texts), length)
    longest = length if padded else max(int(encoded.mask_BL.sum(1).max()), 1)
    mask_BL = torch.from_numpy(encoded.mask_BL[:, :longest])
    return torch.from_numpy(encoded.ids_BL[:, :longest]), torch.ones_like(mask_BL) if padded else mask_BL, encoded.truncated
