"""A trained ViLT: how well pictures and texts fit, by reading every pair, and which words fit where one is left out; one folder.

Letters: N images, K texts, B batch, L tokens, M hidden words, P positions of a picture, V vocabulary, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.prompt import PromptLike, require_one_per_image, single_image_requests
from diptych.data.media.decode import decode
from diptych.data.media.whole_pictures import WholePictures
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.card import model_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.vilt.vilt import PictureTokens, Vilt

By = Literal["odds", "fits", "rank"]
"""What a pair's score is: log-odds of both answers, the logit of "fits" alone, or the number of a head for retrieval."""


class ViltModel:
    """`PairScorer`, and `PairJudge` where scores are log-odds. It has no vectors of a picture or a text only, so a search reads every
    pair: N * K readings of the whole transformer.

    by  the score: "odds"; "fits" is the logit of that answer alone, by which the authors rank; "rank" is the head of weights that were
        fine-tuned for retrieval. None takes "rank" if there is such a head, else "odds"

    All patches of a picture are read, whatever training left out. `left` names the tensors of another library's file that it has no place
    for, `truncated` counts texts that were cut.
    """

    kind: ClassVar[str] = "vilt"
    fits_above: float
    """Where a pair is said to fit; only log-odds have such a number."""

    def __init__(
        self,
        model: Vilt,
        preprocess: WholePictures,
        tokenizer: Tokenizer,
        text_length: int,
        name: str,
        *,
        by: By | None = None,
        left: Sequence[str] = (),
        card: Mapping[str, Any] | None = None,
    ) -> None:
        if by == "rank" and model.rank is None:
            raise ConfigError(f"'{name}' has no head for retrieval (expected by odds | fits)")
        self.model, self.preprocess, self.tokenizer, self.text_length = model, preprocess, tokenizer, text_length
        self.name, self.left, self.card = name, tuple(left), dict(card or {})
        self.by: By = by or ("odds" if model.rank is None else "rank")
        self.truncated = 0
        if self.by == "odds" and model.fits is not None:
            self.fits_above = 0.0

    @cached_property
    def fingerprint(self) -> str:
        settings = {"preprocess": self.preprocess.to_json(), "text_length": self.text_length, "kind": self.kind, "by": self.by}
        return fingerprint(self.model, settings)

    @one_or_many
    def score_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
    ) -> npt.NDArray[np.float32]:
        """Match scores [N, K], higher fits better, the same for either `query`.

        Pictures are read one at a time, so that no neighbour's shape matters.
        """
        if self.model.rank is None and self.model.fits is None:
            raise ConfigError(f"'{self.name}' was not trained to match (expected weights with itm_score or rank_output)")
        scores = np.zeros((len(images), len(texts)), np.float32)
        if not scores.size:
            return scores
        with self._ready() as device:
            begun = [self._begun(part, device) for part in parts(texts, 64)]
            for row, image in enumerate(images):
                pictures = self._picture_tokens(image, device)
                scores[row] = torch.cat([self._scores(pictures, *text) for text in begun]).float().cpu().numpy()
        return scores

    @one_or_many
    def guess_words(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, candidates: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """Log-probabilities [N, C] of each candidate in the gap of a text, a picture each: "the block ___ has a cup". A candidate of
        several pieces hides as many places and counts with their sum.

        Raises ConfigError for a text without exactly one gap, and for weights without a head for words.
        """
        require_one_per_image("texts", texts, images)
        if self.model.head is None:
            raise ConfigError(f"'{self.name}' was not trained to guess words (expected weights with mlm_score)")
        log_odds = np.zeros((len(images), len(candidates)))
        with self._ready() as device:
            for row, (image, text) in enumerate(zip(images, texts, strict=True)):
                pictures = self._picture_tokens(image, device)
                log_odds[row] = [self._guessed(pictures, text, candidate) for candidate in candidates]
        return log_odds

    def _guessed(self, pictures: PictureTokens, text: str, candidate: str) -> float:
        before, gap, after = text.partition(GAP)
        if not gap or GAP in after:
            raise ConfigError(f"the text {text!r} has {text.count(GAP)} gaps (expected one, written {GAP})")
        whole = f"{before}{candidate}{after}"
        offset_L2 = self.tokenizer.offsets(whole, self.text_length)
        start, stop = len(before), len(before) + len(candidate)
        positions = [position for position, (first, last) in enumerate(offset_L2.tolist()) if first < stop and last > start]
        if not positions:
            raise ConfigError(f"nothing of {candidate!r} is left within the {self.text_length} tokens of {whole!r}")
        encoded = self.tokenizer.encode([whole], self.text_length)
        device = pictures.token_BPD.device
        text_1L, mask_1L = (torch.from_numpy(rows).to(device) for rows in (encoded.ids_BL, encoded.mask_BL))
        place_1M = torch.tensor([positions], device=device)
        hidden_1L = torch.zeros_like(mask_1L).scatter(1, place_1M, True)
        logit_1MV = self.model.guessed(self.model.read(self.model.text_features(text_1L, hidden_1L), mask_1L, pictures), place_1M)
        log_1MV = logit_1MV.double().log_softmax(-1)
        return float(log_1MV.gather(2, text_1L.gather(1, place_1M)[..., None]).sum())

    def _scores(self, pictures: PictureTokens, word_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """[B] of one picture with each text."""
        count = len(word_BLD)
        beside = PictureTokens(pictures.token_BPD.expand(count, -1, -1), pictures.there_BP.expand(count, -1))
        pooled_BD = self.model.pooled(self.model.read(word_BLD, mask_BL, beside))
        if self.by == "rank":
            assert self.model.rank is not None
            rank_B: Tensor = self.model.rank(pooled_BD)[:, 0]
            return rank_B
        assert self.model.fits is not None
        answer_B2: Tensor = self.model.fits(pooled_BD)
        return answer_B2[:, 1] if self.by == "fits" else answer_B2[:, 1] - answer_B2[:, 0]

    def _begun(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        encoded = self.tokenizer.encode(list(texts), self.text_length)
        self.truncated += encoded.truncated
        longest = max(int(encoded.mask_BL.sum(1).max()), 1)  # padding is read by nobody
        text_BL, mask_BL = (torch.from_numpy(rows[:, :longest]).to(device) for rows in (encoded.ids_BL, encoded.mask_BL))
        return self.model.text_features(text_BL), mask_BL

    def _picture_tokens(self, image: ImageSource, device: torch.device) -> PictureTokens:
        image_1CHW, grid_12 = self.preprocess([decode(image, exact=True)])
        return self.model.picture_features(image_1CHW.to(device), grid_12.to(device))

    @contextmanager
    def _ready(self) -> Iterator[torch.device]:
        with torch.no_grad(), evaluating(self.model):
            yield next(self.model.parameters()).device

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer.json, README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "vilt": self.model.spec,
            **self.settings(),
            "by": self.by,
            "preprocess": self.preprocess.to_json(),
            "text_length": self.text_length,
            "card": {"description": "Says how well an image and a text fit, by reading both at once.", **self.card},
        }
        write_model(folder, self.model, config, model_card(self.name, config, parameters(self.model)), self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load from a folder that `save` wrote. Leaves torch's random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            model = Vilt(**config["vilt"])
        load_weights(model, folder)
        preprocess, tokenizer = WholePictures.from_json(config["preprocess"]), Tokenizer.load(folder)
        options: dict[str, Any] = {"by": config["by"], "card": config.get("card")}
        if answers := config.get("answers"):
            options["answers"] = answers
        kind: Any = ViltQuestionAnswerer if answers else cls
        made: Self = kind(model.eval(), preprocess, tokenizer, config["text_length"], config["name"], **options)
        return made

    def settings(self) -> dict[str, Any]:
        """Additional entries of config.json in a subclass."""
        return {}


class ViltQuestionAnswerer(ViltModel):
    """A ViLT that was fine-tuned for questions, as `Generator`: the most likely of a fixed list of answers."""

    def __init__(self, *args: Any, answers: Sequence[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self.answers = tuple(answers)
        if self.model.answer is None or self.model.spec["answers"] != len(self.answers):
            raise ConfigError(
                f"'{self.name}' has a head of {self.model.spec['answers']} answers and a list of {len(self.answers)}"
            )

    @one_or_many
    def generate(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64) -> list[str]:
        """An answer for each picture and question. It writes nothing, so that `max_tokens` cuts nothing."""
        answers = []
        with self._ready() as device:
            for image, question in single_image_requests(images, prompts, model=self.name):
                word_1LD, mask_1L = self._begun([question], device)
                pooled_1D = self.model.pooled(self.model.read(word_1LD, mask_1L, self._picture_tokens(image, device)))
                assert self.model.answer is not None
                answers.append(self.answers[int(self.model.answer(pooled_1D).argmax())])
        return answers

    def settings(self) -> dict[str, Any]:
        return {"answers": list(self.answers)}


GAP = "___"
"""What stands for the words that are asked for."""
