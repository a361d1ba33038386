"""Learned reward: the probability of a label under a sequence classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import transformers

from diptych.core.errors import ConfigError, DataError
from diptych.models.towers.packaged.hf_text import silence_transformers

BATCH = 32


class ClassifierReward:
    """Probability of `label` for the concatenated prompt and answer, by a classifier from a local folder of transformers.

    A longer text is truncated to its end.

    with_prompt  False: only the answer is read
    """

    def __init__(self, model: Any, tokenizer: Any, label: int, *, with_prompt: bool = True) -> None:
        self.model, self.tokenizer, self.label, self.with_prompt = model.eval(), tokenizer, label, with_prompt
        tokenizer.truncation_side = "left"
        if not 0 <= label < model.config.num_labels:
            raise ConfigError(
                f"label {label} of a classifier with {model.config.num_labels} labels (expected one of them, from 0)"
            )

    @classmethod
    def open(cls, address: str) -> Self:
        """Load the classifier at "FOLDER:LABEL"; the default label is 1."""
        path, _, label = address.rpartition(":") if address.rpartition(":")[2].isdigit() else (address, "", "1")
        folder = Path(path).expanduser()
        if not (folder / "config.json").is_file():
            raise DataError(
                "not a folder of transformers", file=folder, expected="config.json, model.safetensors and a tokenizer"
            )
        with silence_transformers():
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        return cls(model, tokenizer, int(label))

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]
    ) -> npt.NDArray[np.float64]:
        texts = [prompt + answer if self.with_prompt else answer for prompt, answer in zip(prompts, answers, strict=True)]
        scores = []
        for start in range(0, len(texts), BATCH):
            rows = self.tokenizer(texts[start : start + BATCH], return_tensors="pt", truncation=True, padding=True)
            scores.append(self.model(**rows).logits.softmax(-1)[:, self.label])
        return torch.cat(scores).double().numpy() if scores else np.zeros(0)
