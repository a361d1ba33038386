"""FIBER (Dou et al., 2022, arXiv 2206.07643): two towers with optional cross-attention in their upper blocks.

Letters: B N batch, M pairs, C channel, H W, P positions of the last map, L tokens, D width, K answers, V words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError
from diptych.models.fiber.image_encoder import FiberImageEncoder
from diptych.models.fiber.text_encoder import FiberTextEncoder, self_attention_mask
from diptych.models.fiber.top_layers import TopLayers
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.matching.matcher import SideFeatures


@dataclass(frozen=True, slots=True)
class FusedFeatures:
    """Fused features of a text and a picture.

    text_BLD    every token, image_BPD every place of the last map, both of the same width
    pooled_BD   two vectors side by side, of the text's first token and of the picture's mean: twice the width
    """

    text_BLD: Tensor
    image_BPD: Tensor
    pooled_BD: Tensor


class Pooler(nn.Module):
    """tanh of a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, x_BD: Tensor) -> Tensor:
        return torch.tanh(self.dense(x_BD))


class FiberMLMHead(nn.Module):
    """Masked language modelling head: BERT's transformation, and an output table that is not tied to the embedding."""

    def __init__(self, width: int, words: int, *, eps: float = 1e-12) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=eps)
        self.words = nn.Linear(width, words)

    def forward(self, x_BLD: Tensor) -> Tensor:
        logit_BLV: Tensor = self.words(self.norm(F.gelu(self.dense(x_BLD))))
        return logit_BLV


class Fiber(nn.Module):
    """FIBER: one set of weights for dual-encoder, fused and captioning use.

    Unfused, each side alone: `encode_image` and `encode_text`, vectors that are compared by their dot product. Fused (`fuse`): the last
    blocks of both sides read each other, both from what the other side was before the block; then the head `fits` says whether image and
    text belong together, `guess` which word is hidden, `answer` what the answer to the text is. Writing (`write`): the text reads the
    finished picture, itself only backwards.

    The fused path ends without the image tower's last norm and without the last norm of the text tower; its projections and poolers are
    not those of the unfused path. A picture and a text are kept as they are before the first fused block (`PairMatcher`).

    matches  the head `fits`;  guesses  a word head, for hidden words and for writing;  writes  what writing needs beside it;
    answers  how many answers there are, 0 for no such head;  statements  the head that judges a statement about two pictures
    top      layers over both towers in place of gates inside them (METER's way, the baseline)
    """

    def __init__(
        self,
        image: FiberImageEncoder,
        text: FiberTextEncoder,
        *,
        width: int = 768,
        matches: bool = True,
        guesses: bool = True,
        writes: bool = False,
        answers: int = 0,
        statements: bool = False,
        top: int = 0,
        top_heads: int = 12,
    ) -> None:
        super().__init__()
        if image.fused != len(text.blocks) - text.first:
            raise ConfigError(
                f"{image.fused} fused image blocks and {len(text.blocks) - text.first} text layers (expected as many)"
            )
        if bool(top) == bool(image.fused):
            raise ConfigError(f"{image.fused} fused blocks and {top} layers on top (expected one of them above 0)")
        if writes and (top or not guesses):
            raise ConfigError("writing needs fused blocks and a word head (expected top 0 and guesses)")
        self.image_tower, self.text, self.width = image, text, width
        self.spec: dict[str, Any] = {
            "width": width, "matches": matches, "guesses": guesses, "writes": writes, "answers": answers,
            "statements": statements, "top": top, "top_heads": top_heads,
        }  # fmt: skip
        self.fused_width = 2 * width
        self.image_transform, self.text_transform = nn.Linear(image.out_width, width), nn.Linear(text.width, width)
        self.image_pooler, self.text_pooler = Pooler(width), Pooler(width)
        self.image_projection, self.text_projection = nn.Linear(image.out_width, width), nn.Linear(text.width, width)
        self.image_head, self.text_head = Pooler(width), Pooler(width)
        self.fits = nn.Linear(2 * width, 2) if matches else None
        self.top = TopLayers(width, top, top_heads) if top else None
        self.guess = FiberMLMHead(width, text.rows) if guesses else None
        self.narrow = nn.ModuleDict()
        if writes:
            widths = image.fused_widths
            self.narrow.update({str(n): nn.Linear(image.out_width, c) for n, c in enumerate(widths) if c != image.out_width})
        self.writes = writes
        wide = 2 * width
        self.answer = (
            nn.Sequential(nn.Linear(wide, wide), nn.LayerNorm(wide), nn.GELU(), nn.Linear(wide, answers)) if answers else None
        )
        self.statement = (
            nn.Sequential(nn.Linear(2 * wide, wide), nn.LayerNorm(wide), nn.GELU(), nn.Linear(wide, 2)) if statements else None
        )
        towers = {id(module) for side in (image, text) for module in side.modules()}
        for module in self.modules():
            if isinstance(module, nn.Linear) and id(module) not in towers:
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    # ------------------------------------------------------------ apart

    def image_vector(self, begun_BHWC: Tensor) -> Tensor:
        """[B, D] of norm 1, of what `image_features` gives."""
        finished_BHWC = begun_BHWC if self.top is not None else self.image_tower.normed(self.image_tower.finished(begun_BHWC))
        return l2_normalise(self.image_head(self.image_projection(finished_BHWC.flatten(1, 2)).mean(1)))

    def text_vector(self, begun_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """[B, D] of norm 1, of what `text_features` gives."""
        finished_BLD = begun_BLD if self.top is not None else self.text.finished(begun_BLD, self_attention_mask(mask_BL))
        return l2_normalise(self.text_head(self.text_projection(finished_BLD[:, 0])))

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        return self.image_vector(self.image_features(image_BCHW))

    def encode_text(self, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
        return self.text_vector(self.text_features(text_BL, mask_BL), mask_BL)

    # ------------------------------------------------------------ together

    def read_images(self, image_BCHW: Tensor) -> SideFeatures:
        begun_BHWC = self.image_features(image_BCHW)
        there = begun_BHWC.new_ones(begun_BHWC.shape[:3], dtype=torch.bool)
        return SideFeatures(self.image_vector(begun_BHWC), begun_BHWC, there)

    def read_texts(self, text_BL: Tensor, mask_BL: Tensor) -> SideFeatures:
        begun_BLD = self.text_features(text_BL, mask_BL)
        return SideFeatures(self.text_vector(begun_BLD, mask_BL), begun_BLD, mask_BL)

    def image_features(self, image_BCHW: Tensor) -> Tensor:
        """Image features [B, H, W, C] as input of `fuse`: before the first fused block, or finished where layers stand on top."""
        begun_BHWC = self.image_tower.begun(image_BCHW)
        return begun_BHWC if self.top is None else self.image_tower.normed(self.image_tower.finished(begun_BHWC))

    def text_features(self, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Text features [B, L, D] as input of `fuse`."""
        begun_BLD = self.text.begun(text_BL, self_attention_mask(mask_BL))
        return begun_BLD if self.top is None else self.text.finished(begun_BLD, self_attention_mask(mask_BL))

    def fuse(self, image_BHWC: Tensor, text_BLD: Tensor, mask_BL: Tensor) -> FusedFeatures:
        """Fused features of both sides (`SideFeatures.state_N`), after the blocks with cross-attention in both directions."""
        if self.top is None:
            image_BHWC, text_BLD = self.states(image_BHWC, text_BLD, mask_BL)
        image_BPD, text_BLD = self.image_transform(image_BHWC.flatten(1, 2)), self.text_transform(text_BLD)
        if self.top is not None:
            image_BPD, text_BLD = self.top(image_BPD, text_BLD, mask_BL)
        pooled_BD = torch.cat([self.text_pooler(text_BLD[:, 0]), self.image_pooler(image_BPD.mean(1))], -1)
        return FusedFeatures(text_BLD, image_BPD, pooled_BD)

    def states(self, image_BHWC: Tensor, text_BLD: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """The last map and the last tokens of the fused path, before any projection; neither tower's last norm was applied."""
        may = self_attention_mask(mask_BL)
        for number in range(self.image_tower.fused):
            image_BHWC = self.image_tower.entered(number, image_BHWC)
            next_BHWC = self.image_tower.fuse(number, image_BHWC, text_BLD, mask_BL)
            last = number == self.image_tower.fused - 1
            text_BLD = self.text.fuse(number, text_BLD, may, image_BHWC.flatten(1, 2), normed=not last)
            image_BHWC = next_BHWC
        return image_BHWC, text_BLD

    def judge(self, one_BHWC: Tensor, two_BHWC: Tensor, text_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Logits [B, 2] of "it is false" and "it is true" of a statement about two pictures, each read together with the text."""
        if self.statement is None:
            raise ConfigError("this model was not built to judge statements (expected statements=True)")
        pooled = [self.fuse(image_BHWC, text_BLD, mask_BL).pooled_BD for image_BHWC in (one_BHWC, two_BHWC)]
        logit_B2: Tensor = self.statement(torch.cat(pooled, -1))
        return logit_B2

    def match(self, image: SideFeatures, text: SideFeatures) -> tuple[Tensor, Tensor]:
        if self.fits is None:
            raise ConfigError("this model was not trained to match (expected itm above 0)")
        pooled_MD = self.fuse(image.state_N, text.state_N, text.mask_NT).pooled_BD
        answer_M2 = self.fits(pooled_MD)
        return answer_M2[:, 1] - answer_M2[:, 0], pooled_MD

    # ------------------------------------------------------------ writing

    def image_tokens(self, image_BCHW: Tensor) -> Tensor:
        """[B, P, C]: the finished picture that writing reads, without the tower's last norm."""
        return self.image_tower.finished(self.image_tower.begun(image_BCHW)).flatten(1, 2)

    def write(self, image_BPC: Tensor, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Logits [B, L, V]: at each place of the token after it."""
        if not self.writes or self.guess is None:
            raise ConfigError("this model was not built to write (expected writes=True)")
        may = self_attention_mask(mask_BL, causal=True)
        x_BLD = self.text.begun(text_BL, may)
        for number in range(self.image_tower.fused):
            narrow = self.narrow[str(number)] if str(number) in self.narrow else nn.Identity()
            x_BLD = self.text.fuse(number, x_BLD, may, narrow(image_BPC))
        logit_BLV: Tensor = self.guess(self.text_transform(x_BLD))
        return logit_BLV
