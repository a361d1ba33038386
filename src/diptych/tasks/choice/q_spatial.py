r"""Q-Spatial Bench and SpatialPrompt: distances and sizes from one picture. Protocol `q_spatial`, version 1."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Generator, ReadableRow
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.prompt import Dialogue, ImagePart, PromptLike, TextPart, Turn
from diptych.core.result import Metric, Result
from diptych.data.quizzes.q_spatial import FIELD
from diptych.tasks._scoring.answers.cached_replies import cached_replies
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.odds import odds_ratio
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.choice.lengths import PARSERS, centimetres
from diptych.tasks.choice.spatial_prompts import PROMPTS, SYSTEM, prompt_of

Prompting = Literal["standard", "zero_shot", "single", "steps"]
SystemAs = Literal["turn", "front"]
TEXTS = ("uid", "group", "kind", "question", "reply", "fault")
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("truth_cm", pa.float64())])
CURVE = (1.25, 1.5, 2.0, 3.0)
REFERENCE = re.compile(
    r"\breference\b|\btypical(?:ly)?\b"
    r"|\bstandard[- ](?:size|height|width|length|door|chair|table|sheet|brick)"
    r"|\b(?:on )?average\b.{0,40}\b(?:height|width|length|size|tall|wide|long)"
    r"|\b(?:usually|generally|commonly|normally)\b.{0,60}\b(?:tall|wide|long|high|deep|cm|inch|m|ft|feet)",
    re.IGNORECASE,
)
"""Words that show that a reply refers to an object of known size."""


@dataclass(frozen=True)
class QSpatial:
    r"""Q-Spatial Bench (Liao et al., 2024, arXiv 2409.09788): distances and sizes in one picture, and prompts that ask for
    reference objects.

    A reply ends in ``\scalar{1.5} \distance_unit{meters}``. `success` is the fraction of questions whose predicted length is
    within a factor of `delta` of the truth: max(p/g, g/p) < delta. `success@1.25` and so on give the curve; `within` is the
    median factor of the parsed replies. An unparsable reply is a failure, counted as `unread`; a refused question is a failure,
    counted as `failed`.

    `reference` is the fraction of replies that refer to an object of known size, detected by keywords. The notes hold the odds
    ratio of success with and without a reference, adjusted for the kind of question by logistic regression. That is an
    association, not a causal effect: to compare prompts, use the same questions (`diptych leaderboard`).

    prompt     "standard": the question; "zero_shot": with "think step by step"; "single" and "steps": SpatialPrompt
    delta      largest factor between estimate and true length of a success
    compat     "released": published parser and wording, with its typing error; "": our parser, and the corrected wording
    system_as  "turn": the answer format is a system message; "front": it is put before the question, for models without system messages (a
               departure)
    keep       cache answers of a local model on disk, so that a killed run can be resumed
    """

    slug: ClassVar[str] = "q_spatial"
    name: ClassVar[str] = "q_spatial"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = Generator
    main: ClassVar[str] = "success"

    prompt: Prompting = "standard"
    delta: float = 2.0
    compat: str = ""
    system_as: SystemAs = "turn"
    max_tokens: int = 1024
    keep: bool = True
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.prompt not in PROMPTS or self.system_as not in get_args(SystemAs) or self.compat not in PARSERS:
            raise ConfigError(
                f"prompt is {self.prompt!r}, system_as {self.system_as!r}, compat {self.compat!r} "
                f"(expected {' | '.join(PROMPTS)}; {' | '.join(get_args(SystemAs))}; released, or nothing)"
            )
        if not self.delta > 1:
            raise ConfigError(f"delta is {self.delta} (expected a factor above 1)")

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        samples = [data[row] for row in range(len(data))]
        questions = [_question_of(sample.extras.get(FIELD), data.name, row) for row, sample in enumerate(samples)]
        images: list[ImageSource] = []
        for row, sample in enumerate(samples):
            if sample.image is None:
                raise DataError(f"sample '{sample.uid}' has no picture", file=data.name, row=row, field="image")
            images.append(sample.image)
        prompts = [self.asking(str(one["question"])) for one in questions]
        replies = cached_replies(model, images, prompts, max_tokens=self.max_tokens, keep=self.keep)
        columns = {
            "uid": [sample.uid for sample in samples],
            "group": [sample.group or sample.uid for sample in samples],
            "kind": [str(one["kind"]) for one in questions],
            "question": [str(one["question"]) for one in questions],
            "reply": [reply.text for reply in replies],
            "fault": [reply.fault for reply in replies],
            "truth_cm": [one["cm"] for one in questions],
        }
        records = pa.table(columns, schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def asking(self, question: str) -> PromptLike:
        text = prompt_of(self.prompt, question, released=bool(self.compat))
        if self.system_as == "front":
            return f"{SYSTEM}\n\n{text}"
        return Dialogue((Turn("system", (TextPart(SYSTEM),)), Turn("user", (ImagePart(), TextPart(text)))))

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no question", expected="one row or more")
        groups, kinds = records.column("group").to_pylist(), records.column("kind").to_pylist()
        factor_N = self.factors(records)
        columns = self._columns(records, factor_N)
        for kind in sorted(set(kinds)) if len(set(kinds)) > 1 else ():
            columns[f"success/{kind}"] = np.where(np.array(kinds) == kind, columns["success"], np.nan)
        drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
        metrics = {}
        for column, (name, value_N) in enumerate(columns.items()):
            here = ~np.isnan(value_N)
            mean = float(value_N[here].mean()) if here.any() else math.nan
            better = name not in ("unread", "failed")
            metrics[name] = Metric(mean, *percentiles(drawn_RM[:, column]), higher_is_better=better, items=int(here.sum()))
        read = np.isfinite(factor_N)
        middle = float(np.median(factor_N[read])) if read.any() else math.nan
        metrics["within"] = Metric(middle, higher_is_better=False, unit="factor", items=int(read.sum()))
        ratio, low, high = odds_ratio(columns["success"] > 0, columns["reference"] > 0, kinds)
        notes = {
            **facts_of(records),
            "parser": self.compat or "strict",
            "success_by_parser": {name or "strict": float((self.factors(records, name) < self.delta).mean()) for name in PARSERS},
            "odds_ratio_of_reference": {"ratio": ratio, "low": low, "high": high, "held_equal": "kind of question"},
            "parse_failures": "failures, counted as unread",
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    def factors(self, records: pa.Table, parser: str | None = None) -> Floats:
        """Ratio errors [N]: max(p/g, g/p); infinite for a length of 0, NaN for what was not read."""
        parse = PARSERS[self.compat if parser is None else parser]
        ratios = []
        columns = (records.column(name).to_pylist() for name in ("reply", "fault", "truth_cm"))
        for reply, fault, truth in zip(*columns, strict=True):
            length = None if fault else parse(reply)
            if length is None or math.isnan(length):
                ratios.append(math.nan)
            else:
                ratios.append(max(length / truth, truth / length) if length else math.inf)
        return np.array(ratios)

    def _columns(self, records: pa.Table, factor_N: Floats) -> dict[str, Floats]:
        failed = np.array([bool(fault) for fault in records.column("fault").to_pylist()], float)
        used = np.array([bool(REFERENCE.search(reply)) for reply in records.column("reply").to_pylist()], float)
        success = (factor_N < self.delta).astype(float)
        return {
            "success": success,
            "unread": np.isnan(factor_N).astype(float) - failed,
            "failed": failed,
            **{f"success@{factor:g}": (factor_N < factor).astype(float) for factor in CURVE},
            "reference": used,
            "success/with_reference": np.where(used > 0, success, np.nan),
            "success/without_reference": np.where(used > 0, np.nan, success),
        }

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1] for metrics that are means over questions."""
        columns = self._columns(records, self.factors(records))
        return columns[metric][:, None] if metric in columns else None

    def in_words(self, records: pa.Table) -> list[ReadableRow]:
        """Records with the parsed length, or the reply if it could not be parsed."""
        parse, rows = PARSERS[self.compat], []
        columns = (records.column(name).to_pylist() for name in ("uid", "question", "truth_cm", "reply", "fault"))
        for uid, question, truth, reply, fault in zip(*columns, strict=True):
            length = None if fault else parse(reply)
            read = length is not None and math.isfinite(length)
            shown = f"{length:,.4g} cm" if read else fault or f"unread: {reply.strip()[-160:]!r}"
            rows.append(ReadableRow(uid, "", question, f"{truth:,.4g} cm", shown))
        return rows


def _question_of(value: Any, name: str, row: int) -> dict[str, Any]:
    """The question of a sample with its truth in centimetres."""
    expected = '{"question": words, "value": 1.5, "unit": "m", "kind": words}'
    if not isinstance(value, dict) or not {"question", "value", "unit", "kind"} <= set(value):
        raise DataError(f"is {str(value)[:60]}", file=name, row=row, field=FIELD, expected=expected)
    length = centimetres(float(value["value"]), str(value["unit"]))
    if length is None or not length > 0:
        problem = f"'{value['value']} {value['unit']}' is not a length"
        raise DataError(problem, file=name, row=row, field="unit", expected="m, cm, feet, ...")
    return {**value, "cm": length}


def uses_reference(replies: Sequence[str]) -> list[bool]:
    """True for each reply that reasons from an object of known size, as `reference` counts it."""
    return [bool(REFERENCE.search(reply)) for reply in replies]
