"""Pseudo texts of persons from a frozen model's attribute scores: UniPT (2309.01420), for pictures without captions.

Each attribute's phrases are put into a prompt and compared with the picture. Required attributes (age, gender, upper and lower clothes,
action, hair) take the phrase of the highest cosine; optional ones (bag, glasses, hat and others) take it only where the softmax over their
phrases is above `sure`. The column ``pseudo_attributes`` holds what was found, as "attribute: phrase"; `unipt` draws a sentence of it anew
each time that it sees the picture. The column ``synthetic_caption`` holds one sentence each for recipes that read captions,
and ``template`` which wording it has ("persons/17"). Drops no rows.

Cost: one embedding a row, and one a phrase. The text is a machine's guess; recipes recognise it by its origin, synthetic.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from diptych.core.contracts import CurationStepResult, Dataset, Drop, Embedder
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.randomness import keyed_rng
from diptych.core.terminal.progress import with_bar
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.data.text.persons.descriptions import ABSENT, BANK, OPTIONAL, REQUIRED, combine, prompt, templates

COLUMN, CAPTION, TEMPLATE = "pseudo_attributes", "synthetic_caption", "template"
Phrases = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class PseudoTexts:
    """model      address of a model that embeds pictures and texts (published: CLIP's ViT-B/16)
    sure       minimum softmax probability over its phrases of an optional attribute that is written
    scale      factor of the cosines in that softmax: CLIP's own, learned to its bound
    absent     add "without a bag" to the phrases of an optional attribute; it is never written. The paper has no such phrase
    skip       attributes that are left out
    templates  number of sentence templates to sample from
    exchanged  probability that a word with synonyms is replaced
    seed       seed of the sentences
    """

    slug: ClassVar[str] = "pseudo_texts"
    paths: ClassVar[tuple[str, ...]] = ()

    model: str = ""
    sure: float = 0.9
    scale: float = 100.0
    absent: bool = False
    skip: tuple[str, ...] = ()
    templates: int = 456
    exchanged: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.sure < 1 or self.scale <= 0 or not 0 <= self.exchanged <= 1:
            raise ConfigError(f"sure {self.sure}, scale {self.scale}, exchanged {self.exchanged} (expected shares, and above 0)")
        for name in self.skip:
            if name not in (*REQUIRED, *OPTIONAL):
                raise UnknownName("attribute", name, (*REQUIRED, *OPTIONAL))
        templates(self.templates)

    def plan(self, data: Dataset) -> dict[str, Any]:
        model = open_embedder(self.model)
        return estimate_cost(data, lambda image: model.embed_images([image]), unit="embedding (one at a time)")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from embeddings that an earlier run finished."""
        start = time.perf_counter()
        model = open_embedder(self.model)
        seen = embed_pool(data, model, parts)
        required = {name: phrases for name, phrases in REQUIRED.items() if name not in self.skip}
        optional = {name: phrases for name, phrases in OPTIONAL.items() if name not in self.skip}
        vectors = {name: phrase_vectors(model, name, self._choices(name)) for name in (*required, *optional)}
        chosen: dict[str, dict[str, str]] = {}
        for uid, image_D in with_bar(
            zip(seen.uids, seen.vector_ND, strict=True), len(seen.uids), "choosing phrases", least=1_000
        ):
            cosine = {name: vector_PD @ image_D for name, vector_PD in vectors.items()}
            chosen[uid] = conquer(cosine, required, optional, sure=self.sure, scale=self.scale)
        sentences = {uid: self._sentence(uid, of_row) for uid, of_row in chosen.items()}
        captions = {uid: text for uid, (text, _) in sentences.items()}
        wordings = {uid: f"{BANK}/{number}" for uid, (_, number) in sentences.items()}
        attributes = {uid: [f"{name}: {phrase}" for name, phrase in of_row.items()] for uid, of_row in chosen.items()}
        kept = tuple(uid for uid in sorted(data.uids) if uid not in seen.unreadable)
        dropped = tuple(Drop(uid, self.slug, f"unreadable: {why}") for uid, why in sorted(seen.unreadable.items()))
        columns = {COLUMN: attributes, CAPTION: captions, TEMPLATE: wordings} if chosen else {}
        return CurationStepResult(kept, dropped, columns, time.perf_counter() - start)

    def _choices(self, name: str) -> tuple[str, ...]:
        if name in REQUIRED:
            return REQUIRED[name]
        return (*OPTIONAL[name], ABSENT[name]) if self.absent else OPTIONAL[name]

    def _sentence(self, uid: str, attributes: Mapping[str, str]) -> tuple[str, int]:
        rng = keyed_rng("pseudo texts", self.seed, uid)
        number = int(rng.integers(self.templates))
        return combine(attributes, number, rng, count=self.templates, exchanged=self.exchanged), number


def phrase_vectors(model: Embedder, attribute: str, phrases: Sequence[str]) -> npt.NDArray[np.float32]:
    """Unit-norm text embeddings, one a phrase."""
    vectors: npt.NDArray[np.float32] = np.asarray(model.embed_texts([prompt(attribute, phrase) for phrase in phrases]))
    return vectors


def conquer(
    cosine: Mapping[str, npt.NDArray[Any]], required: Phrases, optional: Phrases, *, sure: float, scale: float
) -> dict[str, str]:
    """Phrase of each attribute, from the cosines of a picture with the phrases of each.

    A cosine beyond the phrases of an optional attribute is that of its absence: where it is the highest, nothing is written.
    """
    chosen = {name: phrases[int(np.argmax(cosine[name]))] for name, phrases in required.items()}
    for name, phrases in optional.items():
        share = softmax(scale * cosine[name].astype(np.float64))
        best = int(np.argmax(share))
        if best < len(phrases) and share[best] > sure:
            chosen[name] = phrases[best]
    return chosen


def attributes_of(column: Sequence[str]) -> dict[str, str]:
    """Values of the column by attribute."""
    return dict(entry.split(": ", 1) for entry in column)
