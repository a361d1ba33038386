"""ARO: attribution, relation and order probes of captions.

Protocol `aro`, version 1.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any, ClassVar, Literal

import pyarrow as pa

from diptych.core.contracts import Dataset
from diptych.core.errors import ConfigError
from diptych.core.result import Result
from diptych.core.sample import Sample
from diptych.data.probes.case import Case
from diptych.data.probes.facts import AttributionFact, RelationFact, published_attribution, published_relation
from diptych.tasks._scoring.captions.choices import MINIMUM, AveragingOptions, Floats
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import facts_of
from diptych.tasks.composition.caption_scoring import CHOOSER, CaptionScoring, Compare, records_of
from diptych.tasks.composition.order_options import OrderOptions, Trigrams, tagger_of
from diptych.worlds.scenes.probes import SceneFacts


@dataclass(frozen=True)
class ARO:
    """ARO (Yuksekgonul et al., 2023, arXiv 2210.01936): the picture against its caption with two things exchanged (relation), with two
    attributes exchanged (attribution), and with its words in four other orders (order). A folder with the published files is read with a
    split each (`data.probes.aro`); `world:scenes` asks all three of every scene; of any other data the captions are shuffled.

    `relation` and `attribution` are means over relations and pairs of attributes, `order` over captions, `macro` is the mean of what is
    there. `accuracy` is the mean over cases, which tables call by the same name and which differs by many points.

    Published code takes the first of tied options. It lists the false one first in relation and attribution, and the true one first in
    order, where shuffles that change nothing then count as right. `ties="index", keep_equal=True, normalise=False, trigrams="treebank"`
    counts so; by default ties are shared and options that equal the true one are dropped (and counted). Its shuffles are drawn anew in
    every run, ours by key.

    leave_out   relations that are left out of the means: those that the release leaves out (symmetric or rare ones), or "none"
    minimum     number of cases that a pair of attributes needs. Relations need none, as released
    ties        credit of equal scores: expected (shared) | pessimistic | optimistic | index (the first option, as published)
    compare, prompt, question, keep_equal   how captions are scored, see `diptych.tasks.composition.caption_scoring`
    normalise   write every option from the same tokens
    most_words  maximum number of words of an option of order
    tagger      part-of-speech tagger for the shuffled words: the built-in one, or "spacy:en_core_web_sm", the published one
    trigrams    tokenizer for the shuffled trigrams: the "tagger"'s, or the Penn "treebank"'s, as released
    train       data whose captions the blind scorer counts words in; by default the split "train" if there is one
    """

    name: ClassVar[str] = "aro"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = CHOOSER
    main: ClassVar[str] = "macro"

    leave_out: Literal["released", "none"] = "released"
    minimum: int = MINIMUM
    ties: rk.Ties = "expected"
    compare: Compare = "auto"
    prompt: str = ""
    question: str = CaptionScoring.question
    keep_equal: bool = False
    normalise: bool = True
    most_words: int = 30
    tagger: str = ""
    trigrams: Trigrams = "tagger"
    language: str = "en"
    train: Any = None
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.leave_out not in ("released", "none"):
            raise ConfigError(f"leave_out is {self.leave_out!r} (expected released | none)")
        if self.trigrams not in ("tagger", "treebank"):
            raise ConfigError(f"trigrams is {self.trigrams!r} (expected tagger | treebank)")
        self._counting(())

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        """Returns one row per case."""
        return records_of(self, model, data, self.cases, missing="ARO's files, world:scenes, or captions")

    def cases(self, sample: Sample) -> list[Case]:
        """Relation and attribution where the sample says any, order of every caption of others; of a scene all three."""
        scene = SceneFacts.of(sample)
        if scene is not None:
            pairs = [relation_case(sample, scene.relation), attribution_case(sample, scene.attribution, "colour")]
            captions = [scene.statement]
        else:
            pairs = [relation_case(sample, published_relation(sample)), attribution_case(sample, published_attribution(sample))]
            captions = [] if any(pairs) else [text.string for text in sample.positives(self.language)]
        group = sample.group or sample.uid
        orders = [self._orders.aro(sample.uid, group, number, caption) for number, caption in enumerate(captions)]
        return [case for case in pairs if case is not None] + orders

    @cached_property
    def _orders(self) -> OrderOptions:
        return OrderOptions(tagger_of(self.tagger), self.normalise, self.most_words, self.seed, self.trigrams)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        return self._counting(self._left_out()).result(self, records)

    def _left_out(self) -> Collection[str]:
        return [relation_kind(name) for name in left_out_relations()] if self.leave_out == "released" else ()

    def _counting(self, left_out: Collection[str]) -> AveragingOptions:
        return AveragingOptions(self.ties, self.minimum, ("relation/",), left_out, self.draws, self.seed)

    @classmethod
    def item_values(cls, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1]; see `AveragingOptions.item_values`."""
        options = facts_of(records).get("options", {})
        task = cls(**{name: options[name] for name in ("leave_out", "minimum", "ties") if name in options})
        return task._counting(task._left_out()).item_values(records, metric)


def relation_kind(name: str) -> str:
    """Kind of a relation case by its name, slashes replaced."""
    return f"relation/{name.replace('/', '-')}"


def relation_case(sample: Sample, fact: RelationFact | None) -> Case | None:
    """Relation case, the false caption first, as published."""
    if fact is None:
        return None
    group = sample.group or sample.uid
    return Case(sample.uid, group, relation_kind(fact.name), (fact.false, fact.true), ("false", "true"), ("exchanged", "true"))


def attribution_case(sample: Sample, fact: AttributionFact | None, kind: str = "") -> Case | None:
    """Attribution case, the false caption first, as published. kind: what the pair of attributes is grouped by, if not by the
    attributes."""
    if fact is None:
        return None
    name = f"attribution/{(kind or fact.name).replace('/', '-')}"
    return Case(sample.uid, sample.group or sample.uid, name, (fact.false, fact.true), ("false", "true"), ("exchanged", "true"))


def left_out_relations() -> tuple[str, ...]:
    """Relations that the released evaluation leaves out of its mean."""
    text = (resources.files("diptych.data.probes") / "aro_left_out.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
