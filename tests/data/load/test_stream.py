"""The stream: step k is a pure function of data, recipe and seed, and a bad sample costs that sample only."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.core.contracts import Recipe
from diptych.core.errors import ConfigError, DataError, RunError, UnknownName
from diptych.core.image import BytesImage
from diptych.core.media import ArraySource, MediaItem
from diptych.core.rows import Rows
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.load.batch import TensorBatch, group_ids, pair_batch
from diptych.data.load.order import WeightedOrder, order, span
from diptych.data.load.stream import batches
from diptych.data.media.decode import encode_png
from diptych.data.media.transforms import HALF, Preprocess
from diptych.data.text.tokenize import Tokenizer

WORDS = Tokenizer.train(["red bus", "tree number 0123456789"], 270)


@dataclass(frozen=True)
class Seen(TensorBatch):
    pairs_1: Any
    uids_B: Rows[tuple[str, ...]]
    group_B: Rows[torch.Tensor]
    draw_B: Rows[torch.Tensor]
    step_draw: float

    def __len__(self):
        return len(self.uids_B)


@dataclass(frozen=True, kw_only=True)
class Watching(Recipe):
    """Batches that remember who is in them."""

    batch_size: int = 6
    language: str = ""
    fail: str = ""

    @property
    def decode_size(self):
        return 16

    def batch(self, draws):
        if self.fail == "error":
            raise UnknownName("colour", "rad", ["red"])
        if self.fail == "exit":
            os._exit(9)
        pairs = pair_batch(
            draws, preprocess=Preprocess(16, *HALF), tokenizer=WORDS, text_length=16, language=self.language, flip=True
        )
        uids = tuple(d.sample.uid for d in draws)
        drawn = torch.tensor([d.rng.random() for d in draws], dtype=torch.float64)
        return Seen(pairs, uids, group_ids(draws), drawn, float(draws.rng.random()))

    def model(self): ...
    def features(self, model, batch): ...
    def losses(self, features, batch): ...
    def deploy(self, model): ...
    @classmethod
    def tiny(cls): ...
    @classmethod
    def paper(cls): ...


def samples(count):
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((24, 20)))
        yield Sample(f"s{i}", BytesImage(encode_png(pixels), f"{i}.png"), (Text(f"tree number {i}", "en"), Text("red bus", "de")))


def pool(count=20, bad=()):
    items = [
        replace(s, image=BytesImage(s.image.data[:60], s.image.name)) if i in bad else s for i, s in enumerate(samples(count))
    ]
    return Pool.from_samples(items, name="trees")


def steps(data=None, recipe=None, **options):
    options = {"seed": 3, "stop": 10, **options}
    return list(batches(pool() if data is None else data, recipe or Watching(), **options))


def assert_equal(left, right):
    assert [s.step for s in left] == [s.step for s in right]
    for a, b in zip(left, right, strict=True):
        assert a.failures == b.failures
        assert a.batch.uids_B == b.batch.uids_B
        assert a.batch.step_draw == b.batch.step_draw
        for name in ("group_B", "draw_B"):
            assert torch.equal(getattr(a.batch, name), getattr(b.batch, name))
        for name in ("image_BCHW", "text_BL", "text_mask_BL", "group_B"):
            assert torch.equal(getattr(a.batch.pairs_1, name), getattr(b.batch.pairs_1, name))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    for bad in ((), (4, 11)):
        assert_equal(steps(pool(bad=bad), bad_limit=1.0), steps(pool(bad=bad), bad_limit=1.0, workers=workers))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system starts workers anew")
def test_forked_workers_take_recipes_that_cannot_be_pickled():
    @dataclass(frozen=True, kw_only=True)
    class Local(Watching):
        pass

    assert_equal(steps(stop=2), steps(recipe=Local(), stop=2, workers=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_starts_late_is_the_tail(workers):
    data = pool(bad=(4,))
    whole = steps(data, bad_limit=1.0)
    for start in (1, 3, 9):
        assert_equal(whole[start:], steps(data, start=start, bad_limit=1.0, workers=workers))


@pytest.mark.parametrize("bad", [(), (4, 11)])
def test_two_processes_share_the_batch_of_one(bad):
    data = pool(bad=bad)
    one = steps(data, bad_limit=1.0)
    parts = [steps(data, rank=rank, world=2, bad_limit=1.0) for rank in range(2)]
    for whole, left, right in zip(one, *parts, strict=True):
        assert left.batch.uids_B + right.batch.uids_B == whole.batch.uids_B
        images = torch.cat([left.batch.pairs_1.image_BCHW, right.batch.pairs_1.image_BCHW])
        assert torch.equal(images, whole.batch.pairs_1.image_BCHW)
        assert left.batch.step_draw == right.batch.step_draw == whole.batch.step_draw


def test_every_sample_once_an_epoch_across_the_seam():
    seen = [uid for step in steps() for uid in step.batch.uids_B]  # 60 draws of 20 samples; 6 does not divide 20
    for epoch in range(3):
        assert Counter(seen[epoch * 20 : epoch * 20 + 20]) == Counter(f"s{i}" for i in range(20))
    assert seen == [f"s{row}" for row in span(3, 20, 0, 60)[1]]


def test_the_same_sample_is_drawn_anew_in_every_epoch():
    draws = {}
    for step in steps():
        for uid, value in zip(step.batch.uids_B, step.batch.draw_B.tolist(), strict=True):
            draws.setdefault(uid, []).append(value)
    assert all(len(set(values)) == 3 for values in draws.values())


def test_a_bad_sample_is_replaced_by_a_good_one_of_a_later_batch():
    bad = int(order(3, 0, 20)[2])
    clean, mended = steps(stop=4), steps(pool(bad=(bad,)), stop=4, bad_limit=1.0)
    first = mended[0]
    assert first.batch.uids_B[:2] + first.batch.uids_B[3:] == clean[0].batch.uids_B[:2] + clean[0].batch.uids_B[3:]
    assert first.batch.uids_B[2] == clean[1].batch.uids_B[2]
    assert len(set(first.batch.uids_B)) == 6
    (failure,) = first.failures
    assert (failure.uid, failure.stage, failure.epoch) == (f"s{bad}", "image", 0)
    assert f"{bad}.png" in failure.reason
    assert "60 bytes" in failure.reason
    assert not mended[1].failures


def test_a_replacement_that_is_bad_too_is_passed_over():
    one, two = (int(order(3, 0, 20)[p]) for p in (2, 8))
    first = steps(pool(bad=(one, two)), stop=1, bad_limit=1.0)[0]
    assert first.batch.uids_B[2] == f"s{order(3, 0, 20)[9]}"
    assert [f.uid for f in first.failures] == [f"s{one}", f"s{two}"]


def test_samples_without_what_the_recipe_needs_are_replaced():
    items = list(samples(20))
    row = int(order(3, 0, 20)[0])
    for lacking, stage, language in [
        (replace(items[row], image=None), "image", ""),
        (replace(items[row], texts=()), "texts", ""),
        (replace(items[row], texts=items[row].texts[1:]), "texts", "en"),
    ]:
        data = Pool.from_samples([lacking if i == row else item for i, item in enumerate(items)])
        (failure,) = steps(data, Watching(language=language), stop=1)[0].failures
        assert (failure.uid, failure.stage) == (f"s{row}", stage)


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_end_the_run(workers):
    data = pool(200, bad=range(0, 200, 20))
    with pytest.raises(
        DataError,
        match=r"trees: 6 of 200 samples cannot be used, more than the limit of 1\.0%: 's\d+' image: .*quarantine\.parquet",
    ) as caught:
        steps(data, stop=40, workers=workers)
    assert "\n" not in str(caught.value)
    assert len(steps(data, stop=40, bad_limit=0.05)) == 40
    assert len(steps(pool(bad=range(5)), stop=4)) == 4  # a handful is never too many
    with pytest.raises(DataError, match="6 of 20"):
        steps(pool(bad=range(5)), stop=4, known_bad=["s19"])


def test_hopeless_data_ends_soon():
    with pytest.raises(DataError, match="101 samples in a row"):
        steps(pool(bad=range(20)), stop=4, bad_limit=2.0)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_keeps_its_type_and_its_one_line(workers):
    with pytest.raises(UnknownName) as caught:
        steps(recipe=Watching(fail="error"), workers=workers)
    assert str(caught.value) == "unknown colour 'rad'; did you mean 'red'?"


def test_a_worker_that_dies_is_named():
    with pytest.raises(RunError, match="a loader worker was killed"):
        steps(recipe=Watching(fail="exit"), workers=1)


OTHERS = set()
"""Processes that tests of other files left running in this one."""


@pytest.fixture(autouse=True)
def no_others():
    OTHERS.update(p.pid for p in multiprocessing.active_children())


def children():
    return {p.pid for p in multiprocessing.active_children()} - OTHERS


def test_workers_end_with_the_stream_and_obey_only_their_parent():
    stream = batches(pool(), Watching(), seed=3, stop=1000, workers=2)
    next(stream)
    first = next(stream)  # the workers take turns: by now both are there to hear
    workers = children()
    assert len(workers) == 2
    script = (
        "import os, signal, sys\nfor pid in sys.argv[1:]: os.kill(int(pid), signal.SIGTERM); os.kill(int(pid), signal.SIGINT)"
    )
    subprocess.run([sys.executable, "-c", script, *map(str, workers)], check=True)
    time.sleep(0.3)
    assert next(stream).step == first.step + 1
    assert children() == workers
    os.kill(min(workers), signal.SIGTERM)
    deadline = time.monotonic() + 10
    while children() == workers and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children() < workers
    stream.close()
    assert not children()


def test_an_error_that_is_kept_keeps_no_workers():
    with pytest.raises(UnknownName) as caught:
        steps(recipe=Watching(fail="error"), workers=2)
    assert caught.value.__traceback__ is not None
    assert not children()


def test_making_a_stream_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for workers in (0, 1):
        steps(stop=2, workers=workers)
        assert torch.equal(before, torch.get_rng_state())


def test_another_order_can_be_given():
    weights = (1.0,) * 10 + (0.0,) * 10
    seen = {uid for step in steps(order=WeightedOrder(weights)) for uid in step.batch.uids_B}
    assert seen == {f"s{i}" for i in range(10)}


def test_what_cannot_work_is_named():
    with pytest.raises(ConfigError, match="batch_size 6 cannot be shared by 4"):
        steps(world=4)
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        steps(rank=2, world=2)
    with pytest.raises(DataError, match="'trees' has no samples"):
        steps(pool(0))


@dataclass(frozen=True, kw_only=True)
class OfClips(Watching):
    """Reads three frames of each clip, with the draw's own generator, and no picture."""

    needs = ("clip", "texts")

    def load(self, sample, rng):
        return {"clip": sample.media["clip"].decode(frames=3, rng=rng)}

    def batch(self, draws):
        assert all(draw.image_HWC is None for draw in draws)
        clips = np.stack([draw.media["clip"] for draw in draws])
        drawn = torch.tensor([d.rng.random() for d in draws], dtype=torch.float64)
        return Seen(torch.from_numpy(clips), tuple(d.sample.uid for d in draws), group_ids(draws), drawn, 0.0)


def test_a_recipe_says_what_a_draw_holds():
    frame_NTHWC = np.random.default_rng(0).integers(0, 256, (12, 9, 4, 5, 3), dtype=np.uint8)
    items = [
        replace(s, media={"clip": MediaItem("clip", (ArraySource(frame_NTHWC[i], s.uid),))}) for i, s in enumerate(samples(12))
    ]
    items[3] = replace(items[3], media={"clip": MediaItem("clip", (BytesImage(b"no clip", "bad.gif"),))})
    items[4] = replace(items[4], media={})
    found = steps(Pool.from_samples(items), OfClips(), stop=4)
    failures = {failure.uid: failure for step in found for failure in step.failures}
    assert {uid: failure.stage for uid, failure in failures.items()} == {"s3": "clip", "s4": "clip"}
    assert failures["s3"].reason.startswith("bad.gif: not an image")
    drawn = defaultdict(set)
    for step in found:
        for uid, clip_THWC in zip(step.batch.uids_B, step.batch.pairs_1.numpy(), strict=True):
            whole = frame_NTHWC[int(uid[1:])]
            taken = tuple(next(t for t in range(9) if np.array_equal(whole[t], frame)) for frame in clip_THWC)
            assert [t // 3 for t in taken] == [0, 1, 2]  # one of each third
            drawn[uid].add(taken)
    assert sum(len(each) > 1 for each in drawn.values()) > len(drawn) / 2  # anew in every epoch
