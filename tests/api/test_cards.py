"""The card of a run's model says what is known of it when it is known: after training, and again after evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych import api

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
