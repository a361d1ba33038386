"""A trained `KnowledgeFusion` ready for use: how well images and texts fit, and which words fit a gap.

Letters: N images, K texts, B batch, L tokens, S entities, M hidden words, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.data.text.reports.entity_graph import EntityGraph
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.card import model_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.knowledge.knowledge_fusion import EntityEncoder, KnowledgeFusion, LinkedInput
from diptych.models.knowledge.linked_texts import linked_texts
from diptych.models.towers.towers import image_tower, text_tower

GAP = "___"


def mask_token_id(tokenizer: Tokenizer) -> int:
    """Index of the token that stands for a hidden word. Raises ConfigError for a vocabulary without one."""
    ids = [tokenizer.inner.token_to_id(name) for name in ("[MASK]", "<mask>")]
    token_id = next((number for number in ids if number is not None), None)
    if token_id is None:
        raise ConfigError("the tokenizer has no token for hidden words (expected [MASK] or <mask>)")
    return int(token_id)


class KnowledgeMatcher:
    """`PairJudge` of images and texts, whose entities are linked by the graph's names. Every pair costs a forward."""

    kind: ClassVar[str] = "knowledge_matcher"
    fits_above: ClassVar[float] = 0.0

    def __init__(
        self,
        model: KnowledgeFusion,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        text_length: int,
        graph: EntityGraph,
        name: str,
        *,
        most_entities: int = 24,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.preprocess, self.tokenizer, self.text_length = model, preprocess, tokenizer, text_length
        self.graph, self.name, self.most_entities, self.card = graph, name, most_entities, dict(card or {})

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the weights, the names or the preprocessing."""
        return fingerprint(
            self.model, {"preprocess": self.preprocess.to_json(), "names": [list(names) for names in self.graph.names]}
        )

    @one_or_many
    def score_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
    ) -> npt.NDArray[np.float32]:
        """Log-odds [N, K] that image and text fit, the same for either `query`."""
        scores = np.zeros((len(images), len(texts)), np.float32)
        if not scores.size:
            return scores
        with self._ready() as device:
            vector_VE = self.model.vectors()
            for first, part in zip(range(0, len(texts), 64), parts(texts, 64), strict=False):
                text = self._linked(part, device)
                text_BLD = self.model.text_states(text.text_BL, text.mask_BL)
                for row, image in enumerate(images):
                    image_BPD = self._image(image, device).expand(len(part), -1, -1)
                    match_B2 = self.model.matches(*self.model.fused(text, text_BLD, image_BPD, vector_VE))
                    scores[row, first : first + len(part)] = (match_B2[:, 1] - match_B2[:, 0]).float().cpu().numpy()
        return scores

    def guess_words(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, candidates: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """Log-probabilities [N, C] of each candidate in the gap of a text, an image each: "A ___ in the left lung". A candidate
        of several tokens hides as many places and counts with their sum; entities that the gap touches are not read."""
        scores = np.zeros((len(images), len(candidates)))
        with self._ready() as device:
            vector_VE = self.model.vectors()
            for row, (image, text) in enumerate(zip(images, texts, strict=True)):
                before, gap, after = self.tokenizer.cleaned(text).partition(GAP)
                if not gap:
                    raise ConfigError(f"the text {text!r} has no gap (expected one, written {GAP})")
                words = [self.tokenizer.cleaned(candidate) for candidate in candidates]
                wholes = [f"{before}{word}{after}" for word in words]
                spans = [(len(before), len(before) + len(word)) for word in words]
                scores[row] = self._guessed(self._image(image, device), wholes, spans, vector_VE, device)
        return scores

    def _guessed(
        self, image_1PD: Tensor, texts: list[str], spans: list[tuple[int, int]], vector_VE: Tensor | None, device: torch.device
    ) -> list[float]:
        positions = [
            self.tokenizer.span_places(text, [span], self.text_length)[0] for text, span in zip(texts, spans, strict=True)
        ]
        hidden_BL = torch.zeros(len(texts), self.text_length, dtype=torch.bool)
        for row, here in enumerate(positions):
            hidden_BL[row, here] = True
        text = self._linked(texts, device, hidden_BL)
        masked_BL = text.text_BL.masked_fill(hidden_BL.to(device), mask_token_id(self.tokenizer))
        text_BLD = self.model.text_states(masked_BL, text.mask_BL)
        text_BLD, _ = self.model.fused(text, text_BLD, image_1PD.expand(len(texts), -1, -1), vector_VE)
        values = []
        for row, here in enumerate(positions):
            if not here:
                raise ConfigError(f"nothing of the gap is left within {self.text_length} tokens of {texts[row]!r}")
            log_MW = self.model.words_at(text_BLD[row : row + 1], torch.tensor([here], device=device))[0].double().log_softmax(-1)
            values.append(float(log_MW.gather(1, text.text_BL[row, here][:, None]).sum()))
        return values

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer.json, README.md, replacing the whole folder."""
        model = self.model
        config = {
            "kind": self.kind,
            "name": self.name,
            "image_tower": model.image_tower.spec,
            "text_tower": model.text_tower.spec,
            "fusion": model.options,
            "entity_width": None if model.entities is None else model.entities.vector_VE.shape[1],
            "graph": self.graph.to_json(),
            "preprocess": self.preprocess.to_json(),
            "text_length": self.text_length,
            "most_entities": self.most_entities,
            "card": self.card,
        }
        write_model(folder, model, config, model_card(self.name, config, parameters(model)), self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The matcher of a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        graph = EntityGraph.from_json(config["graph"])
        count, width = len(graph.names), config["entity_width"]
        with torch.random.fork_rng(devices=[]):
            entities = None if width is None else EntityEncoder(torch.zeros(count, width), torch.ones(count, count))
            towers = image_tower(**config["image_tower"]), text_tower(**config["text_tower"])
            model = KnowledgeFusion(*towers, entities=entities, **config["fusion"])
        load_weights(model, folder)
        return cls(
            model.eval(),
            Preprocess.from_json(config["preprocess"]),
            Tokenizer.load(folder),
            config["text_length"],
            graph,
            config["name"],
            most_entities=config["most_entities"],
            card=config.get("card"),
        )

    def _linked(self, texts: Sequence[str], device: torch.device, hidden_BL: Tensor | None = None) -> LinkedInput:
        return linked_texts(texts, self.graph, self.tokenizer, self.text_length, self.most_entities, hidden_BL=hidden_BL).to(
            device
        )

    def _image(self, image: ImageSource, device: torch.device) -> Tensor:
        return self.model.image_states(self.preprocess([decode(image, exact=True)]).to(device))

    @contextmanager
    def _ready(self) -> Iterator[torch.device]:
        with torch.no_grad(), evaluating(self.model):
            yield next(self.model.parameters()).device
