"""Questions about rooms: exact match, and CIDEr and ROUGE-L against all accepted answers.  Protocol `room_questions`, version 1.

ScanQA (2112.10482): EM@1 is the share of answers that are one of the accepted ones. Both sides are brought to small letters without a
final stop and with single spaces. Chat-Scene's released scorer cleans its answer by a longer list and leaves the accepted ones as they
are; its "refined" match also takes an answer that contains an accepted one, or lies in it (`contained`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, RoomAnswerer
from diptych.core.errors import DataError
from diptych.core.result import Metric, Result
from diptych.core.terminal.progress import with_bar
from diptych.data.points.room_language import room_questions
from diptych.tasks._scoring.captions.metrics import cider_d, rouge_l, words_of
from diptych.tasks._scoring.intervals import percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts


@dataclass(frozen=True, slots=True)
class RoomQuestions:
    """Exact match of answers to questions about rooms."""

    name: ClassVar[str] = "room_questions"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = RoomAnswerer
    main: ClassVar[str] = "em@1"

    draws: int = 2000
    seed: int = 0

    def predict(self, model: RoomAnswerer, data: Dataset) -> pa.Table:
        """Returns one row per question: the answer and the accepted ones."""
        rows: list[dict[str, Any]] = []
        for number in with_bar(range(len(data)), len(data), "asking", least=4):
            sample = data[number]
            asked = [pair for pair in room_questions(sample) if pair[1]]
            if not asked:
                continue
            answers = model.answer_room(sample, [question for question, _ in asked])
            for (question, accepted), answer in zip(asked, answers, strict=True):
                facts = {"uid": sample.uid, "group": sample.group or sample.uid, "question": question}
                rows.append({**facts, "answer": answer, "accepted": list(accepted)})
        if not rows:
            raise DataError(f"'{data.name}' has no questions with answers", field="questions", expected="rooms with questions")
        return with_facts(pa.Table.from_pylist(rows), options=asdict(self))

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        groups = records.column("group").to_pylist()
        answers = [plain_answer(text) for text in records.column("answer").to_pylist()]
        accepted = [[plain_answer(text) for text in texts] for texts in records.column("accepted").to_pylist()]
        words = [words_of(text) for text in answers]
        references = [[words_of(text) for text in texts] for texts in accepted]
        columns = {
            "em@1": exact_matches(answers, accepted),
            "contained": np.array([float(contains(a, texts)) for a, texts in zip(answers, accepted, strict=True)]),
            "cider": cider_d(words, references),
            "rouge_l": np.array([rouge_l(*pair) for pair in zip(words, references, strict=True)]),
        }
        drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
        metrics = {
            name: Metric(float(value_N.mean()), *percentiles(drawn_RM[:, number]), unit="points" if name == "cider" else "share")
            for number, (name, value_N) in enumerate(columns.items())
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=dict(facts_of(records)))

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> npt.NDArray[np.float64] | None:
        """[N, 1] of the exact match."""
        if metric != "em@1":
            return None
        accepted = [[plain_answer(text) for text in texts] for texts in records.column("accepted").to_pylist()]
        return exact_matches([plain_answer(text) for text in records.column("answer").to_pylist()], accepted)[:, None]


def plain_answer(text: str) -> str:
    """Small letters, single spaces, no stop at the end."""
    return " ".join(text.lower().split()).rstrip(".").strip()


def exact_matches(answers: list[str], accepted: list[list[str]]) -> npt.NDArray[np.float64]:
    """[N]: 1 where an answer is among the accepted ones."""
    return np.array([float(answer in texts) for answer, texts in zip(answers, accepted, strict=True)])


def contains(answer: str, accepted: list[str]) -> bool:
    """True where an accepted answer lies in the answer, or the answer in it, spaces left out."""
    joined = "".join(answer.split())
    return bool(joined) and any(joined in (own := "".join(text.split())) or own in joined for text in accepted)
