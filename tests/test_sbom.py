"""The bill of materials holds what is installed, closed under what it needs, and the same environment gives the same bill."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from scripts.make_sbom import bill, main

from diptych.models.io.weights import LITE0, MINILM


def test_the_bill_is_closed_and_its_weights_are_the_pinned_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "sbom.json")]) == 0
    made = json.loads((tmp_path / "sbom.json").read_text())
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.5")
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made["serialNumber"])
    components = {component["bom-ref"]: component for component in made["components"]}
    assert {"torch", "numpy", "pillow", "qdrant-edge-py", "fastapi"} <= components.keys()
    assert components["torch"]["version"] == version("torch")
    assert components["torch"]["purl"] == f"pkg:pypi/torch@{version('torch')}"
    refs = components.keys() | {"diptych"}
    for dependency in made["dependencies"]:
        assert dependency["ref"] in refs
        assert set(dependency["dependsOn"]) <= refs
    weights = {inner["name"]: inner["hashes"][0]["content"] for one in components.values() for inner in one.get("components", ())}
    pinned = {
        Path(name).name: digest
        for encoder in (LITE0, MINILM)
        for name, digest in encoder.sha256
        if name.endswith((".pth", ".safetensors"))
    }
    assert pinned
    assert pinned.items() <= weights.items()
    assert "distributions" in capsys.readouterr().out


def test_the_same_environment_gives_the_same_bill() -> None:
    assert bill(extras=()) == bill(extras=())
    assert len(bill(extras=())["components"]) < len(bill()["components"])
