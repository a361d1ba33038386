"""BERT's masked-language-model head: logits of all words of a vocabulary.  Letters: N vectors, P positions,
D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.layers.max_logits import max_logits

PREFIX = "cls.predictions."
NAMES = {
    "dense.weight": "transform.dense.weight",
    "dense.bias": "transform.dense.bias",
    "norm.weight": "transform.LayerNorm.weight",
    "norm.bias": "transform.LayerNorm.bias",
    "words.weight": "decoder.weight",
    "words.bias": "bias",
}
"""Our names -> those in a `BertForMaskedLM` checkpoint of transformers."""


class VocabularyHead(nn.Module):
    """Linear, GELU, norm, then a logit per word.

    The output word vectors are separate parameters, not tied to the input embeddings, as in LexLIP's code;
    they start from `table`.

    Weights are initialised from a normal of deviation 0.02, as BERT's.
    """

    def __init__(self, width: int, words: int, *, table: Tensor | None = None, eps: float = 1e-12) -> None:
        super().__init__()
        self.dense, self.norm, self.words = nn.Linear(width, width), nn.LayerNorm(width, eps=eps), nn.Linear(width, words)
        for layer in (self.dense, self.words):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        if table is not None:
            if table.shape != self.words.weight.shape:
                raise ConfigError(
                    f"the table of words is {list(table.shape)} (expected {list(self.words.weight.shape)}: a text tower whose words are "
                    "as wide as its vectors)"
                )
            with torch.no_grad():
                self.words.weight.copy_(table)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [..., V] of vectors [..., D]."""
        logits: Tensor = self.words(self.transformed(x))
        return logits

    def peaks(self, x_BPD: Tensor, mask_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maximal logit of each word over all real positions, and its position, [B, V] each."""
        return max_logits(self.transformed(x_BPD), mask_BP, self.words.weight, self.words.bias)

    def transformed(self, x: Tensor) -> Tensor:
        """Return the hidden state before the product with the word embeddings."""
        hidden: Tensor = self.norm(F.gelu(self.dense(x)))
        return hidden


def packaged_head(folder: str | Path) -> dict[str, Tensor]:
    """Read the word head of a masked language model such as BERT from a transformers folder,
    by our names; empty if it has none.
    """
    path = Path(folder, "model.safetensors")
    if not path.is_file():
        return {}
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        head = {ours: file.get_tensor(PREFIX + name) for ours, name in NAMES.items() if PREFIX + name in keys}
        tables = [key for key in keys if key.endswith("embeddings.word_embeddings.weight")]
        if head and "words.weight" not in head and tables:  # tied in the file: stored once
            head["words.weight"] = file.get_tensor(tables[0])
    return head if len(head) == len(NAMES) else {}


@torch.no_grad()
def adopt_head_(head: VocabularyHead, given: Mapping[str, Tensor]) -> None:
    """Copy the given weights into the head. Raises ConfigError if sizes differ."""
    own = dict(head.named_parameters())
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise ConfigError(f"the word head's {name} is {list(tensor.shape)} in the folder and {list(own[name].shape)} here")
        own[name].copy_(tensor)
