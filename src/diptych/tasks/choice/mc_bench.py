"""MC-Bench: boxes for a text about a pair of pictures. Protocol `mc_bench`, version 1."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, Detector, Generator, Grounder, Role
from diptych.core.errors import ConfigError, DataError
from diptych.core.grounding import PhraseQuery
from diptych.core.image import ImageSource
from diptych.core.result import Metric, Result
from diptych.core.terminal.progress import with_bar
from diptych.data.read.multi_context import FIELD
from diptych.tasks._scoring.detection.box_precision import ImageEvaluation, average_precisions
from diptych.tasks._scoring.intervals import Floats, codes, group_weights, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.choice.pair_groups import align_groups, align_groups_as_released
from diptych.tasks.choice.pair_plans import GroundingQuery, plan_prompt, read_plan

BOXES = pa.list_(pa.list_(pa.list_(pa.float64())))
SCHEMA = pa.schema([
    *((name, pa.string()) for name in ("uid", "group", "style", "text", "plan")),
    ("positive", pa.bool_()), ("image_ids", pa.list_(pa.int64())), ("places", pa.list_(pa.int64())),
    ("true_boxes", BOXES), ("true_groups", pa.list_(pa.list_(pa.int64()))), ("crowd", pa.list_(pa.list_(pa.bool_()))),
    ("found_boxes", BOXES), ("found_groups", pa.list_(pa.list_(pa.int64()))), ("scores", pa.list_(pa.list_(pa.float64()))),
])  # fmt: skip
"""One row per text; lists hold an entry for each of its images. Boxes are xyxy pixels."""


@dataclass(frozen=True)
class MCBench:
    """MC-Bench: A Benchmark for Multi-Context Visual Grounding in the Era of MLLMs (Xu et al., 2024, arXiv 2410.12332).

    A text refers to objects that only both images of a pair together identify ("the people who do the same in both"); a negative
    text refers to nothing. `ap50` is the average precision at an IoU of .5 of each group over all images, averaged with the
    numbers of true boxes as weights; predicted group ids are arbitrary, so they are first matched to the true groups
    (`pair_groups`). `image_accuracy` is the fraction of pairs for which, in *both* images, the presence of a box agrees with the
    truth, regardless of its position. Both are also given per style.

    `how="single"` passes the text to a localiser for each image separately, as for detectors. "stepwise" is the published
    baseline: the planner, a model that reads both images and the text, writes a phrase for each image, and the localiser grounds
    it. An unparsable reply yields no boxes and is counted as `unread`.

    compat="repo" renames groups as the published evaluator does, which keeps the original predictions for all pairs but the last,
    and pairs images by their position in the file; its scores match the paper's leaderboard.

    how         "single" or "stepwise" prompting
    least       minimum score of a box; top: maximum number of boxes per phrase
    max_tokens  maximum number of tokens of a plan
    draws, seed of the intervals, which draw groups of samples
    compat      "repo" groups and crops as the published evaluator does; "" does not
    """

    slug: ClassVar[str] = "mc_bench"
    name: ClassVar[str] = "mc_bench"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = Grounder | Detector
    main: ClassVar[str] = "ap50"
    roles: ClassVar[tuple[Role, ...]] = (
        Role("planner", Generator, "says what to look for in each picture (how=stepwise)", optional=True),
    )

    how: Literal["single", "stepwise"] = "single"
    compat: Literal["", "repo"] = ""
    least: float = 0.3
    top: int = 100
    max_tokens: int = 256
    draws: int = 1000
    seed: int = 0

    def predict(self, model: Any, data: Dataset, *, planner: Generator | None = None) -> pa.Table:
        if self.how not in ("single", "stepwise") or self.compat not in ("", "repo"):
            raise ConfigError(f"how is {self.how!r}, compat {self.compat!r} (expected single | stepwise, and repo or none)")
        if (planner is None) == (self.how == "stepwise"):
            expected = "--planner MODEL" if planner is None else "no planner, or how=stepwise"
            raise ConfigError(f"task '{self.name}' with how={self.how} (expected {expected})")
        rows = []
        for row in with_bar(range(len(data)), len(data), "answering", least=4):
            sample = data[row]
            annotation = annotation_of(sample, row, data.name)
            pictures = sample.media["images"].parts
            reply = self._plan(planner, pictures, annotation["text"]) if planner is not None else ""
            plan = (
                read_plan(reply, len(pictures))
                if planner is not None
                else [GroundingQuery(n, annotation["text"]) for n in range(len(pictures))]
            )
            detections = self._find_instances(model, pictures, plan)
            rows.append({**truth_columns(sample.uid, sample.group, annotation), "plan": reply, **detections})
        if not rows:
            raise DataError(f"'{data.name}' has no pair of pictures", field=FIELD, expected="one or more")
        records = pa.Table.from_pylist(rows, schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def _plan(self, planner: Generator, pictures: Sequence[ImageSource], text: str) -> str:
        (reply,) = planner.generate(
            [pictures[0]], [_with_own_images(plan_prompt(text, len(pictures)), pictures)], max_tokens=self.max_tokens
        )
        return reply

    def _find_instances(self, model: Any, pictures: Sequence[ImageSource], plan: Sequence[GroundingQuery]) -> dict[str, Any]:
        boxes: list[list[list[float]]] = [[] for _ in pictures]
        groups: list[list[int]] = [[] for _ in pictures]
        scores: list[list[float]] = [[] for _ in pictures]
        for query in plan:
            if not query.phrase:
                continue
            for box, score in self._locate(model, pictures[query.image], query.phrase):
                if score >= self.least:
                    boxes[query.image].append([float(end) for end in box])
                    groups[query.image].append(query.group)
                    scores[query.image].append(float(score))
        return {"found_boxes": boxes, "found_groups": groups, "scores": scores}

    def _locate(self, model: Any, picture: ImageSource, phrase: str) -> list[tuple[Any, float]]:
        if isinstance(model, Grounder):
            answer = model.ground([picture], [PhraseQuery.of([phrase], behind="")], top=self.top)[0][0]
            return list(zip(answer.box_N4.tolist(), answer.score_N.tolist(), strict=True))
        regions = sorted(model.detect([picture], objects=[phrase])[0].regions, key=lambda region: -region.score)
        return [(region.box, region.score) for region in regions[: self.top]]

    # ------------------------------------------------------------ scoring

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no text", expected="one row or more")
        rows = records.to_pylist()
        compat = facts_of(records).get("options", {}).get("compat", self.compat)
        code_N, count = codes([row["group"] for row in rows])
        pairs = [_pictures_of_row(row, int(code)) for row, code in zip(rows, code_N, strict=True)]
        ids = [row["image_ids"] for row in rows]
        named = align_groups_as_released(pairs, ids) if compat == "repo" else align_groups(pairs)
        metrics = {"ap50": self._precision(named, ids, count)}
        right_N = np.array([all(bool(len(s.true_M4)) == bool(len(s.found_N4)) for s in pair) for pair in named], np.float64)
        if compat == "repo":
            right_N = _right_by_neighbours(named, [row["places"] for row in rows])
        columns = {"image_accuracy": right_N}
        styles = sorted({row["style"] for row in rows})
        for style in styles if len(styles) > 1 else ():
            inside = [row["style"] == style for row in rows]
            some = [pair for pair, here in zip(named, inside, strict=True) if here]
            metrics[f"ap50/{style or 'other'}"] = self._precision(
                some, [n for n, here in zip(ids, inside, strict=True) if here], count
            )
            if compat != "repo":
                columns[f"image_accuracy/{style or 'other'}"] = np.where(inside, right_N, np.nan)
        planned = facts_of(records).get("options", {}).get("how", self.how) == "stepwise"
        if planned:
            unread = [not read_plan(row["plan"] or "", len(row["image_ids"])) for row in rows]
            columns["unread"] = np.array(unread, np.float64)
        groups = [row["group"] for row in rows] if compat != "repo" else [str(index) for index in range(len(right_N))]
        drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
        for index, (name, value_N) in enumerate(columns.items()):
            kept = value_N[~np.isnan(value_N)]
            metrics[name] = Metric(
                float(kept.mean()), *percentiles(drawn_RM[:, index]), higher_is_better=name != "unread", items=len(kept)
            )
        notes = {
            **facts_of(records),
            "groups": "renamed as the published evaluator does" if compat == "repo" else "under the best names",
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(rows), count, notes=notes)

    def _precision(self, pairs: Sequence[Sequence[ImageEvaluation]], ids: Sequence[Sequence[int]], count: int) -> Metric:
        numbered = [
            (number, seen) for pair, numbers in zip(pairs, ids, strict=True) for number, seen in zip(numbers, pair, strict=True)
        ]
        pictures = [seen for _, seen in sorted(numbered, key=lambda each: each[0])]
        classes = sorted({int(number) for picture in pictures for number in picture.class_M})
        weight_K = np.array([sum(int((p.class_M == number).sum()) for p in pictures) for number in classes], np.float64)
        value = weighted(average_precisions(pictures, classes), weight_K)[0]
        drawn = [
            weighted(average_precisions(pictures, classes, weight_RG=block), weight_K)
            for block in group_weights(count, self.draws, self.seed, count)
        ]
        return Metric(float(value), *percentiles(np.concatenate(drawn)), items=int(weight_K.sum()))

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1] for "image_accuracy"; average precision is not a mean over texts."""
        if metric != "image_accuracy":
            return None
        pairs = [_pictures_of_row(row, 0) for row in records.to_pylist()]
        right = [[float(all(bool(len(s.true_M4)) == bool(len(s.found_N4)) for s in pair))] for pair in pairs]
        return np.array(right, np.float64)


def weighted(ap_RK: Floats, weight_K: Floats) -> Floats:
    """Mean over classes weighted by their true boxes, [R]; a class without true boxes in a draw adds nothing, as released."""
    if not len(weight_K):
        return np.full(len(ap_RK), np.nan)
    total: Floats = np.nansum(ap_RK * weight_K, axis=1) / weight_K.sum()
    return total


def annotation_of(sample: Any, row: int, name: str) -> dict[str, Any]:
    """MC-Bench annotation of a sample. Raises DataError if it is missing or has the wrong number of images."""
    annotation = sample.extras.get(FIELD)
    if not isinstance(annotation, Mapping) or "images" not in sample.media:
        raise DataError(
            f"sample '{sample.uid}' has no {FIELD} of several pictures",
            file=name,
            row=row,
            field=FIELD,
            expected="a set such as MC-Bench",
        )
    if len(annotation["images"]) != len(sample.media["images"].parts):
        raise DataError(
            f"sample '{sample.uid}' has {len(sample.media['images'].parts)} pictures and boxes for {len(annotation['images'])}",
            file=name,
            row=row,
            field=FIELD,
            expected="an entry a picture",
        )
    return dict(annotation)


def truth_columns(uid: str, group: str, annotation: Mapping[str, Any]) -> dict[str, Any]:
    """Record columns that do not depend on a model."""
    images = annotation["images"]
    return {
        "uid": uid,
        "group": group or uid,
        "style": annotation.get("style", ""),
        "text": annotation["text"],
        "positive": bool(annotation.get("positive", True)),
        "image_ids": [int(image["id"]) for image in images],
        "places": [int(image.get("place", image["id"])) for image in images],
        "true_boxes": [image["boxes"] for image in images],
        "true_groups": [image["groups"] for image in images],
        "crowd": [image["crowd"] for image in images],
    }


def results_to_records(path: Path, data: Dataset) -> pa.Table:
    """Records of a file in the published form of results, [{"image_id", "category_id", "bbox": [x, y, w, h], "score"}], for `score`.

    Raises DataError for an entry about a picture that the data do not have, or without a box.
    """
    plain = json.loads(path.read_text(encoding="utf-8"))
    entries_of_image: dict[int, list[Mapping[str, Any]]] = {}
    for row, entry in enumerate(plain):
        box = entry.get("bbox") if isinstance(entry, Mapping) else None
        if not isinstance(box, list) or len(box) != 4 or not {"image_id", "category_id", "score"} <= set(entry):
            raise DataError(
                f"is {str(entry)[:80]}",
                file=path,
                row=row,
                field="bbox",
                expected="image_id, category_id, bbox of four numbers, score",
            )
        entries_of_image.setdefault(int(entry["image_id"]), []).append(entry)
    rows, image_ids = [], set()
    for row in range(len(data)):
        sample = data[row]
        truth = truth_columns(sample.uid, sample.group, annotation_of(sample, row, data.name))
        entries = [entries_of_image.get(number, []) for number in truth["image_ids"]]
        image_ids |= set(truth["image_ids"])
        boxes = [[[*e["bbox"][:2], e["bbox"][0] + e["bbox"][2], e["bbox"][1] + e["bbox"][3]] for e in some] for some in entries]
        groups, scores = (
            [[kind(e[key]) for e in some] for some in entries] for key, kind in (("category_id", int), ("score", float))
        )
        rows.append({**truth, "plan": "", "found_boxes": boxes, "found_groups": groups, "scores": scores})
    if unknown := sorted(set(entries_of_image) - image_ids):
        raise DataError(f"is about picture {unknown[0]}", file=path, field="image_id", expected=f"pictures of '{data.name}'")
    return with_facts(pa.Table.from_pylist(rows, schema=SCHEMA), fingerprint=data.fingerprint, model=path.name)


def _with_own_images(prompt: Any, pictures: Sequence[ImageSource]) -> Any:
    """Prompt that carries its own images beyond the first."""
    from diptych.core.prompt import ImagePart

    return tuple(ImagePart(0, pictures[part.place]) if isinstance(part, ImagePart) and part.place else part for part in prompt)


def _pictures_of_row(row: Mapping[str, Any], group: int) -> list[ImageEvaluation]:
    return [
        ImageEvaluation(
            _array(row["true_boxes"][side]).reshape(-1, 4),
            np.array(row["true_groups"][side], np.int64),
            np.array(row["crowd"][side], np.bool_),
            _array(row["found_boxes"][side]).reshape(-1, 4),
            np.array(row["found_groups"][side], np.int64),
            _array(row["scores"][side]),
            group,
        )
        for side in range(len(row["image_ids"]))
    ]


def _array(values: Any) -> npt.NDArray[np.float64]:
    return np.array(values, np.float64)


def _right_by_neighbours(pairs: Sequence[Sequence[ImageEvaluation]], positions: Sequence[Sequence[int]]) -> Floats:
    """Correctness [pairs] of consecutive images in the file, as released, even if they belong to different texts."""
    numbered_pictures = [
        (index, seen) for pair, some in zip(pairs, positions, strict=True) for index, seen in zip(some, pair, strict=True)
    ]
    numbered = sorted(numbered_pictures, key=lambda each: each[0])
    right = [bool(len(seen.true_M4)) == bool(len(seen.found_N4)) for _, seen in numbered]
    return np.array([float(right[index] and right[index + 1]) for index in range(0, len(right) - 1, 2)], np.float64)
