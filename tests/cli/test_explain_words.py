"""``diptych explain words`` and what lies behind it: the words of a picture, where they stand, and an index that holds the heaviest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diptych import api
from diptych.cli import main
from diptych.core.contracts import Embedder, LexicalEmbedder, WordMapper
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import FileImage
from diptych.data.media.decode import decode
from diptych.pipelines.alignment import align, method_of
from diptych.pipelines.picture_words import words_of
from diptych.recipes.contrastive.lexlip import LexLIP
from diptych.report.word_bars import word_bars
from diptych.serve import create_app
from diptych.worlds.small_pairs import small_pairs

TEXT = "a red circle top left"
ROWS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    rows = small_pairs(ROWS).to_pool()
    small: dict[str, Any] = {
        "image_tower": "beit_micro",
        "text_tower": "text_micro",
        "image_size": 48,
        "decoder_heads": 4,
        "pieces": 300,
    }
    recipe = replace(LexLIP.tiny(), **small).prepare(rows)
    torch.manual_seed(0)
    model = recipe.model().eval()
    for name, p in model.named_parameters():
        if name.endswith(("table_RN", "words.bias")):
            torch.nn.init.normal_(p, std=0.5)
    recipe.deploy(model).save(folder / "model")
    Image.fromarray(rows[0].image.pixels_HWC).save(folder / "picture.png")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return api.load(folder / "model")


@pytest.fixture(scope="module")
def image(folder: Path) -> FileImage:
    return FileImage(folder / "picture.png")


def test_weights_by_word_are_the_vector_by_number(model: Any, image: FileImage) -> None:
    assert isinstance(model, LexicalEmbedder)
    assert isinstance(model, Embedder)
    assert isinstance(model, WordMapper)
    for words, row_D in (
        (model.lexicalise_images([image])[0], model.embed_images([image])[0]),
        (model.lexicalise_texts([TEXT])[0], model.embed_texts([TEXT])[0]),
    ):
        values = list(words.values())
        assert values == sorted(values, reverse=True)
        vector = np.zeros(len(model.names))
        for word, weight in words.items():
            vector[model.names.index(word)] = weight
        np.testing.assert_allclose(vector / np.linalg.norm(vector), row_D, atol=1e-6)
        assert np.linalg.norm(row_D) == pytest.approx(1, abs=1e-5)
    few = model.keeping(5)
    assert few.lexicalise_texts([TEXT])[0] == dict(list(model.lexicalise_texts([TEXT])[0].items())[:5])
    assert few.fingerprint != model.fingerprint
    assert len(set(model.names)) == len(model.names)


def test_a_word_is_as_heavy_as_the_part_that_says_it_most(model: Any, image: FileImage) -> None:
    """But for words that the class token alone says."""
    found = words_of(model, image, 10)
    assert found.weight_WHW is not None
    assert found.weight_WHW.shape == (10, 3, 3)
    best_W = found.weight_WHW.reshape(10, -1).max(1)
    assert (best_W <= np.array(found.weights) + 1e-6).all()
    assert np.isclose(best_W, found.weights, atol=1e-6).any()
    assert found.count == len(model.lexicalise_images([image])[0])
    with pytest.raises(UnknownName, match="word of the vocabulary"):
        model.map_words(image, [{"zebra!": 1.0}])


def test_the_command_says_what_python_says(
    folder: Path, model: Any, image: FileImage, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "new" / "bars.png"
    argv = ["explain", "words", str(folder / "model"), str(folder / "picture.png"), "--top", "6", "--out", str(out)]
    assert main([*argv, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    found = words_of(model, image, 6)
    assert {key: answer[key] for key in found.to_json()} == found.to_json()
    drawn = word_bars(decode(image, exact=True), found.words, found.weights)
    assert np.array_equal(np.asarray(Image.open(out)), drawn)
    assert main(argv) == 0
    assert capsys.readouterr().out.splitlines() == [*found.lines(), f"picture: {out}"]


def test_bars_are_as_long_as_weights() -> None:
    drawn = word_bars(np.zeros((8, 8, 3), np.uint8), ["one", "half"], [1.0, 0.5])
    rows = [drawn[9, 320:], drawn[29, 320:]]
    blue = [(row[:, 2].astype(int) - row[:, 0] > 60).sum() for row in rows]
    assert blue[0] == pytest.approx(2 * blue[1], abs=4)
    assert word_bars(np.zeros((8, 8, 3), np.uint8), [], []).shape[0] == 320


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["MODEL", "missing.png"], 2, "missing.png does not exist"),
        (["MODEL", "PICTURE", "--out", "bars.jpg"], 2, "ends in .png"),
        (["MODEL", "PICTURE", "--top", "0"], 2, "top is 0"),
    ],
)
def test_refusals_are_one_line(argv: list[str], code: int, words: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = {"MODEL": str(folder / "model"), "PICTURE": str(folder / "picture.png")}
    assert main(["explain", "words", *(named.get(word, word) for word in argv)]) == code
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert words in said[0]


def test_texts_without_a_known_word_are_refused(model: Any) -> None:
    with pytest.raises(DataError, match="has no token of"):
        model.lexicalise_texts([" "])
    with pytest.raises(DataError, match="has no word that the vocabulary knows"):
        model.embed_texts(["собака"])


def test_a_text_is_laid_over_a_picture_by_what_it_becomes(model: Any, image: FileImage) -> None:
    assert method_of(model) == "lexicon"
    found = align(model, image, f"{TEXT} собака")
    assert found.method == "lexicon"
    assert found.words == (f"{TEXT} собака", "a", "red", "circle", "top", "left"), "a word without a piece is left out"
    cosine = float(model.embed_texts([f"{TEXT} собака"])[0] @ model.embed_images([image])[0])
    assert found.score == pytest.approx(cosine, abs=1e-6)
    red = model.lexicalise_texts(["red"])[0]
    length = np.sqrt(sum(weight**2 for weight in red.values()))
    picture = np.sqrt(sum(weight**2 for weight in model.lexicalise_images([image])[0].values()))
    by_hand = model.map_words(image, [{word: weight / length / picture for word, weight in red.items()}])[0]
    np.testing.assert_allclose(found.weight_WHW[2], by_hand, atol=1e-6)


def test_an_index_scores_as_the_dense_product_and_keeps_the_heaviest(model: Any, tmp_path: Path) -> None:
    rows = small_pairs(ROWS).to_pool()
    image_ND = model.embed_images([rows[n].image for n in range(ROWS)])
    text_D = model.embed_texts([TEXT])[0]
    wanted = dict(zip(rows.uids, (image_ND @ text_D).tolist(), strict=True))
    with api.index(model, rows, tmp_path / "whole", kind="lexical", progress=False) as whole:
        hits = whole.search_text(TEXT, ROWS)
        assert {hit.uid: pytest.approx(hit.score, abs=1e-5) for hit in hits} == wanted
        assert [hit.uid for hit in hits] == sorted(wanted, key=lambda uid: -wanted[uid])
    cut_ND = np.where(np.argsort(np.argsort(-image_ND, axis=1, kind="stable"), axis=1, kind="stable") < 8, image_ND, 0)
    with api.index(model, rows, tmp_path / "cut", kind="lexical", item_terms=8, progress=False) as cut:
        assert cut.info.options["item_terms"] == 8
        found = {hit.uid: hit.score for hit in cut.search_text(TEXT, ROWS)}
        by_hand = dict(zip(rows.uids, (cut_ND @ text_D).tolist(), strict=True))
        for uid, score in found.items():
            assert score == pytest.approx(by_hand[uid], abs=1e-5)
    for given, words in (({"item_terms": -1}, "item_terms is -1"), ({"item_terms": 2}, "every word of a text is its own")):
        who = model if given["item_terms"] < 0 else "words"
        with pytest.raises(ConfigError, match=words):
            api.index(who, rows, tmp_path / "no", kind="lexical", progress=False, **given)


def test_the_page_gets_words_and_where_they_stand(model: Any, image: FileImage) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    rows = small_pairs(ROWS).to_pool()
    with TestClient(create_app(model, pool=rows)) as http:
        (side,) = http.get("/info").json()["models"]
        assert (side["lexical"], side["aligns"]) == (True, "lexicon")
        answer = http.post("/words", json={"uid": rows.uids[0], "top": 4}).json()
        found = words_of(model, rows[0].image, 4)
        assert answer["words"] == list(found.words)
        np.testing.assert_allclose(answer["places"], found.weight_WHW, atol=1e-4)
        laid = http.post("/explain", json={"uid": rows.uids[0], "text": TEXT}).json()
        assert laid["method"] == "lexicon"
        assert http.post("/words", json={"top": 4}).status_code == 422
        assert http.post("/words", json={"uid": rows.uids[0], "top": 0}).status_code == 422
