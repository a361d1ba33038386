"""What a trained model can do. Tasks and indexes ask for a capability, never for a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from diptych.core.grounding import Grounded, PhraseQuery
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
    """Scores of the classes that it was trained on: float32 [N, K], a column for each of `classes`, higher is likelier."""

    @property
    def classes(self) -> Sequence[str]: ...

    def classify(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.float32]: ...


@runtime_checkable
class TokenEmbedder(Protocol):
    """Per patch and per word: lists of [P, D] and [L, D] arrays, rows unit-norm, padding left out."""

    def embed_patches(self, images: Sequence[ImageSource]) -> list[Unit]: ...

    def embed_words(self, texts: Sequence[str]) -> list[Unit]: ...


@runtime_checkable
class ContextEmbedder(Protocol):
    """Which of a text's tokens make up each of its words: for each text its words, in order, with an array [T, D] for each, rows
    unit-norm; [0, D] for a word that was cut off. Tokens are those of the whole text, so that a word is read beside the others."""

    def embed_in_context(self, texts: Sequence[str]) -> list[list[tuple[str, Unit]]]: ...


@runtime_checkable
class PairScorer(Protocol):
    """How well images and texts fit, where no pair of vectors says it: late interaction, and models that read both at once."""

    def score_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
    ) -> npt.NDArray[np.float32]:
        """[N images, K texts], higher fits better. `query` says who asks: with "image" the texts of a row are compared with each other,
        with "text" the images of a column. Models that score both ways alike pass over it."""
        ...


@runtime_checkable
class FusedEmbedder(Protocol):
    """One vector, unit-norm, of an image and a text that belong together, as the text reads the image: [N, D]."""

    def embed_pairs(self, images: Sequence[ImageSource], texts: Sequence[str], *, batch_size: int = 64) -> Unit: ...


@runtime_checkable
class PairJudge(PairScorer, Protocol):
    """A `PairScorer` that also says yes or no: a pair fits if its score is above `fits_above` (0 where scores are log-odds)."""

    @property
    def fits_above(self) -> float: ...


@runtime_checkable
class DenseEmbedder(Protocol):
    """What an image tower says of each place, before any projection: float32 [N, rows, columns, D], for probes."""

    def embed_dense(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.float32]: ...


@runtime_checkable
class LexicalEmbedder(Protocol):
    """Sparse weights over a vocabulary: a dict term -> weight > 0 for each input."""

    def lexicalise_images(self, images: Sequence[ImageSource]) -> list[dict[str, float]]: ...

    def lexicalise_texts(self, texts: Sequence[str]) -> list[dict[str, float]]: ...


@runtime_checkable
class WordRanker(Protocol):
    """Which words of a fixed vocabulary fit an image: places in `words`, the best first, int64 [N, V]."""

    @property
    def words(self) -> Sequence[str]: ...

    def rank_words(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.int64]: ...


@runtime_checkable
class WordMapper(Protocol):
    """Where in a picture words stand: float32 [W, rows, columns], for each mapping of terms to weights the sum over its terms of weight
    times what that part of the picture alone says of the term."""

    def map_words(self, image: ImageSource, weights: Sequence[Mapping[str, float]]) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True, eq=False)
class MatchMap:
    """Where in a picture the tokens of a text were read when a model said whether both fit.

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
    """Which parts of a picture account for the match with each text. `layer` is one of those in which the text reads the picture, from 0;
    None takes the model's own choice."""

    def map_match(self, image: ImageSource, texts: Sequence[str], *, layer: int | None = None) -> list[MatchMap]: ...


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
    """Boxes for the phrases of a text, one query an image: a list of `Grounded` for each, in the order of its phrases.

    A phrase is read within its text. Every phrase gets up to `top` boxes, however low their score; their scores can be compared within
    an image, and over images as far as the model's can.
    """

    def ground(
        self, images: Sequence[ImageSource], queries: Sequence[PhraseQuery], *, top: int = 100, batch_size: int = 16
    ) -> list[list[Grounded]]: ...


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
    (`core.prompt`). `images` are the first pictures that parts mean by their place; further ones a part brings itself. A model that cannot
    read a part raises `DataError` and leaves nothing out in silence."""

    def generate(self, images: Sequence[ImageSource], prompts: Sequence[PromptLike], *, max_tokens: int = 64) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Written:
    """What `Streamer.stream` wrote.

    text     the whole, as `Generator.generate` gives it
    read     tokens of picture and prompt
    written  tokens of the answer, its end mark among them
    ended    whether the model ended it; False where `max_tokens` or whoever listened did
    """

    text: str
    read: int
    written: int
    ended: bool


@runtime_checkable
class Streamer(Protocol):
    """Text about one image, piece by piece while it is written. The pieces together are the text that `Generator.generate` gives.

    `heard` gets each piece as soon as it stands for good, in the thread of the caller; where it returns False nothing more is written.
    `temperature` 0 takes the likeliest token each time; above, tokens are drawn under `seed`, from the likeliest that add up to `top_p`.
    """

    def stream(
        self,
        image: ImageSource,
        prompt: PromptLike,
        *,
        heard: Callable[[str], bool],
        max_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Written: ...


@runtime_checkable
class Ranker(Protocol):
    """How well candidates answer a prompt about an image, by their likelihood: the same number that training minimises.

    `candidates` holds a list for every image. For each an array [C, 2]: negative log-likelihood in nats, summed over the tokens of the
    candidate and the end mark behind it, and how many tokens those are. Whether sums or means are compared is up to the caller.
    """

    def answer_nll(
        self, images: Sequence[ImageSource], prompts: Sequence[PromptLike], candidates: Sequence[Sequence[str]]
    ) -> list[npt.NDArray[np.float64]]: ...


@dataclass(frozen=True, slots=True, eq=False)
class LayerStates:
    """What layers of a language model make of one row, float32: visual_EKD of the K tokens of its picture, text_ETD of all T tokens behind
    them, in E layers."""

    visual_EKD: npt.NDArray[np.float32]
    text_ETD: npt.NDArray[np.float32]


@runtime_checkable
class LayerReader(Protocol):
    """The states of a language model that reads a picture and then a text.

    `depth` is how many layers there are; `layers` asks for some of them, from 1, and the last one is taken behind the final norm. Rows come
    in order, one an image, so that not all have to be held at once. `template` is what stands before the text, with "{image}" where the
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
    """Point clouds [P, 3 + F] into the space of the texts."""

    def embed_points(self, clouds: Sequence[npt.NDArray[np.float32]]) -> Unit: ...


@runtime_checkable
class ClipEmbedder(Protocol):
    """Videos into the space of the texts: media of the kind "clip", frames or one animated file, of which the model decodes as many
    frames as it reads."""

    def embed_clips(self, clips: Sequence[MediaItem]) -> Unit: ...


@runtime_checkable
class ClipScorer(Protocol):
    """How well videos and texts fit, where a text is read beside each video: float32 [N, K], higher fits better.

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
class VectorIndex(Protocol):
    """The k nearest items to each query row, best first."""

    def search_vectors(self, query_QD: Unit, k: int = 10, *, where: Mapping[str, Any] | None = None) -> list[Any]: ...


class Deployable(Protocol):
    """What stays of a run when training is over: answers capabilities and lives in one folder (`model/`).

    `save` writes config.json (with "kind" and "format"), model.safetensors, tokenizer files and README.md.
    """

    kind: ClassVar[str]

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Self: ...
