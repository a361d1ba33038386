"""Decoder of a body's key points from the states of reference tokens, the third stage of REF-VLM (2503.07413).

Letters: B batch, R references, Q queries (padded), K key points, D width, E width of states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from diptych.core.rows import Rows
from diptych.models.layers.mlp import MLP
from diptych.models.referring.target_decoders import DecoderSize, DetrDecoder, TargetBoxDecoder


@dataclass(frozen=True, slots=True)
class DecodedPoints:
    """point_BRK2   key points of each reference as shares of the square
    visible_BRK2  logits of each point, hidden and visible
    box_BR4       box around each body, cxcywh in 0..1; first_box_BR4: that of the first decoder
    """

    point_BRK2: Rows[Tensor]
    visible_BRK2: Rows[Tensor]
    box_BR4: Rows[Tensor]
    first_box_BR4: Rows[Tensor]

    def visible(self) -> Tensor:
        """[B, R, K]: True at points that are decoded as visible."""
        return self.visible_BRK2.argmax(-1) == 1


class TargetPointDecoder(nn.Module):
    """Two decoders in a row: that of boxes, and one whose queries are its output, once for the box and once for each key point.

    channels  of the maps, finest first
    states    width of a state
    points    key points of a body
    """

    def __init__(self, channels: Sequence[int], states: int, size: DecoderSize, points: int) -> None:
        super().__init__()
        self.size, self.points = size, points
        self.first = TargetBoxDecoder(channels, states, replace(size, box_queries=size.point_queries))
        self.visual = nn.Linear(sum(channels), size.width)
        self.map = nn.Linear(size.width, size.width)
        self.kind = nn.Embedding(points + 1, size.width)
        self.position = nn.Embedding(size.point_queries * (points + 1), size.width)
        self.decoder = DetrDecoder(size)
        self.box, self.point = (MLP((size.width, size.width, size.width, out)) for out in (4, 2))
        self.visible = nn.Linear(size.width, 2)

    def forward(self, maps: Sequence[Tensor], state_BRE: Tensor, open_BR: Tensor) -> DecodedPoints:
        """Boxes and key points of references whose states are real where `open_BR` is True."""
        given = state_BRE.shape[1]
        first_BQD, open_BQ = self.first.queries.padded(state_BRE, open_BR, self.first.memory(maps))
        query_BQGD = self.map(first_BQD)[:, :, None] + self.kind.weight
        group = self.points + 1
        repeated = None if open_BQ is None else open_BQ.repeat_interleave(group, 1)
        memory_BDHW = self.first.memory(maps, self.visual)
        decoded_BPD = self.decoder(query_BQGD.flatten(1, 2), self.position.weight, memory_BDHW, repeated)
        decoded_BRGD = decoded_BPD.unflatten(1, (-1, group))[:, :given]
        points_BRKD = decoded_BRGD[:, :, 1:]
        return DecodedPoints(
            point_BRK2=self.point(points_BRKD).sigmoid(),
            visible_BRK2=self.visible(points_BRKD),
            box_BR4=self.box(decoded_BRGD[:, :, 0]).sigmoid(),
            first_box_BR4=self.first.predictor(first_BQD[:, :given]).sigmoid(),
        )
