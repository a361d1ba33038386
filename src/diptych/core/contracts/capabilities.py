"""Capabilities of a trained model, as protocols. Tasks and indexes require a capability, never a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from diptych.core.contracts.picture_generation import ImageGenerator as ImageGenerator
from diptych.core.contracts.room_capabilities import (
    PointSegmenter as PointSegmenter,
)
from diptych.core.contracts.room_capabilities import (
    RoomAnswerer as RoomAnswerer,
)
from diptych.core.contracts.room_capabilities import (
    RoomDescriber as RoomDescriber,
)
from diptych.core.contracts.room_capabilities import (
    RoomDetector as RoomDetector,
)
from diptych.core.contracts.room_capabilities import (
    RoomGrounder as RoomGrounder,
)
from diptych.core.grounding import PhraseBoxes, PhraseQuery
from diptych.core.image import ImageSource
from diptych.core.media import MediaItem
from diptych.core.prompt import PromptLike
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, SceneGraph

Unit = npt.NDArray[np.float32]  # [N, D], rows of norm 1


@runtime_checkable
class Embedder(Protocol):
    """Images and texts in one space. Rows are unit-norm float32 in the order given."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Changes with the weights or the preprocessing; an index refuses to mix two of them."""

    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit: ...

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit: ...


@runtime_checkable
class Classifier(Protocol):
    """Scores of the classes that it was trained on: float32 [N, K], a column for each of `classes`, higher is more likely."""

    @property
    def classes(self) -> Sequence[str]: ...

    def classify(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.float32]: ...


@runtime_checkable
class TokenEmbedder(Protocol):
    """Token embeddings of images and texts: lists of [P, D] patch and [L, D] token arrays, rows unit-norm, without padding."""

    def embed_patches(self, images: Sequence[ImageSource]) -> list[Unit]: ...

    def embed_words(self, texts: Sequence[str]) -> list[Unit]: ...


@runtime_checkable
class ContextEmbedder(Protocol):
    """Word embeddings in the context of the whole text: for each text its words in order, each with an array [T, D] of its tokens, rows
    unit-norm; [0, D] for a word that was cut off.
    """

    def embed_in_context(self, texts: Sequence[str]) -> list[list[tuple[str, Unit]]]: ...


@runtime_checkable
class PairScorer(Protocol):
    """Image-text matching scores of models without comparable vectors: late interaction and cross-encoders."""

    def score_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
    ) -> npt.NDArray[np.float32]:
        """Scores [N images, K texts], higher fits better.

        `query` is the side that retrieves: with "image" the texts of a row are compared with each other, with "text" the images of a
        column. Models with symmetric scores ignore it.
        """
        ...


@runtime_checkable
class FusedEmbedder(Protocol):
    """One vector, unit-norm, of an image and a text that belong together, as the text reads the image: [N, D]."""

    def embed_pairs(self, images: Sequence[ImageSource], texts: Sequence[str], *, batch_size: int = 64) -> Unit: ...


@runtime_checkable
class PairJudge(PairScorer, Protocol):
    """A `PairScorer` with a decision threshold: a pair matches if its score is above `fits_above` (0 for log-odds)."""

    @property
    def fits_above(self) -> float: ...


@runtime_checkable
class DenseEmbedder(Protocol):
    """Dense feature map of an image tower before any projection: float32 [N, rows, columns, D], for probes."""

    def embed_dense(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.float32]: ...


@runtime_checkable
class LexicalEmbedder(Protocol):
    """Sparse weights over a vocabulary: a dict term -> weight > 0 for each input."""

    def lexicalise_images(self, images: Sequence[ImageSource]) -> list[dict[str, float]]: ...

    def lexicalise_texts(self, texts: Sequence[str]) -> list[dict[str, float]]: ...


@runtime_checkable
class WordRanker(Protocol):
    """Words of a fixed vocabulary ranked by how well they fit an image: indices into `words`, best first, int64 [N, V]."""

    @property
    def words(self) -> Sequence[str]: ...

    def rank_words(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.int64]: ...


@runtime_checkable
class WordMapper(Protocol):
    """Relevance maps of words over an image, float32 [W, rows, columns]: for each mapping of terms to weights the sum over its terms of
    weight times the term's activation in that part of the picture alone.
    """

    def map_words(self, image: ImageSource, weights: Sequence[Mapping[str, float]]) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True, eq=False)
class MatchMap:
    """Attention map of each token of a text over an image, when a model scored whether they match.

    score       log-odds that they fit
    weight_LHW  float32 [tokens, rows, columns], 0 or more; marks of begin and end are among the tokens, padding is not
    offset_L2   int64, the characters [start, stop) of the text that each token stands for; (0, 0) for a mark
    box         part of the picture under the grid: x0, y0, x1, y1 as shares of its sides
    """

    score: float
    weight_LHW: npt.NDArray[np.float32]
    offset_L2: npt.NDArray[np.int64]
    box: tuple[float, float, float, float]


@runtime_checkable
class MatchMapper(Protocol):
    """Attention maps for the match of an image with each text. `layer` is one of those with cross-attention, from 0; None takes the
    model's own choice.
    """

    def map_match(self, image: ImageSource, texts: Sequence[str], *, layer: int | None = None) -> list[MatchMap]: ...


@runtime_checkable
class PhraseMapper(Protocol):
    """Maps of where each phrase fits in an image: float32 [H, W] in the frame of the image, NaN where the model does not look."""

    def map_phrases(self, image: ImageSource, phrases: Sequence[str]) -> list[npt.NDArray[np.float32]]: ...


@runtime_checkable
class Detector(Protocol):
    """Regions and relations for the given names, as one `SceneGraph` an image. Those that read names as text take phrases as well
    ("the red cup left of the plate").

    An image has the `top` best of what was asked for with a score above `threshold`: relations, or where none are asked for, regions.
    `batch_size` is how many images (or texts to one image) go through the model at once and changes no answer.
    """

    def detect(
        self,
        images: Sequence[ImageSource],
        *,
        objects: Sequence[str],
        relations: Sequence[str] = (),
        top: int = 100,
        threshold: float = 0.0,
        batch_size: int = 16,
    ) -> list[SceneGraph]: ...


@runtime_checkable
class Grounder(Protocol):
    """Boxes for the phrases of a text, one query per image: a list of `PhraseBoxes` for each, in the order of its phrases.

    A phrase is read within its text. Every phrase gets up to `top` boxes, however low their score; their scores can be compared within
    an image, and over images as far as the model's can.
    """

    def ground(
        self, images: Sequence[ImageSource], queries: Sequence[PhraseQuery], *, top: int = 100, batch_size: int = 16
    ) -> list[list[PhraseBoxes]]: ...


@runtime_checkable
class Relater(Protocol):
    """Relations between regions that are given: the same regions in the same order, one `SceneGraph` an image.

    With `labels_known` the labels of the regions are true and stay; without, they are "" and the model fills in names of
    `objects` and scores.
    """

    def relate(
        self,
        images: Sequence[ImageSource],
        regions: Sequence[Sequence[Region]],
        *,
        objects: Sequence[str],
        relations: Sequence[str],
        labels_known: bool,
    ) -> list[SceneGraph]: ...


@runtime_checkable
class Segmenter(Protocol):
    """Label maps int32 [H, W] at each image's own size; index into `labels`."""

    def segment(self, images: Sequence[ImageSource], labels: Sequence[str]) -> list[npt.NDArray[np.int32]]: ...


@runtime_checkable
class Generator(Protocol):
    """Text from images and prompts, one each: words about the picture, a list of parts, or a dialogue that awaits an answer
    (`core.prompt`). `images` are the first pictures that parts mean by their place; further ones a part brings itself. None goes with a
    prompt of text only. A model that cannot read a part, or no text without a picture, raises `DataError` and leaves nothing out in
    silence."""

    def generate(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64
    ) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class GenerationOutput:
    """Generated text and token counts of `Streamer.stream`.

    text           the whole text, as `Generator.generate` returns it
    prompt_tokens  tokens of picture and prompt
    new_tokens     tokens of the answer, its end token among them
    finished       True where the model ended it; False where `max_tokens` or the caller did
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    finished: bool


@runtime_checkable
class Streamer(Protocol):
    """Streaming text generation about one image, or from text only (None). The pieces together are the text that `Generator.generate`
    returns.

    `on_text` is called with each piece as soon as it is final, in the thread of the caller; where it returns False generation stops.
    `temperature` 0 is greedy decoding; above, tokens are sampled under `seed`, from the most likely that add up to `top_p` (nucleus).
    """

    def stream(
        self,
        image: ImageSource | None,
        prompt: PromptLike,
        *,
        on_text: Callable[[str], bool],
        max_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> GenerationOutput: ...


@runtime_checkable
class Ranker(Protocol):
    """Log-likelihood of candidate answers to a prompt about an image, by the loss that training minimises.

    `candidates` holds a list for every image. For each an array [C, 2]: negative log-likelihood in nats, summed over the tokens of the
    candidate and the end mark after it, and how many tokens those are. Whether sums or means are compared is up to the caller. An image
    is None beside a prompt of text only, as of `Generator`.
    """

    def answer_nll(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], candidates: Sequence[Sequence[str]]
    ) -> list[npt.NDArray[np.float64]]: ...


@dataclass(frozen=True, slots=True, eq=False)
class LayerStates:
    """Hidden states of a language model for one row, float32: visual_EKD of the K tokens of its picture, text_ETD of all T tokens after
    them, in E layers.
    """

    visual_EKD: npt.NDArray[np.float32]
    text_ETD: npt.NDArray[np.float32]


@runtime_checkable
class LayerReader(Protocol):
    """Hidden states of a language model that reads a picture and then a text.

    `depth` is the number of layers; `layers` selects some of them, from 1, and the last one is taken after the final norm. Rows come
    in order, one an image, so that not all have to be held at once. `template` is the text before the row's own, with "{image}" where the
    picture goes; "" takes the model's own.
    """

    @property
    def depth(self) -> int: ...

    def read_layers(
        self,
        images: Sequence[ImageSource],
        texts: Sequence[str],
        *,
        layers: Sequence[int],
        template: str = "",
        batch_size: int = 8,
    ) -> Iterator[LayerStates]: ...


@runtime_checkable
class PointEmbedder(Protocol):
    """Embeddings of point clouds [P, 3 + F] in the space of the texts."""

    def embed_points(self, clouds: Sequence[npt.NDArray[np.float32]]) -> Unit: ...


@runtime_checkable
class ClipEmbedder(Protocol):
    """Embeddings of videos in the space of the texts: media of the kind "clip", frames or one animated file, of which the model decodes
    as many frames as it reads.
    """

    def embed_clips(self, clips: Sequence[MediaItem]) -> Unit: ...


@runtime_checkable
class ClipScorer(Protocol):
    """Video-text matching scores of models that read the text beside each video: float32 [N, K], higher fits better.

    With several views (`views` stretches in time, `crops` places each) the answer is the mean over views of the softmax over texts.
    """

    def score_clips(
        self, clips: Sequence[MediaItem], texts: Sequence[str], *, views: int = 1, crops: int = 1
    ) -> npt.NDArray[np.float32]: ...


@runtime_checkable
class PictureChooser(Protocol):
    """Which picture of a set a text describes: for each set float32 [K], shares that sum to 1.

    propositions  the statements that each text makes; None: they are cut by rules
    ordered       for each set, whether the order of its pictures means something; None: of none
    """

    def choose_pictures(
        self,
        sets: Sequence[Sequence[ImageSource]],
        texts: Sequence[str],
        *,
        propositions: Sequence[Sequence[str]] | None = None,
        ordered: Sequence[bool] | None = None,
        batch_size: int = 32,
    ) -> list[npt.NDArray[np.float32]]: ...


@runtime_checkable
class Reasoner(Protocol):
    """Answers to problems (`extras["problem"]`), after each step of reasoning: for each sample a list over steps, each with the digit of
    every cell of a grid, or with the answer to a question. `steps` 0 takes as many as the model does by itself."""

    def reason(self, samples: Sequence[Sample], *, steps: int = 0, batch_size: int = 64) -> list[list[tuple[str, ...]]]: ...


@runtime_checkable
class GoalPredictor(Protocol):
    """Goals of sentences in pictures: (predicate, subject, object) for each pair, "unknown" for what is not to be seen."""

    def predict_goals(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, batch_size: int = 64
    ) -> list[tuple[str, str, str]]: ...


@runtime_checkable
class VectorIndex(Protocol):
    """The k nearest items to each query row, best first."""

    def search_vectors(self, query_QD: Unit, k: int = 10, *, where: Mapping[str, Any] | None = None) -> list[Any]: ...


class Deployable(Protocol):
    """Trained model for inference: has capabilities and is saved in one folder (`model/`).

    `save` writes config.json (with "kind" and "format"), model.safetensors, tokenizer files and README.md.
    """

    kind: ClassVar[str]

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Self: ...
