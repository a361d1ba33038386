"""Ontologies from files and back: OBO 1.4, and the JSON of knowledge graphs.

    ontology.obo     [Term] stanzas, as the Disease Ontology and the Gene Ontology are published
    graph.json       {id: {"name": ..., "synonyms": [...], "definitions": {source: sentence}, "parent": [...], "children": [...]}}, the
                     form of KEEP's released example; "parents" is read too, and definitions may be a list

None comes with this package: the Disease Ontology is free to use (CC0), UMLS and SNOMED have licences of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from diptych.core.disk.files import write_atomic
from diptych.core.disk.json_text import parse_json
from diptych.core.disk.paths import read_file
from diptych.core.errors import DataError
from diptych.data.ontologies.ontology import Concept, Missing, Ontology

ESCAPES = {"n": "\n", "W": " ", "t": "\t"}
"""Escaped characters of OBO that do not stand for themselves."""


def open_ontology(path: str | Path, *, missing: Missing = "refuse", obsolete: bool = False) -> Ontology:
    """The ontology of an .obo or .json file.

    missing   see `Ontology`
    obsolete  whether terms that an OBO file marks as obsolete are kept

    Raises DataError that names the file and the line (OBO) or the concept (JSON) for what cannot be read.
    """
    file = Path(path)
    if file.suffix.lower() not in (".obo", ".json"):
        raise DataError("is not a readable ontology", file=file, expected="an .obo or .json file")
    if not file.is_file():
        raise DataError("there is no such file", file=file, expected="an ontology in OBO or JSON")
    try:
        text = read_file(file).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 at byte {error.start:,}", file=file, expected="an ontology in UTF-8") from error
    concepts = _obo(text, file, obsolete) if file.suffix.lower() == ".obo" else parse_concepts(text, file)
    return Ontology(concepts, name=str(file), missing=missing)


def to_json(ontology: Ontology) -> str:
    """The JSON form, children included; `open_ontology` reads it."""
    children = ontology.children
    plain = {
        concept.id: {
            "name": concept.name,
            "synonyms": list(concept.synonyms),
            "definitions": list(concept.definitions),
            "parent": list(concept.parents),
            "children": list(children[concept.id]),
        }
        for concept in ontology.values()
    }
    return json.dumps(plain, ensure_ascii=False, indent=1)


def save_ontology(ontology: Ontology, path: str | Path) -> None:
    """Writes the JSON form."""
    write_atomic(Path(path), to_json(ontology).encode())


def parse_concepts(text: str, file: object) -> list[Concept]:
    """The concepts of a JSON text; `file` is its name in messages. Raises DataError."""
    try:
        plain = parse_json(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"is not valid JSON: {error.msg}", file=file, row=error.lineno, expected="an object of concepts by id"
        ) from error
    except ValueError as error:
        raise DataError(str(error), file=file, expected="an object of concepts by id") from error
    if not isinstance(plain, dict):
        raise DataError(f"holds a {type(plain).__name__}", file=file, expected="an object of concepts by id")
    return [_concept(key, value, file) for key, value in plain.items()]


def _concept(key: str, value: Any, file: object) -> Concept:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"].strip():
        raise DataError(f"concept {key!r} has no name", file=file, field="name", expected='{"name": ..., "parent": [...]}')
    definitions = value.get("definitions", [])
    lists = {
        "synonyms": value.get("synonyms", []),
        "definitions": list(definitions.values()) if isinstance(definitions, dict) else definitions,
        "parent": value.get("parent", value.get("parents", [])),
    }
    for name, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
            raise DataError(f"{name} of concept {key!r} is {names!r:.60}", file=file, field=name, expected="a list of strings")
    return Concept(
        key,
        value["name"],
        _others(lists["synonyms"], value["name"]),
        tuple(lists["definitions"]),
        tuple(dict.fromkeys(lists["parent"])),
    )


def _others(synonyms: Iterable[str], name: str) -> tuple[str, ...]:
    """Synonyms once each, without the name itself and without empty ones. Case makes another name."""
    return tuple(other for other in dict.fromkeys(synonyms) if other.strip() and other != name)


def _obo(text: str, file: Path, obsolete: bool) -> Iterator[Concept]:
    """A concept for each [Term]. Parents are its `is_a` lines; other relationships (part_of, ...) are not read."""
    stanza, term = "", _Term(0)
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            if stanza == "Term" and (obsolete or not term.obsolete):
                yield term.concept(file)
            stanza, term = line[1:-1], _Term(number)
        elif stanza == "Term" and line and not line.startswith("!"):
            tag, colon, value = line.partition(":")
            if not colon:
                raise DataError(f"the line {line[:40]!r} has no tag", file=file, row=number, expected="TAG: VALUE")
            term.read(tag, value.strip(), file, number)
    if stanza == "Term" and (obsolete or not term.obsolete):
        yield term.concept(file)


class _Term:
    """A stanza as it is read."""

    def __init__(self, line: int) -> None:
        self.line, self.id, self.name, self.obsolete = line, "", "", False
        self.synonyms: list[str] = []
        self.definitions: list[str] = []
        self.parents: list[str] = []

    def read(self, tag: str, value: str, file: Path, number: int) -> None:
        if tag == "id":
            self.id = _plain(value)
        elif tag == "name":
            self.name = _plain(value)
        elif tag == "is_obsolete":
            self.obsolete = _plain(value) == "true"
        elif tag == "is_a":
            self.parents.append(_plain(value))
        elif tag == "synonym":
            self.synonyms.append(_quoted(value, tag, file, number))
        elif tag == "def":
            self.definitions.append(_quoted(value, tag, file, number))

    def concept(self, file: Path) -> Concept:
        if not self.id or not self.name:
            missing = "id" if not self.id else "name"
            raise DataError(f"a term has no {missing}", file=file, row=self.line, field=missing, expected=f"{missing}: VALUE")
        parents = tuple(dict.fromkeys(self.parents))
        return Concept(self.id, self.name, _others(self.synonyms, self.name), tuple(self.definitions), parents)


def _plain(value: str) -> str:
    """An unquoted value without its trailing modifiers {...} and comment ! ..., unescaped."""
    match = re.match(r"(?:\\.|[^\\!{])*", value)
    return _unescaped(match.group() if match else "").strip()


def _quoted(value: str, tag: str, file: Path, number: int) -> str:
    match = re.match(r'"((?:\\.|[^"\\])*)"', value)
    if match is None:
        raise DataError(f"{tag} is {value[:40]!r}", file=file, row=number, field=tag, expected='text in quotes: "..." EXACT []')
    return _unescaped(match.group(1))


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: ESCAPES.get(match.group(1), match.group(1)), text)
