"""3D scene graph guided pre-training (2411.18666): proposals of a room and words,
fused by a graph of neighbours and by cross-attention.

Letters: B rooms, M proposals, K points of a proposal or neighbours, F values per point, S sentences of a room, L words, D width,
V words of the vocabulary, A answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.models.layers.transformer import l2_normalise
from diptych.models.points.point_bert import GroupEncoder
from diptych.models.points.sampling import gather_points

HEADS = ("grounding", "captions", "questions")
BOX_CHANNELS = 6
"""Box width: centre and logarithms of extents."""


@dataclass(frozen=True)
class RoomGraphSettings:
    """Sizes of a `RoomGraphNet`; the widths of words are ScanRefer's, the others are not verified.

    graph_width  of proposals, words and everything between
    word_width   of word embeddings (GloVe has 300)
    near         number of nearest proposals that a proposal has an edge to
    graph_layers, cross_layers, cross_heads  of the graph convolution and the cross-attention
    joint_width  of the vectors that are contrasted
    """

    graph_width: int = 256
    word_width: int = 300
    near: int = 8
    graph_layers: int = 2
    cross_layers: int = 2
    cross_heads: int = 8
    joint_width: int = 128

    def __post_init__(self) -> None:
        if self.graph_width % self.cross_heads or min(self.near, self.graph_layers, self.cross_layers) < 1:
            raise ConfigError(
                f"width {self.graph_width} in {self.cross_heads} heads, {self.near} neighbours, {self.graph_layers} and "
                f"{self.cross_layers} layers (expected heads that divide the width, and 1 or more)"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class RoomGraphFeatures:
    """object_BMD     unit vectors of proposals before the graph, the word level; node_BMD: after it, the sentence level
    word_BSLD, sentence_BSD  words, not normalised, and unit vectors of sentences
    room_BD, text_BD  unit vectors of rooms and of all their sentences, the scene level; all None without pre-training
    class_BMC      classes of proposals from their own features; named_BSC: of the object that a sentence refers to, from the
    sentence
    choice_BSM     score of each proposal for each sentence
    word_logit_BSLV, masked_class_BMC  of masked words and masked proposals, from everything else; None without masking
    caption_BMLV   words of captions of proposals, given those before; answer_BSA: of answers. None if not requested
    scale          of the contrasts
    """

    object_BMD: Rows[Tensor] | None
    node_BMD: Rows[Tensor] | None
    word_BSLD: Rows[Tensor] | None
    sentence_BSD: Rows[Tensor] | None
    room_BD: Rows[Tensor] | None
    text_BD: Rows[Tensor] | None
    class_BMC: Rows[Tensor]
    named_BSC: Rows[Tensor]
    choice_BSM: Rows[Tensor] | None
    word_logit_BSLV: Rows[Tensor] | None
    masked_class_BMC: Rows[Tensor] | None
    caption_BMLV: Rows[Tensor] | None
    answer_BSA: Rows[Tensor] | None
    scale: Tensor


class EdgeConvolution(nn.Module):
    """Graph layer: the maximum over neighbours j of MLP(f_i, f_j - f_i, offset of their boxes), added to f_i, then normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * width + BOX_CHANNELS, width), nn.ReLU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, node_BMD: Tensor, box_BM6: Tensor, near_BMK: Tensor, open_BMK: Tensor) -> Tensor:
        """Return [B, M, D]; neighbours whose `open_BMK` is False are ignored,
        and a proposal without neighbours keeps its features.
        """
        other_BMKD = gather_points(node_BMD, near_BMK)
        own_BMKD = node_BMD[:, :, None].expand_as(other_BMKD)
        offset_BMK6 = gather_points(box_BM6, near_BMK) - box_BM6[:, :, None]
        edge_BMKD = self.mlp(torch.cat([own_BMKD, other_BMKD - own_BMKD, offset_BMK6], -1))
        edge_BMKD = edge_BMKD.masked_fill(~open_BMK[..., None], -torch.inf)
        read_BMD = edge_BMKD.amax(2).masked_fill(~open_BMK.any(-1)[..., None], 0)
        updated_BMD: Tensor = self.norm(node_BMD + read_BMD)
        return updated_BMD


class CrossLayer(nn.Module):
    """Pre-norm cross-attention in both directions between proposals and words, in parallel, followed by an MLP for each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.read_words, self.read_objects = (nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(2))
        self.object_norms, self.word_norms = (nn.ModuleList(nn.LayerNorm(width) for _ in range(2)) for _ in range(2))
        self.object_mlp, self.word_mlp = (
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(2)
        )

    def forward(self, object_NMD: Tensor, word_NLD: Tensor, object_pad_NM: Tensor, word_pad_NL: Tensor) -> tuple[Tensor, Tensor]:
        objects_NMD, words_NLD = self.object_norms[0](object_NMD), self.word_norms[0](word_NLD)
        read_NMD, _ = self.read_words(objects_NMD, words_NLD, words_NLD, key_padding_mask=word_pad_NL, need_weights=False)
        read_NLD, _ = self.read_objects(words_NLD, objects_NMD, objects_NMD, key_padding_mask=object_pad_NM, need_weights=False)
        object_NMD, word_NLD = object_NMD + read_NMD, word_NLD + read_NLD
        object_NMD = object_NMD + self.object_mlp(self.object_norms[1](object_NMD))
        return object_NMD, word_NLD + self.word_mlp(self.word_norms[1](word_NLD))


class RoomGraphNet(nn.Module):
    """Network over given proposals (boxes with the points in them, without a detector) and texts (word embeddings and a GRU).

    words    size of the vocabulary; classes, answers: of the heads
    heads    of "grounding", "captions" and "questions"
    pretraining  has the projections of the contrasts and the heads for masked inputs
    """

    def __init__(
        self,
        settings: RoomGraphSettings,
        *,
        words: int,
        classes: int,
        answers: int,
        heads: Sequence[str] = HEADS,
        pretraining: bool = True,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        if not set(heads) <= set(HEADS) or not (heads or pretraining):
            raise ConfigError(f"heads are {list(heads)} (expected some of {', '.join(HEADS)}, or pre-training)")
        self.settings, self.words, self.classes, self.answers = settings, words, classes, answers
        self.heads, self.pretraining = tuple(heads), pretraining
        width, joint = settings.graph_width, settings.joint_width
        self.point_encoder = GroupEncoder(6, width)
        self.position = nn.Sequential(nn.Linear(BOX_CHANNELS, width), nn.ReLU(), nn.Linear(width, width))
        self.graph = nn.ModuleList(EdgeConvolution(width) for _ in range(settings.graph_layers))
        self.embed = nn.Embedding(words, settings.word_width)
        self.gru = nn.GRU(settings.word_width, width, batch_first=True)
        self.cross = nn.ModuleList(CrossLayer(width, settings.cross_heads) for _ in range(settings.cross_layers))
        self.classify, self.name_class = nn.Linear(width, classes), nn.Linear(width, classes)
        if pretraining:
            self.object_joint, self.node_joint, self.word_joint, self.sentence_joint = (nn.Linear(width, joint) for _ in range(4))
            self.word_head, self.masked_head = nn.Linear(width, words), nn.Linear(width, classes)
            self.hidden_object_D = nn.Parameter(torch.randn(width) * 0.02)
            self.hidden_word_E = nn.Parameter(torch.randn(settings.word_width) * 0.02)
        if "grounding" in heads:
            self.choose = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))
        if "captions" in heads:
            self.caption_gru, self.caption_head = nn.GRU(settings.word_width, width, batch_first=True), nn.Linear(width, words)
        if "questions" in heads:
            self.answer_head = nn.Sequential(nn.Linear(3 * width, width), nn.ReLU(), nn.Linear(width, answers))
        self.register_buffer("scale_1", torch.tensor([1 / temperature]), persistent=False)

    scale_1: Tensor

    def read_objects(
        self, point_BMKF: Tensor, box_BM6: Tensor, open_BM: Tensor, hidden_BM: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return features of proposals [B, M, D] with their positions, and after the graph.

        `hidden_BM`: proposals whose own features are replaced by a learned vector; their positions are kept.
        """
        if hidden_BM is not None:  # before the encoder, too: its batch norms would leak them to the others
            point_BMKF = point_BMKF.masked_fill(hidden_BM[..., None, None], 0)
        own_BMD = self.point_encoder(point_BMKF)
        if hidden_BM is not None:
            own_BMD = torch.where(hidden_BM[..., None], self.hidden_object_D, own_BMD)
        object_BMD = own_BMD + self.position(box_BM6)
        near_BMK, open_BMK = nearest_proposals(box_BM6, open_BM, self.settings.near)
        node_BMD = object_BMD
        for layer in self.graph:
            node_BMD = layer(node_BMD, box_BM6, near_BMK, open_BMK)
        return object_BMD, node_BMD

    def read_words(self, id_NL: Tensor, mask_NL: Tensor, hidden_NL: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return features of words [N, L, D] and of sentences [N, D] (the state after the last word)."""
        embedded_NLE = self.embed(id_NL)
        if hidden_NL is not None:
            embedded_NLE = torch.where(hidden_NL[..., None], self.hidden_word_E, embedded_NLE)
        word_NLD, _ = self.gru(embedded_NLE)
        last_N = mask_NL.sum(1).clamp_min(1) - 1
        return word_NLD, word_NLD[torch.arange(len(word_NLD), device=word_NLD.device), last_N]

    def mix(self, node_BMD: Tensor, word_BSLD: Tensor, open_BM: Tensor, mask_BSL: Tensor) -> tuple[Tensor, Tensor]:
        """Return proposals [B, S, M, D] after cross-attention with each sentence, and words [B, S, L, D]."""
        sentences = word_BSLD.shape[1]
        object_NMD = node_BMD[:, None].expand(-1, sentences, -1, -1).flatten(0, 1)
        object_pad_NM = ~open_BM[:, None].expand(-1, sentences, -1).flatten(0, 1)
        word_NLD, word_pad_NL = word_BSLD.flatten(0, 1), ~mask_BSL.flatten(0, 1)
        word_pad_NL = word_pad_NL & ~word_pad_NL.all(
            1, keepdim=True
        )  # a sentence of padding only attends to padding; it is used nowhere
        for layer in self.cross:
            object_NMD, word_NLD = layer(object_NMD, word_NLD, object_pad_NM, word_pad_NL)
        shape = word_BSLD.shape[:2]
        return object_NMD.unflatten(0, shape), word_NLD.unflatten(0, shape)

    def scores(self, object_BSMD: Tensor, sentence_BSD: Tensor, open_BM: Tensor) -> Tensor:
        """Return scores [B, S, M] of each proposal for each sentence; -inf where there is no proposal."""
        both_BSMD = torch.cat([object_BSMD, sentence_BSD[:, :, None].expand_as(object_BSMD)], -1)
        score_BSM: Tensor = self.choose(both_BSMD)[..., 0]
        return score_BSM.masked_fill(~open_BM[:, None], -torch.inf)

    def answer(self, object_BSMD: Tensor, word_BSLD: Tensor, sentence_BSD: Tensor, open_BM: Tensor, mask_BSL: Tensor) -> Tensor:
        """Return logits of answers [B, S, A] from the means of proposals and words, and the sentence."""
        objects_BSD = masked_mean(object_BSMD, open_BM[:, None].expand(object_BSMD.shape[:3]))
        pooled = torch.cat([objects_BSD, masked_mean(word_BSLD, mask_BSL), sentence_BSD], -1)
        logit_BSA: Tensor = self.answer_head(pooled)
        return logit_BSA

    def caption(self, node_ND: Tensor, id_NL: Tensor) -> Tensor:
        """Return logits [N, L, V] of the next word after each word of captions of proposals."""
        state_NLD, _ = self.caption_gru(self.embed(id_NL), node_ND[None].contiguous())
        logit_NLV: Tensor = self.caption_head(state_NLD)
        return logit_NLV

    def forward(
        self,
        point_BMKF: Tensor,
        box_BM6: Tensor,
        open_BM: Tensor,
        id_BSL: Tensor,
        mask_BSL: Tensor,
        hidden_BM: Tensor | None = None,
        hidden_BSL: Tensor | None = None,
        caption_BML: Tensor | None = None,
        ask_BSL: Tensor | None = None,
        ask_mask_BSL: Tensor | None = None,
    ) -> RoomGraphFeatures:
        """point_BMKF  points of each proposal around its centre, with colours
        box_BM6     centre and logarithms of extents of each; open_BM: False if there is no proposal
        id_BSL      words of sentences; mask_BSL: False on padding
        hidden_BM, hidden_BSL  masked words and proposals, for a second pass
        caption_BML words of a caption of each proposal, -1 after its end
        ask_BSL     words of questions; ask_mask_BSL: False on padding
        """
        shape = id_BSL.shape[:2]
        object_BMD, node_BMD = self.read_objects(point_BMKF, box_BM6, open_BM)
        word_NLD, sentence_ND = self.read_words(id_BSL.flatten(0, 1), mask_BSL.flatten(0, 1))
        word_BSLD, sentence_BSD = word_NLD.unflatten(0, shape), sentence_ND.unflatten(0, shape)
        spoken_BS = mask_BSL.any(-1)
        words = masked = choice = answers = None
        own_vectors = node_vectors = word_vectors = sentence_vectors = room_vectors = text_vectors = None
        if self.pretraining:
            own_vectors = l2_normalise(self.object_joint(object_BMD))
            node_vectors = l2_normalise(self.node_joint(node_BMD))
            word_vectors = self.word_joint(word_BSLD)
            sentence_vectors = l2_normalise(self.sentence_joint(sentence_BSD))
            room_vectors = l2_normalise(self.node_joint(masked_mean(node_BMD, open_BM)))
            text_vectors = l2_normalise(self.sentence_joint(masked_mean(sentence_BSD, spoken_BS)))
        if "grounding" in self.heads:
            choice = self.scores(self.mix(node_BMD, word_BSLD, open_BM, mask_BSL)[0], sentence_BSD, open_BM)
        if ask_BSL is not None and ask_mask_BSL is not None:
            answers = self.asked(node_BMD, ask_BSL, ask_mask_BSL, open_BM)
        if hidden_BM is not None and hidden_BSL is not None:
            _, hidden_node_BMD = self.read_objects(point_BMKF, box_BM6, open_BM, hidden_BM)
            hidden_NLD, _ = self.read_words(id_BSL.flatten(0, 1), mask_BSL.flatten(0, 1), hidden_BSL.flatten(0, 1))
            seen_BSMD, _ = self.mix(hidden_node_BMD, word_BSLD, open_BM, mask_BSL)
            _, read_BSLD = self.mix(node_BMD, hidden_NLD.unflatten(0, shape), open_BM, mask_BSL)
            words = self.word_head(read_BSLD)
            masked = self.masked_head(
                masked_mean(seen_BSMD.transpose(1, 2), spoken_BS[:, None].expand(-1, seen_BSMD.shape[2], -1))
            )
        return RoomGraphFeatures(
            own_vectors,
            node_vectors,
            word_vectors,
            sentence_vectors,
            room_vectors,
            text_vectors,
            self.classify(object_BMD),
            self.name_class(sentence_BSD),
            choice,
            words,
            masked,
            None if caption_BML is None else self._captions(node_BMD, caption_BML),
            answers,
            self.scale_1,
        )

    def asked(self, node_BMD: Tensor, ask_BSL: Tensor, mask_BSL: Tensor, open_BM: Tensor) -> Tensor:
        """Return logits [B, S, A] of answers to questions."""
        shape = ask_BSL.shape[:2]
        word_NLD, sentence_ND = self.read_words(ask_BSL.flatten(0, 1), mask_BSL.flatten(0, 1))
        object_BSMD, mixed_BSLD = self.mix(node_BMD, word_NLD.unflatten(0, shape), open_BM, mask_BSL)
        return self.answer(object_BSMD, mixed_BSLD, sentence_ND.unflatten(0, shape), open_BM, mask_BSL)

    def _captions(self, node_BMD: Tensor, caption_BML: Tensor) -> Tensor:
        id_NL = caption_BML.flatten(0, 1).clamp_min(0)  # there is no loss after the end
        logit_BMLV: Tensor = self.caption(node_BMD.flatten(0, 1), id_NL).unflatten(0, caption_BML.shape[:2])
        return logit_BMLV


def nearest_proposals(box_BM6: Tensor, open_BM: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` nearest other proposals by their centres [B, M, K] (all others if there are fewer),
    and which of them exist.
    """
    with torch.no_grad():
        distance_BMM = torch.cdist(box_BM6[..., :3], box_BM6[..., :3], compute_mode="donot_use_mm_for_euclid_dist")
        own_MM = torch.eye(box_BM6.shape[1], dtype=torch.bool, device=box_BM6.device)
        shut_BMM = own_MM[None] | ~open_BM[:, None]
        near = distance_BMM.masked_fill(shut_BMM, torch.inf).topk(min(count, box_BM6.shape[1]), dim=-1, largest=False)
        return near.indices, near.values.isfinite()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the second to last dimension of the positions whose mask is True; 0 if there are none."""
    weight = mask[..., None].to(x)
    return (x * weight).sum(-2) / weight.sum(-2).clamp_min(1)
