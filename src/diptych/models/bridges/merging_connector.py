"""BERT over image features that merges alike tokens layer by layer (SimVLG, 2310.03291).

Letters: B batch, P patches, F features, K tokens left, D width of the language model, H heads, E width of BERT.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError, DataError
from diptych.models.bridges.token_reduction import ReducedTokens, merge_tokens, merged_count
from diptych.models.io.tensor_files import read_tensors

RELEASED = (
    (r"ln_vision\.", "norm."),
    (r"VL_proj\.", "inward."),
    (r"VLconnector\.(?=embeddings\.|encoder\.)", "bert."),
    (r"(opt|llm)_proj\.", "map."),
)
"""(pattern, replacement): names of a checkpoint of EVLGen and ours."""
UNREAD = re.compile(r"VLconnector\.pooler\.|VLconnector\.embeddings\.\w+_ids$|(vision|text)_proj\.|temp$")
"""BERT's pooler, which nothing reads, ids that are counted, and the maps of the contrastive loss, whose weight is 0."""


class MergingConnector(nn.Module):
    """Maps features [B, P, F] to fewer tokens [B, K, D]: norm, projection to BERT's width, BERT's positions and layers, output
    projection.

    In each layer, after attention and its norm and before the feed-forward maps, `merged` tokens are merged into others
    (`merge_tokens`), compared by their keys, averaged over heads. The first feature is the class token, which stays. No mask, no query.

    merged  tokens removed by merging in each layer; 0 merges none
    bert    settings of `transformers.BertConfig`; published: bert-base
    norm    epsilon of the LayerNorm of the features before; 0 for none
    """

    def __init__(
        self, features: int, width: int, *, merged: int = 19, bert: dict[str, Any] | None = None, norm: float = 1e-5
    ) -> None:
        super().__init__()
        if merged < 0:
            raise ConfigError(f"merged is {merged} (expected 0 or more)")
        settings = transformers.BertConfig(**(bert or {}))
        self.merged, self.heads = merged, int(settings.num_attention_heads)
        self.norm = nn.LayerNorm(features, eps=norm) if norm else nn.Identity()
        self.inward = nn.Linear(features, settings.hidden_size)
        whole: Any = transformers.BertModel(settings, add_pooling_layer=False)
        del whole.embeddings.word_embeddings
        self.bert = whole
        self.map = nn.Linear(settings.hidden_size, width)

    def count(self, patches: int) -> int:
        positions = self.bert.embeddings.position_embeddings.num_embeddings
        if patches > positions:
            raise ConfigError(f"{patches} patches for {positions} positions of BERT (expected as many at most)")
        for _ in self.bert.encoder.layer:
            patches = merged_count(patches, self.merged)
        return patches

    def reduce(self, feature_BPF: Tensor) -> ReducedTokens:
        """Tokens in the width of the language model, and their source map over patches."""
        self.count(feature_BPF.shape[1])
        tables = self.bert.embeddings
        x_BPE = self.inward(self.norm(feature_BPF)) + tables.token_type_embeddings.weight[0]
        x_BPE = x_BPE + tables.position_embeddings.weight[: x_BPE.shape[1]]
        x_BPE = tables.dropout(tables.LayerNorm(x_BPE))
        source = torch.eye(x_BPE.shape[1], device=x_BPE.device).expand(len(x_BPE), -1, -1)
        for layer in self.bert.encoder.layer:
            attended_BPE, key_BPE = self._attended(layer.attention, x_BPE)
            if self.merged:
                step = merge_tokens(attended_BPE, key_BPE, self.merged, source)
                attended_BPE, source = step.token_BKD, step.source_BKP
            x_BPE = layer.output(layer.intermediate(attended_BPE), attended_BPE)
        return ReducedTokens(self.map(x_BPE), source)

    def _attended(self, attention: Any, x_BPE: Tensor) -> tuple[Tensor, Tensor]:
        """Output of a layer's attention with its residual and norm, and its keys, averaged over heads."""
        own = attention.self
        query, key, value = (
            part(x_BPE).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (own.query, own.key, own.value)
        )
        rate = float(own.dropout.p) if self.training else 0.0
        read_BPE = F.scaled_dot_product_attention(query, key, value, dropout_p=rate).transpose(1, 2).flatten(2)
        return attention.output(read_BPE, x_BPE), key.mean(1)

    def forward(self, feature_BPF: Tensor) -> Tensor:
        return self.reduce(feature_BPF).token_BKD


@torch.no_grad()
def take_released_(connector: MergingConnector, file: Path) -> None:
    """Copies norm, maps and BERT of a checkpoint of EVLGen into the connector. Raises DataError for a tensor that is missing, left over, or
    of another shape."""
    needed, expected = connector.state_dict(keep_vars=True), "a checkpoint of EVLGen for images"
    tensors: dict[str, Tensor] = {}
    for name, tensor in read_tensors(file).items():
        if UNREAD.match(name):
            continue
        ours = next((re.sub(pattern, own, name, count=1) for pattern, own in RELEASED if re.match(pattern, name)), name)
        if ours not in needed:
            raise DataError(f"tensor {name} does not belong to the recipe's connector", file=file, expected=expected)
        if needed[ours].shape != tensor.shape:
            shapes = f"{list(tensor.shape)}, the recipe's {list(needed[ours].shape)}"
            raise DataError(f"{name} is {shapes}", file=file, expected="the same sizes")
        tensors[ours] = tensor
    if missing := sorted(set(needed) - set(tensors)):
        raise DataError(f"tensor {missing[0]} is missing", file=file, expected=expected)
    for name, tensor in tensors.items():
        needed[name].copy_(tensor)
