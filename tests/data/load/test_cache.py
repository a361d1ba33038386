import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import DataError, DecodeError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.media import ArraySource, MediaItem
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.load.cache import decoded, decoded_media
from diptych.data.media.decode import decode, encode_png


def samples(count=6, size=(20, 20)):
    rng = np.random.default_rng(0)
    for i in range(count):
        rgba = rng.integers(0, 256, (*size, 4), np.uint8)
        yield Sample(
            f"s{i}", BytesImage(encode_png(rgba), f"{i}.png"), (Text(f"number {i}"),), group=f"g{i % 2}", extras={"style": "x"}
        )


def test_pixels_are_those_of_decoding(tmp_path):
    pool = Pool.from_samples(samples(), name="small").select([4, 0, 2])
    ready = decoded(pool, 20, tmp_path)
    assert list(ready.uids) == ["s4", "s0", "s2"]
    for row in range(3):
        before, after = pool[row], ready[row]
        assert isinstance(after.image, ArrayImage)
        np.testing.assert_array_equal(decode(after.image, min_side=20), decode(before.image, min_side=20))
        assert replace(after, image=None) == replace(before, image=None)
    assert ready.fingerprint == pool.fingerprint
    np.testing.assert_array_equal(ready.select([1])[0].image.pixels_HWC, decode(pool[1].image))


def test_the_array_is_made_once_and_for_this_order_only(tmp_path, monkeypatch):
    pool = Pool.from_samples(samples())
    decoded(pool, 20, tmp_path)
    other = decoded(pool.select([1, 0]), 20, tmp_path)
    np.testing.assert_array_equal(other[0].image.pixels_HWC, decode(pool[1].image))
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr("diptych.data.load.cache.decode", None)
    assert len(decoded(pool, 20, tmp_path)) == 6


def test_a_cached_pool_can_be_pickled_without_its_pixels(tmp_path):
    ready = decoded(Pool.from_samples(samples(2)), 20, tmp_path)
    expected = ready[1].image.pixels_HWC.copy()
    copy = pickle.loads(pickle.dumps(ready))
    np.testing.assert_array_equal(copy[1].image.pixels_HWC, expected)


def test_bad_and_missing_images_stay_what_they_are(tmp_path):
    items = list(samples(4))
    items[1] = replace(items[1], image=BytesImage(b"no image", "1.png"))
    items[2] = replace(items[2], image=None)
    ready = decoded(Pool.from_samples(items), 20, tmp_path)
    with pytest.raises(DecodeError, match=r"1\.png"):
        decode(ready[1].image)
    assert ready[2].image is None
    np.testing.assert_array_equal(ready[3].image.pixels_HWC, decode(items[3].image))


def test_images_of_different_sizes_are_refused_and_leave_nothing(tmp_path):
    odd = replace(next(samples(1, (20, 30))), uid="wide")
    with pytest.raises(DataError, match="'s0' is 20 x 20 pixels but 'wide' is 30 x 20"):
        decoded(Pool.from_samples([*samples(2), odd]), 20, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_large_jpegs_are_cached_at_the_scale_they_are_decoded_at(tmp_path):
    import io

    file = io.BytesIO()
    Image.fromarray(np.full((160, 160, 3), 90, np.uint8)).save(file, "JPEG")
    ready = decoded(Pool.from_samples([Sample("a", BytesImage(file.getvalue()))]), 20, tmp_path)
    assert ready[0].image.pixels_HWC.shape == (20, 20, 3)


def clips(count=5, shape=(6, 8, 9, 3)):
    rng = np.random.default_rng(1)
    for i in range(count):
        frames = rng.integers(0, 256, shape, np.uint8)
        media = {
            "clip": MediaItem("clip", tuple(BytesImage(encode_png(frame), f"{i}.{t}") for t, frame in enumerate(frames))),
            "cloud": MediaItem("cloud", (ArraySource(rng.normal(size=(7, 4)).astype(np.float32)),)),
        }
        yield Sample(f"s{i}", texts=(Text(f"number {i}"),), media=media)


def test_a_medium_is_cached_as_it_is_decoded(tmp_path):
    pool = Pool.from_samples(clips()).select([3, 0, 1])
    ready = decoded_media(pool, "clip", tmp_path, frames=2)
    ready = pickle.loads(pickle.dumps(ready))
    for row in range(3):
        before, after = pool[row].media, ready[row].media
        assert isinstance(after["clip"].parts[0], ArraySource)
        np.testing.assert_array_equal(after["clip"].decode(), before["clip"].decode(frames=2))
        np.testing.assert_array_equal(after["cloud"].decode(), before["cloud"].decode())
    assert ready.fingerprint == pool.fingerprint == ready.content_fingerprint()
    assert ready.select([1]).fingerprint == pool.select([1]).fingerprint
    points = decoded_media(ready, "cloud", tmp_path)
    assert points[2].media["cloud"].decode().dtype == np.float32
    np.testing.assert_array_equal(points[2].media["cloud"].decode(), pool[2].media["cloud"].decode())
    np.testing.assert_array_equal(points[2].media["clip"].decode(), pool[2].media["clip"].decode(frames=2))
    assert len(list(tmp_path.iterdir())) == 2


def test_bad_and_missing_media_stay_what_they_are(tmp_path):
    items = list(clips(4))
    items[1] = replace(items[1], media={"clip": MediaItem("clip", (BytesImage(b"no clip", "1.gif"),))})
    items[2] = replace(items[2], media={})
    ready = decoded_media(Pool.from_samples(items), "clip", tmp_path)
    with pytest.raises(DecodeError, match=r"1\.gif"):
        ready[1].media["clip"].decode()
    assert ready[2].media == {}
    np.testing.assert_array_equal(ready[3].media["clip"].decode(), items[3].media["clip"].decode())


def test_media_of_different_sizes_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"'s0' is uint8 \[6, 8, 9, 3\] but 'odd' is uint8 \[5, 8, 9, 3\]"):
        decoded_media(Pool.from_samples([*clips(2), replace(next(clips(1, (5, 8, 9, 3))), uid="odd")]), "clip", tmp_path)
    several = Sample("x", media={"images": MediaItem("images", (ArrayImage(np.zeros((4, 4, 3), np.uint8)),))})
    with pytest.raises(DataError, match="not a single array"):
        decoded_media(Pool.from_samples([several]), "images", tmp_path)
