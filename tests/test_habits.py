"""The page for people from other libraries: each line of code of its table of habits is carried out, on small data and small models."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych.cli import main
from diptych.data.text.tokenize import Tokenizer

PAGE = Path(__file__).parents[1] / "docs/coming-from.md"
TINY = ["--steps", "1", "--batch-size", "4", "--width", "16", "--text-tower", "text_tiny_clip", "--no-evaluation", "--overwrite"]
SMALLER = {"ViT-B-32": "tiny-ViT-B-32", "resnet50": "resnet10t"}
"""In place of what the page names, an architecture of the same library that is made in a moment."""
BOARDS = {"--tensorboard": "tensorboard", "--wandb": "wandb", "--mlflow": "mlflow"}


def habits() -> dict[str, list[str]]:
    """Habit -> what stands in code beside it."""
    table = PAGE.read_text(encoding="utf-8").split("| operation | in Diptych |")[1].split("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {habit: re.findall(r"`([^`]+)`", here) for habit, here in rows}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, a picture, weights of other libraries under the names of the page, and a run whose parts fit every export."""
    folder = tmp_path_factory.mktemp("habits")
    rng = np.random.default_rng(0)
    (folder / "pairs").mkdir()
    for row in range(24):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / f"pairs/{row}.png")
        (folder / f"pairs/{row}.txt").write_text(f"a red bus, number {row}")
    Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / "bus.jpg")
    of_transformers(folder / "models/clip-vit-base-patch32")
    of_open_clip(folder)
    of_timm(folder)
    for name in ("a", "b", "c"):  # a is trained again by some habits, on other rows
        assert main(["train", "clip", "--data", str(folder / "pairs"), "--out", str(folder / "runs" / name), *TINY]) == 0
    return folder


def of_transformers(folder: Path) -> None:
    import transformers

    words = Tokenizer.train(["a red bus by a tree"], 300)
    words.save(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": words.vocab_size, "max_position_embeddings": 12, "eos_token_id": 2, "bos_token_id": 1}
    settings = transformers.CLIPConfig(
        projection_dim=16, vision_config={**sizes, "image_size": 32, "patch_size": 16}, text_config=text
    )
    transformers.CLIPModel(settings).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def of_open_clip(folder: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    name = SMALLER["ViT-B-32"]
    vision = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 32}
    plain = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": {"context_length": 12, "width": 32, "heads": 2, "layers": 1}}
    (folder / "configs").mkdir()
    (folder / f"configs/{name}.json").write_text(json.dumps(plain))
    open_clip.add_model_config(folder / "configs")
    save_file(open_clip.create_model(name).state_dict(), folder / "clip.safetensors")


def of_timm(folder: Path) -> None:
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model(SMALLER["resnet50"], num_classes=3).state_dict(), folder / "resnet.safetensors")


@pytest.fixture
def names(place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's lines call by name, in a folder where its paths lie; training takes one step."""
    import pandas as pd

    monkeypatch.chdir(place)
    rows = [(f"pairs/{row}.png", f"a red bus, number {row}") for row in range(24)]
    few = SimpleNamespace(**{name: getattr(dp, name) for name in dp.__all__})
    few.train = partial(dp.train, overwrite=True, steps=1, batch_size=4)
    model = dp.load("runs/a")
    return {"dp": few, "model": model, "frame": pd.DataFrame(rows, columns=["image", "text"])}


def carried_out(code: str, names: dict[str, Any]) -> Any:
    """A line of Python, or a command with what makes it short."""
    for large, small in SMALLER.items():
        code = code.replace(f"{large}/", f"{small}/")
    if code.startswith("diptych "):
        words = shlex.split(code)[1:]
        words += TINY if words[0] == "train" and "--help" not in words else []
        words += ["pairs", "out/csv", "--format", "csv"] if words == ["data", "export"] else []
        try:
            return main(words)
        except SystemExit as end:
            return int(end.code or 0)
    return eval(code, dict(names))


def test_there_are_ten_habits() -> None:
    found = habits()
    assert len(found) == 10
    assert all(found.values())


@pytest.mark.parametrize(
    "habit", ["encode a string or a picture", "load a model by name", "list models and options", "train on a DataFrame"]
)
def test_first_habits(habit: str, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    for code in habits()[habit]:
        found = carried_out(code, names)
        if code.startswith("diptych"):
            assert found == 0, code
            assert "clip" in capsys.readouterr().out
        elif "embed" in code:
            assert found.shape == (len(names["model"].embed_texts("a")),), code
        elif "dp.load" in code:
            assert found.embed_images("bus.jpg").ndim == 1, code
        elif "dp.read" in code:
            assert len(found) == 24
        else:
            assert found.state["status"] == "finished", code


def test_lora_by_name(names: dict[str, Any]) -> None:
    (code,) = habits()["LoRA by name"]
    run = carried_out(code, {**names, "dp": names["dp"]})
    assert run.adapter.is_dir()


def test_the_best_checkpoint_and_evaluation_while_training(names: dict[str, Any]) -> None:
    (code,) = habits()["the best checkpoint, early stopping"]
    assert carried_out(code, names) == 0
    flag, file = habits()["evaluate while training"]
    assert main(["train", "clip", "--data", "pairs", "--out", "runs/watched", *TINY, *shlex.split(flag.replace("50", "1"))]) == 0
    assert any(json.loads(line)["kind"] == "eval" for line in Path("runs/watched", file).read_text().splitlines())


@pytest.mark.parametrize("board", BOARDS)
def test_boards(board: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert board in habits()["log to a dashboard"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    code = main(["train", "clip", "--data", "pairs", "--out", "runs/board", *TINY, board])
    if importlib.util.find_spec(BOARDS[board]) is None:
        assert code == 1
        assert f"'{BOARDS[board]}" in capsys.readouterr().err, "what to install is said"
    else:
        assert code == 0


def test_numbers_out(names: dict[str, Any]) -> None:
    with dp.index("runs/a", "pairs", "pairs.index", overwrite=True, progress=False) as index:
        names |= {"result": dp.evaluate(names["model"], "retrieval", "pairs", split="test"), "index": index}
        names["comparison"] = dp.compare(["runs/b", "runs/c"], "pairs", seeds=1)
        for code in habits()["results as tables"]:
            found = carried_out(code, names)
            assert found == 0 if code.startswith("diptych") else len(found), code
    assert Path("out/csv/data.csv").is_file()


def test_a_folder_for_others(names: dict[str, Any], place: Path) -> None:
    code, *others, push = habits()["export a model with a model card"]
    assert push == "--push"
    for kind in ("transformers", *others):
        line = code.replace("out/a", f"out/{kind}").replace("--to transformers", f"--to {kind}")
        assert carried_out(line, names) == 0, line
        card = (place / "out" / kind / "README.md").read_text(encoding="utf-8")
        assert "clip" in card, kind
