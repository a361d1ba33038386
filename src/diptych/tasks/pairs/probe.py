"""Does the model prefer the true caption to a wrong one that differs in a single thing?  Protocol `probe`, version 1.

A case is an image with options, each with a role: "true", "entailed" (true as well, but weaker or differently put: never an error) or
"false". Its credit is the share of the best-scored options, entailed ones aside, that are true: 1 or 0, and 1/2 when the true one ties
with a false one. So a model that answers the same to everything gets chance, and a model that only sees a bag of words gets exactly
what its ties are worth. Published code takes the first of the tied options, which in one probe is the true and in the next the false one:
`ties="index"`; "pessimistic" gives every tie to the false one, "optimistic" to the true one.

Numbers: the mean of the kinds (`macro`, it decides), every kind, and the mean of all cases (`accuracy`), which other tables call by the
same name and which differs by many points when kinds differ in size. Kinds with fewer than `minimum` cases are left out of `macro` and
named. Kinds named in `leave_out` count in no mean (the published relation probe leaves out relations that hold both ways). Options that
equal the true one but for case and punctuation are dropped: no model could tell them apart.

Beside the model stand two that look at no image: `blind` takes the caption that is more usual among the others' captions (a bigram model),
`bag_of_words` knows which words are true but not their order. A probe that `blind` solves measures fluency.

Letters: N cases, L options, D width, K kinds.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import ImageSource
from diptych.core.randomness import keyed_seed
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.index.embed import Unreadable, count_truncated, embed_texts, image_blocks, images_of
from diptych.tasks._scoring import ranks as rk
from diptych.tasks._scoring.intervals import percentiles, resampled_means
from diptych.tasks._scoring.pair_scores import compared_by, pair_scores
from diptych.tasks._scoring.records import array, facts_of, with_facts

Floats = npt.NDArray[np.float64]
Role = Literal["true", "entailed", "false"]
ROLES: tuple[Role, ...] = ("true", "entailed", "false")
MINIMUM = 25  # cases; the published order and relation probes leave smaller kinds out as well
ASIDE = ("blind", "bag_of_words")
FIRST = "_first"
"""Ends the name of the column that holds a scorer's credit when the first of tied options wins."""
_SCHEMA = pa.schema(
    [("uid", pa.string()), ("case", pa.int64()), ("group", pa.string()), ("kind", pa.string())]
    + [("options", pa.list_(pa.string())), ("roles", pa.list_(pa.string())), ("scores", pa.list_(pa.float64()))]
    + [(name, pa.float64()) for name in ("credit", "wins_true", "wins_entailed", "wins_false", "chance", *ASIDE)]
    + [(name + FIRST, pa.float64()) for name in ("credit", *ASIDE)]
)


@dataclass(frozen=True, slots=True)
class Case:
    """Options for one image. `kind` is what the false ones get wrong."""

    uid: str
    group: str
    kind: str
    options: tuple[str, ...]
    roles: tuple[Role, ...]

    def __post_init__(self) -> None:
        if len(self.options) != len(self.roles) or not {"true", "false"} <= set(self.roles) <= set(ROLES):
            raise DataError(
                f"sample {self.uid}: {len(self.options)} options with roles {list(self.roles)}",
                field="options",
                expected="a role an option, a true and a false one at least",
            )


@dataclass(frozen=True, slots=True)
class Probe:
    """Accuracy by kind of mistake, macro-averaged, with intervals over groups.

    language  of the true caption, where a sample's wrong captions do not say which one they were made from
    minimum   cases that a kind needs to count in `macro`
    ties      what equal scores are worth: expected (shared) | pessimistic | optimistic | index (the first option wins)
    leave_out kinds that count in no mean; each keeps its own number
    compare   by "vectors", or by the scores that the model gives pairs ("pairs": late interaction, models that read both at once);
              "auto" is "pairs" for models that have such scores
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
        """One row a case."""
        cases: list[Case] = []
        vectors: list[npt.NDArray[np.float32]] = []
        images: list[ImageSource] = []
        unreadable: list[Unreadable] = []
        positives: list[tuple[str, str]] = []
        vacuous = 0
        for block in image_blocks(model, data, batch_size=self.batch_size):
            unreadable += block.unreadable
            for sample, vector_D in zip(block.samples, block.vectors_ND, strict=True):
                found, dropped = cases_of(sample, self.language)
                vacuous += dropped
                cases += found
                vectors += [vector_D] * len(found)
                images += images_of([sample]) * len(found)
                positives += [(sample.group or sample.uid, text.string) for text in sample.positives(self.language)]
        if not cases:
            raise DataError(
                f"'{data.name}' has no wrong captions to probe with",
                field="texts",
                expected="texts of origin 'negative', or an extra 'negatives' (world:scenes has them)",
            )
        strings = [option for case in cases for option in case.options]
        compare = compared_by(model, self.compare)
        if compare == "pairs":
            each = zip(images, cases, strict=True)
            flat_N = np.concatenate([pair_scores(model, [im], case.options, query="image")[0] for im, case in each])
        else:
            text_ND = embed_texts(model, strings, [case.uid for case in cases for _ in case.options])
            image_ND = np.repeat(np.stack(vectors), [len(case.options) for case in cases], axis=0)
            flat_N = np.einsum("nd,nd->n", image_ND.astype(np.float64), text_ND.astype(np.float64)).astype(np.float32)
        scores = np.split(flat_N.astype(np.float64), np.cumsum([len(case.options) for case in cases])[:-1])
        return with_facts(
            probe_records(cases, scores, {"blind": blind(cases, positives), "bag_of_words": [bag_of_words(c) for c in cases]}),
            options=asdict(self),
            compare=compare,
            options_equal_to_the_true_one=vacuous,
            texts_truncated=count_truncated(model, strings),
            unreadable=[asdict(u) for u in unreadable],
        )

    def score(self, records: pa.Table) -> Result:
        """Pure: the same rows and options give the same numbers."""
        if not len(records):
            raise DataError("there is nothing to score: the records hold no case", expected="one row or more")
        kinds = Counter(records.column("kind").to_pylist())
        counted = counted_kinds(kinds, self.leave_out)
        kept = [kind for kind in counted if kinds[kind] >= self.minimum]
        if not kept:
            raise DataError(
                f"no kind has {self.minimum} cases (the largest, '{max(counted, key=lambda k: kinds[k])}', "
                f"has {max(kinds[kind] for kind in counted)})",
                field="minimum",
                expected="more cases, or a smaller minimum",
            )
        groups = records.column("group").to_pylist()
        metrics = {"macro": self._metric(records, groups, kept, "credit")}
        metrics |= {kind: self._metric(records, groups, [kind], "credit") for kind in sorted(kinds)}
        metrics["accuracy"] = self._metric(records, groups, counted, "credit", pooled=True)
        metrics |= {name: self._metric(records, groups, kept, name) for name in ASIDE}
        credit_N = array(records, "credit")
        notes = {
            **facts_of(records),
            "ties": self.ties,
            "share_tied": float(((credit_N > 0) & (credit_N < 1)).mean()),
            "share_entailed_best": float(array(records, "wins_entailed").mean()),
            "kinds_below_minimum": sorted(set(counted) - set(kept)),
            "kinds_left_out": sorted(self.leave_out),
            "cases": dict(sorted(kinds.items())),
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> Floats | None:
        """[N, K]: a column a kind; see `item_columns`."""
        return item_columns(records, metric)

    def _metric(
        self, records: pa.Table, groups: Sequence[str], kinds: Sequence[str], column: str, *, pooled: bool = False
    ) -> Metric:
        values, chances = credits(records, column, self.ties), array(records, "chance").astype(np.float64)
        value_NK, chance_NK = (kind_columns(records, each_N, kinds, pooled=pooled) for each_N in (values, chances))
        drawn_R = resampled_means(value_NK, groups, draws=self.draws, seed=self.seed).mean(axis=1)
        value, chance = (float(np.nanmean(each, axis=0).mean()) for each in (value_NK, chance_NK))
        return Metric(value, *percentiles(drawn_R), chance=chance)


def counted_kinds(kinds: Mapping[str, int], leave_out: Sequence[str]) -> list[str]:
    """The kinds that count, sorted. A name to leave out that is none of them is refused, and so is leaving out all."""
    for name in leave_out:
        if name not in kinds:
            raise UnknownName("kind to leave out", name, sorted(kinds))
    if not (counted := sorted(set(kinds) - set(leave_out))):
        raise DataError("every kind is left out", field="leave_out", expected=f"one of {', '.join(sorted(kinds))} to remain")
    return counted


def credits(records: pa.Table, column: str, ties: rk.Ties) -> Floats:
    """[N]: that scorer's credit of each case ("credit", "blind", "bag_of_words") under a policy for ties."""
    shared_N: Floats = array(records, column).astype(np.float64)
    if ties == "expected":
        return shared_N
    if ties == "index":
        if column + FIRST not in records.column_names:
            raise DataError(
                f"the records have no column '{column + FIRST}'", field="ties", expected="records made anew by predict"
            )
        first_N: Floats = array(records, column + FIRST).astype(np.float64)
        return first_N
    return (shared_N > 1 - 1e-9 if ties == "pessimistic" else shared_N > 0).astype(np.float64)


def kind_columns(records: pa.Table, value_N: Floats, kinds: Sequence[str], *, pooled: bool = False) -> Floats:
    """[N, K]: the values under each of `kinds`, NaN elsewhere; pooled, all of these kinds in one column."""
    kind_N = array(records, "kind")
    if pooled:
        return np.where(np.isin(kind_N, list(kinds)), value_N, np.nan)[:, None]
    return np.stack([np.where(kind_N == kind, value_N, np.nan) for kind in kinds], axis=1)


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

    An extra "negatives" (dicts with kind, true, false, as `world:scenes` has) gives a case each. Otherwise the first positive text
    stands against all texts of origin "negative", in one case of the kind "negative". An extra "entailed" (a list of texts) adds
    options of that role to it.
    """
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


def normal(text: str) -> str:
    """Without case, punctuation and double spaces.

    >>> normal("A red  circle, left of it.") == normal("a red circle left of it")
    True
    """
    return " ".join(words_of(text))


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


# ---------------------------------------------------------------- scores to credits


def shares(score_L: npt.ArrayLike) -> Floats:
    """What each option has of the first place: 1 for the best, 1/n each when n tie.

    >>> shares([0.2, 0.7, 0.7])
    array([0. , 0.5, 0.5])
    """
    score = np.asarray(score_L, np.float64)
    best = score == score.max()
    share: Floats = best / best.sum()
    return share


def credit(score_L: npt.ArrayLike, roles: Sequence[str]) -> float:
    """Share of the first place that is true, among true and false options.

    >>> credit([0.9, 0.5, 0.5], ("entailed", "true", "false"))
    0.5
    """
    counted = [i for i, role in enumerate(roles) if role != "entailed"]
    share = shares(np.asarray(score_L, np.float64)[counted])
    return float(sum(share[place] for place, i in enumerate(counted) if roles[i] == "true"))


def first_credit(score_L: npt.ArrayLike, roles: Sequence[str]) -> float:
    """1 when the first of the best-scored options, entailed ones aside, is true, else 0: what `argmax` in published code gives.

    >>> first_credit([0.5, 0.5], ("true", "false")), first_credit([0.5, 0.5], ("false", "true"))
    (1.0, 0.0)
    """
    counted = [i for i, role in enumerate(roles) if role != "entailed"]
    best = int(np.asarray(score_L, np.float64)[counted].argmax())
    return float(roles[counted[best]] == "true")


def matched(score_22: npt.ArrayLike) -> tuple[bool, bool, bool]:
    """Two images [rows] with a caption each [columns]: (text, image, both) as Winoground counts them, everything strictly greater.

    Text: each image prefers its own caption. Image: each caption prefers its own image. Guessing gets 1/4, 1/4 and 1/6.

    >>> matched([[0.9, 0.1], [0.8, 0.85]])
    (True, True, True)
    >>> matched([[0.9, 0.1], [0.9, 0.95]])
    (True, False, False)
    """
    s = np.asarray(score_22, np.float64)
    text = bool(s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0])
    image = bool(s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1])
    return text, image, text and image


def probe_records(
    cases: Sequence[Case], scores: Sequence[npt.ArrayLike], aside: Mapping[str, Sequence[npt.ArrayLike]]
) -> pa.Table:
    """Cases and the scores of their options as rows; `aside` holds the scores of those that see no image, by name."""
    count: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for place, (case, score) in enumerate(zip(cases, scores, strict=True)):
        won = shares(score)
        wins = {role: float(sum(w for w, r in zip(won, case.roles, strict=True) if r == role)) for role in ROLES}
        rows.append(
            {
                "uid": case.uid,
                "case": count[case.uid],
                "group": case.group,
                "kind": case.kind,
                "options": list(case.options),
                "roles": list(case.roles),
                "scores": [float(value) for value in np.asarray(score)],
                "credit": credit(score, case.roles),
                **{f"wins_{role}": share for role, share in wins.items()},
                "chance": case.roles.count("true") / (len(case.roles) - case.roles.count("entailed")),
                **{name: credit(given[place], case.roles) for name, given in aside.items()},
                "credit" + FIRST: first_credit(score, case.roles),
                **{name + FIRST: first_credit(given[place], case.roles) for name, given in aside.items()},
            }
        )
        count[case.uid] += 1
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


# ---------------------------------------------------------------- scorers whose result is known, or that see no image


def perfect(case: Case) -> list[float]:
    """Knows the truth: credit 1 everywhere."""
    return [{"true": 1.0, "entailed": 0.5, "false": 0.0}[role] for role in case.roles]


def constant(case: Case) -> list[float]:
    """Says the same to everything: credit is chance."""
    return [0.0] * len(case.options)


def bag_of_words(case: Case) -> list[float]:
    """Knows which words are true but not their order: 1/n where n options have the words of the true one, else 1."""
    true = Counter(words_of(case.options[case.roles.index("true")]))
    return [-float(sum(((Counter(words_of(o)) - true) + (true - Counter(words_of(o)))).values())) for o in case.options]


def blind(cases: Sequence[Case], positives: Sequence[tuple[str, str]]) -> list[list[float]]:
    """Mean log-probability of a word given the one before, under the captions of *other* groups: two halves, each judged by the
    other. `positives` are (group, caption) pairs."""
    halves = [_Bigrams(text for group, text in positives if _half(group) == half) for half in (0, 1)]
    return [[halves[1 - _half(case.group)].score(option) for option in case.options] for case in cases]


def _half(group: str) -> int:
    return keyed_seed("probe", group) % 2


class _Bigrams:
    """Counts with add-one smoothing; a word that was never seen counts as one further word."""

    def __init__(self, texts: Any) -> None:
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.singles: Counter[str] = Counter()
        for text in texts:
            words = ["", *words_of(text), ""]
            self.pairs.update(pairwise(words))
            self.singles.update(words[:-1])
        self.size = len(self.singles) + 1

    def score(self, text: str) -> float:
        words = ["", *words_of(text), ""]
        steps = [math.log((self.pairs[one, two] + 1) / (self.singles[one] + self.size)) for one, two in pairwise(words)]
        return sum(steps) / len(steps)
