"""A service that is killed while items come in: whatever it had acknowledged is there when it starts again."""

from __future__ import annotations

import base64
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from diptych.data.shards.build import open_built
from diptych.index.kinds import open_index
from diptych.index.verify import verify_index

from ..hostile import png

KILLS = 10
ROOT = Path(__file__).parents[3]
SERVICE = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.serve.test_changes import living
with living(Path(sys.argv[1])) as started:
    print(started.address, flush=True)
    time.sleep(600)
"""
PICTURE = base64.b64encode(png()).decode()
WRITE = {"Authorization": "Bearer write-secret"}


@contextmanager
def service(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    words = [sys.executable, "-c", SERVICE, str(folder), str(ROOT)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                pytest.fail(process.communicate()[1][-2000:])
            yield process, address
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_acknowledged_items_survive_kills(tmp_path: Path) -> None:
    draw, acknowledged, posted = random.Random(str(tmp_path)), set[str](), 0
    for _ in range(KILLS):
        with service(tmp_path) as (process, address):
            with httpx.Client(base_url=address, headers=WRITE, timeout=60) as http:
                for uid in acknowledged:
                    assert http.get(f"/items/{uid}").status_code == 200, uid
                killer = threading.Timer(draw.uniform(0.0, 1.0), process.kill)
                try:
                    while True:
                        uid = f"new-{posted}"
                        posted += 1
                        answer = http.post("/items", json={"uid": uid, "image": PICTURE, "texts": [f"a thing {posted}"]})
                        assert answer.status_code == 200, answer.text
                        acknowledged.add(uid)
                        if killer.ident is None:  # with the first answer: a start takes as long as it takes
                            killer.start()
                except httpx.TransportError:
                    pass
            assert process.wait(60) == -signal.SIGKILL
    with service(tmp_path) as (process, address):
        with httpx.Client(base_url=address, headers=WRITE, timeout=60) as http:
            for uid in acknowledged:
                assert http.get(f"/items/{uid}").status_code == 200, uid
        process.send_signal(signal.SIGTERM)
    assert len(acknowledged) >= KILLS
    assert acknowledged <= set(open_built(tmp_path / "data").uids)
    with open_index(tmp_path / "index") as index:
        assert verify_index(index).ok
    print(f"POST /items: {KILLS} kills, {len(acknowledged)} of {posted} items acknowledged, 0 lost")
