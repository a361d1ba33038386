"""Two streams of image features, for findings and anatomical places, each decoded by queries of names (MeDSLIP, 2403.10635).

Letters: B batch, P image tokens, A places, K findings, D width, E width of the books, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from diptych.core.rows import Rows
from diptych.models.chests.query_decoder import QueryDecoder
from diptych.models.towers.outputs import Tower

Streams = Literal["two", "one"]


@dataclass(frozen=True, slots=True)
class StreamFeatures:
    """Outputs of the streams; those of places, and prototypes, are None with one stream.

    status_finding_BK2, status_place_BA2  logits of absent, present
    pair_BAK        logit of each finding at each place
    prototype_finding_BKE, prototype_place_BAE  queries in the space of the other side's book
    finding_book_KE, place_book_AE  frozen vectors of the names
    """

    status_finding_BK2: Rows[Tensor]
    pair_BAK: Rows[Tensor]
    finding_book_KE: Tensor
    place_book_AE: Tensor
    status_place_BA2: Rows[Tensor] | None = None
    prototype_finding_BKE: Rows[Tensor] | None = None
    prototype_place_BAE: Rows[Tensor] | None = None


class FindingStreams(nn.Module):
    """Two-stream network: a gate splits every channel of every token between the streams,
    and a decoder per stream queries it by name.

    The gate is linear and unbounded, and both decoders share the final norm, as released.
    streams "one" is the baseline: no gate, one decoder with twice as many layers for findings, and a linear layer that predicts
    the place from the finding's query.
    """

    def __init__(
        self,
        image_tower: Tower,
        finding_book_KE: Tensor,
        place_book_AE: Tensor,
        *,
        width: int = 256,
        heads: int = 4,
        layers: int = 4,
        mlp_width: int = 1024,
        dropout: float = 0.1,
        streams: Streams = "two",
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "width": width,
            "heads": heads,
            "layers": layers,
            "mlp_width": mlp_width,
            "dropout": dropout,
            "streams": streams,
        }
        self.image_tower, self.streams = image_tower, streams
        inner, book_width, two = image_tower.token_width, finding_book_KE.shape[1], streams == "two"
        sizes: dict[str, Any] = {"mlp_width": mlp_width, "dropout": dropout}
        self.book = nn.Linear(book_width, width)
        self.register_buffer("finding_book_KE", finding_book_KE)
        self.register_buffer("place_book_AE", place_book_AE)
        self.finding_book_KE: Tensor
        self.place_book_AE: Tensor
        self.finding_in, self.finding_out = nn.Linear(inner, inner), nn.Linear(inner, width)
        self.finding_decoder = QueryDecoder(width, heads, layers if two else 2 * layers, **sizes)
        self.finding_status = nn.Linear(width, 2)
        self.dropout = nn.Dropout(dropout)
        if two:
            self.gate = nn.Linear(inner, inner)
            self.place_in, self.place_out = nn.Linear(inner, inner), nn.Linear(inner, width)
            self.place_decoder = QueryDecoder(width, heads, layers, norm=self.finding_decoder.norm, **sizes)
            self.place_status = nn.Linear(width, 2)
            self.finding_prototype, self.place_prototype = nn.Linear(width, book_width), nn.Linear(width, book_width)
        else:
            self.place_of_finding = nn.Linear(width, len(place_book_AE))
        for name, part in self.named_children():
            if name != "image_tower":
                part.apply(_begin)

    def tokens(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return image tokens [B, P, D] of findings, and of places with two streams."""
        token_BPC = self.image_tower(image_BCHW).tokens_BPD
        if self.streams == "one":
            return self.finding_out(self.finding_in(token_BPC).relu()), None
        gate_BPC = self.gate(token_BPC)
        finding_BPD = self.finding_out(self.finding_in(gate_BPC * token_BPC).relu())
        return finding_BPD, self.place_out(self.place_in((1 - gate_BPC) * token_BPC).relu())

    def asked(self, token_BPD: Tensor, book_QE: Tensor, decoder: QueryDecoder) -> tuple[Tensor, Tensor]:
        """Return states [B, Q, D] of queries initialised with these vectors, and attention [L, B, Q, P]."""
        query_BQD = self.book(book_QE).expand(len(token_BPD), -1, -1)
        state_BQD, attention_LBQP = decoder(query_BQD, token_BPD)
        return state_BQD, attention_LBQP

    def forward(self, image_BCHW: Tensor) -> StreamFeatures:
        finding_BPD, place_BPD = self.tokens(image_BCHW)
        state_BKD, _ = self.asked(finding_BPD, self.finding_book_KE, self.finding_decoder)
        dropped_BKD = self.dropout(state_BKD)
        books = {"finding_book_KE": self.finding_book_KE, "place_book_AE": self.place_book_AE}
        if place_BPD is None:
            pair_BAK = self.place_of_finding(dropped_BKD).transpose(1, 2)
            return StreamFeatures(self.finding_status(dropped_BKD), pair_BAK, **books)
        state_BAD, _ = self.asked(place_BPD, self.place_book_AE, self.place_decoder)
        dropped_BAD = self.dropout(state_BAD)
        return StreamFeatures(
            self.finding_status(dropped_BKD),
            state_BAD @ state_BKD.transpose(1, 2),
            **books,
            status_place_BA2=self.place_status(dropped_BAD),
            prototype_finding_BKE=self.finding_prototype(dropped_BKD),
            prototype_place_BAE=self.place_prototype(dropped_BAD),
        )


def _begin(module: nn.Module) -> None:
    """Initialise weights from a normal of deviation 0.02, as BERT; biases keep PyTorch's initialisation."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.normal_(module.in_proj_weight, std=0.02)
        nn.init.normal_(module.out_proj.weight, std=0.02)
