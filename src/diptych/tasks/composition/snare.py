"""SNARE: probe of the parts of a caption that a model attends to. Protocol `snare`, version 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.data.probes.case import Case, Role
from diptych.data.probes.facts import AttributionFact, RelationFact, published_attribution, published_relation
from diptych.tasks._scoring.captions.choices import ASIDE, MINIMUM, AveragingOptions, Floats, credits, kind_columns
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.ranking.top_k import option_shares
from diptych.tasks._scoring.records import facts_of
from diptych.tasks.composition.caption_scoring import CHOOSER, CaptionScoring, Compare, records_of
from diptych.tasks.composition.order_options import SNARE_NAMES, OrderOptions, tagger_of
from diptych.worlds.scenes.probes import SPATIAL, SceneFacts

VAGUE = frozenset(
    ("near", "next to", "beside", "on the side of", "surrounding", "close to", "standing beside", "with", "by")
)  # fmt: skip
"""Relations that hold both ways, which composition leaves out."""
DIRECTIONS = ("to the left of", "to the right of", "on", "below")
PARTS: dict[str, tuple[str, ...]] = {
    "semantic_structure": SNARE_NAMES,
    "negation_logic": ("true", "negated"),
    "attribute_ownership": ("true", "exchanged", "apart"),
    "relationship_composition": ("true", "exchanged", "joined"),
    "spatial_relationship": (),
}
"""The parts, and what their options are. The options of the last are directions."""
DEPTHS = (1, 2, 3)


@dataclass(frozen=True)
class SNARE:
    """SNARE (Wang et al., 2023, arXiv 2308.12898): which of several captions wins, and so what a model attends to.

    semantic_structure        the caption; its content words among themselves; all other words; all words. Of captions
    negation_logic            "the cup is red and the box is blue", and the same with "is not" twice
    attribute_ownership       the caption; attributes exchanged; "the cup and the box are red and blue respectively"
    relationship_composition  the caption; things exchanged; "and" in place of the relation
    spatial_relationship      the caption with each of four directions

    The third option of ownership and of composition is true as well: it is no error to prefer it, so it counts in no accuracy ("entailed"),
    and its share of wins says how much a model prefers attributes beside their things, or needs the relation at all.

    `macro` is the mean over the parts that the data have of how often the true option beats the false ones. `PART/OPTION@1` is the share
    of cases in which that option wins, @2 and @3 in which it is among the first two or three; those are the released numbers. They are
    means over cases; `PART/OPTION@1` of a single relation or pair of attributes stands in the notes where it has `minimum` cases.

    A folder of ARO's files is what the release reads; `world:scenes` asks all five parts of every scene that allows them; of any other
    data the captions are shuffled. Published ties go to the first option, which is the true one here: `ties="index"`. All options are kept,
    also shuffles that change nothing, and ties are shared by default. Generators are asked for each option by `compare="ask"`, as released,
    with a question of ours, or with `question="snare"` in the words of the release.

    Fields as in `aro`.
    compare, prompt, question, keep_equal   how captions are scored, see `diptych.tasks.composition.caption_scoring`
    minimum     number of cases that a relation, or a pair of attributes, needs for a result of its own
    normalise   write every option from the same tokens
    most_words  maximum number of words of a shuffled caption
    tagger      part-of-speech tagger for the shuffled words: the built-in one, or "spacy:en_core_web_sm", the published one
    train       data whose captions the blind scorer counts words in; by default the split "train" if there is one
    """

    slug: ClassVar[str] = "snare"
    name: ClassVar[str] = "snare"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = CHOOSER
    main: ClassVar[str] = "macro"

    minimum: int = MINIMUM
    ties: rk.Ties = "expected"
    compare: Compare = "auto"
    prompt: str = ""
    question: str = CaptionScoring.question
    keep_equal: bool = True
    normalise: bool = True
    most_words: int = 30
    tagger: str = ""
    language: str = "en"
    train: Any = None
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        self._counting()

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        """Returns one row per case."""
        return records_of(self, model, data, self.cases, missing="ARO's files, world:scenes, or captions")

    def cases(self, sample: Sample) -> list[Case]:
        """Cases of the parts that the sample allows."""
        group = sample.group or sample.uid
        scene = SceneFacts.of(sample)
        relation = scene.relation if scene else published_relation(sample)
        attribution = scene.attribution if scene else published_attribution(sample)
        cases = [*_of_attribution(sample.uid, group, attribution), *_of_relation(sample.uid, group, relation)]
        if scene is not None:
            cases += _directions(sample.uid, group, [scene.directed(name) for name in SPATIAL], SPATIAL, scene.spatial)
            captions = [scene.statement]
        else:
            if relation is not None and relation.name in DIRECTIONS:
                options = [relation.true.replace(relation.name, name) for name in DIRECTIONS]
                cases += _directions(sample.uid, group, options, DIRECTIONS, [relation.name])
            captions = [] if relation or attribution else [text.string for text in sample.positives(self.language)]
        return cases + [self._orders.snare(sample.uid, group, number, caption) for number, caption in enumerate(captions)]

    @cached_property
    def _orders(self) -> OrderOptions:
        return OrderOptions(tagger_of(self.tagger), self.normalise, self.most_words, self.seed)

    def _counting(self) -> AveragingOptions:
        return AveragingOptions(self.ties, self.minimum, tuple(PARTS), draws=self.draws, seed=self.seed)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        counting = self._counting()
        kinds = counting.kinds(records)
        parts = [part for part in PARTS if any(kind.partition("/")[0] == part for kind in kinds)]
        means, chance_N = counting.means(records), np.asarray(records.column("chance").to_pylist(), np.float64)
        chances = np.nanmean(kind_columns(records, chance_N, parts, parts=True), axis=0).tolist()
        columns = {
            name: [means.add(each) for each in kind_columns(records, credits(records, name, self.ties), parts, parts=True).T]
            for name in ("credit", *ASIDE)
        }
        pooled = means.add(credits(records, "credit", self.ties))
        shares = {
            part: {name: means.add(value_N) for name, value_N in option_shares(records, part, self.ties, DEPTHS).items()}
            for part in parts
        }

        def macro(name: str) -> Metric:
            return means.metric(dict.fromkeys(columns[name], 1 / len(parts)), sum(chances) / len(parts))

        metrics = {"macro": macro("credit")}
        for part, column, chance in zip(parts, columns["credit"], chances, strict=True):
            metrics[part] = means.metric(column, chance)
            metrics |= {f"{part}/{option}@{depth}": means.metric(index) for (option, depth), index in shares[part].items()}
        metrics["accuracy"] = means.metric(pooled, float(chance_N.mean()))
        metrics |= {name: macro(name) for name in ASIDE}
        return counting.with_declared_facts(self, records, metrics, by_kind=self._by_kind(records, kinds))

    def _by_kind(self, records: pa.Table, kinds: Counter[str]) -> dict[str, dict[str, float]]:
        """Shares of wins of each option, for kinds that have enough cases."""
        by_kind = {}
        for kind in sorted(kinds):
            if "/" in kind and kinds[kind] >= self.minimum:
                shares = option_shares(records, kind, self.ties, (1,))
                by_kind[kind] = {option: float(np.nanmean(value_N)) for (option, _), value_N in shares.items()}
        return by_kind

    @classmethod
    def item_values(cls, records: pa.Table, metric: str) -> Floats | None:
        """[N, parts] for "macro", [N, 1] for a part; None for others."""
        kinds = {kind.partition("/")[0] for kind in records.column("kind").to_pylist()}
        parts = [part for part in PARTS if part in kinds and metric in ("macro", part)]
        ties = facts_of(records).get("options", {}).get("ties", "expected")
        return kind_columns(records, credits(records, "credit", ties), parts, parts=True) if parts else None


def _of_attribution(uid: str, group: str, fact: AttributionFact | None) -> list[Case]:
    if fact is None:
        return []
    name = fact.name.replace("/", "-")
    return [
        _case(uid, group, f"negation_logic/{name}", (fact.sentence(), fact.sentence("is not")), ("true", "false")),
        _case(uid, group, f"attribute_ownership/{name}", (fact.true, fact.false, fact.apart), ("true", "false", "entailed")),
    ]


def _of_relation(uid: str, group: str, fact: RelationFact | None) -> list[Case]:
    if fact is None or fact.name in VAGUE:
        return []
    kind = f"relationship_composition/{fact.name.replace('/', '-')}"
    return [_case(uid, group, kind, (fact.true, fact.false, fact.joined), ("true", "false", "entailed"))]


def _case(uid: str, group: str, kind: str, options: tuple[str, ...], roles: tuple[Role, ...]) -> Case:
    return Case(uid, group, kind, options, roles, PARTS[kind.partition("/")[0]])


def _directions(uid: str, group: str, options: Sequence[str], names: Sequence[str], true: Sequence[str] | None) -> list[Case]:
    """The four directions in their fixed order; nothing if more than one holds. true: its first is the one that does."""
    if true is None:
        return []
    roles: tuple[Role, ...] = tuple("true" if name == true[0] else "false" for name in names)
    return [Case(uid, group, f"spatial_relationship/{true[0]}", tuple(options), roles, tuple(names))]
