"""Published probes asked of published kinds of models, from the command line: a CLIP as transformers saves it, and one of open_clip."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from diptych.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "data" / "probes"))
sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import clip_folders
import published_probes as published

TEXTS = ["red left of blue", "a cup on a box, the green man calls or sings", "two things on a plain table stand there"]
TASKS = ("aro", "snare", "winoground", "sugarcrepe", "vl_checklist")


@pytest.fixture(scope="module")
def transformers_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folders.clip_folder(tmp_path_factory.mktemp("hf"), TEXTS)


@pytest.fixture(scope="module")
def open_clip_arch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with clip_folders.open_clip_model(tmp_path_factory.mktemp("arch")) as address:
        yield address


def asked(model: str, task: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the command prints, and keeps in `folder`."""
    data = getattr(published, "aro" if task == "snare" else task)(folder / "data")
    few = ["--minimum", "1"] if task in ("aro", "snare") else []
    argv = ["eval", model, task, "--data", str(data), "--out", str(folder / "out"), "--draws", "20", *few, "--json"]
    assert main(argv) == 0
    results: dict[str, Any] = json.loads(capsys.readouterr().out)["results"]
    return results


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ["hf", "open_clip"])
def test_every_probe_of_published_models(
    kind: str, task: str, transformers_clip: Path, open_clip_arch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = f"hf:{transformers_clip}" if kind == "hf" else open_clip_arch
    results = asked(model, task, tmp_path, capsys)
    for result in results.values():
        assert result["n_items"] >= 1
        assert 0 <= result["metrics"][result["main"]]["value"] <= 1
        assert result["notes"]["compare"] == "vectors"
    splits = {"aro": 4, "snare": 4, "winoground": 1, "sugarcrepe": 1, "vl_checklist": 1}
    assert len(results) == splits[task], results.keys()


def scores_kept(folder: Path) -> list[list[float]]:
    (file,) = (folder / "out").glob("*.parquet")
    return [row["scores"] for row in pq.read_table(file).to_pylist()]


def test_scores_are_those_of_transformers(transformers_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import transformers

    asked(f"hf:{transformers_clip}", "winoground", tmp_path, capsys)
    inner = transformers.CLIPModel.from_pretrained(transformers_clip).eval()
    processor = transformers.CLIPImageProcessor.from_pretrained(transformers_clip)
    words = transformers.PreTrainedTokenizerFast(tokenizer_file=str(transformers_clip / "tokenizer.json"), pad_token="<pad>")
    ids = [words.encode(text) for text in ("red left of blue", "blue left of red")]
    images = [Image.open(tmp_path / "data" / "images" / f"ex_0_img_{side}.png") for side in (0, 1)]
    with torch.no_grad():
        image = inner.get_image_features(**processor(images, return_tensors="pt"))
        image_ND = torch.nn.functional.normalize(getattr(image, "pooler_output", image), dim=-1)
        text = [inner.get_text_features(input_ids=torch.tensor([each])) for each in ids]
        text_ND = torch.nn.functional.normalize(torch.cat([getattr(each, "pooler_output", each) for each in text]), dim=-1)
    np.testing.assert_allclose(scores_kept(tmp_path), (image_ND @ text_ND.T).numpy(), atol=1e-5)


def test_scores_are_those_of_open_clip(open_clip_arch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import open_clip

    asked(open_clip_arch, "winoground", tmp_path, capsys)
    theirs, _, transform = open_clip.create_model_and_transforms(clip_folders.ARCH, pretrained=open_clip_arch.split("/", 1)[1])
    images = [Image.open(tmp_path / "data" / "images" / f"ex_0_img_{side}.png") for side in (0, 1)]
    ids = open_clip.get_tokenizer(clip_folders.ARCH)(["red left of blue", "blue left of red"])
    with torch.no_grad():
        image_ND = theirs.eval().encode_image(torch.stack([transform(image) for image in images]), normalize=True)
        text_ND = theirs.encode_text(ids, normalize=True)
    np.testing.assert_allclose(scores_kept(tmp_path), (image_ND @ text_ND.T).numpy(), atol=1e-4)
