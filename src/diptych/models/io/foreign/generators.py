"""Image-to-text generators of transformers folders (LLaVA, BLIP, BLIP-2, InstructBLIP and others).

Letters: B batch, L positions, V vocabulary, C candidates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.contracts import LayerStates
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.prompt import (
    PromptLike,
    as_dialogue,
    require_images,
    require_one_per_image,
    text_of_single_image_prompt,
    text_of_text_only_prompt,
    text_only,
)
from diptych.data.media.decode import decode
from diptych.models.io.device import batched
from diptych.models.io.folder import fingerprint
from diptych.models.io.foreign.chat import pictures_in_order
from diptych.models.io.generation import StreamingGenerator, Write, require_room
from diptych.models.io.inference import evaluating
from diptych.models.io.layer_states import split_layer_states
from diptych.models.io.streaming import ForcedTokens, PromptLengthRecorder, TextPieceStreamer
from diptych.models.towers.packaged.hf_text import silence_transformers

WRITES = ("ForConditionalGeneration", "ForImageTextToText")
"""Suffixes of the architecture names of image-to-text generators."""
DESCRIBE = "Describe this image."
"""Prompt of a chat template for captions without a prompt."""


def is_generator(folder: Path) -> bool:
    """True if the folder's config.json names an image-to-text generator."""
    plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = next(iter(plain.get("architectures") or ()), "")
    return named.endswith(WRITES) and ("vision_config" in plain or "vision_tower" in plain)


def open_generator(folder: Path, spec: str) -> TransformersGenerator:
    """Load the model and processor of a folder that transformers saved. No download.

    Raises DataError for a folder without a processor, or whose weights do not match config.json.
    """
    import transformers

    with silence_transformers():
        try:
            processor = transformers.AutoProcessor.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise DataError(
                f"no processor: {reason}", file=folder, expected="preprocessor_config.json and a tokenizer"
            ) from error
        if not hasattr(processor, "image_processor"):
            raise DataError("no image processor", file=folder, expected="preprocessor_config.json")
        try:
            model, report = transformers.AutoModelForImageTextToText.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise DataError(
                f"not read: {reason}", file=folder, expected="a model of transformers that writes about images"
            ) from error
    if wrong := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise DataError(f"tensor {wrong[0]} is missing or of another size", file=folder, expected="weights of this config.json")
    return TransformersGenerator(model.float().eval(), processor, spec)


@dataclass(frozen=True, slots=True)
class _ProcessorInput:
    """Input of a processor: pictures are in the order of their image tokens in the text."""

    pictures: list[Image.Image]
    text: str


class TransformersGenerator(StreamingGenerator):
    """Generator of transformers (`Generator`, `Streamer`, `Ranker`) with its own processor and chat template, if it has one.

    With a chat template it also supports several pictures and dialogues.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model, self.processor, self.name = model, processor, name
        self.tokenizer = processor.tokenizer
        self.reads_and_writes = bool(getattr(model.config.get_text_config(), "is_encoder_decoder", False))

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, {"processor": self.processor.to_json_string()})

    @property
    def context_length(self) -> int:
        """Maximum context length in tokens; 0 if the configuration sets no limit."""
        return (
            0 if self.reads_and_writes else int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 0) or 0)
        )

    @one_or_many
    def generate(
        self,
        images: Sequence[ImageSource | None],
        prompts: Sequence[PromptLike],
        *,
        max_tokens: int = 64,
        batch_size: int = 8,
        **options: Any,
    ) -> list[str]:
        """Generate an answer for each image, or without an image (None).

        Decoding is greedy unless `options` of transformers' `generate` change it.
        """
        rows = self._rows(images, prompts)
        texts = [""] * len(rows)
        alone = [number for number, row in enumerate(rows) if not row.pictures]
        beside = [number for number, row in enumerate(rows) if row.pictures]

        def answer(some: Sequence[int]) -> None:
            inputs = self._inputs([rows[number] for number in some], max_tokens)
            for number, ids in zip(some, self._new_ids(inputs, max_tokens, options).tolist(), strict=True):
                texts[number] = self._decoded(ids)

        device = next(self.model.parameters()).device
        with torch.no_grad(), evaluating(self.model):
            for group in (beside, alone):
                batched(group, batch_size, device, answer)
        return texts

    def generate_ids(self, inputs: Mapping[str, Tensor], *, max_tokens: int = 64, **options: Any) -> Tensor:
        """Return ids of tokens generated after prepared inputs, int64 [B, T]; rows that end early are padded.

        inputs  output of the model's processor, padded on the left: `pixel_values`, `input_ids`, `attention_mask`, ...
        options  of transformers' `generate`; the default is greedy decoding
        """
        device = next(self.model.parameters()).device
        if "input_ids" in inputs:
            require_room(int(inputs["input_ids"].shape[1]), max_tokens, self.context_length, model=f"'{self.name}'")
        with torch.no_grad(), evaluating(self.model):
            return self._new_ids({name: value.to(device) for name, value in inputs.items()}, max_tokens, options)

    def _new_ids(self, given: Mapping[str, Tensor], max_tokens: int, options: Mapping[str, Any]) -> Tensor:
        begun = PromptLengthRecorder()
        settings = {"do_sample": False, **options}
        id_BT: Tensor = self.model.generate(**given, max_new_tokens=max_tokens, stopping_criteria=[begun], **settings)
        return id_BT[:, begun.length :]

    @property
    def network(self) -> nn.Module:
        module: nn.Module = self.model
        return module

    def _streamer(self, on_text: Callable[[str], bool]) -> TextPieceStreamer:
        changes = bool(self.tokenizer.clean_up_tokenization_spaces)
        return TextPieceStreamer(self._decoded, self._ends, on_text, changes=changes)

    def _generation(self, image: ImageSource | None, prompt: PromptLike, max_tokens: int) -> tuple[Write, int]:
        given = self._inputs(self._rows([image], [prompt]), max_tokens)
        read = int(given["input_ids"].shape[1]) if "input_ids" in given else 0
        return partial(self.model.generate, **given, max_new_tokens=max_tokens), read

    @one_or_many
    def answer_nll(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], candidates: Sequence[Sequence[str]]
    ) -> list[npt.NDArray[np.float64]]:
        """Return [C, 2] for each image: the negative log-likelihood in nats of each candidate with the end token,
        and its number of tokens.
        """
        rows = self._rows(images, prompts)
        require_one_per_image("lists of candidates", candidates, images)
        with torch.no_grad(), evaluating(self.model):
            return [
                np.array([self._nll(row, answer) for answer in answers]).reshape(-1, 2)
                for row, answers in zip(rows, candidates, strict=True)
            ]

    @property
    def depth(self) -> int:
        """Layers of the language model."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    def _layer_states(
        self, images: Sequence[ImageSource], texts: Sequence[str], layers: Sequence[int], template: str, batch_size: int
    ) -> Iterator[LayerStates]:
        """Return hidden states of layers. Rows run one at a time, regardless of `batch_size`.

        Without `template` the text is the answer in the model's chat template, or follows the picture and a line break.
        """
        token = getattr(self.model.config, "image_token_id", None)
        if token is None or self.reads_and_writes:
            raise ConfigError(f"'{self.name}' has no image tokens in its text (expected a decoder that has them, such as LLaVA)")
        for image, text in zip(images, texts, strict=True):
            picture = _decoded_picture(image)
            with torch.no_grad(), evaluating(self.model):
                given = self._inputs([_ProcessorInput([picture], self._read(self._cut(picture, text, template), template))], 0)
                answer = self.model(**given, output_hidden_states=True)
                states = getattr(answer, "language_model_outputs", answer).hidden_states
                state_EBLD = torch.stack([states[layer] for layer in layers])
                (layer_states,) = split_layer_states(state_EBLD, given["input_ids"] == token, given["attention_mask"].bool())
            yield layer_states

    def _read(self, text: str, template: str) -> str:
        """Return a row of a picture and the text after it."""
        mark, end = self._mark, str(self.tokenizer.eos_token or "")
        if template or not getattr(self.processor, "chat_template", None):
            before = template or "{image}\n"
            return f"{before.replace('{image}', mark) if '{image}' in before else mark + before}{text}{end}"
        roles = [("user", {"type": "image"}), ("assistant", {"type": "text", "text": text})]
        turns = [{"role": role, "content": [part]} for role, part in roles]
        return str(self.processor.apply_chat_template(turns))

    def _cut(self, picture: Image.Image, text: str, template: str) -> str:
        """Return the text, truncated to the available positions."""
        if not self.context_length:
            return text
        room = self.context_length - int(
            self._inputs([_ProcessorInput([picture], self._read("", template))], 0)["input_ids"].shape[1]
        )
        stop = [end for _, end in self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]]
        return text if len(stop) <= room else text[: stop[room - 1]] if room > 0 else ""

    def _nll(self, row: _ProcessorInput, answer: str) -> tuple[float, int]:
        """Return the negative log-likelihood by forced generation, whatever the model inserts between prompt and answer.

        Each token is forced, and its raw logits are kept.
        """
        target = self._answer_ids(answer)
        made = self.model.generate(
            **self._inputs([row], len(target)),
            max_new_tokens=len(target),
            do_sample=False,
            num_beams=1,
            logits_processor=[ForcedTokens(target)],
            output_logits=True,
            return_dict_in_generate=True,
        )
        logit_AV = torch.cat(made.logits).float()
        target_A = torch.tensor(target, device=logit_AV.device)
        return float(F.cross_entropy(logit_AV, target_A, reduction="sum")), len(target)

    def _answer_ids(self, answer: str) -> list[int]:
        """Return the token ids of an answer. A word after a prompt starts with a space,
        which some tokenizers add by themselves.
        """
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        marked = str(self.tokenizer.convert_ids_to_tokens(plain)[0]).startswith("\u2581")
        ids: list[int] = self.tokenizer(answer if marked else f" {answer}", add_special_tokens=False)["input_ids"]
        return [*ids, self._end]

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    @property
    def _end(self) -> int:
        """Return the id of the end token; vocabularies of BERT use the separator."""
        ids = (self.tokenizer.eos_token_id, self.tokenizer.sep_token_id)
        return int(next(one for one in ids if one is not None))

    @property
    def _ends(self) -> set[int]:
        ids = self.model.generation_config.eos_token_id
        return {self._end, *(ids if isinstance(ids, list) else [ids])} - {None}

    # ------------------------------------------------------------ what is asked

    def _rows(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike]) -> list[_ProcessorInput]:
        require_one_per_image("prompts", prompts, images)
        return [self._row(image, prompt) for image, prompt in zip(images, prompts, strict=True)]

    def _row(self, image: ImageSource | None, prompt: PromptLike) -> _ProcessorInput:
        if not getattr(self.processor, "chat_template", None):
            if image is None and self._mark:
                return _ProcessorInput([], text_of_text_only_prompt(prompt, model=self.name))
            (picture,) = require_images([image], model=self.name)
            words = text_of_single_image_prompt(prompt, model=self.name)
            return _ProcessorInput([_decoded_picture(picture)], self._text(words))
        if prompt == "" and image is not None:
            prompt = DESCRIBE
        images = [] if image is None else [image]
        turns, sources = pictures_in_order(as_dialogue(prompt if images else text_only(prompt)), images, model=self.name)
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True)
        return _ProcessorInput([_decoded_picture(source) for source in sources], str(text))

    def _text(self, prompt: str) -> str:
        """Return a prompt for a folder without chat template, with the image token unless the processor inserts it."""
        if not self._mark:
            return prompt
        return f"{self._mark}\n{prompt}" if prompt else self._mark

    @property
    def _mark(self) -> str:
        """Image token in a text; "" if the processor inserts it."""
        places_itself = hasattr(self.processor, "num_query_tokens") or "Blip" in type(self.processor).__name__
        token = getattr(self.processor, "image_token", None)
        return "" if places_itself or token is None else str(token)

    def _inputs(self, rows: Sequence[_ProcessorInput], tokens: int) -> dict[str, Tensor]:
        """Return model inputs, padded on the left; refused if there is no room for `tokens` new tokens."""
        several = any(len(row.pictures) != 1 for row in rows)
        pictures: list[Any] | None = [row.pictures if several else row.pictures[0] for row in rows]
        if not any(row.pictures for row in rows):
            pictures = None
        side, self.tokenizer.padding_side = self.tokenizer.padding_side, "left"
        try:
            given: Mapping[str, Any] = self.processor(
                images=pictures, text=[row.text for row in rows], return_tensors="pt", padding=True
            )
        finally:
            self.tokenizer.padding_side = side
        given = {name: value for name, value in given.items() if name != "labels"}  # which a processor may return for the prompt
        length = int(given["input_ids"].shape[1])
        require_room(length, tokens, self.context_length, model=f"'{self.name}'")
        if length <= (self.model.config.model_type == "blip"):  # no prompt; `generate` drops the last token of BLIP's prompt
            given = {name: value for name, value in given.items() if name not in ("input_ids", "attention_mask")}
        if "qformer_input_ids" in given:
            most, read = int(self.model.config.qformer_config.max_position_embeddings), given["qformer_input_ids"].shape[1]
            if read > most:
                raise ConfigError(
                    f"the prompt takes {read} tokens, of which the Q-Former of '{self.name}' reads {most} (expected a shorter one)"
                )
        device = next(self.model.parameters()).device
        return {name: value.to(device) for name, value in given.items()}


def _decoded_picture(source: ImageSource) -> Image.Image:
    return Image.fromarray(decode(source, exact=True))
