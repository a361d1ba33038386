"""Inference with a prompt-tuned dual encoder; saved as one folder with a small file of prompts.

Letters: N items, K classes, D width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.data.media.transforms import Preprocess
from diptych.data.text.prompts.class_prompts import ClassPrompts, Placement, class_prompts
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.folder import fingerprint, parameters
from diptych.models.io.inference import parts
from diptych.models.layers.learned_context import LearnedContext
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.prompted.encoder import MetaNet, PromptedEncoder
from diptych.models.towers.text_embeddings import token_table

PROMPT_FILE = "prompts.safetensors"
FORMAT = "1"


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """Settings that turn class names into learned prompts.

    count      context vectors
    per_class  each of `classes` has its own set, so that no other names are supported
    words      initial context, "" for random vectors
    hyphens    kept in names; False replaces them by spaces, as always for underscores
    """

    classes: tuple[str, ...]
    count: int
    per_class: bool = False
    placement: Placement = "end"
    tail: str = "."
    words: str = ""
    conditioned: bool = False
    hyphens: bool = True

    def prompts(self, names: Sequence[str], tokenizer: Tokenizer, length: int) -> ClassPrompts:
        """Return the token rows of these names."""
        if self.per_class and [class_text(name) for name in names] != [class_text(name) for name in self.classes]:
            classes = {class_text(name) for name in self.classes}
            strange = next((name for name in names if class_text(name) not in classes), "")
            if strange:
                raise UnknownName(
                    "class", strange, classes, hint="each class has its own context, so other classes cannot be used"
                )
            raise ConfigError("per-class context needs all classes of training, in their order")
        options: dict[str, Any] = {"context": self.count, "placement": self.placement, "tail": self.tail, "words": self.words}
        spoken = names if self.hyphens else [name.replace("-", " ") for name in names]
        return class_prompts(spoken, tokenizer, length, **options)


class PromptedEmbedder(PairEmbedder):
    """Embedder trained by CoOp: texts are class names, embedded with their learned prompt.

    New names are supported, too; `classify` scores the classes of training. Sentences are treated as names: to embed sentences,
    use the base model.
    """

    kind: ClassVar[str] = "prompted"

    def __init__(
        self,
        model: PromptedEncoder,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        text_length: int,
        name: str,
        *,
        prompts: PromptSettings,
        card: Mapping[str, Any] | None = None,
        dims: Sequence[int] = (),
        bf16: bool = False,
    ) -> None:
        super().__init__(model.encoder, preprocess, tokenizer, text_length, name, bf16=bf16, card=card, dims=dims)
        self.prompted, self.prompts = model, prompts

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of training."""
        return self.prompts.classes

    @cached_property
    def fingerprint(self) -> str:
        settings = {"preprocess": self.preprocess.to_json(), "text_length": self.text_length, "prompts": asdict(self.prompts)}
        return fingerprint(self.prompted, settings)

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        """Return unit-norm vectors of class names after the context."""
        if self.prompts.conditioned:
            raise ConfigError(f"'{self.name}' reads a class name beside each image (expected score_pairs, not vectors of texts)")
        if self.prompts.per_class:
            rows = [self._place(text) for text in texts]
            return self._vectors(self.classes)[rows] if rows else np.zeros((0, self.model.width), np.float32)
        blocks = [self._vectors(list(part)) for part in parts(texts, batch_size)]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.model.width), np.float32)

    @one_or_many
    def classify(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        """Return logits [N, K] of the classes of training."""
        return self.scores(images, self.classes, batch_size=batch_size)

    def scores(self, images: Sequence[ImageSource], names: Sequence[str], *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        """Return logits [N, K] of any names: temperature times cosine."""
        return self.scores_of_vectors(self.embed_images(images, batch_size=batch_size), names, batch_size=batch_size)

    def scores_of_vectors(self, vector_ND: Unit, names: Sequence[str], *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        """As `scores`, for precomputed image vectors."""
        if not self.prompts.conditioned:
            scale = np.float32(self.model.log_scale.detach().exp().item())
            return (scale * vector_ND @ self.embed_texts(names).T).astype(np.float32, copy=False)
        with self._ready() as device:
            self.prompted.set_classes(self.prompts.prompts(names, self.tokenizer, self.text_length))
            blocks = [
                self.prompted(torch.from_numpy(np.stack(part)).to(device)).logit_NK.float().cpu()
                for part in parts(list(vector_ND), batch_size)
            ]
        return torch.cat(blocks).numpy() if blocks else np.zeros((0, len(names)), np.float32)

    def _place(self, text: str) -> int:
        classes = [class_text(name) for name in self.classes]
        if class_text(text) not in classes:
            raise UnknownName("class", text, classes, hint="each class has its own context, so other classes cannot be used")
        return classes.index(class_text(text))

    def _vectors(self, names: Sequence[str]) -> Unit:
        with self._ready():
            self.prompted.set_classes(self.prompts.prompts(names, self.tokenizer, self.text_length))
            return self.prompted.encode_classes().float().cpu().numpy()

    # ------------------------------------------------------------ kept

    @property
    def whole(self) -> PromptedEncoder:
        return self.prompted

    def save(self, folder: Path) -> None:
        """Write the folder of the model with prompts.safetensors, which has only the context, for use with the base model."""
        super().save(folder)
        self.save_prompts(Path(folder, PROMPT_FILE))

    def save_prompts(self, path: Path) -> None:
        """Write the context (and CoCoOp's meta-net), with its settings and the fingerprint of its text encoder."""
        modules = {"bank": self.prompted.bank, "conditioner": self.prompted.conditioner}
        tensors = {
            f"{part}.{name}": tensor.detach().cpu().contiguous()
            for part, module in modules.items()
            if module is not None
            for name, tensor in module.state_dict().items()
        }
        settings = json.dumps({**asdict(self.prompts), "text_side": text_side(self.model)}, ensure_ascii=False)
        save_file(tensors, path, metadata={"format": FORMAT, "kind": "prompts", "prompts": settings})

    @classmethod
    def around(cls, model: DualEncoder, config: Mapping[str, Any]) -> PromptedEncoder:
        return prompted_encoder(model, _settings(config["prompts"]))

    def settings(self) -> dict[str, Any]:
        return {"prompts": asdict(self.prompts), "classes": list(self.classes)}

    @classmethod
    def options(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"prompts": _settings(config["prompts"])}

    @classmethod
    def with_prompts(cls, base: Any, path: Path) -> PromptedEmbedder:
        """Return a dual encoder with the prompts of a file. Raises DataError for an invalid file,
        ConfigError for another text encoder.
        """
        if not isinstance(base, PairEmbedder):
            raise ConfigError(
                f"'{getattr(base, 'name', base)}' takes no prompts (expected a dual encoder, such as a run of clip)"
            )
        try:
            with safe_open(path, "pt") as file:
                facts, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise DataError(f"cannot be read: {error}", file=path, expected=f"the {PROMPT_FILE} of a run of coop") from error
        if facts.get("kind") != "prompts" or facts.get("format") != FORMAT:
            raise DataError("contains no prompts", file=path, expected=f"the {PROMPT_FILE} of a run of coop")
        plain = json.loads(facts["prompts"])
        if plain.pop("text_side") != text_side(base.model):
            raise ConfigError(
                f"{path} was learned for another text side than that of '{base.name}' (expected the model of its run)"
            )
        settings = _settings(plain)
        model = prompted_encoder(base.model, settings)
        missing = model.load_state_dict(tensors, strict=False).unexpected_keys
        if missing:
            raise DataError(f"holds '{missing[0]}'", file=path, expected="context vectors alone")
        kind = ConditionedEmbedder if settings.conditioned else cls
        return kind(
            model.eval(), base.preprocess, base.tokenizer, base.text_length, f"{base.name} with prompts", prompts=settings
        )


class ConditionedEmbedder(PromptedEmbedder):
    """Embedder trained by CoCoOp: each image shifts the context, so it has pair scores instead of text vectors."""

    kind: ClassVar[str] = "conditioned_prompts"

    @one_or_many
    def score_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
    ) -> npt.NDArray[np.float32]:
        """Logits [N, K] of class names. `query` makes no difference."""
        return self.scores(images, texts)


def prompted_encoder(
    encoder: DualEncoder, settings: PromptSettings, *, words_MD: Tensor | None = None, **options: Any
) -> PromptedEncoder:
    """Return the module of these settings with a newly initialised context. `options` are those of `LearnedContext`."""
    width = token_table(encoder.text_tower).embedding_dim
    classes = len(settings.classes) if settings.per_class else 0
    bank = LearnedContext(width, settings.count, classes=classes, words_MD=words_MD, **options)
    return PromptedEncoder(encoder, bank, MetaNet(encoder.width, width) if settings.conditioned else None)


def text_side(model: DualEncoder) -> str:
    """Return the fingerprint of a model's text encoder: eight bytes of the sha256 of its tensors, in hexadecimal."""
    return fingerprint(torch.nn.ModuleList([model.text_tower, model.text_projection]), {})[:16]


def class_text(name: str) -> str:
    """Return a class name as it is tokenized."""
    return name.replace("_", " ").strip()


def count_trained_parameters(model: PromptedEncoder) -> int:
    """Return the number of trained parameters."""
    return parameters(model.bank) + (parameters(model.conditioner) if model.conditioner is not None else 0)


def _settings(plain: Mapping[str, Any]) -> PromptSettings:
    return PromptSettings(**{**plain, "classes": tuple(plain["classes"])})
