"""BERTScore: greedy matching of token embeddings of an answer and a reference (Zhang et al., 2020, 1904.09675).

Each token of the answer is worth its largest cosine with a token of the reference (precision), each token of the reference its largest with
one of the answer (recall); means are weighted, by one or by inverse document frequency over the references.

    idf(token) = log((N + 1) / (references that contain it + 1))

What implementations get wrong: the marks at both ends have no weight and yet can be matched; a baseline is of one encoder, one layer and
one language, and rescaled scores of others are no BERTScores; a score without encoder and layer beside it says nothing.

We depart: where every cosine of a token is negative the release takes 0 in batches with padding, here the largest; the final norm that
GPT-2 and T5 put on their last layer is applied there and nowhere else, where the release also applies it to a layer in the middle that it
cuts at.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import transformers
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.models.io.device import choose_device, device_default, place
from diptych.models.policy.sequence_classifier import positions_of
from diptych.models.towers.packaged.hf_text import silence_transformers

BATCH = 32
BEST_LAYERS = {
    ("bert", 12, 768): 9, ("bert", 24, 1024): 18, ("roberta", 12, 768): 10, ("roberta", 24, 1024): 17, ("roberta", 6, 768): 5,
    ("distilbert", 6, 768): 5, ("xlm-roberta", 12, 768): 9, ("xlm-roberta", 24, 1024): 17, ("mpnet", 12, 768): 8,
    ("deberta", 12, 768): 9, ("deberta", 24, 1024): 16, ("deberta-v2", 12, 768): 9, ("deberta-v2", 24, 1024): 12,
}  # fmt: skip
"""(model type, layers, width) -> the layer that the authors chose for the published encoder of that shape; others take their last."""


@dataclass(frozen=True, slots=True)
class MatchScore:
    """Precision, recall and F, each at most 1 before rescaling."""

    precision: float
    recall: float
    f: float


def greedy_match(answer_AD: Tensor, reference_RD: Tensor, answer_A: Tensor, reference_R: Tensor) -> MatchScore:
    """Score of token embeddings, which are normalised here, under weights of the tokens of both, which need not add up to 1.

    Zero where the weights of one side are all zero: that text has only marks.
    """
    if not float(answer_A.sum()) or not float(reference_R.sum()):
        return MatchScore(0.0, 0.0, 0.0)
    cosine_AR = torch.nn.functional.normalize(answer_AD, dim=-1) @ torch.nn.functional.normalize(reference_RD, dim=-1).T
    precision = float((cosine_AR.amax(1) * answer_A).sum() / answer_A.sum())
    recall = float((cosine_AR.amax(0) * reference_R).sum() / reference_R.sum())
    return MatchScore(precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0)


class BertScore:
    """F of answers by an encoder from a local folder of transformers, the best over the references of each.

    layer     hidden states that are matched: 0 are the embeddings
    idf       weights by inverse document frequency over the references that are scored together, else equal ones
    baseline  precision, recall and F of unrelated sentences, by which scores are rescaled: (x - b) / (1 - b); None: as they are
    """

    def __init__(
        self, model: Any, tokenizer: Any, layer: int, *, idf: bool = False, baseline: tuple[float, float, float] | None = None
    ) -> None:
        layers = int(model.config.num_hidden_layers)
        if not 0 <= layer <= layers:
            raise ConfigError(f"layer {layer} of an encoder with {layers} (expected 0 to {layers})")
        self.model = place(model.eval(), choose_device())
        self.tokenizer, self.layer, self.idf, self.baseline = tokenizer, layer, idf, baseline
        self.space = " " if type(tokenizer).__name__.startswith(("Roberta", "GPT2")) else ""
        self.length = min(int(tokenizer.model_max_length), positions_of(model.config))

    @classmethod
    def open(cls, address: str) -> Self:
        """Opens "FOLDER", with options behind commas: "FOLDER,layer=9,idf,baseline=FILE".

        FILE is a table of the authors' form: lines "LAYER,P,R,F" below that header. Raises DataError or ConfigError for what is missing.
        """
        path, *options = address.split(",")
        given = dict(option.partition("=")[::2] for option in options)
        if unknown := set(given) - {"layer", "idf", "baseline"}:
            raise ConfigError(f"bert_score has no option {sorted(unknown)[0]!r} (expected layer=NUMBER, idf, baseline=FILE)")
        folder = Path(path).expanduser()
        if not (folder / "config.json").is_file():
            expected = "config.json, model.safetensors and a tokenizer"
            raise DataError("not a folder of transformers", file=folder, expected=expected)
        with silence_transformers():
            model = transformers.AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True).float()
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = model.get_encoder() if getattr(model, "decoder", None) is not None else model
        layer = _layer(given.get("layer", ""), model.config)
        baseline = baseline_of(Path(given["baseline"]).expanduser(), layer) if "baseline" in given else None
        return cls(model, tokenizer, layer, idf="idf" in given, baseline=baseline)

    def __call__(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """F of each answer."""
        return [max(score.f for score in row) for row in self.scores(answers, references)]

    def scores(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[MatchScore]]:
        """Scores of each answer against each of its references."""
        texts = list(dict.fromkeys([*answers, *(text for own in references for text in own)]))
        ids = {text: self._ids(text) for text in texts}
        weights = self._weights([ids[text] for own in references for text in own])
        vectors = dict(zip(texts, self._vectors([ids[text] for text in texts]), strict=True))

        def side(text: str) -> tuple[Tensor, Tensor]:
            return vectors[text], torch.tensor([weights[token] for token in ids[text]], dtype=torch.float32)

        rows = []
        for answer, own in zip(answers, references, strict=True):
            (answer_AD, answer_A), others = side(answer), [side(text) for text in own]
            rows.append([self._rescaled(greedy_match(answer_AD, one_RD, answer_A, one_R)) for one_RD, one_R in others])
        return rows

    def _ids(self, text: str) -> list[int]:
        spaced = self.space + text.strip() if text.strip() else ""
        made: list[int] = self.tokenizer(spaced, truncation=True, max_length=self.length)["input_ids"]
        return made

    def _weights(self, references: Sequence[Sequence[int]]) -> Mapping[int, float]:
        marks = dict.fromkeys((self.tokenizer.cls_token_id, self.tokenizer.sep_token_id), 0.0)
        if not self.idf:
            return _Weights(1.0, marks)
        counts = Counter(token for ids in references for token in set(ids))
        frequencies = {token: math.log((len(references) + 1) / (count + 1)) for token, count in counts.items()}
        return _Weights(math.log(len(references) + 1), frequencies)

    @torch.no_grad()
    def _vectors(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Hidden states [tokens, D] of each text; texts of one length run together, so that none is padded."""
        made: dict[int, Tensor] = {}
        device = next(self.model.parameters()).device
        for length in sorted({len(row) for row in rows}):
            same = [number for number, row in enumerate(rows) if len(row) == length]
            for start in range(0, len(same), BATCH):
                some = same[start : start + BATCH]
                ids_NL = torch.tensor([list(rows[number]) for number in some], dtype=torch.int64, device=device)
                if not length:
                    made |= dict.fromkeys(some, torch.zeros(0, 1))
                    continue
                with torch.autocast(device.type, enabled=False):  # a score is the same within a run in bf16
                    states = self.model(
                        input_ids=ids_NL, attention_mask=torch.ones_like(ids_NL), output_hidden_states=True
                    ).hidden_states
                made |= dict(zip(some, states[self.layer].cpu(), strict=True))
        return [made[number] for number in range(len(rows))]

    def _rescaled(self, score: MatchScore) -> MatchScore:
        if self.baseline is None:
            return score
        given = (score.precision, score.recall, score.f)
        return MatchScore(*((value - base) / (1 - base) for value, base in zip(given, self.baseline, strict=True)))


class _Weights(dict[int, float]):
    def __init__(self, others: float, weights: Mapping[int, float]) -> None:
        super().__init__(weights)
        self.others = others

    def __missing__(self, token: int) -> float:
        return self.others


def _layer(given: str, config: Any) -> int:
    if given:
        if not given.isdigit():
            raise ConfigError(f"bert_score's layer is {given!r} (expected a whole number)")
        return int(given)
    shape = (str(config.model_type), int(config.num_hidden_layers), int(config.hidden_size))
    return BEST_LAYERS.get(shape, shape[1])


def baseline_of(file: Path, layer: int) -> tuple[float, float, float]:
    """Baseline of a layer from a table with the header LAYER,P,R,F. Raises DataError for a file or line that does not hold it."""
    expected = "a table with the header LAYER,P,R,F, and values below 1"
    try:
        lines = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
        baselines = {int(line["LAYER"]): tuple(float(line[name]) for name in "PRF") for line in lines}
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"no table of baselines: {error}", file=file, expected=expected) from error
    values = baselines.get(layer)
    if values is None:
        raise DataError(f"has no layer {layer}", file=file, field="LAYER", expected=f"one of {sorted(baselines)}")
    if not all(np.isfinite(value) and value < 1 for value in values):
        raise DataError(f"layer {layer} has {values}", file=file, expected=expected)
    return values[0], values[1], values[2]


def bert_score(address: str) -> BertScore:
    """The scorer of an address, opened once per process and device."""
    if not address:
        raise ConfigError("bert_score needs an encoder (expected bert_score:FOLDER, a folder of transformers)")
    return _opened(address, str(choose_device()))


@lru_cache(maxsize=2)
def _opened(address: str, device: str) -> BertScore:
    with device_default(device):
        return BertScore.open(address)
