"""Baseline model on raw input that retrieves, classifies, answers, captions and detects; a learned model has to be better.

Letters: N pictures, D pixel values, V words, word pairs and answers, K texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Dataset, Unit
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.models.closed_form.features import ANSWER, Floats, RawFeatures, answer_key, clip_pixels, pixels, raw_features
from diptych.models.closed_form.ridge import Ridge

Method = Literal["ridge", "bag of words", "nearest picture", "majority"]
METHODS: tuple[Method, ...] = get_args(Method)
NEAREST = 3
"""Training pictures that a look-up averages: the nearest counts one, the second a quarter, the third a ninth."""
PRIOR = 1e-3
"""Weight of the training rows' mean next to the neighbours found by look-up; it decides if the neighbours have no such answer."""
Predict: TypeAlias = Callable[[Floats], Floats]


def raw_input_model(rows: Dataset, method: Method, *, language: str = "en") -> RawInputModel:
    """The model of these training rows.

    method  "ridge": regression from pixels to words and word pairs; "bag of words": to single words, so that no order counts;
            "nearest picture": words of the nearest training pictures by pixels; "majority": the usual words, regardless of the picture
    """
    if method not in METHODS:
        raise ConfigError(f"method is {method!r} (expected {' | '.join(METHODS)})")
    features = raw_features(rows, language=language)
    return RawInputModel(features, method, f"{rows.fingerprint}-{method.replace(' ', '-')}")


@dataclass(frozen=True, eq=False)
class RawInputModel:
    """`Embedder`, `ClipScorer`, `Generator`, `Ranker` and `Detector` from the features of training rows.

    An image's vector is its predicted words less the usual ones, each in units of its standard deviation over training rows; a text's
    vector is its own words likewise. `first(count)` keeps the directions in which the predictions vary most.
    """

    features: RawFeatures
    method: Method
    fingerprint: str
    basis_VK: Floats | None = None

    @property
    def name(self) -> str:
        return f"raw input, {self.method}"

    def first(self, count: int) -> RawInputModel:
        """The same with vectors of this many dimensions."""
        predicted_NV = self._scaled(self.predict(self.features.pixels_ND[:: max(1, len(self.features.texts) // 2000)]))
        _, basis_KV = np.linalg.eigh(predicted_NV.T @ predicted_NV)
        return replace(self, basis_VK=basis_KV[:, ::-1][:, :count].copy())

    # ------------------------------------------------------------ images and texts

    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        """[N, V], or [N, K] after `first`."""
        return self._unit(self.predict(pixels(images)))

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        """[K, V]: texts without any word of the training vocabulary are all equal."""
        return self._unit(self.features.text_features(texts))

    def score_clips(self, clips: Sequence[Any], texts: Sequence[str], *, views: int = 1, crops: int = 1) -> Floats:
        """[N, K]: cosines. Every clip is read once, regardless of `views` and `crops`."""
        score_NK: Floats = self._unit(self.predict(clip_pixels(clips))) @ self.embed_texts(texts).T
        return score_NK

    @cached_property
    def predict(self) -> Predict:
        """Function of pixels [N, D]: words, pairs and answers [N, V]."""
        mean_V = self.features.words_NV.mean(0)
        if self.method == "majority":
            return lambda pixels_ND: np.broadcast_to(2 * mean_V, (len(pixels_ND), len(mean_V)))
        if self.method == "nearest picture":
            return lambda pixels_ND: self._looked_up(pixels_ND, mean_V)
        return self._ridge()

    def _ridge(self) -> Ridge:
        features, fitted = self.features, self.features.ridge
        if self.method == "ridge":
            return fitted
        single_V = np.zeros(len(features.columns), np.float32)
        single_V[list(features.alone.values())] = 1.0
        return replace(fitted, weight_DV=fitted.weight_DV * single_V)

    def _looked_up(self, pixels_ND: Floats, mean_V: Floats) -> Floats:
        row_NR, _ = self.nearest(pixels_ND)
        weight_R = 1.0 / np.arange(1, row_NR.shape[1] + 1) ** 2
        mixed_NV = np.einsum("r,nrv->nv", weight_R / weight_R.sum(), self.features.words_NV[row_NR])
        looked_up_NV: Floats = ((1 - PRIOR) * mixed_NV + PRIOR * mean_V).astype(np.float32)
        return looked_up_NV

    def nearest(self, pixels_ND: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
        """[N, R] training rows nearest by squared distance of pixels, nearest first, and the distances."""
        train_MD = self.features.pixels_ND
        rows = min(NEAREST, len(train_MD))
        square_M = (train_MD**2).sum(1)
        parts = []
        for start in range(0, len(pixels_ND), 512):
            part_ND = pixels_ND[start : start + 512]
            far_NM = (part_ND**2).sum(1)[:, None] - 2 * part_ND @ train_MD.T + square_M
            row_NR = np.argsort(far_NM, axis=1, kind="stable")[:, :rows]
            parts.append((row_NR, np.take_along_axis(far_NM, row_NR, 1)))
        return np.concatenate([row_NR for row_NR, _ in parts]), np.concatenate([far_NR for _, far_NR in parts])

    def _scaled(self, words_NV: Floats) -> Floats:
        mean_V, deviation_V = self.features.words_NV.mean(0), self.features.words_NV.std(0)
        scaled_NV = (words_NV - mean_V) / np.maximum(deviation_V, 1e-4)
        if self.method != "ridge":  # pairs of a list of tags are noise to a look-up
            single = list(self.features.alone.values())
            kept_NV = np.zeros_like(scaled_NV)
            kept_NV[:, single] = scaled_NV[:, single]
            scaled_NV = kept_NV
        return np.asarray(scaled_NV, np.float32)

    def _unit(self, words_NV: Floats) -> Unit:
        value_NK = self._scaled(words_NV)
        value_NK = value_NK if self.basis_VK is None else value_NK @ self.basis_VK
        norm_N1 = np.linalg.norm(value_NK, axis=1, keepdims=True)
        same = np.full(value_NK.shape[1], value_NK.shape[1] ** -0.5, np.float32)
        unit_NK: Unit = np.where(norm_N1 > 1e-6, value_NK / np.maximum(norm_N1, 1e-6), same).astype(np.float32)
        return unit_NK

    # ------------------------------------------------------------ answers and captions

    def generate(self, images: Sequence[ImageSource], prompts: Sequence[Any], *, max_tokens: int = 64) -> list[str]:
        """The best of the answers that the training rows give to the question; a training text if the prompt is not a training
        question."""
        predicted_NV = self.predict(pixels(images))
        return [
            self._answer(predicted_V, prompt) or self._caption(predicted_V)
            for predicted_V, prompt in zip(predicted_NV, prompts, strict=True)
        ]

    def answer_nll(
        self, images: Sequence[ImageSource], prompts: Sequence[Any], candidates: Sequence[Sequence[str]]
    ) -> list[npt.NDArray[np.float64]]:
        """[C, 2] for each image: minus the score of a candidate as an answer, or as a text where training knows no such answer; and 1."""
        predicted_NV, image_NK = self.predict(pixels(images)), self.embed_images(images)
        tables = []
        for predicted_V, image_K, prompt, texts in zip(predicted_NV, image_NK, prompts, candidates, strict=True):
            columns = [self.features.columns.get(answer_key(str(prompt), text)) for text in texts]
            asked = any(column is not None for column in columns)
            score_C = (
                [-1.0 if column is None else float(predicted_V[column]) for column in columns]
                if asked
                else self.embed_texts([f"{prompt} {text}" for text in texts]) @ image_K
            )
            tables.append(np.stack([-np.asarray(score_C, np.float64), np.ones(len(texts))], 1))
        return tables

    @cached_property
    def _answers(self) -> dict[str, list[tuple[str, int]]]:
        """Question -> its answers and their columns."""
        by_question: dict[str, list[tuple[str, int]]] = {}
        for name, column in self.features.columns.items():
            question, mark, answer = name.partition(ANSWER)
            if mark:
                by_question.setdefault(question, []).append((answer, column))
        return by_question

    def _answer(self, predicted_V: Floats, prompt: Any) -> str:
        question = answer_key(prompt, "").partition(ANSWER)[0] if isinstance(prompt, str) else ""
        answers = self._answers.get(question, [])
        return max(answers, key=lambda answer: predicted_V[answer[1]])[0] if answers else ""

    @cached_property
    def _captions(self) -> tuple[list[str], Unit]:
        texts = [text for text, _ in Counter(filter(None, self.features.texts)).most_common(2000)]
        return texts, self.embed_texts(texts)

    def _caption(self, predicted_V: Floats) -> str:
        texts, text_KV = self._captions
        return texts[int((text_KV @ self._unit(predicted_V[None])[0]).argmax())] if texts else ""

    # ------------------------------------------------------------ scene graphs

    def detect(
        self,
        images: Sequence[ImageSource],
        *,
        objects: Sequence[str],
        relations: Sequence[str] = (),
        top: int = 100,
        threshold: float = 0.0,
        batch_size: int = 16,
    ) -> list[SceneGraph]:
        """Regions and relations of the nearest training pictures with scores 1, 1/2, 1/3. For "majority" those of the usual picture."""
        if self.method not in ("nearest picture", "majority"):
            raise ConfigError(f"'{self.name}' detects nothing (expected 'nearest picture' or 'majority')")
        picture_ND = pixels(images)
        if self.method == "majority":
            picture_ND = np.broadcast_to(self.features.pixels_ND.mean(0), picture_ND.shape)
        row_NR, _ = self.nearest(picture_ND)
        return [_merged([self.features.graphs[row] for row in row_R]).strongest(top=top, min_score=threshold) for row_R in row_NR]


def _merged(graphs: Sequence[SceneGraph]) -> SceneGraph:
    regions: list[Region] = []
    relations: list[Relation] = []
    for rank, graph in enumerate(graphs, 1):
        relations += [
            replace(r, subject=r.subject + len(regions), object=r.object + len(regions), confidence=1 / rank)
            for r in graph.relations
        ]
        regions += [replace(region, score=1 / rank) for region in graph.regions]
    return SceneGraph(tuple(regions), tuple(relations))
