"""Texts as ids with the entities that they name.  Letters: B texts, L tokens, S entities of a text, V entities of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.text.reports.entity_graph import EntityGraph
from diptych.data.text.tokenize import Tokenizer
from diptych.models.knowledge.knowledge_fusion import TextInput

Removed = Literal["entity", "mention"]


@dataclass(frozen=True, slots=True)
class LinkedTexts:
    """Texts and the tokens of every entity's mention that is not cut off: (entity, positions) of each text.

    truncated  texts that were cut
    """

    text_BL: Tensor
    mask_BL: Tensor
    mentions: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]
    truncated: int = 0

    def starts(self, starts_BL: Tensor) -> Tensor:
        """bool [B, L]: `starts_BL`, True where a token begins a unit, with all tokens of a mention one unit."""
        units_BL = starts_BL.clone()
        for row, mentions in enumerate(self.mentions):
            for _, positions in mentions:
                units_BL[row, list(positions[1:])] = False
                units_BL[row, positions[0]] = True
        return units_BL

    def inputs(self, most: int, hidden_BL: Tensor | None = None, *, removed: Removed = "entity") -> TextInput:
        """Inputs with the first `most` mentions of each text, without those that knowledge could say hidden tokens by: every mention of an
        entity of which a token is hidden, or that mention alone."""
        entity_BS = torch.full((len(self.text_BL), most), -1)
        tokens_BSL = torch.zeros(len(self.text_BL), most, self.text_BL.shape[1], dtype=torch.bool)
        for row, mentions in enumerate(self.mentions):
            touched = [hidden_BL is not None and bool(hidden_BL[row, list(positions)].any()) for _, positions in mentions]
            gone = {entity for (entity, _), hit in zip(mentions, touched, strict=True) if hit and removed == "entity"}
            kept = [mention for mention, hit in zip(mentions, touched, strict=True) if not hit and mention[0] not in gone]
            for slot, (entity, positions) in enumerate(kept[:most]):
                entity_BS[row, slot] = entity
                tokens_BSL[row, slot, list(positions)] = True
        return TextInput(self.text_BL, self.mask_BL, entity_BS, tokens_BSL)

    def named(self, count: int) -> Tensor:
        """bool [B, V]: entities that each text names."""
        named_BV = torch.zeros(len(self.text_BL), count, dtype=torch.bool)
        for row, mentions in enumerate(self.mentions):
            named_BV[row, [entity for entity, _ in mentions]] = True
        return named_BV


def link(texts: Sequence[str], graph: EntityGraph, tokenizer: Tokenizer, length: int) -> LinkedTexts:
    """Texts with the mentions of the graph's entities. A mention that is cut off in part or whole is left out."""
    encoded = tokenizer.encode(list(texts), length)
    mentions = []
    for text in texts:
        read = tokenizer.cleaned(text)
        entities = graph.linked(read)
        spans = [(entity.start, entity.stop) for entity in entities]
        wholes = tokenizer.span_places(text, spans, len(read) + 2 + length)
        positions = tokenizer.span_places(text, spans, length)
        mentions.append(
            tuple(
                (entity.entity, tuple(here))
                for entity, here, whole in zip(entities, positions, wholes, strict=True)
                if here and len(here) == len(whole)
            )
        )
    ids_BL, mask_BL = torch.from_numpy(np.asarray(encoded.ids_BL)), torch.from_numpy(np.asarray(encoded.mask_BL))
    return LinkedTexts(ids_BL, mask_BL, tuple(mentions), encoded.truncated)


def linked_texts(
    texts: Sequence[str], graph: EntityGraph, tokenizer: Tokenizer, length: int, most: int, *, hidden_BL: Tensor | None = None
) -> TextInput:
    """`link` and `LinkedTexts.inputs` in one."""
    return link(texts, graph, tokenizer, length).inputs(most, hidden_BL)
