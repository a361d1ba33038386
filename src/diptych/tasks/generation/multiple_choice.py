"""Questions with options, asked in several orders of the options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Generator, Ranker
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.data.text.questions import Question, questions_of
from diptych.tasks._scoring.choices import LETTERS, entropy, option_of, rotations, shown
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.generation.blind import BLIND, grey

How = Literal["write", "letter", "mean", "sum"]
TEXTS = ("uid", "group", "kind", "question", "answer")
MANY = pa.list_(pa.string())
SCHEMA = pa.schema(
    [*((name, pa.string()) for name in TEXTS), ("options", MANY), ("replies", MANY), ("chosen", MANY), ("blind_chosen", MANY)]
)
INSTRUCTION = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class MultipleChoice:
    """Every question of every sample with its options, in `orders` rotations of them. `accuracy` is the share of questions that are
    right in the first order, which decides; `circular` that of questions that are right in all of them (MMBench, 2307.06281): a model
    that always takes the first letter has an accuracy of chance and a circular one of 0. `rotated` is the mean over orders;
    `majority` takes what was chosen most often; `entropy` says how much the choice depends on the order (0: not at all). A reply that
    names no option is wrong, and counted as `unread`; no option is drawn for it.

    The options are the `choices` of a question; without, its answer and others of that kind in the data, drawn and shuffled under `seed`.
    Numbers of different `how` are different protocols. The blind row is the same questions about plain grey pictures.

    how          "write": the options are shown with letters and the reply is read; "letter": shown, and the likeliest letter is taken;
                 "mean" or "sum": not shown, the likeliest text by nats a token or in all, for which the order plays no part
    options      how many, where the question has none of its own
    orders       rotations that are asked, at most as many as there are options; 1 for mean and sum
    instruction  stands behind the options
    draws, seed  of the intervals, which draw groups of samples
    """

    name: ClassVar[str] = "multiple_choice"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = Generator | Ranker
    main: ClassVar[str] = "accuracy"

    how: How = "write"
    options: int = 4
    orders: int = 4
    instruction: str = INSTRUCTION
    blind: bool = True
    max_tokens: int = 16
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.how not in get_args(How) or self.options < 2 or self.orders < 1:
            raise ConfigError(
                f"how is {self.how!r}, options {self.options}, orders {self.orders} "
                f"(expected {' | '.join(get_args(How))}; 2 or more; 1 or more)"
            )

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        if not isinstance(model, Generator if self.how == "write" else Ranker):
            other = "letter | mean | sum" if self.how == "write" else "write"
            raise ConfigError(f"'{getattr(model, 'name', model)}' cannot answer by how={self.how} (expected {other})")
        asked = self._asked(data)
        images = [sample.image for sample, _, _ in asked]
        replies, chosen = self._chosen(model, images, asked)
        nothing: list[Any] = [None] * len(asked)
        blind = self._chosen(model, grey(images), asked)[1] if self.blind else nothing  # type: ignore[arg-type]
        columns: dict[str, Any] = {
            "uid": [sample.uid for sample, *_ in asked],
            "group": [sample.group or sample.uid for sample, *_ in asked],
            "kind": [question.kind for _, question, _ in asked],
            "question": [question.text for _, question, _ in asked],
            "answer": [question.answer for _, question, _ in asked],
            "options": [options for *_, options in asked],
            "replies": replies,
            "chosen": chosen,
            "blind_chosen": blind,
        }
        records = pa.table(columns, schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def _asked(self, data: Dataset) -> list[tuple[Sample, Question, list[str]]]:
        found = []
        for row in range(len(data)):
            sample = data[row]
            questions = questions_of(sample)
            if questions and sample.image is None:
                raise DataError(f"sample '{sample.uid}' has questions and no image", file=data.name, row=row, field="image")
            found += [(sample, number, question) for number, question in enumerate(questions)]
        if not found:
            raise DataError(f"'{data.name}' has no question", field="questions", expected='extras["questions"] of samples')
        known: dict[str, dict[str, None]] = {}
        for _, _, question in found:
            known.setdefault(question.kind, {})[question.answer] = None
        return [
            (sample, question, self._options(question, sorted(known[question.kind]), f"{sample.uid}/{number}"))
            for sample, number, question in found
        ]

    def _options(self, question: Question, known: list[str], key: str) -> list[str]:
        if question.choices:
            return list(question.choices)
        others = [answer for answer in known if answer not in question.answers]
        if not others:
            raise DataError(
                f"question '{question.text[:60]}' of {key.rpartition('/')[0]} has no wrong answer to offer",
                field="questions",
                expected='"choices", or another answer of its kind in the data',
            )
        rng = keyed_rng("options", self.seed, key)
        drawn = [others[place] for place in rng.permutation(len(others))[: self.options - 1]]
        options = [question.answer, *drawn]
        return [options[place] for place in rng.permutation(len(options))]

    def _chosen(
        self, model: Any, images: Sequence[Any], asked: list[tuple[Sample, Question, list[str]]]
    ) -> tuple[list[list[str]], list[list[str]]]:
        """What was replied and which option that means, "" for none, in each order of each question."""
        given = self.how in ("mean", "sum")
        orders = [[options] if given else rotations(options, self.orders) for *_, options in asked]
        rows = [(row, order) for row, every in enumerate(orders) for order in every]
        pictures, texts = [images[row] for row, _ in rows], [asked[row][1].text for row, _ in rows]
        if not given:
            texts = [shown(text, order, self.instruction) for text, (_, order) in zip(texts, rows, strict=True)]
        if self.how == "write":
            said = model.generate(pictures, texts, max_tokens=self.max_tokens)
            places = [option_of(reply, order) for reply, (_, order) in zip(said, rows, strict=True)]
        else:
            candidates = [order if given else list(LETTERS[: len(order)]) for _, order in rows]
            found = model.answer_nll(pictures, texts, candidates)
            costs = [table[:, 0] if self.how == "sum" else table[:, 0] / table[:, 1] for table in found]
            places = [int(np.argmin(cost)) for cost in costs]
            said = [names[place] for names, place in zip(candidates, places, strict=True) if place is not None]
        replies: list[list[str]] = [[] for _ in asked]
        chosen: list[list[str]] = [[] for _ in asked]
        for (row, order), reply, place in zip(rows, said, places, strict=True):
            replies[row].append(reply)
            chosen[row].append("" if place is None else order[place])
        return replies, chosen

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("there is nothing to score: the records hold no question", expected="one row or more")
        groups, kinds = records.column("group").to_pylist(), records.column("kind").to_pylist()
        sizes = np.array([len(options) for options in records.column("options").to_pylist()])
        turns = np.array([len(replies) for replies in records.column("replies").to_pylist()])
        columns = self._columns(records, "chosen")
        if len(set(kinds)) > 1:
            for kind in sorted(set(kinds)):
                columns[f"accuracy/{kind or 'other'}"] = np.where(np.array(kinds) == kind, columns["accuracy"], np.nan)
        if records.column("blind_chosen").null_count == 0:
            columns |= {
                f"{name}{BLIND}": value for name, value in self._columns(records, "blind_chosen").items() if name != "unread"
            }
        drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
        chances = {"accuracy": 1 / sizes, "rotated": 1 / sizes, "circular": (1.0 / sizes) ** turns}
        metrics = {}
        for place, (name, value_N) in enumerate(columns.items()):
            here = ~np.isnan(value_N)
            chance = chances.get(name.split("/")[0])
            metrics[name] = Metric(
                float(value_N[here].mean()),
                *percentiles(drawn_RM[:, place]),
                chance=float("nan") if chance is None else float(chance[here].mean()),
                higher_is_better=not name.startswith(("unread", "entropy")),
                items=int(here.sum()),
            )
        notes: dict[str, Any] = {
            **facts_of(records),
            "orders": float(turns.mean()),
            "chance": "one guess of the options; circular: independent guesses in all orders",
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    @staticmethod
    def _columns(records: pa.Table, which: str) -> dict[str, Floats]:
        answers, options = records.column("answer").to_pylist(), records.column("options").to_pylist()
        every = records.column(which).to_pylist()
        right = [[one == answer for one in chosen] for chosen, answer in zip(every, answers, strict=True)]
        most = [max(dict.fromkeys(chosen), key=chosen.count) for chosen in every]
        return {
            "accuracy": np.array([float(row[0]) for row in right]),
            "circular": np.array([float(all(row)) for row in right]),
            "rotated": np.array([float(np.mean(row)) for row in right]),
            "majority": np.array([float(one == answer) for one, answer in zip(most, answers, strict=True)]),
            "entropy": np.array([entropy(chosen, len(known)) for chosen, known in zip(every, options, strict=True)]),
            "unread": np.array([float(np.mean([not one for one in chosen])) for chosen in every]),
        }

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1] for accuracy, circular, rotated and majority."""
        columns = self._columns(records, "chosen")
        return columns[metric][:, None] if metric in ("accuracy", "circular", "rotated", "majority") else None
