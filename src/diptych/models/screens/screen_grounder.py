"""Inference with a trained `CoordinateWriter`: predicts the box that an instruction refers to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from diptych.core.grounding import PhraseBoxes, PhraseQuery
from diptych.core.image import ImageSource
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.card import described_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.screens.coordinate_writer import CoordinateWriter
from diptych.models.towers.towers import image_tower


class ScreenGrounder:
    """`Grounder` that predicts one box per phrase by greedy decoding; coordinates are the centres of their bins.

    The score is the joint probability of the four coordinates. A phrase is read without the rest of its text. A box without area
    is returned unchanged.
    """

    kind: ClassVar[str] = "screen_grounder"

    def __init__(
        self, model: CoordinateWriter, shape: Mapping[str, Any], preprocess: Preprocess, tokenizer: Tokenizer, name: str, *,
        card: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """shape: the arguments of `CoordinateWriter` other than its tower."""
        self.model, self.shape, self.preprocess, self.tokenizer = model, dict(shape), preprocess, tokenizer
        self.name, self.card = name, dict(card or {})

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, {"preprocess": self.preprocess.to_json()})

    @torch.no_grad()
    def ground(
        self, images: Sequence[ImageSource], queries: Sequence[PhraseQuery], *, top: int = 100, batch_size: int = 16
    ) -> list[list[PhraseBoxes]]:
        """Return one box per phrase, in pixels of its image."""
        asked = [(image, phrase) for image, query in zip(images, queries, strict=True) for phrase in query.words()]
        device = next(self.model.parameters()).device
        boxes: list[PhraseBoxes] = []
        with evaluating(self.model):
            for some in parts(asked, batch_size):
                decoded = [decode(image, exact=True) for image, _ in some]
                words = self.tokenizer.encode([phrase for _, phrase in some], self.model.length)
                given = (
                    self.preprocess(decoded).to(device),
                    torch.from_numpy(words.ids_BL).long().to(device),
                    torch.from_numpy(words.mask_BL).to(device),
                )
                bin_B4 = self.model.write(*given, lambda logit_BK: logit_BK.argmax(-1))
                log_BTK = self.model(*given, bin_B4[:, None])[:, 0].log_softmax(-1)
                score_B = log_BTK.gather(-1, bin_B4[..., None]).sum((1, 2)).exp()
                for pixels, bins, score in zip(decoded, bin_B4.cpu().numpy(), score_B.tolist(), strict=True):
                    height, width = pixels.shape[:2]
                    box_4 = (bins + 0.5) / self.model.bins * np.array([width, height, width, height])
                    boxes.append(PhraseBoxes(box_4[None].astype(np.float32)[:top], np.array([score], np.float32)[:top]))
        in_order = iter(boxes)
        return [[next(in_order) for _ in query.phrases] for query in queries]

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer files, README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "tower": self.model.image_tower.spec,
            "shape": self.shape,
            "preprocess": self.preprocess.to_json(),
            "card": self.card,
        }
        readme = described_card(
            self.name,
            self.card,
            tags=("visual-grounding", "user-interface"),
            about="Writes the box that an instruction means in a picture of an application.",
            facts=f"{parameters(self.model):,} parameters; {self.preprocess.size} pixels, {self.model.bins} bins a coordinate.",
            use='boxes = model.ground([image], [diptych.core.grounding.PhraseQuery.of(["click the red button"])])',
        )
        write_model(folder, self.model, config, readme, self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            model = CoordinateWriter(image_tower(**config["tower"]), **config["shape"])
        load_weights(model, folder)
        preprocess = Preprocess.from_json(config["preprocess"])
        return cls(model.eval(), config["shape"], preprocess, Tokenizer.load(folder), config["name"], card=config.get("card"))
