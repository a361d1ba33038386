"""Data sets, indexes, models and runs with a wrong header, shape, link or format: each is one line that says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

import diptych as dp
from diptych.api.data import read_recorded
from diptych.cli import main
from diptych.core.config import from_plain, save_config
from diptych.core.errors import DiptychError
from diptych.core.registry import RECIPES
from diptych.core.run_folder import RunFolder
from diptych.core.sample import Sample, Text
from diptych.data.curated import open_curated
from diptych.data.dataset import Pool
from diptych.data.read import read
from diptych.data.shards.build import build
from diptych.index.facts import read_facts
from diptych.index.kinds import open_index
from diptych.models.io.folder import read_config
from diptych.models.io.saved_model import one_line_errors

NESTED = "[" * 100_000 + "]" * 100_000
Break = Callable[[Path], object]


def one_line(use: Callable[[], object], *words: str) -> str:
    """What is said, which is a line, names the file, and is of ours."""
    with pytest.raises(DiptychError) as caught:
        use()
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 700
    for word in words:
        assert word in said
    return said


def texts(count: int = 6) -> Pool:
    return Pool.from_samples([Sample(f"u{n}", None, (Text(f"a red bus number {n}"),)) for n in range(count)], name="words")


@pytest.fixture(autouse=True)
def nobody_is_contacted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*where: object, **_: object) -> None:
        raise AssertionError(f"something was contacted: {where}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("QDRANT_URL", raising=False)


def change(file: str, **fields: Any) -> Break:
    """Other values in a JSON file."""

    def apply(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return apply


def put(file: str, content: str | bytes) -> Break:
    return lambda folder: (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def drop(file: str) -> Break:
    def apply(folder: Path) -> None:
        path = folder / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return apply


def pipe(file: str) -> Break:
    def apply(folder: Path) -> None:
        drop(file)(folder)
        os.mkfifo(folder / file)

    return apply


def link(file: str, target: str) -> Break:
    def apply(folder: Path) -> None:
        drop(file)(folder)
        (folder / file).symlink_to(target)

    return apply


def moved_out(file: str) -> Break:
    """The part is still there, behind a link that leads out of the folder."""

    def apply(folder: Path) -> None:
        shutil.move(folder / file, folder.parent / "elsewhere")
        (folder / file).symlink_to(folder.parent / "elsewhere")

    return apply


def column(file: str, name: str, values: Any) -> Break:
    def apply(folder: Path) -> None:
        table = pq.read_table(folder / file)
        table = table.drop_columns([name]) if name in table.column_names else table
        if values is not None:
            table = table.append_column(name, values(table.num_rows))
        pq.write_table(table, folder / file)

    return apply


# ---------------------------------------------------------------- data sets

DATA: dict[str, Break] = {
    "mark is no JSON": put("diptych.json", "{"),
    "mark is a list": put("diptych.json", "[]"),
    "mark is nested": put("diptych.json", NESTED),
    "mark is no UTF-8": put("diptych.json", b"\xff\xfe{}"),
    "mark is of another format": change("diptych.json", format=99),
    "mark has a format of another kind": change("diptych.json", format=[1]),
    "mark has no count": change("diptych.json", count=None),
    "mark has a count that is text": change("diptych.json", count="6"),
    "mark has tables that are a number": change("diptych.json", tables=7),
    "mark names a table that is not there": change("diptych.json", tables=["texts", "regions"]),
    "mark counts other rows": change("diptych.json", count=5),
    "manifest is gone": drop("manifest.parquet"),
    "manifest is no Parquet": put("manifest.parquet", "PAR1"),
    "manifest is empty": put("manifest.parquet", ""),
    "manifest has no shard": column("manifest.parquet", "shard", None),
    "manifest has offsets of text": column("manifest.parquet", "image_offset", lambda n: pa.array(["x"] * n)),
    "manifest has uids that are numbers": column("manifest.parquet", "uid", lambda n: pa.array(range(n))),
    "manifest has one uid twice": column("manifest.parquet", "uid", lambda n: pa.array(["same"] * n)),
    "manifest has no uids": column("manifest.parquet", "uid", lambda n: pa.nulls(n, pa.string())),
    "manifest has shards of null": column("manifest.parquet", "shard", lambda n: pa.nulls(n, pa.string())),
    "texts are gone": drop("tables/texts.parquet"),
    "texts are no Parquet": put("tables/texts.parquet", "nothing"),
    "texts have no uid": column("tables/texts.parquet", "uid", None),
    "texts are null": column("tables/texts.parquet", "string", lambda n: pa.nulls(n, pa.string())),
    "texts are of unknown origin": column("tables/texts.parquet", "origin", lambda n: pa.array(["?"] * n)),
    "texts hold structs": column("tables/texts.parquet", "string", lambda n: pa.array([{"a": 1}] * n)),
    "quarantine is no Parquet": put("quarantine.parquet", "nothing"),
    "quarantine has other columns": lambda folder: pq.write_table(pa.table({"a": [1]}), folder / "quarantine.parquet"),
    "quarantine has numbers": lambda folder: pq.write_table(
        pa.table({name: [1] for name in ("uid", "stage", "reason", "file")}), folder / "quarantine.parquet"
    ),
    "manifest is a pipe": pipe("manifest.parquet"),
    "texts are a pipe": pipe("tables/texts.parquet"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "built"
    build(texts(), folder)
    return folder


@pytest.mark.parametrize("name", DATA)
def test_a_broken_data_set(data: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(data, tmp_path / "built")
    DATA[name](folder)
    one_line(lambda: read(folder))


CURATED: dict[str, Break] = {
    "no JSON": put("curation.json", "{"),
    "nested": put("curation.json", NESTED),
    "a list": put("curation.json", "[]"),
    "no input": change("curation.json", input=None),
    "a source that is a number": change("curation.json", input={"source": 5, "fingerprint": "x"}),
    "a source on another machine": change("curation.json", input={"source": "http://127.0.0.1:9/x.csv", "fingerprint": "x"}),
    "a source of another kind": change("curation.json", input={"source": "s3://bucket/x.parquet", "fingerprint": "x"}),
    "columns that are a number": change("curation.json", columns=5),
    "a column that leads out": change("curation.json", columns=["../../x"]),
    "no table of who left": drop("tables/removed.parquet"),
}


@pytest.mark.parametrize("name", CURATED)
def test_a_broken_curation(data: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "curated"
    (folder / "tables").mkdir(parents=True)
    pq.write_table(pa.table({"uid": ["u0"]}), folder / "tables/removed.parquet")
    given = {"source": str(data), "fingerprint": read(data).fingerprint}
    (folder / "curation.json").write_text(json.dumps({"input": given, "columns": []}))
    assert len(read(folder)) == 5
    CURATED[name](folder)
    if name == "a column that leads out":
        assert len(open_curated(folder, read)) == 5  # there is no such table, and nothing is looked for
    else:
        one_line(lambda: read(folder))


# ---------------------------------------------------------------- indexes

INDEX: dict[str, Break] = {
    "facts are no JSON": put("index.json", "{"),
    "facts are nested": put("index.json", NESTED),
    "facts are a list": put("index.json", "[]"),
    "facts are no UTF-8": put("index.json", b"\xff"),
    "facts are a pipe": pipe("index.json"),
    "no format": change("index.json", format=None),
    "a format that is a list": change("index.json", format=[2]),
    "a newer format": change("index.json", format=99),
    "an unknown kind": change("index.json", kind="quantum"),
    "a kind that is a list": change("index.json", kind=["lexical"]),
    "another kind": change("index.json", kind="dense"),
    "a model that is text": change("index.json", model="words"),
    "a model without fingerprint": change("index.json", model={"name": "words"}),
    "columns that are a list": change("index.json", columns=[1]),
    "columns of numbers": change("index.json", columns={"a": 5}),
    "options that are text": change("index.json", options="x"),
    "widths that are text": change("index.json", dims={"": "wide"}),
    "an absurd width": change("index.json", dims={"": 10**12}),
    "a negative width": change("index.json", dims={"": -4}),
    "unreadable of another shape": change("index.json", unreadable=[{"a": 1}]),
    "a shard that leads out": change("index.json", shard="../elsewhere"),
    "a shard that is absolute": change("index.json", shard="/etc"),
    "a shard that is the folder": change("index.json", shard="."),
    "a shard that is not there": change("index.json", shard="shard-7"),
    "a server": change("index.json", url="http://127.0.0.1:9", collection="x"),
    "a server that is no address": change("index.json", url="file:///etc/passwd", collection="x"),
    "the engine's files are gone": drop("shard"),
    "the engine's files are elsewhere": moved_out("shard"),
    "the engine's configuration is no JSON": put("shard/edge_config.json", "{"),
    "a pipe among the engine's files": lambda folder: os.mkfifo(folder / "shard/wal/pipe"),
    "a link among the engine's files": lambda folder: (folder / "shard/link").symlink_to("/etc/passwd"),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "index"
    dp.index("words", texts(), folder, kind="lexical", progress=False).close()
    return folder


@pytest.mark.parametrize("name", INDEX)
def test_a_broken_index(index: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(index, tmp_path / "index")
    INDEX[name](folder)

    def use() -> object:
        with dp.open_index(folder, model="words") as opened:
            return opened.search_text("red", 3)

    said = one_line(use)
    assert str(folder) in said
    if name == "a server":
        assert "set QDRANT_URL=http://127.0.0.1:9" in said
    if "leads out" in name or "elsewhere" in name:
        assert sorted(path.name for path in folder.glob("shard*")) == ["shard"]  # nothing was swept away


@pytest.mark.parametrize("words", [b'"a"\n"a"\n', b"5\n", b"\xff\xff\n", NESTED.encode() + b"\n"])
def test_a_broken_vocabulary(index: Path, tmp_path: Path, words: bytes) -> None:
    folder = shutil.copytree(index, tmp_path / "index")
    (folder / "words.txt").write_bytes(words)

    def use() -> object:
        with dp.open_index(folder, model="words") as opened:
            return opened.search_text("red", 3)

    one_line(use, "words.txt, line")


def test_commands_say_it_in_a_line_too(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(index, tmp_path / "index")
    change("index.json", url="http://127.0.0.1:9", collection="x")(folder)
    for command in (["search", str(folder), "red"], ["index", "info", str(folder)], ["index", "remove", str(folder), "u0"]):
        assert main(command) == 1
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert "nothing is sent there" in said


def test_an_index_of_an_older_format_with_gaps(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(json.dumps({"format": 1, "kind": "dense"}))
    one_line(lambda: read_facts(tmp_path), "has no ")
    one_line(lambda: open_index(tmp_path), "has no ")


# ---------------------------------------------------------------- models

MODEL: dict[str, Break] = {
    "configuration is no JSON": put("config.json", "{"),
    "configuration is a list": put("config.json", "[]"),
    "configuration is nested": put("config.json", NESTED),
    "configuration is no UTF-8": put("config.json", b"\xff"),
    "another kind": change("config.json", kind="other"),
    "a kind that is a list": change("config.json", kind=[1]),
    "another format": change("config.json", format=99),
    "configuration is a folder": lambda folder: (drop("config.json")(folder), (folder / "config.json").mkdir()),
    "configuration is gone": drop("config.json"),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"format": 1, "kind": "thing"}))
    save_file({"a": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", MODEL)
def test_a_broken_configuration_of_a_model(model: Path, name: str) -> None:
    assert read_config(model, "thing")["kind"] == "thing"
    MODEL[name](model)
    one_line(lambda: read_config(model, "thing"))
    one_line(lambda: dp.load(model))


@pytest.mark.parametrize("place", ["model.safetensors", "config.json"])
def test_pipes_and_devices_in_a_model_are_not_waited_for(model: Path, place: str) -> None:
    for target in ("/dev/zero", "/dev/stdin"):
        (model / place).unlink()
        (model / place).symlink_to(target)
        with pytest.raises(DiptychError, match=r"is a device|is a pipe|is not a model"), one_line_errors(model):
            pytest.fail("it would be read now")
    pipe(place)(model)
    with pytest.raises(DiptychError, match="is a pipe"), one_line_errors(model):
        pytest.fail("it would be read now")


@pytest.mark.parametrize("error", [ValueError("a\nb"), KeyError("width"), RuntimeError(""), RecursionError(), MemoryError()])
def test_what_a_library_raises_is_one_line(model: Path, error: Exception) -> None:
    def use() -> None:
        with one_line_errors(model):
            raise error

    assert type(error).__name__ in one_line(use, "contains no model that can be opened")


def test_weights_of_every_wrong_form(model: Path) -> None:
    torch = pytest.importorskip("torch")
    from diptych.models.io.folder import load_weights

    net = torch.nn.Linear(2, 2)
    file = model / "model.safetensors"
    good = {"weight": np.zeros((2, 2), np.float32), "bias": np.zeros(2, np.float32)}
    save_file(good, file)
    load_weights(net, model)
    whole_file = file.read_bytes()
    for tensors in ({**good, "weight": np.zeros((3, 2), np.float32)}, {"bias": good["bias"]}, {**good, "more": good["bias"]}):
        save_file(tensors, file)
        one_line(lambda: load_weights(net, model), str(file))
    for content in (
        b"",
        whole_file[:40],
        whole_file[:-4],
        b"\xff" * 8 + whole_file[8:],
        b"\x80\x02}q\x00.",
        whole_file[:8] + b"{" * 60,
    ):
        file.write_bytes(content)
        one_line(lambda: load_weights(net, model), str(file))


# ---------------------------------------------------------------- runs

RUN: dict[str, Break] = {
    "state is no JSON": put("run.json", "{"),
    "state is a list": put("run.json", "[]"),
    "state is nested": put("run.json", NESTED),
    "state is a pipe": pipe("run.json"),
    "another format": change("run.json", format=99),
    "a slug that is a number": change("run.json", slug=5),
    "a status that is a list": change("run.json", status=[]),
    "data that are text": change("run.json", data="x"),
    "an unknown slug": change("run.json", slug="quantum"),
    "a source on another machine": change("run.json", source="http://127.0.0.1:9/x.csv"),
    "a source of another kind": change("run.json", source="s3://bucket/x.csv"),
    "configuration is no YAML": put("config.yaml", "a: [b"),
    "configuration is a list": put("config.yaml", "- a"),
    "configuration is nested": put("config.yaml", NESTED),
    "configuration asks for Python": put("config.yaml", "recipe: !!python/object/apply:os.system [true]\nrun: {}\n"),
    "configuration is a bomb": put("config.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nrecipe: {c: [*b, *b]}\nrun: {}\n"),
    "configuration is gone": drop("config.yaml"),
    "no section of the recipe": put("config.yaml", "run: {}\n"),
    "an unknown field": put("config.yaml", "recipe: {colour: red}\nrun: {}\n"),
    "prepared is a list": put("prepared.json", "[]"),
    "prepared has another section": put("prepared.json", '{"x": {}}'),
    "prepared is gone": drop("prepared.json"),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = RunFolder.create(tmp_path / "run", slug="clip", environment={})
    save_config(folder.path, {"recipe": {}, "run": {}})
    folder.write_state(data={"name": "x", "fingerprint": "f"}, source="emoji")
    return folder.path


@pytest.mark.parametrize("name", RUN)
def test_a_broken_run(run: Path, name: str) -> None:
    """As `train --resume`, `report` and `eval` open it: state, data, configuration, recipe."""
    RUN[name](run)

    def use() -> object:
        folder = RunFolder.open(run)
        read_recorded(folder.state["source"], folder.path)
        return from_plain(RECIPES.load(folder.state["slug"]), folder.config["recipe"])

    one_line(use)


def test_a_metrics_file_of_anything(run: Path) -> None:
    (run / "metrics.jsonl").write_bytes(b'{"step": 1}\n[1]\n' + NESTED.encode() + b"\n\xff\n")
    assert list(RunFolder(run).metrics()) == [{"step": 1}]


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    assert not list(tmp_path.rglob(".*.building"))
