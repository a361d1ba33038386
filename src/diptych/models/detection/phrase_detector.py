"""A trained `GroundingDetector` ready for use: images and phrases in, boxes out; saved as one folder.

Letters: B images, Q queries, L tokens, E phrases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from diptych.core.config import from_plain, to_plain
from diptych.core.errors import ConfigError, DataError
from diptych.core.grounding import PhraseBoxes, PhraseQuery, regions_of
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.scene_graph import SceneGraph
from diptych.data.media.decode import decode
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.spans import tokens_of
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.grounding_detector import GroundingConfig, GroundingDetector
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.detection.token_head import phrase_scores
from diptych.models.io.card import detector_card
from diptych.models.io.device import batched
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating
from diptych.models.io.region_detector import RegionDetector
from diptych.models.towers.towers import text_tower


@dataclass(frozen=True, kw_only=True)
class PhrasePrompt:
    """Settings that join class names into the texts that a detector reads.

    before, separator, after   around and between them; published by DesCo: "Detect: ", ". " and ". "
    together   names in one text, at most (published 8); a text that would be too long for the model holds fewer
    """

    before: str = "Detect: "
    separator: str = ". "
    behind: str = ". "
    together: int = 8

    def __post_init__(self) -> None:
        if self.together < 1:
            raise ConfigError(f"together is {self.together} (expected one name in a text, or more)")

    def query(self, names: Sequence[str]) -> PhraseQuery:
        """One text of these names."""
        return PhraseQuery.of(names, before=self.before, separator=self.separator, behind=self.behind)


class PhraseDetector(RegionDetector):
    """Detects the regions that a phrase of a text refers to.

    `card` goes into the folder's README.md and config.json: any of "description", "data", "recipe", "licence" (strings) and "metrics"
    (a dict of numbers). `model` is a `GroundingDetector`. `objects` are names that it was trained with: the default queries.
    """

    kind: ClassVar[str] = "phrase_detector"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        text_length: int,
        images: DetectionPreprocess,
        name: str,
        *,
        prompt: PhrasePrompt | None = None,
        objects: Sequence[str] = (),
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.model: Any = model
        self.tokenizer, self.text_length = tokenizer, text_length
        self.images, self.name = images, name
        self.prompt, self.objects, self.card = prompt or PhrasePrompt(), tuple(objects), dict(card or {})

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights and preprocessing, computed at first access."""
        return fingerprint(self.model, {"images": to_plain(self.images), "prompt": to_plain(self.prompt)})

    # ------------------------------------------------------------ use

    @one_or_many
    def ground(
        self, images: Sequence[ImageSource], queries: Sequence[PhraseQuery], *, top: int = 100, batch_size: int = 16
    ) -> list[list[PhraseBoxes]]:
        """For each image the boxes of each phrase of its query, the `top` best, xyxy pixels.

        Raises DataError for a phrase that the model cannot read, since its text is longer than the model's.
        """
        if len(images) != len(queries):
            raise DataError(f"{len(images)} images but {len(queries)} queries", field="queries", expected="a query an image")

        def answer(rows: Sequence[int]) -> list[list[PhraseBoxes]]:
            pictures = [decode(images[row], exact=True) for row in rows]
            return self._grounded(pictures, [queries[row] for row in rows], top)

        blocks = batched(range(len(images)), batch_size, next(self.model.parameters()).device, answer)
        return [row for block in blocks for row in block]

    def regions(
        self, images: Sequence[ImageSource], objects: Sequence[str], *, top: int, threshold: float, batch_size: int
    ) -> list[SceneGraph]:
        """The `top` best regions of each image with a score above `threshold`, labelled by the phrase of `objects` that fits; several
        texts where `objects` are more than `prompt.together`."""
        graphs = []
        texts = list(self._texts(objects))
        for image in images:
            answers = [
                answer for row in self.ground([image] * len(texts), texts, top=top, batch_size=batch_size) for answer in row
            ]
            graphs.append(regions_of(objects, answers, top=top, threshold=threshold))
        return graphs

    def _texts(self, names: Sequence[str]) -> Iterator[PhraseQuery]:
        """As few texts as the model's length and `prompt.together` allow, the names in order."""
        if not names:
            raise DataError("the list is empty", field="objects", expected="at least one phrase to look for")
        batch: list[str] = []
        for name in names:
            if batch and (len(batch) == self.prompt.together or not self._fits([*batch, name])):
                yield self.prompt.query(batch)
                batch = []
            batch.append(name)
        yield self.prompt.query(batch)

    def _fits(self, names: Sequence[str]) -> bool:
        return not self.tokenizer.encode([self.prompt.query(names).text], self.text_length).truncated

    def _grounded(
        self, pictures: Sequence[npt.NDArray[np.uint8]], queries: Sequence[PhraseQuery], top: int
    ) -> list[list[PhraseBoxes]]:
        predicted = self._predicted(pictures, queries)
        box_BQ4, logit_BQL = predicted.box_BSQ4[:, -1].float().cpu(), predicted.token_logit_BSQL[:, -1].float().cpu()
        rows = zip(queries, pictures, box_convert(box_BQ4, "cxcywh", "xyxy").clamp(0, 1), logit_BQL, strict=True)
        return [self._of(query, picture.shape, box_Q4, logit_QL, top) for query, picture, box_Q4, logit_QL in rows]

    def _predicted(self, pictures: Sequence[npt.NDArray[np.uint8]], queries: Sequence[PhraseQuery]) -> Any:
        """Model output for each picture with the text of its query."""
        encoded = self.tokenizer.encode([query.text for query in queries], self.text_length)
        longest = int(encoded.mask_BL.sum(1).max()) if self.tokenizer.side == "right" else self.text_length
        text_BL, mask_BL = torch.from_numpy(encoded.ids_BL[:, :longest]), torch.from_numpy(encoded.mask_BL[:, :longest])
        image_BCHW, pixel_BHW = self.images(pictures)
        with torch.no_grad(), evaluating(self.model):
            device = next(self.model.parameters()).device
            return self.model(
                image_BCHW.to(device),
                text_BL.to(device),
                mask_BL.to(device),
                pixel_BHW=None if pixel_BHW is None else pixel_BHW.to(device),
            )

    def _positive(self, query: PhraseQuery, length: int) -> npt.NDArray[np.bool_]:
        """positive_EL: True at the tokens of each phrase, of the first `length`. Raises DataError for a phrase that was cut off."""
        offset_L2 = self.tokenizer.offsets(query.text, self.text_length)[:length]
        positive_EL = np.stack([tokens_of(spans, offset_L2) for spans in query.phrases])
        for words, row_L in zip(query.words(), positive_EL, strict=True):
            if not row_L.any():
                raise DataError(
                    f"{self.name} cannot read the phrase {words!r}: it stands behind the {self.text_length} tokens that are read",
                    field="queries",
                    expected="a shorter text, or the phrase nearer its beginning",
                )
        return positive_EL

    def _of(self, query: PhraseQuery, shape: tuple[int, ...], box_Q4: Tensor, logit_QL: Tensor, top: int) -> list[PhraseBoxes]:
        positive_EL = self._positive(query, logit_QL.shape[1])
        score_QE = phrase_scores(logit_QL, torch.from_numpy(positive_EL))
        pixel_Q4 = (box_Q4 * torch.tensor([shape[1], shape[0], shape[1], shape[0]])).numpy()
        boxes = []
        for score_Q in score_QE.T:
            order = score_Q.sort(descending=True, stable=True).indices[:top].numpy()
            boxes.append(PhraseBoxes(pixel_Q4[order], score_Q.numpy()[order]))
        return boxes

    # ------------------------------------------------------------ kept

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, README.md and the tokenizer, replacing the whole folder."""
        model = self.model
        config = {
            "kind": self.kind,
            "name": self.name,
            "backbone": model.backbone.spec,
            "text": model.text.spec,
            "shape": to_plain(model.shape),
            "images": to_plain(self.images),
            "text_length": self.text_length,
            "prompt": to_plain(self.prompt),
            "objects": list(self.objects),
            "card": self.card,
        }
        write_model(folder, model, config, self._readme(), self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the detector from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            model = cls._built(config)
        load_weights(model, folder)
        return cls(
            model.eval(),
            Tokenizer.load(Path(folder)),
            config["text_length"],
            from_plain(DetectionPreprocess, config["images"]),
            config["name"],
            prompt=from_plain(PhrasePrompt, config["prompt"]),
            objects=config["objects"],
            card=config.get("card"),
        )

    @staticmethod
    def _built(config: Mapping[str, Any]) -> Any:
        """The module that a folder's settings mean, with fresh weights."""
        backbone, text = detection_backbone(**config["backbone"]), text_tower(**config["text"])
        return GroundingDetector(backbone, text, from_plain(GroundingConfig, config["shape"]))

    def _about(self) -> str:
        shape = self.model.shape
        return f"{shape.queries} queries, {len(shape.fusion_before)} meetings of image and text"

    def _readme(self) -> str:
        return detector_card(
            self.name,
            self.card,
            tags=("visual-grounding",),
            about="Finds in images what phrases of a text mean.",
            facts=f"{parameters(self.model):,} parameters; {self._about()}; "
            f"images at {self.images.size} px, texts of {self.text_length} tokens.",
            use='found = diptych.ground(model, "street.jpg", "the red car left of the tree")',
        )
