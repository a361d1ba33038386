"""Segmentation on a frozen encoder.  Protocol `frozen_segmentation`, version 2 (BenchX, 2410.21969).

A UPerNet head (512 channels, pools 1, 2, 3, 6) with an auxiliary head (weight 0.4) is trained to classify pixels from frozen
dense features: 20,000 steps of AdamW at 1e-3, batch size 8, weight decay .05, channel dropout .1 before both classifiers, a
linear warm-up of 1,500 steps, then linear decay to 0; weights are initialised as in mmsegmentation. The head that is best on the
validation images, measured ten times during training, is scored once on the test images. A patient in two splits raises an error.
In version 1 weights were initialised as in PyTorch, and the learning rate was one step ahead.

    mdice   Dice of each class over the pixels of all test images, a mean over classes with background; the main metric, mmseg's
            mDice
    dice    Dice of the foreground of each image, a mean over images; 1 if neither image nor prediction has any

The feature map of the encoder's last layer is resized by 4, 2, 1 and 1/2; BenchX takes four depths of a transformer. Classes are
labels of regions: masks of the image's size, else boxes. The unit of the intervals is the patient.

Letters: B batch, H W pixels of the features or the targets, C classes, D width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.contracts import Dataset, DenseEmbedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_seed
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.data.masks import decode
from diptych.data.media.decode import decode as decode_image
from diptych.models.io.device import choose_device
from diptych.models.io.inference import evaluating
from diptych.tasks._scoring.chest_metrics import dice
from diptych.tasks._scoring.intervals import codes, group_weights, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.domains.patient_splits import patient_of, split_images

READINGS = 10
"""Number of validation runs during training."""
AUXILIARY, DROPOUT = 0.4, 0.1
Pixels = npt.NDArray[np.int64]


class UPerHead(nn.Module):
    """UPerNet over one map at four sizes, and an FCN beside it (transformers' modules)."""

    def __init__(self, width: int, classes: int, channels: int) -> None:
        super().__init__()
        from transformers import UperNetConfig
        from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

        config = UperNetConfig(
            hidden_size=channels, num_labels=classes, auxiliary_channels=channels // 2, auxiliary_in_channels=width
        )
        self.head: Any = UperNetHead(config, [width] * 4)
        self.auxiliary: Any = UperNetFCNHead(config, [width] * 4)
        for part in (self.head, self.auxiliary):  # transformers' heads lack the dropout used in training
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.normal_(part.classifier.weight, std=0.01)
            nn.init.zeros_(part.classifier.bias)
            part.classifier = nn.Sequential(nn.Dropout2d(DROPOUT), part.classifier)

    def forward(self, map_BDHW: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Logits [B, C, H, W] of both heads at that size."""
        maps = [
            map_BDHW if scale == 1 else F.interpolate(map_BDHW, scale_factor=scale, mode="bilinear", align_corners=False)
            for scale in (4.0, 2.0, 1.0, 0.5)
        ]
        logits = [
            F.interpolate(head(maps), size=size, mode="bilinear", align_corners=False) for head in (self.head, self.auxiliary)
        ]
        return logits[0], logits[1]


@dataclass(frozen=True, slots=True)
class FrozenSegmentation:
    """mDice of a UPerNet head on the dense features of an encoder that is not trained.

    labels        labels of regions that are classes; () uses all labels of the training images
    group         name of the extra with the patient, or of the sample's own group
    train_split, val_split, test_split  names of the splits
    train, val    data sets to use instead of splits; with `train`, all of the evaluated data is the test
    side          side of the targets in pixels
    channels      channels of the head
    steps, head_batch, lr, decay, warmup  training options of the head
    """

    name: ClassVar[str] = "frozen_segmentation"
    version: ClassVar[int] = 2
    needs: ClassVar[type] = DenseEmbedder
    main: ClassVar[str] = "mdice"

    labels: tuple[str, ...] = ()
    group: str = "patient"
    train_split: str = "train"
    val_split: str = "val"
    test_split: str = "test"
    train: Any = field(default=None, compare=False, repr=False)
    val: Any = field(default=None, compare=False, repr=False)
    side: int = 512
    channels: int = 512
    steps: int = 20_000
    head_batch: int = 8
    lr: float = 1e-3
    decay: float = 0.05
    warmup: int = 1500
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.side, self.channels, self.steps, self.head_batch) < 1 or self.lr <= 0:
            raise ConfigError(f"side {self.side}, channels {self.channels}, steps {self.steps}, lr {self.lr} (expected above 0)")

    def predict(self, model: DenseEmbedder, data: Dataset) -> pa.Table:
        """Returns one row per test image, with the correct, predicted and true pixels of each class."""
        splits = {"train": self.train_split, "val": self.val_split, "test": self.test_split}
        samples = split_images(data, splits, train=self.train, val=self.val, column=self.group)
        names = self.labels or tuple(sorted({region.label for sample in samples["train"] for region in sample.regions}))
        if not names:
            raise DataError(f"'{data.name}' has no regions", field="regions", expected="masks or boxes with labels")
        maps = {part: self._maps(model, rows) for part, rows in samples.items()}
        target = {part: np.stack([self.target(sample, names) for sample in rows]) for part, rows in samples.items()}
        head = self._trained(maps["train"], target["train"], maps["val"], target["val"], len(names) + 1)
        predicted = self._predicted(head, maps["test"])
        rows = []
        for sample, guess_HW, truth_HW in zip(samples["test"], predicted, target["test"], strict=True):
            right_C, guess_C, truth_C = class_pixels(guess_HW, truth_HW, len(names) + 1)
            rows.append(
                {
                    "uid": sample.uid,
                    "group": patient_of(sample, self.group),
                    "right": right_C.tolist(),
                    "predicted": guess_C.tolist(),
                    "true": truth_C.tolist(),
                    "dice": dice(guess_HW > 0, truth_HW > 0),
                }
            )
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("train", "val")}
        return with_facts(pa.Table.from_pylist(rows), options=options, classes=["", *names])

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        if not len(records):
            raise DataError("nothing to score: the records contain no image", expected="one row or more")
        groups = records.column("group").to_pylist()
        pixel_N3C = np.stack(
            [np.array(records.column(name).to_pylist(), np.float64) for name in ("right", "predicted", "true")], 1
        )
        code_N, count = codes(groups)
        total_G3C = np.zeros((count, *pixel_N3C.shape[1:]))
        np.add.at(total_G3C, code_N, pixel_N3C)
        drawn = [
            pooled_dice(np.tensordot(weight_G, total_G3C, 1))
            for block in group_weights(count, self.draws, self.seed, count)
            for weight_G in block
        ]
        dice_N1 = np.asarray(records.column("dice"), np.float64)[:, None]
        drawn_RM = resampled_means(dice_N1, groups, draws=self.draws, seed=self.seed)
        metrics = {
            "mdice": Metric(pooled_dice(pixel_N3C.sum(0)), *percentiles(np.array(drawn))),
            "dice": Metric(float(dice_N1.mean()), *percentiles(drawn_RM[:, 0])),
        }
        notes = {**facts_of(records), "interval": f"95 % percentile, {self.draws} draws of patients"}
        return Result(self.name, self.version, self.main, metrics, len(records), count, notes=notes)

    def target(self, sample: Sample, names: Sequence[str]) -> Pixels:
        """Class of each pixel, int64 [side, side], 0 for background; where regions overlap the later one wins."""
        assert sample.image is not None
        height, width = decode_image(sample.image).shape[:2]
        class_HW = np.zeros((height, width), np.int64)
        for region in sample.regions:
            if region.label not in names:
                continue
            if isinstance(region.mask, dict) and list(region.mask.get("size", ())) == [height, width]:
                class_HW[decode(region.mask)] = names.index(region.label) + 1
            else:
                x0, y0, x1, y1 = region.box
                rows = slice(max(0, math.floor(y0)), math.ceil(y1))
                class_HW[rows, max(0, math.floor(x0)) : math.ceil(x1)] = names.index(region.label) + 1
        whole_11HW = torch.from_numpy(class_HW)[None, None].float()
        resized: Pixels = F.interpolate(whole_11HW, size=(self.side, self.side), mode="nearest")[0, 0].long().numpy()
        return resized

    def _maps(self, model: DenseEmbedder, samples: Sequence[Sample]) -> Tensor:
        """Features [N, D, H, W]."""
        images = [sample.image for sample in samples if sample.image is not None]
        return torch.from_numpy(np.asarray(model.embed_dense(images), np.float32)).permute(0, 3, 1, 2)

    def _trained(self, map_NDHW: Tensor, target: Pixels, val_NDHW: Tensor, val_target: Pixels, classes: int) -> UPerHead:
        with torch.random.fork_rng():
            torch.manual_seed(keyed_seed("frozen segmentation", self.seed) % (1 << 31))
            device = choose_device()
            head = UPerHead(map_NDHW.shape[1], classes, self.channels).to(device)
            optimiser = torch.optim.AdamW(head.parameters(), lr=self.lr, weight_decay=self.decay)
            best, kept = -1.0, copy.deepcopy(head.state_dict())
            due = {math.ceil(self.steps * (number + 1) / READINGS) for number in range(READINGS)}
            head.train()
            for step in with_bar(range(1, self.steps + 1), self.steps, "steps of the head"):
                rows = torch.randint(len(map_NDHW), (self.head_batch,))
                for group in optimiser.param_groups:
                    group["lr"] = self.lr * learning_rate_share(step - 1, self.steps, self.warmup)
                logits = head(map_NDHW[rows].to(device), (self.side, self.side))
                truth_BHW = torch.from_numpy(target[rows.numpy()]).to(device)
                loss = F.cross_entropy(logits[0], truth_BHW) + AUXILIARY * F.cross_entropy(logits[1], truth_BHW)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                if step in due:
                    guess = self._predicted(head, val_NDHW)
                    counted = [class_pixels(*both, classes) for both in zip(guess, val_target, strict=True)]
                    value = pooled_dice(np.sum(counted, 0, dtype=np.float64))
                    if value > best:
                        best, kept = value, copy.deepcopy(head.state_dict())
            head.load_state_dict(kept)
        return head

    def _predicted(self, head: UPerHead, map_NDHW: Tensor) -> Pixels:
        """int64 [N, side, side]."""
        blocks = []
        device = next(head.parameters()).device
        with torch.no_grad(), evaluating(head):
            for part in map_NDHW.split(self.head_batch):
                blocks.append(head(part.to(device), (self.side, self.side))[0].argmax(1).cpu())
        predicted: Pixels = torch.cat(blocks).numpy()
        return predicted


def learning_rate_share(step: int, total: int, warmup: int) -> float:
    """Learning rate factor at a step (from 0): linear from 1e-6 to 1 at the last step of the warm-up, then linear from 1 to 0 at
    the last step, as in mmengine's LinearLR and PolyLR."""
    if step < warmup:
        return 1e-6 + (1 - 1e-6) * step / max(1, warmup - 1)
    return 1 - (step - warmup) / max(1, total - warmup - 1)


def class_pixels(guess_HW: Pixels, truth_HW: Pixels, classes: int) -> npt.NDArray[np.int64]:
    """Correct, predicted and true pixels of each class, int64 [3, C]."""
    parts = (guess_HW[guess_HW == truth_HW], guess_HW.ravel(), truth_HW.ravel())
    return np.stack([np.bincount(part, minlength=classes) for part in parts])


def pooled_dice(pixel_3C: npt.NDArray[np.float64]) -> float:
    """Mean over classes of 2 correct / (predicted + true); absent classes are left out."""
    right_C, total_C = pixel_3C[0], pixel_3C[1] + pixel_3C[2]
    there_C = total_C > 0
    return float((2 * right_C[there_C] / total_C[there_C]).mean())
