"""Inference with a tuned language model: generates text after a text prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch

from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.prompt import PromptLike, require_one_per_image, text_of_text_only_prompt
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.io.card import described_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.policy.decoding import DecodingConfig
from diptych.models.policy.language_policy import answer_logits
from diptych.models.policy.prompt_rows import Truncate, prompt_rows

BATCH = 32


class TextGenerator:
    """Text-only `Generator`: answers to prompts without a picture.

    prefix, suffix  added before and after every prompt
    length          tokens of a prompt that are read, 0 for all; `truncate`: which end of a longer one is removed
    decoding        greedy by default
    """

    kind: ClassVar[str] = "text_generator"
    reads_images: ClassVar[bool] = False

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: LanguageVocabulary,
        name: str,
        *,
        prefix: str = "",
        suffix: str = "",
        length: int = 0,
        truncate: Truncate = "left",
        decoding: DecodingConfig | None = None,
        card: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.vocabulary, self.name = model, vocabulary, name
        self.prefix, self.suffix, self.length, self.truncate, self.card = prefix, suffix, length, truncate, card or {}
        self.decoding = decoding or DecodingConfig()

    @property
    def _settings(self) -> dict[str, Any]:
        decoding = {"decoding": asdict(self.decoding)} if self.decoding != DecodingConfig() else {}
        return {"prefix": self.prefix, "suffix": self.suffix, "length": self.length, "truncate": self.truncate, **decoding}

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, self._settings)

    @torch.no_grad()
    def generate(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64, **options: Any
    ) -> list[str]:
        """Generate as `decoding` says, up to the end token; `options` of transformers' `generate` overrule it. Raises DataError for a
        prompt with a picture."""
        require_one_per_image("prompts", prompts, images)
        if any(image is not None for image in images):
            raise DataError(f"'{self.name}' reads text alone and was given a picture", field="images", expected="no picture")
        texts = [text_of_text_only_prompt(prompt, model=self.name) for prompt in prompts]
        answers: list[str] = []
        device = next(self.model.parameters()).device
        settings = {**self.decoding.options(), **options}
        with evaluating(self.model), self.decoding.seeded(device):
            for some in parts(texts, BATCH):
                ids_NP, there_NP = prompt_rows(self._framed(some), self.vocabulary, truncate=self.truncate, **self._limit())
                ids_NT = self.model.inner.generate(
                    input_ids=ids_NP.to(device),
                    attention_mask=there_NP.long().to(device),
                    max_new_tokens=max_tokens,
                    eos_token_id=self.vocabulary.end_id,
                    pad_token_id=self.vocabulary.pad_id,
                    **settings,
                )
                behind = 1 if self.model.reads_and_writes else ids_NP.shape[1]
                answers += [self.vocabulary.decode(row[behind:]).strip() for row in ids_NT.tolist()]
        return answers

    @torch.no_grad()
    def continuation_nll(
        self, prompts: Sequence[str], texts: Sequence[str]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the negative log-likelihood [N] in nats of each text after its prompt, without the end token,
        and its number of tokens [N].
        """
        nll, counts = [], []
        device = next(self.model.parameters()).device
        space = "" if self.vocabulary.spaced else " "
        with evaluating(self.model):
            for prompt, text in zip(self._framed(prompts), texts, strict=True):
                answer = self.vocabulary.pieces(space + text)
                counts.append(len(answer))
                if not answer:
                    nll.append(0.0)
                    continue
                ids_1P, there_1P = prompt_rows([prompt], self.vocabulary, truncate=self.truncate, **self._limit())
                answer_1L = torch.tensor([answer], device=device)
                log_1LV = answer_logits(self.model, ids_1P.to(device), there_1P.to(device), answer_1L).log_softmax(-1)
                nll.append(-float(log_1LV.gather(-1, answer_1L[..., None]).sum()))
        return np.asarray(nll, np.float64), np.asarray(counts, np.int64)

    def _framed(self, prompts: Sequence[str]) -> list[str]:
        return [f"{self.prefix}{prompt}{self.suffix}" for prompt in prompts]

    def _limit(self) -> dict[str, int]:
        """Rows are truncated to `length`, and padded at most to the longest."""
        return {"length": self.length} if self.length else {}

    def save(self, folder: Path) -> None:
        """Write config.json, the language model as model.safetensors with its configuration, tokenizer.json."""
        config: dict[str, Any] = {
            "kind": self.kind,
            "name": self.name,
            "language": self.model.config,
            **self._settings,
            "start": bool(self.vocabulary.start_ids),
            "closes": bool(self.vocabulary.close_ids),
            "card": {"description": "Writes text behind a prompt.", **self.card},
        }
        readme = described_card(
            self.name,
            config["card"],
            tags=("text-generation",),
            about="Writes text behind a prompt.",
            facts=f"{parameters(self.model):,} parameters.",
            use='answers = model.generate([None], ["a prompt"])',
        )
        write_model(folder, self.model, config, readme, self.vocabulary.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load from a folder that `save` wrote."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            model = LanguageModel(config=config["language"])
        load_weights(model, folder)
        words = LanguageVocabulary(Tokenizer.load(folder), start=config["start"], closes=config["closes"])
        settings = {name: config[name] for name in ("prefix", "suffix", "length", "truncate")}
        decoding = DecodingConfig(**config.get("decoding", {}))
        return cls(model.eval(), words, config["name"], decoding=decoding, card=config.get("card"), **settings)
