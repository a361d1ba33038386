"""A trained BLIP: embeddings, matching scores of pairs, captions and log-likelihoods of texts; saved as one folder.

Letters: N images, K texts, B batch, L tokens, V vocabulary, C candidates, P image tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.prompt import PromptLike, require_one_per_image, single_image_requests
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.blip.blip import Blip
from diptych.models.blip.text import BlipText
from diptych.models.io.card import model_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import parts
from diptych.models.pairs.embedder import Embedding
from diptych.models.pairs.matching.embedder import CrossEncoder
from diptych.models.towers.towers import image_tower


class BlipModel(Embedding):
    """A trained BLIP: `Embedder`, `PairScorer`, `Generator` and `Ranker`. A prompt is the start of the caption; "" for none."""

    kind: ClassVar[str] = "blip"
    fits_above: ClassVar[float] = 0.0
    tokenizer: Tokenizer

    def __init__(
        self,
        model: Blip,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        text_length: int,
        name: str,
        *,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, preprocess, tokenizer, text_length, name)
        self.card = dict(card or {})
        self.readings = CrossEncoder(self, model)

    @cached_property
    def fingerprint(self) -> str:
        settings = {"preprocess": self.preprocess.to_json(), "text_length": self.text_length, "kind": self.kind}
        return fingerprint(self.model, settings)

    @one_or_many
    def score_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
    ) -> npt.NDArray[np.float32]:
        """Log-odds [N, K] that image and text fit, the same for either `query`: N * K forward passes."""
        return self.readings.score(images, texts)

    @one_or_many
    def generate(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64, batch_size: int = 16
    ) -> list[str]:
        """Greedy decoding until the end token or `text_length`. Returns the text after the prompt."""
        requests = single_image_requests(images, prompts, model=self.name)
        captions: list[str] = []
        for some in parts(requests, batch_size):
            with self._ready() as device:
                token_BPD = self._image_tokens([image for image, _ in some], device)
                captions += [self._written(token_BPD[row : row + 1], prompt, max_tokens) for row, (_, prompt) in enumerate(some)]
        return captions

    @one_or_many
    def answer_nll(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], candidates: Sequence[Sequence[str]]
    ) -> list[npt.NDArray[np.float64]]:
        """For each image [C, 2]: negative log-likelihood of each candidate after the prompt in nats, summed over its tokens and
        the end token, and the number of those tokens."""
        requests = single_image_requests(images, prompts, model=self.name)
        require_one_per_image("lists of candidates", candidates, images)
        rows = []
        for (image, prompt), answers in zip(requests, candidates, strict=True):
            with self._ready() as device:
                token_1PD = self._image_tokens([image], device)
                rows.append(np.array([self._nll(token_1PD, prompt, answer) for answer in answers], np.float64).reshape(-1, 2))
        return rows

    def _image_tokens(self, images: Sequence[ImageSource], device: torch.device) -> Tensor:
        pixels_BCHW = self.preprocess([decode(image, exact=True) for image in images])
        token_BPD: Tensor = self.model.image_tokens(pixels_BCHW.to(device))
        return token_BPD

    def _ids(self, text: str) -> list[int]:
        """Start mark, pieces, end mark."""
        encoded = self.tokenizer.encode([text], self.text_length)
        self.truncated += encoded.truncated
        ids: list[int] = encoded.ids_BL[0, : int(encoded.mask_BL[0].sum())].tolist()
        return ids

    def _logits(self, token_1PD: Tensor, ids: Sequence[int]) -> Tensor:
        """Logits [L, V] of the next token at each position."""
        text_1L = torch.tensor([list(ids)], device=token_1PD.device)
        logit_1LV: Tensor = self.model.text.write(text_1L, torch.ones_like(text_1L, dtype=torch.bool), token_1PD)
        return logit_1LV[0].float()

    def _nll(self, token_1PD: Tensor, prompt: str, answer: str) -> tuple[float, int]:
        begun, whole = self._ids(prompt)[:-1], self._ids(f"{prompt} {answer}".strip())
        answer_L = torch.tensor(whole[len(begun) :], device=token_1PD.device)
        log_LV = self._logits(token_1PD, whole[:-1])[len(begun) - 1 :].log_softmax(-1)
        return -float(log_LV.gather(1, answer_L[:, None]).double().sum()), len(answer_L)

    def _written(self, token_1PD: Tensor, prompt: str, max_tokens: int) -> str:
        ids = self._ids(prompt)[:-1]
        start = len(ids)
        for _ in range(min(max_tokens, self.text_length - start)):
            following = int(self._logits(token_1PD, ids)[-1, : self.model.text.vocab_size].argmax())
            if following == self.tokenizer.eot_id:
                break
            ids.append(following)
        return self.tokenizer.decode(ids[start:]).strip()

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer.json, README.md, replacing the whole folder."""
        text: BlipText = self.model.text
        block: Any = text.blocks[0]
        config = {
            "kind": self.kind,
            "name": self.name,
            "image_tower": self.model.image_tower.spec,
            "width": self.model.width,
            "text": {
                "vocab_size": text.vocab_size,
                "length": text.length,
                "width": text.width,
                "layers": len(text.blocks),
                "heads": block.writing.heads,
                "mlp_ratio": block.mlp_in.out_features / text.width,
                "dropout": text.dropout,
            },
            "preprocess": self.preprocess.to_json(),
            "text_length": self.text_length,
            "card": {"description": "Compares, matches and describes images.", **self.card},
        }
        write_model(folder, self.model, config, model_card(self.name, config, parameters(self.model)), self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load from a folder that `save` wrote. Leaves torch's random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            tower = image_tower(**config["image_tower"])
            model = Blip(tower, BlipText(image_width=tower.token_width, **config["text"]), width=config["width"])
        load_weights(model, folder)
        preprocess, tokenizer = Preprocess.from_json(config["preprocess"]), Tokenizer.load(folder)
        return cls(model.eval(), preprocess, tokenizer, config["text_length"], config["name"], card=config.get("card"))
