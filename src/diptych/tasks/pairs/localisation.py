"""Phrase localisation by patches: pointing accuracy and AUC on regions whose boxes are known.  Protocol `localisation`, version 1.

A region is queried by its attributes and label ("red circle") if no other region of the image has the same phrase. The weight of
a patch is its mean cosine with the phrase's tokens: in the context of the sample's text if that contains the phrase verbatim and
the model maps words to tokens, else of the phrase encoded by itself.

    pointing   the best patch lies on the object. Tied best patches share the credit
    auc        probability that a patch on the object weighs more than one off it, ties count half: 0.5 for a random order
    among      the same, but only against patches on the other regions of the image. A saliency map that is the same for every
               phrase has a high auc and 0.5 here: only this metric shows that the model distinguishes phrases

A patch lies on an object if their overlap is at least half of the smaller one. The chance level of pointing is the fraction of
such patches. The unit of the intervals is the group. Regions outside the model's input crop are left out.

The pointing game (1608.00507) counts a point within 15 pixels of the box as a hit, which covers most of a small image.

Letters: P patches, T tokens, D width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import ContextEmbedder, Dataset, TokenEmbedder, Unit
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.core.scene_graph import Box, Region
from diptych.core.terminal.progress import with_bar
from diptych.data.media.decode import decode
from diptych.data.media.transforms import visible_share
from diptych.index.embed import readable
from diptych.tasks._scoring.intervals import percentiles, resampled_means
from diptych.tasks._scoring.records import array, facts_of, with_facts

BLOCK = 64
METRICS = ("pointing", "auc", "among")
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Localisation:
    """Pointing, AUC and AUC among things over named regions, with intervals over groups.

    context   take a phrase's tokens from the sample's own text if it contains the phrase; False always encodes the phrase alone
    language  language of the texts that are searched
    """

    name: ClassVar[str] = "localisation"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = TokenEmbedder
    main: ClassVar[str] = "pointing"

    context: bool = True
    language: str = "en"
    draws: int = 2000
    seed: int = 0

    def predict(self, model: TokenEmbedder, data: Dataset) -> pa.Table:
        """Returns one row per region that can be queried."""
        rows: list[dict[str, Any]] = []
        unreadable = 0
        starts = range(0, len(data), BLOCK)
        for start in with_bar(starts, len(starts), "weighing patches", least=2):
            samples = [data[row] for row in range(start, min(start + BLOCK, len(data)))]
            samples = [sample for sample in samples if sample.image is not None and phrases(sample)]

            def patches(part: Sequence[Sample]) -> list[Unit]:
                return model.embed_patches([sample.image for sample in part if sample.image is not None])

            good, patches_of, bad = readable(patches, samples) if samples else ([], [], ())
            unreadable += len(bad)
            for sample, patch_PD in zip(good, patches_of, strict=True):
                rows += self._rows(model, sample, patch_PD)
        if not rows:
            raise DataError(
                f"'{data.name}' has no region that its name tells from the others",
                field="regions",
                expected="labelled boxes, such as world:small_pairs?regions=true",
            )
        return with_facts(pa.Table.from_pylist(rows, schema=_SCHEMA), options=asdict(self), unreadable=unreadable)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        if not len(records):
            raise DataError("nothing to score: the records contain no region", expected="one row or more")
        groups = records.column("group").to_pylist()
        value_NM = np.stack([array(records, name).astype(np.float64) for name in METRICS], axis=1)
        drawn_RM = resampled_means(value_NM, groups, draws=self.draws, seed=self.seed)
        chance = (float(array(records, "chance").mean()), 0.5, 0.5)
        metrics = {
            name: Metric(float(np.nanmean(value_NM[:, column])), *percentiles(drawn_RM[:, column]), chance=chance[column])
            for column, name in enumerate(METRICS)
            if not np.isnan(value_NM[:, column]).all()
        }
        notes = {
            **facts_of(records),
            "share_in_context": float(array(records, "in_context").mean()),
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> npt.NDArray[np.float64] | None:
        """[N, 1]"""
        return array(records, metric).astype(np.float64)[:, None] if metric in METRICS else None

    def _rows(self, model: TokenEmbedder, sample: Sample, patch_PD: Unit) -> list[dict[str, Any]]:
        side = math.isqrt(len(patch_PD))
        if side * side != len(patch_PD):
            raise ConfigError(f"{len(patch_PD)} patches do not form a square grid")
        assert sample.image is not None
        height, width = decode(sample.image, exact=True).shape[:2]
        visible = visible_share(getattr(model, "preprocess", None), width, height)
        rows = []
        on = {id(region): patches_on(region.box, visible, side, width, height) for region in sample.regions}
        for phrase, region in phrases(sample).items():
            on_P = on[id(region)]
            others_P = np.any([on[id(other)] for other in sample.regions], axis=0) & ~on_P
            if not on_P.any() or on_P.all():
                continue
            token_TD = self._in_text(model, sample, phrase) if self.context else None
            weight_P = ((model.embed_words([phrase])[0] if token_TD is None else token_TD) @ patch_PD.T).mean(axis=0)
            best_P = weight_P == weight_P.max()
            rows.append(
                {
                    "uid": sample.uid,
                    "group": sample.group or sample.uid,
                    "phrase": phrase,
                    "in_context": token_TD is not None,
                    "pointing": float(on_P[best_P].mean()),
                    "auc": _auc(weight_P[on_P], weight_P[~on_P]),
                    "among": _auc(weight_P[on_P], weight_P[others_P]) if others_P.any() else math.nan,
                    "chance": float(on_P.mean()),
                    "best": int(weight_P.argmax()),
                }
            )
        return rows

    def _in_text(self, model: TokenEmbedder, sample: Sample, phrase: str) -> Unit | None:
        """Tokens of the phrase in the first text that contains it verbatim; None if no text does."""
        if not isinstance(model, ContextEmbedder):
            return None
        phrase_words = phrase.split()
        for text in sample.positives(self.language):
            words = text.string.split()
            starts = [
                at for at in range(len(words) - len(phrase_words) + 1) if words[at : at + len(phrase_words)] == phrase_words
            ]
            if starts:
                tokens = model.embed_in_context([text.string])[0][starts[0] : starts[0] + len(phrase_words)]
                if [word.lower() for word, _ in tokens] == [word.lower() for word in phrase_words] and all(
                    len(x_TD) for _, x_TD in tokens
                ):
                    return np.concatenate([x_TD for _, x_TD in tokens])
        return None


def phrases(sample: Sample) -> dict[str, Region]:
    """Regions by phrase ("red circle": attributes, then label); phrases that two regions share are left out."""
    named = [(" ".join([*region.attributes, region.label]), region) for region in sample.regions]
    count = Counter(name for name, _ in named)
    return {name: region for name, region in named if name and count[name] == 1}


def patches_on(box: Box, visible: tuple[float, float, float, float], side: int, width: int, height: int) -> Bools:
    """Mask [P], row-major, of the grid patches that lie on a box (pixels). visible: fractional box of the image that the grid
    covers."""
    x0, y0, x1, y1 = (part * size for part, size in zip(visible, (width, height, width, height), strict=True))
    edge_x, edge_y = np.linspace(x0, x1, side + 1), np.linspace(y0, y1, side + 1)
    across = np.clip(np.minimum(edge_x[1:], box[2]) - np.maximum(edge_x[:-1], box[0]), 0, None)
    down = np.clip(np.minimum(edge_y[1:], box[3]) - np.maximum(edge_y[:-1], box[1]), 0, None)
    patch = (x1 - x0) / side * ((y1 - y0) / side)
    smaller = min(patch, (box[2] - box[0]) * (box[3] - box[1]))
    on_P: Bools = (down[:, None] * across).reshape(-1) >= smaller / 2 - 1e-9
    return on_P


def _auc(on_P: npt.NDArray[Any], off_P: npt.NDArray[Any]) -> float:
    on_P1 = on_P[:, None]
    return float(((on_P1 > off_P) + 0.5 * (on_P1 == off_P)).mean())


_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("uid", "group", "phrase")]
    + [("in_context", pa.bool_())]
    + [(name, pa.float64()) for name in ("pointing", "auc", "among", "chance")]
    + [("best", pa.int64())]
)
