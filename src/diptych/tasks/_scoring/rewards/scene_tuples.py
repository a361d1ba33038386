"""F score of scene-graph tuples of a text against its references: SPICE's idea, with a parser by rules and without a thesaurus.

A text becomes a set of tuples: each thing (dog), its attributes (dog, brown), and relations (dog, chase, ball). Those of all references are
one set; the score is F1 of the two sets, 0 where one is empty.

This is not SPICE (Anderson et al., 2016, 1607.08822) and its values differ: that one parses with Stanford's parser and rules in Java,
resolves plurals and numbers, and counts words of one WordNet synset as equal. Here `SceneParser` reads the text, and words are equal if
their Porter2 stems are.
"""

from __future__ import annotations

from collections.abc import Sequence

from diptych.data.text.english.scene_parser import SceneParser
from diptych.tasks._scoring.captions.stemming import stem

SceneTuple = tuple[str, ...]
"""(thing,), (thing, attribute) or (thing, relation, thing), each in stems."""
PARSER = SceneParser()


def scene_tuples(text: str) -> frozenset[SceneTuple]:
    """Tuples of a text.

    >>> sorted(scene_tuples("A dog chasing two red balls"))
    [('ball',), ('ball', 'red'), ('dog',), ('dog', 'chase', 'ball')]
    """
    parsed = PARSER.parse(text)
    names = []
    tuples = set[SceneTuple]()
    for name, attributes in parsed.things:
        thing = _stems(_without(name.lower().split(), attributes)) or _stems(name.lower().split())
        names.append(thing)
        tuples |= {(thing,)} | {(thing, _stems(attribute.lower().split())) for attribute in attributes}
    tuples |= {(names[one], _stems(predicate.split()), names[other]) for one, predicate, other in parsed.relations}
    return frozenset(tuples)


def tuple_f1(answer: str, references: Sequence[str]) -> float:
    """F1 of the answer's tuples against those of all references together."""
    ours, theirs = scene_tuples(answer), frozenset[SceneTuple]().union(*map(scene_tuples, references))
    common = len(ours & theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _without(words: list[str], attributes: Sequence[str]) -> list[str]:
    """The words of a phrase before which its attributes stand, without them."""
    dropped = {word for attribute in attributes for word in attribute.lower().split()}
    return [word for number, word in enumerate(words) if word not in dropped or number == len(words) - 1]


def _stems(words: Sequence[str]) -> str:
    return " ".join(map(stem, words))
