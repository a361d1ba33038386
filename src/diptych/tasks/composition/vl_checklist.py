"""VL-Checklist: objects, attributes and relations, one word wrong. Protocol `vl_checklist`, version 1."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import pyarrow as pa

from diptych.core.contracts import Dataset, PairJudge
from diptych.core.errors import ConfigError
from diptych.core.result import Result
from diptych.core.sample import Sample
from diptych.data.probes.case import Case, stored_cases
from diptych.data.probes.vl_checklist import AREAS
from diptych.tasks._scoring.captions.choices import AveragingOptions, Floats
from diptych.tasks._scoring.match_threshold import apply_threshold, yes_metrics
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import facts_of
from diptych.tasks.composition.caption_scoring import CHOOSER, CaptionScoring, Compare, records_of
from diptych.worlds.scenes.probes import SceneFacts


@dataclass(frozen=True)
class VLChecklist:
    """VL-Checklist (Zhao et al., 2022, arXiv 2207.00221): the true caption against one in which a word is wrong.

    Kinds are those of the corpus, "Attribute/color/vg". `macro` is the mean of Attribute, Object and Relation, each the mean of its kinds,
    each the mean of its data sets; every one of them is a number, too. The released code gives the numbers of the data sets and averages
    nothing; pictures that are missing it passes over in silence, here they are counted (`left_out_when_read`).

    Published ties are wrong: `ties="pessimistic"`.

    decide       "choice" (released as "itc"): the true caption must score higher than the false one. "threshold" (released as "itm"): each
                 caption is judged by itself, yes if the probability of a matching head is above .5. `macro` and the kinds are shares of
                 right answers, with precision, recall and F1 of every kind. For models that answer yes or no
    most         maximum number of cases per kind, the first ones; the released configuration has 1,000; 0 uses all
    all_captions compare every true caption with the false one at its place, not the first pair alone, as the release does
    ties, compare, prompt, question, keep_equal, train   as in `aro`
    """

    name: ClassVar[str] = "vl_checklist"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = CHOOSER
    main: ClassVar[str] = "macro"

    decide: Literal["choice", "threshold"] = "choice"
    most: int = 0
    all_captions: bool = False
    ties: rk.Ties = "expected"
    compare: Compare = "auto"
    prompt: str = ""
    question: str = CaptionScoring.question
    keep_equal: bool = False
    train: Any = None
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.most < 0:
            raise ConfigError(f"most is {self.most} (expected 0, or how many cases of a kind)")
        if self.decide not in ("choice", "threshold"):
            raise ConfigError(f"decide is {self.decide!r} (expected choice | threshold)")
        if self.decide == "threshold" and self.ties != "expected":
            raise ConfigError(
                f"ties is {self.ties!r}, but against a threshold nothing ties (expected decide='choice', or no ties)"
            )
        self._counting()

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        """Returns one row per case."""
        if self.decide == "threshold" and not (
            isinstance(model, PairJudge) and CaptionScoring(self.compare).way(model) == "pairs"
        ):
            raise ConfigError(
                f"'{getattr(model, 'name', model)}' does not say yes or no to a pair (expected a model with a matching head, "
                "or decide='choice')"
            )
        used: Counter[str] = Counter()

        def cases(sample: Sample) -> list[Case]:
            cases_of_sample = self.cases(sample)
            kinds = {case.kind for case in cases_of_sample if not self.most or used[case.kind] < self.most}
            used.update(kinds)
            return [case for case in cases_of_sample if case.kind in kinds]

        judged = {"fits_above": float(model.fits_above)} if self.decide == "threshold" else {}
        return records_of(self, model, data, cases, missing="VL-Checklist's files, or world:scenes", **judged)

    def cases(self, sample: Sample) -> list[Case]:
        scene = SceneFacts.of(sample)
        if scene is not None:
            return scene.vl_checklist()
        cases = [case for case in stored_cases(sample) if case.kind.partition("/")[0] in AREAS]
        return cases if self.all_captions else cases[:1]

    def _counting(self) -> AveragingOptions:
        return AveragingOptions(self.ties, minimum=1, draws=self.draws, seed=self.seed)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        threshold = facts_of(records).get("fits_above")
        if threshold is None:
            return self._counting().result(self, records)
        result = self._counting().result(self, apply_threshold(records, threshold))
        return replace(result, metrics=result.metrics | yes_metrics(records, threshold, draws=self.draws, seed=self.seed))

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> Floats | None:
        """[N, 1]; see `AveragingOptions.item_values`."""
        if (threshold := facts_of(records).get("fits_above")) is not None:
            return AveragingOptions(minimum=1).item_values(apply_threshold(records, threshold), metric)
        ties = facts_of(records).get("options", {}).get("ties", "expected")
        return AveragingOptions(ties, minimum=1).item_values(records, metric)
