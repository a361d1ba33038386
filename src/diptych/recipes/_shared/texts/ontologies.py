"""The ontology that a recipe is given, and the texts that it writes about its concepts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from diptych.core.errors import ConfigError
from diptych.core.sample import Sample, Text
from diptych.data.ontologies.files import open_ontology, parse_concepts, to_json
from diptych.data.ontologies.ontology import Ontology
from diptych.worlds.tissue.tree import tissue_ontology

WORLD = "world:tissue"
MAIN = "main"
"""The extra that says of a text whether it is the preferred name of its concept."""


def ontology_at(address: str) -> Ontology:
    """The ontology of an .obo or .json file, or of the rendered tissue ("world:tissue")."""
    if not address:
        raise ConfigError(f"knowledge does not name an ontology (expected an .obo or .json file, or '{WORLD}')")
    return tissue_ontology() if address == WORLD else open_ontology(address)


def ontology_to_json(ontology: Ontology) -> str:
    """As a prepared recipe keeps it; `ontology_from_json` reads it."""
    return to_json(ontology)


@lru_cache(maxsize=4)
def ontology_from_json(text: str) -> Ontology:
    """The ontology of a prepared recipe."""
    return Ontology(parse_concepts(text, "ontology"), name="ontology")


def attributes(ontology: Ontology, stop: tuple[str, ...] = ()) -> Iterator[Sample]:
    """A sample without a picture for everything that is known of a concept: each name, each definition, and the chain of names from the
    most general to its own, as long as there is anything above it. The group is the concept."""
    for number, concept in enumerate(ontology.values()):
        chain = ontology.chain(concept.id, stop=stop)
        texts = [*concept.names, *concept.definitions, *([" ".join(reversed(chain))] if len(chain) > 1 else [])]
        for index, text in enumerate(dict.fromkeys(texts)):
            label_texts = (Text(text, "", "label"),)
            extras = {MAIN: int(index == 0)}
            yield Sample(f"concept-{number}-{index}", None, label_texts, group=concept.id, source=ontology.name, extras=extras)
