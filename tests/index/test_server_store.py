"""The same index on a server: against the embedded one, through a small stand-in for `qdrant-client` that keeps everything in memory,
and through the package itself, in its in-memory mode, where that is installed."""

from __future__ import annotations

import builtins
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import MissingExtra, RunError
from diptych.index.kinds import open_index
from diptych.index.kinds.dense import DenseIndex
from diptych.index.kinds.nested import NestedIndex
from diptych.index.plan import SearchPlan

server = import_module("diptych.index.engine.server")  # `diptych.index` by attribute is the function of the public face


class Record(SimpleNamespace):
    """Whatever a request type of the client is given, by name."""


class Models:
    """Request types: they only carry their fields."""

    Distance = SimpleNamespace(DOT="Dot")
    Modifier = SimpleNamespace(IDF="idf")
    MultiVectorComparator = SimpleNamespace(MAX_SIM="max_sim")
    PayloadSchemaType = SimpleNamespace(INTEGER="integer", FLOAT="float", KEYWORD="keyword")

    def __getattr__(self, name: str) -> type[Record]:
        return type(name, (Record,), {})


class Memory:
    """Collections of points with dense vectors, searched by loops. Knows as much of the client as an index uses."""

    def __init__(self) -> None:
        self.collections: dict[str, dict[str, Any]] = {}
        self.upserts: list[int] = []

    def collection_exists(self, name: str) -> bool:
        return name in self.collections

    def create_collection(self, name: str, *, vectors_config: Any, sparse_vectors_config: Any) -> None:
        assert all(config.distance == "Dot" for config in vectors_config.values())
        self.collections[name] = {}

    def delete_collection(self, name: str) -> None:
        del self.collections[name]

    def create_payload_index(self, name: str, field: str, schema: str, *, wait: bool) -> None:
        assert wait

    def count(self, name: str, *, exact: bool) -> Any:
        return Record(count=len(self.collections[name]))

    def upsert(self, name: str, points: list[Any], *, wait: bool) -> None:
        assert wait, "an index must not acknowledge what the server has not"
        self.upserts.append(len(points))
        self.collections[name].update({point.id: point for point in points})

    def delete(self, name: str, selector: Any, *, wait: bool) -> None:
        assert wait
        for point in self.chosen(name, selector.filter):
            del self.collections[name][point.id]

    def scroll(self, name: str, *, scroll_filter: Any, limit: int, offset: Any, with_payload: Any, with_vectors: Any) -> Any:
        points = sorted(self.chosen(name, scroll_filter), key=lambda point: point.id)
        rest = [point for point in points if offset is None or point.id >= offset]
        return rest[:limit], rest[limit].id if len(rest) > limit else None

    def query_points(
        self, name: str, *, query: Any, using: str, prefetch: Any, query_filter: Any, limit: int, **options: Any
    ) -> Any:
        points = self.chosen(name, query_filter)
        if prefetch is not None:
            points = self.ranked(points, prefetch.query, prefetch.using)[: prefetch.limit]
        return Record(points=self.ranked(points, query, using)[:limit])

    def close(self) -> None: ...

    @staticmethod
    def ranked(points: list[Any], query: list[float], using: str) -> list[Any]:
        scored = [Record(**(vars(p) | {"score": float(np.dot(p.vector[using], query))})) for p in points]
        return sorted(scored, key=lambda point: -point.score)

    def chosen(self, name: str, condition: Any) -> list[Any]:
        return [point for point in self.collections[name].values() if condition is None or self.holds(point, condition)]

    def holds(self, point: Any, condition: Any) -> bool:
        kind = type(condition).__name__
        if kind == "Filter":
            parts = {name: getattr(condition, name, None) or [] for name in ("must", "must_not", "should")}
            return (
                all(self.holds(point, part) for part in parts["must"])
                and not any(self.holds(point, part) for part in parts["must_not"])
                and (not parts["should"] or any(self.holds(point, part) for part in parts["should"]))
            )
        if kind == "HasIdCondition":
            return point.id in condition.has_id
        value = point.payload.get(condition.key.strip('"'))
        if hasattr(condition, "match"):
            return any(one in condition.match.any for one in (value if isinstance(value, list) else [value]))
        signs = {"gt": float.__gt__, "gte": float.__ge__, "lt": float.__lt__, "lte": float.__le__}
        return value is not None and all(signs[sign](float(value), edge) for sign, edge in vars(condition.range).items())


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    kept, errors = Memory(), ModuleType("qdrant_client.http.exceptions")
    errors.ResponseHandlingException = type("ResponseHandlingException", (Exception,), {})  # type: ignore[attr-defined]
    errors.UnexpectedResponse = type("UnexpectedResponse", (Exception,), {})  # type: ignore[attr-defined]
    for name in ("qdrant_client", "qdrant_client.http"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "qdrant_client.http.exceptions", errors)
    monkeypatch.setattr(server, "connect", lambda url: (kept, Models()))
    return kept


def same_life(kit: Any, folder: Path, kind: Any, **options: Any) -> None:
    """One index here and one there: every answer and every change must agree."""
    pool, url = kit.pool(0, 80), "http://somewhere"
    with (
        kind.build(kit.model(), pool, folder / "here", **options) as here,
        kind.build(kit.model(), pool, folder / "there", url=url, **options) as there,
    ):
        both = (here, there)
        for where in (None, {"style": ["noto", "fluent"], "ok": True}, {"side": {">=": 50, "<": 70}}, {"score": 2.5}):
            a, b = (index.search_text("q", 9, where=where) for index in both)
            assert [h.uid for h in a] == [h.uid for h in b]
            np.testing.assert_allclose([h.score for h in a], [h.score for h in b], atol=1e-5)
            assert [h.payload for h in a] == [h.payload for h in b]
        plan = SearchPlan.of(like=("u1", "u2"), unlike=("u3",), k=9, distinct=0.5)
        a, b = (index.answer(plan) for index in both)
        assert [h.uid for h in a] == [h.uid for h in b]
        for index in both:
            assert index.remove(["u5", "absent"]) == 1
            assert index.add(kit.pool(78, 85)) == 7
            index.compact()
        assert there.uids() == here.uids()
        assert [index.export(folder / "items.parquet") for index in both] == [84, 84]
        assert (there.info.url, there.info.dim, len(there)) == (url, 16, 84)
    assert sorted(path.name for path in (folder / "there").iterdir()) == ["checksums.bin", "gone.jsonl", "index.json"]
    with pytest.raises(RunError, match="nothing is sent there unless you name it too: set QDRANT_URL=http://somewhere"):
        open_index(folder / "there", kit.model())
    with open_index(folder / "there", kit.model(), url=url) as again:
        assert again.search_text("u80", 1)[0].uid == "u80"


@pytest.mark.parametrize(("kind", "options"), [(DenseIndex, {}), (NestedIndex, {"prefix": 4, "shortlist": 12})])
def test_the_stand_in_answers_as_the_embedded_engine(
    kit: Any, tmp_path: Path, memory: Memory, kind: Any, options: dict[str, Any]
) -> None:
    same_life(kit, tmp_path, kind, **options)


@pytest.mark.parametrize(("kind", "options"), [(DenseIndex, {}), (NestedIndex, {"prefix": 4, "shortlist": 12})])
def test_the_package_answers_as_the_embedded_engine(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, options: dict[str, Any]
) -> None:
    package = pytest.importorskip("qdrant_client")
    client = package.QdrantClient(":memory:")
    monkeypatch.setattr(client, "close", lambda: None)
    monkeypatch.setattr(server, "connect", lambda url: (client, package.models))
    same_life(kit, tmp_path, kind, **options)


def test_an_index_moves_to_a_server_and_back(kit: Any, tmp_path: Path, memory: Memory) -> None:
    folder = tmp_path / "index"
    with NestedIndex.build(kit.model(), kit.pool(0, 30), folder, prefix=4) as index:
        before = index.search_text("q", 9, where={"style": "noto"})
        index.move("http://x")
        assert sorted(path.name for path in folder.iterdir()) == ["checksums.bin", "index.json"]
        assert [len(points) for points in memory.collections.values()] == [30]
        assert [h.uid for h in index.search_text("q", 9, where={"style": "noto"})] == [h.uid for h in before]
    with open_index(folder, kit.model(), url="http://x") as index:
        index.move("")
        assert memory.collections == {}
        assert index.search_text("q", 9, where={"style": "noto"}) == before


def test_building_again_leaves_one_collection(kit: Any, tmp_path: Path, memory: Memory) -> None:
    for stop in (5, 8):
        DenseIndex.build(kit.model(), kit.pool(0, stop), tmp_path / "index", url="http://x", overwrite=True).close()
        assert [len(points) for points in memory.collections.values()] == [stop]
    memory.collections.clear()
    with pytest.raises(RunError, match="has no collection 'index-"):
        DenseIndex.open(tmp_path / "index", url="http://x")


def test_requests_are_small_and_samples_whole(kit: Any, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "NUMBERS", 16 * 5)
    DenseIndex.build(kit.model(), kit.pool(0, 10), tmp_path / "index", what="texts", url="http://x").close()
    assert memory.upserts == [6, 6, 6, 2]  # two texts a sample: five numbers would cut one in two


def test_what_the_server_says_is_one_line(kit: Any, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise sys.modules["qdrant_client.http.exceptions"].ResponseHandlingException("connection refused\nmore")

    monkeypatch.setattr(memory, "upsert", refuse)
    with pytest.raises(RunError, match=r"the server at http://x failed: connection refused$"):
        DenseIndex.build(kit.model(), kit.pool(0, 3), tmp_path / "index", url="http://x")
    assert list(tmp_path.iterdir()) == []
    assert memory.collections == {}


def test_without_the_package_the_extra_is_named(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("qdrant_client"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"needs the package 'qdrant-client': pip install 'qdrant-client.*diptych\[server\]"):
        DenseIndex.build(kit.model(), kit.pool(0, 3), tmp_path / "index", url="http://x")
