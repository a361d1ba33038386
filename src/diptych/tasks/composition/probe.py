"""Caption probe: the true caption against a wrong one that differs in a single thing.  Protocol `probe`, version 1.

A case is an image with options, each with a role: "true", "entailed" (true as well, but weaker or differently put: never an error) or
"false". Its credit is the share of the best-scored options, entailed ones aside, that are true: 1 or 0, and 1/2 when the true one ties
with a false one. So a model that answers the same to everything gets chance, and a model that only sees a bag of words gets exactly
what its ties are worth. Published code takes the first of the tied options, which in one probe is the true and in the next the false one:
`ties="index"`; "pessimistic" gives every tie to the false one, "optimistic" to the true one.

Numbers: the mean of the kinds (`macro`, it decides), every kind, and the mean of all cases (`accuracy`), which other tables call by the
same name and which differs by many points when kinds differ in size. Kinds with fewer than `minimum` cases are left out of `macro` and
named. Kinds named in `leave_out` count in no mean (the published relation probe leaves out relations that hold both ways). Options that
equal the true one but for case and punctuation are dropped: no model could tell them apart.

Beside the model stand two text-only baselines: `blind` takes the caption that is more usual among the others' captions (a bigram model),
`bag_of_words` scores by the true words without their order. A probe that `blind` solves measures fluency.

Letters: N cases, L options, D width, K kinds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.result import Result
from diptych.core.sample import Sample
from diptych.data.probes.case import Case, Role, normal, stored_cases, without_equals
from diptych.tasks._scoring.captions.choices import MINIMUM, AveragingOptions, Floats, counted_kinds, credits, kind_columns
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import array, facts_of, with_facts
from diptych.tasks.composition.caption_scoring import CaptionScoring


@dataclass(frozen=True, slots=True)
class Probe:
    """Accuracy by kind of mistake, macro-averaged, with intervals over groups.

    language  language of the true caption, if the wrong captions of a sample do not name their source
    minimum   number of cases that a kind needs to be part of `macro`
    ties      credit of equal scores: expected (shared) | pessimistic | optimistic | index (the first option wins)
    leave_out kinds that count in no mean; each keeps its own number
    compare   "vectors": cosine; "pairs": scores of pairs (late interaction, fusion models); "auto": "pairs" for models that have such
              scores
    """

    name: ClassVar[str] = "probe"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Embedder
    main: ClassVar[str] = "macro"

    language: str = "en"
    minimum: int = MINIMUM
    ties: rk.Ties = "expected"
    leave_out: tuple[str, ...] = ()
    compare: Literal["auto", "vectors", "pairs"] = "auto"
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.compare not in ("auto", "vectors", "pairs"):
            raise ConfigError(f"compare is {self.compare!r} (expected auto | vectors | pairs)")
        if self.minimum < 1:
            raise ConfigError(f"minimum is {self.minimum} (expected 1 or more)")
        rk.check_ties(self.ties)

    def predict(self, model: Embedder, data: Dataset) -> pa.Table:
        """Returns one row per case."""
        dropped = 0

        def cases(sample: Sample) -> list[Case]:
            nonlocal dropped
            cases_of_sample, gone = cases_of(sample, self.language)
            dropped += gone
            return cases_of_sample

        asking = CaptionScoring(self.compare, keep_equal=True, batch_size=self.batch_size)
        missing = "texts of origin 'negative', or an extra 'negatives' or 'cases' (world:scenes has them)"
        records = asking.records(model, data, cases, missing=missing, options=asdict(self))
        return with_facts(records, options_equal_to_the_true_one=dropped)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        kinds = set(records.column("kind").to_pylist())
        for name in self.leave_out if kinds else ():
            if name not in kinds:
                raise UnknownName("kind to leave out", name, sorted(kinds))
        entailed = float(array(records, "wins_entailed").mean()) if kinds else 0.0
        counting = AveragingOptions(self.ties, self.minimum, leave_out=self.leave_out, draws=self.draws, seed=self.seed)
        return counting.result(self, records, share_entailed_best=entailed)

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> Floats | None:
        """[N, K]: a column a kind; see `item_columns`."""
        return item_columns(records, metric)


def item_columns(records: pa.Table, metric: str) -> Floats | None:
    """[N, K]: columns whose mean of means is that metric, for paired comparison; None for one that does not exist here."""
    kinds = Counter(records.column("kind").to_pylist())
    options = facts_of(records).get("options", {})
    counted = counted_kinds(kinds, options.get("leave_out", ()))
    value_N = credits(records, "credit", options.get("ties", "expected"))
    if metric == "macro":
        kept = [kind for kind in counted if kinds[kind] >= int(options.get("minimum", MINIMUM))]
        return kind_columns(records, value_N, kept) if kept else None
    if metric == "accuracy":
        return kind_columns(records, value_N, counted, pooled=True)
    return kind_columns(records, value_N, [metric]) if metric in kinds else None


# ---------------------------------------------------------------- cases


def cases_of(sample: Sample, language: str = "en") -> tuple[list[Case], int]:
    """The cases of a sample, and how many options were dropped because they equal the true one.

    Cases that lie beside it (`data.probes.case`) are taken as they are. Otherwise:

    An extra "negatives" (dicts with kind, true, false, as `world:scenes` has) gives a case each. Otherwise the first positive text
    stands against all texts of origin "negative", in one case of the kind "negative". An extra "entailed" (a list of texts) adds
    options of that role to it.
    """
    if stored := stored_cases(sample):
        kept = [without_equals(case) for case in stored]
        return [case for case, _ in kept if case is not None], sum(gone for _, gone in kept)
    group = sample.group or sample.uid
    pairs: list[tuple[str, str, list[str], list[str]]] = []
    if sample.extras.get("negatives"):
        pairs = [(str(n["kind"]), str(n["true"]), [], [str(n["false"])]) for n in sample.extras["negatives"]]
    else:
        true = next((text.string for text in sample.positives(language)), "")
        wrong = [t.string for t in sample.texts if t.origin == "negative" and (not language or t.language in ("", language))]
        pairs = [("negative", true, [str(e) for e in sample.extras.get("entailed") or ()], wrong)] if true and wrong else []
    cases, dropped = [], 0
    for kind, true, entailed, wrong in pairs:
        different = [text for text in wrong if normal(text) != normal(true)]
        dropped += len(wrong) - len(different)
        if different:
            roles: list[Role] = ["true", *["entailed"] * len(entailed), *["false"] * len(different)]  # type: ignore[list-item]
            cases.append(Case(sample.uid, group, kind, (true, *entailed, *different), tuple(roles)))
    return cases, dropped
