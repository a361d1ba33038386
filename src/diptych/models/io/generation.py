"""Methods that every model has that generates text about images: streaming, hidden states by layer, the limit of its context."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from diptych.core.contracts import GenerationOutput, LayerStates
from diptych.core.errors import PromptTooLong
from diptych.core.image import ImageSource
from diptych.core.prompt import PromptLike, require_one_per_image
from diptych.core.terminal import notebook
from diptych.models.io.inference import evaluating
from diptych.models.io.streaming import TextPieceStreamer, sampling_options

Write = Callable[..., Any]
"""Generation of one answer: takes `streamer` and the options of transformers' `generate`."""


class StreamingGenerator(ABC):
    """Base of `Generator`s that are a `Streamer` and a `LayerReader` too."""

    name: str

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The module that runs, put into evaluation mode for each call."""

    def _repr_html_(self) -> str:
        return notebook.model_facts(self, self.network)

    @abstractmethod
    def _streamer(self, on_text: Callable[[str], bool]) -> TextPieceStreamer:
        """A streamer with the decoder and the end marks of this model."""

    @abstractmethod
    def _generation(self, image: ImageSource | None, prompt: PromptLike, max_tokens: int) -> tuple[Write, int]:
        """Generation of the answer to one request, and how many tokens the request has."""

    @abstractmethod
    def _layer_states(
        self, images: Sequence[ImageSource], texts: Sequence[str], layers: Sequence[int], template: str, batch_size: int
    ) -> Iterator[LayerStates]:
        """`read_layers` of as many texts as images."""

    def stream(
        self,
        image: ImageSource | None,
        prompt: PromptLike,
        *,
        on_text: Callable[[str], bool],
        max_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> GenerationOutput:
        """The answer about one image, piece by piece (`Streamer`)."""
        with torch.no_grad(), evaluating(self.network), sampling_options(temperature, top_p, seed) as options:
            write, read = self._generation(image, prompt, max_tokens)
            return self._streamer(on_text).write(write, read=read, **options)

    def read_layers(
        self,
        images: Sequence[ImageSource],
        texts: Sequence[str],
        *,
        layers: Sequence[int],
        template: str = "",
        batch_size: int = 8,
    ) -> Iterator[LayerStates]:
        """Hidden states of the given layers, numbered from 1, for every image and its text (`LayerReader`).

        The input is the picture in the model's own template without a prompt, or in `template`, then the text and the end token. A text
        that is longer than the model allows is cut. Raises ConfigError for a model whose input has no image tokens.
        """
        require_one_per_image("texts", texts, images)
        yield from self._layer_states(images, texts, layers, template, batch_size)


def require_room(read: int, max_tokens: int, length: int, *, source: str = "picture and prompt", model: str) -> None:
    """Raises PromptTooLong if a request of `read` tokens leaves no room for `max_tokens` more in a context of `length`; 0 has no limit.

    source, model  what the tokens are of, and whose context it is, for the message
    """
    if length and read + max_tokens > length:
        raise PromptTooLong(
            f"{source} take {read} of the {length} tokens of {model}, "
            f"so {max_tokens} tokens more do not fit (expected a shorter prompt, or fewer --max-tokens)",
            length - read,
        )
