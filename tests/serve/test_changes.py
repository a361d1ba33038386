"""Items that come, change and go while the service runs: rights, idempotence, bad input, a full disk, takedowns, another model."""

from __future__ import annotations

import base64
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import diptych as dp
from diptych.cli import main
from diptych.core.errors import ConfigError
from diptych.data.shards.build import build, open_built
from diptych.data.shards.verify import verify
from diptych.index.engine.disk import RESERVE
from diptych.index.kinds.dense import DenseIndex
from diptych.serve import Limits, create_app
from diptych.serve.admission.access import Access, read_access

from .conftest import COLOURS, Running, Stub, a_pool, encoded, flat, listening, refusal

WRITE = {"Authorization": "Bearer write-secret"}
READ = {"Authorization": "Bearer read-secret"}


def picture(colour: tuple[int, int, int]) -> str:
    return base64.b64encode(encoded(flat(colour))).decode()


@dataclass
class Living(Running):
    folder: Path
    index: Path

    def post(self, **body: Any) -> httpx.Response:
        return self.http.post("/items", json=body, headers=WRITE)

    def hits(self, text: str, k: int = 20, **body: Any) -> list[str]:
        answer = self.http.post("/search", json={"text": text, "k": k, **body}, headers=READ)
        assert answer.status_code == 200, answer.text
        return [hit["uid"] for hit in answer.json()["hits"]]

    def status(self, uid: str) -> tuple[int, int]:
        return tuple(self.http.get(f"/{path}/{uid}", headers=READ).status_code for path in ("items", "image"))  # type: ignore[return-value]


def load_side(model: str, index: Path | None) -> tuple[Any, Any]:
    if model == "broken":
        raise ConfigError("there is no such model")
    side = Warm() if model == "warm" else Stub()
    return side, None if index is None else DenseIndex.open(index, side)


class Warm(Stub):
    """Another model: the same colours with the first two channels exchanged in texts and pictures."""

    name, fingerprint = "stub/colours", "beef"

    def embed_images(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        return super().embed_images(images)[:, [1, 0, 2]]

    def embed_texts(self, texts: Any, *, batch_size: int = 256) -> np.ndarray:
        return super().embed_texts(texts)[:, [1, 0, 2]]


@contextmanager
def living(place: Path, **options: Any) -> Iterator[Living]:
    """A service over a built folder, which takes changes."""
    folder, index = place / "data", place / "index"
    model = Stub()
    if not folder.exists():
        build(a_pool().exclude(["rotten", "bare"]), folder)
        DenseIndex.build(model, open_built(folder), index, progress=False).close()
    with DenseIndex.open(index, model) as opened:
        given = {"limits": Limits(k=20), "token": "read-secret", "write_token": "write-secret", "load_side": load_side, **options}
        app = create_app(model, opened, data=[folder], **given)
        with listening(app) as address, httpx.Client(base_url=address, timeout=30) as http, app.state.service.open_to_others():
            yield Living(address, model, app, http, folder, index)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Living]:
    with living(tmp_path) as started:
        yield started


def test_an_item_comes_is_corrected_and_goes(service: Living) -> None:
    body = {
        "uid": "new-1",
        "image": picture(COLOURS["orange"]),
        "texts": ["an orange", {"text": "eine Orange", "language": "de"}],
    }
    body |= {"group": "g", "licence": "MIT", "fields": {"style": "warm", "score": 0.5, "shop": "north", "tags": ["a"]}}
    answer = service.post(**body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["created"] is True
    assert service.hits("orange", 1) == ["new-1"]
    assert service.hits("orange", where={"shop": "north"}) == ["new-1"]
    item = service.http.get("/items/new-1", headers=READ).json()
    assert [text["text"] for text in item["texts"]] == ["an orange", "eine Orange"]
    assert item["columns"] == {"style": "warm", "score": 0.5, "shop": "north", "tags": ["a"]}
    assert service.status("new-1") == (200, 200)
    stored = open_built(service.folder)
    assert stored[stored.uids.index("new-1")].image.read() == encoded(flat(COLOURS["orange"]))

    again = service.post(**body)
    assert (again.status_code, again.json()["created"]) == (200, False)
    changed = {"texts": ["a tangerine"], "fields": {"shop": "south", "style": None}}
    for change in (True, False):
        corrected = service.http.patch("/items/new-1", json=changed, headers=WRITE)
        assert (corrected.status_code, corrected.json()) == (200, {"uid": "new-1", "changed": change})
    item = service.http.get("/items/new-1", headers=READ).json()
    assert [text["text"] for text in item["texts"]] == ["a tangerine"]
    assert item["columns"] == {"score": 0.5, "shop": "south", "tags": ["a"]}
    assert service.hits("orange", where={"shop": "south"}) == ["new-1"]
    assert service.hits("orange", where={"shop": "north"}) == []
    columns = service.http.get("/info", headers=READ).json()["models"][0]
    assert columns["count"] == 4

    for removed in (True, False):
        gone = service.http.delete("/items/new-1", headers=WRITE)
        assert (gone.status_code, gone.json()) == (200, {"uid": "new-1", "removed": removed})
    assert service.status("new-1") == (410, 410)
    assert "new-1" not in service.hits("orange")
    assert service.http.patch("/items/new-1", json=changed, headers=WRITE).status_code == 410
    assert service.post(**body).json()["created"] is True, "what was removed may come back"
    assert service.status("new-1") == (200, 200)
    assert verify(service.folder, update=False).ok


def test_an_item_of_the_build_is_corrected_and_removed(service: Living) -> None:
    before = service.http.get("/items/red-1", headers=READ).json()
    assert service.http.patch("/items/red-1", json={"texts": ["scarlet"]}, headers=WRITE).status_code == 200
    after = service.http.get("/items/red-1", headers=READ).json()
    assert [text["text"] for text in after["texts"]] == ["scarlet"]
    assert {**after, "texts": before["texts"]} == before, "regions, columns and picture stay"
    assert service.http.delete("/items/red-1", headers=WRITE).status_code == 200
    assert service.status("red-1") == (410, 410)
    assert set(service.hits("red")) == {"green-1", "blue-1"}


def test_rights(service: Living, tmp_path: Path) -> None:
    body = {"uid": "new-1", "image": picture(COLOURS["orange"])}
    calls = [("POST", "/items", body), ("PATCH", "/items/red-1", {"texts": ["x"]}), ("DELETE", "/items/red-1", None)]
    for method, path, content in [*calls, ("POST", "/admin/reload", {})]:
        for headers, status in ((None, 401), ({"Authorization": "Bearer wrong"}, 401), (READ, 403)):
            answer = service.http.request(method, path, json=content, headers=headers)
            assert answer.status_code == status, (method, path, headers)
            assert refusal(answer)
    assert service.status("red-1") == (200, 200)
    with living(tmp_path / "other", write_token="") as closed:
        for method, path, content in calls:
            answer = closed.http.request(method, path, json=content)
            assert answer.status_code == 403
            assert "does not accept changes" in refusal(answer)


def test_rates_of_tokens(tmp_path: Path) -> None:
    tokens = (Access("slow", "slow-secret", rate=0.01, burst=2), Access("shop", "shop-secret", write=True))
    with living(tmp_path, tokens=tokens) as service:
        slow = {"Authorization": "Bearer slow-secret"}
        answers = [service.http.get("/search?q=red", headers=slow) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert "with that token" in refusal(answers[-1])
        assert int(answers[-1].headers["retry-after"]) > 10
        assert {service.http.get("/search?q=red", headers=READ).status_code for _ in range(8)} == {200}
        item = {"uid": "x", "image": picture((1, 2, 3))}
        assert service.http.post("/items", json=item, headers={"Authorization": "Bearer shop-secret"}).status_code == 200


def test_a_file_of_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    file.write_text('[{"name": "shop", "token": "abc", "write": true, "rate": 20}]')
    assert read_access(file) == (Access("shop", "abc", True, 20),)
    for wrong, message in (
        ("{", "is not valid JSON"),
        ("[]", "is not a list"),
        ('[{"name": "a"}]', "entry 1"),
        ('[{"name": "a", "token": "b", "write": 1}]', "field 'write'"),
        ('[{"name": "a", "token": ""}]', "is empty"),
        ('[{"name": "a", "token": "b", "admin": true}]', "entry 1"),
    ):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match=message):
            read_access(file)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "nothing to add"),
        ({"image": base64.b64encode(b"no picture").decode()}, 400, "is not an image"),
        ({"image": "%%%"}, 400, "not base64"),
        ({"image": "https://example.org/a.png"}, 400, "fetches nothing"),
        ({"uid": "../etc", "image": picture((1, 2, 3))}, 422, "uid"),
        ({"uid": "red-1", "image": picture((1, 2, 3))}, 409, "another content"),
        ({"uid": "x", "image": picture((1, 2, 3)), "fields": {"style": 3}}, 422, "style"),
        ({"uid": "x", "image": picture((1, 2, 3)), "fields": {"sha256": "x"}}, 422, "cannot be a field"),
        ({"uid": "x", "image": picture((1, 2, 3)), "fields": {"deep": {"a": 1}}}, 422, "fields.deep"),
        ({"uid": "x", "image": picture((1, 2, 3)), "texts": [" "]}, 422, "texts[0]"),
        ({"uid": "x", "texts": ["words without a picture"]}, 422, "can be searched"),
        ({"uid": "x", "image": picture((1, 2, 3)), "other": 1}, 422, "other"),
    ],
)
def test_bad_input_gets_one_answer_and_stores_nothing(service: Living, body: dict[str, Any], status: int, message: str) -> None:
    before = open_built(service.folder).fingerprint
    answer = service.post(**body)
    assert answer.status_code == status, answer.text
    assert message in refusal(answer)
    assert open_built(service.folder).fingerprint == before
    assert sorted(service.hits("red")) == ["blue-1", "green-1", "red-1"]
    assert service.http.get("/search", params={"q": "red", "where": '{"nothing": 1}'}, headers=READ).status_code == 400


def test_the_same_uid_twice_at_once(service: Living) -> None:
    bodies = [{"uid": "twice", "image": picture((n, 0, 200))} for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda body: service.post(**body), bodies))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    winner = next(body for body, answer in zip(bodies, answers, strict=True) if answer.status_code == 200)
    pool = open_built(service.folder)
    assert base64.b64encode(pool[pool.uids.index("twice")].image.read()).decode() == winner["image"]


def test_many_at_once_share_a_write(service: Living) -> None:
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda n: service.post(image=picture((n, 100, 50))), range(60)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(open_built(service.folder)) == 63
    assert service.app.state.service.first.index.info.count == 63
    assert len({answer.json()["uid"] for answer in answers}) == 60


@pytest.mark.parametrize("which", ["data", "index"])
def test_a_full_disk_stores_nothing(service: Living, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    item = {"uid": "late", "image": picture(COLOURS["orange"])}
    before = {path: path.read_bytes() for path in service.folder.rglob("*") if path.is_file()}
    real = shutil.disk_usage

    def usage(folder: Any) -> Any:
        full = str(folder).startswith(str(service.folder if which == "data" else service.index))
        return real(folder)._replace(free=RESERVE - 1) if full else real(folder)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", usage)
        answer = service.post(**item)
        assert answer.status_code == 507
        assert "nothing of it was stored" in refusal(answer)
    assert {path: path.read_bytes() for path in service.folder.rglob("*") if path.is_file()} == before
    assert service.status("late") == (404, 404)
    assert service.post(**item).status_code == 200
    assert service.status("late") == (200, 200)


def test_an_index_that_fails_takes_the_item_back(service: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = service.app.state.service.first.index.collection.engine
    with monkeypatch.context() as patch:
        patch.setattr(type(engine), "upsert", lambda self, items: (_ for _ in ()).throw(OSError("the disk broke")))
        assert service.post(uid="late", image=picture((9, 9, 9))).status_code == 500
    assert "late" not in open_built(service.folder).uids
    assert service.status("late") == (404, 404)
    assert service.post(uid="late", image=picture((9, 9, 9))).status_code == 200


def test_changes_by_the_command_line_are_seen(service: Living, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert service.post(uid="new-1", image=picture((250, 120, 0)), group="person-7").status_code == 200
    assert service.post(uid="new-2", image=picture((250, 110, 0)), group="person-7").status_code == 200
    (tmp_path / "more").mkdir()
    for n in range(3):
        (tmp_path / "more" / f"more{n}.png").write_bytes(encoded(flat((0, 0, 100 + n))))
        (tmp_path / "more" / f"more{n}.txt").write_text(f"blue {n}")
    assert main(["data", "add", str(service.folder), str(tmp_path / "more")]) == 0
    assert service.status("more1") == (200, 200)
    assert service.status("new-1") == (200, 200)
    with DenseIndex.open(service.index, Stub()) as visitor:
        visitor.add(open_built(service.folder).where("uid", ["more0", "more1", "more2"]), progress=False)
    assert "more1" in service.hits("blue")
    command = ["data", "takedown", str(service.folder), "--where", "group=person-7", "--index", str(service.index)]
    assert main(command) == 0, capsys.readouterr().err
    for uid in ("new-1", "new-2"):
        assert service.status(uid) == (410, 410)
        assert uid not in service.hits("orange")
        answer = service.post(uid=uid, image=picture((1, 1, 1)))
        assert answer.status_code == 410
    assert service.post(uid="other", image=picture((250, 120, 0))).status_code == 410, "nor the same picture under another name"
    with DenseIndex.open(service.index, Stub()) as visitor:
        assert visitor.remove(["more0"]) == 1
    assert service.status("more0") == (410, 410)
    assert service.status("more1") == (200, 200)
    assert main(["data", "compact", str(service.folder)]) == 0
    assert service.post(uid="after", image=picture((7, 7, 7))).status_code == 200
    assert service.status("after") == (200, 200)
    assert verify(service.folder, update=False).ok


def test_pictures_that_the_index_took_elsewhere_are_shown(service: Living, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.png").write_bytes(encoded(flat((0, 250, 0))))
    more = dp.read(tmp_path / "elsewhere", captions=False)
    with DenseIndex.open(service.index, Stub()) as visitor:
        assert visitor.add(more, progress=False, source=str(tmp_path / "elsewhere")) == 1
    assert "far" in service.hits("green")
    assert service.status("far") == (200, 200)
    assert service.http.delete("/items/far", headers=WRITE).status_code == 409


def test_after_a_restart_it_is_as_it_was(tmp_path: Path) -> None:
    with living(tmp_path) as service:
        service.post(uid="new-1", image=picture((250, 120, 0)))
        service.http.delete("/items/red-1", headers=WRITE)
        with DenseIndex.open(service.index, Stub()) as visitor:
            visitor.remove(["blue-1"])
    with DenseIndex.open(tmp_path / "index", Stub()) as index:  # as a kill between the log and the index leaves it
        index.remove(["new-1"])
        index.add(a_pool().where("uid", ["red-1"]), progress=False)
    with living(tmp_path) as service:
        assert [service.status(uid)[0] for uid in ("new-1", "red-1", "blue-1", "green-1")] == [200, 410, 410, 200]
        assert sorted(service.hits("red")) == ["green-1", "new-1"]


def test_pages_of_a_search(service: Living) -> None:
    for n in range(30):
        assert service.post(uid=f"o{n:02}", image=picture((200 + n, 110, n))).status_code == 200
    whole = service.hits("orange", 20)
    uids, cursor = [], None
    while True:
        answer = service.http.post("/search", json={"text": "orange", "k": 7, "cursor": cursor}, headers=READ).json()
        uids += [hit["uid"] for hit in answer["hits"]]
        if len(uids) == 7:
            service.post(uid="early", image=picture((255, 120, 0)))  # before the first page from now on
            service.http.delete(f"/items/{uids[2]}", headers=WRITE)
        cursor = answer["next"]
        if cursor is None:
            break
    assert uids[:20] == whole
    assert len(uids) == len(set(uids)) == 33
    wrong = service.http.get("/search", params={"q": "red", "cursor": "xx"}, headers=READ)
    assert wrong.status_code == 422
    first = service.http.get("/search", params={"q": "orange", "k": 5}, headers=READ).json()
    other = service.http.get("/search", params={"q": "red", "k": 5, "cursor": first["next"]}, headers=READ)
    assert "another search" in refusal(other)
    more = service.http.get("/search", params={"q": "orange", "k": 9, "cursor": first["next"]}, headers=READ).json()
    assert not {hit["uid"] for hit in more["hits"]} & {hit["uid"] for hit in first["hits"]}


def test_another_model_without_a_failed_request(service: Living, tmp_path: Path) -> None:
    stop, statuses, added = threading.Event(), list[int](), list[str]()

    def search() -> None:
        with httpx.Client(base_url=service.address, timeout=30, headers=READ) as http:
            while not stop.is_set():
                statuses.append(http.get("/search", params={"q": "red"}).status_code)

    def add() -> None:
        with httpx.Client(base_url=service.address, timeout=30, headers=WRITE) as http:
            while not stop.is_set():
                uid = f"during{len(added)}"
                statuses.append(http.post("/items", json={"uid": uid, "image": picture((3, len(added) % 256, 90))}).status_code)
                added.append(uid)

    threads = [threading.Thread(target=work) for work in (search, search, add)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.3)
        body = {"model": "warm", "index": str(tmp_path / "next"), "build": True}
        answer = service.http.post("/admin/reload", json=body, headers=WRITE)
        assert answer.status_code == 200, answer.text
        time.sleep(0.3)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert len(added) > 2
    facts = answer.json()
    assert (facts["fingerprint"], facts["switched"]) == ("beef", True)
    assert service.http.get("/info", headers=READ).json()["models"][0]["fingerprint"] == "beef"
    index = service.app.state.service.first.index
    assert index.folder == tmp_path / "next"
    assert set(index.uids()) == set(open_built(service.folder).uids)
    assert service.hits("red", 1) == ["red-1"]
    assert service.http.delete("/items/red-1", headers=WRITE).status_code == 200
    with DenseIndex.open(service.index, Stub()) as old:
        assert "red-1" in old.uids(), "the old index is closed and left as it was"
    with DenseIndex.open(tmp_path / "next", Warm()) as visitor:
        assert "red-1" not in visitor.uids(), "the new one takes visitors"
    for body, status in (({"model": "broken"}, 422), ({"index": str(tmp_path / "none")}, 422), ({"build": True}, 422)):
        answer = service.http.post("/admin/reload", json=body, headers=WRITE)
        assert answer.status_code == status, answer.text
    assert service.http.post("/admin/reload", json={}, headers=WRITE).json()["switched"] is False


def test_an_index_in_the_place_of_the_old_one_is_loaded(tmp_path: Path) -> None:
    with living(tmp_path, watch=tmp_path / "index") as service:
        assert service.post(uid="new-1", image=picture((250, 120, 0))).status_code == 200
        DenseIndex.build(
            Stub(),
            open_built(service.folder).where("uid", ["red-1", "green-1"]),
            tmp_path / "index",
            overwrite=True,
            progress=False,
        ).close()
        for _ in range(100):
            if service.app.state.service.generation:
                break
            time.sleep(0.1)
        assert service.app.state.service.generation == 1
        assert sorted(service.hits("red")) == ["blue-1", "green-1", "new-1", "red-1"], "what was served is served on"
