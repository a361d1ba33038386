"""Two recipes side by side: every number of the page comes from kept results."""

from __future__ import annotations

import re
from pathlib import Path

from diptych import api
from diptych.report.pages.side_by_side import PageText, RecipeRuns, side_by_side

WORLD = "world:scenes?n=24"


def test_the_page_of_two_recipes(tmp_path: Path) -> None:
    data = api.read(WORLD)
    sides = []
    for slug in ("clip", "siglip"):
        runs = []
        for seed in (0, 1):
            run = api.train(slug, data, tmp_path / f"{slug}-{seed}", steps=1, batch_size=8, seed=seed, progress=False)
            api.evaluate_run(run, data, draws=50)
            runs.append(run)
        sides.append(RecipeRuns(slug, tuple(runs), (0.1, 0.2)))
    story = PageText("Two", "on scenes", ("a fact",), (("exact duplicates", 24, 23, 0.1),), (("a red circle", data.uids[:3]),))
    page = side_by_side(tmp_path / "report.html", sides, data, story).read_text()
    for section in ("Result", "Search", "Data", "Training", "Nearest neighbours", "Failures", "How it was made"):
        assert f"<h2>{section}</h2>" in page
    mean = sum(api.evaluate_kept(run)["val"].metrics["t2i_r@1"].value for run in sides[0].runs) / 2
    assert re.search(rf"<td[^>]*>val</td><td[^>]*>clip</td><td[^>]*>{mean:.3f} \[", page)
    assert page.count('r="3.2"') == 2 * 2 * 2, "a dot for each seed, recipe and split"
    assert page.count('r="3"') == 2 * 2, "one logged step of each run, which is seen"
    assert "exact duplicates" in page
