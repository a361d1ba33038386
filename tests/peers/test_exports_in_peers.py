"""Exports opened by the libraries that they are for, each by its own entry point: our vectors come out, of texts and of any pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import diptych as dp
from diptych import api
from diptych.models.io.foreign.preprocess import from_timm

Note = Callable[[str, str, str, str], None]

TEXTS = [
    "a red circle",
    "A  GREEN square, left of it!",
    "it's 3 o'clock (almost)",
    "x",
    "a red circle left of a green square " * 9,
]
HTML = ["red &amp; green", "a &lt;b&gt;red&lt;/b&gt; circle", "“red” circle"]
"""open_clip's own call of a tokenizer repairs these first; the snippet on the card of an export does not."""
SIZES = ((32, 32), (31, 67), (100, 33), (64, 65), (333, 500))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "run"
    options = {"steps": 2, "batch_size": 8, "image_tower": "vit_tiny", "text_tower": "text_tiny_clip", "progress": False}
    return api.train("clip", "world:scenes?n=40", folder, **options).path


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = []
    for height, width in SIZES:
        small = Image.fromarray(rng.integers(0, 255, (5, 7, 3), dtype=np.uint8))
        made.append(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)))
    return made


def close(theirs: Any, ours: np.ndarray, atol: float = 1e-5) -> None:
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(theirs, ours, atol=atol)


def test_open_clip_with_its_own_tokenizer_and_transforms(
    clip: Path, pictures: list[np.ndarray], tmp_path: Path, peer: Note
) -> None:
    open_clip = pytest.importorskip("open_clip")
    folder = f"local-dir:{dp.export(clip, tmp_path / 'oc', to='open_clip')}"
    model, _, transform = open_clip.create_model_and_transforms(folder)
    model.eval()
    tokenizer = open_clip.get_tokenizer(folder)
    ours: Any = dp.load(clip)
    with torch.no_grad():
        close(model.encode_text(tokenizer(TEXTS)), ours.embed_texts(TEXTS))
        image_BCHW = torch.stack([transform(Image.fromarray(picture)) for picture in pictures])
        close(model.encode_image(image_BCHW), ours.embed_images(pictures))
    card = transformers_tokenizer(folder.removeprefix("local-dir:"))
    tokens = card(HTML, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        close(model.encode_text(tokens), ours.embed_texts(HTML))
    peer(
        "open_clip_torch",
        "open_clip.create_model_and_transforms, get_tokenizer",
        "reads ours",
        "vectors of `--to open_clip`, within 1e-5",
    )


def test_transformers_with_its_own_tokenizer(clip: Path, pictures: list[np.ndarray], tmp_path: Path, peer: Note) -> None:
    transformers = pytest.importorskip("transformers")
    folder = dp.export(clip, tmp_path / "hf", to="transformers")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours: Any = dp.load(clip)
    tokens = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        output = model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        close(getattr(output, "pooler_output", output), ours.embed_texts(TEXTS))
        output = model.get_image_features(pixel_values=ours.preprocess(pictures))
        close(getattr(output, "pooler_output", output), ours.embed_images(pictures))
    peer("transformers", "AutoModel, AutoTokenizer", "reads ours", "vectors of `--to transformers`, within 1e-5")


def test_onnx_runtime_with_the_names_and_the_tokenizer_of_transformers(
    clip: Path, pictures: list[np.ndarray], tmp_path: Path, peer: Note
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    transformers = pytest.importorskip("transformers")
    folder = dp.export(clip, tmp_path / "onnx", to="onnx")
    ours: Any = dp.load(clip)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == ours.text_length
    tokens = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="np")
    text = onnxruntime.InferenceSession(Path(folder) / "text.onnx")
    names = {entry.name for entry in text.get_inputs()}
    assert {"input_ids"} <= names <= {"input_ids", "attention_mask"}
    close(text.run(None, {name: tokens[name].astype(np.int64) for name in names})[0], ours.embed_texts(TEXTS))
    image = onnxruntime.InferenceSession(Path(folder) / "image.onnx")
    close(image.run(None, {"pixel_values": ours.preprocess(pictures).numpy()})[0], ours.embed_images(pictures))
    again: Any = dp.load(clip, engine="onnx")
    close(again.embed_texts(TEXTS), ours.embed_texts(TEXTS))
    peer("onnxruntime", "InferenceSession", "reads ours", "vectors of `--to onnx`, within 1e-5")


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "efficientnet_b0", "convnext_atto"])
def test_timm_pictures_are_those_of_its_own_transform(name: str, pictures: list[np.ndarray], peer: Note) -> None:
    """`crop_pct`, interpolation, mean and deviation of the model's own configuration."""
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, pretrained=False)
    settings = timm.data.resolve_model_data_config(model)
    transform, ours = timm.data.create_transform(**settings), from_timm(model)
    assert settings["crop_pct"] < 1
    for picture in pictures:
        np.testing.assert_array_equal(ours([picture])[0].numpy(), transform(Image.fromarray(picture)).numpy())
    peer("timm", "timm.create_model, create_transform", "is read", "pixels of a model's own transform, equal")


def test_centre_crops_are_those_of_transformers(peer: Note) -> None:
    """At each of a hundred margins; torchvision's differ by a pixel at 25 of them."""
    transformers = pytest.importorskip("transformers")
    from diptych.data.media.transforms import Preprocess

    theirs = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_normalize=False, do_rescale=False
    )
    differ = 0
    for width in range(32, 132):
        picture_HWC = np.repeat(np.repeat(np.arange(width, dtype=np.uint8)[None, :, None], 32, 0), 3, 2)
        output = theirs(Image.fromarray(picture_HWC), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        np.testing.assert_array_equal(output, Preprocess(32, rounding="down").square(picture_HWC))
        differ += not np.array_equal(output, Preprocess(32).square(picture_HWC))
    assert differ == 25
    peer("transformers", "CLIPImageProcessor", "is read", "pixels at a hundred margins, equal")


def test_sentence_transformers_with_texts_and_pictures(
    clip: Path, pictures: list[np.ndarray], tmp_path: Path, peer: Note
) -> None:
    """Pillow's resize on our side; an odd margin is cropped a pixel further left by transformers, which changes a vector by some 1e-4."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = dp.export(clip, tmp_path / "st", to="sentence-transformers")
    ours: Any = dp.load(clip)
    even = [picture for picture in pictures if (max(picture.shape[:2]) * 64 // min(picture.shape[:2])) % 2 == 0]
    assert len(even) >= 3
    images = [Image.fromarray(picture) for picture in pictures]
    exact = sentence_transformers.SentenceTransformer(str(folder), device="cpu", processor_kwargs={"backend": "pil"})
    close(exact.encode(TEXTS, show_progress_bar=False), ours.embed_texts(TEXTS))
    close(exact.encode([Image.fromarray(picture) for picture in even], show_progress_bar=False), ours.embed_images(even))
    plain = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    close(plain.encode(images, show_progress_bar=False), ours.embed_images(pictures), atol=1e-3)
    what = "vectors of `--to sentence-transformers`: texts, and pictures by Pillow's resize, within 1e-5"
    peer("sentence-transformers", "SentenceTransformer.encode", "reads ours", what)


def test_the_zero_shot_pipeline_of_transformers(clip: Path, pictures: list[np.ndarray], tmp_path: Path, peer: Note) -> None:
    """Scores of labels in a sentence are the softmax of our scaled cosines."""
    transformers = pytest.importorskip("transformers")
    folder = dp.export(clip, tmp_path / "hf", to="transformers")
    pipe = transformers.pipeline("zero-shot-image-classification", model=str(folder), device="cpu")
    ours: Any = dp.load(clip)
    labels = ["red circle", "green square", "2 blue stars!"]
    text_KD = ours.embed_texts([f"a picture of a {label}" for label in labels])
    for picture in pictures:
        rows = pipe(Image.fromarray(picture), candidate_labels=labels, hypothesis_template="a picture of a {}")
        logits_K = float(pipe.model.logit_scale.exp()) * text_KD @ ours.embed_images([picture])[0]
        expected = torch.from_numpy(logits_K).softmax(0).tolist()
        scores = {row["label"]: row["score"] for row in rows}
        np.testing.assert_allclose([scores[label] for label in labels], expected, atol=1e-4)
    peer("transformers", 'pipeline("zero-shot-image-classification")', "reads ours", "scores of labels, within 1e-4")


def transformers_tokenizer(folder: str) -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)
