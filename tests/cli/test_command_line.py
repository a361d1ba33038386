"""The command contract: help without heavy imports, near matches, one JSON object on stdout, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tyro

from diptych.cli import COMMANDS, main
from diptych.cli.options.flat import changed, flat, select_fields
from diptych.cli.options.meaning import documented
from diptych.core.registry import OPERATORS
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.relations.rlipv2 import RLIPv2
from diptych.train.options import TrainOptions

WORLD = "world:scenes?n=40"


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("words", [["--help"], ["systems"], ["systems", "clip"], ["data"], ["train", "--help"]])
def test_help_and_tables_import_nothing_heavy(words: list[str]) -> None:
    code = f"import sys; from diptych.cli import main; main({words!r}); sys.exit(bool({{'torch', 'timm', 'daft'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_import_diptych_is_free_of_torch() -> None:
    code = "import diptych, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_command_has_a_module_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        try:
            code, out, _ = run(name, "--help", capsys=capsys)
        except SystemExit as stop:  # tyro ends the process after its help
            code, out = int(stop.code or 0), capsys.readouterr().out
        assert code == 0, name
        assert name in out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train", "fillip", "--data", WORLD, "--out", "x"], "unknown recipe 'fillip'; did you mean 'filip'?"),
        (["train", "metaclip", "--data", WORLD, "--out", "x"], "is not a recipe: it lives in curate/"),
        (["train"], "no recipe is given"),
        (["train", "clip", "--data", WORLD], "the output folder is missing: --out"),
        (["train", "clip", "--data", "world:secnes", "--out", "x"], "unknown world 'secnes'; did you mean 'scenes'?"),
        (["data", "biuld"], "unknown subcommand of data 'biuld'; did you mean 'build'?"),
        (["curate", "near_duplicate", WORLD, "x"], "did you mean 'near_duplicates'"),
        (["eval", "runs/x", "retreival", "--data", WORLD], "unknown task 'retreival'; did you mean 'retrieval'?"),
        (["claims", "run", "fillip"], "did you mean 'filip'"),
    ],
)
def test_wrong_names_get_one_line_and_exit_code_2(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(*words, capsys=capsys)
    assert code == 2
    assert out == ""
    assert problem in err
    assert err.count("\n") == 1


def test_a_curation_step_has_its_published_preset(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["curate", "tldr", "--preset", "paper", "--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "a fortieth of the number of rows (default: 1000)" in words
    assert "(default: all)" in words
    assert main(["curate", "exact_duplicates", "x", "y", "--preset", "paper"]) == 2
    assert "exact_duplicates has no presets" in capsys.readouterr().err


def test_help_of_curate_says_what_each_step_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curate", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {slug}  " in shown and entry.about in shown for slug, entry in OPERATORS.items())


def test_a_wrong_option_is_answered_with_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "clip", "--data", WORLD, "--out", "x", "--batch-sise", "8"])
    assert stop.value.code == 2
    assert "--batch-size" in capsys.readouterr().err


def test_errors_are_json_too_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("systems", "fillip", "--json", capsys=capsys)
    assert code == 2
    assert json.loads(out)["error"] == "unknown system 'fillip'; did you mean 'filip'?"


def test_empty_folder_and_missing_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("train", "clip", "--data", str(tmp_path), "--out", str(tmp_path / "run"), capsys=capsys)
    assert code == 1
    assert str(tmp_path) in err
    (tmp_path / "pairs.csv").write_text("picture,words\na.png,hello\n")
    code, _, err = run("data", "inspect", str(tmp_path / "pairs.csv"), "--image", "picture", "--text", "wrods", capsys=capsys)
    assert code in (1, 2)
    assert "wrods" in err
    assert "words" in err


def test_the_main_job_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    code, text, _ = run(
        "train",
        "clip",
        "--data",
        WORLD,
        "--out",
        out,
        "--steps",
        "2",
        "--batch-size",
        "8",
        "--no-progress",
        "--json",
        capsys=capsys,
    )
    assert code == 0
    answer = json.loads(text)
    assert (answer["status"], answer["step"]) == ("finished", 2)
    assert set(answer["results"]) == {"val", "test"}
    page = Path(answer["report"]).read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "data:image/webp;base64" in page

    code, text, _ = run("train", "--resume", out, "--json", capsys=capsys)
    assert code == 0
    assert json.loads(text)["status"] == "finished"

    code, text, _ = run("eval", out, "retrieval", "--data", WORLD, "--split", "val", "--draws", "50", "--json", capsys=capsys)
    assert code == 0
    metric = json.loads(text)["results"]["val"]["metrics"]["r@1"]
    assert metric["low"] <= metric["value"] <= metric["high"]

    index = str(tmp_path / "index")
    code, text, _ = run("index", "build", out, WORLD, index, "--split", "val", "--json", capsys=capsys)
    assert code == 0
    count = json.loads(text)["count"]
    code, text, _ = run("search", index, "a red circle", "-k", "3", "--json", capsys=capsys)
    hits = json.loads(text)["hits"]
    assert len(hits) == 3
    code, text, _ = run("index", "remove", index, hits[0]["uid"], "--json", capsys=capsys)
    assert json.loads(text) == {"removed": 1, "count": count - 1}
    code, text, _ = run("search", index, "a red circle", "-k", "3", "--json", capsys=capsys)
    assert hits[0]["uid"] not in [hit["uid"] for hit in json.loads(text)["hits"]]


def test_dry_run_says_what_it_costs_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["train", "clip", "--data", WORLD, "--out", str(out), "--dry-run", "--batch-size", "8", "--json"]
    code, text, _ = run(*words, capsys=capsys)
    assert code == 0
    assert not out.exists()
    assert json.loads(text)["parameters"] > 1e6


def test_build_inspect_verify_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "built")
    code, text, _ = run("data", "build", WORLD, out, "--json", capsys=capsys)
    assert code == 0
    code, text, _ = run("data", "verify", out, "--json", capsys=capsys)
    assert code == 0
    assert json.loads(text)["ok"]
    code, text, _ = run("data", "split", out, "--shares", "train=0.5,test=0.5", "--json", capsys=capsys)
    assert code == 0
    assert set(json.loads(text)["splits"]) == {"train", "test"}
    code, text, _ = run("data", "inspect", out, "--json", capsys=capsys)
    assert code == 0
    assert json.loads(text)["samples"] > 0
    first = pq.read_table(Path(out) / "manifest.parquet").slice(0, 1).to_pylist()[0]
    shard = next(Path(out).glob("shards/*.tar"))
    damaged = bytearray(shard.read_bytes())
    damaged[first["image_offset"] + first["image_size"] // 2] ^= 0xFF
    shard.write_bytes(damaged)
    code, _, _ = run("data", "verify", out, capsys=capsys)
    assert code == 1


def test_classify_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diptych import api
    from diptych.data.media.decode import decode, encode_png

    out = str(tmp_path / "run")
    api.train("clip", WORLD, out, steps=1, batch_size=8, progress=False)
    picture = tmp_path / "a.png"
    picture.write_bytes(encode_png(decode(api.read(WORLD)[0].image)))
    code, text, _ = run("classify", out, str(picture), "--classes", "circle, square", "--json", capsys=capsys)
    assert code == 0
    assert {c["name"] for c in json.loads(text)["answers"][0]["classes"]} == {"circle", "square"}
    code, _, err = run("classify", out, str(tmp_path / "none.png"), "--classes", "circle,square", capsys=capsys)
    assert code == 2
    assert "does not exist" in err
    code, _, err = run("classify", "hf:openai/clip-vit-base-patch32", str(picture), "--classes", "a,b", capsys=capsys)
    assert code in (1, 2)
    assert "--download" in err


def test_a_failing_claim_smoke_is_seen() -> None:
    from diptych.claims import registry

    assert {"clip", "siglip", "locked"} <= set(registry.slugs())


def test_fields_of_a_configuration_that_a_recipe_holds_are_options() -> None:
    preset = RLIPv2.tiny()
    every = flat("Options", [(RLIPv2, preset)])
    assert "shape" not in {f.name for f in fields(every)}
    assert changed(preset, every()) == preset
    found = changed(preset, tyro.cli(every, args=["--fusion", "late", "--lr", "0.5"]))
    assert found == replace(preset, lr=0.5, shape=replace(preset.shape, fusion="late"))


def test_flat_options_take_help_and_defaults_from_the_dataclasses() -> None:
    words = documented(CLIP)
    assert "byte pairs learned" in words["tokenizer"]
    every = flat("Options", [(CLIP, CLIP.tiny()), (TrainOptions, TrainOptions())])
    values = every()
    assert select_fields(CLIP, values)["batch_size"] == CLIP.tiny().batch_size
    assert select_fields(TrainOptions, values)["seed"] == 0
    assert "vocabulary" not in select_fields(CLIP, values)
