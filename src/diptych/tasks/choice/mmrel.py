"""MMRel: relations between objects, asked by domain and kind of relation. Protocol `mmrel`, version 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset, Embedder, Generator, Ranker, ReadableRow, Role
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.data.text.question_answering.questions import Question, questions_of
from diptych.data.text.question_answering.relation_questions import (
    TEMPLATE,
    RelationQuestionOptions,
    Wrong,
    relation_questions,
    usual_relations,
)
from diptych.tasks._scoring.answers.blind import BLIND, grey_images
from diptych.tasks._scoring.answers.cached_replies import cached_replies
from diptych.tasks._scoring.answers.judging import JudgedAnswer, Kind, judge_answers
from diptych.tasks._scoring.answers.yes_no import READERS, Reader, confusion, parse_yes_no, scores
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts

How = Literal["write", "mean", "sum"]
Unread = Literal["wrong", "opposite"]
NAMES = ("accuracy", "precision", "recall", "f1", "yes")
TEXTS = ("uid", "group", "domain", "kind", "part", "question", "reference", "answer", "fault", "blind_answer")
SCHEMA = pa.schema(
    [*((name, pa.string()) for name in TEXTS), ("true", pa.bool_()), ("score", pa.float64()), ("said", pa.string())]
)
ALL = "all"
"""Default domain of images without one."""
OTHER = "other"
"""Default part of questions without one, if others have one."""


@dataclass(frozen=True)
class MMRel:
    """MMRel (Nie et al., 2024, arXiv 2406.09121): relations between things, asked with yes or no and in free words, by domain of the
    picture (real, painted, ...), kind of relation (spatial, action, comparative) and whether the relation is an unusual one.

    Questions are those of the samples (extras["questions"]; MMRel's files are read so); of samples without any they are made from
    their relations: a true triple and, about the same two things, one with a wrong relation of the same kind, so that every cell is
    balanced. "Yes" is the positive class. `accuracy` is over all yes-or-no questions; beside it stand precision, recall, F1 and the share
    of yes, the same for each domain, kind, both together, part ("usual", "adversarial"; "other" where rows name none) and part with each of
    them ("adversarial/real/spatial"), and the blind row: the same questions about plain grey pictures. An answer that is neither yes nor
    no is wrong, and counted as `unread`; a refused one is wrong, and counted as `failed`. The notes name cells whose answers are out of
    balance, where always saying the more frequent one beats .5.

    Open questions are judged against the given answer, as Auto-Bench's are: `open` is the mean score.

    The published questions are asked as they come, and are "adversarial" where their rows say so; made ones where the relation never holds
    between such things in the data of `usual`, while others do, and "usual" where it is the most frequent one. Left and right are the
    viewer's.

    how       "write": generate the answer; "mean" or "sum": compare the likelihoods of "yes" and "no", in nats per token or in total (open
              questions are left out)
    reader    parser of generated answers: first | released | single | whole | prefix | contained (`_scoring.answers.yes_no`); the last is
              that of MMRel's evaluation, whose suffix is "Please answer this question with one word."
    unread    an answer that is neither yes nor no counts as "wrong" and not as a yes; or, as in MMRel, as the "opposite" of the right
              answer, which affects precision and the share of yes
    by        judge of open questions: exact, soft, embedding, likelihood, model; the last three need the role `judge`
    suffix    text after each yes-or-no question
    template, count, wrong  options of generated questions, see `RelationQuestionOptions`
    usual     address of data whose relations count as usual, such as the training data of the model
    blind     also ask about grey pictures
    keep      cache answers of a local model on disk, so that a killed run can be resumed
    draws, seed of the intervals, which draw groups of samples; `seed` also of the questions that are made
    """

    slug: ClassVar[str] = "mmrel"
    name: ClassVar[str] = "mmrel"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = Generator | Ranker
    main: ClassVar[str] = "accuracy"
    roles: ClassVar[tuple[Role, ...]] = (Role("judge", Generator | Ranker | Embedder, "what judges open answers", optional=True),)

    how: How = "write"
    reader: Reader = "first"
    unread: Unread = "wrong"
    by: Kind = "soft"
    suffix: str = ""
    template: str = TEMPLATE
    count: int = 1
    wrong: Wrong = "any"
    usual: str = ""
    blind: bool = True
    max_tokens: int = 32
    keep: bool = True
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.reader not in READERS or self.how not in get_args(How) or self.by not in get_args(Kind):
            raise ConfigError(
                f"reader is {self.reader!r}, how {self.how!r}, by {self.by!r} "
                f"(expected {' | '.join(READERS)}; {' | '.join(get_args(How))}; {' | '.join(get_args(Kind))})"
            )
        if self.unread not in get_args(Unread):
            raise ConfigError(f"unread is {self.unread!r} (expected {' | '.join(get_args(Unread))})")
        self._question_options()

    def predict(self, model: Any, data: Dataset, *, judge: Any = None) -> pa.Table:
        if not isinstance(model, Generator if self.how == "write" else Ranker):
            other = "mean | sum" if self.how == "write" else "write"
            raise ConfigError(f"'{getattr(model, 'name', model)}' cannot answer by how={self.how} (expected {other})")
        rows, left_out = self._rows(data)
        images = [sample.image for sample, _, _ in rows if sample.image is not None]
        prompts = [f"{one.text} {self.suffix}".strip() if _closed(one) else one.text for _, one, _ in rows]
        answers, faults = self._answers(model, images, prompts)
        blind = self._answers(model, grey_images(images), prompts)[0] if self.blind else [None] * len(rows)
        open_rows = [row for row, (_, one, _) in enumerate(rows) if not _closed(one)]
        judged = [JudgedAnswer(rows[row][1].text, rows[row][1].answer, answers[row]) for row in open_rows]
        verdicts = dict(zip(open_rows, judge_answers(self.by, judged, judge), strict=True))
        columns: dict[str, Any] = {
            "uid": [sample.uid for sample, *_ in rows],
            "group": [sample.group or sample.uid for sample, *_ in rows],
            "domain": [_first(one.facets.get("domain")) or str(sample.extras.get("domain") or ALL) for sample, one, _ in rows],
            "kind": [one.kind for _, one, _ in rows],
            "part": [part for *_, part in rows],
            "question": prompts,
            "reference": [one.answer for _, one, _ in rows],
            "answer": answers,
            "fault": faults,
            "blind_answer": blind,
            "true": [_answer(one) for _, one, _ in rows],
            "score": [verdicts[row].score if row in verdicts else None for row in range(len(rows))],
            "said": [verdicts[row].reply if row in verdicts else "" for row in range(len(rows))],
        }
        names = {"model": getattr(model, "name", ""), "judge": getattr(judge, "name", "")}
        records = pa.table(columns, schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, open_left_out=left_out, **names)

    # ------------------------------------------------------------ what is asked

    def _question_options(self) -> RelationQuestionOptions:
        return RelationQuestionOptions(template=self.template, count=self.count, wrong=self.wrong, seed=self.seed)

    def _rows(self, data: Dataset) -> tuple[list[tuple[Sample, Question, str]], int]:
        """(sample, question, part) rows, and the number of open questions left out because likelihoods cannot answer them."""
        samples = [data[row] for row in range(len(data))]
        given = [questions_of(sample) for sample in samples]
        made = self._made([sample for sample, own in zip(samples, given, strict=True) if not own])
        rows: list[tuple[Sample, Question, str]] = []
        for row, (sample, own) in enumerate(zip(samples, given, strict=True)):
            questions = [(one, _part(one)) for one in own] if own else made.get(sample.uid, [])
            if questions and sample.image is None:
                raise DataError(f"sample '{sample.uid}' has questions and no picture", file=data.name, row=row, field="image")
            rows += [(sample, one, part) for one, part in questions]
        closed = [row for row in rows if self.how == "write" or _closed(row[1])]
        if not closed:
            raise DataError(
                f"'{data.name}' has no question about relations",
                field="questions",
                expected='extras["questions"], or relations between regions whose labels tell them apart',
            )
        return closed, len(rows) - len(closed)

    def _made(self, samples: Sequence[Sample]) -> dict[str, list[tuple[Question, str]]]:
        """Questions generated from relations, by uid, for samples that have none."""
        if not any(sample.relations for sample in samples):
            return {}
        options = self._question_options()
        if self.usual:
            from diptych.worlds.address import open_data

            elsewhere = open_data(self.usual)
            usual = usual_relations(elsewhere[row] for row in range(len(elsewhere)))
            options = RelationQuestionOptions(options.template, options.count, options.wrong, usual, options.seed)
        return {
            sample.uid: [(Question(one.text, ("yes" if one.true else "no",), one.kind), one.part) for one in questions]
            for sample, questions in zip(samples, relation_questions(samples, options), strict=True)
        }

    def _answers(self, model: Any, images: Sequence[ImageSource], prompts: Sequence[str]) -> tuple[list[str], list[str]]:
        """Answers and faults."""
        if self.how == "write":
            replies = cached_replies(model, images, prompts, max_tokens=self.max_tokens, keep=self.keep)
            return [reply.text for reply in replies], [reply.fault for reply in replies]
        tables = model.answer_nll(images, prompts, [["yes", "no"]] * len(prompts))
        costs = [table[:, 0] / table[:, 1] if self.how == "mean" else table[:, 0] for table in tables]
        return [("yes", "no")[int(np.argmin(cost))] for cost in costs], [""] * len(prompts)

    # ------------------------------------------------------------ metrics

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no question", expected="one row or more")
        reader = self._reader(records)
        closed = records.filter(pc.is_valid(records.column("true")))
        metrics: dict[str, Metric] = {}
        balance: dict[str, float] = {}
        if len(closed):
            metrics |= self._closed_metrics(closed, reader, balance)
        metrics |= self._open_metrics(records)
        notes = {
            **facts_of(records),
            "reader": reader,
            "parse_failures": f"{self._unread(records)}, counted as unread",
            "out_of_balance": balance,
            "chance": "always yes; of accuracy always the more frequent answer",
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        groups = set(records.column("group").to_pylist())
        main = self.main if len(closed) else "open"
        return Result(self.name, self.version, main, metrics, len(records), len(groups), notes=notes)

    def _closed_metrics(self, records: pa.Table, reader: Reader, balance: dict[str, float]) -> dict[str, Metric]:
        true_N = np.array(records.column("true").to_pylist())
        cells = _cells(records)
        part_N5 = self._confusion(records, reader)
        metrics = self._of_cells(part_N5, true_N, cells, records.column("group").to_pylist())
        balance |= {name or ALL: round(share, 4) for name, here in cells.items() if (share := float(true_N[here].mean())) != 0.5}
        verdicts = [parse_yes_no(answer, reader) for answer in records.column("answer").to_pylist()]
        failed_N = np.array([bool(fault) for fault in records.column("fault").to_pylist()])
        unread_N = np.array([answer is None for answer in verdicts]) & ~failed_N
        metrics["unread"] = Metric(float(unread_N.mean()), higher_is_better=False)
        metrics["failed"] = Metric(float(failed_N.mean()), higher_is_better=False)
        if not records.column("blind_answer").null_count:
            blind = self._of_cells(
                self._confusion(records, reader, "blind_answer"), true_N, {"": cells[""]}, records.column("group").to_pylist()
            )
            metrics |= {f"{name}{BLIND}": blind[name] for name in ("accuracy", "f1", "yes")}
        return metrics

    def _of_cells(self, part_N5: Floats, true_N: Any, cells: dict[str, Any], groups: list[str]) -> dict[str, Metric]:
        """Metrics of every cell, with intervals."""
        wide = np.concatenate([np.where(here[:, None], part_N5, np.nan) for here in cells.values()], 1)
        drawn_RC5 = resampled_means(wide, groups, draws=self.draws, seed=self.seed).reshape(self.draws, len(cells), 5)
        values, drawn = scores(np.nanmean(wide, 0).reshape(len(cells), 5)), scores(drawn_RC5)
        metrics = {}
        for index, (cell, here) in enumerate(cells.items()):
            share = float(true_N[here].mean())
            chance = {
                "accuracy": max(share, 1 - share),
                "precision": share,
                "recall": 1.0,
                "f1": 2 * share / (1 + share),
                "yes": 1.0,
            }
            for name in NAMES:
                metrics[f"{name}/{cell}" if cell else name] = Metric(
                    float(values[name][index]), *percentiles(drawn[name][:, index]), chance=chance[name], items=int(here.sum())
                )
        return metrics

    def _open_metrics(self, records: pa.Table) -> dict[str, Metric]:
        records = records.filter(pc.is_null(records.column("true")))
        if not len(records):
            return {}
        score_N = np.array([0.0 if score is None else score for score in records.column("score").to_pylist()])
        cells = _cells(records)
        wide = np.stack([np.where(here, score_N, np.nan) for here in cells.values()], 1)
        drawn_RC = resampled_means(wide, records.column("group").to_pylist(), draws=self.draws, seed=self.seed)
        metrics = {
            f"open/{cell}" if cell else "open": Metric(
                float(score_N[here].mean()), *percentiles(drawn_RC[:, index]), items=int(here.sum())
            )
            for index, (cell, here) in enumerate(cells.items())
        }
        metrics["unread/open"] = Metric(
            float(np.mean([score is None for score in records.column("score").to_pylist()])), higher_is_better=False
        )
        return metrics

    def _confusion(self, records: pa.Table, reader: Reader, column: str = "answer") -> Floats:
        faults = records.column("fault").to_pylist() if column == "answer" else [""] * len(records)
        answers = records.column(column).to_pylist()
        true_N = np.array(records.column("true").to_pylist())
        rows = zip(answers, faults, true_N.tolist(), strict=True)
        verdicts = [None if fault else parse_yes_no(answer, reader, truth=true) for answer, fault, true in rows]
        if self._unread(records) == "opposite":
            verdicts = [not true if answer is None else answer for true, answer in zip(true_N.tolist(), verdicts, strict=True)]
        return confusion(true_N, verdicts, reader)

    def _unread(self, records: pa.Table) -> Unread:
        unread: Unread = facts_of(records).get("options", {}).get("unread", self.unread)
        return unread

    def _reader(self, records: pa.Table) -> Reader:
        reader: Reader = facts_of(records).get("options", {}).get("reader", self.reader)
        return reader

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1] for "accuracy", NaN for open questions, and for "open", NaN for closed ones; the others are not means over
        items."""
        if metric == "open":
            values = [score if true is None else np.nan for score, true in self._scored(records)]
            return np.array([0.0 if value is None else value for value in values])[:, None]
        if metric != "accuracy":
            return None
        closed_N = np.array([true is not None for _, true in self._scored(records)])
        found_N = np.full(len(records), np.nan)
        if closed_N.any():
            found_N[closed_N] = self._confusion(records.filter(pa.array(closed_N)), self._reader(records))[:, 3]
        return found_N[:, None]

    @staticmethod
    def _scored(records: pa.Table) -> list[tuple[float | None, bool | None]]:
        return list(zip(records.column("score").to_pylist(), records.column("true").to_pylist(), strict=True))

    def in_words(self, records: pa.Table) -> list[ReadableRow]:
        """Questions with the right answer and the reply."""
        columns = (records.column(name).to_pylist() for name in ("uid", "question", "reference", "answer", "fault"))
        return [
            ReadableRow(uid, "", question, reference, fault or answer.strip()[:160])
            for uid, question, reference, answer, fault in zip(*columns, strict=True)
        ]


def _cells(records: pa.Table) -> dict[str, Any]:
    """Row masks [N] by name: all ("") first, then domains, kinds, both together, parts, and parts with each, if there are
    several."""
    domain_N, kind_N, part_N = (np.array(records.column(name).to_pylist()) for name in ("domain", "kind", "part"))
    cells = {"": np.ones(len(records), bool)}
    domains, kinds = sorted(set(domain_N.tolist())), sorted(set(kind_N.tolist()))
    if len(domains) > 1:
        cells |= {domain: domain_N == domain for domain in domains}
    if len(kinds) > 1:
        cells |= {kind: kind_N == kind for kind in kinds}
    if len(domains) > 1 and len(kinds) > 1:
        both = {f"{domain}/{kind}": (domain_N == domain) & (kind_N == kind) for domain in domains for kind in kinds}
        cells |= {name: here for name, here in both.items() if here.any()}
    parts = {part: part_N == part for part in sorted(set(part_N.tolist()) - {""})}
    if not parts:
        return cells
    table = parts if (part_N != "").all() else {**parts, OTHER: part_N == ""}
    crossed = {f"{part}/{name}": mine & here for part, mine in table.items() for name, here in cells.items() if name}
    return cells | parts | ({name: here for name, here in crossed.items() if here.any()} if len(table) > 1 else {})


def _answer(question: Question) -> bool | None:
    """True for yes, False for no; None for an open question."""
    return {"yes": True, "no": False}.get(question.answer.strip(" .").lower())


def _closed(question: Question) -> bool:
    return _answer(question) is not None


def _part(question: Question) -> str:
    """Part (subset) of a question from the data."""
    return _first(question.facets.get("part"))


def _first(words: Sequence[str] | None) -> str:
    return words[0] if words else ""
