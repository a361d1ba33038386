"""Inference with a dual encoder: embeds images and texts as unit vectors; saved as one folder.

Letters: B batch, N items, C channel, H W, L tokens, D width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.terminal import notebook
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import BatchEncoding, Tokenizer
from diptych.models.io.card import model_card
from diptych.models.io.device import batched
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.frozen_engine import computing
from diptych.models.io.inference import evaluating, parts
from diptych.models.layers.prefix import PrefixEmbedder
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.encoders.dense_encoder import Token, TwoTokenEncoder
from diptych.models.pairs.encoders.growing_encoder import GrowingEncoder
from diptych.models.towers.towers import image_tower, text_tower

VARIANTS: dict[str, type[DualEncoder]] = {"": DualEncoder, "growing": GrowingEncoder, "two_tokens": TwoTokenEncoder}
"""Variants of dual encoders: the name in config.json -> class."""
T = TypeVar("T")


class TextTokenizer(Protocol):
    """Turns strings into token ids: a `Tokenizer`, or another library's with the same interface."""

    def encode(self, texts: Sequence[str], length: int, /) -> BatchEncoding: ...


class Embedding:
    """Embeds with any module that has `width`, `encode_image(image_BCHW)` and `encode_text(text_BL, mask_BL)`, both unit-norm.

    Images are decoded exactly (the same pixels on every machine) and preprocessed; the module runs without gradient and in
    evaluation mode, and its modes are restored afterwards. `bf16` runs it under bfloat16 autocast: faster, with errors in the
    last digits. `truncated` counts the texts that were longer than `text_length` tokens and therefore truncated,
    since this object was created. `batch_size` is that of a CPU (`models.io.device`).
    """

    autocasts: ClassVar[bool] = True
    """`bf16` may be set when the model is placed on a device."""

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        tokenizer: TextTokenizer,
        text_length: int,
        name: str,
        *,
        bf16: bool = False,
    ) -> None:
        self.model: Any = model
        self.preprocess, self.tokenizer, self.text_length = preprocess, tokenizer, text_length
        self.name, self.bf16 = name, bf16
        self.truncated = 0

    def _repr_html_(self) -> str:
        return notebook.model_facts(self, self.model)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights and preprocessing, computed at first access; if the weights change later, create a new object."""
        settings: dict[str, Any] = {"preprocess": self.preprocess.to_json(), "text_length": self.text_length}
        if variant := variant_of(self.model):
            settings["model"] = variant
        return fingerprint(self.model, settings)

    @one_or_many
    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        with self._ready() as device, computing(self.model) as dtype:

            def encode(part: Sequence[ImageSource]) -> Tensor:
                pixels_BCHW = self.preprocess([decode(image, exact=True) for image in part])
                return cast(Tensor, self.model.encode_image(pixels_BCHW.to(device, dtype)))

            return self._rows(batched(images, batch_size, device, encode))

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        with self._ready() as device, computing(self.model):

            def encode(part: Sequence[str]) -> Tensor:
                encoded = self.tokenizer.encode(list(part), self.text_length)
                text_BL, mask_BL = self._fitted(torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL))
                vector_BD: Tensor = self.model.encode_text(text_BL.to(device), mask_BL.to(device))
                self.truncated += encoded.truncated  # once, also if a part is halved
                return vector_BD

            return self._rows(batched(texts, batch_size, device, encode))

    def _fitted(self, text_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        return text_BL, mask_BL

    def _rows(self, blocks: list[Tensor]) -> Unit:
        if not blocks:
            return np.zeros((0, self.model.width), np.float32)
        return torch.cat(blocks).float().cpu().numpy()

    @contextmanager
    def _ready(self) -> Iterator[torch.device]:
        device = next(self.model.parameters()).device
        with torch.no_grad(), evaluating(self.model), torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            yield device


class PairEmbedder(Embedding):
    """A trained `DualEncoder` with its preprocessing and tokenizer.

    `card` goes into the folder's README.md and config.json: any of "description", "data", "recipe", "licence" (strings) and
    "metrics" (a dict of numbers). `dims` are the widths of trained prefixes (recipe `mrl`).
    `left` names the tensors of another library's file that are not used for embeddings,
    `fresh` the prefixes of the names of tensors without given weights, which a run that starts from this model initialises.
    """

    kind: ClassVar[str] = "dual_encoder"
    variants: ClassVar[Mapping[str, type[DualEncoder]]] = VARIANTS
    left: Sequence[str] = ()
    fresh: tuple[str, ...] = ()
    model: DualEncoder
    tokenizer: Tokenizer

    def __init__(
        self,
        model: DualEncoder,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        text_length: int,
        name: str,
        *,
        bf16: bool = False,
        card: Mapping[str, Any] | None = None,
        dims: Sequence[int] = (),
    ) -> None:
        super().__init__(model, preprocess, tokenizer, text_length, name, bf16=bf16)
        self.card, self.dims = dict(card or {}), tuple(dims)

    def first(self, width: int) -> PrefixEmbedder:
        """Return an embedder of the first `width` dimensions of each vector."""
        return PrefixEmbedder(self, width)

    def reading(self, token: Token) -> Self:
        """Return an embedder by the first or the second class token (recipe `tips`). Shares the towers."""
        if not isinstance(self.model, TwoTokenEncoder):
            raise ConfigError(f"'{self.name}' has one image vector (expected a model of recipe tips with two class tokens)")
        model = copy.copy(self.model)
        model.token = token
        return type(self)(model, self.preprocess, self.tokenizer, self.text_length, f"{self.name}/{token}", bf16=self.bf16)

    def embed_prompts(self, prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the unit-norm vector [D] of several wordings: the mean of their unnormalised vectors, then normalised."""
        encoded = self.tokenizer.encode(list(prompts), self.text_length)
        with self._ready() as device:
            text_BL, mask_BL = self._fitted(torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL))
            vector_D = self.model.text_vectors(text_BL.to(device), mask_BL.to(device)).mean(0)
        return F.normalize(vector_D, dim=0).float().cpu().numpy()

    @one_or_many
    def embed_dense(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        """Return patch features [N, rows, columns, D] of the image tower after its final norm,
        neither projected nor normalised.
        """
        blocks = []
        with self._ready() as device:
            for part in parts(images, batch_size):
                image_BCHW = self.preprocess([decode(image, exact=True) for image in part]).to(device)
                tokens_BPD = self.model.image_tower(image_BCHW).tokens_BPD
                side = math.isqrt(tokens_BPD.shape[1])
                if side * side != tokens_BPD.shape[1]:
                    raise ConfigError(f"the {tokens_BPD.shape[1]} patches of '{self.name}' do not form a square")
                blocks.append(tokens_BPD.unflatten(1, (side, side)).float().cpu())
        return torch.cat(blocks).numpy()

    def _fitted(self, text_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Remove columns of only padding, which our text towers ignore.
        Padding on the left is kept, since it shifts positions.
        """
        if self.tokenizer.side == "left":
            return text_BL, mask_BL
        longest = max(int(mask_BL.sum(1).max()), 1)
        return text_BL[:, :longest], mask_BL[:, :longest]

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer.json, README.md, replacing the whole folder."""
        model = self.model
        for tower in (model.image_tower, model.text_tower):
            if not hasattr(tower, "spec"):
                raise ConfigError(f"{type(tower).__name__} cannot be saved: build it by image_tower(...) or text_tower(...)")
        config = {
            "kind": self.kind,
            "name": self.name,
            "image_tower": model.image_tower.spec,
            "text_tower": model.text_tower.spec,
            "width": model.width,
            "bias": model.bias is not None,
            "max_scale": model.max_scale,
            "project_image": model.project_image,
            **({} if model.project_text else {"project_text": False}),
            **({"projection_bias": model.projection_bias} if model.projection_bias != "none" else {}),
            "preprocess": self.preprocess.to_json(),
            "text_length": self.text_length,
            "card": self.card,
            **({"dims": list(self.dims)} if self.dims else {}),
            **({"model": variant} if (variant := variant_of(model)) else {}),
            **self.settings(),
        }
        write_model(folder, self.whole, config, model_card(self.name, config, parameters(self.whole)), self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the embedder from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            variant = dict(config.get("model", {}))
            model = cls.variants[variant.pop("kind", "")](
                image_tower(**config["image_tower"]),
                text_tower(**config["text_tower"]),
                width=config["width"],
                bias=0.0 if config["bias"] else None,
                max_scale=config["max_scale"],
                project_image=config.get("project_image", True),
                scale=1.0,
                **({"project_text": config["project_text"]} if "project_text" in config else {}),
                **({"projection_bias": config["projection_bias"]} if "projection_bias" in config else {}),
                **variant,
            )
            whole = cls.around(model, config)
        load_weights(whole, folder)
        preprocess = Preprocess.from_json(config["preprocess"])
        tokenizer = Tokenizer.load(folder)
        card, dims = config.get("card"), config.get("dims", ())
        own = cls.options(config)
        return cls(whole.eval(), preprocess, tokenizer, config["text_length"], config["name"], card=card, dims=dims, **own)

    @property
    def whole(self) -> nn.Module:
        """Return the module to save: the dual encoder, or a module around it."""
        return self.model

    @classmethod
    def around(cls, model: DualEncoder, config: Mapping[str, Any]) -> Any:
        """Return the module to load, around a new dual encoder."""
        return model

    def settings(self) -> dict[str, Any]:
        """Additional entries of config.json in a subclass."""
        return {}

    @classmethod
    def options(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a subclass from the output of `settings`."""
        return {}


def variant_of(model: Any) -> dict[str, Any]:
    """Return the settings of a dual encoder's variant, {} for a plain one."""
    return dict(model.variant()) if hasattr(model, "variant") else {}
