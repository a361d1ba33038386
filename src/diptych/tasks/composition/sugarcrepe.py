"""SugarCrepe and SugarCrepe++: fluent wrong captions, and pairs of true captions. Protocol `sugarcrepe`, version 1."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.data.probes.case import Case, stored_cases
from diptych.data.probes.sugarcrepe import KINDS
from diptych.index.embed import embed_texts
from diptych.tasks._scoring.captions.choices import ASIDE, AveragingOptions, Floats, credits
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.ranking.top_k import beats
from diptych.tasks._scoring.records import facts_of
from diptych.tasks.composition.caption_scoring import CHOOSER, CaptionScoring, Compare, records_of
from diptych.worlds.scenes.probes import SceneFacts

FAMILIES = ("add", "replace", "swap")


@dataclass(frozen=True)
class SugarCrepe:
    """SugarCrepe (Hsieh et al., 2023, arXiv 2306.14610) and SugarCrepe++ (Dumpala et al., 2024, arXiv 2406.11171).

    A case is right when every true caption scores higher than the false one: one in SugarCrepe, two in its ++ form. `macro` is the mean
    over the kinds of mistake (add_obj, add_att, replace_obj, replace_att, replace_rel, swap_obj, swap_att). Where there are two, `first`
    and `second` are those of each alone, and `text_only` is the share of cases in which the two true captions are closer to each other
    than either is to the false one, by the text vectors alone; guessing gets a third. A `first` that is far above `macro` is a model that
    recognises the caption by its words.

    Published code asks for strictly greater, so that a tie is wrong: `ties="pessimistic"`. By default the tied share the place.

    Cases are read from the published files (`data.probes.sugarcrepe`) or, of `world:scenes`, made from every scene.

    ties, compare, prompt, question, keep_equal, train   as in `aro`
    """

    name: ClassVar[str] = "sugarcrepe"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = CHOOSER
    main: ClassVar[str] = "macro"

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
        self._counting()

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        """Returns one row per case; "text_only" where there are two true captions and the model embeds texts."""
        records = records_of(self, model, data, self.cases, missing="SugarCrepe's files, or world:scenes")
        return records.append_column("text_only", pa.array(_text_only(model, records), pa.float64()))

    @staticmethod
    def cases(sample: Sample) -> list[Case]:
        scene = SceneFacts.of(sample)
        return scene.sugarcrepe() if scene is not None else [case for case in stored_cases(sample) if case.kind in KINDS]

    def _counting(self) -> AveragingOptions:
        return AveragingOptions(self.ties, minimum=1, draws=self.draws, seed=self.seed)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        counting = self._counting()
        kinds = sorted(counting.kinds(records))
        kind_N = np.array(records.column("kind").to_pylist())
        right_N, chance_N = all_true(records, self.ties), _chances(records)
        means = counting.means(records)

        def columns(value_N: Floats) -> dict[str, int]:
            """A column a kind; none for a kind without a value."""
            each = {kind: np.where(kind_N == kind, value_N, np.nan) for kind in kinds}
            return {kind: means.add(column_N) for kind, column_N in each.items() if not np.isnan(column_N).all()}

        def metric(at: dict[str, int], chance_N: Floats) -> Metric:
            chance = float(np.mean([np.mean(chance_N[kind_N == kind]) for kind in at]))
            return means.metric({column: 1 / len(at) for column in at.values()}, chance)

        right = columns(right_N)
        beside = {name: (columns(credits(records, name, self.ties)), chance_N) for name in ASIDE}
        if any(roles.count("true") > 1 for roles in records.column("roles").to_pylist()):
            even_N, third_N = np.full(len(records), 1 / 2), np.full(len(records), 1 / 3)
            text_N = np.array([np.nan if value is None else value for value in records.column("text_only").to_pylist()])
            given = {"first": (one_true(records, 0, self.ties), even_N), "second": (one_true(records, 1, self.ties), even_N)}
            given |= {} if np.isnan(text_N).all() else {"text_only": (text_N, third_N)}
            beside = {name: (columns(value_N), level_N) for name, (value_N, level_N) in given.items()} | beside
        pooled = means.add(right_N)
        metrics = {"macro": metric(right, chance_N)}
        metrics |= {kind: metric({kind: column}, chance_N) for kind, column in right.items()}
        for family in FAMILIES:
            if members := {kind: column for kind, column in right.items() if kind.startswith(f"{family}_")}:
                metrics[family] = metric(members, chance_N)
        metrics["accuracy"] = means.metric(pooled, float(chance_N.mean()))
        metrics |= {name: metric(at, level_N) for name, (at, level_N) in beside.items()}
        return counting.with_declared_facts(self, records, metrics)

    @classmethod
    def item_values(cls, records: pa.Table, metric: str) -> Floats | None:
        """[N, K]: a column a kind, for "macro" and single kinds; [N, 1] for "accuracy"."""
        kinds = Counter(records.column("kind").to_pylist())
        right_N = all_true(records, facts_of(records).get("options", {}).get("ties", "expected"))
        if metric == "accuracy":
            return right_N[:, None]
        counted = [kind for kind in sorted(kinds) if metric in ("macro", kind, kind.partition("_")[0])]
        kind_N = np.array(records.column("kind").to_pylist())
        return np.stack([np.where(kind_N == kind, right_N, np.nan) for kind in counted], axis=1) if counted else None


def all_true(records: pa.Table, ties: rk.Ties) -> Floats:
    """Correctness [N]: every true option above every false one. Shared ties are those of the worst true one with the best false one."""
    return np.array([_worst(scores, roles, ties) for scores, roles in _rows(records)], np.float64)


def one_true(records: pa.Table, index: int, ties: rk.Ties) -> Floats:
    """Correctness [N] of the first or second true option alone; NaN for a case that has fewer."""
    values = []
    for scores, roles in _rows(records):
        true = [option for option, role in enumerate(roles) if role == "true"]
        values.append(_worst(scores, roles, ties, true[index : index + 1]) if index < len(true) else np.nan)
    return np.array(values, np.float64)


def _worst(scores: list[float], roles: list[str], ties: rk.Ties, true: list[int] | None = None) -> float:
    true_options = [option for option, role in enumerate(roles) if role == "true"] if true is None else true
    false = [option for option, role in enumerate(roles) if role == "false"]
    return min(beats(scores[a], scores[b], ties, first=a < b) for a in true_options for b in false)


def _rows(records: pa.Table) -> zip[tuple[list[float], list[str]]]:
    return zip(records.column("scores").to_pylist(), records.column("roles").to_pylist(), strict=True)


def _chances(records: pa.Table) -> Floats:
    """Chance level [N] that the true ones come first in a random order: 1/2 with one of them, 1/3 with two."""
    return np.array([1.0 / (1 + roles.count("true")) for roles in records.column("roles").to_pylist()], np.float64)


def _text_only(model: Any, records: pa.Table) -> list[float | None]:
    """Text-only correctness: the two true captions are closer to each other than either to the false one (strictly, as published)."""
    rows = list(zip(records.column("options").to_pylist(), records.column("roles").to_pylist(), strict=True))
    triples = [options for options, roles in rows if list(roles) == ["true", "true", "false"]]
    if not triples or not isinstance(model, Embedder):
        return [None] * len(rows)
    strings = [option for options in triples for option in options]
    text_N3D = embed_texts(model, strings, strings).astype(np.float64).reshape(len(triples), 3, -1)
    cosine_N33 = np.einsum("nad,nbd->nab", text_N3D, text_N3D).astype(np.float32)
    right = iter((cosine_N33[:, 0, 1] > np.maximum(cosine_N33[:, 0, 2], cosine_N33[:, 1, 2])).astype(np.float64).tolist())
    return [next(right) if list(roles) == ["true", "true", "false"] else None for _, roles in rows]
