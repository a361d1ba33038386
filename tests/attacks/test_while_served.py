"""Searching and changing an index while a service has it open: the command line asks the process that holds it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from warm_programs import Program

import diptych as dp
from diptych.cli import main
from diptych.core.errors import RunError
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index.engine.index_server import SOCKET, connect_remote

SERVICE = """
import sys
import diptych as dp
from diptych.index.lexicon import BM25Encoder
from diptych.serve import Limits, create_app, run
index = dp.open_index(sys.argv[1], model="words")
run(create_app(BM25Encoder(), index, limits=Limits(rate=0)), port=0, announce=lambda address: print(address, flush=True))
index.close()
"""


def texts(first: int, last: int) -> Pool:
    return Pool.from_samples([Sample(f"u{n}", None, (Text(f"a red bus number n{n}"),)) for n in range(first, last)], name="words")


@contextmanager
def service(folder: Path) -> Iterator[tuple[Program, str]]:
    process = Program("-c", SERVICE, str(folder))
    try:
        address = process.stdout.readline().strip()
        if not address:
            pytest.fail(process.communicate()[1])
        for _ in range(600):
            try:
                httpx.get(f"{address}readyz", timeout=10)
                break
            except httpx.TransportError:
                threading.Event().wait(0.05)
        yield process, address
    finally:
        process.kill()
        process.communicate()


def hits(address: str, words: str) -> list[str]:
    answer = httpx.post(f"{address}search", json={"text": words, "k": 50}, timeout=60)
    assert answer.status_code == 200, answer.text
    return [hit["uid"] for hit in answer.json()["hits"]]


def said(capsys: pytest.CaptureFixture[str], *command: str) -> dict[str, Any]:
    assert main([*command, "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long path: the address of a socket has 108 bytes at most."""
    folder = tmp_path_factory.mktemp("served") / ("x" * 120) / "index"
    folder.parent.mkdir()
    dp.index("words", texts(0, 20), folder, kind="lexical", progress=False).close()
    return folder


def test_a_visitor_does_everything_through_the_door(tmp_path: Path) -> None:
    """Without a service: the engine's lock keeps a second opening out in one process as well."""
    dp.index("words", texts(0, 20), tmp_path / "index", kind="lexical", progress=False).close()
    guard, changes = threading.Lock(), list[int]()

    def inside(work: Any) -> Any:
        with guard:
            return work()

    with dp.open_index(tmp_path / "index") as held, held.open_to_others(inside, lambda: changes.append(len(held))):
        with dp.open_index(tmp_path / "index") as visitor:
            assert visitor.collection.is_remote
            assert [hit.uid for hit in visitor.search_text("n7", 3)] == [hit.uid for hit in held.search_text("n7", 3)] == ["u7"]
            assert visitor.info.count == 20
            fresh = Pool.from_samples(
                [Sample(f"new{n}", None, (Text(f"a green tree t{n}"),), extras={"side": n}) for n in range(3)]
            )
            assert visitor.add(fresh, progress=False) == 3
            assert changes[-1] == 23
            assert sorted(hit.uid for hit in held.search_text("tree", 5)) == ["new0", "new1", "new2"]  # words it had never seen
            assert [hit.uid for hit in held.search_text("tree", 5, where={"side": {">=": 2}})] == ["new2"]  # and a column
            assert visitor.remove(["new1", "u7"]) == 2
            assert held.uids() == visitor.uids()
            assert len(held.uids()) == 21
            assert visitor.export(tmp_path / "items.parquet") == held.export(tmp_path / "items.parquet") == 21
            assert visitor.compact() >= 0
            assert len(visitor) == len(held) == 21
            with pytest.raises(RunError, match="stop the service first"):
                visitor.move("http://127.0.0.1:9")
            assert visitor.take_down(["u8"], ["0" * 64]) == 1
            assert visitor.add(texts(8, 9), progress=False) == 0, "what was taken down is not taken in again"
            assert visitor.refused == ("u8",)
            assert held.uids() == visitor.uids()
        late = dp.open_index(tmp_path / "index")
    with pytest.raises(RunError):
        late.search_text("bus", 3)
    with dp.open_index(tmp_path / "index") as opened:
        assert len(opened) == 20


def test_the_command_line_searches_adds_and_removes_while_the_service_runs(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"uid": f"new{n}", "caption": f"a green tree number t{n}", "image": "a.png"} for n in range(3)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with service(place) as (process, address):
        mode = (place / SOCKET).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert mode & 0o777 == 0o600
        assert hits(address, "tree") == []
        assert [hit["uid"] for hit in said(capsys, "search", str(place), "n7")["hits"]] == ["u7"]
        assert said(capsys, "index", "info", str(place))["count"] == 20
        added = said(capsys, "index", "add", str(place), str(tmp_path / "t.jsonl"))
        assert added == {"added": 3, "count": 23}
        assert sorted(hits(address, "tree")) == ["new0", "new1", "new2"]  # words that the service had never seen
        assert httpx.get(f"{address}info", timeout=30).json()["models"][0]["count"] == 23
        assert said(capsys, "index", "remove", str(place), "new1", "u7") == {"removed": 2, "count": 21}
        assert sorted(hits(address, "tree")) == ["new0", "new2"]
        assert hits(address, "n7") == []
        exported = said(capsys, "index", "export", str(place), str(tmp_path / "uids.txt"))
        assert exported["rows"] == 21
        assert said(capsys, "index", "compact", str(place))["bytes"] > 0
        assert hits(address, "n9") == ["u9"]
        assert main(["index", "move", str(place), "--url", "http://127.0.0.1:9"]) == 1
        assert "stop the service first" in capsys.readouterr().err
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert not (place / SOCKET).exists()
    with dp.open_index(place) as opened:
        assert len(opened) == 21
        assert opened.search_text("tree", 5)[0].uid in ("new0", "new2")
        assert opened.remove(["new0", "new2"]) == 2
        assert opened.add(texts(7, 8), progress=False) == 1


def test_the_service_answers_while_somebody_adds(place: Path) -> None:
    with service(place) as (_, address):
        stop, seen = threading.Event(), list[int]()

        def ask() -> None:
            while not stop.is_set():
                seen.append(len(hits(address, "bus")))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            with dp.open_index(place) as opened:
                assert opened.add(texts(20, 1200), progress=False) == 1180
                assert len(opened) == 1200
                assert opened.remove([f"u{n}" for n in range(20, 1200)]) == 1180
        finally:
            stop.set()
            asking.join()
    assert len(seen) > 3
    assert min(seen) >= 20


def test_two_visitors_do_not_change_it_at_once(place: Path) -> None:
    with service(place), dp.open_index(place) as first, dp.open_index(place) as second:
        with first._alone(), pytest.raises(RunError, match="is being changed in another process"):
            second.remove(["u1"])
        assert len(second.search_text("bus", 50)) == 20  # they may look


def test_a_service_that_is_killed_leaves_nothing_in_the_way(place: Path) -> None:
    with service(place) as (process, _):
        visitor = dp.open_index(place)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        with pytest.raises(RunError, match="has ended"):
            visitor.search_text("bus", 3)
        visitor.close()
    assert (place / SOCKET).exists()
    with dp.open_index(place) as opened:
        assert len(opened) == 20
    with service(place) as (_, address):
        assert len(hits(address, "bus")) == 20


def test_nonsense_at_the_door_costs_the_visitor_alone(place: Path) -> None:
    with service(place) as (_, address):
        two, unknown = b"\0" * 7 + b"\2", b"\0" * 7 + b"\x0b" + b'{"do": "x"}'
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 8, two + b"[]", two + b"{}", unknown):
            with socket.socket(socket.AF_UNIX) as line:
                handle = os.open(place, os.O_RDONLY)
                line.connect(f"/proc/self/fd/{handle}/{SOCKET}")
                os.close(handle)
                line.settimeout(30)
                line.sendall(data)
                line.shutdown(socket.SHUT_WR)
                with suppress(ConnectionResetError):
                    while line.recv(1000):
                        pass
        store = connect_remote(place)
        assert store is not None
        assert store.count() == 20
        store.close()
        assert len(hits(address, "bus")) == 20


def test_an_index_that_is_open_elsewhere_without_a_service_says_so(place: Path) -> None:
    hold = f"""
        import time
        import diptych as dp
        with dp.open_index({str(place)!r}, model="words"):
            print("open", flush=True)
            time.sleep(600)
        """
    holder = Program("-c", textwrap.dedent(hold))
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(RunError, match="is open in another process"):
            dp.open_index(place)
    finally:
        holder.kill()
        holder.communicate()
