"""A trained FIBER: vectors for candidates, scores of pairs read together, answers, captions, and where in a picture a text is;
one folder.

Letters: N images, K texts, B batch, P positions of the last map, C channels, L tokens, H heads, V words.
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

from diptych.core.contracts import MatchMap
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.prompt import PromptLike, single_image_requests
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess, visible_share
from diptych.data.text.tokenize import Tokenizer
from diptych.models.fiber.fiber import Fiber
from diptych.models.fiber.image_encoder import FiberImageEncoder
from diptych.models.fiber.text_encoder import FiberTextEncoder
from diptych.models.io.card import model_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.pairs.embedder import Embedding
from diptych.models.pairs.matching.embedder import CrossEncoder
from diptych.models.pairs.matching.match_maps import grad_times_attention

MAP_LAYER = 2
"""Of the fused layers, counted from 0: the third of six, as GroundVLP takes it of ALBEF."""


class FiberModel(Embedding):
    """`Embedder`; `PairScorer` and `MatchMapper` where it was trained to match; `Generator` where it was trained to answer or to write.

    A prompt is a question where the model has a list of answers, of which the most likely is given; "" for a caption. Without such a
    list a prompt is how the caption begins.
    """

    kind: ClassVar[str] = "fiber"
    fits_above: ClassVar[float] = 0.0
    tokenizer: Tokenizer

    def __init__(
        self,
        model: Fiber,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        text_length: int,
        name: str,
        *,
        answers: Sequence[str] = (),
        card: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, preprocess, tokenizer, text_length, name)
        self.answers, self.card = tuple(answers), dict(card or {})
        self.readings = CrossEncoder(self, model)

    @cached_property
    def fingerprint(self) -> str:
        settings = {"preprocess": self.preprocess.to_json(), "text_length": self.text_length, "kind": self.kind}
        return fingerprint(self.model, settings)

    # ------------------------------------------------------------ matching

    @one_or_many
    def score_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
    ) -> npt.NDArray[np.float32]:
        """Log-odds [N, K] that image and text fit, the same for either `query`: N * K forward passes. Each side's lower blocks
        run once."""
        return self.readings.score(images, texts)

    def map_match(self, image: ImageSource, texts: Sequence[str], *, layer: int | None = None) -> list[MatchMap]:
        """Where in the picture each token of each text was read for the match. `layer` counts the fused layers of the text tower from 0;
        None takes the third, or the last of fewer. Raises ConfigError for a model with layers on top, or for a layer it has not."""
        fiber: Fiber = self.model
        count = fiber.image_tower.fused
        if not count or fiber.fits is None:
            raise ConfigError(
                f"'{self.name}' has no gates that a match is read through (expected fusion backbone, trained with itm)"
            )
        layer = min(MAP_LAYER, count - 1) if layer is None else layer
        if not 0 <= layer < count:
            raise ConfigError(f"layer is {layer} (expected 0..{count - 1}, the fused layers of '{self.name}')")
        pixels_HWC = decode(image, exact=True)
        box = visible_share(self.preprocess, pixels_HWC.shape[1], pixels_HWC.shape[0])
        maps = []
        device = next(fiber.parameters()).device
        with evaluating(fiber):
            with torch.no_grad():
                begun_BHWC = fiber.image_features(self.preprocess([pixels_HWC]).to(device))
            side = fiber.image_tower.fused_sides[layer]
            for text in texts:
                encoded = self.tokenizer.encode([text], self.text_length)
                self.truncated += encoded.truncated
                text_1L, mask_1L = (torch.from_numpy(rows).to(device) for rows in (encoded.ids_BL, encoded.mask_BL))
                with torch.enable_grad(), fiber.text.gate(layer).watching() as shares:
                    begun_1LD = fiber.text_features(text_1L, mask_1L)
                    answer_12 = fiber.fits(fiber.fuse(begun_BHWC, begun_1LD, mask_1L).pooled_BD)
                    weight_LP = grad_times_attention(shares[-1], answer_12[0, 1])[0]
                length = int(mask_1L.sum())
                grid_LHW = weight_LP[:length].unflatten(1, (side, side))
                maps.append(
                    MatchMap(
                        score=float((answer_12[0, 1] - answer_12[0, 0]).detach()),
                        weight_LHW=grid_LHW.float().cpu().numpy(),
                        offset_L2=self.tokenizer.offsets(text, self.text_length)[:length],
                        box=box,
                    )
                )
        return maps

    # ------------------------------------------------------------ words

    @one_or_many
    def generate(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64, batch_size: int = 16
    ) -> list[str]:
        """Answers to questions; captions by the most likely token, again and again, until the end mark or `text_length`."""
        answers: list[str] = []
        for some in parts(single_image_requests(images, prompts, model=self.name), batch_size):
            with self._ready() as device:
                pixels_BCHW = self.preprocess([decode(image, exact=True) for image, _ in some])
                begun_BHWC = self.model.image_features(pixels_BCHW.to(device))
                answered = self._answered(begun_BHWC, [prompt for _, prompt in some], device)
                finished_BPC = self._finished(begun_BHWC) if None in answered else begun_BHWC
                for row, ((_, prompt), answer) in enumerate(zip(some, answered, strict=True)):
                    answers.append(self._written(finished_BPC[row : row + 1], prompt, max_tokens) if answer is None else answer)
        return answers

    def _answered(self, begun_BHWC: Tensor, prompts: Sequence[str], device: torch.device) -> list[str | None]:
        rows = [row for row, prompt in enumerate(prompts) if prompt.strip()] if self.answers else []
        answers: list[str | None] = [None] * len(prompts)
        if rows:
            logit_NA = self._logits(begun_BHWC[rows], [prompts[row] for row in rows], device)
            for row, index in zip(rows, logit_NA.argmax(1).tolist(), strict=True):
                answers[row] = self.answers[index]
        return answers

    def _logits(self, begun_BHWC: Tensor, questions: Sequence[str], device: torch.device) -> Tensor:
        encoded = self.tokenizer.encode(list(questions), self.text_length)
        self.truncated += encoded.truncated
        text_BL, mask_BL = (torch.from_numpy(rows).to(device) for rows in (encoded.ids_BL, encoded.mask_BL))
        fused = self.model.fuse(begun_BHWC, self.model.text_features(text_BL, mask_BL), mask_BL)
        logit_BA: Tensor = self.model.answer(fused.pooled_BD)
        return logit_BA

    def _finished(self, begun_BHWC: Tensor) -> Tensor:
        if not self.model.writes:
            self._need_answers()
            raise ConfigError(
                f"'{self.name}' answers questions and writes no captions (expected a question, or training with caption)"
            )
        finished_BPC: Tensor = self.model.image_tower.finished(begun_BHWC).flatten(1, 2)
        return finished_BPC

    def _need_answers(self) -> None:
        if not self.answers:
            raise ConfigError(
                f"'{self.name}' was trained neither to answer nor to write (expected training with questions or caption)"
            )

    def _written(self, image_1PC: Tensor, prompt: str, max_tokens: int) -> str:
        encoded = self.tokenizer.encode([prompt], self.text_length)
        self.truncated += encoded.truncated
        ids: list[int] = encoded.ids_BL[0, : int(encoded.mask_BL[0].sum()) - len(self.tokenizer.suffix)].tolist()
        start = len(ids)
        for _ in range(min(max_tokens, self.text_length - start)):
            text_1L = torch.tensor([ids], device=image_1PC.device)
            logit_1LV = self.model.write(image_1PC, text_1L, torch.ones_like(text_1L, dtype=torch.bool))
            following = int(logit_1LV[0, -1, : self.model.text.vocab_size].argmax())
            if following == self.tokenizer.eot_id:
                break
            ids.append(following)
        return self.tokenizer.decode(ids[start:]).strip()

    # ------------------------------------------------------------ on disk

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer.json, README.md, replacing the whole folder."""
        fiber: Fiber = self.model
        config = {
            "kind": self.kind,
            "name": self.name,
            "image": fiber.image_tower.spec,
            "text": fiber.text.spec,
            "fiber": fiber.spec,
            "preprocess": self.preprocess.to_json(),
            "text_length": self.text_length,
            "answers": list(self.answers),
            "card": {"description": "Compares, matches, answers and describes images.", **self.card},
        }
        write_model(folder, fiber, config, model_card(self.name, config, parameters(fiber)), self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load from a folder that `save` wrote. Leaves torch's random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            fiber = Fiber(FiberImageEncoder(**config["image"]), FiberTextEncoder(**config["text"]), **config["fiber"])
        load_weights(fiber, folder)
        preprocess, tokenizer = Preprocess.from_json(config["preprocess"]), Tokenizer.load(folder)
        return cls(
            fiber.eval(),
            preprocess,
            tokenizer,
            config["text_length"],
            config["name"],
            answers=config["answers"],
            card=config.get("card"),
        )
