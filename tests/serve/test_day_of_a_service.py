"""A day of a service: built, trained, indexed, served; items come with pictures, are corrected, removed, taken down by group; another model
takes over; and between any two of these the service is killed. After each step its answers and the files say the same.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.data.shards.build import open_built
from diptych.data.shards.verify import verify
from diptych.index.kinds import open_index

TINY = ["--preset", "tiny", "--steps", "4", "--batch-size", "16", "--no-evaluation"]
WRITE = {"Authorization": "Bearer of-the-day"}


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folder_of(place: Path, numbers: range) -> Path:
    place.mkdir()
    for number in numbers:
        (place / f"p{number:04}.png").write_bytes(picture(number))
        fields = {"caption": f"pattern {number}", "group": f"person{number % 20}", "shop": "north"}
        (place / f"p{number:04}.json").write_text(json.dumps(fields))
    return place


class Day:
    """The service, in a process that can be killed, and what it should hold."""

    def __init__(self, place: Path) -> None:
        self.data, self.run, self.index = place / "data", place / "run", place / "index"
        self.process: subprocess.Popen[str] | None = None
        self.http = httpx.Client()

    def start(self) -> None:
        command = [sys.executable, "-m", "diptych.cli", "serve", str(self.run), str(self.index), "--data", str(self.data)]
        self.process = subprocess.Popen(
            [*command, "--port", "0"], stderr=subprocess.PIPE, text=True, env={**os.environ, "DIPTYCH_WRITE_TOKEN": "of-the-day"}
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("http://"):
                break
        else:
            pytest.fail("the service did not start")
        stderr = self.process.stderr
        threading.Thread(target=lambda: [None for _ in stderr], daemon=True).start()
        self.http = httpx.Client(base_url=line.strip(), timeout=60, headers=WRITE)
        self.http.get("/readyz")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def add(self, number: int) -> int:
        body = {"uid": f"p{number:04}", "image": base64.b64encode(picture(number)).decode(), "texts": [f"pattern {number}"]}
        body |= {"group": f"person{number % 20}", "fields": {"shop": "south"}}
        try:
            return self.http.post("/items", json=body).status_code
        except httpx.TransportError:  # killed
            return 0

    def found(self) -> list[str]:
        """All items, page by page."""
        uids, cursor = list[str](), None
        while True:
            answer = self.http.post("/search", json={"text": "pattern", "k": 200, "cursor": cursor}).json()
            uids += [hit["uid"] for hit in answer["hits"]]
            cursor = answer["next"]
            if cursor is None:
                return uids

    def agrees(self, gone: set[str]) -> set[str]:
        """The answers of the service are those of the files. Returns the uids that are there."""
        pool = open_built(self.data)
        uids = set(pool.uids)
        listed = self.found()
        assert len(listed) == len(set(listed))
        assert set(listed) == uids
        assert not uids & gone
        for uid in random.Random(len(uids)).sample(sorted(uids), 12):
            item = self.http.get(f"/items/{uid}").json()
            sample = pool[pool.uids.index(uid)]
            assert [text["text"] for text in item["texts"]] == [text.string for text in sample.texts]
            assert item["columns"]["shop"] == sample.extras["shop"]
            assert self.http.get(f"/image/{uid}").status_code == 200
        for uid in [*sorted(gone)[:8], *sorted(gone)[-4:]]:
            assert self.http.get(f"/items/{uid}").status_code == self.http.get(f"/image/{uid}").status_code == 410
        return uids


@contextmanager
def day(place: Path) -> Iterator[Day]:
    made = Day(place)
    try:
        yield made
    finally:
        if made.process is not None:
            made.process.kill()
            made.process.wait()


@pytest.mark.slow
def test_a_day(tmp_path: Path) -> None:
    with day(tmp_path) as service:
        assert main(["data", "build", str(folder_of(tmp_path / "pictures", range(80))), str(service.data)]) == 0
        for run in ("run", "other"):
            seed = ["--seed", "1"] if run == "other" else []
            assert main(["train", "clip", "--data", str(service.data), "--out", str(tmp_path / run), *TINY, *seed]) == 0
        assert main(["index", "build", str(service.run), str(service.data), str(service.index)]) == 0
        service.start()
        gone: set[str] = set()
        assert len(service.agrees(gone)) == 80

        with ThreadPoolExecutor(8) as threads:  # 500 come, by HTTP; the service is killed in the middle of them, twice
            for first, last in ((80, 250), (80, 420), (80, 580)):
                answers = threads.map(service.add, range(first, last))
                if last < 580:
                    time.sleep(1.0)
                    service.kill()
                    confirmed = {f"p{n:04}" for n, status in zip(range(first, last), answers, strict=True) if status == 200}
                    assert confirmed <= set(open_built(service.data).uids), "what was answered with 200 is on disk"
                    service.start()
                    service.agrees(gone)
                else:
                    assert set(answers) == {200}
        assert len(service.agrees(gone)) == 580
        service.kill()
        service.start()

        for number in (3, 300):  # texts are corrected
            body = {"texts": [f"corrected {number}"], "fields": {"shop": "west"}}
            assert service.http.patch(f"/items/p{number:04}", json=body).json()["changed"] is True
        service.kill()
        service.start()
        assert service.http.get("/items/p0300").json()["texts"][0]["text"] == "corrected 300"
        service.agrees(gone)

        for uid in ("p0005", "p0305"):  # items are removed
            assert service.http.delete(f"/items/{uid}").json()["removed"] is True
            gone.add(uid)
        service.kill()
        service.start()
        service.agrees(gone)

        more = folder_of(tmp_path / "more", range(600, 640))  # the command line adds while it is served
        assert main(["data", "add", str(service.data), str(more)]) == 0
        assert main(["index", "add", str(service.index), str(more)]) == 0
        assert len(service.agrees(gone)) == 618
        service.kill()
        service.start()

        gone |= {uid for uid in open_built(service.data).uids if int(uid[1:]) % 20 == 7}  # a person asks to be forgotten
        command = ["data", "takedown", str(service.data), "--where", "group=person7", "--index", str(service.index)]
        killer = threading.Timer(0.4, service.kill)
        killer.start()
        main(command)  # may fail, since the service that has the index open is killed
        killer.join()
        service.start()
        service.agrees(gone)
        assert main(command) == 0, "called again it goes on"
        service.agrees(gone)
        assert service.add(607) == service.add(7) == 410
        stored = b"".join(path.read_bytes() for path in service.data.rglob("*.tar"))
        assert picture(7) not in stored
        assert picture(307) not in stored

        body = {"model": str(tmp_path / "other"), "index": str(tmp_path / "next"), "build": True}  # another model takes over
        answer = service.http.post("/admin/reload", json=body)
        assert answer.status_code == 200, answer.text
        assert service.add(700) == 200
        service.agrees(gone)
        service.kill()
        service.run, service.index = tmp_path / "other", tmp_path / "next"
        service.start()
        uids = service.agrees(gone)
        service.kill()
        assert verify(service.data, update=False).ok
        with open_index(service.index) as index:
            assert set(index.uids()) == uids
        assert main(["data", "compact", str(service.data)]) == 0
        assert set(open_built(service.data).uids) == uids
        assert verify(service.data, update=False).ok
