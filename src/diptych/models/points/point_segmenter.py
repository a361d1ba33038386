"""Inference with a trained `Text4PointNet`: predicts the class of every point of room clouds; saved as one folder.

Letters: P points, F values per point, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, UnknownName
from diptych.data.points.room_clouds import RoomPreprocess
from diptych.data.text.prompts.class_prompts import ClassPrompts, class_prompts
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.card import described_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating
from diptych.models.points.point_embedder import anchor_of
from diptych.models.points.sampling import three_nearest_mean
from diptych.models.points.text4point import Text4PointNet, TextQueryingSettings, point_network_settings

POINTS_AT_ONCE = 8192


def prompts_of(names: Sequence[str], words: Tokenizer, length: int, *, context: int, prompt: str) -> ClassPrompts:
    """Return token rows of class names: after `context` learned vectors, or, if 0,
    in the sentence `prompt` with {} for the name.
    """
    if context:
        return class_prompts(names, words, length, context=context, tail="")
    encoded = words.encode([prompt.format(name.replace("_", " ")) for name in names], length)
    order_KL = np.tile(np.arange(length), (len(names), 1))
    return ClassPrompts(encoded.ids_BL, encoded.mask_BL, order_KL, (0, 0))


class TextPointSegmenter:
    """`PointSegmenter` by the fine-tuned head, for the classes it was trained on, or zero-shot after pre-training.

    Zero-shot scores are the cosines of every seed with the text vectors of any names. Points that are not sampled get the mean of
    the three nearest sampled points.
    """

    kind: ClassVar[str] = "text4point"

    def __init__(
        self,
        model: Text4PointNet,
        classes: Sequence[str],
        clouds: RoomPreprocess,
        tokenizer: Tokenizer,
        text_length: int,
        name: str,
        *,
        prompt: str,
        towers: Mapping[str, Any],
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """`classes`: names of training. `prompt`: the sentence around a name. `towers`: from `point_embedder.towers_of`."""
        self.model, self.classes, self.clouds, self.tokenizer = model, tuple(classes), clouds, tokenizer
        self.text_length, self.name, self.prompt = text_length, name, prompt
        self.towers, self.card = dict(towers), dict(card or {})

    @cached_property
    def fingerprint(self) -> str:
        shown = {"clouds": self.clouds.to_json(), "classes": list(self.classes), "prompt": self.prompt}
        return fingerprint(self.model, {**shown, "text_length": self.text_length})

    def segment_points(
        self, clouds: Sequence[npt.NDArray[np.float32]], labels: Sequence[str] = ()
    ) -> list[npt.NDArray[np.int32]]:
        """Return int32 [P] for each cloud [P, 6]: indices into `labels`, or into `classes` without labels.

        Raises UnknownName for a label that the head was not trained on, DecodeError for a cloud that cannot be read.
        """
        labels = list(labels or self.classes)
        if len(labels) < 2:
            raise ConfigError(f"labels are {labels} (expected two or more)")
        index = self._trained_places(labels)
        answers = []
        with torch.no_grad(), evaluating(self.model):
            texts = prompts_of(
                self.classes if self.model.classes else labels,
                self.tokenizer,
                self.text_length,
                context=self.model.querying.context if self.model.classes else 0,
                prompt=self.prompt,
            )
            self.model.set_classes(texts)
            for cloud_PF in clouds:
                answers.append(self._scores(cloud_PF)[:, index].argmax(1).to(torch.int32).numpy())
        return answers

    def _trained_places(self, labels: Sequence[str]) -> list[int]:
        if not self.model.classes:
            return list(range(len(labels)))
        for label in labels:
            if label not in self.classes:
                raise UnknownName("class", label, self.classes, hint="the head has the training classes only")
        return [self.classes.index(label) for label in labels]

    def _scores(self, cloud_PF: npt.NDArray[Any]) -> Tensor:
        """Return scores [P, K] on the CPU."""
        whole_P6 = torch.from_numpy(self.clouds(cloud_PF))
        device, dtype = self.model.lift.weight.device, self.model.lift.weight.dtype
        sampled_16F = whole_P6[self.clouds.rows(len(whole_P6))][None].to(device, dtype)
        seed_BGD, _, feature_BPC, xyz_BG3 = self.model.read_points(sampled_16F)
        if self.model.classes:
            known_1Q3, score_1QK = sampled_16F[..., :3], self.model.head(feature_BPC)
        else:
            known_1Q3, score_1QK = xyz_BG3, seed_BGD @ self.model.texts().T
        parts = [
            three_nearest_mean(part_P6[None, :, :3].to(device, dtype), known_1Q3, score_1QK)[0]
            for part_P6 in whole_P6.split(POINTS_AT_ONCE)
        ]
        return torch.cat(parts).float().cpu()

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer files, README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "towers": self.towers,
            "width": self.model.width,
            "network": self.model.points.to_json(),
            "querying": self.model.querying.to_json(),
            "head": self.model.classes,
            "classes": list(self.classes),
            "clouds": self.clouds.to_json(),
            "prompt": self.prompt,
            "text_length": self.text_length,
            "card": self.card,
        }
        readme = described_card(
            self.name,
            self.card,
            tags=("point-cloud", "semantic-segmentation"),
            about="Says which class each point of a room belongs to.",
            facts=f"{len(self.classes)} classes of training, {parameters(self.model):,} parameters.",
            use="model.segment_points([cloud])  # float32 [P, 6]: x y z in metres, z up, and colours",
        )
        write_model(folder, self.model, config, readme, self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            model = Text4PointNet(
                anchor_of(config["towers"], config["width"]),
                point_network_settings(config["network"]),
                TextQueryingSettings.from_json(config["querying"]),
                classes=config["head"],
            )
        load_weights(model, folder)
        return cls(
            model.eval(),
            config["classes"],
            RoomPreprocess.from_json(config["clouds"]),
            Tokenizer.load(folder),
            config["text_length"],
            config["name"],
            prompt=config["prompt"],
            towers=config["towers"],
            card=config.get("card"),
        )
