"""The report before training: planted oddities are found, expected pairs equal a count by hand."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.image import ArrayImage, BytesImage
from diptych.core.media import ArraySource, MediaItem
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.inspect import inspect
from diptych.data.media import picture as picture_module
from diptych.data.shards.build import build, open_built


def picture(shade: int, width: int = 40, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 20), (shade, 0, 0)).save(file, kind)
    return file.getvalue()


@dataclass
class Encoded:
    truncated: int


class Words:
    """A tokeniser for which a word is a token."""

    def encode(self, texts: list[str], length: int) -> Encoded:
        return Encoded(sum(len(text.split()) > length for text in texts))


def test_a_sound_pool_has_no_warnings(tmp_path: Path) -> None:
    made = [Sample(f"u{i}", BytesImage(picture(i)), (Text(f"number {i}", "en"),), licence="MIT") for i in range(40)]
    build(Pool.from_samples(made), tmp_path)
    report = inspect(open_built(tmp_path), batch_size=8, tokenizer=Words(), text_length=77)
    assert report.warnings == []
    assert (report.samples, report.texts, report.duplicate_images, report.truncated, report.broken) == (40, 40, 0, 0, [])
    assert report.chance_loss == pytest.approx(math.log(8))
    assert report.sides == {"32-63": 40}
    assert report.formats == {"png": 40}
    assert (report.languages, report.licences) == ({"en": 40}, {"MIT": 40})


def test_planted_oddities_are_found(tmp_path: Path) -> None:
    made = [
        Sample(f"u{i:02d}", BytesImage(picture(i // 2)), (Text("A red  square" if i < 20 else f"one two three {i}"),))
        for i in range(30)
    ]
    made.append(Sample("silent", BytesImage(picture(99))))
    build(Pool.from_samples(made), tmp_path)
    report = inspect(open_built(tmp_path), batch_size=256, tokenizer=Words(), text_length=3)
    assert report.duplicate_images == 30
    assert report.duplicate_texts == 20
    assert report.without_text == 1
    assert (report.truncated, report.text_length) == (10, 3)
    text = "\n".join(report.warnings)
    assert "captions are nearly constant: 65% are 'a red square'" in text
    assert "30 samples share their image" in text
    assert "10 texts (33.3%) are longer than 3 tokens and will be cut" in text
    assert "31 samples do not fill a batch of 256" in text
    json.dumps(report.to_json())
    assert all("\n" not in line for line in report.lines())


def test_boilerplate_is_named() -> None:
    made = [Sample(f"u{i}", texts=(Text(f"stock photo of the number {i}"),)) for i in range(30)]
    made += [Sample(f"v{i}", texts=(Text(f"{i} things that are on tables"),)) for i in range(30)]
    warnings = inspect(Pool.from_samples(made)).warnings
    assert "50% of the texts begin with 'stock photo of the'" in warnings
    assert "50% of the texts end with 'that are on tables'" in warnings


def test_broken_images_are_found_in_a_seeded_sample() -> None:
    good = [Sample(f"g{i}", BytesImage(picture(i, 64, "JPEG")), (Text(f"{i}"),)) for i in range(10)]
    data = picture(1, 400, "JPEG")
    pool = Pool.from_samples([*good, Sample("cut", BytesImage(data[: len(data) // 2]), (Text("cut"),))])
    report = inspect(pool)
    assert [uid for uid, _ in report.broken] == ["cut"]
    assert report.checked_images == 11
    assert report.duplicate_images == -1
    assert inspect(pool, look_at=3, seed=1).to_json() == inspect(pool, look_at=3, seed=1).to_json()
    assert inspect(pool, look_at=3).checked_images == 3


def test_pixels_in_memory_are_measured_without_being_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes and formats are those of the same rows once they are stored; the last is too wide for WebP."""
    shapes = [(24, 40, 3), (300, 70, 3), (1, 17_000, 3)]
    pool = Pool.from_samples([Sample(f"u{n}", ArrayImage(np.full(shape, n, np.uint8))) for n, shape in enumerate(shapes)])
    build(pool, tmp_path)
    for name in ("encode_webp", "encode_png"):
        monkeypatch.delattr(picture_module, name)
    report, stored = inspect(pool), inspect(open_built(tmp_path))
    assert (report.checked_images, report.broken) == (3, [])
    assert report.sides == stored.sides
    assert report.formats == stored.formats == {"webp": 2, "png": 1}
    wrong = inspect(Pool.from_samples([Sample("flat", ArrayImage(np.zeros((9, 9), np.uint8)))]))
    assert [uid for uid, _ in wrong.broken] == ["flat"]


@pytest.mark.parametrize("batch", [4, 12, 50])
def test_expected_pairs_equal_simulated_batches(batch: int) -> None:
    groups = ["a", "a", "a", "b", "b", "", "", "", "", "c", "c", "d"]
    texts = ["x", "y", "x", "x", "z", "x", "y", "p", "q", "r", "r", ""]
    made = [
        Sample(f"u{i}", texts=(Text(text),) if text else (), group=group)
        for i, (group, text) in enumerate(zip(groups, texts, strict=True))
    ]
    pool = Pool.from_samples(made)
    report = inspect(pool, batch_size=batch)
    rng = np.random.default_rng(0)
    same_group = same_text = 0
    rounds = 3000 if batch < 12 else 1
    for _ in range(rounds):
        rows = rng.permutation(12)[:batch]
        for i, a in enumerate(rows):
            for b in rows[:i]:
                if pool.groups[a] == pool.groups[b]:
                    same_group += 1
                elif texts[a] == texts[b] != "":
                    same_text += 1
    tolerance = 0.06 if batch < 12 else 1e-9
    assert report.same_group_pairs == pytest.approx(same_group / rounds, rel=tolerance)
    assert report.same_text_pairs == pytest.approx(same_text / rounds, rel=tolerance)


def test_splits_and_leaks_are_in_the_report() -> None:
    made = [
        Sample(f"u{i}", ArrayImage(np.full((4, 4, 3), i, np.uint8)), (Text(f"t{i}"),), extras={"split": "ab"[i % 2]})
        for i in range(6)
    ]
    made.append(Sample("leak", texts=(Text("t1"),), extras={"split": "a"}))
    report = inspect(Pool.from_samples(made))
    assert report.splits == {"a": 4, "b": 3}
    assert any("share 1 identical text" in warning for warning in report.warnings)
    assert report.without_image == 1


def test_a_recipe_says_batch_and_length() -> None:
    @dataclass
    class Recipe:
        batch_size: int = 32
        text_length: int = 2
        tokenizer: object = None

    pool = Pool.from_samples([Sample("a", texts=(Text("one two three"),)), Sample("b", texts=(Text("one"),))])
    report = inspect(pool, Recipe(tokenizer=Words()))
    assert (report.batch_size, report.truncated) == (32, 1)


def test_media_are_counted_measured_and_found_broken() -> None:
    clouds = [np.ones((50 + n % 2, 3), np.float32) for n in range(6)]
    samples = [
        Sample(f"u{n}", texts=(Text(f"number {n}"),), media={"scan": MediaItem("cloud", (ArraySource(cloud),))})
        for n, cloud in enumerate(clouds)
    ]
    broken = {"scan": MediaItem("cloud", (BytesImage(b"no cloud", "broken"),))}
    pool = Pool.from_samples([*samples, Sample("u6", texts=(Text("bad"),), media=broken), Sample("u7", texts=(Text("bare"),))])
    report = inspect(pool)
    assert report.media == {"cloud-scan": 7}
    assert report.shapes == {"cloud-scan": {"float32 50 x 3": 3, "float32 51 x 3": 3}}
    assert report.without_image == 1
    assert [uid for uid, _ in report.broken] == ["u6"]
    lines = "\n".join(report.lines())
    assert "1 samples have no image and no other medium" in lines
    assert "1 of 7 samples looked at are broken, such as u6" in lines
    assert "media: cloud-scan 7" in lines
