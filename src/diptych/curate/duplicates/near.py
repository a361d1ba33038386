"""Drop near-duplicate images: resized, recompressed or slightly retouched copies of one that is kept.

The rule is greedy: rows are taken from the largest image down (then by uid), and one is dropped only when an image that is *kept*
is near. So no chain of small steps carries off what is far from everything kept, and the result depends neither on the order of
rows nor on how they were spread. Every drop names the kept image and the distance.

Two measures of near:

`NearDuplicates`            a 64-bit perceptual hash (signs of low frequencies of a 32 x 32 grey thumbnail) finds candidates, a
                            colour thumbnail confirms: the hash alone takes a red disc for a green one. Needs nothing trained.
`NearDuplicateEmbeddings`   cosine in the space of an embedder: also finds crops and redrawings, and what merely means the same.

Cost: one decode (one embedding) a row, then comparisons with what is kept: hashes by an exact index whose pieces grow with the pool
(`hamming`), embeddings inside clusters, N^1.5 in all. Crops and mirrors differ in most bits of the hash: `semantic_duplicates` is for
those. Rows without an image stay; texts are never looked at.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset, Embedder, Unit
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.terminal.progress import with_bar
from diptych.curate.duplicates.clusters import greedy_duplicates, kmeans_centres, nearest_centres
from diptych.curate.duplicates.hamming import CodeRuns, Codes, Ints
from diptych.curate.duplicates.result import NearPairs, duplicates_result
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import embed_pool
from diptych.curate.engine.images import image_facts
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.verdicts import StringColumn
from diptych.data.media.decode import decode
from diptych.data.ragged import one_chunk

SIDE = 32  # of the grey thumbnail that is hashed
COLOUR_SIDE = 16  # of the colour thumbnail that confirms
COLOURS = 3 * COLOUR_SIDE**2
QUANTUM = 4.0  # frequencies are rounded to this before their signs are taken, so that a flat image has a stable hash
BLOCK = 512  # rows that are compared at a time
EXACT = 5_000  # embeddings below which all are compared with all
SAMPLE_EACH = 64  # rows a cluster on which k-means is fitted
HASHES = pa.schema([("bits", pa.uint64()), ("colour", pa.binary(COLOURS)), ("area", pa.int64())])


@dataclass(frozen=True, slots=True)
class ImageHash:
    """Perceptual hash of an image: 64 bits, a colour thumbnail uint8 [16, 16, 3], and its pixel count."""

    bits: int
    colour_HWC: npt.NDArray[np.uint8]
    area: int


def hash_image(image: ImageSource) -> ImageHash:
    """Image hash from a decoded image."""
    from PIL import Image
    from scipy.fft import dctn

    pixels = decode(image)
    picture = Image.fromarray(pixels)
    grey = np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    colour = np.asarray(picture.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX))
    low = np.round(dctn(grey, norm="ortho")[:8, :8].ravel() / QUANTUM)
    signs = low > np.median(low[1:])  # without the mean, which is brightness
    return ImageHash(int.from_bytes(np.packbits(signs).tobytes(), "big"), colour, pixels.shape[0] * pixels.shape[1])


@dataclass(frozen=True)
class NearDuplicates:
    """bits    maximum number of different bits, of 64, between hashes of candidates; 0..16
    colour  maximum mean difference of the colour thumbnails, 0..255, of a duplicate
    """

    slug: ClassVar[str] = "near_duplicates"

    bits: int = 6
    colour: float = 8.0

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= 16:
            raise ConfigError(f"bits is {self.bits} (expected 0..16 of 64)")
        if not 0 <= self.colour <= 255:
            raise ConfigError(f"colour is {self.colour} (expected 0..255)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        return estimate_cost(data, hash_image, unit="decode and hash")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from hashes that an earlier run has computed."""
        start = time.perf_counter()
        facts, unreadable = _largest_first(image_facts(data, parts, _hash_columns, HASHES, "hashes"))
        colour_ND = np.frombuffer(one_chunk(facts["colour"]).buffers()[1], np.uint8).reshape(-1, COLOURS)
        uids = StringColumn(one_chunk(facts["uid"]))
        near = greedy_hashes(facts["bits"].to_numpy(), colour_ND, uids, bits=self.bits, colour=self.colour)
        bits_N = facts["bits"].to_numpy()
        apart_P = np.bitwise_count(bits_N[near.gone()] ^ bits_N[near.kept()])
        alike = (
            f"{bits} of 64 bits and {colour:.1f} of 255 in colour" for bits, colour in zip(apart_P, near.alike(), strict=True)
        )
        return duplicates_result(
            data, self.slug, uids.column, near, alike, column="duplicate_of", start=start, unreadable=unreadable
        )


@dataclass(frozen=True)
class NearDuplicateEmbeddings:
    """cosine    minimum cosine of duplicates
    clusters  number of k-means clusters within which rows are compared; 0: the square root of the number of rows, if there are at least
              `EXACT` rows; 1 compares all rows with each other
    probe     number of nearest clusters in which a row is compared; with 1, pairs across a cluster border are missed
    seed      seed of k-means
    """

    slug: ClassVar[str] = "near_duplicate_embeddings"

    embedder: Embedder = field()
    cosine: float = 0.95
    clusters: int = 0
    probe: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not -1 < self.cosine <= 1:
            raise ConfigError(f"cosine is {self.cosine} (expected above -1, at most 1)")
        if self.clusters < 0 or self.probe < 1:
            raise ConfigError(f"clusters is {self.clusters}, probe {self.probe} (expected 0 or more, 1 or more)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        return estimate_cost(data, lambda image: self.embedder.embed_images([image]), unit="embedding (one at a time)")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from sizes and embeddings that an earlier run has computed."""
        start = time.perf_counter()
        facts, unreadable = _largest_first(image_facts(data, parts, _area, pa.schema([("area", pa.int64())]), "sizes"))
        embeddings = embed_pool(data, self.embedder, parts)
        facts = facts.filter(pc.is_in(facts["uid"], value_set=pa.array(embeddings.uids, pa.string())))
        position = pc.index_in(one_chunk(facts["uid"]), value_set=pa.array(embeddings.uids, pa.string()))
        vector_ND = embeddings.vector_ND[position.to_numpy(zero_copy_only=False).astype(np.int64)]
        further = embeddings.unreadable.table
        further = further.filter(pc.invert(pc.is_in(further["uid"], value_set=one_chunk(unreadable["uid"]))))
        unreadable = pa.concat_tables([unreadable, further])
        near_NP = cluster_rows(vector_ND, self.clusters, self.probe, seed=self.seed)
        near = greedy_duplicates(vector_ND, range(len(vector_ND)), self.cosine, near_NP=near_NP)
        alike = (f"cosine {cosine:.3f}" for cosine in near.alike())
        return duplicates_result(
            data, self.slug, facts["uid"], near, alike, column="duplicate_of", start=start, unreadable=unreadable
        )


def cluster_rows(vector_ND: Unit, clusters: int, probe: int, *, seed: int = 0) -> Ints | None:
    """Nearest clusters of each row, [N, probe]; None if all rows are compared. 0 clusters: the square root of N from `EXACT` rows on."""
    count = len(vector_ND)
    clusters = clusters or (round(count**0.5) if count >= EXACT else 1)
    clusters = min(clusters, count)
    if clusters <= 1:
        return None
    sample = np.random.default_rng(seed).permutation(count)[: clusters * SAMPLE_EACH]
    centre_KD = kmeans_centres(vector_ND[np.sort(sample)], clusters, seed=seed)
    return nearest_centres(vector_ND, centre_KD, min(probe, clusters))


def greedy_hashes(
    code_N: Codes, colour_ND: npt.NDArray[np.uint8], names: Sequence[str], *, bits: int, colour: float
) -> NearPairs:
    """Greedy duplicates among hashes in the given order: dropped row -> (kept row, mean difference of colour).

    A row leaves for the kept one that is nearest in colour, then in bits, then first by name.

    code_N     perceptual hashes, uint64 [N]
    colour_ND  colour thumbnails, uint8 [N, D]
    """
    level_N = colour_ND.sum(1, dtype=np.int64)  # thumbnails that differ by c on average differ in their sum by c D at most
    kept = CodeRuns(bits, int(colour * colour_ND.shape[1]))
    out = NearPairs(len(code_N))
    starts = range(0, len(code_N), BLOCK)
    for start in with_bar(starts, len(starts), "comparing pictures", least=50):
        block = np.arange(start, min(start + BLOCK, len(code_N)))
        query_T, other_T = kept.pairs(code_N[block], level_N[block])
        apart_BB = np.bitwise_count(code_N[block][:, None] ^ code_N[block])
        later_T, earlier_T = np.nonzero(np.tri(len(block), k=-1, dtype=bool) & (apart_BB <= bits))
        row_T, other_T = np.concatenate([query_T + start, later_T + start]), np.concatenate([other_T, earlier_T + start])
        difference_T = _colour_differences(colour_ND, row_T, other_T)
        close_T = difference_T <= colour
        near: dict[int, list[tuple[float, int, str, int]]] = {}
        for row, other, difference in zip(*(a[close_T].tolist() for a in (row_T, other_T, difference_T)), strict=True):
            distance = (int(code_N[row]) ^ int(code_N[other])).bit_count()
            near.setdefault(row, []).append((difference, distance, names[other], other))
        for row in sorted(near):
            candidates = [match for match in near[row] if match[3] not in out]
            if candidates:
                difference, _, _, other = min(candidates)
                out.add(row, other, difference)
        stays = np.array([row for row in block.tolist() if row not in out], np.int64)
        kept.add(code_N[stays], level_N[stays], stays)
    return out


def _colour_differences(colour_ND: npt.NDArray[np.uint8], row_T: Ints, other_T: Ints) -> npt.NDArray[np.float64]:
    """Mean absolute difference of the thumbnails of each pair, 0..255."""
    parts = [np.zeros(0)]
    for start in range(0, len(row_T), BLOCK):
        one = colour_ND[row_T[start : start + BLOCK]].astype(np.int16)
        parts.append(np.abs(one - colour_ND[other_T[start : start + BLOCK]]).mean(1))
    return np.concatenate(parts)


def _hash_columns(image: ImageSource) -> tuple[int, bytes, int]:
    """Columns of `HASHES` of an image."""
    made = hash_image(image)
    return made.bits, made.colour_HWC.tobytes(), made.area


def _area(image: ImageSource) -> tuple[int]:
    """Number of pixels of an image, which has to be decodable."""
    return (int(np.prod(decode(image).shape[:2])),)


def _largest_first(facts: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Facts of the images that can be read, from the largest down, then by uid; and uid and reason of the others."""
    bad = facts.filter(pc.is_valid(facts["fault"]))
    unreadable = pa.table({"uid": bad["uid"], "reason": bad["fault"]})
    facts = facts.filter(pc.is_valid(facts["area"]))
    order = np.argsort(-facts["area"].to_numpy(), kind="stable")
    return facts.take(pa.array(order)).combine_chunks(), unreadable
