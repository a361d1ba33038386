"""Text backend for a transformers language model in a local folder, decoder or encoder-decoder; nothing is downloaded.

Each request is sampled with its own generator, so an answer does not depend on the rest of the batch beyond rounding: rows of a
call are left-padded and computed together, which changes logits by about 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from diptych.core.config import config_hash
from diptych.core.contracts import Reply
from diptych.core.errors import ConfigError
from diptych.curate.writing.requests import Sampling, TextRequest
from diptych.curate.writing.sampling import nucleus, sample_index
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.io.folder import fingerprint


class LanguageFolder:
    """folder   folder of config.json, model.safetensors and tokenizer.json
    context  maximum number of tokens of a prompt; 0 uses the model's limit. A longer prompt is an error and is not truncated, since the
             caption is at its end
    """

    calls = 1
    kept = True

    def __init__(self, folder: str, sampling: Sampling, *, context: int = 0, at_once: int = 16, terms: str = "") -> None:
        self.folder, self.sampling, self.context, self.at_once, self.terms = folder, sampling, context, at_once, terms
        self.name = Path(folder).name

    def __getstate__(self) -> dict[str, Any]:
        """State without the weights: a remote worker opens the folder itself."""
        return {name: value for name, value in self.__dict__.items() if name not in ("model", "vocabulary", "identity")}

    @cached_property
    def model(self) -> LanguageModel:
        return LanguageModel.from_folder(self.folder).eval()

    @cached_property
    def vocabulary(self) -> LanguageVocabulary:
        return LanguageVocabulary(Tokenizer.load(Path(self.folder)))

    @cached_property
    def identity(self) -> str:
        return config_hash([fingerprint(self.model, {}), self.sampling, self.context])

    def tokens(self, text: str) -> int:
        return len(self._ids(text))

    def _ids(self, text: str) -> list[int]:
        end = [self.vocabulary.end_id] if self.model.reads_and_writes else []  # T5 reads a text to its end mark
        return [*self.vocabulary.start_ids, *self.vocabulary.pieces(text), *end]

    def write(self, requests: Sequence[TextRequest]) -> list[Reply]:
        ids = [self._ids(request.prompt) for request in requests]
        most = self._room()
        fits = [row for row, some in enumerate(ids) if len(some) > 0 and (not most or len(some) <= most)]
        answers = [
            Reply(
                "",
                len(some),
                fault=f"too long: {len(some)} tokens of prompt (at most {most})" if some else "malformed: empty prompt",
            )
            for some in ids
        ]
        if fits:
            written = self._generate_rows([ids[row] for row in fits], [requests[row].seed for row in fits])
            for row, text_ids in zip(fits, written, strict=True):
                answers[row] = Reply(self.sampling.cut(self.vocabulary.decode(text_ids)), len(ids[row]), len(text_ids))
        return answers

    def _room(self) -> int:
        positions = self.model.context_length
        if positions and positions <= self.sampling.max_tokens:
            raise ConfigError(
                f"'{self.name}' has {positions} places (expected more than the {self.sampling.max_tokens} tokens to write)"
            )
        own = positions - self.sampling.max_tokens if positions else 0
        return min(own, self.context) if own and self.context else own or self.context

    @torch.no_grad()
    def _generate_rows(self, ids: list[list[int]], seeds: list[int]) -> list[list[int]]:
        """Generated token ids of each row, without the prompt and the end token."""
        longest = max(map(len, ids))
        pad, end = self.vocabulary.pad_id, self.vocabulary.end_id
        id_BL = torch.tensor([[pad] * (longest - len(row)) + row for row in ids])
        mask_BL = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
        start = 1 if self.model.reads_and_writes else longest  # the decoder's start token, or the prompt
        steps: list[Any] = [PerRowSampler(self.sampling, seeds)] if self.sampling.temperature > 0 else []
        output = self.model.inner.generate(
            input_ids=id_BL,
            attention_mask=mask_BL,
            max_new_tokens=self.sampling.max_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=end,
            pad_token_id=pad,
            logits_processor=transformers.LogitsProcessorList(steps),
            stopping_criteria=transformers.StoppingCriteriaList([StopTextCriteria(self.sampling, self.vocabulary, start)]),
        )
        rows = [row[start:] for row in output.tolist()]
        return [_unpadded(row[: row.index(end)] if end in row else row, pad) for row in rows]


class PerRowSampler(transformers.LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Samples the next token of every row with that row's own generator, and masks all other tokens."""

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        self.sampling = sampling
        self.rngs = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chance_BV = nucleus(scores.double().numpy(), self.sampling.temperature, self.sampling.top_p)
        drawn = [sample_index(chance_V, rng.random()) for chance_V, rng in zip(chance_BV, self.rngs, strict=True)]
        only = torch.full_like(scores, -torch.inf)
        only[torch.arange(len(drawn)), torch.tensor(drawn)] = 0.0
        return only


class StopTextCriteria(transformers.StoppingCriteria):  # type: ignore[misc]  # transformers is not typed
    """Stopping criterion by row: done as soon as its output holds one of the stop texts."""

    def __init__(self, sampling: Sampling, vocabulary: LanguageVocabulary, start: int) -> None:
        self.stop, self.inner, self.start = sampling.stop, vocabulary.tokenizer.inner, start

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        texts = self.inner.decode_batch(input_ids[:, self.start :].tolist(), skip_special_tokens=True)
        done = [any(stop in text for stop in self.stop) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def _unpadded(row: list[int], pad: int) -> list[int]:
    """Token ids without the trailing padding of a row that finished before the others."""
    while row and row[-1] == pad:
        row = row[:-1]
    return row
