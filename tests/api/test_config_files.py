"""Configuration files: what a run wrote trains again, options overrule, a wrong field is one line, editors get a schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from diptych.cli import main
from diptych.comparisons import job
from diptych.core.run_folder import RunFolder
from diptych.worlds.address import open_data, with_held_out

WORLD = "world:scenes?n=24&test=12&size=32"
SMALL = {"batch_size": 8, "warmup": 0, "width": 16, "image_size": 32, "text_length": 12, "pieces": 300}


def write(path: Path, **sections: Any) -> str:
    path.write_text(yaml.safe_dump(sections, sort_keys=False))
    return str(path)


def test_a_file_trains_a_run_repeats_it_and_options_overrule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    begun = {"recipe": "clip", "data": WORLD, "out": str(tmp_path / "a"), "no_evaluation": True}
    recipe = {**SMALL, "steps": 2, "lr": "2e-3", "text_draw": {"least_words": 2}}
    write(file, train=begun, recipe=recipe, run={"seed": 3, "tune": {"layer_decay": 0.9}})
    assert main(["train", "--config", str(file)]) == 0
    first = RunFolder.open(tmp_path / "a")
    assert (first.config["recipe"]["lr"], first.config["run"]["seed"], first.config["run"]["tune"]["layer_decay"]) == (
        2e-3,
        3,
        0.9,
    )
    assert first.config["recipe"]["text_draw"]["least_words"] == 2
    assert first.config["train"]["data"] == WORLD
    assert main(["train", "--like", str(first.path), "--out", str(tmp_path / "b"), "--no-evaluation"]) == 0
    same = RunFolder.open(tmp_path / "b")
    assert (same.model / "model.safetensors").read_bytes() == (first.model / "model.safetensors").read_bytes()
    words = [
        "train",
        "clip",
        "--config",
        str(first.path / "config.yaml"),
        "--lr",
        "1e-3",
        "--seed",
        "4",
        "--out",
        str(tmp_path / "c"),
    ]
    assert main([*words, "--no-evaluation"]) == 0
    other = RunFolder.open(tmp_path / "c").config
    assert (other["recipe"]["lr"], other["run"]["seed"], other["recipe"]["batch_size"]) == (1e-3, 4, 8)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"train": {"recipe": "clip", "data": WORLD, "out": "x"}, "recipe": {"batchsize": 3}}, "did you mean 'batch_size'"),
        (
            {"train": {"recipe": "clip", "data": WORLD, "out": "x"}, "recipe": {"lr": "fast"}},
            "recipe.lr is 'fast' (expected float)",
        ),
        ({"train": {"recipe": "clip", "daat": WORLD}}, "did you mean 'data'"),
        ({"train": {"recipe": "clip"}, "runs": {"seed": 1}}, "did you mean 'run'"),
        (
            {"train": {"recipe": "clip", "data": WORLD, "out": "x"}, "run": {"tune": {"lora": 4}}},
            "run.tune.lora is 4 (expected str)",
        ),
    ],
)
def test_a_wrong_field_is_one_line_with_the_file(
    sections: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "wrong.yaml", **sections)
    assert main(["train", "--config", file]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert f"{file}: " in error
    assert error.count("\n") == 1


def test_files_that_are_none_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("train: [1\n")
    no_sections = "no sections (expected sections such as train:"
    for name, said in (("none.yaml", "cannot be read"), ("list.yaml", no_sections), ("broken.yaml", "cannot")):
        assert main(["train", "--config", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert main(["train", "--config", "a.yaml", "--like", "b"]) == 2
    assert "expected one of them" in capsys.readouterr().err


def test_what_config_prints_trains_and_its_schema_accepts_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "clip"]) == 0
    text = capsys.readouterr().out
    assert "# learning rate at its highest" in text
    plain = yaml.safe_load(text)
    assert plain["recipe"]["lr"] == 8e-4
    assert "vocabulary" not in plain["recipe"]  # learned from data
    file = tmp_path / "clip.yaml"
    file.write_text(text)
    words = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert (
        main(
            [
                "train",
                "--config",
                str(file),
                "--data",
                WORLD,
                "--out",
                str(tmp_path / "r"),
                "--steps",
                "1",
                "--no-evaluation",
                *words,
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert main(["config", "clip", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(plain, schema)
    run = yaml.safe_load((tmp_path / "r/config.yaml").read_text())
    jsonschema.validate({name: run[name] for name in ("train", "recipe")}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"recipe": {"learning_rate": 1}}, schema)


def test_compare_eval_and_curate_read_files_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "run_apart", lambda cell, say: job.run_job(cell, with_held_out(open_data(cell.source))))
    arms = {"base": "clip", "short": {"recipe": "mrl", "base": "clip", "base_preset": "tiny", "dims": [4, 16]}}
    compared = {
        "arms": arms,
        "data": WORLD,
        "seeds": 1,
        "budget": "steps:1",
        "out": str(tmp_path / "c"),
        "set": SMALL,
        "tasks": ["retrieval"],
    }
    assert main(["compare", "--config", write(tmp_path / "compare.yaml", compare=compared), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["arms"] == ["base", "short"]
    assert plain["configs"]["short"]["dims"] == [4, 16]
    assert plain["configs"]["short"]["width"] == 16
    run = next(iter(plain["folders"]["base"].values()))
    evaluated = {"model": run, "task": "retrieval", "data": WORLD, "split": "test", "draws": 20, "ks": [1, 3]}
    assert main(["eval", "--config", write(tmp_path / "eval.yaml", eval=evaluated), "--json"]) == 0
    assert "t2i_r@3" in json.loads(capsys.readouterr().out)["results"]["test"]["metrics"]
    curated = {"step": "exact_duplicates", "source": WORLD, "out": str(tmp_path / "k")}
    assert main(["curate", "--config", write(tmp_path / "curate.yaml", curate=curated), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["before"] == 42
    for words in (["config", "compare"], ["config", "eval", "retrieval", "--schema"], ["config", "curate", "exact_duplicates"]):
        assert main(words) == 0
    capsys.readouterr()
    wrong = write(tmp_path / "w.yaml", compare={**compared, "arms": {"base": {"recip": "clip"}}})
    assert main(["compare", "--config", wrong]) == 2
    assert "compare.arms.base is" in capsys.readouterr().err


def test_every_option_that_may_change_is_one_of_resume() -> None:
    from dataclasses import fields

    from diptych.cli.commands.train import ResumeArgs
    from diptych.train.fit import RESUMABLE

    assert {field.name for field in fields(ResumeArgs)} >= RESUMABLE
