"""How X-CLIP's clips are read: which frames, from which files, augmented and mixed as the draw says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych.core.errors import ConfigError, DataError
from diptych.core.media import ArraySource, MediaItem
from diptych.data.load.stream import batches
from diptych.data.media.clip_views import ClipAugment, _crop, clip_views, middle, read_frames, view_places
from diptych.data.media.opencv import bilinear
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD, OPENAI_MEAN
from diptych.recipes.adaptation.xclip import XCLIP
from diptych.worlds.clips import clips


def item(count: int, size: tuple[int, int] = (48, 48)) -> MediaItem:
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, *size, 3), np.uint8)
    return MediaItem("clip", (ArraySource(frames, "clip.npy"),))


def test_which_frames_are_read() -> None:
    assert read_frames(item(16), 4, uid="a")[:, 0, 0, 0].tolist() == [2, 6, 10, 14]
    for reading, count in (("plain", 16), ("released", 19)):
        drawn = [
            read_frames(item(count), 4, uid="a", rng=np.random.default_rng(s), reading=reading)[:, 0, 0, 0] for s in range(40)
        ]  # type: ignore[arg-type]
        assert all((frames // 4 == np.arange(4)).all() for frames in drawn), "one frame of every stretch, and none of a rest"
        assert {int(frames[0]) for frames in drawn} == {0, 1, 2, 3}
    rest = [read_frames(item(19), 4, uid="a", rng=np.random.default_rng(s), reading="plain")[-1, 0, 0, 0] for s in range(40)]
    assert max(rest) == 18
    with pytest.raises(DataError, match=r"the clip of 'a' has 3 frames \(expected 4 or more"):
        read_frames(item(3), 4, uid="a", reading="plain")
    views = clip_views(item(16, (48, 64)), 4, 48, uid="a", clips=2, crops=3)
    assert views.shape == (6, 4, 48, 48, 3)
    assert views[:, :, 0, 0, 0].tolist() == [view_places(16, 4, 2).tolist()[v // 3] for v in range(6)]
    wide = np.arange(64, dtype=np.uint8)[None, None, :, None] * np.ones((4, 48, 1, 3), np.uint8)
    left, centre, right = clip_views(MediaItem("clip", (ArraySource(wide),)), 4, 48, uid="a", crops=3)[:, 0, 0, 0, 0]
    assert (left, centre, right) == (0, 8, 16)
    with pytest.raises(ConfigError, match="1 clips of 2 crops"):
        clip_views(item(8), 4, 48, uid="a", crops=2)


def test_a_clip_that_is_too_short_gives_frames_several_times_as_released() -> None:
    """What SampleFrames of VideoX/X-CLIP gave for 8 of 3 frames and 32 of 18: HMDB-51 has clips of 18 frames, and `few_shot` reads 32."""
    drawn, seen = (read_frames(item(3), 8, uid="a", rng=rng)[:, 0, 0, 0].tolist() for rng in (np.random.default_rng(0), None))
    assert (drawn, seen) == ([0, 0, 1, 1, 2, 2, 2, 0], [0, 0, 0, 1, 1, 2, 2, 2])
    many = read_frames(item(18), 32, uid="a", rng=np.random.default_rng(0))[:, 0, 0, 0].tolist()
    assert many[:12] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 6]
    assert many[-6:] == [15, 15, 16, 16, 17, 17]
    assert clip_views(item(3), 8, 48, uid="a")[0, :, 0, 0, 0].tolist() == seen
    assert clip_views(item(3), 8, 48, uid="a", clips=2, drawn=True)[:, :, 0, 0, 0].tolist() == [drawn, drawn]


def test_a_video_file_is_read_as_its_frames(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    from diptych.core.errors import DecodeError
    from diptych.core.image import BytesImage, FileImage
    from diptych.core.media import medium_of

    clip = MediaItem("clip", (FileImage(path),))
    assert medium_of("clip").count(clip) == 12
    found = read_frames(clip, 4, uid="a")
    assert found.shape == (4, 48, 64, 3)
    np.testing.assert_allclose(found[:, 24, 32, 0], [20, 80, 140, 200], atol=6)
    broken = MediaItem("clip", (BytesImage(path.read_bytes()[:200], "cut.mp4"),))
    with pytest.raises(DecodeError, match=r"cut\.mp4: cannot be decoded"):
        broken.decode()


def test_augmentation_and_mixing_are_the_draws_own() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, 60, 80, 3)).astype(np.uint8)
    state = torch.get_rng_state()
    views = [ClipAugment()(frames, 48, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])
    assert views[0].shape == (4, 48, 48, 3)
    assert torch.equal(torch.get_rng_state(), state)
    plain = replace(XCLIP.tiny(), batch_size=4, steps=4).prepare(clips(12))
    recipe = replace(plain, mixup=0.8, cutmix=1.0, smoothing=0.1)
    for seed in range(6):
        (mixed,) = batches(clips(12), recipe, seed=seed, stop=1)
        torch.testing.assert_close(mixed.batch.target_BK.sum(1), torch.ones(4))
        assert (mixed.batch.target_BK >= 0.1 / 8 - 1e-6).all()
    (bare,) = batches(clips(12), plain, seed=0, stop=1)
    assert set(bare.batch.target_BK.unique().tolist()) == {0.0, 1.0}
    (cut,) = batches(clips(12), replace(plain, cutmix=1.0), seed=0, stop=1)
    share = cut.batch.target_BK.max(1).values
    same = (cut.batch.image_BTCHW == bare.batch.image_BTCHW).all((1, 2)).float().mean((1, 2))
    np.testing.assert_allclose(same.numpy(), np.maximum(share.numpy(), 1 - share.numpy()), atol=0.35)


def test_a_cut_clip_is_of_each_class_by_the_area_that_it_has() -> None:
    """Clip n is of the value n everywhere: its targets are the shares of the values that it has after the cut, not of the draw."""
    recipe = replace(XCLIP.tiny(), mixup=0.0, cutmix=1.0)
    clips = torch.arange(5.0)[:, None, None, None, None].expand(5, 2, 3, 16, 20)
    moved = 0
    for seed in range(8):
        mixed, target = recipe._mixed(clips, torch.eye(5), np.random.default_rng(seed))
        shares = torch.stack([(mixed == value).float().mean((1, 2, 3, 4)) for value in range(5)], 1)
        torch.testing.assert_close(target, shares)
        moved += int((shares.amax(1) < 1).any())
    assert moved > 4


def test_frames_are_resized_and_cropped_as_released() -> None:
    """datasets/pipeline.py: a short side of 256/224, also of frames that have the size; three crops a whole number of pixels apart;
    sides of crops that nearly have the size get it."""
    frames = np.random.default_rng(0).integers(0, 255, (2, 48, 48, 3)).astype(np.uint8)
    large = np.stack([bilinear(frame, 54, 54) for frame in frames])
    assert np.array_equal(middle(frames, 48), large[:, 3:51, 3:51])
    assert np.array_equal(middle(frames, 48, "plain"), frames)
    wide = np.arange(53, dtype=np.uint8)[None, None, :, None] * np.ones((4, 48, 1, 3), np.uint8)
    crops = clip_views(MediaItem("clip", (ArraySource(wide),)), 4, 48, uid="a", crops=3)
    assert crops[:, 0, 0, 0, 0].tolist() == [0, 2, 4], "five pixels to spare: steps of two"
    rng = np.random.default_rng(0)
    sides = {side for _ in range(200) for side in _crop(54, 60, 48, rng)[2:]}
    assert sides == {54, 48, 40, 35}, "47 is nearly 48"
    assert {side for _ in range(200) for side in _crop(256, 340, 224, rng)[2:]} == {256, 224, 192, 168}


def test_several_views_can_be_drawn_as_released() -> None:
    drawn = clip_views(item(19), 4, 48, uid="a", clips=3, drawn=True)[:, :, 24, 24, 0]
    assert (drawn // 4 == np.arange(4)).all()
    assert len({tuple(view) for view in drawn.tolist()}) > 1
    assert np.array_equal(drawn, clip_views(item(19), 4, 48, uid="a", clips=3, drawn=True)[:, :, 24, 24, 0])


def test_pixels_are_normalised_by_imagenets_statistics() -> None:
    """datasets/build.py: 123.675, 116.28, 103.53 and 58.395, 57.12, 57.375."""
    shown = XCLIP.paper().preprocess
    assert np.allclose(np.array(shown.mean) * 255, [123.675, 116.28, 103.53])
    assert np.allclose(np.array(shown.std) * 255, [58.395, 57.12, 57.375])
    assert (shown.mean, shown.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert XCLIP.tiny().preprocess.mean == OPENAI_MEAN


def test_clips_of_a_gpu_are_mixed_among_themselves() -> None:
    """Twenty clips, clip n of the value n: with groups of eight each is mixed with one of its eight, by a share of the group's own."""
    recipe = replace(XCLIP.tiny(), mixup=0.8, cutmix=0.0, mixed_together=8)
    clips = torch.arange(20.0)[:, None, None, None, None].expand(20, 1, 3, 4, 4)
    mixed, target = recipe._mixed(clips, torch.eye(20), np.random.default_rng(3))
    torch.testing.assert_close(mixed[:, 0, 0, 0, 0], target @ torch.arange(20.0))
    for begin in (0, 8, 16):
        inside = target[begin : begin + 8, begin : begin + 8]
        torch.testing.assert_close(inside.sum(1), torch.ones(len(inside)))
    shares = [target[begin : begin + 8].diagonal(begin).min() for begin in (0, 8)]
    assert abs(float(shares[0] - shares[1])) > 1e-3
