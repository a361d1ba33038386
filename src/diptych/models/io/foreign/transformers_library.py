"""Inference with dual encoders of transformers by their own processors: families without towers of ours,
and SigLIP 2 with images of any shape ("hf:FOLDER#naflex").

They can embed but not be trained; vectors are the normalised outputs of `get_image_features` and `get_text_features`.
Models with a vector per patch and per word (such as ColPali) are compared by late interaction.

Letters: B batch, N items, K texts, L tokens, D width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.data.media.decode import decode
from diptych.models.io.device import batched
from diptych.models.io.folder import fingerprint
from diptych.models.io.inference import evaluating, parts
from diptych.models.layers.transformer import l2_normalise
from diptych.models.towers.packaged.hf_text import silence_transformers

LATE: Literal["LibraryLateEmbedder"] = "LibraryLateEmbedder"
NAFLEX = "#naflex"
"""Suffix of the folder of a NaFlex SigLIP 2 whose images keep their aspect ratio."""


@dataclass(frozen=True, slots=True)
class LibraryFamily:
    """model_type  in config.json
    name       class of transformers
    about      what it is
    published  a published model of it
    opens      class of the embedder
    address    form of its address
    """

    model_type: str
    name: str
    about: str
    published: str
    opens: Literal["LibraryEmbedder", "LibraryLateEmbedder"] = "LibraryEmbedder"
    address: str = "hf:FOLDER"


LIBRARY_FAMILIES = (
    LibraryFamily("aimv2", "Aimv2Model", "AIMv2 with a text side", "apple/aimv2-large-patch14-224-lit"),
    LibraryFamily("clipseg", "CLIPSegModel", "CLIPSeg, its two towers", "CIDAS/clipseg-rd64-refined"),
    LibraryFamily("flava", "FlavaModel", "FLAVA", "facebook/flava-full"),
    LibraryFamily("groupvit", "GroupViTModel", "GroupViT", "nvidia/groupvit-gcc-yfcc"),
    LibraryFamily("metaclip_2", "MetaClip2Model", "MetaCLIP 2, worldwide", "facebook/metaclip-2-worldwide-huge-quickgelu"),
    LibraryFamily(
        "siglip2",
        "Siglip2Model",
        "SigLIP 2, images of any shape",
        "google/siglip2-base-patch16-naflex",
        address=f"hf:FOLDER{NAFLEX}",
    ),
    LibraryFamily("tipsv2", "Tipsv2Model", "TIPSv2", "google/tipsv2-b14"),
    LibraryFamily(
        "vision-text-dual-encoder", "VisionTextDualEncoderModel", "Any vision and text encoder", "clip-italian/clip-italian"
    ),
    LibraryFamily("colmodernvbert", "ColModernVBertForRetrieval", "ColModernVBERT", "ModernVBERT/colmodernvbert", LATE),
    LibraryFamily("colpali", "ColPaliForRetrieval", "ColPali", "vidore/colpali-v1.3-hf", LATE),
    LibraryFamily("colqwen2", "ColQwen2ForRetrieval", "ColQwen2", "vidore/colqwen2-v1.0-hf", LATE),
)
BY_TYPE = {family.model_type: family for family in LIBRARY_FAMILIES}


class LibraryEmbedder:
    """`Embedder` of a dual encoder of transformers, with its processor.

    `truncated` is always 0, since the processor truncates texts. `left` names unused tensors of the file: heads of other tasks.
    """

    truncated = 0

    def __init__(self, model: Any, processor: Any, name: str, *, left: Sequence[str] = ()) -> None:
        self.model, self.processor, self.name, self.left = model, processor, name, tuple(left)
        text = getattr(model.config, "text_config", model.config)
        self.text_length = int(getattr(text, "max_position_embeddings", 0) or getattr(text, "max_length", 0) or 64)
        if getattr(text, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):
            self.text_length -= 2  # they count positions from 2

    @cached_property
    def fingerprint(self) -> str:
        settings = {"processor": json.loads(self.processor.image_processor.to_json_string()), "text_length": self.text_length}
        return fingerprint(self.model, json.loads(json.dumps(settings, default=str)))

    @one_or_many
    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        """Return unit vectors [N, D]."""
        return self._rows(images, batch_size, lambda part: self.model.get_image_features(**self._pixels(part)))

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        """Return unit vectors [K, D]."""
        return self._rows(texts, batch_size, lambda part: self.model.get_text_features(**self._ids(part)))

    def _pixels(self, images: Sequence[ImageSource]) -> dict[str, Tensor]:
        pictures = [Image.fromarray(decode(image, exact=True)) for image in images]
        return self._on_device(self.processor.image_processor(images=pictures, return_tensors="pt"))

    def _ids(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return rows of ids with their mask, padded to the longest text.

        For SigLIP, rows are as long as in training and have no mask, since it was trained with attention to padding.
        """
        siglip = self.model.config.model_type == "siglip2"
        options = {"padding": "max_length" if siglip else True, "truncation": True, "max_length": self.text_length}
        given = self._on_device(self.processor(text=list(texts), return_tensors="pt", **options))
        return {"input_ids": given["input_ids"]} if siglip else given

    def _on_device(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        device = next(self.model.parameters()).device
        return {name: tensor.to(device) for name, tensor in inputs.items() if isinstance(tensor, Tensor)}

    def _rows(self, items: Sequence[Any], batch_size: int, answer: Callable[[Sequence[Any]], Any]) -> Unit:

        def encode(part: Sequence[Any]) -> Tensor:
            output = answer(part)
            vector: Tensor = getattr(output, "pooler_output", output)
            vector_BD = vector[:, 0] if vector.ndim == 3 else vector  # FLAVA projects every position, the class token first
            return l2_normalise(vector_BD).float().cpu()

        with self._ready():
            blocks = batched(items, batch_size, next(self.model.parameters()).device, encode)
        return torch.cat(blocks).numpy() if blocks else np.zeros((0, 0), np.float32)

    @contextmanager
    def _ready(self) -> Iterator[None]:
        with torch.no_grad(), evaluating(self.model):
            yield


class LibraryLateEmbedder(LibraryEmbedder):
    """`TokenEmbedder` and `PairScorer` of a late-interaction model of transformers, such as ColPali.

    The score of a pair is the sum over the text's tokens of the best cosine with a token of the image. `embed_images` and
    `embed_texts` return the mean of the tokens, for a shortlist.
    """

    def embed_patches(self, images: Sequence[ImageSource], *, batch_size: int = 8) -> list[Unit]:
        """Return [L, D] per image: all tokens of the model, including those of its prompt."""

        def inputs(part: Sequence[Any]) -> Mapping[str, Any]:
            pictures = [Image.fromarray(decode(image, exact=True)) for image in part]
            processed: Mapping[str, Any] = self.processor.process_images(images=pictures)
            return processed

        return self._tokens(images, batch_size, inputs)

    def embed_words(self, texts: Sequence[str], *, batch_size: int = 64) -> list[Unit]:
        """Return [L, D] per text, including tokens that the processor adds to a query."""
        return self._tokens(texts, batch_size, lambda part: self.processor.process_queries(text=list(part)))

    @one_or_many
    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 8) -> Unit:
        return _means(self.embed_patches(images, batch_size=batch_size))

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> Unit:
        return _means(self.embed_words(texts, batch_size=batch_size))

    def score_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
    ) -> npt.NDArray[np.float32]:
        """[N, K]. `query` makes no difference."""
        patches, words = self.embed_patches(images), self.embed_words(texts)
        scores = [[(word_LD @ patch_PD.T).max(1).sum() for word_LD in words] for patch_PD in patches]
        return np.asarray(scores, np.float32).reshape(len(patches), len(words))

    def _tokens(self, items: Sequence[Any], batch_size: int, inputs: Callable[[Sequence[Any]], Mapping[str, Any]]) -> list[Unit]:
        out: list[Unit] = []
        with self._ready():
            for part in parts(items, batch_size):
                given = self._on_device(inputs(part))
                token_BLD = self.model(**given).embeddings.float().cpu()
                real_BL = given["attention_mask"].bool().cpu()
                out += [token_LD[real_L].numpy() for token_LD, real_L in zip(token_BLD, real_BL, strict=True)]
        return out


def open_library(folder: Path, spec: str) -> LibraryEmbedder:
    """Load the model and processor of a folder of one of these families. No download, no code of the folder is run.

    Raises ConfigError for another family, or one whose code is in the folder; DataError for a folder without processor,
    or whose weights do not match config.json.
    """
    import transformers

    plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    family = BY_TYPE.get(plain.get("model_type", ""))
    if family is None:
        raise ConfigError(f"{spec}: model_type is {plain.get('model_type')!r} (expected {' | '.join(BY_TYPE)})")
    kind: Any = getattr(transformers, family.name)
    options: dict[str, Any] = {"local_files_only": True}
    with silence_transformers():
        try:
            processor = transformers.AutoProcessor.from_pretrained(str(folder), **options)
        except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
            raise DataError(
                f"no processor: {_first(error)}", file=folder, expected="preprocessor_config.json and a tokenizer"
            ) from error
        if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
            raise DataError("no processor of images and texts", file=folder, expected="preprocessor_config.json and a tokenizer")
        try:
            model, report = kind.from_pretrained(str(folder), **options, use_safetensors=True, output_loading_info=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"not read: {_first(error)}", file=folder, expected=f"the weights of a {family.name}") from error
    if wrong := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise DataError(f"tensor {wrong[0]} is missing or of another size", file=folder, expected=f"weights of a {family.name}")
    made = LibraryLateEmbedder if family.opens == LATE else LibraryEmbedder
    return made(model.float().eval(), processor, spec, left=sorted(map(str, report["unexpected_keys"])))


def _means(rows: Sequence[Unit]) -> Unit:
    if not rows:
        return np.zeros((0, 0), np.float32)
    return l2_normalise(torch.from_numpy(np.stack([row_LD.mean(0) for row_LD in rows]))).numpy()


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
