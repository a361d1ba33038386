"""Multiple choice, asked in several orders of the options."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Generator, Ranker, ReadableRow, Reply
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import ImageSource
from diptych.core.prompt import ImagePart, Part, PromptLike, TextPart
from diptych.core.registry import EXTRACTORS
from diptych.core.result import Result
from diptych.tasks._scoring.answers.blind import grey_images
from diptych.tasks._scoring.answers.cached_replies import cached_replies
from diptych.tasks._scoring.answers.choices import LETTERS, rotations, shuffles, with_options
from diptych.tasks._scoring.intervals import Floats
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.choice.choice_scores import accuracy_by_extractor, ask_columns, read_chosen, score_choices
from diptych.tasks.choice.items import Item, as_prompt, items_of, unanswerable, with_none, with_own_sources

How = Literal["write", "letter", "mean", "sum"]
OrderBy = Literal["rotate", "shuffle", "given"]
TEXTS = ("uid", "case", "group", "item", "kind", "question", "answer", "reply", "fault", "blind_reply", "blind_fault", "facets")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in TEXTS),
        ("answerable", pa.bool_()),
        ("options", pa.list_(pa.string())),
        ("order", pa.list_(pa.int32())),
        ("pictures", pa.int32()),
        ("place", pa.int32()),
        ("blind_place", pa.int32()),
    ]
)
INSTRUCTION = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True, slots=True)
class OrderedQuestion:
    """A question with its options in one order: `order` indexes `item.options`."""

    item: Item
    order: list[int]

    @property
    def options(self) -> list[str]:
        return [self.item.options[index] for index in self.order]


@dataclass(frozen=True)
class MultipleChoice:
    """Multiple-choice questions of every sample, asked in several orders of the options.

    `accuracy` is the fraction of correct replies over all questions and orders. A reply that names no option is wrong and counted
    as `unread`; a missing reply (the server refused the question) is wrong and counted as `failed`; neither is replaced by a
    guess. `circular` is the fraction of questions that are correct in all orders (MMBench, 2307.06281): a model that always picks
    the first letter has chance accuracy and a circular accuracy of 0. `majority` scores the most frequent choice. `entropy` is
    the entropy of the chosen content over orders, divided by its maximum (0: independent of the order), `entropy_bits` and
    `entropy_nats` the undivided values, `entropy_wrong` the mean over questions whose majority is wrong: a model that always
    answers the same is stable too. `position_bias` is the total variation distance between the chosen letters and those expected
    without position bias.

    With `none_option`, every question offers it; with `unanswerable`, every question is also asked without its right option.
    `rejection` is the rate of choosing "none" over unanswerable questions, `false_rejection` over answerable ones, `abstention`
    over all. The options are the `choices` of a question; if it has none, its answer and other answers of the same kind in the
    data, drawn and shuffled under `seed`. Results with different `how` are not comparable. The blind row asks the same questions
    about plain grey images.

    how          "write": options are shown with letters and the reply is parsed; "letter": shown, the most likely letter counts; "mean" or
                 "sum": not shown, the most likely text counts, by nats per token or in total; the order has no effect then
    options      number of options, for questions without options of their own
    order        "rotate" rotates the given order by 0, 1, ... positions; "shuffle" samples different orders under `seed`; "given" uses the
                 given order
    orders       maximum number of orders; 1 for mean and sum
    instruction  text after the options
    none_option  text of an option "none of them"; "" adds none
    unanswerable asks every question that has an answer a second time, without it
    hint         name of a hint of the questions ("domain"), whose text is put before the question
    shots        number of questions of `examples`, with answers, before each question
    examples     address of the data of the examples
    compat       a released parser instead of ours (`core.registry.EXTRACTORS`)
    miller_madow corrects entropies in bits and nats for few orders
    keep         cache answers of a local model on disk, so that a killed run can be resumed
    draws, seed  bootstrap draws and seed of the intervals, which resample groups of samples
    blind       also ask the same questions about grey pictures
    """

    name: ClassVar[str] = "multiple_choice"
    version: ClassVar[int] = 2
    needs: ClassVar[Any] = Generator | Ranker
    main: ClassVar[str] = "accuracy"

    how: How = "write"
    options: int = 4
    order: OrderBy = "rotate"
    orders: int = 4
    instruction: str = INSTRUCTION
    none_option: str = ""
    unanswerable: bool = False
    hint: str = ""
    shots: int = 0
    examples: str = ""
    compat: str = ""
    blind: bool = True
    miller_madow: bool = False
    max_tokens: int = 16
    keep: bool = True
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.how not in get_args(How) or self.options < 2 or self.orders < 1 or self.shots < 0:
            raise ConfigError(
                f"how is {self.how!r}, options {self.options}, orders {self.orders}, shots {self.shots} "
                f"(expected {' | '.join(get_args(How))}; 2 or more; 1 or more; 0 or more)"
            )
        if self.order not in get_args(OrderBy):
            raise ConfigError(f"order is {self.order!r} (expected {' | '.join(get_args(OrderBy))})")
        if self.unanswerable and not self.none_option:
            raise ConfigError("unanswerable questions need an option that is right (expected none_option='None of the above')")
        if bool(self.shots) != bool(self.examples):
            raise ConfigError(f"shots is {self.shots} and examples {self.examples!r} (expected both, or neither)")
        if self.compat and self.compat not in EXTRACTORS:
            raise UnknownName("extractor", self.compat, EXTRACTORS)

    # ---------------------------------------------------------------- asked

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        """Returns one row for each order of each question."""
        if not isinstance(model, Generator if self.how == "write" else Ranker):
            other = "letter | mean | sum" if self.how == "write" else "write"
            raise ConfigError(f"'{getattr(model, 'name', model)}' cannot answer by how={self.how} (expected {other})")
        asks = self._asks(data)
        shots = self._shots()
        pictures: list[Sequence[ImageSource]] = [ask.item.pictures for ask in asks]
        shades: list[Sequence[ImageSource]] = [grey_images(each) for each in pictures] if self.blind else []
        both = [*asks, *asks[: len(shades)]]  # in one call, so that an interrupted run can resume both
        all_replies, chosen = self._ask_model(model, both, [*pictures, *shades], shots)
        replies, indices = all_replies[: len(asks)], chosen[: len(asks)]
        blind: tuple[Sequence[Reply | None], Sequence[int | None]] = [None] * len(asks), [None] * len(asks)
        if self.blind:
            blind = all_replies[len(asks) :], chosen[len(asks) :]
        items = [ask.item for ask in asks]
        columns: dict[str, Any] = {
            **{name: [getattr(item, name) for item in items] for name in ("uid", "group", "item", "kind", "question", "answer")},
            "case": _cases(asks),
            "options": [list(item.options) for item in items],
            "answerable": [item.answerable for item in items],
            "pictures": [len(item.pictures) for item in items],
            "order": [ask.order for ask in asks],
            "facets": [json.dumps(item.facets, ensure_ascii=False) for item in items],
            "reply": [reply.text for reply in replies],
            "fault": [reply.fault for reply in replies],
            "place": indices,
            "blind_reply": [reply and reply.text for reply in blind[0]],
            "blind_fault": [reply and reply.fault for reply in blind[0]],
            "blind_place": blind[1],
        }
        records = pa.table(columns, schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def _asks(self, data: Dataset) -> list[OrderedQuestion]:
        asks = []
        for item in items_of(data, options=self.options, seed=self.seed, none_option=self.none_option):
            variants = [item]
            if self.unanswerable and item.answerable and item.answer is not None:
                variants.append(unanswerable(item, self.none_option))
            for variant in variants:
                offered = with_none(variant, self.none_option) if self.none_option else variant
                asks += [OrderedQuestion(offered, order) for order in self._orders(offered)]
        return asks

    def _orders(self, item: Item) -> list[list[int]]:
        count = len(item.options)
        if self.how in ("mean", "sum") or self.order == "given":
            return [list(range(count))]
        if self.order == "rotate":
            return rotations(count, self.orders)
        return shuffles(count, self.orders, self.seed, item.uid, item.item, int(item.answerable))

    def _ask_model(
        self, model: Any, asks: Sequence[OrderedQuestion], pictures: Sequence[Sequence[ImageSource]], shots: Sequence[Item]
    ) -> tuple[list[Reply], list[int | None]]:
        """Replies, and for rankings the index of the likeliest option."""
        first = [sources[0] for sources in pictures]
        prompts = [self._prompt(ask, sources, shots) for ask, sources in zip(asks, pictures, strict=True)]
        if self.how == "write":
            replies = cached_replies(model, first, prompts, max_tokens=self.max_tokens, keep=self.keep)
            return replies, [None] * len(replies)
        letters = self.how == "letter"
        candidates = [list(LETTERS[: len(ask.order)]) if letters else ask.options for ask in asks]
        tables = model.answer_nll(first, prompts, candidates)
        costs = [table[:, 0] if self.how == "sum" else table[:, 0] / table[:, 1] for table in tables]
        indices = [int(np.argmin(cost)) for cost in costs]
        return [Reply(names[index]) for names, index in zip(candidates, indices, strict=True)], list(indices)

    def _prompt(self, ask: OrderedQuestion, pictures: Sequence[ImageSource], shots: Sequence[Item]) -> PromptLike:
        """Prompt of one question, few-shot examples first; the pictures may be grey ones."""
        prompt = with_own_sources(as_prompt(self.text(ask.item, ask.options), len(pictures)), pictures)
        if not shots:
            return prompt
        parts: list[Part] = []
        for shot in shots:
            right = LETTERS[shot.options.index(shot.answer)] if shot.answer else ""
            parts += [*(ImagePart(source=source) for source in shot.pictures)]
            parts += [TextPart(f"{self.text(shot, shot.options, answered=right)}\n\n")]
        return (*parts, *((ImagePart(), TextPart(prompt)) if isinstance(prompt, str) else prompt))  # type: ignore[misc]

    def text(self, item: Item, options: Sequence[str], *, answered: str = "") -> str:
        """Question text with options, followed by the answer's letter if it is a few-shot example."""
        given = item.question
        if self.hint:
            if not item.hints.get(self.hint):
                names = ", ".join(sorted(item.hints)) or "none"
                raise DataError(f"question '{given[:60]}' has no hint '{self.hint}'", field="hints", expected=f"one of: {names}")
            given = f"Key words: {','.join(item.hints[self.hint])}\n{given}"
        if self.how in ("mean", "sum"):
            return given
        return with_options(given, options, f"Answer: {answered}" if answered else self.instruction)

    def _shots(self) -> list[Item]:
        if not self.shots:
            return []
        from diptych.worlds.address import open_data

        examples = [item for item in items_of(open_data(self.examples), options=self.options, seed=self.seed) if item.answer]
        if len(examples) < self.shots:
            raise DataError(
                f"there are {len(examples)} questions with answers", file=self.examples, expected=f"{self.shots} examples"
            )
        return examples[: self.shots]

    # ---------------------------------------------------------------- scored

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no question", expected="one row or more")
        notes: dict[str, Any] = {"extractor": self._extractor}
        if self.how == "write":
            notes["accuracy_by_extractor"] = accuracy_by_extractor(records)
        return score_choices(
            records,
            name=self.name,
            version=self.version,
            extractor=self._extractor,
            none_option=self.none_option,
            corrected=self.miller_madow,
            lettered=self.how in ("write", "letter"),
            draws=self.draws,
            seed=self.seed,
            notes=notes,
        )

    @property
    def _extractor(self) -> str:
        return self.compat or "strict"

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1] for metrics that are means over the rows: accuracy, unread, failed, answerable, rejection, false_rejection,
        abstention."""
        columns = ask_columns(records, read_chosen(records, self._extractor), self.none_option)
        return columns[metric][:, None] if metric in columns else None

    def in_words(self, records: pa.Table) -> list[ReadableRow]:
        """Records with the chosen option, or the reply if no option could be parsed."""
        rows = []
        chosen = read_chosen(records, self._extractor)
        columns = (records.column(name).to_pylist() for name in ("uid", "case", "question", "answer", "reply", "fault"))
        for choice, (uid, case, question, answer, reply, fault) in zip(chosen, zip(*columns, strict=True), strict=True):
            rows.append(ReadableRow(uid, case, question, answer or "", choice or fault or f"unread: {reply.strip()[:160]!r}"))
        return rows


def _cases(asks: Sequence[OrderedQuestion]) -> list[str]:
    """Key of each question in each order, for paired comparison of two models."""
    seen: Counter[str] = Counter()
    keys = []
    for ask in asks:
        name = f"{ask.item.item}{'' if ask.item.answerable else ' without its answer'}"
        keys.append(f"{name} #{seen[name]}")
        seen[name] += 1
    return keys
