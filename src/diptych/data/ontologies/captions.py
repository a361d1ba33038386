"""Texts that an ontology writes about a concept: its name in a sentence, or the whole chain of names from the root down to it.

KEEP (2024, arXiv 2412.13126). A chain is joined by spaces, from the most general to the most particular: "cancer carcinoma
adenocarcinoma"; names are drawn among synonyms, and one parent if there are several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from diptych.core.errors import ConfigError
from diptych.data.ontologies.ontology import Ontology
from diptych.data.text.prompts.prompt_bank import PATHOLOGY, TemplateBank

DISEASE_ONTOLOGY_TOPS = (
    "DOID:0050117",
    "DOID:7",
    "DOID:14566",
    "DOID:150",
    "DOID:0014667",
    "DOID:630",
    "DOID:0080015",
    "DOID:225",
)
"""The eight general classes of the Disease Ontology where KEEP's chains stop."""
NORMAL = ("normal tissue", "non-cancerous tissue", "non-tumor tissue")
"""What KEEP's released code takes for the chain of its label "normal"."""


@dataclass(frozen=True, slots=True)
class ConceptCaption:
    """text, the id of its template, and the names in it from the most particular to the most general: one for a label."""

    text: str
    template: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class HypernymCaptions:
    """Draws captions of concepts.

    bank      the sentences
    stop      concepts at which a chain ends without naming them
    synonyms  whether names are drawn among synonyms
    chains    probability of the whole chain; else the name alone
    outside   chains of labels that are no concepts
    """

    ontology: Ontology
    bank: TemplateBank = PATHOLOGY
    stop: tuple[str, ...] = ()
    synonyms: bool = True
    chains: float = 0.5
    outside: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"normal": NORMAL})

    def __post_init__(self) -> None:
        if not 0 <= self.chains <= 1:
            raise ConfigError(f"chains is {self.chains} (expected a probability)")

    def covers(self, label: str) -> bool:
        """True if a caption can be made for this label."""
        return label in self.ontology or label in self.outside

    def __call__(self, label: str, rng: np.random.Generator) -> ConceptCaption:
        """A caption of that label. Draws the chain, then the template, then which of the two forms. Raises UnknownName."""
        if label in self.outside and label not in self.ontology:
            names = self.outside[label]
        else:
            names = tuple(self.ontology.chain(label, rng, synonyms=self.synonyms, stop=self.stop))
        number = int(rng.integers(len(self.bank)))
        if rng.random() >= self.chains:
            names = names[:1]
        prompt = self.bank.fill(number, " ".join(reversed(names)))
        return ConceptCaption(prompt.text, prompt.template, names)
