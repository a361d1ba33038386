import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import DataError, DecodeError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.load.cache import decoded
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
