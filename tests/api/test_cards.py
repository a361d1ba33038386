"""The card of a run's model says what is known of it when it is known: after training, and again after evaluation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from diptych import api
from diptych.core.errors import ConfigError, RunError
from diptych.core.sample import Sample

SMALL = {"batch_size": 4, "image_tower": "vit_micro", "text_tower": "text_micro", "image_size": 48, "progress": False, "seed": 7}


def test_a_card_is_completed_when_training_ends_and_when_scores_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = api.train("clip", "world:scenes?n=12", tmp_path / "run", steps=2, **SMALL)  # type: ignore[arg-type]
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert "scenes (fingerprint " in card
    assert "licences: none needed, the samples are rendered" in card
    assert "`clip`, 2 steps of 4; learning rate " in card
    assert "seed 7." in card
    assert "None recorded." in card
    results = api.evaluate_run(run)
    again = (run.model / "README.md").read_text(encoding="utf-8")
    for part, result in results.items():
        assert f"| retrieval, {part}: {result.main} | {result.metrics[result.main]} |" in again
    assert again.partition("## Use")[2] == card.partition("## Use")[2], "the other sections stay"
    monkeypatch.setenv("RANK", "1")
    (run.model / "README.md").write_text("mine\n## Data\n", encoding="utf-8")
    api.evaluate_run(run)
    assert (run.model / "README.md").read_text(encoding="utf-8") == "mine\n## Data\n", (
        "another process than the first writes nothing"
    )


def test_a_stopped_run_has_no_card_yet(tmp_path: Path) -> None:
    from diptych.api.cards import write_card

    run = api.train("clip", "world:scenes?n=12", tmp_path / "run", steps=1, **SMALL)  # type: ignore[arg-type]
    before = (run.model / "README.md").read_bytes()
    run.write_state(status="stopped", step=99)
    write_card(run)
    assert (run.model / "README.md").read_bytes() == before


@pytest.mark.parametrize("recipe", ["penet", "rlipv2"])
def test_the_card_of_a_detector_is_completed_too(recipe: str, tmp_path: Path) -> None:
    run = api.train(recipe, "world:links?n=12", tmp_path / "run", steps=1, batch_size=2, progress=False, seed=7)
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert "links (fingerprint " in card.partition("## Data")[2].partition("## Training")[0]
    assert f"`{recipe}`, 1 steps of 2; learning rate " in card
    assert "tags: [object-detection, scene-graphs]" in card
    assert "graphs = model." in card.partition("## Use")[2]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = SMALL | {"text_tower": "text_tiny_clip"}
    run = api.train("clip", "world:scenes?n=12", tmp_path_factory.mktemp("cards") / "run", steps=1, **settings)  # type: ignore[arg-type]
    return run.path


@pytest.mark.parametrize("to", ["transformers", "open_clip", "sentence-transformers", "onnx", "diptych"])
def test_the_snippet_on_the_card_of_an_export_opens_it_and_so_does_load(
    to: str, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sentence_transformers" if to == "sentence-transformers" else "onnxruntime" if to == "onnx" else "torch")
    folder = api.export(small_run, tmp_path / "out", to=to)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    library = {"diptych": "diptych", "onnx": "onnx"}.get(to, to)
    assert f"library_name: {library}\n" in readme
    Image.new("RGB", (60, 50), (200, 30, 30)).save(tmp_path / "bus.png")
    monkeypatch.chdir(tmp_path)
    code = readme.partition("```python\n")[2].partition("```")[0]
    exec(compile(code.replace("path/to/this/folder", str(folder)), f"{to}.py", "exec"), {})
    ours, again = api.load(small_run), api.load(folder)
    score = float((ours.embed_images(["bus.png"]) @ ours.embed_texts(["a red bus"]).T)[0, 0])
    assert float((again.embed_images(["bus.png"]) @ again.embed_texts(["a red bus"]).T)[0, 0]) == pytest.approx(score, abs=1e-5)
    if to in ("open_clip", "sentence-transformers"):
        printed = float(re.findall(r"-?\d+\.\d+", capsys.readouterr().out)[-1])
        assert printed == pytest.approx(score, abs=2e-3)


def test_licences_are_what_samples_state() -> None:
    from diptych.api.cards import licences

    class Own:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, row: int) -> Sample:
            return Sample(uid=str(row), texts=("a",), licence="CC-BY-NC-4.0" if row else "")

    assert licences(Own()) == "CC-BY-NC-4.0 (2), unknown (1)"


def test_a_missing_model_names_the_near_one(small_run: Path) -> None:
    with pytest.raises(RunError, match=rf"there is no model .*runs; did you mean '{small_run}'\?"):
        api.load(small_run.with_name("runs"))
    with pytest.raises(ConfigError, match=r"did you mean '.*/run'\?"):
        api.load(f"hf:{small_run.with_name('runs')}")
