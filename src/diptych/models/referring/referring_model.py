"""Inference with a trained `ReferringBridge`: answers with boxes and masks of their references.  Letters: B batch,
N regions, R references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.core.grounding import PhraseBoxes, PhraseQuery
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.prompt import PromptLike, require_one_per_image, text_and_images_of_prompt
from diptych.core.scene_graph import Region, SceneGraph
from diptych.data.masks import Mask, encode
from diptych.data.media.decode import decode
from diptych.data.media.square_frame import SquareFrame, region_mask
from diptych.data.media.transforms import Preprocess
from diptych.data.text.prompts.layout import Layout, Piece, Side, TextPiece, lay_out
from diptych.data.text.prompts.referring_turns import AnswerForm, referring_row
from diptych.data.text.prompts.triplets import REFERENCE, REGION, TripletAnswer, Unit, read_answer
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.connectors import connector
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.detection.backbone import detection_backbone
from diptych.models.io.card import described_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts
from diptych.models.referring.point_decoder import DecodedPoints, TargetPointDecoder
from diptych.models.referring.referring_bridge import ReferringBridge
from diptych.models.referring.region_prompts import RegionPrompts
from diptych.models.referring.target_decoders import DecoderSize, TargetBoxDecoder, TargetMaskDecoder
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import image_tower


@dataclass(frozen=True)
class ReferringShape:
    """Configuration of the parts of a `ReferringBridge` other than encoder and language model, as plain values.

    connector  kind and options of the connector
    regions    options of `RegionPrompts`
    backbone   name and options of the image pyramid
    decoders   `DecoderSize`
    masks      whether there is a mask decoder
    points     key points of a body; 0: no decoder of them
    reference_id  id of the reference token
    """

    connector: Mapping[str, Any]
    regions: Mapping[str, Any]
    backbone: Mapping[str, Any]
    decoders: DecoderSize
    masks: bool
    reference_id: int
    points: int = 0

    def build(self, encoder: Tower, language: LanguageModel, **options: Any) -> ReferringBridge:
        """Build a bridge with newly initialised parts; `options` are those of `ReferringBridge`."""
        spec = dict(self.connector)
        made = connector(spec.pop("kind"), encoder.token_width, language.width, **spec)
        backbone = detection_backbone(**self.backbone)
        channels = [*backbone.channels, encoder.token_width]
        return ReferringBridge(
            encoder,
            made,
            language,
            regions=RegionPrompts(encoder.token_width, **self.regions),
            backbone=backbone,
            boxes=TargetBoxDecoder(channels, language.width, self.decoders),
            masks=TargetMaskDecoder(channels, language.width, self.decoders) if self.masks else None,
            points=TargetPointDecoder(channels, language.width, self.decoders, self.points) if self.points else None,
            reference_id=self.reference_id,
            **options,
        )


@dataclass(frozen=True, slots=True)
class ReferringAnswer:
    """Answer about a picture, with its references.

    read      its words, its triplets, and incomplete ones
    box_R4    float32 xyxy pixels of each reference in order; score_R: probability of each reference token
    masks     of each reference, bool [H, W], where its unit is "mask"; else None
    written   the text as it was written
    point_RK3 float32 key points of each reference: x, y in pixels, and 1 where they are visible, else 0; None without their decoder
    """

    read: TripletAnswer
    box_R4: npt.NDArray[np.float32]
    score_R: npt.NDArray[np.float32]
    masks: tuple[Mask | None, ...]
    written: str
    point_RK3: npt.NDArray[np.float32] | None = None

    def named(self, names: Sequence[str]) -> list[tuple[str, int]]:
        """Return name and number of each reference: the phrase of its triplet.

        If an answer has no phrases, the name is that of `names` which occurs last before the reference, "" for none.
        """
        if any(triplet.phrase for triplet in self.read.triplets):
            pairs = [(triplet.phrase, number) for triplet in self.read.triplets for number in triplet.references]
        else:
            pairs, before = [], ""
            for number, words in enumerate(self.written.split(REFERENCE)[:-1]):
                before += words
                last = max(names, key=before.rfind, default="")
                pairs.append((last if last in before else "", number))
        return [(phrase, number) for phrase, number in pairs if number < len(self.box_R4)]


class ReferringModel:
    """`Grounder`, `Detector` and `Generator`.

    A phrase is grounded by the boxes of all references in the answer to "Where is PHRASE?".
    `detect` finds objects of all given names in one answer; phrases that were not requested are dropped and counted in `unknown`.
    `refer` also accepts regions and returns masks.
    """

    kind: ClassVar[str] = "referring"

    def __init__(
        self,
        bridge: ReferringBridge,
        shape: ReferringShape,
        preprocess: Preprocess,
        large_size: int,
        vocabulary: LanguageVocabulary,
        template: str,
        form: AnswerForm,
        name: str,
        *,
        space: str = " ",
        length: int = 0,
        max_tokens: int = 512,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """template: with "{command}", "{image}" and "{prompt}"; max_tokens: of an answer; length:
        tokens per row, 0 for no limit
        """
        self.bridge, self.shape, self.preprocess, self.large_size = bridge, shape, preprocess, large_size
        self.vocabulary, self.template, self.form, self.name, self.space = vocabulary, template, form, name, space
        self.length, self.max_tokens, self.card, self.unknown = length, max_tokens, dict(card or {}), 0

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.bridge, {"preprocess": self.preprocess.to_json(), "template": self.template})

    # ------------------------------------------------------------ use

    def refer(
        self,
        images: Sequence[ImageSource],
        requests: Sequence[tuple[str, str]],
        *,
        regions: Sequence[Sequence[Sequence[float] | Mask]] = (),
        max_tokens: int = 0,
        batch_size: int = 16,
    ) -> list[ReferringAnswer]:
        """Answer requests about images, with the boxes and masks of their references.

        requests  command ("" for none) and request, as `AnswerForm` writes them; "[VPT]" stands for a region
        regions   those of each image's request: points, boxes or masks, in pixels
        Raises DataError for a region outside its picture, ConfigError where a request names more or fewer regions than are given.
        """
        require_one_per_image("requests", requests, images)
        given = list(regions) or [()] * len(images)
        require_one_per_image("lists of regions", given, images)
        for (_, request), own in zip(requests, given, strict=True):
            if request.count(REGION) != len(own):
                raise ConfigError(
                    f"{len(own)} regions for {request.count(REGION)} {REGION} in {request[:60]!r} (expected as many)"
                )
        answers: list[ReferringAnswer] = []
        with torch.no_grad(), evaluating(self.bridge):
            for some in parts(list(zip(images, requests, given, strict=True)), batch_size):
                answers += self._answers(some, max_tokens or self.max_tokens)
        return answers

    def _answers(self, some: Sequence[tuple[Any, tuple[str, str], Any]], max_tokens: int) -> list[ReferringAnswer]:
        device = next(self.bridge.parameters()).device
        decoded = [decode(image, exact=True) for image, _, _ in some]
        frames = [SquareFrame(pixels.shape[0], pixels.shape[1], self.preprocess.resize) for pixels in decoded]  # type: ignore[arg-type]
        image_BCHW = self.preprocess(decoded).to(device)
        large_BCHW = replace(self.preprocess, size=self.large_size)(decoded).to(device)
        region_BNHW, given_BN = self._regions(frames, [own for _, _, own in some])
        prompts = [referring_row(self.template, *request, self._patches, self.bridge.regions.count) for _, request, _ in some]
        asked = self._laid(prompts, side="left").to(device)
        embed_BLD = self.bridge.embed_request(image_BCHW, asked, region_BNHW, given_BN)
        written = self.bridge.language.write(embed_BLD, asked, self.vocabulary, max_tokens=max_tokens)
        whole = [[*row, TextPiece(self.space + text, answer=True)] for row, text in zip(prompts, written, strict=True)]
        most = min(self.shape.decoders.box_queries, max(1, *(text.count(REFERENCE) for text in written)))
        laid = self._laid(whole).to(device)
        made = self.bridge.refer(image_BCHW, large_BCHW, laid, most, region_BNHW, given_BN)
        return [self._answer(row, text, frames[row], made) for row, text in enumerate(written)]

    def _answer(self, row: int, text: str, frame: SquareFrame, made: Any) -> ReferringAnswer:
        read = read_answer(text)
        count = int(made.open_BR[row].sum())
        centre_R2, side_R2 = made.box_BR4[row, :count].float().cpu().split(2, -1)
        box_R4 = frame.to_pixels(torch.cat([centre_R2 - side_R2 / 2, centre_R2 + side_R2 / 2], -1).numpy())
        masks: list[Mask | None] = [None] * count
        for triplet in read.triplets:
            for number in triplet.references:
                if triplet.unit == "mask" and made.mask_BRHW is not None and number < min(count, made.mask_BRHW.shape[1]):
                    masks[number] = frame.mask_to_pixels(made.mask_BRHW[row, number].float().sigmoid().cpu().numpy())
        points = None if made.points is None else _points(made.points, row, count, frame)
        return ReferringAnswer(read, box_R4, made.chance_BR[row, :count].float().cpu().numpy(), tuple(masks), text, points)

    def ground(
        self, images: Sequence[ImageSource], queries: Sequence[PhraseQuery], *, top: int = 100, batch_size: int = 16
    ) -> list[list[PhraseBoxes]]:
        """Return boxes of the references in the answer for each phrase, highest score first; none if it has no reference."""
        asked = [(image, phrase) for image, query in zip(images, queries, strict=True) for phrase in query.words()]
        requests = [self.form.referring(phrase, "box") for _, phrase in asked]
        answers = iter(self.refer([image for image, _ in asked], requests, batch_size=batch_size))
        return [[_best(next(answers), top) for _ in query.phrases] for query in queries]

    @one_or_many
    def detect(
        self,
        images: Sequence[ImageSource],
        *,
        objects: Sequence[str],
        relations: Sequence[str] = (),
        top: int = 100,
        threshold: float = 0.0,
        batch_size: int = 16,
        unit: Unit = "box",
    ) -> list[SceneGraph]:
        """Detect objects of these names, with masks if the unit is "mask".
        Raises ConfigError for relations, which are not supported.
        """
        if relations:
            raise ConfigError(f"'{self.name}' does not predict relations (expected objects alone, or a run of rlipv2)")
        requests = [self.form.detection(objects, unit)] * len(images)
        graphs = []
        for answer in self.refer(images, requests, batch_size=batch_size):
            regions = []
            for phrase, number in answer.named(objects):
                if phrase not in objects:
                    self.unknown += 1
                    continue
                x0, y0, x1, y1 = (float(value) for value in answer.box_R4[number])
                mask, score = answer.masks[number], float(answer.score_R[number])
                if x1 > x0 and y1 > y0 and score > threshold:
                    regions.append(Region((x0, y0, x1, y1), phrase, (), score, None if mask is None else encode(mask)))
            graphs.append(SceneGraph(tuple(sorted(regions, key=lambda region: -region.score)[:top]), ()))
        return graphs

    @one_or_many
    def generate(
        self,
        images: Sequence[ImageSource],
        prompts: Sequence[PromptLike],
        *,
        max_tokens: int = 64,
        batch_size: int = 16,
    ) -> list[str]:
        """Return the generated answer for each image, with its special tokens."""
        words = [text_and_images_of_prompt(prompt, model=self.name, most=1)[0] for prompt in prompts]
        requests = [(self.form.command("vqa"), text or "Describe the picture.") for text in words]
        return [one.written for one in self.refer(images, requests, max_tokens=max_tokens, batch_size=batch_size)]

    @cached_property
    def _patches(self) -> int:
        with torch.no_grad():
            size = self.preprocess.size
            weight = next(self.bridge.encoder.parameters())
            return int(self.bridge.encoder(torch.zeros(1, 3, size, size).to(weight)).tokens_BPD.shape[1])

    def _laid(self, rows: Sequence[Sequence[Piece]], side: Side = "right") -> Layout:
        return lay_out(rows, self.vocabulary, length=self.length, side=side)

    def _regions(self, frames: Sequence[SquareFrame], regions: Sequence[Any]) -> tuple[Tensor | None, Tensor | None]:
        most = max(len(own) for own in regions)
        if not most:
            return None, None
        size = self.preprocess.size
        region_BNHW = np.zeros((len(frames), most, size, size), bool)
        given_BN = np.zeros((len(frames), most), bool)
        for row, (frame, own) in enumerate(zip(frames, regions, strict=True)):
            for number, region in enumerate(own):
                region_BNHW[row, number] = frame.mask_to_square(region_mask(region, frame.height, frame.width), size)
                given_BN[row, number] = True
        device = next(self.bridge.parameters()).device
        return torch.from_numpy(region_BNHW).to(device), torch.from_numpy(given_BN).to(device)

    # ------------------------------------------------------------ saved

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer files, README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "image_tower": self.bridge.encoder.spec,
            "language": self.bridge.language.config,
            "shape": asdict(self.shape),
            "preprocess": self.preprocess.to_json(),
            "large_size": self.large_size,
            "template": self.template,
            "form": asdict(self.form),
            "space": self.space,
            "length": self.length,
            "max_tokens": self.max_tokens,
            "start": bool(self.vocabulary.start_ids),
            "blind": self.bridge.blind,
            "card": self.card,
        }
        readme = described_card(
            self.name,
            self.card,
            tags=("visual-grounding", "image-segmentation"),
            about="Answers about a picture, with boxes and masks of what the answer names.",
            facts=f"{parameters(self.bridge):,} parameters; {self.preprocess.size} and {self.large_size} pixels.",
            use='graph = model.detect([image], objects=["circle"])[0]',
        )
        write_model(folder, self.bridge, config, readme, self.vocabulary.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote."""
        config = read_config(folder, cls.kind)
        shape = ReferringShape(**{**config["shape"], "decoders": DecoderSize(**config["shape"]["decoders"])})
        with torch.random.fork_rng(devices=[]):
            language = LanguageModel(config=config["language"])
            bridge = shape.build(image_tower(**config["image_tower"]), language, blind=config["blind"])
        load_weights(bridge, folder)
        return cls(
            bridge.eval(),
            shape,
            Preprocess.from_json(config["preprocess"]),
            config["large_size"],
            LanguageVocabulary(Tokenizer.load(folder), start=config["start"]),
            config["template"],
            AnswerForm(**config["form"]),
            config["name"],
            space=config["space"],
            length=config["length"],
            max_tokens=config["max_tokens"],
            card=config.get("card"),
        )


def _points(made: DecodedPoints, row: int, count: int, frame: SquareFrame) -> npt.NDArray[np.float32]:
    share_RK2 = made.point_BRK2[row, :count].float().cpu().numpy()
    pixel_RK2 = frame.to_pixels(np.concatenate([share_RK2, share_RK2], -1))[:, :2].reshape(share_RK2.shape)
    visible_RK = made.visible()[row, :count].float().cpu().numpy()
    return np.concatenate([pixel_RK2, visible_RK[..., None]], -1)


def _best(answer: ReferringAnswer, top: int) -> PhraseBoxes:
    order = np.argsort(-answer.score_R, kind="stable")[:top]
    return PhraseBoxes(answer.box_R4[order], answer.score_R[order])
