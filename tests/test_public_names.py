"""A public name or argument that the page of stable names lists is still there; new ones are in the page."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import public_names  # noqa: E402


def test_no_public_name_is_gone_and_new_ones_are_listed() -> None:
    page = public_names.PAGE.read_text(encoding="utf-8").partition(public_names.BEGIN)[2].partition(public_names.END)[0]
    listed, there = public_names.names(page), public_names.names(public_names.listing())
    gone = sorted(listed - there)
    assert not gone, f"public names or arguments are gone: {gone}; keep an alias for one version (docs/stability.md)"
    assert listed == there, f"new public names: {sorted(there - listed)}; run `make systems`"


def test_a_removed_name_and_a_removed_argument_are_seen() -> None:
    text = "- `export(model, out, *, to)`\n- `load(name)`"
    assert public_names.names(text) == {"export", "export(model", "export(out", "export(*", "export(to", "load", "load(name"}
    assert public_names.names(text) - public_names.names("- `export(model, out)`") == {
        "load",
        "load(name",
        "export(*",
        "export(to",
    }


def test_the_version_stands_in_two_places_alike() -> None:
    import tomllib

    import diptych

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == diptych.__version__
    assert f"version: {diptych.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
