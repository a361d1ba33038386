"""Memory-driven transformer that generates a report from patch features (R2Gen, 2010.16056).

A relational memory with a few slots is updated by each generated word,
and its state shifts the scale and offset of every norm of the decoder (memory-conditional layer normalisation).

Letters: B batch, P patches, L words, Q queries, D width, S memory slots, E width of features, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION_DROPOUT = 0.1
"""Dropout of attention weights, regardless of the dropout of the layers, as released."""
EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTransformerConfig:
    """Sizes of a `MemoryTransformer`; the defaults are BenchX's.

    width, heads, layers, mlp_width  of encoder and decoder
    slots            number of memory slots
    dropout          of layers
    feature_dropout  of the projected features
    """

    width: int = 512
    heads: int = 8
    layers: int = 3
    mlp_width: int = 512
    slots: int = 3
    dropout: float = 0.1
    feature_dropout: float = 0.5


class StandardNorm(nn.Module):
    """(x - mean) / (std + eps) with a learned scale and offset; std is the unbiased one, unlike that of `nn.LayerNorm`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_D, self.offset_D = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.scale_D * standardised(x_BLD) + self.offset_D


class MemoryConditionalNorm(StandardNorm):
    """Layer norm whose scale and offset are shifted at each word by MLPs of the memory."""

    def __init__(self, width: int, slots: int) -> None:
        super().__init__(width)
        self.scale_shift, self.offset_shift = (
            nn.Sequential(nn.Linear(slots * width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(2)
        )

    def forward(self, x_BLD: Tensor, memory_BLM: Tensor) -> Tensor:  # type: ignore[override]
        scale_BLD: Tensor = self.scale_D + self.scale_shift(memory_BLM)
        offset_BLD: Tensor = self.offset_D + self.offset_shift(memory_BLM)
        return scale_BLD * standardised(x_BLD) + offset_BLD


def standardised(x_BLD: Tensor) -> Tensor:
    """Return (x - mean) / (std + 1e-6) over the last dimension, with the unbiased std."""
    return (x_BLD - x_BLD.mean(-1, keepdim=True)) / (x_BLD.std(-1, keepdim=True) + EPS)


class HeadedAttention(nn.Module):
    """Multi-head attention with separate linear layers for queries, keys, values and output."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, query_BQD: Tensor, source_BPD: Tensor, may: Tensor | None = None) -> Tensor:
        """may  bool, broadcastable to [B, heads, Q, P]: True where a query may attend."""
        pairs = ((self.query, query_BQD), (self.key, source_BPD), (self.value, source_BPD))
        query, key, value = (linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear, x in pairs)
        dropout = ATTENTION_DROPOUT if self.training else 0.0
        read_BHQE = F.scaled_dot_product_attention(query, key, value, attn_mask=may, dropout_p=dropout)
        out_BQD: Tensor = self.out(read_BHQE.transpose(1, 2).flatten(2))
        return out_BQD


class RelationalMemory(nn.Module):
    """Memory slots updated by each word through an input gate and a forget gate (equations 5 to 10 of the paper)."""

    def __init__(self, width: int, heads: int, slots: int) -> None:
        super().__init__()
        self.slots = slots
        self.attention = HeadedAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.word_gates, self.memory_gates = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)

    def start(self, word_BLD: Tensor) -> Tensor:
        """Return the state before the first word, [B, S D]; each slot is a row of the identity matrix."""
        start_SD = torch.eye(self.slots, word_BLD.shape[-1], dtype=word_BLD.dtype, device=word_BLD.device)
        return start_SD.flatten().expand(len(word_BLD), -1)

    def step(self, word_BD: Tensor, memory_BM: Tensor) -> Tensor:
        """Return the state after one word, [B, S D]."""
        memory_BSD, word_B1D = memory_BM.unflatten(-1, (self.slots, -1)), word_BD[:, None]
        read_BSD = memory_BSD + self.attention(memory_BSD, torch.cat([memory_BSD, word_B1D], 1))
        read_BSD = (read_BSD + self.mlp(read_BSD)).tanh()
        gates_BSG: Tensor = self.word_gates(word_B1D) + self.memory_gates(memory_BSD.tanh())
        gate_in_BSD, gate_forget_BSD = gates_BSG.sigmoid().chunk(2, -1)
        kept_BSD: Tensor = gate_in_BSD * read_BSD + gate_forget_BSD * memory_BSD
        return kept_BSD.flatten(1)

    def forward(self, word_BLD: Tensor) -> Tensor:
        """Return the state after each word, [B, L, S D]."""
        memory_BM, states = self.start(word_BLD), []
        for word_BD in word_BLD.unbind(1):
            memory_BM = self.step(word_BD, memory_BM)
            states.append(memory_BM)
        return torch.stack(states, 1)


class PatchEncoderLayer(nn.Module):
    """Pre-norm encoder layer: self-attention and an MLP."""

    def __init__(self, config: MemoryTransformerConfig) -> None:
        super().__init__()
        self.attention = HeadedAttention(config.width, config.heads)
        self.mlp = _mlp(config)
        self.norms = nn.ModuleList(StandardNorm(config.width) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BPD: Tensor) -> Tensor:
        normed_BPD = self.norms[0](x_BPD)
        x_BPD = x_BPD + self.dropout(self.attention(normed_BPD, normed_BPD))
        out_BPD: Tensor = x_BPD + self.dropout(self.mlp(self.norms[1](x_BPD)))
        return out_BPD


class MemoryDecoderLayer(nn.Module):
    """Decoder layer: self-attention, cross-attention to the image and an MLP, with a memory-conditional norm before each."""

    def __init__(self, config: MemoryTransformerConfig) -> None:
        super().__init__()
        self.own, self.image = (HeadedAttention(config.width, config.heads) for _ in range(2))
        self.mlp = _mlp(config)
        self.norms = nn.ModuleList(MemoryConditionalNorm(config.width, config.slots) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BLD: Tensor, image_BPD: Tensor, may_B1LL: Tensor, memory_BLM: Tensor) -> Tensor:
        normed_BLD = self.norms[0](x_BLD, memory_BLM)
        x_BLD = x_BLD + self.dropout(self.own(normed_BLD, normed_BLD, may_B1LL))
        x_BLD = x_BLD + self.dropout(self.image(self.norms[1](x_BLD, memory_BLM), image_BPD))
        out_BLD: Tensor = x_BLD + self.dropout(self.mlp(self.norms[2](x_BLD, memory_BLM)))
        return out_BLD


class MemoryTransformer(nn.Module):
    """Encoder of patch features and memory-driven decoder of words; word 0 is the start, end and padding token.

    feature_width  of a patch
    vocabulary     number of words, including word 0
    """

    def __init__(self, feature_width: int, vocabulary: int, config: MemoryTransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.features = nn.Sequential(nn.Linear(feature_width, width), nn.ReLU(), nn.Dropout(config.feature_dropout))
        self.logits = nn.Linear(width, vocabulary)
        self.words = nn.Embedding(vocabulary, width)
        self.memory = RelationalMemory(width, config.heads, config.slots)
        self.encoder = nn.ModuleList(PatchEncoderLayer(config) for _ in range(config.layers))
        self.decoder = nn.ModuleList(MemoryDecoderLayer(config) for _ in range(config.layers))
        self.encoder_norm, self.decoder_norm = StandardNorm(width), StandardNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        for part in (self.words, self.memory, self.encoder, self.decoder):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        for module in self.decoder.modules():
            if isinstance(module, MemoryConditionalNorm):
                for name, parameter in module.named_parameters():
                    if name.endswith("bias"):
                        nn.init.constant_(parameter, 0.1)

    def encode(self, feature_BPE: Tensor) -> Tensor:
        """Return the states of the patches [B, P, D]."""
        x_BPD = self.features(feature_BPE)
        for layer in self.encoder:
            x_BPD = layer(x_BPD)
        encoded_BPD: Tensor = self.encoder_norm(x_BPD)
        return encoded_BPD

    def embedded(self, ids_BL: Tensor) -> Tensor:
        """Return word embeddings with positions [B, L, D]."""
        word_BLD = self.words(ids_BL) * math.sqrt(self.words.embedding_dim)
        dropped_BLD: Tensor = self.dropout(word_BLD + position_waves(ids_BL.shape[1], word_BLD))
        return dropped_BLD

    def decode(self, ids_BL: Tensor, encoded_BPD: Tensor, memory_BLM: Tensor, may_BL: Tensor | None = None) -> Tensor:
        """Return logits [B, L, V] of the next word at each position. may_BL: bool, False at words that are masked."""
        length = ids_BL.shape[1]
        may = torch.ones(length, length, dtype=torch.bool, device=ids_BL.device).tril()[None, None]
        if may_BL is not None:
            may = may & may_BL[:, None, None]
        x_BLD = self.embedded(ids_BL)
        for layer in self.decoder:
            x_BLD = layer(x_BLD, encoded_BPD, may, memory_BLM)
        logit_BLV: Tensor = self.logits(self.decoder_norm(x_BLD))
        return logit_BLV

    def forward(self, feature_BPE: Tensor, ids_BL: Tensor) -> Tensor:
        """Return logits [B, L, V] of the next word at each position of a report that starts with word 0;
        further zeros are padding.
        """
        may_BL = (ids_BL > 0) | (torch.arange(ids_BL.shape[1], device=ids_BL.device) == 0)
        return self.decode(ids_BL, self.encode(feature_BPE), self.memory(self.embedded(ids_BL)), may_BL)


def position_waves(length: int, like: Tensor) -> Tensor:
    """Return sinusoidal positions [L, D]: sine (even dimensions) and cosine (odd) of positions over 10000^(2i/D)
    (Vaswani et al., 2017).
    """
    width = like.shape[-1]
    rate_R = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=like.dtype) * (-math.log(10_000.0) / width))
    angle_LR = torch.arange(length, device=like.device, dtype=like.dtype)[:, None] * rate_R
    return torch.stack([angle_LR.sin(), angle_LR.cos()], -1).flatten(1)


def _mlp(config: MemoryTransformerConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(config.width, config.mlp_width),
        nn.ReLU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.mlp_width, config.width),
    )


@torch.no_grad()
def beam_search(model: MemoryTransformer, feature_BPE: Tensor, *, beams: int = 3, length: int = 60) -> list[list[int]]:
    """Beam search: return the words of the most likely report of each image, without word 0 at the end.

    As released, log-probabilities are summed without a length penalty, a finished report is not extended,
    and all reports end at `length` words. The released configuration also sets trigram blocking,
    which its code uses only in greedy decoding.
    """
    encoded_BPD = model.encode(feature_BPE)
    count, device = len(encoded_BPD), encoded_BPD.device
    encoded_NPD = encoded_BPD.repeat_interleave(beams, 0)
    ids_NL = torch.zeros(count * beams, 1, dtype=torch.long, device=device)
    state_NM, memory_NLM = model.memory.start(encoded_NPD), encoded_NPD.new_empty(0)
    total_BK = torch.full((count, beams), -math.inf, dtype=encoded_BPD.dtype, device=device)
    total_BK[:, 0] = 0.0
    best = [(-math.inf, list[int]()) for _ in range(count)]
    first_B1 = torch.arange(count, device=device)[:, None] * beams
    for step in range(length):
        state_NM = model.memory.step(model.embedded(ids_NL)[:, -1], state_NM)
        memory_NLM = torch.cat([memory_NLM, state_NM[:, None]], 1) if step else state_NM[:, None]
        log_NV = model.decode(ids_NL, encoded_NPD, memory_NLM)[:, -1].log_softmax(-1)
        candidate_BKV = total_BK[..., None] + log_NV.unflatten(0, (count, beams))
        total_BK, at_BK = candidate_BKV.flatten(1).topk(beams)
        rows_N, word_BK = (first_B1 + at_BK // log_NV.shape[-1]).flatten(), at_BK % log_NV.shape[-1]
        ids_NL = torch.cat([ids_NL[rows_N], word_BK.flatten()[:, None]], 1)
        state_NM, memory_NLM = state_NM[rows_N], memory_NLM[rows_N]
        ended_BK = (word_BK == 0) | (step + 1 == length)
        for row, beam in ended_BK.nonzero().tolist():
            total = float(total_BK[row, beam])
            if total > best[row][0]:
                words = ids_NL[row * beams + beam, 1:].tolist()
                best[row] = (total, words[:-1] if words[-1] == 0 else words)
        total_BK = total_BK.masked_fill(ended_BK, -math.inf)
        if bool((total_BK.amax(1) <= torch.tensor([total for total, _ in best], device=device, dtype=total_BK.dtype)).all()):
            break
    return [words for _, words in best]
