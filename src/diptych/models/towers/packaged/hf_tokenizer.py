"""Adapter of transformers tokenizers to the interface of embedders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import transformers

from diptych.data.text.tokenize import BatchEncoding


class TransformersTokenizer:
    """Tokenizer of a local folder, including its special tokens.

    `padding` "longest" pads to the longest text of the call, "length" always to the full length (models that read their padding,
    such as SigLIP, are trained with it).
    """

    def __init__(self, folder: str | Path, *, padding: Literal["longest", "length"] = "longest") -> None:
        self.inner: Any = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.padding = padding

    def encode(self, texts: Sequence[str], length: int, /) -> BatchEncoding:
        given = list(texts)
        whole = self.inner(given)["input_ids"]
        truncated = sum(len(ids) > length for ids in whole)
        rows = self.inner(
            given,
            padding="max_length" if self.padding == "length" else "longest",
            truncation=True,
            max_length=length,
            return_attention_mask=True,
        )
        ids_BL = np.asarray(rows["input_ids"], np.int64)
        return BatchEncoding(ids_BL, np.asarray(rows["attention_mask"], bool), truncated)
