"""An export is sent to a hub by the usual library: tried against a hub on this machine, whole files compared."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from diptych.core.errors import ConfigError, RunError
from diptych.models.io.export.hub import check_push, push_folder

SEEN = {True: [(False, None), (None, "public")], False: [(True, None), (None, "private")]}
"""Private by a flag or by a word, as releases of the library send it."""


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as one commit of small files asks for."""

    made: dict[str, Any]
    refuses: str

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != "Bearer hf_known":
            self.answer(401, {"error": "Invalid username or password."})
        elif self.refuses:
            self.answer(403, {"error": self.refuses})
        elif self.path == "/api/repos/create":
            self.made["repository"] = json.loads(body)
            self.answer(200, {"url": f"http://{self.headers['Host']}/someone/birds"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.path == "/api/models/someone/birds/preupload/main":
            files = json.loads(body)["files"]
            self.answer(200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif self.path == "/api/models/someone/birds/commit/main":
            lines = [json.loads(line) for line in body.decode().splitlines()]
            self.made["files"] = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
            }
            self.answer(
                200, {"commitUrl": f"http://{self.headers['Host']}/someone/birds/commit/1", "commitOid": "1", "success": True}
            )
        else:
            self.answer(404, {"error": self.path})

    def do_GET(self) -> None:
        self.answer(404, {"error": "Repository not found"})

    def answer(self, code: int, said: dict[str, Any]) -> None:
        body = json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code >= 400:
            self.send_header("X-Error-Message", said["error"])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *said: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    class Own(Hub):
        made: dict[str, Any] = {}
        refuses = ""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_known")
    yield Own
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("# birds\n", encoding="utf-8")
    (tmp_path / "out" / "weights.safetensors").write_bytes(bytes(range(256)) * 40)
    return tmp_path / "out"


@pytest.mark.parametrize("public", [False, True])
def test_every_file_arrives_as_it_is(hub: type[Hub], folder: Path, public: bool) -> None:
    assert push_folder(folder, "someone/birds", public=public).endswith("/someone/birds")
    assert hub.made["files"] == {path.name: path.read_bytes() for path in folder.iterdir()}
    made = hub.made["repository"]
    assert (made["organization"], made["name"]) == ("someone", "birds")
    assert (made.get("private"), made.get("visibility")) in SEEN[public]


def test_a_hub_that_refuses_leaves_the_folder(hub: type[Hub], folder: Path) -> None:
    hub.refuses = "someone is not yours"
    with pytest.raises(RunError, match=r"the hub refuses: .*someone is not yours.* `hf upload someone/birds .*` tries again"):
        push_folder(folder, "someone/birds")
    assert (folder / "README.md").is_file()


def test_no_line_to_the_hub(hub: type[Hub], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="the hub could not be reached"):
        push_folder(folder, "someone/birds")


@pytest.mark.parametrize("name", ["birds", "a/b/c", "some one/birds", "/birds", "someone/"])
def test_a_name_that_no_hub_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_known")
    with pytest.raises(ConfigError, match="expected OWNER/NAME"):
        check_push(name)


def test_nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(ConfigError, match="hf auth login"):
        check_push("someone/birds")
