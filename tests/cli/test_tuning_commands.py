"""From weights to a tuned model, a blend, a report and an export, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diptych.cli import main

DATA = "emoji"
SMALL = [
    "--batch-size",
    "16",
    "--width",
    "32",
    "--image-tower",
    "vit_micro",
    "--image-size",
    "48",
    "--pieces",
    "300",
    "--warmup",
    "0",
    "--no-progress",
    "--workers",
    "0",
]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code = main([*words, "--json"])
    out = capsys.readouterr().out
    found: dict[str, Any] = json.loads(out)
    assert code == 0, found
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base for CLIP's architecture, and what adapters made of it."""
    folder = tmp_path_factory.mktemp("tuned")
    tiny = [*SMALL, "--text-tower", "text_clip", "--text-length", "8", "--steps", "2", "--no-evaluation"]
    subset = folder / "some.txt"
    from diptych import api

    subset.write_text("".join(f"{api.read(DATA, split='train')[row].uid}\n" for row in range(48)))
    common = ["--data", DATA, "--subset", str(subset)]
    assert main(["train", "clip", *common, "--out", str(folder / "base"), *tiny]) == 0
    tuned = ["train", "clip", *common, "--init", str(folder / "base"), "--out", str(folder / "run"), "--lora", "2:qkv,mlp_out"]
    again = [
        "--layer-decay",
        "0.8",
        "--distill",
        "start",
        "--batch-size",
        "16",
        "--steps",
        "2",
        "--no-progress",
        "--no-evaluation",
        "--lr",
        "0.01",
    ]
    assert main([*tuned, *again]) == 0
    return folder


def test_a_blend_and_its_curve(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, end, out = folders / "run" / "start", folders / "run", tmp_path / "half"
    run(capsys, "blend", str(start), str(end), "--share", "0.25", "--out", str(out))
    first, second, mixed = (load_file(path / "model.safetensors") for path in (start, end / "model", out))
    assert all(torch.allclose(mixed[name], 0.75 * first[name] + 0.25 * second[name], atol=1e-6) for name in first)
    assert any((second[name] - first[name]).abs().max() > 1e-4 for name in first)
    assert main(["blend", str(start), str(end)]) == 2
    assert main(["blend", str(start), str(end), "--out", str(tmp_path / "x"), "--share", "2"]) == 2


def test_the_export_of_adapters_and_merged_weights_agree(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers
    from peft import PeftModel

    for to, model in (("transformers", "run"), ("adapter", "run"), ("open_clip", "run")):
        run(capsys, "export", str(folders / model), str(tmp_path / to), "--to", to)
    run(capsys, "export", str(folders / "run" / "start"), str(tmp_path / "base"), "--to", "transformers")
    merged = transformers.AutoModel.from_pretrained(tmp_path / "transformers").eval()
    base = transformers.AutoModel.from_pretrained(tmp_path / "base")
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    image_BCHW, ids_BL = torch.randn(2, 3, 48, 48), torch.tensor([[0, 5, 6, merged.config.text_config.eos_token_id]] * 2)
    with torch.no_grad():
        one, two = (model(pixel_values=image_BCHW, input_ids=ids_BL) for model in (merged, adapted))
    assert torch.allclose(one.image_embeds, two.image_embeds, atol=1e-5)
    assert torch.allclose(one.text_embeds, two.text_embeds, atol=1e-5)
    card = (tmp_path / "transformers" / "README.md").read_text()
    assert "licences: " in card
    assert "lora 2:qkv,mlp_out" in card
    # The same adapter through our own door.
    from diptych import api

    ours = api.load(f"lora:{folders / 'run' / 'adapter'}#{folders / 'run' / 'start'}")
    assert torch.allclose(
        torch.tensor(ours.embed_texts(["cat"])), torch.tensor(api.load(folders / "run").embed_texts(["cat"])), atol=1e-6
    )
    assert main(["export", str(folders / "base"), str(tmp_path / "none"), "--to", "adapter"]) == 1


def test_the_report_says_what_changed_and_why_it_could_not_work(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(capsys, "tune-report", str(folders / "run"), "--source", DATA, "--out", str(tmp_path / "page.html"))
    assert {change["role"] for change in found["changes"]} == {"target", "source"}
    for change in found["changes"]:
        assert change["low"] <= change["after"] - change["before"] + 1e-9
        assert change["after"] - change["before"] <= change["high"] + 1e-9
    assert any("batch_size is 16" in warning for warning in found["warnings"])
    assert any("temperature stayed" in warning for warning in found["warnings"])  # frozen beside adapters
    page = (tmp_path / "page.html").read_text()
    assert "Before and after" in page
    assert main(["tune-report", str(folders / "base")]) == 1  # it has no start
