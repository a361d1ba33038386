"""One thing or several, in any form: every capability takes both, and answers in the same shape."""

from __future__ import annotations

import inspect
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych import api
from diptych.core.errors import DataError, ShapeError
from diptych.core.image import ArrayImage, BytesImage, ImageSource
from diptych.core.inputs import images_of, names_of, one_or_many, texts_of
from diptych.core.registry import MODELS
from diptych.core.sample import Sample, Text
from diptych.data.media.decode import decode

WORLD = "world:scenes?n=24&test=12"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "clip"
    return api.train("clip", WORLD, folder, steps=1, batch_size=8, width=16, progress=False).path


@pytest.fixture(scope="module")
def noise() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def test_a_single_text_is_one_text(run: Path) -> None:
    """A string was read as its letters."""
    model: Any = dp.load(run)
    many_ND = model.embed_texts(["a red star", "two"])
    assert model.embed_texts("a red star").shape == many_ND[0].shape
    same_ND = model.embed_texts(["a red star"])
    np.testing.assert_array_equal(model.embed_texts("a red star"), same_ND[0])
    for one in (
        Text("a red star"),
        Sample("a", texts=(Text("wrong", origin="negative"), Text("a red star"))),
        np.str_("a red star"),
    ):
        np.testing.assert_array_equal(model.embed_texts(one), same_ND[0])
        np.testing.assert_array_equal(model.embed_texts([one]), same_ND)
    assert model.embed_texts([]).shape == (0, 16)
    np.testing.assert_array_equal(model.embed_texts(iter(["a red star"])), same_ND)


def test_an_image_in_any_form_is_the_same_image(run: Path, noise: Any, tmp_path: Path) -> None:
    model: Any = dp.load(run)
    file = tmp_path / "one.png"
    Image.fromarray(noise).save(file)
    forms = [
        file,
        str(file),
        file.read_bytes(),
        bytearray(file.read_bytes()),
        noise,
        Image.fromarray(noise),
        Image.open(file),
        BytesImage(file.read_bytes()),
        Sample("a", ArrayImage(noise)),
    ]
    wanted_ND = model.embed_images([ArrayImage(noise)])
    for form in forms:
        np.testing.assert_array_equal(model.embed_images(form), wanted_ND[0], err_msg=str(type(form)))
        np.testing.assert_array_equal(model.embed_images([form]), wanted_ND)
    np.testing.assert_array_equal(model.embed_images(np.stack([noise] * 2)).shape, (2, 16))
    rows = dp.read(WORLD).split("test")
    np.testing.assert_array_equal(model.embed_images(rows), model.embed_images([rows[n].image for n in range(len(rows))]))


def test_images_of_pil_are_decoded_as_their_files(tmp_path: Path, noise: Any) -> None:
    """Rotation by EXIF, transparency, palettes, CMYK and 16 bits come out as from a file."""
    base = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = base.convert("RGBA")
    clear.putalpha(Image.fromarray(noise[..., 0]))
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    cases = [
        ("turned.jpg", base, {"exif": exif}),
        ("clear.png", clear, {}),
        ("p.png", base.convert("P"), {}),
        ("deep.png", deep, {}),
    ]
    cases += [("cmyk.tif", base.convert("CMYK"), {}), ("grey.png", base.convert("L"), {}), ("bit.png", base.convert("1"), {})]
    for name, image, options in cases:
        image.save(tmp_path / name, **options)
        (source,), alone = images_of(Image.open(tmp_path / name))
        assert alone
        from_file = decode(BytesImage((tmp_path / name).read_bytes()), exact=True)
        np.testing.assert_array_equal(decode(source, exact=True), from_file, err_msg=name)


def test_pairs_lose_the_axis_of_what_was_alone() -> None:
    class Pairs:
        @one_or_many
        def score_pairs(self, images: Any, texts: Any, *, query: str) -> Any:
            return np.arange(len(images) * len(texts)).reshape(len(images), len(texts))

    def score(images: Any, texts: Any) -> Any:
        return Pairs().score_pairs(images, texts, query="text")

    picture = b"x"
    assert score([picture] * 2, ["a", "b", "c"]).shape == (2, 3)
    assert score(picture, ["a", "b", "c"]).tolist() == [0, 1, 2]
    assert score([picture] * 2, "a").tolist() == [0, 1]
    assert score(picture, "a") == 0


def test_what_goes_with_an_image_that_is_alone_is_alone() -> None:
    class Writer:
        @one_or_many
        def generate(self, images: Any, prompts: Any) -> list[str]:
            return [f"{len(images)} {prompt}" for prompt in prompts]

        @one_or_many
        def detect(self, images: Any, *, objects: Any) -> list[Any]:
            return [objects for _ in images]

    assert Writer().generate(b"x", "what?") == "1 what?"
    assert Writer().generate([b"x", b"y"], ["what?", "who?"]) == ["2 what?", "2 who?"]
    assert Writer().detect(b"x", objects="person, dog") == ("person", "dog") == names_of(["person", "dog"])


def test_what_is_none_of_these_is_named_with_its_place() -> None:
    for read, wrong, expected in ((images_of, 3, "PIL image"), (texts_of, 3, "a string"), (texts_of, {"a": 1}, "a string")):
        with pytest.raises(DataError, match=expected):
            read(wrong)
    with pytest.raises(DataError, match=r"row 1: a NoneType is not a text \(expected a string"):
        texts_of(["a", None])
    with pytest.raises(DataError, match=r"row 0: a float is not an image"):
        images_of([1.5])
    with pytest.raises(DataError, match="sample 'a' has no image"):
        images_of(Sample("a"))
    with pytest.raises(DataError, match="sample 'a' has no text"):
        texts_of(Sample("a"))
    with pytest.raises(ShapeError, match=r"float64 \[3, 8, 8\]"):
        images_of(np.zeros((3, 8, 8)))


CAPABLE = [
    *(
        "embed_images",
        "embed_texts",
        "embed_patches",
        "embed_words",
        "embed_in_context",
        "embed_dense",
        "score_pairs",
        "classify",
    ),
    *("lexicalise_images", "lexicalise_texts", "detect", "relate", "segment", "generate", "answer_nll"),
]


@pytest.mark.parametrize("kind", MODELS)
def test_every_capability_of_every_kind_of_model_takes_one(kind: str) -> None:
    model = MODELS.load(kind)
    for name in CAPABLE:
        method = inspect.getattr_static(model, name, None)
        assert method is None or hasattr(method, "__wrapped__"), (
            f"{model.__name__}.{name} takes sequences only: put @one_or_many (diptych.core.inputs) over it"
        )


def test_an_index_is_searched_by_anything(run: Path, tmp_path: Path) -> None:
    rows = dp.read(WORLD).split("test")
    picture: Any = rows[3].image
    assert isinstance(picture, ImageSource)
    with dp.index(str(run), rows, tmp_path / "index", progress=False) as index:
        by_text = index.search("a red circle", 3)
        assert [hit.uid for hit in index.search(Text("a red circle"), 3)] == [hit.uid for hit in by_text]
        file = tmp_path / "one.png"
        image = Image.fromarray(picture.pixels_HWC)  # type: ignore[attr-defined]
        image.save(file)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        for form in (picture, image, str(file), file, buffer.getvalue(), picture.pixels_HWC, rows[3]):  # type: ignore[attr-defined]
            assert index.search(form, 1)[0].uid == rows.uids[3], type(form)
        both = index.search(["a red circle", image], 3)
        assert [hit.uid for hit in both[0]] == [hit.uid for hit in by_text]
        assert both[1][0].uid == rows.uids[3]
        assert [len(hits) for hits in index.search(np.stack([picture.pixels_HWC] * 2), 2)] == [2, 2]  # type: ignore[attr-defined]
