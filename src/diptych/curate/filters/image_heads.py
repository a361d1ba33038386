"""Heads that judge images, trained on your own labels, and their scores as a column.

    diptych curate train_head labelled/ heads/unsafe --kind safety --label unsafe --model runs/clip
    diptych curate image_scores pairs/ scored/ --head heads/unsafe --model runs/clip --column punsafe

safety      chance of a label that is true or false, from embeddings: unsafe pictures, or any other yes or no
watermark   the same from pixels, since embeddings hardly see a watermark
aesthetic   a rating such as 1 to 10, linear in the embedding, as LAION's aesthetic predictor (Schuhmann et al., 2022, 2210.08402)

The folder of `train_head` is the head; head.json and head.safetensors hold nothing of the images. A share of the labelled rows is held
out, by uid, and judged by the head: the notes of the run have the result, and for yes or no the threshold with the highest F1.
`train_head.html` has the histogram of the scores of held-out images, that threshold (for ratings: the one that keeps the better half), and
pictures on both sides of it. Equal pictures in both parts make the head look too good, so remove duplicates before.

Cost: an embedding of each image (watermark: a decode), and for watermark a network that is trained on the pixels.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError, DecodeError, UnknownName
from diptych.core.image import ImageSource
from diptych.core.terminal.progress import with_bar
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.verdicts import BLOCK, StringColumn, column_by_uid
from diptych.curate.operators.filter_heads import FilterHead, open_head, train_aesthetic, train_safety, train_watermark
from diptych.data.subset import sorted_rows, uid_column

Kind = Literal["safety", "watermark", "aesthetic"]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class TrainHead:
    """label     column of the labels: true or false (or 1 and 0); for aesthetic: a rating. Rows without a label are not used
    kind      safety | watermark | aesthetic
    model     address of an image embedding model; watermark needs none
    steps     training steps; aesthetic is solved in closed form
    held_out  share of the labelled rows on which the head is evaluated
    seed      seed of the training and of the held-out rows
    """

    slug: ClassVar[str] = "train_head"
    paths: ClassVar[tuple[str, ...]] = ()

    label: str = ""
    kind: Kind = "safety"
    model: str = ""
    steps: int = 500
    held_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("safety", "watermark", "aesthetic"):
            raise ConfigError(f"kind is {self.kind!r} (expected safety | watermark | aesthetic)")
        if self.steps < 1 or not 0 < self.held_out < 1:
            raise ConfigError(f"steps is {self.steps}, held_out {self.held_out} (expected 1 or more, between 0 and 1)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        return _plan(data, self.model, pixels=self.kind == "watermark")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step: all rows stay, and the files are the head."""
        start = time.perf_counter()
        labels = self._labels(data)
        rows = [row for row, uid in enumerate(data.uids) if uid in labels and data[row].image is not None]
        labelled = data.select(rows)
        if self.kind == "watermark":
            readable = list(_readable(labelled))
            uids, fingerprint = [uid for uid, _ in readable], ""
            inputs: Any = [image for _, image in readable]
        else:
            model = _embedder(self.model)
            embeddings = embed_pool(labelled, model, parts)
            uids, inputs, fingerprint = list(embeddings.uids), embeddings.vector_ND, model.fingerprint
        label_N = np.array([labels[uid] for uid in uids])
        order_N = np.random.default_rng(self.seed).permutation(len(uids))
        aside = np.sort(order_N[: round(self.held_out * len(uids))])
        used = np.sort(order_N[len(aside) :])
        head = self._fit(_taken(inputs, used), label_N[used], fingerprint)
        pages: dict[str, bytes] = {}
        notes = [f"{self.kind} head of {len(used):,} labelled images: use this folder as the head"]
        if len(aside):
            score_N = _scores(head, _taken(inputs, aside), fingerprint)
            notes.append(f"of {len(aside):,} held out: {_quality(self.kind, score_N, label_N[aside])}")
            row_of = {uid: row for row, uid in enumerate(labelled.uids)}
            held_out = labelled.select([row_of[uids[row]] for row in aside.tolist()])
            pages = {"train_head.html": self._page(held_out, score_N, label_N[aside]).encode()}
        with tempfile.TemporaryDirectory() as scratch:
            head.save(Path(scratch, "head"))
            files = {name: Path(scratch, "head", name).read_bytes() for name in ("head.json", "head.safetensors")}
        return CurationStepResult(tuple(sorted(data.uids)), (), {}, time.perf_counter() - start, files | pages, tuple(notes))

    def _page(self, data: Dataset, score_N: Floats, label_N: Floats) -> str:
        """Histogram of the scores of held-out images, the proposed threshold, and pictures on both sides."""
        from diptych.report.pages.threshold import threshold_page

        best = None if self.kind == "aesthetic" else best_threshold(score_N, label_N > 0.5)
        threshold = float(np.median(score_N)) if best is None else best[0]
        order = np.argsort(-score_N, kind="stable").tolist()
        above, below = ([row for row in order if (score_N[row] >= threshold) == side] for side in (True, False))
        lead = f"{len(score_N):,} held-out images, {len(above):,} of them from the threshold on."
        sides = ("Just above", "Just below")
        title = f"{self.label}: {self.kind} head"
        return threshold_page(
            data, score_N, above, below, name=self.label, threshold=threshold, title=title, lead=lead, sides=sides
        )

    def _labels(self, data: Any) -> dict[str, float]:
        names = getattr(data, "column_names", [])
        if self.label not in names:
            raise UnknownName("column", self.label, names)
        labels = {uid: value for uid, value in zip(data.uids, data.column(self.label), strict=True) if value is not None}
        allowed = (int, float) if self.kind == "aesthetic" else (bool, int)
        yes_no = self.kind != "aesthetic"
        for uid, value in labels.items():
            if not isinstance(value, allowed) or (yes_no and value not in (0, 1)):
                raise ConfigError(
                    f"column '{self.label}' of '{uid}' is {value!r:.40} (expected {'true or false' if yes_no else 'a number'})"
                )
        if len(labels) < 2:
            raise ConfigError(f"column '{self.label}' has {len(labels)} labels (expected at least two)")
        return {uid: float(value) for uid, value in labels.items()}

    def _fit(self, inputs: Any, label_N: Floats, fingerprint: str) -> FilterHead:
        if self.kind == "aesthetic":
            return train_aesthetic(inputs, label_N, fingerprint=fingerprint)
        labels = (label_N > 0.5).tolist()
        if self.kind == "watermark":
            return train_watermark(inputs, labels, steps=self.steps, seed=self.seed)
        return train_safety(inputs, labels, fingerprint=fingerprint, steps=self.steps, seed=self.seed)


@dataclass(frozen=True)
class ImageScores:
    """head    folder of a head, as `train_head` writes it
    model   address of the model whose embeddings the head was trained on; a head on pixels needs none
    column  name of the column of scores
    """

    slug: ClassVar[str] = "image_scores"
    paths: ClassVar[tuple[str, ...]] = ("head",)

    head: str = ""
    model: str = ""
    column: str = "score"

    def plan(self, data: Dataset) -> dict[str, Any]:
        return _plan(data, self.model, pixels=open_head(Path(self.head)).facts["kind"] == "watermark")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step: all rows stay; an image that cannot be read has no score."""
        start = time.perf_counter()
        if not self.head:
            raise ConfigError("image_scores needs a head (--head FOLDER, as diptych curate train_head writes it)")
        head = open_head(Path(self.head))
        uids: Sequence[str]
        if head.facts["kind"] == "watermark":
            uids, score_N = _pixel_scores(head, data)
        else:
            model = _embedder(self.model)
            embeddings = embed_pool(data, model, parts)
            uids, score_N = embeddings.uids, _scores(head, embeddings.vector_ND, model.fingerprint)
        columns = {self.column: column_by_uid(self.column, uids, score_N.astype(np.float64))} if len(uids) else {}
        every = uid_column(data)
        kept = StringColumn(every.take(pc.sort_indices(every)))
        return CurationStepResult(kept, (), columns, time.perf_counter() - start)


def _plan(data: Dataset, model: str, *, pixels: bool) -> dict[str, Any]:
    from diptych.data.media.decode import decode

    if pixels:
        return estimate_cost(data, decode, unit="decode")
    embedder = _embedder(model)
    return estimate_cost(data, lambda image: embedder.embed_images([image]), unit="embedding (one at a time)")


def _embedder(address: str) -> Any:
    if not address:
        raise ConfigError("a head on embeddings needs a model that embeds images (--model RUN, hf:NAME, open_clip:ARCH/FILE)")
    return open_embedder(address)


def _readable(data: Dataset) -> Iterator[tuple[str, ImageSource]]:
    """Uids and images of the rows whose image can be decoded, in order of uid."""
    from diptych.data.media.decode import decode

    order_N = sorted_rows(data)
    for row in with_bar(order_N, len(order_N), "looking at pictures", least=100):
        sample = data[int(row)]
        if sample.image is None:
            continue
        try:
            decode(sample.image)
        except (DecodeError, OSError):
            continue
        yield sample.uid, sample.image


def _pixel_scores(head: Any, data: Dataset) -> tuple[StringColumn, Floats]:
    """Uids of the rows whose image can be decoded, in order, and the scores of a head on pixels."""
    readable = _readable(data)
    uids, scores = list[pa.Array](), [np.zeros(0, np.float32)]
    while block := list(islice(readable, BLOCK)):
        uids.append(pa.array([uid for uid, _ in block], pa.string()))
        scores.append(_scores(head, [image for _, image in block], ""))
    return StringColumn(pa.chunked_array(uids, pa.string()).combine_chunks()), np.concatenate(scores)


def _taken(inputs: Any, rows: npt.NDArray[np.int64]) -> Any:
    return [inputs[row] for row in rows.tolist()] if isinstance(inputs, list) else inputs[rows]


def _scores(head: Any, inputs: Any, fingerprint: str) -> Floats:
    """Chances or ratings of a head, float [N]."""
    if head.facts["kind"] == "watermark":
        scores: Floats = head.probability(inputs)
    elif head.facts["kind"] == "aesthetic":
        scores = head.rating(inputs, fingerprint)
    else:
        scores = head.probability(inputs, fingerprint)
    return scores


def _quality(kind: Kind, score_N: Floats, label_N: Floats) -> str:
    """Sentence on scores beside the labels: correlation of ratings, or area under the ROC curve and the threshold of the highest F1."""
    from sklearn.metrics import roc_auc_score

    if kind == "aesthetic":
        spread = min(float(np.std(score_N)), float(np.std(label_N)))
        return f"correlation {np.corrcoef(score_N, label_N)[0, 1]:.3f}" if spread > 0 else "all ratings are the same"
    best = best_threshold(score_N, label_N > 0.5)
    if best is None:
        return "all labels are the same"
    area = roc_auc_score(label_N > 0.5, score_N)
    return f"area under the ROC curve {area:.3f}; the highest F1, {best[1]:.3f}, is that of scores from {best[0]:.3g}"


def best_threshold(score_N: Floats, true_N: npt.NDArray[np.bool_]) -> tuple[float, float] | None:
    """Threshold of the highest F1, and that F1; None if all labels are the same."""
    from sklearn.metrics import precision_recall_curve

    if true_N.all() or not true_N.any():
        return None
    precision_T, recall_T, threshold_T = precision_recall_curve(true_N, score_N)
    f1_T = 2 * precision_T * recall_T / np.maximum(precision_T + recall_T, 1e-12)
    best = int(f1_T[:-1].argmax())  # the last point has no threshold
    return float(threshold_T[best]), float(f1_T[best])
