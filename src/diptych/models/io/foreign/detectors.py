"""Phrase-grounding models of transformers, opened from a folder: Grounding DINO (also MMDetection's), OWL-ViT and OWLv2.

Images are processed one at a time, because padding in a batch would change the results.
Letters: Q boxes that a model proposes, L tokens, E phrases.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import box_convert

from diptych.core.errors import ConfigError, DataError
from diptych.core.grounding import PhraseBoxes, PhraseQuery, regions_of
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.scene_graph import SceneGraph
from diptych.data.media.decode import decode
from diptych.data.text.tokens.spans import tokens_of
from diptych.models.io.folder import fingerprint
from diptych.models.io.inference import evaluating
from diptych.models.io.region_detector import RegionDetector
from diptych.models.towers.packaged.hf_text import silence_transformers

FAMILIES = {
    "grounding-dino": "GroundingDinoForObjectDetection",
    "mm-grounding-dino": "MMGroundingDinoForObjectDetection",
    "owlvit": "OwlViTForObjectDetection",
    "owlv2": "Owlv2ForObjectDetection",
}
"""`model_type` of a folder -> the class that finds phrases."""


def is_phrase_detector(folder: Path) -> bool:
    """True if the folder's config.json names a phrase-grounding model."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") in FAMILIES


def open_detector(folder: Path, spec: str) -> TransformersPhraseDetector:
    """The model and processor of a folder that transformers saved. No download.

    Raises ConfigError for a folder of the family without its detecting head, DataError for one that lacks a tensor or its processor.
    """
    import transformers

    plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = FAMILIES[plain["model_type"]]
    if plain.get("architectures") not in (None, [name]):
        raise ConfigError(f"{spec} holds a {plain['architectures'][0]}, which is not a phrase detector (expected a {name})")
    with silence_transformers():
        try:
            processor = transformers.AutoProcessor.from_pretrained(str(folder), local_files_only=True)
            model, report = getattr(transformers, name).from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise DataError(f"not read: {reason}", file=folder, expected=f"the weights and the processor of a {name}") from error
    # Heads of later layers share the first one's tensors, and positions are rebuilt.
    own = dict(model.named_parameters())
    if missing := [key for key in report["missing_keys"] if key in own]:
        raise DataError(f"tensor {min(missing)} is missing", file=folder, expected=f"the weights of a {name}")
    kind = OwlDetector if plain["model_type"].startswith("owl") else GroundingDinoDetector
    return kind(model.float().eval(), processor, spec)


class TransformersPhraseDetector(RegionDetector):
    """A model of transformers as `Grounder` and `Detector`."""

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model, self.processor, self.name = model, processor, name

    @cached_property
    def fingerprint(self) -> str:
        """Of weights and image settings."""
        return fingerprint(self.model, {"images": json.loads(self.processor.image_processor.to_json_string())})

    @one_or_many
    def ground(
        self, images: Sequence[ImageSource], queries: Sequence[PhraseQuery], *, top: int = 100, batch_size: int = 16
    ) -> list[list[PhraseBoxes]]:
        """For each image the boxes of each phrase, the `top` best, xyxy pixels."""
        if len(images) != len(queries):
            raise DataError(f"{len(images)} images but {len(queries)} queries", field="queries", expected="a query an image")
        return [self._ground(decode(image, exact=True), query, top) for image, query in zip(images, queries, strict=True)]

    def regions(
        self, images: Sequence[ImageSource], objects: Sequence[str], *, top: int, threshold: float, batch_size: int
    ) -> list[SceneGraph]:
        """The `top` best regions of each image with a score above `threshold`, labelled by the phrase that fits."""
        if not objects:
            raise DataError("the list is empty", field="objects", expected="at least one phrase to look for")
        query = self._query(objects)
        rows = self.ground(images, [query] * len(images), top=top, batch_size=batch_size)
        return [regions_of(objects, row, top=top, threshold=threshold) for row in rows]

    def _query(self, names: Sequence[str]) -> PhraseQuery:
        return PhraseQuery.of(names)

    def _ground(self, image_HWC: npt.NDArray[np.uint8], query: PhraseQuery, top: int) -> list[PhraseBoxes]:
        with torch.no_grad(), evaluating(self.model):
            box_Q4, score_QE = self._scored(image_HWC, query)
        height, width = image_HWC.shape[:2]
        limit_4 = torch.tensor([width, height, width, height])
        pixel_Q4 = (box_convert(box_Q4, "cxcywh", "xyxy") * self._unit(height, width)).clamp(min=0).minimum(limit_4).numpy()
        answers = []
        for score_Q in score_QE.T:
            order = score_Q.sort(descending=True, stable=True).indices[:top].numpy()
            answers.append(PhraseBoxes(pixel_Q4[order], score_Q.numpy()[order]))
        return answers

    def _unit(self, height: int, width: int) -> Tensor:
        """Side lengths in pixels by which relative boxes are multiplied: x, y, x, y."""
        return torch.tensor([width, height, width, height])

    @abstractmethod
    def _scored(self, image_HWC: npt.NDArray[np.uint8], query: PhraseQuery) -> tuple[Tensor, Tensor]:
        """box_Q4 as the model says it, cxcywh, and score_QE in 0..1."""


class GroundingDinoDetector(TransformersPhraseDetector):
    """Reads the text of a query whole, up to the full stops that part its phrases. A phrase's score is the mean over its tokens, as the
    authors evaluate; a box's score in `transformers` is the largest token."""

    def _scored(self, image_HWC: npt.NDArray[np.uint8], query: PhraseQuery) -> tuple[Tensor, Tensor]:
        text = query.text.rstrip()
        text = text if text.endswith(".") else text + "."  # as published: what no full stop ends, no token of it reads
        encoded = self.processor.tokenizer(text, return_offsets_mapping=True, return_tensors="pt", return_token_type_ids=True)
        offset_L2 = encoded.pop("offset_mapping")[0].numpy()
        longest = int(self.model.config.max_text_len)
        for words, spans in zip(query.words(), query.phrases, strict=True):
            if not tokens_of(spans, offset_L2[:longest]).any():
                raise DataError(
                    f"{self.name} cannot read the phrase {words!r}: it stands behind the {longest} tokens that are read",
                    field="queries",
                    expected="a shorter text, or the phrase nearer its beginning",
                )
        pictures = self.processor.image_processor(image_HWC, return_tensors="pt")
        answer = self.model(**pictures, **{name: ids_1L[:, :longest] for name, ids_1L in encoded.items()})
        share_QL = answer.logits[0].float().sigmoid()[:, : len(offset_L2)]
        positive_EL = np.stack([tokens_of(spans, offset_L2[: share_QL.shape[1]]) for spans in query.phrases])
        weight_EL = torch.from_numpy(positive_EL).to(share_QL)
        return answer.pred_boxes[0].float(), share_QL @ (weight_EL / weight_EL.sum(1, keepdim=True)).T


class OwlDetector(TransformersPhraseDetector):
    """Reads each phrase of a query alone: its words, without the text around them."""

    def _unit(self, height: int, width: int) -> Tensor:
        # OWLv2 pads the picture to a square before it is resized, OWL-ViT resizes it as it is.
        return torch.tensor([max(height, width)] * 4) if self.model.config.model_type == "owlv2" else super()._unit(height, width)

    def _scored(self, image_HWC: npt.NDArray[np.uint8], query: PhraseQuery) -> tuple[Tensor, Tensor]:
        longest = int(self.model.config.text_config.max_position_embeddings)
        words = query.words()
        most = max(len(ids) for ids in self.processor.tokenizer(words)["input_ids"])
        if most > longest:
            raise DataError(
                f"{self.name} reads phrases of {longest} tokens; the longest of {words} has {most}",
                field="queries",
                expected="shorter phrases",
            )
        encoded = self.processor.tokenizer(words, padding="max_length", max_length=longest, return_tensors="pt")
        pictures = self.processor.image_processor(image_HWC, return_tensors="pt")
        answer = self.model(**encoded, pixel_values=pictures["pixel_values"])
        return answer.pred_boxes[0].float(), answer.logits[0].float().sigmoid()
