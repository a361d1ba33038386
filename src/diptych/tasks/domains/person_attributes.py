"""Attribute recognition of persons by words: which of its phrases does each place of the description hold?  Protocol `person_attributes`,
version 1.

A picture says what it shows of six places: gender, head, upper clothes, lower clothes, shoes, belongings (the extra `attributes`). For each
place the phrases that occur in the data compete, put into a prompt; the highest cosine answers. Places that are unknown are not asked, nor
those where the data have one phrase alone.

`ma` is the field's mean accuracy: of each phrase the mean of the share found where it is there and the share not predicted where it is not,
then the mean over phrases. A rare phrase weighs as much as a frequent one, and guessing gets 0.5. `accuracy` is the plain share of right
answers. Published tables train a classifier with a threshold a phrase; here one phrase of each place is chosen, nothing is tuned. Ties
count as wrong, also where the right phrase is among them. The unit of the intervals is the identity.

Letters: N questions, K phrases, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.index.embed import embed_texts, embedded_images
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts

PLACES = ("gender", "head", "upper", "lower", "shoes", "belongings")
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PersonAttributes:
    """Person attribute recognition: mean accuracy and accuracy over six parts of the description.

    column  name of the extra with the six phrases, "unknown" if not visible
    gender_prompt, prompt  prompts with one `{}` for the phrase
    """

    name: ClassVar[str] = "person_attributes"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Embedder
    main: ClassVar[str] = "ma"

    column: str = "attributes"
    gender_prompt: str = "A photo of a {}"
    prompt: str = "A photo of a person with {}"
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        for template in (self.gender_prompt, self.prompt):
            if template.count("{}") != 1:
                raise ConfigError(f"prompt is {template!r} (expected one {{}} in it)")

    def predict(self, model: Embedder, data: Dataset) -> pa.Table:
        """Returns one row per question: a picture and a part of the description."""
        shown = embedded_images(model, data, batch_size=self.batch_size, wanted="pictures with attributes")
        uids, groups = [sample.uid for sample in shown.samples], [sample.group or sample.uid for sample in shown.samples]
        attributes = [self._attributes(sample.uid, sample.extras.get(self.column)) for sample in shown.samples]
        rows: dict[str, list[Any]] = {name: [] for name in ("query", "group", "place", "truth", "answer", "tied", "choices")}
        for at, part in enumerate(PLACES):
            phrases = sorted({of_row[at] for of_row in attributes} - {UNKNOWN})
            if len(phrases) < 2:
                continue
            template = self.gender_prompt if part == "gender" else self.prompt
            text_KD = embed_texts(model, [template.format(phrase) for phrase in phrases], phrases)
            cosine_NK = (shown.vectors_ND.astype(np.float64) @ text_KD.astype(np.float64).T).astype(np.float32)
            for row, of_row in enumerate(attributes):
                if of_row[at] == UNKNOWN:
                    continue
                best = cosine_NK[row] == cosine_NK[row].max()
                rows["query"].append(uids[row])
                rows["group"].append(groups[row])
                rows["place"].append(part)
                rows["truth"].append(of_row[at])
                rows["tied"].append(bool(best.sum() > 1))
                rows["answer"].append("" if best.sum() > 1 else phrases[int(np.argmax(best))])
                rows["choices"].append(len(phrases))
        if not rows["query"]:
            raise DataError(
                f"'{data.name}' has no attribute with two phrases",
                field=self.column,
                expected="six phrases a picture, not all alike",
            )
        return with_facts(
            pa.table(rows), options=asdict(self), images=len(uids), unreadable=[asdict(one) for one in shown.unreadable]
        )

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        table = records.to_pydict()
        if not table["query"]:
            raise DataError("nothing to score: the records contain no question", expected="one row or more")
        right_N = np.array([a == t for a, t in zip(table["answer"], table["truth"], strict=True)], np.float64)
        found_NK, spared_NK = _per_phrase(table)
        count = found_NK.shape[1]
        place_N = np.array(table["place"])
        names = [part for part in PLACES if (place_N == part).any()]
        by_place = [np.where(place_N == part, right_N, np.nan) for part in names]
        columns_NM = np.concatenate([found_NK, spared_NK, right_N[:, None], np.stack(by_place, 1)], 1)
        drawn_RM = resampled_means(columns_NM, table["group"], draws=self.draws, seed=self.seed)
        value_M = np.array([np.nanmean(columns_NM[:, m]) for m in range(columns_NM.shape[1])])
        both_RK = (drawn_RM[:, :count] + drawn_RM[:, count : 2 * count]) / 2
        there_R = (~np.isnan(both_RK)).sum(1)
        ma_R = np.where(there_R > 0, np.nansum(both_RK, 1) / np.maximum(there_R, 1), np.nan)
        choices = np.array(table["choices"], np.float64)
        metrics = {
            "ma": Metric(float(np.nanmean((value_M[:count] + value_M[count : 2 * count]) / 2)), *percentiles(ma_R), chance=0.5),
            "accuracy": Metric(
                float(value_M[2 * count]), *percentiles(drawn_RM[:, 2 * count]), chance=float((1 / choices).mean())
            ),
        }
        for at, name in enumerate(names, 2 * count + 1):
            here = place_N == name
            metrics[f"accuracy_{name}"] = Metric(
                float(value_M[at]),
                *percentiles(drawn_RM[:, at]),
                chance=float((1 / choices[here]).mean()),
                items=int(here.sum()),
            )
        notes = {
            **facts_of(records),
            "phrases": count,
            "share_tied": float(np.mean(table["tied"])),
            "interval": f"95 % percentile, {self.draws} draws of identities, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(right_N), len(set(table["group"])), notes=notes)

    def _attributes(self, uid: str, value: Any) -> Sequence[str]:
        if not isinstance(value, list | tuple) or len(value) != len(PLACES) or not all(isinstance(one, str) for one in value):
            raise DataError(
                f"sample '{uid}' has {value!r}",
                field=self.column,
                expected=f"six phrases ({', '.join(PLACES)}), 'unknown' where none",
            )
        return value


def _per_phrase(table: dict[str, list[Any]]) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Two arrays [N, K] by phrase: hits where the phrase is the truth, and correct rejections in the other questions of its part.
    NaN for all other questions.
    """
    phrases = sorted({(part, truth) for part, truth in zip(table["place"], table["truth"], strict=True)})
    number = {phrase: at for at, phrase in enumerate(phrases)}
    found_NK, spared_NK = (np.full((len(table["query"]), len(phrases)), np.nan) for _ in range(2))
    of_place: dict[str, list[int]] = {}
    for (part, _), at in number.items():
        of_place.setdefault(part, []).append(at)
    for row, (part, truth, answer) in enumerate(zip(table["place"], table["truth"], table["answer"], strict=True)):
        own = number[part, truth]
        spared_NK[row, of_place[part]] = 1.0
        if (predicted := number.get((part, answer))) is not None:
            spared_NK[row, predicted] = 0.0
        spared_NK[row, own] = np.nan
        found_NK[row, own] = float(answer == truth)
    return found_NK, spared_NK
