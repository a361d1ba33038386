"""Which of several similar pictures a text describes (ImageCoDe, 2203.15867).  Protocol `image_choice`, version 1.

Letters: N texts, K pictures of a set.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder, PairScorer, PictureChooser, ReadableRow
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.result import Metric, Result
from diptych.data.read.image_sets import ImageSet, image_set_of
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.pair_scores import pair_scores
from diptych.tasks._scoring.records import facts_of, with_facts

By = Literal["whole", "mean", "product"]
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("uid", "group", "text")),
        ("target", pa.int64()),
        ("ordered", pa.bool_()),
        ("propositions", pa.int64()),
        ("shares", pa.list_(pa.float64())),
    ]
)
BLOCK = 64
"""Sets that are asked at once."""


@dataclass(frozen=True)
class ImageChoice:
    """The share of texts whose picture comes first: `accuracy`, and `accuracy/static` and `accuracy/video`, by whether the order of the
    pictures means something, as published. `accuracy/N_propositions` says it by the number of statements. Of tied pictures each is as
    likely to be taken. Texts whose picture is kept secret are left out and counted.

    by    for a model that only compares pictures with texts: the "whole" text, or its statements, whose softmax over the pictures (at
          `scale`) is averaged ("mean") or multiplied ("product")
    scale what similarities are multiplied by before the softmax
    draws, seed  bootstrap draws and seed of the intervals, which resample sets of pictures
    """

    name: ClassVar[str] = "image_choice"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = PictureChooser | PairScorer | Embedder
    main: ClassVar[str] = "accuracy"

    by: By = "whole"
    scale: float = 100.0
    batch_size: int = 32
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in ("whole", "mean", "product") or self.scale <= 0:
            raise ConfigError(f"by is {self.by!r}, scale {self.scale} (expected whole | mean | product; above 0)")

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        """A row a text: "shares" of the pictures, in their order."""
        if isinstance(model, PictureChooser) and self.by != "whole":
            raise ConfigError(f"'{getattr(model, 'name', model)}' splits statements itself (expected by='whole')")
        rows, secret = [], 0
        for start in range(0, len(data), BLOCK):
            samples = [data[row] for row in range(start, min(start + BLOCK, len(data)))]
            asked = [(sample, image_set_of(sample)) for sample in samples]
            secret += sum(one.target is None for _, one in asked)
            asked = [(sample, one) for sample, one in asked if one.target is not None]
            sets: list[list[ImageSource]] = [list(sample.media["images"].parts) for sample, _ in asked]
            shares = self._shares(model, sets, [one for _, one in asked])
            for (sample, one), share_K in zip(asked, shares, strict=True):
                rows.append(
                    {
                        "uid": sample.uid,
                        "group": sample.group or sample.uid,
                        "text": one.text,
                        "target": one.target,
                        "ordered": one.ordered,
                        "propositions": len(one.propositions),
                        "shares": np.asarray(share_K, np.float64).tolist(),
                    }
                )
        if not rows:
            raise DataError(f"'{data.name}' has no text whose picture is known", field="target", expected="a number in image_set")
        records = pa.Table.from_pylist(rows, schema=SCHEMA)
        return with_facts(
            records, options=asdict(self), secret=secret, fingerprint=data.fingerprint, model=getattr(model, "name", "")
        )

    def _shares(self, model: Any, sets: list[list[ImageSource]], asked: list[ImageSet]) -> list[npt.NDArray[np.float32]]:
        if isinstance(model, PictureChooser):
            return model.choose_pictures(
                sets,
                [one.text for one in asked],
                propositions=[one.propositions for one in asked],
                ordered=[one.ordered for one in asked],
                batch_size=self.batch_size,
            )
        return [self._compared(model, pictures, one) for pictures, one in zip(sets, asked, strict=True)]

    def _compared(self, model: Any, pictures: list[ImageSource], one: ImageSet) -> npt.NDArray[np.float32]:
        texts = [one.text] if self.by == "whole" else list(one.propositions)
        if isinstance(model, PairScorer):
            score_KT = pair_scores(model, pictures, texts, query="text").astype(np.float64)
        else:
            score_KT = model.embed_images(pictures).astype(np.float64) @ model.embed_texts(texts).T
        log_KT = self.scale * score_KT
        log_KT = log_KT - np.logaddexp.reduce(log_KT, 0)
        share_K: npt.NDArray[np.float64] = (
            np.exp(log_KT).mean(1) if self.by == "mean" else np.exp(log_KT.sum(1) - np.logaddexp.reduce(log_KT.sum(1)))
        )
        return share_K.astype(np.float32)

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no text", expected="one row or more")
        columns = self._columns(records)
        groups = records.column("group").to_pylist()
        chance_N = np.array([1 / len(share) for share in records.column("shares").to_pylist()])
        drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
        metrics = {
            name: Metric(
                float(np.nanmean(value_N)),
                *percentiles(drawn_RM[:, column]),
                chance=float(chance_N[~np.isnan(value_N)].mean()),
                items=int((~np.isnan(value_N)).sum()),
            )
            for column, (name, value_N) in enumerate(columns.items())
        }
        notes = {**facts_of(records), "interval": f"95 % percentile, {self.draws} draws of sets, seed {self.seed}"}
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    @staticmethod
    def _columns(records: pa.Table) -> dict[str, Floats]:
        right = []
        for share, target in zip(records.column("shares").to_pylist(), records.column("target").to_pylist(), strict=True):
            best = np.flatnonzero(np.asarray(share) == max(share))
            right.append(float(target in best) / len(best))
        right_N: Floats = np.array(right)
        ordered_N = np.array(records.column("ordered").to_pylist())
        count_N = np.array(records.column("propositions").to_pylist())
        columns = {"accuracy": right_N}
        for name, here_N in (
            ("static", ~ordered_N),
            ("video", ordered_N),
            *((f"{count}_propositions", count_N == count) for count in sorted(set(count_N.tolist()))),
        ):
            if here_N.any() and not here_N.all():
                columns[f"accuracy/{name}"] = np.where(here_N, right_N, np.nan)
        return columns

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1], NaN where a text is of another sort; None for a metric that there is not."""
        value_N = self._columns(records).get(metric)
        return None if value_N is None else value_N[:, None]

    def in_words(self, records: pa.Table) -> list[ReadableRow]:
        return [
            ReadableRow(row["uid"], row["uid"], row["text"], str(row["target"]), str(int(np.argmax(row["shares"]))))
            for row in records.to_pylist()
        ]
