"""A trained encoder of objects ready for use: slots of pictures for a policy, and the slot of every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from diptych.core.config import from_plain, to_plain
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.models.io.card import described_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.slots.object_network import ObjectNetwork, ObjectShape

BATCH = 32


class ObjectEncoder:
    """`Segmenter` whose classes are slots, and `represent`, what a policy reads. The numbers that slots begin with come from `seed`, the
    same for every picture, so that a picture has one answer."""

    kind: ClassVar[str] = "object_encoder"

    def __init__(
        self, model: ObjectNetwork, preprocess: Preprocess, name: str, *, seed: int = 0, card: Mapping[str, Any] | None = None
    ) -> None:
        self.model, self.preprocess, self.name, self.seed, self.card = model, preprocess, name, seed, dict(card or {})

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, {"preprocess": self.preprocess.to_json(), "seed": self.seed})

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the slots."""
        return tuple(f"slot {number}" for number in range(self.model.shape.slots.slots)) if self.model.has_masks else ()

    def represent(self, images: Sequence[ImageSource]) -> npt.NDArray[np.float32]:
        """[N, S, D]: slots; one vector of a VAE, the patches of a masked autoencoder."""
        return np.concatenate([slot_BSD.float().cpu().numpy() for slot_BSD, _ in self._read(images)])

    def masks(self, images: Sequence[ImageSource]) -> npt.NDArray[np.float32]:
        """[N, S, H, W]: soft masks of the slots at the encoder's size. Raises ConfigError for an encoder without slots."""
        return np.concatenate([self._masked(mask).float().cpu().numpy() for _, mask in self._read(images)])

    @one_or_many
    def segment(self, images: Sequence[ImageSource], labels: Sequence[str] = ()) -> list[npt.NDArray[np.int32]]:
        """The slot of largest mask at every pixel, int32 [H, W] at each image's own size. Slots have no names to choose by."""
        if labels and tuple(labels) != self.classes:
            raise ConfigError(f"'{self.name}' has slots but no classes, so it cannot segment {labels[0]!r} (expected no labels)")
        maps = []
        for image, mask_SHW in zip(images, self.masks(images), strict=True):
            slot = Image.fromarray(mask_SHW.argmax(0).astype(np.uint8))
            height, width = decode(image, exact=True).shape[:2]
            maps.append(np.asarray(slot.resize((width, height), Image.Resampling.NEAREST), np.int32))
        return maps

    @torch.no_grad()
    def _read(self, images: Sequence[ImageSource]) -> list[tuple[Tensor, Tensor | None]]:
        device = next(self.model.parameters()).device
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.model.noise_shape, generator=generator).to(device)
        read = []
        with evaluating(self.model):
            for some in parts(images, BATCH):
                image_BCHW = self.preprocess([decode(image, exact=True) for image in some]).to(device)
                read.append(self.model.represent(image_BCHW, noise.expand(len(some), *noise.shape) if noise.ndim else None))
        return read

    def _masked(self, mask: Tensor | None) -> Tensor:
        if mask is None:
            raise ConfigError(f"'{self.name}' has no slots (its encoder is '{self.model.shape.kind}', expected one with slots)")
        return mask

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "shape": to_plain(self.model.shape),
            "preprocess": self.preprocess.to_json(),
            "seed": self.seed,
            "card": self.card,
        }
        readme = described_card(
            self.name,
            self.card,
            tags=("object-centric", "image-feature-extraction"),
            about="Reads a picture as a set of slots.",
            facts=f"{parameters(self.model):,} parameters; '{self.model.shape.kind}', {self.model.shape.size} pixels.",
            use="slots = model.represent(images)",
        )
        write_model(folder, self.model, config, readme)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The encoder of a folder that `save` wrote."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            model = ObjectNetwork(from_plain(ObjectShape, config["shape"]))
        load_weights(model, folder)
        preprocess = Preprocess.from_json(config["preprocess"])
        return cls(model.eval(), preprocess, config["name"], seed=config["seed"], card=config.get("card"))
