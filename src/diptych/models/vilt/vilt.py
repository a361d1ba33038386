"""ViLT: words and patches in one transformer from the first layer on, with heads for fits and hidden words (Kim et al., 2021, 2102.03334).

Letters: B N batch, C channel, H W, G patches of the padded grid, K patches that are read, P what is read of a picture (the class token
first), L tokens, S = L + P, M hidden words, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.layers.dropout_block import DropoutBlock

Head = Literal["words", "fits", "rank"]
"""What is read off: hidden words; "does not fit" and "fits" (pre-training); one number (fine-tuned for retrieval)."""
HEADS: tuple[Head, ...] = ("words", "fits", "rank")


@dataclass(frozen=True, slots=True)
class PictureTokens:
    """Embedded picture tokens, class token first, with positions and modality added, and their mask."""

    token_BPD: Tensor
    there_BP: Tensor

    def rows(self, row: Tensor) -> PictureTokens:
        return PictureTokens(self.token_BPD[row], self.there_BP[row])


class Vilt(nn.Module):
    """A text and a picture, embedded by a table and by one linear layer, read together by the blocks of a vision transformer.

    Places of patches are learned for a square grid of `image_size` / `patch` and stretched to the grid of each picture. A vector says
    which kind a token is: 0 of the text, 1 of a picture, 2 of a second one (NLVR2's weights have three). `types` are BERT's token types,
    of which ViLT reads the first.

    mask_id   the vocabulary's own token for hidden words; None: a learned vector stands in
    heads_of  which heads it has
    answers   classes of a head for questions; 0: none
    eps       of the norms of the blocks: 1e-6 as released, 1e-12 in folders of transformers; text_eps of those of BERT's parts
    spread    deviation of fresh weights
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        image_size: int = 384,
        patch: int = 32,
        length: int = 40,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        eps: float = 1e-6,
        text_eps: float = 1e-12,
        types: int = 2,
        kinds: int = 2,
        mask_id: int | None = None,
        heads_of: Sequence[str] = ("words", "fits"),
        answers: int = 0,
        spread: float = 0.02,
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise ConfigError(
                f"places for pictures of {image_size} pixels cannot be cut into patches of {patch} (expected a divisor)"
            )
        if strange := set(heads_of) - set(HEADS):
            raise ConfigError(f"heads_of holds {min(strange)!r} (expected some of {' | '.join(HEADS)})")
        self.spec: dict[str, Any] = {
            "vocab_size": vocab_size, "image_size": image_size, "patch": patch, "length": length, "width": width, "layers": layers,
            "heads": heads, "mlp_ratio": mlp_ratio, "dropout": dropout, "eps": eps, "text_eps": text_eps, "types": types,
            "kinds": kinds, "mask_id": mask_id, "heads_of": list(heads_of),
            "answers": answers,
        }  # fmt: skip
        self.vocab_size, self.length, self.width, self.patch, self.dropout = vocab_size, length, width, patch, dropout
        self.mask_id, self.side = mask_id, image_size // patch
        self.words = nn.Embedding(vocab_size, width)
        self.position_LD = nn.Parameter(torch.empty(length, width))
        self.types = nn.Embedding(types, width)
        self.text_norm = nn.LayerNorm(width, eps=text_eps)
        self.kinds = nn.Embedding(kinds, width)
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token_D = nn.Parameter(torch.empty(width))
        self.position_PD = nn.Parameter(torch.empty(1 + self.side**2, width))
        self.blocks = nn.ModuleList(
            DropoutBlock(width, heads, mlp_width=int(width * mlp_ratio), eps=eps, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, eps=eps)
        self.pool = nn.Linear(width, width)
        self.mask_D = nn.Parameter(torch.empty(width)) if "words" in heads_of and mask_id is None else None
        self.head: nn.Sequential | None = None
        if "words" in heads_of:
            guess = (nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=text_eps))
            self.head = nn.Sequential(*guess, nn.Linear(width, vocab_size))
        self.fits = nn.Linear(width, 2) if "fits" in heads_of else None
        self.rank = nn.Linear(width, 1) if "rank" in heads_of else None
        self.answer: nn.Sequential | None = None
        if answers:
            inner = (nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU())
            self.answer = nn.Sequential(*inner, nn.Linear(2 * width, answers))
        self._fresh_(spread)

    def _fresh_(self, spread: float) -> None:
        """As released: tables and the heads normal, the blocks and places of patches normal within two deviations, biases zero."""
        blocks = set(self.blocks.modules())
        for module in self.modules():
            if isinstance(module, nn.Linear):
                drawn = nn.init.trunc_normal_ if module in blocks else nn.init.normal_
                drawn(module.weight, std=spread)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for table in (self.position_LD, *((self.mask_D,) if self.mask_D is not None else ())):
            nn.init.normal_(table, std=0.02)
        for table in (self.class_token_D, self.position_PD):
            nn.init.trunc_normal_(table, std=0.02)

    # ------------------------------------------------------------ what enters

    def text_features(self, text_BL: Tensor, hidden_BL: Tensor | None = None) -> Tensor:
        """[B, L, D]: words with their places, normed, and the kind of a text. `hidden_BL` is True where a mask stands in for the word."""
        if text_BL.ndim != 2 or text_BL.shape[1] > self.length:
            raise ShapeError(f"texts must be ids [B, L] with L up to {self.length}, got {list(text_BL.shape)}")
        if hidden_BL is None:
            word_BLD = self.words(text_BL)
        elif self.mask_id is not None:
            word_BLD = self.words(text_BL.masked_fill(hidden_BL, self.mask_id))
        elif self.mask_D is not None:
            word_BLD = torch.where(hidden_BL[..., None], self.mask_D, self.words(text_BL))
        else:
            raise ConfigError("it has no token for hidden words (expected a vocabulary with [MASK], or the head 'words')")
        word_BLD = word_BLD + self.types.weight[0] + self.position_LD[: text_BL.shape[1]]
        return self._dropped(self.text_norm(word_BLD)) + self.kinds.weight[0]

    def picture_features(
        self,
        image_BCHW: Tensor,
        grid_B2: Tensor,
        place_BK: Tensor | None = None,
        there_BK: Tensor | None = None,
        *,
        kind: int = 1,
    ) -> PictureTokens:
        """Picture tokens as input of the transformer.

        image_BCHW, grid_B2  padded pictures, and rows and columns of real patches of each
        place_BK, there_BK   patches that are read, as places of the padded grid, row by row, and which of them are real; None reads all
        kind                 2 for the second of two pictures
        """
        rows, columns = image_BCHW.shape[2] // self.patch, image_BCHW.shape[3] // self.patch
        if image_BCHW.shape[1:] != (3, rows * self.patch, columns * self.patch) or not rows * columns:
            raise ShapeError(f"images must be [B, 3, H, W] with multiples of {self.patch}, got {list(image_BCHW.shape)}")
        token_BGD = self._patches(image_BCHW) + self._places(grid_B2, rows, columns)
        if place_BK is None:
            down_R, across_C = (torch.arange(count, device=grid_B2.device) for count in (rows, columns))
            there_BK = ((down_R[:, None] < grid_B2[:, 0, None, None]) & (across_C < grid_B2[:, 1, None, None])).flatten(1)
        else:
            token_BGD = token_BGD.gather(1, place_BK[..., None].expand(-1, -1, self.width))
        assert there_BK is not None
        first_B1D = (self.class_token_D + self.position_PD[0]).expand(len(image_BCHW), 1, -1)
        token_BPD = self._dropped(torch.cat([first_B1D, token_BGD], 1)) + self.kinds.weight[kind]
        return PictureTokens(token_BPD, torch.cat([there_BK.new_ones(len(there_BK), 1), there_BK], 1))

    def _patches(self, image_BCHW: Tensor) -> Tensor:
        """[B, G, D]. The convolution, whose stride is its size, as one product with the cut-out patches: its backward is much faster on a
        CPU. One that carries an adapter is called."""
        if type(self.patches) is not nn.Conv2d:
            map_BDHW: Tensor = self.patches(image_BCHW)
            return map_BDHW.flatten(2).transpose(1, 2)
        side = self.patch
        cut = image_BCHW.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # [B, C, rows, side, columns, side]
        flat_BGE = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return F.linear(flat_BGE, self.patches.weight.flatten(1), self.patches.bias)

    def _places(self, grid_B2: Tensor, rows: int, columns: int) -> Tensor:
        """[B, G, D]: the learned grid, stretched bilinearly from corner to corner over each picture's own; 0 beside it."""
        square_1DHW = self.position_PD[1:].T.unflatten(1, (self.side, self.side))[None]
        grids = [(int(high), int(wide)) for high, wide in grid_B2.tolist()]
        positions: dict[tuple[int, int], Tensor] = {}
        for high, wide in grids:
            if (high, wide) not in positions:
                fitted_1DHW = F.interpolate(square_1DHW, size=(high, wide), mode="bilinear", align_corners=True)
                positions[high, wide] = F.pad(fitted_1DHW, (0, columns - wide, 0, rows - high))[0].flatten(1).T
        return torch.stack([positions[grid] for grid in grids])

    # ------------------------------------------------------------ what is read

    def read(self, word_BLD: Tensor, mask_BL: Tensor, pictures: PictureTokens) -> Tensor:
        """[B, S, D]: tokens of the text, the class token of the picture, its patches."""
        x_BSD = torch.cat([word_BLD, pictures.token_BPD], 1)
        may_BS = torch.cat([mask_BL, pictures.there_BP], 1)
        for block in self.blocks:
            x_BSD = block(x_BSD, may_BS)
        out_BSD: Tensor = self.norm(x_BSD)
        return out_BSD

    def pooled(self, x_BSD: Tensor) -> Tensor:
        """[B, D], from the start mark of the text."""
        out_BD: Tensor = self.pool(x_BSD[:, 0]).tanh()
        return out_BD

    def guessed(self, x_BSD: Tensor, place_BM: Tensor) -> Tensor:
        """Logits [B, M, V] of the words at these places of the text."""
        if self.head is None:
            raise ConfigError("it was not trained to guess words (expected the head 'words')")
        asked_BMD = x_BSD.gather(1, place_BM[..., None].expand(-1, -1, self.width))
        logit_BMV: Tensor = self.head(asked_BMD)
        return logit_BMV

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
