"""Yes-or-no questions about relations, made from scene graphs: a true triple, and the same with a wrong relation of the same kind.

A question names a thing by its label, with its first attribute where the label alone is not unique; a thing that neither names is not
asked about. Every pair of questions has one yes and one no about the same two things, so that both answers are as frequent in every cell.

With relations from elsewhere (`usual`) a question pair is classified by what usually holds between two such things: "usual" where
the true relation is the most frequent one, "adversarial" where it never occurs between them while others do; its wrong partner is
then the most frequent one that does not hold here, which is what a model would say without looking.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region

RelationKind = Literal["spatial", "action", "comparative"]
RELATION_KINDS: tuple[RelationKind, ...] = ("spatial", "action", "comparative")
Wrong = Literal["any", "opposite"]
Usual = Mapping[tuple[str, str], Counter[str]]
"""(label of the subject, label of the object) -> how often each relation holds between them."""

_PLACING = re.compile(
    r"(?:(?:is|are|be|to|the)\s+)*(?:above|across|against|along|among|around|at|atop|away|before|behind|below|beneath|beside|between|beyond"
    r"|by|far|from|in|inside|into|left|near|next|off|on|onto|opposite|out|outside|over|parallel|right|toward|towards|under|underneath|upon"
    r"|within)\b"
)
TEMPLATE = "Is the {subject} {predicate} the {object}?"
OPPOSITES = {
    "left of": "right of",
    "to the left of": "to the right of",
    "above": "below",
    "over": "under",
    "on top of": "underneath",
    "in front of": "behind",
    "inside": "outside",
    "near": "far from",
    "bigger than": "smaller than",
    "larger than": "smaller than",
    "taller than": "shorter than",
    "longer than": "shorter than",
    "wider than": "narrower than",
    "higher than": "lower than",
}
"""Mutually exclusive relations, even in incomplete graphs."""
_OPPOSITE = {there: here for here, there in reversed(OPPOSITES.items())} | OPPOSITES


@dataclass(frozen=True, slots=True)
class RelationQuestion:
    """A question whose answer is yes or no.

    part  "usual", "adversarial", or "" if nothing is known of what usually holds
    """

    text: str
    true: bool
    kind: RelationKind
    part: str = ""


@dataclass(frozen=True, slots=True)
class RelationQuestionOptions:
    """Settings of `relation_questions`.

    template  {subject}, {predicate} and {object} in it
    count     pairs of questions for each picture and kind of relation, at most
    wrong     "any": another relation of the data that the graph does not have between the two, for graphs that are complete;
              "opposite": one that excludes the true one (`OPPOSITES`), for those that are not
    usual     what holds elsewhere, from `usual_relations`
    """

    template: str = TEMPLATE
    count: int = 1
    wrong: Wrong = "any"
    usual: Usual = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        fields = ("{subject}", "{predicate}", "{object}")
        if any(self.template.count(name) != 1 for name in fields):
            raise ConfigError(f"template is {self.template!r} (expected {', '.join(fields)} once each)")
        if self.wrong not in ("any", "opposite") or self.count < 1:
            raise ConfigError(f"wrong is {self.wrong!r}, count {self.count} (expected any | opposite, and 1 or more)")


def kind_of_relation(predicate: str) -> RelationKind:
    """Comparative where it compares ("than", "same", "as ... as"), spatial where it begins with a word of place, else an action.

    >>> [kind_of_relation(p) for p in ("to the left of", "on", "bigger than", "same colour as", "riding", "sitting on")]
    ['spatial', 'spatial', 'comparative', 'comparative', 'action', 'action']
    """
    words = predicate.lower().split()
    if "than" in words or "same" in words or words.count("as") > 1:
        return "comparative"
    return "spatial" if _PLACING.match(predicate.lower().strip()) else "action"


def usual_relations(samples: Iterable[Sample]) -> dict[tuple[str, str], Counter[str]]:
    """Counts of each relation between two things, by their labels."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for sample in samples:
        for subject, predicate, other in sample.graph.triplets():
            counts[subject, other][predicate] += 1
    return dict(counts)


def relation_questions(samples: Sequence[Sample], options: RelationQuestionOptions) -> list[list[RelationQuestion]]:
    """The questions about each sample, a true one and a wrong one in turn; none of a sample whose graph gives none."""
    names_by_kind: dict[RelationKind, dict[str, None]] = {kind: {} for kind in RELATION_KINDS}
    for sample in samples:
        for relation in sample.relations:
            names_by_kind[kind_of_relation(relation.predicate)].setdefault(relation.predicate)
    return [_of_sample(sample, {kind: list(names) for kind, names in names_by_kind.items()}, options) for sample in samples]


def _of_sample(
    sample: Sample, names_by_kind: Mapping[RelationKind, list[str]], options: RelationQuestionOptions
) -> list[RelationQuestion]:
    names = _names(sample.regions)
    holds: dict[tuple[int, int], list[str]] = defaultdict(list)
    for relation in sample.relations:
        holds[relation.subject, relation.object].append(relation.predicate)
    rng = keyed_rng("relation questions", options.seed, sample.uid)
    order = rng.permutation(len(sample.relations)).tolist()
    questions: list[RelationQuestion] = []
    left = dict.fromkeys(RELATION_KINDS, options.count)
    pairs: set[tuple[int, int, RelationKind]] = set()
    for relation in (sample.relations[row] for row in order):
        one, other, kind = names[relation.subject], names[relation.object], kind_of_relation(relation.predicate)
        if not one or not other or not left[kind] or (relation.subject, relation.object, kind) in pairs:
            continue
        true_here = holds[relation.subject, relation.object]
        labels = (sample.regions[relation.subject].label, sample.regions[relation.object].label)
        wrong, part = _wrong(relation.predicate, labels, true_here, names_by_kind[kind], options, rng)
        if not wrong:
            continue
        left[kind] -= 1
        pairs.add((relation.subject, relation.object, kind))
        for predicate, true in ((relation.predicate, True), (wrong, False)):
            text = options.template.format(subject=one, predicate=predicate, object=other)
            questions.append(RelationQuestion(text, true, kind, part))
    return questions


def _wrong(
    true: str,
    labels: tuple[str, str],
    true_here: Sequence[str],
    names: Sequence[str],
    options: RelationQuestionOptions,
    rng: np.random.Generator,
) -> tuple[str, str]:
    """The wrong relation, "" if there is none, and the part that the pair of questions belongs to."""
    usual = Counter({name: n for name, n in options.usual.get(labels, Counter()).items() if name in names})
    if options.wrong == "opposite":
        opposite = _OPPOSITE.get(true, "")
        others = [opposite] if opposite and opposite not in true_here else []
    else:
        others = [name for name in names if name not in true_here]
    if not others:
        return "", ""
    if not usual:
        return others[int(rng.integers(len(others)))], ""
    ranked = sorted(others, key=lambda name: -usual[name])  # stable: of equal ones the first of the data
    if not usual[true] and usual[ranked[0]]:
        return ranked[0], "adversarial"
    drawn = others[int(rng.integers(len(others)))]
    return drawn, "usual" if usual[true] == max(usual.values()) else ""


def _names(regions: Sequence[Region]) -> list[str]:
    """Unambiguous name of each thing; "" for one that cannot be distinguished from another."""
    labels = Counter(region.label for region in regions)
    with_attribute = [f"{region.attributes[0]} {region.label}" if region.attributes else "" for region in regions]
    longer = Counter(with_attribute)
    return [
        region.label if labels[region.label] == 1 else name if name and longer[name] == 1 else ""
        for region, name in zip(regions, with_attribute, strict=True)
    ]
