"""Embeddings are computed once: by content, resumed after a kill, read by every step, rewritten by a takedown."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.helpers.killed import KillAt

from diptych.cli import main
from diptych.core.contracts import Embedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage, BytesImage, FileImage
from diptych.core.sample import Sample, Text
from diptych.curate.duplicates.semantic import SemanticDuplicates
from diptych.curate.engine.embedding import embed_pool
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.pool import curate
from diptych.data.dataset import Pool
from diptych.data.lineage.record import lineage_of
from diptych.data.media.decode import decode
from diptych.data.shards.build import build, open_built
from diptych.index import embedding_table
from diptych.index.embedding_table import EmbeddingTable, StoredEmbedder, take_down_embeddings


class Means:
    """Unit vectors of the mean colours of three stripes; counts the pictures that it was asked for."""

    name = "means"

    def __init__(self, fingerprint: str = "0123") -> None:
        self.fingerprint, self.calls = fingerprint, 0

    def embed_images(self, images, *, batch_size: int = 64) -> np.ndarray:
        rows = np.array([decode(image)[:9].reshape(3, -1).mean(1) - 127 for image in images], np.float64).reshape(-1, 3)
        self.calls += len(images)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def embed_texts(self, texts, *, batch_size: int = 256) -> np.ndarray:
        return np.ones((len(texts), 1), np.float32)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def pool(count: int = 40) -> Pool:
    samples = [Sample(f"u{n:03}", BytesImage(png(n), f"{n}.png"), (Text(f"text {n}"),)) for n in range(count)]
    odd = [Sample("bad", BytesImage(b"nothing", "bad.png")), Sample("none", None, (Text("no picture"),))]
    odd += [Sample("gone", FileImage(Path("nowhere/gone.png"))), Sample("copy", BytesImage(png(3), "copy.png"))]
    odd += [Sample("drawn", ArrayImage(np.full((9, 9, 3), 9, np.uint8)))]
    return Pool.from_samples([*samples, *odd])


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_table, "PART_ROWS", 8)


@pytest.mark.usefixtures("small_parts")
def test_the_rows_are_those_of_the_step_without_a_table(tmp_path: Path) -> None:
    plain = embed_pool(pool(), Means(), PartStore())
    model = Means()
    for again in range(3):
        read = embed_pool(pool(), model, PartStore(embeddings=tmp_path / "e"))
        assert read.uids == plain.uids
        assert read.unreadable.keys() == plain.unreadable.keys() == {"bad", "gone"}, "not the row without a picture"
        np.testing.assert_array_equal(read.vector_ND, plain.vector_ND)
        assert model.calls == 41, f"40 pictures and a drawn one, the copy not, at call {again}"
    few = pool().select([30, 3, 12])
    np.testing.assert_array_equal(
        embed_pool(few, model, PartStore(embeddings=tmp_path / "e")).vector_ND,
        plain.vector_ND[[plain.uids.index(u) for u in sorted(few.uids)]],
    )
    assert model.calls == 41
    assert len(EmbeddingTable(tmp_path / "e", Means("other"))) == 0, "another model has rows of its own"


@pytest.mark.usefixtures("small_parts")
def test_two_thresholds_cost_one_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = Means(), pool()
    monkeypatch.setattr("diptych.curate.duplicates.semantic.open_embedder", lambda address: model)
    kept = {}
    for cosine in (0.98, 0.999):
        step = SemanticDuplicates(model="means", cosine=cosine, clusters=1, probe=1)
        kept[cosine] = curate(data, [step], tmp_path / str(cosine), embeddings=tmp_path / "e").kept.uids
        assert kept[cosine] == curate(data, [step]).kept.uids
    assert model.calls == 41 + 2 * 42, "once for the table, and twice without it, where the copy is embedded too"
    assert len(kept[0.98]) < len(kept[0.999])


@pytest.mark.usefixtures("small_parts")
def test_a_changed_picture_is_embedded_again(tmp_path: Path) -> None:
    model = Means()
    EmbeddingTable(tmp_path, model).fill(pool())
    other = Pool.from_samples([Sample("u001", BytesImage(png(99), "1.png")), Sample("u002", BytesImage(png(2), "2.png"))])
    read = EmbeddingTable(tmp_path, model).read(other)
    assert read.computed == 1
    np.testing.assert_array_equal(read.vector_ND, Means().embed_images([BytesImage(png(99)), BytesImage(png(2))]))


@pytest.mark.usefixtures("small_parts")
def test_a_kill_loses_at_most_a_part(tmp_path: Path, kill: KillAt) -> None:
    expected = Means().embed_images([BytesImage(png(n)) for n in range(20)])
    data = pool().select(list(range(20)))
    for at in range(100):
        model = Means()
        with kill(at) as killed:
            EmbeddingTable(tmp_path / str(at), model).fill(data)
        before = model.calls
        np.testing.assert_array_equal(EmbeddingTable(tmp_path / str(at), model).read(data).vector_ND, expected)
        assert before <= 20 <= model.calls <= 28
        if not killed:
            break
    assert 6 < at < 99


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def mixed_pool() -> Pool:
    """Pictures that cannot be read stand between the others, so that a cut that is made anew would move."""
    bad = [Sample(f"u{n:03}-bad", BytesImage(f"nothing {n}".encode(), "bad.png")) for n in (2, 9, 20)]
    return Pool.from_samples([*bad, *map(pool().__getitem__, range(40))])


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("before", [[], [0], [3, 1], [5, 4, 3, 2, 1]])
def test_parts_are_the_same_files_in_any_order_and_after_a_kill(before: list[int], tmp_path: Path) -> None:
    whole = EmbeddingTable(tmp_path / "whole", Means())
    assert whole.fill(mixed_pool())[0] == 40
    table, data = EmbeddingTable(tmp_path / "parts", Means()), mixed_pool()
    plan = table.plan(data)
    assert plan.left == tuple(range(6)), "43 pictures by eights"
    for number in before:
        table.write(data, number, *plan.part(number))
    again = EmbeddingTable(tmp_path / "parts", Means())
    assert again.fill(data)[0] == 40 - sum(len(np.load(again.folder / f"part-{n:05d}.npy")) for n in before)
    assert files(again.folder) == files(whole.folder)
    again.fill(data)
    assert files(again.folder) == files(whole.folder), "unreadable pictures alone make no part"


@pytest.mark.usefixtures("small_parts")
def test_a_plan_of_other_data_is_not_gone_on_with(tmp_path: Path) -> None:
    data, few = pool(), pool().select(list(range(12)))
    table = EmbeddingTable(tmp_path, Means())
    with pytest.raises(DataError, match=r"filling\.json: is missing or of other data"):
        table.plan(data, begin=False)
    plan = table.plan(few)
    table.write(few, 1, *plan.part(1))
    with pytest.raises(DataError, match=r"filling\.json: is missing or of other data"):
        EmbeddingTable(tmp_path, Means()).plan(data, begin=False)
    assert table.fill(data)[0] == 41 - 4
    np.testing.assert_array_equal(table.read(few).vector_ND, Means().embed_images([BytesImage(png(n)) for n in range(12)]))
    begun = table.plan(pool().select([]))
    assert begun.left == ()
    assert "filling.json" not in files(table.folder)


@pytest.mark.usefixtures("small_parts")
def test_a_takedown_ends_a_plan(tmp_path: Path) -> None:
    data, table = pool().select(list(range(24))), EmbeddingTable(tmp_path, Means())
    plan = table.plan(data)
    table.write(data, 1, *plan.part(1))
    take_down_embeddings(tmp_path, ["u010"])  # the rest of part 1 becomes part 2, which is not that of the plan
    left = data.exclude(["u010"])
    assert table.fill(data.select([*range(10), *range(11, 24)]))[0] == 16
    assert len(table.read(left).uids) == 23


@pytest.mark.usefixtures("small_parts")
def test_built_data_are_not_read_for_their_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(pool().select(list(range(20))), tmp_path / "built", shard_samples=7)
    model = Means()
    EmbeddingTable(tmp_path / "e", model).fill(pool().select(list(range(20))))
    monkeypatch.setattr(embedding_table, "image_digest", lambda image: pytest.fail("the hash is in the manifest"))
    read = EmbeddingTable(tmp_path / "e", model).read(open_built(tmp_path / "built"))
    assert (read.computed, len(read.uids)) == (0, 20)


@pytest.mark.usefixtures("small_parts")
def test_an_index_takes_what_is_stored_and_asks_for_the_rest(tmp_path: Path) -> None:
    EmbeddingTable(tmp_path, Means()).fill(pool().select(list(range(20))))
    model = Means()
    stored = StoredEmbedder(model, tmp_path)
    assert isinstance(stored, Embedder)
    images = [BytesImage(png(n)) for n in (25, 3, 19, 30)]
    np.testing.assert_array_equal(stored.embed_images(images), Means().embed_images(images))
    assert model.calls == 2
    stored.embed_images(images[:1])
    assert model.calls == 3


@pytest.mark.usefixtures("small_parts")
def test_a_takedown_leaves_no_vector(tmp_path: Path) -> None:
    data = pool()
    table = EmbeddingTable(tmp_path, Means())
    table.fill(data)
    whole = [f"u{n:03}" for n in range(8)]
    by_hash = [embedding_table.image_digest(BytesImage(png(3)))]  # stored under the uid of the copy
    assert take_down_embeddings(tmp_path, ["u010", "u017", *whole, "unknown"], by_hash) == 10
    left = data.exclude(["u010", "u017", *whole, "copy"])
    model = Means()
    read = EmbeddingTable(tmp_path, model).read(left)
    assert model.calls == 0
    np.testing.assert_array_equal(read.vector_ND, embed_pool(left, Means(), PartStore()).vector_ND)
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*.npy"))
    assert Means().embed_images([BytesImage(png(17))]).tobytes() not in content
    assert Means().embed_images([BytesImage(png(18))]).tobytes() in content


@pytest.mark.usefixtures("small_parts")
def test_a_takedown_that_is_repeated_after_a_kill_leaves_no_vector(tmp_path: Path, kill: KillAt) -> None:
    gone = Means().embed_images([BytesImage(png(17))]).tobytes()
    for at in range(100):
        folder = tmp_path / str(at)
        EmbeddingTable(folder, Means()).fill(pool())
        with kill(at) as killed:
            take_down_embeddings(folder, ["u017"])
        take_down_embeddings(folder, ["u017"])
        assert gone not in b"".join(path.read_bytes() for path in folder.rglob("*.npy"))
        if not killed:
            break
    assert 3 < at < 99


def test_a_takedown_from_a_folder_without_embeddings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no table of embeddings"):
        take_down_embeddings(tmp_path / "typo", ["u017"])


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    table = EmbeddingTable(tmp_path, Means())
    table.fill(pool())
    np.save(table.folder / "part-00000.npy", np.zeros((3, 3)))
    with pytest.raises(DataError, match=r"part-00000\.npy.*float32"):
        EmbeddingTable(tmp_path, Means()).read(pool())
    (table.folder / "embeddings.json").write_text('{"format": 9}', encoding="utf-8")
    with pytest.raises(DataError, match="format 9"):
        EmbeddingTable(tmp_path, Means())


def test_the_index_is_built_from_the_table(tmp_path: Path) -> None:
    import diptych as dp

    data = pool().select(list(range(20)))
    EmbeddingTable(tmp_path / "e", Means()).fill(data)
    model = Means()
    with dp.index(model, data, tmp_path / "index", embeddings=tmp_path / "e", progress=False) as made:
        assert model.calls == 0
        assert made.search_image(BytesImage(png(7)))[0].uid == "u007"
    with pytest.raises(ConfigError, match="kind"):
        dp.index(model, data, tmp_path / "other", kind="lexical", embeddings=tmp_path / "e")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    build(pool(), tmp_path / "built")
    monkeypatch.setattr("diptych.curate.engine.embedding_workers.open_embedder", lambda address: Means())
    for expected in (41, 0):
        assert main(["embed", "model", str(tmp_path / "built"), str(tmp_path / "e"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["computed"] == expected
    steps = lineage_of(tmp_path / "e")
    assert [step.step for step in steps] == ["data build", "embed"], "the second call changed nothing"
    assert (steps[1].source, steps[1].counts["rows"]) == (str(tmp_path / "built"), 41)
    assert steps[1].config["model"] == "model"
