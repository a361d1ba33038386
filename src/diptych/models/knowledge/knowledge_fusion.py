"""Text and image read together with the entities that the text names: alignment, reasoning and learning (ARL, 2209.07118).

Letters: B batch, N items, L tokens, M hidden words, P patches, K visible patches, C numbers of a patch's pixels, S entities of a text,
V entities of the graph, W words, D width, E width of an entity.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.models.knowledge.co_attention import CoAttention, KnowledgeCoAttention
from diptych.models.knowledge.graph_attention import GraphAttention
from diptych.models.layers.transformer import Transformer
from diptych.models.people.patch_regressor import sine_positions
from diptych.models.towers.outputs import Tower
from diptych.models.towers.vit import VisionTransformer


@dataclass(frozen=True, slots=True)
class LinkedInput:
    """Texts with their entities.

    text_BL, mask_BL   ids, and True at real tokens
    entity_BS          index of each entity, -1 if there is none
    tokens_BSL         True where a token is part of an entity's mention
    """

    text_BL: Tensor
    mask_BL: Tensor
    entity_BS: Tensor
    tokens_BSL: Tensor

    def to(self, device: torch.device | str) -> LinkedInput:
        """The same on another device."""
        return LinkedInput(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class FusionFeatures:
    """Inputs of the losses; None for a part that the model does not have.

    word_NMW    logits of hidden words
    pixel_NPC   pixels of every patch as guessed from the visible ones
    match_N2    logits of "does not fit" and "fits"
    image_entity_NV, text_entity_NV  logits of the graph's entities from an image, or a text, alone
    """

    word_NMW: Rows[Tensor]
    match_N2: Rows[Tensor]
    pixel_NPC: Rows[Tensor] | None = None
    image_entity_NV: Rows[Tensor] | None = None
    text_entity_NV: Rows[Tensor] | None = None


class EntityEncoder(nn.Module):
    """Vectors of a graph's entities by two layers of graph attention over learned ones, which start from TransE."""

    def __init__(self, vector_VE: Tensor, edges_VV: Tensor, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.vector_VE = nn.Parameter(vector_VE.clone())
        self.register_buffer("edges_VV", edges_VV)
        self.edges_VV: Tensor
        width = vector_VE.shape[1]
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.first = GraphAttention(width, 64, heads=8, dropout=dropout)
        self.second = GraphAttention(512, width, joined=False, dropout=dropout)

    def forward(self) -> Tensor:
        """[V, E]."""
        inner = F.elu(self.first(self.dropout(self.norm(self.vector_VE)), self.edges_VV))
        out_VE: Tensor = self.second(self.dropout(inner), self.edges_VV)
        return out_VE


class PatchDecoder(nn.Module):
    """Pixels of every patch from visible ones: a mask vector elsewhere, fixed places, blocks as CLIP's, a norm and a linear layer
    (MAE)."""

    position_PD: Tensor

    def __init__(self, inner: int, width: int, layers: int, heads: int, grid: tuple[int, int], numbers: int) -> None:
        super().__init__()
        self.embed, self.pixels = nn.Linear(inner, width), nn.Linear(width, numbers)
        self.mask_D = nn.Parameter(torch.randn(width) * 0.02)
        self.register_buffer("position_PD", torch.cat([torch.zeros(1, width), sine_positions(grid, width)]), persistent=False)
        self.blocks = Transformer(width, layers, heads, act="quick_gelu", start="torch")
        self.norm = nn.LayerNorm(width)
        for name, part in self.named_modules():
            if not name.endswith("qkv"):  # the attention's input stays Xavier-uniform, as released
                _begin(part)

    def forward(self, state_BKD: Tensor, kept_BK: Tensor) -> Tensor:
        """[B, P, C] of the class token and the patches at `kept_BK`."""
        state_BKD = self.embed(state_BKD)
        patches = len(self.position_PD) - 1
        all_BPD = self.mask_D.to(state_BKD).expand(len(state_BKD), patches, -1)
        all_BPD = all_BPD.scatter(1, kept_BK[..., None].expand(-1, -1, state_BKD.shape[2]), state_BKD[:, 1:])
        whole_BPD = torch.cat([state_BKD[:, :1], all_BPD], 1) + self.position_PD.to(state_BKD)
        pixel_BPC: Tensor = self.pixels(self.norm(self.blocks(whole_BPD)))[:, 1:]
        return pixel_BPC


class KnowledgeFusion(nn.Module):
    """Two towers and layers in which both sides read each other, with heads for hidden words, hidden patches, matching and entities.

    entities       the graph's encoder; None has neither alignment nor reasoning
    reasons        the text side reads the entities that it names
    aligns         an image, and a text, says which entities belong to it
    patch_layer    hidden patches are guessed from the image side before this layer of the fusion
    """

    def __init__(
        self,
        image_tower: Tower,
        text_tower: Tower,
        *,
        words: int,
        width: int,
        heads: int,
        layers: int,
        entities: EntityEncoder | None,
        reasons: bool = True,
        aligns: bool = True,
        decoder: tuple[int, int, int] | None = (384, 4, 6),
        patch_layer: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not isinstance(image_tower, VisionTransformer) or image_tower.class_token_D is None:
            raise ConfigError(f"{type(image_tower).__name__} has no class token and patches (expected vit_...)")
        if not 0 <= patch_layer <= layers:
            raise ConfigError(f"patch_layer is {patch_layer} (expected 0..{layers})")
        self.options: dict[str, Any] = {
            "words": words,
            "width": width,
            "heads": heads,
            "layers": layers,
            "reasons": reasons,
            "aligns": aligns,
            "decoder": None if decoder is None else list(decoder),
            "patch_layer": patch_layer,
            "dropout": dropout,
        }
        self.patch_layer = patch_layer
        text_width = text_tower.token_width
        sizes: dict[str, Any] = {"mlp_width": 4 * width, "dropout": dropout}
        self.text_in, self.image_in = nn.Linear(text_width, width), nn.Linear(image_tower.width, width)
        self.kind_2D = nn.Parameter(torch.zeros(2, width))
        with_entities = entities is not None and reasons
        entity_width = 0 if entities is None else entities.vector_VE.shape[1]
        self.text_layers = nn.ModuleList(
            KnowledgeCoAttention(width, heads, entity_width=entity_width, **sizes)
            if with_entities
            else CoAttention(width, heads, width, **sizes)
            for _ in range(layers)
        )
        self.image_layers = nn.ModuleList(CoAttention(width, heads, width, **sizes) for _ in range(layers))
        self.text_pool, self.image_pool = nn.Linear(width, width), nn.Linear(width, width)
        self.word_head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12), nn.Linear(width, words)
        )
        self.match_head = nn.Linear(2 * width, 2)
        self.align_heads = None
        if entities is not None and aligns:
            self.align_heads = nn.ModuleList(
                nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, entity_width), nn.ReLU()) for _ in range(2)
            )
        for part in self.children():
            part.apply(_begin)
        nn.init.normal_(self.kind_2D, std=0.02)
        if isinstance(last := self.text_layers[-1], KnowledgeCoAttention):
            last.entity.mlp.requires_grad_(False)  # nothing reads entities after the last layer
        self.image_tower, self.text_tower, self.entities = image_tower, text_tower, entities
        self.decoder = None
        if decoder is not None:
            patch = int(image_tower.patches.kernel_size[0])
            self.decoder = PatchDecoder(width, *decoder, image_tower.grid, 3 * patch**2)

    def image_states(self, image_BCHW: Tensor, kept_BK: Tensor | None = None) -> Tensor:
        """Class token and patches [B, P, D] in the fusion's width; of `kept_BK` alone where it is given."""
        assert isinstance(self.image_tower, VisionTransformer)
        state_BPD = self.image_tower.norm_after(self.image_tower.states(image_BCHW, kept_BK))
        projected_BPD: Tensor = self.image_in(state_BPD) + self.kind_2D[1]
        return projected_BPD

    def text_states(self, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Tokens [B, L, D] in the fusion's width."""
        projected_BLD: Tensor = self.text_in(self.text_tower(text_BL, mask_BL).tokens_BPD) + self.kind_2D[0]
        return projected_BLD

    def named(self, entity_BS: Tensor, vector_VE: Tensor) -> Tensor:
        """Vectors [B, S, E] of entities; zeros if there is none."""
        vector_BSE = vector_VE[entity_BS.clamp(min=0)]
        return vector_BSE * (entity_BS >= 0)[..., None]

    def fused(
        self, text: LinkedInput, text_BLD: Tensor, image_BPD: Tensor, vector_VE: Tensor | None, *, stop: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Text [B, L, D] and image [B, P, D] after the layers, or the first `stop` of them."""
        may_text = text.mask_BL[:, None, None]
        lowest = torch.finfo(text_BLD.dtype).min  # and not minus infinity: a text may name nothing
        may_entity = ((text.entity_BS < 0).to(text_BLD) * lowest)[:, None, None]
        entity_BSE = None if vector_VE is None else self.named(text.entity_BS, vector_VE)
        for text_layer, image_layer in list(zip(self.text_layers, self.image_layers, strict=True))[:stop]:
            next_image_BPD = image_layer(image_BPD, text_BLD, None, may_text)
            if isinstance(text_layer, KnowledgeCoAttention):
                assert entity_BSE is not None
                text_BLD, entity_BSE = text_layer(text_BLD, image_BPD, entity_BSE, may_text, may_entity, text.tokens_BSL)
            else:
                text_BLD = text_layer(text_BLD, image_BPD, may_text, None)
            image_BPD = next_image_BPD
        return text_BLD, image_BPD

    def vectors(self) -> Tensor | None:
        """Vectors of the graph's entities [V, E], for one reading."""
        return None if self.entities is None else self.entities()

    def matches(self, text_BLD: Tensor, image_BPD: Tensor) -> Tensor:
        """Logits of "does not fit" and "fits" [B, 2] from both sides' first tokens."""
        both_BD = torch.cat([self.text_pool(text_BLD[:, 0]).tanh(), self.image_pool(image_BPD[:, 0]).tanh()], -1)
        match_B2: Tensor = self.match_head(both_BD)
        return match_B2

    def words_at(self, text_BLD: Tensor, position_BM: Tensor) -> Tensor:
        """Logits of words [B, M, W] at these positions."""
        logit_BMW: Tensor = self.word_head(text_BLD.gather(1, position_BM[..., None].expand(-1, -1, text_BLD.shape[2])))
        return logit_BMW

    def forward(
        self,
        image_BCHW: Tensor,
        shown_BCHW: Tensor,
        whole: LinkedInput,
        masked: LinkedInput,
        position_BM: Tensor,
        kept_BK: Tensor | None,
    ) -> FusionFeatures:
        """shown_BCHW: images for matching, of which half belong to other texts. masked: texts with hidden words, without the
        entities that these touch. kept_BK: patches that are visible, or None if no patch is guessed."""
        vector_VE = self.vectors()
        image_BPD, shown_BPD = self.image_states(image_BCHW), self.image_states(shown_BCHW)
        text_BLD = self.text_states(whole.text_BL, whole.mask_BL)
        guessing_BLD, _ = self.fused(masked, self.text_states(masked.text_BL, masked.mask_BL), image_BPD, vector_VE)
        match_B2 = self.matches(*self.fused(whole, text_BLD, shown_BPD, vector_VE))
        pixel_BPC = image_entity_BV = text_entity_BV = None
        if self.decoder is not None and kept_BK is not None:
            visible_BKD = self.image_states(image_BCHW, kept_BK)
            _, visible_BKD = self.fused(whole, text_BLD, visible_BKD, vector_VE, stop=self.patch_layer)
            pixel_BPC = self.decoder(visible_BKD, kept_BK)
        if self.align_heads is not None:
            assert vector_VE is not None
            image_entity_BV = self.align_heads[0](image_BPD[:, 0]) @ vector_VE.T
            text_entity_BV = self.align_heads[1](text_BLD[:, 0]) @ vector_VE.T
        return FusionFeatures(self.words_at(guessing_BLD, position_BM), match_B2, pixel_BPC, image_entity_BV, text_entity_BV)


def _begin(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
