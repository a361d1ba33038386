"""Icons out of packages that are made here: what is read, what is left out, how they are drawn and dealt to splits."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import MissingExtra
from diptych.data.web import icons as module
from diptych.data.web.fetch import fetch
from diptych.data.web.icons import draw, read_icons


def bar(width: float) -> str:
    """SVG of a black bar on the left, 24 units high."""
    path = f'<path fill="currentColor" d="M0 0h{width}v24H0z"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none">{path}</svg>'


BAR = bar(12)
TALL = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 640"><path d="M0 0h320v640H0z"/></svg>'
CONCEPTS = [f"thing{number}" for number in range(20)]


def _package(site: Path, name: str, files: dict[str, bytes]) -> None:
    for path, content in {f"{name}-2.0.dist-info/METADATA": f"Name: {name}\nVersion: 2.0\n".encode(), **files}.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)


def _zip(drawings: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, svg in drawings.items():
            archive.writestr(name, svg)
    return made.getvalue()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = tmp_path / "site"
    about = '<!--\ncategory: Buildings\ntags: [house, "living"]\nversion: "1.0"\n-->\n'
    tabler = {
        f"pytablericons/icons/outline/{name}-2.svg": (about + bar(1 + number / 4)).encode()
        for number, name in enumerate(CONCEPTS)
    }
    tabler["pytablericons/icons/filled/brand-x.svg"] = ("<!--\ncategory: Brand\n-->" + BAR).encode()
    tabler["pytablericons/icons/filled/broken.svg"] = b"<svg"
    _package(site, "pytablericons", tabler)
    house = {"label": "House User", "search": {"terms": ["Home"]}, "svg": {"solid": {"raw": TALL}, "brands": {"raw": BAR}}}
    file = "fontawesomefree/static/fontawesomefree/metadata/icons.json"
    _package(site, "fontawesomefree", {file: json.dumps({"house-user": house}).encode()})
    _package(site, "lucide", {"lucide/lucide.zip": _zip({"house.svg": bar(20)})})
    drawings = {
        f"{style}/{name}.svg": bar(8 + number / 4) for style in ("outline", "mini") for number, name in enumerate(CONCEPTS)
    }
    _package(site, "heroicons", {"heroicons/heroicons.zip": _zip(drawings)})
    monkeypatch.syspath_prepend(str(site))
    return site


def test_icons_of_all_families(site: Path) -> None:
    samples, bad = read_icons()
    by_uid = {sample.uid: sample for sample in samples}
    assert len(samples) == len(by_uid) == 20 + 1 + 1 + 20
    assert [entry.uid for entry in bad] == ["tabler-filled-broken"]
    home = by_uid["tabler-outline-thing3-2"]
    assert [(text.string, text.origin) for text in home.texts] == [("thing3 2", "label"), ("house, living", "tags")]
    assert (home.licence, home.source, home.extras["category"]) == ("MIT", "pypi:pytablericons 2.0", "Buildings")
    other = by_uid["fontawesome-solid-house-user"]
    assert [text.string for text in other.texts] == ["house user", "home"]
    assert (other.group, by_uid["lucide-outline-house"].group) == ("house user", "house")


def test_splits_hold_out_a_family_and_concepts(site: Path) -> None:
    samples, _ = read_icons()
    concepts: dict[str, set[str]] = {}
    for sample in samples:
        concepts.setdefault(sample.extras["split"], set()).add(sample.group.partition(" ")[0])
        assert (sample.extras["family"] == "heroicons") == (sample.extras["split"] in ("unseen_family", "unseen_both"))
    assert concepts["train"] >= concepts["unseen_family"]
    assert concepts["unseen_both"] <= concepts["unseen_concept"]
    assert not concepts["train"] & concepts["unseen_concept"]
    assert concepts["unseen_both"]


def test_equal_drawings_stay_together(site: Path) -> None:
    """An icon that another family draws with the same bytes under another name would be known from training."""
    with zipfile.ZipFile(site / "lucide/lucide.zip", "w") as archive:
        for number in range(len(CONCEPTS)):
            archive.writestr(f"other{number}.svg", bar(1 + number / 4))
    splits: dict[bytes, set[str]] = {}
    for sample in read_icons()[0]:
        if sample.image is not None and sample.extras["family"] in ("tabler", "lucide"):
            splits.setdefault(sample.image.read(), set()).add(sample.extras["split"])
    assert len(splits) == len(CONCEPTS)
    assert all(len(names) == 1 for names in splits.values())


def test_drawings_are_black_on_a_white_square() -> None:
    bar, tall = (np.asarray(Image.open(io.BytesIO(draw(svg, 40)))) for svg in (BAR, TALL))
    assert bar.shape == tall.shape == (40, 40)
    assert (bar[:, :20] == 0).all()
    assert (bar[:, 20:] == 255).all()
    assert (tall[:, 10:30] == 0).all()
    assert (np.delete(tall, slice(10, 30), 1) == 255).all()
    with pytest.raises(ValueError, match="root node"):
        draw("<svg")


def test_fetching_icons_builds_a_folder(site: Path, tmp_path: Path) -> None:
    pool = fetch("icons", tmp_path / "icons", progress=False)
    assert len(pool) == 42
    assert [entry.uid for entry in pool.quarantine] == ["tabler-filled-broken"]
    assert set(pool.column("split")) == {"train", "unseen_family", "unseen_concept", "unseen_both"}


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAMILIES", (("no-such-icons", "MIT", module.FAMILIES[0][2]),))
    with pytest.raises(MissingExtra, match="no-such-icons"):
        read_icons()
