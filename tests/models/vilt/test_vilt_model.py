"""ViLT computes what the authors' code and transformers compute, and its weights open from either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from diptych.api import load
from diptych.core.contracts import Embedder, Generator, PairJudge, PairScorer
from diptych.core.errors import ConfigError, DataError, DiptychError
from diptych.core.image import ArrayImage
from diptych.data.media.whole_pictures import WholePictures
from diptych.models.io.open_address import require
from diptych.models.vilt.released import from_released
from diptych.models.vilt.vilt import Vilt
from diptych.models.vilt.vilt_model import ViltModel, ViltQuestionAnswerer

AUTHORS = "dandelin/ViLT 762fd39"
RELEASED = Path(__file__).parents[2] / "parity" / "released" / "ptp" / "ptp_vilt_released.npz"
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "a", "red", "circle", "on", "the", "left", "cup", "##s"]


def released() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in np.load(RELEASED).items()}


def test_it_reads_as_the_released_code_does(parity: Any) -> None:
    """Texts of three lengths with pictures of three shapes, padded: tokens of both, the pooled vector, both heads."""
    t = released()
    tensors, left = from_released({name.removeprefix("w/"): value for name, value in t.items() if name.startswith("w/")})
    assert not left
    small: dict[str, Any] = {"vocab_size": 30, "image_size": 12, "patch": 4, "length": 8, "width": 16, "layers": 2, "heads": 2}
    model = Vilt(**small, mlp_ratio=2.0, mask_id=3).double().eval()
    model.load_state_dict(tensors)
    mask_BL = t["ids"] != 0
    with torch.no_grad():
        seen = model.picture_features(t["img"], t["grid"])
        x_BSD = model.read(model.text_features(t["ids"]), mask_BL, seen)
        there_BG = seen.there_BP[:, 1:]
        assert torch.equal(there_BG, t["there"].bool())
        pairs = [
            (x_BSD[:, :8][mask_BL], t["text"][mask_BL]),
            (x_BSD[:, 9:][there_BG], t["patch"][there_BG]),
            (model.pooled(x_BSD), t["cls"]),
            (model.guessed(x_BSD, torch.arange(8).expand(3, 8))[mask_BL], t["mlm"][mask_BL]),
            (model.fits(model.pooled(x_BSD)), t["itm"]) if model.fits is not None else (0, 1),
        ]
    parity("ptp", "ViLT's words, patches, pooled vector and answers", AUTHORS, pairs, tolerance=1e-9)


def test_a_part_of_the_patches_is_that_part_of_the_places() -> None:
    """Given patches, in whatever order, are read as the whole is that has no others."""
    torch.manual_seed(0)
    model = Vilt(vocab_size=9, image_size=12, patch=4, length=4, width=16, layers=2, heads=2).double().eval()
    image_BCHW, grid_B2 = torch.randn(1, 3, 8, 12, dtype=torch.float64), torch.tensor([[2, 3]])
    text_BL = torch.tensor([[1, 5, 2]])
    places, mask_BL = torch.tensor([[4, 0, 5, 1, 3, 2]]), torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        word_BLD = model.text_features(text_BL)
        whole = model.read(word_BLD, mask_BL, model.picture_features(image_BCHW, grid_B2))
        there = torch.ones(1, 6, dtype=torch.bool)
        turned = model.read(word_BLD, mask_BL, model.picture_features(image_BCHW, grid_B2, places, there))
        torch.testing.assert_close(turned[:, 4:], whole[:, 4:][:, places[0]])
        torch.testing.assert_close(turned[:, :4], whole[:, :4])
        there[0, :2] = False
        fewer = model.read(word_BLD, mask_BL, model.picture_features(image_BCHW, grid_B2, places, there))
        other_BCHW = image_BCHW.clone()
        other_BCHW[:, :, 4:, 4:8] = 7.0  # patch 4 is row 1, column 1
        again = model.read(word_BLD, mask_BL, model.picture_features(other_BCHW, grid_B2, places, there))
    assert not torch.allclose(fewer[:, 0], whole[:, 0])
    torch.testing.assert_close(again[:, :4], fewer[:, :4])


def made_folder(folder: Path, kind: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    tables: dict[str, Any] = {"vocab_size": 16, "max_position_embeddings": 10, "modality_type_vocab_size": 2}
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.ViltConfig(**tables, **sizes, image_size=64, patch_size=16, initializer_range=0.3, **settings)
    model = getattr(transformers, kind)(config).eval()
    for parameter in model.parameters():  # biases, and places that start as zeros
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    transformers.BertTokenizerFast(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)
    images = {"image_processor_type": "ViltImageProcessor", "size": {"shortest_edge": 64}, "size_divisor": 16, "resample": 3,
              "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True, "do_normalize": True, "do_rescale": True,
              "rescale_factor": 1 / 255, "do_pad": True}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(images), encoding="utf-8")
    return model


def pictures() -> list[ArrayImage]:
    rng = np.random.default_rng(0)
    return [ArrayImage(rng.integers(0, 255, shape, dtype=np.uint8)) for shape in ((70, 100, 3), (90, 64, 3))]


TEXTS = ["a red circle", "the cups on the left"]


def asked(folder: Path) -> tuple[Any, Any]:
    """Texts and pictures as transformers' own processor has them."""
    from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

    images = ViltImageProcessorPil.from_pretrained(str(folder))([image.pixels_HWC for image in pictures()], return_tensors="pt")
    tokenizer = transformers.BertTokenizerFast.from_pretrained(str(folder))
    return images, tokenizer(TEXTS, padding="max_length", max_length=10, return_tensors="pt")


def test_a_folder_of_transformers_opens_with_its_images_and_words(tmp_path: Path, parity: Any) -> None:
    theirs = made_folder(tmp_path, "ViltForMaskedLM")
    model = load(f"hf:{tmp_path}")
    assert isinstance(model, ViltModel)
    images, texts = asked(tmp_path)
    image_BCHW, grid_B2 = model.preprocess([image.pixels_HWC for image in pictures()])
    text_BL, mask_BL = texts["input_ids"], texts["attention_mask"].bool()
    with torch.no_grad():
        said = theirs.vilt(**images, **texts)
        vilt = model.model
        x_BSD = vilt.read(vilt.text_features(text_BL), mask_BL, vilt.picture_features(image_BCHW, grid_B2))
        words = theirs.mlm_score(said.last_hidden_state[:, :10])
        mine = vilt.guessed(x_BSD, torch.arange(10).expand(2, 10))
    assert images["pixel_mask"].flatten(1).sum(1).tolist() == (256 * grid_B2.prod(1)).tolist()
    pairs = [(image_BCHW, images["pixel_values"]), (vilt.pooled(x_BSD), said.pooler_output), (mine[mask_BL], words[mask_BL])]
    parity("ptp", "a folder's pictures, pooled vector and hidden words", "transformers' ViltForMaskedLM", pairs, tolerance=1e-5)


def test_heads_for_retrieval_score_pairs(tmp_path: Path, parity: Any) -> None:
    theirs = made_folder(tmp_path, "ViltForImageAndTextRetrieval")
    model = load(f"hf:{tmp_path}")
    images, texts = asked(tmp_path)
    with torch.no_grad():
        rank = torch.tensor([
            [theirs(**{k: v[i : i + 1] for k, v in images.items()}, **{k: v[j : j + 1] for k, v in texts.items()}).logits.item()
             for j in range(2)] for i in range(2)
        ])  # fmt: skip
    found = model.score_pairs(pictures(), TEXTS, query="image")
    parity(
        "ptp",
        "scores of two pictures and two texts",
        "transformers' ViltForImageAndTextRetrieval",
        [(found, rank)],
        tolerance=1e-5,
    )
    assert isinstance(model, PairScorer)
    assert not isinstance(model, PairJudge)  # a rank has no threshold
    assert not isinstance(model, Embedder)
    with pytest.raises(ConfigError, match=r"needs a model that is an Embedder; 'hf:.*' offers PairScorer"):
        require(model, Embedder, who="search")
    with pytest.raises(ConfigError, match="was not trained to guess words"):
        model.guess_words(pictures(), ["a ___"] * 2, candidates=["cup"])


def test_weights_for_questions_answer_them(tmp_path: Path, parity: Any) -> None:
    names = ["red", "blue", "two", "yes"]
    theirs = made_folder(tmp_path / "hf", "ViltForQuestionAnswering", id2label=dict(enumerate(names)))
    model = load(f"hf:{tmp_path / 'hf'}")
    assert isinstance(model, Generator)
    images, texts = asked(tmp_path / "hf")
    image_BCHW, grid_B2 = model.preprocess([image.pixels_HWC for image in pictures()])
    text_BL, mask_BL = texts["input_ids"], texts["attention_mask"].bool()
    with torch.no_grad():
        said = theirs(**images, **texts).logits
        x_BSD = model.model.read(model.model.text_features(text_BL), mask_BL, model.model.picture_features(image_BCHW, grid_B2))
        mine = model.model.answer(model.model.pooled(x_BSD))
    parity("ptp", "logits of answers", "transformers' ViltForQuestionAnswering", [(mine, said)], tolerance=1e-5)
    model.save(tmp_path / "ours")
    for one in (model, load(tmp_path / "ours")):
        assert one.generate(pictures(), TEXTS) == [names[place] for place in said.argmax(1).tolist()]
    assert not isinstance(model, PairJudge)
    with pytest.raises(ConfigError, match="was not trained to match"):
        model.score_pairs(pictures(), TEXTS, query="image")
    with pytest.raises(ConfigError, match="head of 4 answers and a list of 3"):
        ViltQuestionAnswerer(model.model, model.preprocess, model.tokenizer, 10, "it", answers=names[:3])


def test_what_a_folder_lacks_is_named(tmp_path: Path) -> None:
    made_folder(tmp_path, "ViltModel")
    bare = load(f"hf:{tmp_path}")
    with pytest.raises(ConfigError, match=r"was not trained to match .expected weights with itm_score or rank_output"):
        bare.score_pairs(pictures(), TEXTS, query="image")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_pad": False}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"do_pad is False .expected True"):
        load(f"hf:{tmp_path}")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(DataError, match="image settings are missing"):
        load(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text(
        (tmp_path / "config.json").read_text(encoding="utf-8").replace('"hidden_act": "gelu"', '"hidden_act": "relu"'), encoding="utf-8"
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"hidden_act is 'relu' .expected 'gelu'"):
        load(f"hf:{tmp_path}")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made_folder(tmp_path, "ViltForMaskedLM")
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("encoder.layer.1.output.dense.weight"))
    save_file({key: value for key, value in tensors.items() if key != name}, tmp_path / "model.safetensors")
    with pytest.raises(DiptychError, match=r"tensor blocks\.1\.mlp_out\.weight is missing"):
        load(f"hf:{tmp_path}")


def test_words_in_a_gap_are_what_the_head_says(tmp_path: Path) -> None:
    """Of one piece and of two; a model that is saved and opened says the same."""
    made_folder(tmp_path / "hf", "ViltForMaskedLM")
    model = load(f"hf:{tmp_path / 'hf'}")
    model.save(tmp_path / "ours")
    again = load(tmp_path / "ours")
    image = pictures()[0]
    found = model.guess_words([image], ["the ___ on the left"], candidates=["circle", "cups"])
    np.testing.assert_array_equal(found, again.guess_words([image], ["the ___ on the left"], candidates=["circle", "cups"]))
    vilt = model.model
    image_BCHW, grid_B2 = model.preprocess([image.pixels_HWC])
    for column, ids in enumerate(([1, 9, 7, 8, 9, 10, 2], [1, 9, 11, 12, 8, 9, 10, 2])):
        hidden = [2] if column == 0 else [2, 3]
        masked = torch.tensor([[3 if place in hidden else number for place, number in enumerate(ids)]])
        with torch.no_grad():
            x_BSD = vilt.read(vilt.text_features(masked), masked >= 0, vilt.picture_features(image_BCHW, grid_B2))
            log_1MV = vilt.guessed(x_BSD, torch.tensor([hidden])).double().log_softmax(-1)
        assert found[0, column] == pytest.approx(
            sum(float(log_1MV[0, m, ids[place]]) for m, place in enumerate(hidden)), abs=1e-6
        )
    for text, count in (("the cup", 0), ("___ on ___", 2)):
        with pytest.raises(ConfigError, match=f"has {count} gaps"):
            model.guess_words([image], [text], candidates=["cup"])


def test_scores_are_log_odds_or_one_answer() -> None:
    from diptych.data.text.tokenize import Tokenizer

    torch.manual_seed(0)
    words = Tokenizer.train(["a red circle on the left"], 300)
    vilt = Vilt(vocab_size=words.vocab_size, image_size=64, patch=16, length=12, width=32, layers=1, heads=2)
    assert vilt.fits is not None
    torch.nn.init.normal_(vilt.fits.weight)
    made = [ViltModel(vilt, WholePictures(64, stride=16), words, 12, "it", by=by) for by in ("odds", "fits")]
    odds, fits = (model.score_pairs(pictures(), TEXTS, query="text") for model in made)
    encoded = words.encode(TEXTS, 12)
    for row, image in enumerate(pictures()):
        image_BCHW, grid_B2 = made[0].preprocess([image.pixels_HWC] * 2)
        with torch.no_grad():
            seen = vilt.eval().picture_features(image_BCHW, grid_B2)
            x_BSD = vilt.read(vilt.text_features(torch.from_numpy(encoded.ids_BL)), torch.from_numpy(encoded.mask_BL), seen)
            answer_B2 = vilt.fits(vilt.pooled(x_BSD))
        np.testing.assert_allclose(odds[row], answer_B2[:, 1] - answer_B2[:, 0], atol=1e-6)
        np.testing.assert_allclose(fits[row], answer_B2[:, 1], atol=1e-6)
    assert isinstance(made[0], PairJudge)
    assert not isinstance(made[1], PairJudge)
    assert made[0].fingerprint != made[1].fingerprint
    with pytest.raises(ConfigError, match="has no head for retrieval"):
        ViltModel(vilt, WholePictures(64, stride=16), words, 12, "it", by="rank")
