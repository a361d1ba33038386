"""Pictures with their graphs as one batch: padded pixels, padded boxes, pairs by index, several predicates of a pair in one row.

A box is (cx, cy, w, h) in shares of its own picture, padding not counted. Relations between the same two regions become one pair with
a multi-hot row over the relation names. A relation whose object is its subject has no object ("a person walks"): its object
box is zero and its object label is the background.

What implementations get wrong: pairs beyond the budget of queries cut by file order (here they are drawn); a list of names from
before the augmentation, which has another left and right; boxes in shares of the padded canvas.

Letters: B batch, C channels, H W pixels, K regions (padded), G pairs (padded), R relation names, T label texts, L tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.contracts import Draw, Draws
from diptych.core.errors import DataError
from diptych.core.rows import Rows
from diptych.core.scene_graph import Box, SceneGraph
from diptych.data.graphs.label_lists import LabelLists, ListSampler
from diptych.data.graphs.moved_mask import MovedMask
from diptych.data.graphs.pairs import PairTargets, RegionPairs
from diptych.data.graphs.region_noise import RegionNoise
from diptych.data.graphs.transforms import DetectionTransform, Picture
from diptych.data.load.batch import TensorBatch, pixels
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD, Pixels, Preprocess, Triple

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
TextInput = Callable[[Sequence[str]], tuple[Tensor, Tensor | None]]
"""Texts, each on its own, to token ids [T, L] and their mask, or to another representation [T, ...] and None."""

OUTSIDE = 1.0  # pixels by which a box may stick out of its picture


@dataclass(frozen=True, kw_only=True)
class GraphBatch(TensorBatch):
    """Training batch of a relation detector.

    image_BCHW        float32, normalised; zero on padding, which lies right and below
    pixel_BHW         True on pixels of the picture, False on padding
    size_B2           int64: height and width of each picture
    box_BK4           cxcywh in [0, 1]
    label_BK          int64: 0..C-2 by `lists.objects`; the background on padding
    region_mask_BK    True if there is a region
    pair_BG2          int64: subject and object as positions in K
    relation_BGR      float32, 0 or 1: by `lists.relations`
    confidence_BG     float32: of the most certain relation of the pair; 0 without one
    pair_mask_BG      True if there is a pair
    lists             the names that this batch is about
    given_box_BK4     boxes and labels as a model of given regions sees them; None: as they are
    masks             bool [K, H, W] of each picture: the pixels of its regions, neither of them padded; None if nobody asked for them
    text_TL           `lists.texts` (objects, "no objects", relations) as the label encoder takes them, and their mask; None: not made
    """

    image_BCHW: Rows[Tensor]
    pixel_BHW: Rows[Tensor]
    size_B2: Rows[Tensor]
    box_BK4: Rows[Tensor]
    label_BK: Rows[Tensor]
    region_mask_BK: Rows[Tensor]
    pair_BG2: Rows[Tensor]
    relation_BGR: Rows[Tensor]
    confidence_BG: Rows[Tensor]
    pair_mask_BG: Rows[Tensor]
    lists: LabelLists
    text_TL: Tensor | None = None
    text_mask_TL: Tensor | None = None
    given_box_BK4: Rows[Tensor] | None = None
    given_label_BK: Rows[Tensor] | None = None
    masks: Rows[tuple[Tensor, ...]] | None = None

    def true_pairs(self) -> PairTargets:
        """The pairs by their ends. Without an object the box is zero and the label `lists.missing`."""
        subject_BG, object_BG = self.pair_BG2.unbind(-1)
        has_object_BG = (subject_BG != object_BG) | ~self.pair_mask_BG
        return PairTargets(
            subject_box_BG4=_rows(self.box_BK4, subject_BG),
            object_box_BG4=_rows(self.box_BK4, object_BG) * has_object_BG[..., None],
            subject_label_BG=_rows(self.label_BK, subject_BG),
            object_label_BG=_rows(self.label_BK, object_BG).masked_fill(~has_object_BG, self.lists.missing),
            valid_BG=self.pair_mask_BG,
            relation_BGR=self.relation_BGR,
            has_object_BG=has_object_BG,
        )

    def given_pairs(self) -> RegionPairs:
        """Region pairs as input of a model of given regions."""
        box_BK4 = self.box_BK4 if self.given_box_BK4 is None else self.given_box_BK4
        label_BK = self.label_BK if self.given_label_BK is None else self.given_label_BK
        subject_BG, object_BG = self.pair_BG2.unbind(-1)
        return RegionPairs(
            subject_box_BG4=_rows(box_BK4, subject_BG),
            object_box_BG4=_rows(box_BK4, object_BG),
            subject_label_BG=_rows(label_BK, subject_BG),
            object_label_BG=_rows(label_BK, object_BG),
            valid_BG=self.pair_mask_BG,
        )


def graph_batch(
    draws: Draws,
    *,
    views: DetectionTransform,
    labels: LabelLists | ListSampler,
    outside: Literal["refuse", "drop"] = "refuse",
    augment: bool = True,
    max_pairs: int = 0,
    fill_pairs: int = 0,
    min_confidence: float = 0.0,
    noise: RegionNoise | None = None,
    texts: TextInput | None = None,
    multiple: int = 1,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
    masks: bool = False,
) -> GraphBatch:
    """The batch of these draws, whose images must be decoded at full size. Each draw's generator decides its view, its pairs, its noise;
    the common one decides the lists.

    views            how pictures are shown (`graph_transforms`); without `augment`, whole
    labels           a closed set of names, or a sampler that makes the lists of each step
    outside          a name that is not in the closed set is an error of the data ("refuse"), or costs its region or relation
                     ("drop"). With a sampler, names that are not asked for are no targets
    max_pairs        of more pairs than this in an image, this many are drawn; 0 keeps all
    fill_pairs       ordered pairs of regions without a relation are drawn until an image has this many pairs (R-Tagger: 100)
    min_confidence   relations below it are left out, their names too (pseudo-labels; published 0.2)
    noise            what is done to regions before a model is given them; drawn after everything else
    texts            label texts to what the model's label encoder takes; None leaves that to somebody else
    multiple         height and width are padded up to a multiple of this many pixels
    masks            the pixels of each region, too; a region without a mask is an error of the data

    Raises DataError, with the uid of the sample, for a picture without pixels, a box outside its picture, a name outside a
    closed set, and a mask that is missing or none.
    """
    pictures = [_picture(draw, views, augment, min_confidence) for draw in draws]
    lists = labels if isinstance(labels, LabelLists) else labels.lists([graph for _, graph in pictures], draws.rng)
    index = _Index.of(lists, strict=isinstance(labels, LabelLists) and outside == "refuse")
    targets = [_targets(picture, index, draw, max_pairs, fill_pairs) for draw, picture in zip(draws, pictures, strict=True)]
    image_BCHW, pixel_BHW = padded([image_HWC for image_HWC, _ in pictures], multiple, mean, std)
    given = (
        [noise(t.box_K4, t.label_K, lists.background, draw.rng) for draw, t in zip(draws, targets, strict=True)]
        if noise
        else None
    )
    regions, pairs = [len(t.label_K) for t in targets], [len(t.pair_G2) for t in targets]
    text_TL, text_mask_TL = texts(lists.texts) if texts else (None, None)
    return GraphBatch(
        image_BCHW=image_BCHW,
        pixel_BHW=pixel_BHW,
        size_B2=torch.tensor([image_HWC.shape[:2] for image_HWC, _ in pictures], dtype=torch.int64).reshape(-1, 2),
        box_BK4=pad_and_stack([t.box_K4 for t in targets], 0),
        label_BK=pad_and_stack([t.label_K for t in targets], lists.background),
        region_mask_BK=row_mask(regions),
        pair_BG2=pad_and_stack([t.pair_G2 for t in targets], 0),
        relation_BGR=pad_and_stack([t.relation_GR for t in targets], 0),
        confidence_BG=pad_and_stack([t.confidence_G for t in targets], 0),
        pair_mask_BG=row_mask(pairs),
        lists=lists,
        text_TL=text_TL,
        text_mask_TL=text_mask_TL,
        given_box_BK4=None if given is None else pad_and_stack([box_K4 for box_K4, _ in given], 0),
        given_label_BK=None if given is None else pad_and_stack([label_K for _, label_K in given], lists.background),
        masks=tuple(map(_masks, draws, pictures, targets)) if masks else None,
    )


def _masks(draw: Draw, picture: Picture, target: _Targets) -> Tensor:
    image_HWC, graph = picture
    high, wide = image_HWC.shape[:2]
    mask_KHW = torch.zeros(len(target.region_rows), high, wide, dtype=torch.bool)
    for at, region_index in enumerate(target.region_rows):
        region, uid = graph.regions[region_index], draw.sample.uid
        if not region.mask:
            came = f"sample '{uid}' has a region '{region.label}' without a mask"
            raise DataError(came, field="regions", expected="a segmentation of every region")
        try:
            mask_KHW[at] = torch.from_numpy(MovedMask.of(region.mask, high, wide).pixels().copy())
        except DataError as error:
            raise DataError(f"sample '{uid}': {error.problem}", field="regions", expected=error.expected) from None
    return mask_KHW


@dataclass(frozen=True, slots=True)
class _Index:
    """Positions of names. `strict` makes a name without one an error."""

    objects: dict[str, int]
    relations: dict[str, int]
    strict: bool

    @classmethod
    def of(cls, lists: LabelLists, *, strict: bool) -> _Index:
        objects, relations = ({name: n for n, name in enumerate(names)} for names in (lists.objects, lists.relations))
        return cls(objects, relations, strict)

    def find(self, kind: Literal["objects", "relations"], name: str, uid: str) -> int | None:
        position: int | None = getattr(self, kind).get(name)
        if position is None and self.strict:
            expected = f"one of the {len(getattr(self, kind))} names of the closed set, or outside='drop'"
            raise DataError(f"sample '{uid}' has {name!r}", field=kind, expected=expected)
        return position


@dataclass(frozen=True, slots=True)
class _Targets:
    box_K4: Floats
    label_K: Ints
    pair_G2: Ints
    relation_GR: Floats
    confidence_G: Floats
    region_rows: Sequence[int]


def _picture(draw: Draw, views: DetectionTransform, augment: bool, min_confidence: float) -> Picture:
    image_HWC, graph = pixels(draw), draw.sample.graph
    if min_confidence:
        sure = tuple(relation for relation in graph.relations if relation.confidence >= min_confidence)
        graph = SceneGraph(graph.regions, sure, graph.extras)
    height, width = image_HWC.shape[:2]
    for region in graph.regions:
        x0, y0, x1, y1 = region.box
        if min(x0, y0) < -OUTSIDE or x1 > width + OUTSIDE or y1 > height + OUTSIDE:
            raise DataError(
                f"sample '{draw.sample.uid}' has a box {region.box} outside its image of {width} x {height} pixels",
                field="regions",
                expected="boxes in pixels of the image at full size",
            )
    return views.draw((image_HWC, graph), draw.rng) if augment else views.whole((image_HWC, graph))


def _targets(picture: Picture, index: _Index, draw: Draw, max_pairs: int, fill_pairs: int) -> _Targets:
    image_HWC, graph = picture
    uid = draw.sample.uid
    labels = [index.find("objects", region.label, uid) for region in graph.regions]
    kept = [number for number, label in enumerate(labels) if label is not None]
    at = {number: new for new, number in enumerate(kept)}
    pairs: dict[tuple[int, int], dict[int, float]] = {}
    for relation in graph.relations:
        name = index.find("relations", relation.predicate, uid)
        if name is None or relation.subject not in at or relation.object not in at:
            continue
        confidence_by_name = pairs.setdefault((at[relation.subject], at[relation.object]), {})
        confidence_by_name[name] = max(confidence_by_name.get(name, 0.0), relation.confidence)
    chosen = list(pairs)
    if max_pairs and len(chosen) > max_pairs:
        chosen = [chosen[n] for n in sorted(draw.rng.permutation(len(chosen))[:max_pairs])]
    if len(chosen) < fill_pairs:
        others = [pair for pair in itertools.permutations(range(len(kept)), 2) if pair not in pairs]
        chosen += [others[n] for n in sorted(draw.rng.permutation(len(others))[: fill_pairs - len(chosen)])]
    relation_GR = np.zeros((len(chosen), len(index.relations)), np.float32)
    for row, pair in enumerate(chosen):
        relation_GR[row, list(pairs.get(pair, ()))] = 1
    return _Targets(
        relative_boxes([graph.regions[number].box for number in kept], *image_HWC.shape[:2]),
        np.array([labels[number] for number in kept], np.int64),
        np.array(chosen, np.int64).reshape(-1, 2),
        relation_GR,
        np.array([max(pairs[pair].values()) if pair in pairs else 0 for pair in chosen], np.float32),
        kept,
    )


def relative_boxes(boxes: Sequence[Box], height: int, width: int) -> Floats:
    """xyxy pixels, cut to the picture, to cxcywh in shares of it."""
    side_4 = np.array([width, height, width, height], np.float64)
    box_K4 = (np.array(boxes, np.float64).reshape(-1, 4) / side_4).clip(0, 1)
    low_K2, high_K2 = box_K4[:, :2], box_K4[:, 2:]
    return np.concatenate([(low_K2 + high_K2) / 2, high_K2 - low_K2], axis=1).astype(np.float32)


def padded(images: Sequence[Pixels], multiple: int, mean: Triple, std: Triple) -> tuple[Tensor, Tensor]:
    """image_BCHW and pixel_BHW, as large as the largest picture."""
    height, width = (-(-max(image_HWC.shape[axis] for image_HWC in images) // multiple) * multiple for axis in (0, 1))
    image_BHWC = np.zeros((len(images), height, width, 3), np.uint8)
    mask_BHW = torch.zeros(len(images), height, width, dtype=torch.bool)
    for row, image_HWC in enumerate(images):
        tall, wide = image_HWC.shape[:2]
        image_BHWC[row, :tall, :wide] = image_HWC
        mask_BHW[row, :tall, :wide] = True
    image_BCHW = Preprocess(1, mean, std).normalise(image_BHWC)
    return image_BCHW.mul_(mask_BHW[:, None]), mask_BHW


def pad_and_stack(rows: Sequence[npt.NDArray[Any]], fill: float) -> Tensor:
    """[B, length of the longest, ...], the others filled up."""
    out = np.full((len(rows), max(map(len, rows)), *rows[0].shape[1:]), fill, rows[0].dtype)
    for n, row in enumerate(rows):
        out[n, : len(row)] = row
    return torch.from_numpy(out)


def _rows(value_BK: Tensor, place_BG: Tensor) -> Tensor:
    """[B, K, ...] at places [B, G] -> [B, G, ...]; zeros if there is nothing to take from."""
    if not value_BK.shape[1]:
        return value_BK.new_zeros((*place_BG.shape, *value_BK.shape[2:]))
    return value_BK[torch.arange(len(value_BK), device=value_BK.device)[:, None], place_BG]


def row_mask(counts: Sequence[int]) -> Tensor:
    """bool [rows, largest count]: True at the first `count` places of each row."""
    return torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]
