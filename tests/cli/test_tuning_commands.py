"""From weights to a tuned model, a blend, a report and an export, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diptych.cli import main

DATA = "world:scenes?n=16"
QUICK = ["--batch-size", "4", "--steps", "2", "--no-progress", "--no-evaluation"]
TINY = ["--width", "32", "--image-tower", "vit_micro", "--text-tower", "text_micro", "--image-size", "48", "--warmup", "0"]
WAYS = ["--lora", "2:qkv,mlp_out", "--layer-decay", "0.8", "--distill", "start", "--lr", "0.01", "--log-every", "1"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code = main([*words, "--json"])
    out = capsys.readouterr().out
    found: dict[str, Any] = json.loads(out)
    assert code == 0, found
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and what adapters made of it."""
    folder = tmp_path_factory.mktemp("tuned")
    base, tuned = str(folder / "base"), str(folder / "run")
    assert main(["train", "clip", "--data", DATA, "--out", base, *QUICK, *TINY]) == 0
    assert main(["train", "clip", "--data", DATA, "--init", base, "--out", tuned, *QUICK, *WAYS]) == 0
    return folder


def test_a_blend_and_its_curve(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, end, out = folders / "run" / "start", folders / "run", tmp_path / "half"
    run(capsys, "blend", str(start), str(end), "--share", "0.25", "--out", str(out))
    first, second, mixed = (load_file(path / "model.safetensors") for path in (start, end / "model", out))
    assert all(torch.allclose(mixed[name], 0.75 * first[name] + 0.25 * second[name], atol=1e-6) for name in first)
    assert any((second[name] - first[name]).abs().max() > 1e-4 for name in first)
    assert main(["blend", str(start), str(end)]) == 2
    assert main(["blend", str(start), str(end), "--out", str(tmp_path / "x"), "--share", "2"]) == 2


def test_an_adapter_opens_on_its_base_and_on_no_other(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diptych import api

    adapter, start = folders / "run" / "adapter", folders / "run" / "start"
    ours, merged = api.load(f"lora:{adapter}#{start}"), api.load(folders / "run")
    before = api.load(start).embed_texts(["a red square"])
    assert abs(merged.embed_texts(["a red square"]) - before).max() > 1e-3
    assert abs(ours.embed_texts(["a red square"]) - merged.embed_texts(["a red square"])).max() < 1e-6
    assert main(["export", f"lora:{adapter}#{folders / 'run'}", str(tmp_path / "x"), "--to", "open_clip"]) == 2
    assert "adapter of another base" in capsys.readouterr().err
    assert main(["export", str(folders / "base"), str(tmp_path / "none"), "--to", "adapter"]) == 1
    assert "has no adapters" in capsys.readouterr().err


def test_a_card_says_data_recipe_and_start(folders: Path) -> None:
    from diptych import api
    from diptych.api.exports import card

    words = card(folders / "run", api.load(folders / "run"), "transformers")
    assert "lora 2:qkv,mlp_out" in words
    assert "started from" in words
    assert "licences: " in words
    assert "fingerprint" in words


def test_the_report_says_what_changed_and_why_it_could_not_work(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(capsys, "tune-report", str(folders / "run"), "--source", DATA, "--out", str(tmp_path / "page.html"))
    assert {change["role"] for change in found["changes"]} == {"target", "source"}
    for change in found["changes"]:
        assert change["low"] <= change["after"] - change["before"] + 1e-9
        assert change["after"] - change["before"] <= change["high"] + 1e-9
    assert any("batch_size is 4" in warning for warning in found["warnings"])
    assert any("temperature stayed" in warning for warning in found["warnings"])  # frozen beside adapters
    page = (tmp_path / "page.html").read_text()
    assert "Before and after" in page
    assert main(["tune-report", str(folders / "base")]) == 1  # it has no start
