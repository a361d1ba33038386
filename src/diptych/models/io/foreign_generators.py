"""Folders of transformers whose models write about images (LLaVA, BLIP, BLIP-2, InstructBLIP and others) as `Generator` and `Ranker`.

Letters: B batch, L places, V vocabulary, C candidates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.prompt import Asked, words_about_one_picture
from diptych.data.media.decode import decode
from diptych.models.io.inference import evaluating, parts
from diptych.models.towers.hf_text import quiet

WRITES = ("ForConditionalGeneration", "ForImageTextToText")
"""How the architectures of models end that write about images."""


def writes(folder: Path) -> bool:
    """Whether the folder says that it holds a model that writes about images."""
    plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = next(iter(plain.get("architectures") or ()), "")
    return named.endswith(WRITES) and ("vision_config" in plain or "vision_tower" in plain)


def open_generator(folder: Path, spec: str) -> TransformersGenerator:
    """The model and processor of a folder that transformers saved. Never asks the network.

    Raises DataError for a folder without processor, or whose weights are not those that config.json says.
    """
    import transformers

    with quiet():
        try:
            processor = transformers.AutoProcessor.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())[:160]
            raise DataError(f"no processor: {said}", file=folder, expected="preprocessor_config.json and a tokenizer") from error
        if not hasattr(processor, "image_processor"):
            raise DataError("no image processor", file=folder, expected="preprocessor_config.json")
        try:
            model, found = transformers.AutoModelForImageTextToText.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())[:160]
            raise DataError(
                f"not read: {said}", file=folder, expected="a model of transformers that writes about images"
            ) from error
    if wrong := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        raise DataError(f"tensor {wrong[0]} is missing or of another size", file=folder, expected="weights of this config.json")
    return TransformersGenerator(model.float().eval(), processor, spec)


class TransformersGenerator:
    """A model of transformers as it comes: its processor places the picture, its chat template, where it has one, the words."""

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model, self.processor, self.name = model, processor, name
        self.tokenizer = processor.tokenizer
        self.reads_and_writes = bool(getattr(model.config.get_text_config(), "is_encoder_decoder", False))

    @one_or_many
    def generate(
        self,
        images: Sequence[ImageSource],
        prompts: Sequence[Asked],
        *,
        max_tokens: int = 64,
        batch_size: int = 8,
        **options: Any,
    ) -> list[str]:
        """An answer for each image: the likeliest token each time, unless `options` of transformers' `generate` say otherwise."""
        rows = self._rows(images, prompts)
        found: list[str] = []
        with torch.no_grad(), evaluating(self.model):
            for some in parts(rows, batch_size):
                given = self._inputs([image for image, _ in some], [words for _, words in some])
                id_BT = self.model.generate(**given, max_new_tokens=max_tokens, **{"do_sample": False, **options})
                begun_BL = given["input_ids"]
                length = begun_BL.shape[1]
                if not self.reads_and_writes and id_BT.shape[1] >= length and bool((id_BT[:, :length] == begun_BL).all()):
                    id_BT = id_BT[:, length:]
                found += [text.strip() for text in self.tokenizer.batch_decode(id_BT, skip_special_tokens=True)]
        return found

    @one_or_many
    def answer_nll(
        self, images: Sequence[ImageSource], prompts: Sequence[Asked], candidates: Sequence[Sequence[str]]
    ) -> list[npt.NDArray[np.float64]]:
        """For each image [C, 2]: nats of each candidate over its tokens and the end mark, and how many those are."""
        rows = self._rows(images, prompts)
        if len(candidates) != len(images):
            raise ConfigError(f"{len(candidates)} lists of candidates for {len(images)} images (expected one an image)")
        with torch.no_grad(), evaluating(self.model):
            return [
                np.array([self._nll(image, words, answer) for answer in answers]).reshape(-1, 2)
                for (image, words), answers in zip(rows, candidates, strict=True)
            ]

    def _nll(self, image: Image.Image, words: str, answer: str) -> tuple[float, int]:
        given = self._inputs([image], [words])
        target_1A = torch.tensor([self._answer_ids(answer)], device=given["input_ids"].device)
        count = target_1A.shape[1]
        if self.reads_and_writes:
            logit_AV = self.model(**given, labels=target_1A).logits[0, :count]
        else:
            given["input_ids"] = torch.cat([given["input_ids"], target_1A], 1)
            given["attention_mask"] = F.pad(given["attention_mask"], (0, count), value=1)
            logit_AV = self.model(**given).logits[0, -count - 1 : -1]
        return float(F.cross_entropy(logit_AV.float(), target_1A[0], reduction="sum")), count

    def _answer_ids(self, answer: str) -> list[int]:
        """A word behind a prompt begins with a space, which some vocabularies add by themselves."""
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        marked = str(self.tokenizer.convert_ids_to_tokens(plain)[0]).startswith("\u2581")
        ids: list[int] = self.tokenizer(answer if marked else f" {answer}", add_special_tokens=False)["input_ids"]
        return [*ids, int(self.tokenizer.eos_token_id)]

    def _rows(self, images: Sequence[ImageSource], prompts: Sequence[Asked]) -> list[tuple[Image.Image, str]]:
        if len(prompts) != len(images):
            raise ConfigError(f"{len(prompts)} prompts for {len(images)} images (expected one an image)")
        asked = [words_about_one_picture(prompt, model=self.name) for prompt in prompts]
        return [(Image.fromarray(decode(image, exact=True)), words) for image, words in zip(images, asked, strict=True)]

    def _inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, Tensor]:
        texts = [self._text(prompt) for prompt in prompts]
        side, self.tokenizer.padding_side = self.tokenizer.padding_side, "left"
        try:
            given: Mapping[str, Any] = self.processor(images=list(images), text=texts, return_tensors="pt", padding=True)
        finally:
            self.tokenizer.padding_side = side
        device = next(self.model.parameters()).device
        return {name: value.to(device) for name, value in given.items()}

    def _text(self, prompt: str) -> str:
        if getattr(self.processor, "chat_template", None):
            content: list[dict[str, str]] = [{"type": "image"}]
            content += [{"type": "text", "text": prompt or "Describe this image."}]
            text: str = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            return text
        places_itself = hasattr(self.processor, "num_query_tokens") or "Blip" in type(self.processor).__name__
        token = getattr(self.processor, "image_token", None)
        if places_itself or token is None:
            return prompt
        return f"{token}\n{prompt}" if prompt else str(token)
