"""The compose file and the Dockerfile: by schema, and by running what they say without Docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
from warm_programs import Program

from diptych.cli import main

yaml = pytest.importorskip("yaml")
jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).parents[2]


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return content


def dockerfile() -> list[list[str]]:
    """Instructions of the Dockerfile, lines that go on joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [line.split(None, 1) for line in lines]


def test_the_compose_file_is_one() -> None:
    pytest.importorskip("check_jsonschema")
    schema = json.loads(
        (resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text(encoding="utf-8")
    )
    jsonschema.validate(compose(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"diptych": {"command": 3}}}, schema)


def test_what_it_names_is_there() -> None:
    content = compose()
    service = content["services"]["diptych"]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert all(port.startswith("127.0.0.1:") for one in content["services"].values() for port in one.get("ports", ()))
    for one in content["services"].values():
        assert set(one.get("secrets", ())) <= set(content["secrets"])
        assert set(one.get("depends_on", ())) <= set(content["services"])
        for volume in one.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in content["volumes"] or source == "./runs" or (ROOT / source).is_file()
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"][0]
    assert prometheus["static_configs"][0]["targets"] == ["diptych:8000"]
    assert Path(prometheus["authorization"]["credentials_file"]).name in content["services"]["prometheus"]["secrets"]


def test_the_image_is_made_of_what_is_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name, rest in dockerfile():
        if name == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
        if name == "RUN":
            (named,) = re.findall(r"'\.\[(.*?)\]'", rest)
            assert set(named.split(",")) <= set(extras)


@pytest.mark.slow
def test_its_steps_one_by_one(tmp_path: Path) -> None:
    """The commands of both files with the folders of this machine in the place of those of the container, with its environment and nothing
    else: the entry point, the secrets, the health check, the metrics, the stop signal."""
    runs, secrets = tmp_path / "runs", tmp_path / "secrets"
    secrets.mkdir()
    for name in ("read_token", "write_token"):
        (secrets / name).write_text(f"{name}-of-a-test\n")
    assert main(["data", "build", str(_pictures(tmp_path / "pictures")), str(runs / "built")]) == 0
    assert main(["index", "build", "words", str(runs / "built"), str(runs / "pictures.index"), "--kind", "lexical"]) == 0
    steps = dict(step for step in dockerfile() if step[0] in ("ENTRYPOINT", "HEALTHCHECK", "STOPSIGNAL"))
    entry = json.loads(steps["ENTRYPOINT"])
    content = compose()["services"]["diptych"]
    places = {"/runs/model": "words", "/runs": str(runs), "/run/secrets": str(secrets)}
    words = []
    for word in [*entry[1:], *content["command"]]:
        for inside, here in places.items():
            word = re.sub(rf"^{inside}(?=/|$)", here, word)
        words.append({"8000": "0", "0.0.0.0": "127.0.0.1"}.get(word, word))
    environment = {**dict(content["environment"]), **dict(re.findall(r"(\w+)=(\S+)", dict(dockerfile())["ENV"]))}
    environment |= {"DIPTYCH_CACHE": str(tmp_path / "tmp"), "TMPDIR": str(tmp_path), "HOME": str(tmp_path / "home")}
    environment |= {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    process = Program("-m", "diptych.cli", *words, environment=environment, folder=tmp_path)
    try:
        address = next((line.strip() for line in process.stderr if line.startswith("http://")), "")
        assert address, "it did not start"
        stderr = process.stderr
        threading.Thread(target=lambda: [None for _ in stderr], daemon=True).start()
        check = json.loads(re.search(r"CMD (\[.*\])", steps["HEALTHCHECK"])[1])  # type: ignore[index]
        code = check[2].replace("http://127.0.0.1:8000/", address)
        assert subprocess.run([sys.executable, *check[1:2], code], check=False).returncode == 0
        read = {"Authorization": f"Bearer {(secrets / 'read_token').read_text().strip()}"}
        write = {"Authorization": f"Bearer {(secrets / 'write_token').read_text().strip()}"}
        assert httpx.get(f"{address}metrics").status_code == 401
        assert "diptych" in httpx.get(f"{address}metrics", headers=read).text
        assert httpx.post(f"{address}items", json={"uid": "x", "texts": ["a red fox"]}, headers=read).status_code == 403
        assert (
            httpx.post(f"{address}items", json={"uid": "x", "texts": ["a red fox"]}, headers=write, timeout=30).status_code == 200
        )
        found = httpx.get(f"{address}search", params={"q": "fox"}, headers=read).json()["hits"]
        assert [hit["uid"] for hit in found] == ["x"]
        process.send_signal(getattr(signal, steps["STOPSIGNAL"].strip()))
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert shlex.join(entry).startswith("diptych serve")


def _pictures(folder: Path) -> Path:
    from PIL import Image

    folder.mkdir()
    for n in range(4):
        Image.new("RGB", (16, 16), (60 * n, 0, 0)).save(folder / f"p{n}.png")
        (folder / f"p{n}.txt").write_text(f"a red bus number {n}")
    return folder
