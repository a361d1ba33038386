"""Two towers of persons with what trains them: a guesser of words, a guesser of another model's patches, classes of persons (UniPT).

Letters: B batch, N items, C channel, H W, L tokens, M hidden words, K visible patches, J hidden ones, D width, E width of the
target or of a part, V vocabulary, G persons, Q prototypes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.constants import constant
from diptych.data.media.transforms import Preprocess
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.people.part_encoder import PartEncoder
from diptych.models.people.patch_regressor import PatchRegressor
from diptych.models.towers.max_pool_tower import MaxPoolTower
from diptych.models.towers.outputs import PairFeatures
from diptych.models.towers.vit import VisionTransformer


@dataclass(frozen=True, kw_only=True, slots=True)
class UnifiedPairs(PairFeatures):
    """`PairFeatures`, and the guesses; each is None if its part is left out.

    word_NMV                        logits for hidden words
    hidden_NJE, target_hidden_NJE   of hidden patches: the guess, and what the other model says of them
    visible_NKE, target_visible_NKE of visible ones
    image_person_NG, text_person_NG logits of persons
    image_part_NQE, text_part_NQE   what each prototype reads of either side
    image_part_person_NQG, text_part_person_NQG  logits of persons, from each part
    """

    word_NMV: Rows[Tensor] | None = None
    hidden_NJE: Rows[Tensor] | None = None
    target_hidden_NJE: Rows[Tensor] | None = None
    visible_NKE: Rows[Tensor] | None = None
    target_visible_NKE: Rows[Tensor] | None = None
    image_person_NG: Rows[Tensor] | None = None
    text_person_NG: Rows[Tensor] | None = None
    image_part_NQE: Rows[Tensor] | None = None
    text_part_NQE: Rows[Tensor] | None = None
    image_part_person_NQG: Rows[Tensor] | None = None
    text_part_person_NQG: Rows[Tensor] | None = None


class FrozenPatches(nn.Module):
    """Frozen patch features of another model's image tower, projected into its joint space but not normalised, as released.

    shown    how our pictures were normalised, and `theirs`, how the tower expects them
    shifted  a patch gets the feature of the token of its number, as released: the first that of the class token, all others
         that of the patch before them
    """

    def __init__(
        self, model: PairEmbedder, grid: tuple[int, int], patch: int, shown: Preprocess, *, shifted: bool = False
    ) -> None:
        super().__init__()
        tower = model.model.image_tower
        if not isinstance(tower, VisionTransformer) or tower.class_token_D is None:
            raise ConfigError(f"'{model.name}' has no vision transformer with a class token, whose patches could be regressed")
        if int(tower.patches.kernel_size[0]) != patch:
            raise ConfigError(f"patches of '{model.name}' have {tower.patches.kernel_size[0]} pixels (expected {patch}, as ours)")
        self.tower, self.projection = tower, model.model.image_projection
        tower.position_PD = nn.Parameter(_fitted(tower.position_PD.detach(), tower.grid, grid))
        tower.image_height, tower.image_size = grid[0] * patch, grid[1] * patch
        self.shown, self.theirs, self.width, self.shifted = shown, model.preprocess, int(model.model.width), shifted
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor) -> Tensor:
        """[B, P, E]."""
        mine, theirs = (
            [constant(x, dtype=image_BCHW.dtype, device=image_BCHW.device).view(3, 1, 1) for x in (p.mean, p.std)]
            for p in (self.shown, self.theirs)
        )
        state_BPD = self.tower.states((image_BCHW * mine[1] + mine[0] - theirs[0]) / theirs[1])
        teacher_BPE: Tensor = self.projection(state_BPD[:, :-1] if self.shifted else state_BPD[:, 1:])
        return teacher_BPE


class UnifiedEncoder(nn.Module):
    """A `DualEncoder` over two `MaxPoolTower`s; with prototypes it is a `PartEncoder`.

    guesses_words  a head of BERT's kind over the text tower's words; its weights start from a normal of deviation `words_std`, its biases
                   at 0, or as PyTorch makes them where that is 0
    mask_id        the vocabulary's own token for hidden words; None: a learned vector stands in
    regressor, teacher  guess the patches of the frozen model; None leaves both out
    persons        classes of a layer that images and texts share, and of one for each prototype; 0 leaves them out
    scaled         whether the temperature is learned
    """

    def __init__(
        self,
        encoder: DualEncoder,
        *,
        guesses_words: bool,
        mask_id: int | None,
        regressor: PatchRegressor | None,
        teacher: FrozenPatches | None,
        persons: int,
        scaled: bool,
        words_std: float = 0.0,
    ) -> None:
        super().__init__()
        image, text = encoder.image_tower, encoder.text_tower
        if not isinstance(image, MaxPoolTower) or not isinstance(text, MaxPoolTower):
            raise ConfigError("both towers have to be peak towers")
        self.encoder, self.mask_id = encoder, mask_id
        self.words: nn.Module | None = None
        self.mask_D: nn.Parameter | None = None
        if guesses_words:
            width, table = text.token_width, text.embed
            linear = nn.Linear(width, table.num_embeddings)
            first = nn.Linear(width, width)
            self.words = nn.Sequential(first, nn.GELU(), nn.LayerNorm(width, eps=1e-12), linear)
            for layer in (first, linear) if words_std else ():
                nn.init.normal_(layer.weight, std=words_std)
                nn.init.zeros_(layer.bias)
            self.mask_D = nn.Parameter(torch.randn(table.embedding_dim) * 0.02) if mask_id is None else None
        self.regressor, self.teacher = regressor, teacher
        self.persons: nn.Linear | None = None
        self.part_persons: nn.ModuleList | None = None
        if persons:
            self.persons = _classes(image.width, persons)
            if isinstance(encoder, PartEncoder):
                each = encoder.parts["part_width"]
                self.part_persons = nn.ModuleList(_classes(each, persons) for _ in range(encoder.parts["prototypes"]))
        encoder.log_scale.requires_grad_(scaled)

    def forward(
        self,
        image_BCHW: Tensor,
        text_BL: Tensor,
        text_mask_BL: Tensor,
        masked_BL: Tensor,
        hidden_BL: Tensor,
        place_BM: Tensor,
        kept_BK: Tensor,
        lost_BJ: Tensor,
    ) -> UnifiedPairs:
        encoder = self.encoder
        image, text = encoder.image_tower(image_BCHW), encoder.text_tower(text_BL, text_mask_BL)
        image_BD, text_BD = image.pooled_BD, text.pooled_BD
        output = UnifiedPairs(image_ND=l2_normalise(image_BD), text_ND=l2_normalise(text_BD), scale=encoder.log_scale.exp())
        if self.words is not None:
            output = replace(output, word_NMV=self.guessed_words(masked_BL, hidden_BL, text_mask_BL, place_BM))
        if self.persons is not None:
            output = replace(output, image_person_NG=self.persons(image_BD), text_person_NG=self.persons(text_BD))
        if isinstance(encoder, PartEncoder):
            parts = encoder.read(encoder.image_tower, image), encoder.read(encoder.text_tower, text)
            output = replace(output, image_part_NQE=parts[0], text_part_NQE=parts[1])
            if self.part_persons is not None:
                each = [torch.stack([f(x[:, q]) for q, f in enumerate(self.part_persons)], 1) for x in parts]
                output = replace(output, image_part_person_NQG=each[0], text_part_person_NQG=each[1])
        if self.regressor is not None and self.teacher is not None:
            assert isinstance(encoder.image_tower, MaxPoolTower)
            tower = encoder.image_tower.inner
            assert isinstance(tower, VisionTransformer)
            seen_BSD = tower.norm_after(tower.states(image_BCHW, kept_BK))
            hidden_NJE, visible_NKE = self.regressor(seen_BSD, kept_BK, lost_BJ)
            teacher_BPE = self.teacher(image_BCHW)
            output = replace(
                output,
                hidden_NJE=hidden_NJE,
                visible_NKE=visible_NKE,
                target_hidden_NJE=_at(teacher_BPE, lost_BJ),
                target_visible_NKE=_at(teacher_BPE, kept_BK),
            )
        return output

    def guessed_words(self, masked_BL: Tensor, hidden_BL: Tensor, mask_BL: Tensor, place_BM: Tensor) -> Tensor:
        """Logits [B, M, V]."""
        text = self.encoder.text_tower
        assert isinstance(text, MaxPoolTower)
        assert self.words is not None
        if self.mask_D is None:
            assert self.mask_id is not None
            given: Tensor = masked_BL.masked_fill(hidden_BL, self.mask_id)
        else:
            table = text.embed
            given = torch.where(hidden_BL[..., None], self.mask_D.to(table.weight), table(masked_BL))
        logit_BMV: Tensor = self.words(_at(text.inner(given, mask_BL).tokens_BPD, place_BM))
        return logit_BMV


def _classes(width: int, persons: int) -> nn.Linear:
    layer = nn.Linear(width, persons)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer


def _at(x_BPD: Tensor, place_BM: Tensor) -> Tensor:
    return x_BPD.gather(1, place_BM[..., None].expand(-1, -1, x_BPD.shape[2]))


def _fitted(position_PD: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Positions of a class token and of a grid of patches, for another grid, bilinearly."""
    if grid == target:
        return position_PD.clone()
    square_1DHW = position_PD[1:].T.unflatten(1, grid)[None]
    resized_1DHW = F.interpolate(square_1DHW, size=target, mode="bilinear", align_corners=False)
    return torch.cat([position_PD[:1], resized_1DHW[0].flatten(1).T])
