"""Models and pictures whose answers can be written down."""

from __future__ import annotations

import numpy as np

from diptych.core.image import ArrayImage
from diptych.data.media.transforms import Preprocess

AXES = {"red": 0, "green": 1, "blue": 2}


class Patches:
    """A patch is its mean colour, a word its colour; the input is a centre crop, cut 4 x 4."""

    name, fingerprint = "patches", "0"
    preprocess = Preprocess(16, resize="crop")

    def embed_patches(self, images):
        found = []
        for image in images:
            square = self.preprocess.square(image.pixels_HWC)
            patch_PD = square.reshape(4, 4, 4, 4, 3).mean(axis=(1, 3)).reshape(16, 3).astype(np.float32) + 1e-3
            found.append(patch_PD / np.linalg.norm(patch_PD, axis=1, keepdims=True))
        return found

    def embed_words(self, texts):
        return [np.eye(3, dtype=np.float32)[[AXES[word] for word in text.split()]] for text in texts]


class Mean:
    """One vector a picture: its mean colour."""

    name, fingerprint = "mean", "0"

    def embed_images(self, images, *, batch_size: int = 64):
        rows = np.stack([image.pixels_HWC.reshape(-1, 3).mean(0) for image in images]).astype(np.float32) + 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_texts(self, texts, *, batch_size: int = 256):
        rows = np.stack([np.eye(3, dtype=np.float32)[[AXES[word] for word in text.split()]].sum(0) for text in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def corner(size: int = 16) -> np.ndarray:
    """Blue, with a red quarter at the top left."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[: size // 2, : size // 2] = (255, 0, 0)
    return pixels


WORDS = ("circle", "square", "red", "blue", "hat")
ITEMS = ("red circle", "blue circle", "red square", "blue square", "red circle hat", "blue circle hat")


def bag(text: str) -> np.ndarray:
    vector = np.array([float(word in text.split()) for word in WORDS], np.float32)
    return vector / np.linalg.norm(vector)


class HandMade:
    """Texts and images are sums of their words' directions; an image carries its words in its name."""

    name, fingerprint = "hand-made", "1"

    def embed_images(self, images, *, batch_size: int = 64) -> np.ndarray:
        return np.stack([bag(image.name) for image in images])

    def embed_texts(self, texts, *, batch_size: int = 256) -> np.ndarray:
        return np.stack([bag(text) for text in texts])


def image(words: str) -> ArrayImage:
    return ArrayImage(np.zeros((2, 2, 3), np.uint8), words)


SPACE = np.stack([bag(item) for item in ITEMS])
