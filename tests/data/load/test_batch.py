from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from diptych.core.contracts import Draw, Draws
from diptych.core.errors import DataError
from diptych.core.randomness import keyed_rng
from diptych.core.rows import Rows
from diptych.core.sample import Sample, Text
from diptych.data.load.batch import TensorBatch, choose_text, group_ids, pair_batch
from diptych.data.media.transforms import HALF, ByteImages, Preprocess
from diptych.data.text.tokenize import Tokenizer

TEXTS = (Text("a red bus", "en"), Text("the bus", "en"), Text("ein Bus", "de"), Text("a tree", "en", "negative"), Text("bus", ""))


@dataclass(frozen=True)
class Mixed(TensorBatch):
    box_NQ4: Rows[torch.Tensor]
    names_B: Rows[tuple[str, ...]]
    parts_B: Rows[tuple[torch.Tensor, ...]]
    label_KD: torch.Tensor
    group_by: Any
    step: int
    mask_BL: Rows[torch.Tensor] | None = None


def mixed():
    return Mixed(
        torch.arange(24.0).view(3, 2, 4), ("a", "b", "c"), tuple(torch.ones(n) for n in (1, 2, 3)), torch.ones(5, 2), "xyz", 7
    )


def test_rows_cut_only_what_is_declared():
    part = mixed().rows(1, 3)
    assert len(part) == 2
    assert part.box_NQ4.tolist() == mixed().box_NQ4[1:].tolist()
    assert part.names_B == ("b", "c")
    assert [len(p) for p in part.parts_B] == [2, 3]
    assert (part.label_KD.shape, part.group_by, part.step, part.mask_BL) == ((5, 2), "xyz", 7, None)
    whole = mixed()
    assert whole.rows(0, 2).box_NQ4.data_ptr() == whole.box_NQ4.data_ptr()  # a view


def test_to_moves_every_tensor_also_in_tuples():
    moved = mixed().to("meta")
    assert {t.device.type for t in (moved.box_NQ4, moved.label_KD, *moved.parts_B)} == {"meta"}
    assert moved.names_B == ("a", "b", "c")


def test_a_batch_without_rows_says_so():
    @dataclass(frozen=True)
    class Shared(TensorBatch):
        label_KD: torch.Tensor

    with pytest.raises(TypeError, match="Shared has no field"):
        len(Shared(torch.ones(2, 2)))


def draws(count=6, *, side=40, texts=TEXTS):
    y, x = np.mgrid[:side, :side]
    image = np.stack([x, y, x], -1).astype(np.uint8)
    items = [
        Draw(Sample(f"s{i}", texts=texts, group="ab"[i % 2] if i < 4 else ""), keyed_rng(0, 0, f"s{i}"), image)
        for i in range(count)
    ]
    return Draws(tuple(items), keyed_rng(0, "step", 0))


def made(given, **options):
    words = Tokenizer.train([t.string for t in TEXTS], 270)
    return pair_batch(given, preprocess=Preprocess(32, *HALF), tokenizer=words, text_length=12, **options)


def test_pair_batch_is_a_function_of_the_draws():
    first, again = made(draws()), made(draws())
    for name in ("image_BCHW", "text_BL", "text_mask_BL", "group_B"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert first.image_BCHW.shape == (6, 3, 32, 32)
    assert first.image_BCHW.dtype == torch.float32
    assert first.text_BL.dtype == torch.int64
    assert first.text_mask_BL.dtype == torch.bool
    assert first.truncated == 0
    assert made(draws(texts=(Text("one long text about a red bus"),))).truncated == 6


def test_pictures_sent_as_bytes_are_normalised_where_they_arrive():
    """All 256 values of each channel, in double precision; a quarter of the bytes travels."""
    given, mean, std = draws(1), (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    every_HWC = np.random.default_rng(0).permuted(np.tile(np.arange(256, dtype=np.uint8), (3, 4)), axis=1).reshape(3, 32, 32)
    given = Draws((replace(given[0], image_HWC=every_HWC.transpose(1, 2, 0)),), keyed_rng(0), uint8_images=True)
    words = Tokenizer.train([t.string for t in TEXTS], 270)
    sent: Any = pair_batch(given, preprocess=Preprocess(32, mean, std), tokenizer=words, text_length=12, crop_scale=(1, 1))
    assert isinstance(sent.image_BCHW, ByteImages)
    assert sent.image_BCHW.pixel_BHWC.nbytes == 32 * 32 * 3
    expected = (every_HWC / 255.0 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    image_BCHW = sent.to("cpu").image_BCHW
    assert image_BCHW.is_contiguous()
    np.testing.assert_allclose(image_BCHW[0].numpy(), expected, atol=1e-6, rtol=0)
    floats = pair_batch(
        replace(given, uint8_images=False),
        preprocess=Preprocess(32, mean, std),
        tokenizer=words,
        text_length=12,
        crop_scale=(1, 1),
    )
    assert torch.equal(floats.image_BCHW, image_BCHW), "on the processor to the last bit"
    assert sent.to("meta").image_BCHW.shape == (1, 3, 32, 32)


def test_a_draw_does_not_depend_on_its_neighbours():
    whole, alone = made(draws()), made(Draws(draws().items[2:3], keyed_rng(9)))
    assert torch.equal(whole.image_BCHW[2:3], alone.image_BCHW)
    assert torch.equal(whole.text_BL[2:3], alone.text_BL)


def test_texts_are_uniform_over_the_positives_of_the_language():
    sample = Sample("s", texts=TEXTS)
    counts = {}
    for key in range(900):
        text = choose_text(Draw(sample, keyed_rng(key)), "en").string
        counts[text] = counts.get(text, 0) + 1
    assert set(counts) == {"a red bus", "the bus", "bus"}
    assert min(counts.values()) > 240
    assert {choose_text(Draw(sample, keyed_rng(key)), "de").string for key in range(50)} == {"ein Bus", "bus"}
    assert len({choose_text(Draw(sample, keyed_rng(key))).string for key in range(100)}) == 4


def test_groups_are_equal_numbers_in_every_process():
    group_B = group_ids(draws())
    assert group_B[0] == group_B[2] != group_B[1]
    assert len(set(group_B.tolist())) == 4
    assert group_B.min() >= 0
    assert group_B[0].item() == 7622437683465426984  # stays so: stored runs rely on it


def test_whole_images_and_flips():
    still = made(draws(side=32), crop_scale=(1.0, 1.0))
    expected = Preprocess(32, *HALF)([d.image_HWC for d in draws(side=32)])
    assert torch.equal(still.image_BCHW, expected)
    mirrored = made(draws(count=40, side=32), crop_scale=(1.0, 1.0), flip=True).image_BCHW
    share = sum(bool(torch.equal(row, expected[0].flip(-1))) for row in mirrored)
    assert 10 < share < 30
    assert all(torch.equal(row, expected[0]) or torch.equal(row, expected[0].flip(-1)) for row in mirrored)


def test_lacking_texts_and_images_name_the_sample():
    with pytest.raises(DataError, match="'s0' has no text in language 'fr'"):
        made(draws(texts=TEXTS[:3]), language="fr")
    with pytest.raises(DataError, match="'x' has no image"):
        made(Draws((Draw(Sample("x", texts=TEXTS), keyed_rng(0)),), keyed_rng(0)))
