"""Auto-Bench (Ji et al., 2023, 2311.14580): questions written from symbols, answers rated by judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder, Generator, Ranker, Role
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.curate.text.question_programs import SymbolVocabulary, write_questions
from diptych.data.media.decode import decode
from diptych.data.text.question_answering.symbols import symbols_of
from diptych.data.text.question_answering.triplets import Triplet, read_triplets
from diptych.tasks._scoring.answers.blind import BLIND, grey_images
from diptych.tasks._scoring.answers.choices import with_options
from diptych.tasks._scoring.answers.judge_agreement import agreement, kappa
from diptych.tasks._scoring.answers.judging import JudgedAnswer, Kind, compare_answers, judge_answers
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.choice.extractors import strict

TEXTS = ("uid", "group", "ability", "sub_ability", "question", "answer", "reasoning")
MANY = pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in TEXTS),
        ("options", MANY),
        ("reply", pa.string()),
        ("blind_reply", pa.string()),
        ("score", pa.float64()),
        ("blind_score", pa.float64()),
        ("said", pa.string()),
        ("exact", pa.float64()),
        ("better", pa.string()),
        ("consistent", pa.bool_()),
        ("took_first", pa.int32()),
    ]
)
Form = Literal["given", "closed", "open"]
CLOSED = "Answer with the option's letter from the given choices directly."
OPEN = "Answer in a few words."
RIGHT = 0.5
"""Minimum score of a correct answer when judges are compared."""
HIGHER_IS_BETTER = {"accuracy": True, "consistent": True, "wins": True, "took_first": False, "unread": False}


@dataclass(frozen=True)
class AutoBench:
    """Asks every question that was written about the pictures (`diptych curate bench_questions`), closed ones with lettered options,
    and has the answers judged. `accuracy` is the mean score; beside it stand those of each ability and kind, of the blind row (the same
    questions about grey pictures), and the share of answers that no judge could read, which count as wrong.

    A closed question is read by rule: the option that the reply names. An open one is judged: `exact`, `soft` (F1 of words),
    `embedding`, `likelihood` or `model`, the last three by the role `judge`. Where a judge is asked, `agreement` and `kappa` say how
    often its verdict on open questions equals that of `exact`: low where it sees what equality does not, or where it is no judge.

    With a `rival` the judge compares both models' answers in both orders: `wins` is the share of questions that are won in both, a tie is
    half; `consistent` the share of questions whose verdict the order did not change, `took_first` how often the first answer shown was
    taken (.5 without a bias).

    triplets    file of questions; None generates questions with programs from the boxes and relations of the data
    form        "closed": questions with options; "open": without options; "given": as each question has them
    by          judge of open questions
    threshold   minimum cosine of a right answer, for the judge "embedding"
    options     number of options of generated questions
    suffix      text after an open question
    max_tokens  maximum number of tokens of an answer
    draws, seed of the intervals, which draw groups of samples; seed of the programs
    blind       also ask the same questions about grey pictures
    """

    slug: ClassVar[str] = "auto_bench"
    name: ClassVar[str] = "auto_bench"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = Generator
    main: ClassVar[str] = "accuracy"
    roles: ClassVar[tuple[Role, ...]] = (
        Role("judge", Generator | Ranker | Embedder, "what judges open answers, and compares", optional=True),
        Role("rival", Generator, "another model, whose answers are compared by the judge", optional=True),
    )

    triplets: Path | None = None
    form: Form = "given"
    by: Kind = "exact"
    threshold: float = 0.8
    options: int = 4
    suffix: str = OPEN
    blind: bool = True
    max_tokens: int = 32
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.form not in get_args(Form) or self.options < 2:
            raise ConfigError(f"form is {self.form!r}, options {self.options} (expected given | closed | open; 2 or more)")

    def predict(self, model: Any, data: Dataset, *, judge: Any = None, rival: Any = None) -> pa.Table:
        if rival is not None and not isinstance(judge, Generator):
            raise ConfigError("a rival's answers are compared by a judge that writes (expected --judge MODEL)")
        samples, questions = self.questions(data)
        images = [samples[one.uid].image for one in questions]
        prompts = [self._prompt(one) for one in questions]
        replies = model.generate(images, prompts, max_tokens=self.max_tokens)
        blind = model.generate(grey_images(images), prompts, max_tokens=self.max_tokens) if self.blind else None  # type: ignore[arg-type]
        score, judge_replies = self._scores(questions, replies, judge)
        nothing: list[Any] = [None] * len(questions)
        columns: dict[str, Any] = {
            name: [getattr(one, name) for one in questions] for name in (*TEXTS, "options") if name != "group"
        }
        columns |= {
            "group": [samples[one.uid].group or one.uid for one in questions],
            "options": [list(one.options) for one in questions],
            "reply": replies,
            "blind_reply": blind or nothing,
            "score": score,
            "blind_score": self._scores(questions, blind, judge)[0] if blind else nothing,
            "said": judge_replies,
            "exact": [verdict.score for verdict in judge_answers("exact", _judgeable(questions, replies))],
            "better": nothing,
            "consistent": nothing,
            "took_first": nothing,
        }
        if rival is not None:
            others = rival.generate(images, prompts, max_tokens=self.max_tokens)
            comparisons = compare_answers(judge, _judgeable(questions, replies), others)
            columns |= {name: [getattr(one, name) for one in comparisons] for name in ("better", "consistent", "took_first")}
        facts = {**asdict(self), "triplets": str(self.triplets or "")}
        elsewhere = 0 if self.triplets is None else len(read_triplets(self.triplets)) - len(questions)
        models = {"model": model, "judge": judge, "rival": rival}
        names: dict[str, Any] = {role: getattr(one, "name", "") for role, one in models.items()}
        names["questions_about_other_pictures"] = elsewhere
        return with_facts(pa.table(columns, schema=SCHEMA), options=facts, fingerprint=data.fingerprint, **names)

    # ------------------------------------------------------------ what is asked

    def questions(self, data: Dataset) -> tuple[dict[str, Sample], list[Triplet]]:
        """Samples by uid, and their questions."""
        samples = {sample.uid: sample for sample in (data[row] for row in range(len(data)))}
        triplets = self._write_triplets(samples) if self.triplets is None else read_triplets(self.triplets)
        questions = [self._in_form(one) for one in triplets if one.uid in samples]
        if not questions:
            where = str(self.triplets or data.name)
            raise DataError(
                "there is no question about these pictures", file=where, field="uid", expected="triplets of this data set"
            )
        if missing := next((one.uid for one in questions if samples[one.uid].image is None), ""):
            raise DataError(f"sample '{missing}' has questions and no image", file=data.name, field="image")
        return samples, questions

    def _write_triplets(self, samples: dict[str, Sample]) -> list[Triplet]:
        symbols = {}
        for uid, sample in samples.items():
            if sample.regions and sample.image is not None:
                height, width = decode(sample.image, exact=True).shape[:2]
                symbols[uid] = symbols_of(sample, (width, height))
        if not symbols:
            raise DataError(
                "no picture has boxes for the programs' questions", field="regions", expected="boxes, or --triplets FILE"
            )
        vocabulary = SymbolVocabulary.of(list(symbols.values()))
        rngs = {uid: keyed_rng("bench questions", self.seed, uid) for uid in symbols}
        return [
            one
            for uid in sorted(symbols)
            for one in write_questions(uid, symbols[uid], vocabulary, rngs[uid], options=self.options)
        ]

    def _in_form(self, one: Triplet) -> Triplet:
        if self.form == "closed" and not one.options:
            raise DataError(f"'{one.question[:60]}' has no options", field="options", expected="some, or --form given")
        if self.form != "open" or not one.options:
            return one
        return Triplet(one.uid, one.ability, one.sub_ability, one.question, one.answer, (), one.reasoning, one.support, one.by)

    def _prompt(self, one: Triplet) -> str:
        return with_options(one.question, one.options, CLOSED) if one.options else f"{one.question} {self.suffix}".strip()

    def _scores(self, questions: Sequence[Triplet], replies: Sequence[str], judge: Any) -> tuple[list[float | None], list[str]]:
        """Scores and judges' replies; a closed question is scored by the option named, None if no option is."""
        rows = [row for row, one in enumerate(questions) if not one.options]
        verdicts = judge_answers(self.by, [_judgeable(questions, replies)[row] for row in rows], judge, threshold=self.threshold)
        by_place = dict(zip(rows, verdicts, strict=True))
        score: list[float | None] = []
        judge_replies: list[str] = []
        for row, (one, reply) in enumerate(zip(questions, replies, strict=True)):
            if row in by_place:
                score.append(by_place[row].score)
                judge_replies.append(by_place[row].reply)
            else:
                chosen = strict(reply, one.options)
                score.append(None if chosen is None else float(one.options[chosen] == one.answer))
                judge_replies.append("" if chosen is None else one.options[chosen])
        return score, judge_replies

    # ------------------------------------------------------------ metrics

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no question", expected="one row or more")
        groups = records.column("group").to_pylist()
        columns = self._columns(records)
        drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
        sizes = [len(options) for options in records.column("options").to_pylist()]
        chance_N = np.array([1 / size if size else np.nan for size in sizes])
        metrics = {}
        for column, (name, value_N) in enumerate(columns.items()):
            here = ~np.isnan(value_N)
            guessed = name.startswith("accuracy") and not np.isnan(chance_N[here]).any()
            metrics[name] = Metric(
                float(value_N[here].mean()),
                *percentiles(drawn_RM[:, column]),
                chance=float(chance_N[here].mean()) if guessed else float("nan"),
                higher_is_better=HIGHER_IS_BETTER[name.split("/")[0]],
                items=int(here.sum()),
            )
        metrics |= self._agreement(records)
        notes = {
            **facts_of(records),
            "chance": "one guess of the options, where all questions have some",
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    @staticmethod
    def _columns(records: pa.Table) -> dict[str, Floats]:
        plain = records.to_pydict()
        score_N = _floats(plain["score"], 0.0)
        columns: dict[str, Floats] = {"accuracy": score_N}
        for level in ("ability", "sub_ability"):
            names = [
                f"{a}/{k}" if level == "sub_ability" else a for a, k in zip(plain["ability"], plain["sub_ability"], strict=True)
            ]
            for name in sorted(set(names)):
                columns[f"accuracy/{name}"] = np.where(np.array(names) == name, score_N, np.nan)
        columns["unread"] = np.array([float(one is None) for one in plain["score"]])
        if any(reply is not None for reply in plain["blind_reply"]):
            columns[f"accuracy{BLIND}"] = _floats(plain["blind_score"], 0.0)
        if any(better is not None for better in plain["better"]):
            points = {"first": 1.0, "second": 0.0, "tie": 0.5}
            columns["wins"] = np.array([points.get(better, np.nan) for better in plain["better"]])
            columns["unread/compared"] = np.array([float(better == "unread") for better in plain["better"]])
            columns["consistent"] = _floats(plain["consistent"], np.nan)
            columns["took_first"] = _floats(plain["took_first"], np.nan) / 2
        return {name: value_N for name, value_N in columns.items() if not np.isnan(value_N).all()}

    @staticmethod
    def _agreement(records: pa.Table) -> dict[str, Metric]:
        """Agreement of the judge with equality, on open questions that it could read."""
        if facts_of(records).get("options", {}).get("by", "exact") == "exact":
            return {}
        rows = zip(*(records.column(name).to_pylist() for name in ("options", "score", "exact")), strict=True)
        pairs = [(score >= RIGHT, exact >= RIGHT) for options, score, exact in rows if not options and score is not None]
        if not pairs:
            return {}
        ours, theirs = zip(*pairs, strict=True)
        nan = float("nan")
        return {
            "agreement": Metric(agreement(ours, theirs), nan, nan, items=len(pairs)),
            "kappa": Metric(kappa(ours, theirs), nan, nan, items=len(pairs)),
        }

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1] for accuracy and its parts, and for unread replies."""
        columns = self._columns(records)
        return columns[metric][:, None] if metric in columns and metric.startswith(("accuracy", "unread")) else None


def _judgeable(questions: Sequence[Triplet], replies: Sequence[str]) -> list[JudgedAnswer]:
    return [JudgedAnswer(one.question, one.answer, reply, one.reasoning) for one, reply in zip(questions, replies, strict=True)]


def _floats(values: Sequence[float | None], missing: float) -> Floats:
    return np.array([missing if value is None else float(value) for value in values])
