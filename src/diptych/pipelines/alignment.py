"""Word-to-patch alignment: for each word of a text, a grid of weights over the image.

For a model that embeds patches and words, the weight of a patch is its cosine with the word (FILIP, 2111.07783, figure 3).
A model that maps words to tokens embeds each word within its text, other models embed each word by itself; the row of the whole
text is the mean over its tokens. A lexical model gives the weight of each vocabulary entry at each patch; a word of the text uses
the entries that it is tokenised into. For any other embedder occlusion is used (Zeiler & Fergus, 1311.2901): a part of the image
is covered with the image's mean colour, and its weight is the decrease of the image-text cosine. Occlusion shows what the
embedding depends on, which need not be the location of the object.

Letters: W texts (the whole one, then its words), H W rows and columns of the grid, P patches, T tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.contracts import ContextEmbedder, Embedder, LexicalEmbedder, Role, TokenEmbedder, Unit, WordMapper
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage, ImageSource
from diptych.data.media.decode import Pixels, decode
from diptych.data.media.transforms import Share, visible_share

Method = Literal["patches", "lexicon", "occlusion"]
WORDS = 24  # of a text that are shown
SIDE = 768  # pixels: pictures with a longer side are made smaller before they are covered


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Word-to-region alignment of a picture and a text, from `align`.

    method      "patches", "lexicon" or "occlusion"
    score       of picture and text: for patches the mean over tokens of the best cosine, else the cosine
    words       the whole text first, then its words
    weight_WHW  float32; for patches cosines, for a lexicon what each patch by itself would add to the cosine, for occlusion how much the
                cosine falls (below 0: it rises)
    box         part of the picture under the grid: x0, y0, x1, y1 as shares of its sides (below 0 or above 1: padding)
    """

    method: Method
    score: float
    words: tuple[str, ...]
    weight_WHW: npt.NDArray[np.float32]
    box: Share

    def lines(self) -> list[str]:
        """Lines to print: the score, then the position of each word's highest weight, as row and column of the grid from 1."""
        rows, columns = self.weight_WHW.shape[1:]
        width = max(map(len, self.words))
        best_W = self.weight_WHW.reshape(len(self.words), -1).argmax(axis=1)
        positions = [(1 + int(best) // columns, 1 + int(best) % columns) for best in best_W]
        return [
            f"score {self.score:.3f}, by {self.method} on a grid of {rows} x {columns}",
            *(
                f"  {word:<{width}}  {grid_HW.max():6.3f} in row {row}, column {column}"
                for word, grid_HW, (row, column) in zip(self.words, self.weight_WHW, positions, strict=True)
            ),
        ]

    def to_json(self) -> dict[str, Any]:
        rows, columns = self.weight_WHW.shape[1:]
        weights = self.weight_WHW.astype(float).round(5).tolist()
        sizes = {"rows": rows, "columns": columns, "box": list(self.box)}
        return {"method": self.method, "score": self.score, "words": list(self.words), "weights": weights, **sizes}


@dataclass(frozen=True)
class TextOnPicture:
    """A picture and the text to be aligned with it.

    image  the picture
    text   to be aligned with it
    """

    image: ImageSource
    text: str


@dataclass(frozen=True)
class Align:
    """Word-to-patch alignment of a picture and a text.

    model  that embeds both; patches and words, or pictures and texts
    grid   parts per side that occlusion covers, one after the other: costs grid * grid + 1 embeddings
    """

    slug: ClassVar[str] = "alignment"
    roles: ClassVar[tuple[Role, ...]] = (Role("model", TokenEmbedder | Embedder, "the model that is asked"),)
    request: ClassVar[type] = TextOnPicture

    model: TokenEmbedder | Embedder
    grid: int = 7

    def run(self, request: TextOnPicture) -> Alignment:
        return align(self.model, request.image, request.text, grid=self.grid)


def align(model: Any, image: ImageSource, text: str, *, grid: int = 7) -> Alignment:
    """Word-to-patch alignment of a text and a picture.

    grid  parts per side that occlusion covers, one after the other: costs grid * grid + 1 embeddings
    Raises ConfigError for a model that embeds neither tokens nor pictures and texts.
    """
    words = (text, *list(dict.fromkeys(text.split()))[:WORDS])
    words = words[:1] if words[1:] == (text,) else words
    if isinstance(model, TokenEmbedder):
        return _by_patches(model, image, words)
    if isinstance(model, LexicalEmbedder) and isinstance(model, WordMapper):
        return _by_lexicon(model, image, words)
    if isinstance(model, Embedder):
        if grid < 2:
            raise ConfigError(f"grid is {grid} (expected 2 or more parts per side)")
        return _by_occlusion(model, image, words, grid)
    raise ConfigError(f"{getattr(model, 'name', model)} cannot compare images with texts (expected a model that embeds both)")


def _by_patches(model: TokenEmbedder, image: ImageSource, words: Sequence[str]) -> Alignment:
    patch_PD = model.embed_patches([image])[0]
    side = math.isqrt(len(patch_PD))
    if side * side != len(patch_PD):
        raise ConfigError(f"{len(patch_PD)} patches do not form a square grid")
    tokens = _tokens(model, words)
    words = list(tokens)
    cosine_WTP = [token_TD @ patch_PD.T for token_TD in tokens.values()]
    weight_WP = np.stack([cosine_TP.mean(axis=0) for cosine_TP in cosine_WTP])
    score = float(cosine_WTP[0].max(axis=1).mean())
    height, width = decode(image, exact=True).shape[:2]
    box = visible_share(getattr(model, "preprocess", None), width, height)
    return Alignment("patches", score, tuple(words), weight_WP.reshape(-1, side, side).astype(np.float32), box)


def _tokens(model: TokenEmbedder, words: Sequence[str]) -> dict[str, Unit]:
    """Token embeddings of the whole text and of the first occurrence of each word; truncated words are left out."""
    if len(words) == 1 or not isinstance(model, ContextEmbedder):
        return dict(zip(words, model.embed_words(list(words)), strict=True))
    whole = words[0]
    tokens = {whole: model.embed_words([whole])[0]}
    for word, token_TD in model.embed_in_context([whole])[0]:
        if len(token_TD):
            tokens.setdefault(word, token_TD)
    return dict(list(tokens.items())[: 1 + WORDS])


def method_of(model: Any) -> Method | None:
    """Method that `align` uses for this model; None if the model is not supported."""
    if isinstance(model, TokenEmbedder):
        return "patches"
    if isinstance(model, LexicalEmbedder) and isinstance(model, WordMapper):
        return "lexicon"
    return "occlusion" if isinstance(model, Embedder) else None


def _by_lexicon(model: Any, image: ImageSource, words: Sequence[str]) -> Alignment:
    """Alignment with a lexical model; words without any vocabulary entry are left out."""
    weights = {words[0]: _unit(model.lexicalise_texts([words[0]])[0])}
    for word in words[1:]:
        try:
            weights[word] = _unit(model.lexicalise_texts([word])[0])
        except DataError:
            continue
    picture = model.lexicalise_images([image])[0]
    length = math.sqrt(sum(weight * weight for weight in picture.values())) or 1.0
    score = sum(weight * picture.get(term, 0.0) for term, weight in weights[words[0]].items()) / length
    height, width = decode(image, exact=True).shape[:2]
    grids = model.map_words(image, list(weights.values())) / np.float32(length)
    return Alignment("lexicon", score, tuple(weights), grids, visible_share(getattr(model, "preprocess", None), width, height))


def _unit(weights: Mapping[str, float]) -> dict[str, float]:
    length = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
    return {term: weight / length for term, weight in weights.items()}


def _by_occlusion(model: Embedder, image: ImageSource, words: Sequence[str], grid: int) -> Alignment:
    pixels_HWC = _small(decode(image, exact=True))
    pictures = [pixels_HWC, *covered(pixels_HWC, grid)]
    image_ND = model.embed_images([ArrayImage(picture, f"part {row}") for row, picture in enumerate(pictures)])
    text_WD: Unit = model.embed_texts(list(words))
    cosine_WN = text_WD @ image_ND.T
    weight_WP = cosine_WN[:, :1] - cosine_WN[:, 1:]
    grids = weight_WP.reshape(len(words), grid, grid).astype(np.float32)
    return Alignment("occlusion", float(cosine_WN[0, 0]), tuple(words), grids, (0.0, 0.0, 1.0, 1.0))


def covered(pixels_HWC: Pixels, grid: int) -> list[Pixels]:
    """Returns grid * grid copies of an image, each with a different cell filled with the mean colour, row by row."""
    height, width = pixels_HWC.shape[:2]
    mean_C = pixels_HWC.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    rows = [round(height * part / grid) for part in range(grid + 1)]
    columns = [round(width * part / grid) for part in range(grid + 1)]
    pictures = []
    for row in range(grid):
        for column in range(grid):
            picture_HWC = pixels_HWC.copy()
            picture_HWC[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = mean_C
            pictures.append(picture_HWC)
    return pictures


def _small(pixels_HWC: Pixels) -> Pixels:
    if max(pixels_HWC.shape) <= SIDE:
        return pixels_HWC
    picture = Image.fromarray(pixels_HWC)
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)
