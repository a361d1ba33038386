"""A row's life from its link to the last curation, lineage that outlives its sources, and cards that count what is there."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diptych.cli import main
from diptych.core.errors import DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.lineage.data_card import croissant, data_card, data_facts
from diptych.data.lineage.record import lineage_of, made_now, write_lineage
from diptych.data.lineage.why import row_history
from diptych.data.read import read
from diptych.data.shards.build import build, open_built


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/red")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        colours = {"/red": (200, 0, 0), "/same": (200, 0, 0), "/blue": (0, 0, 200)}
        file = io.BytesIO()
        if self.path in colours:
            Image.new("RGB", (32, 32), colours[self.path]).save(file, "PNG")
        self.send_response(200 if self.path in colours else 404)
        self.send_header("Content-Length", str(len(file.getvalue())))
        self.end_headers()
        self.wfile.write(file.getvalue())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """links -> shards -> built -> unique -> built again."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site, folder = f"http://127.0.0.1:{server.server_port}", tmp_path_factory.mktemp("chain")
    (folder / "links").mkdir()
    rows = [
        ("a", "/moved", "a red square", "cc-by"),
        ("b", "/same", "red again", "cc0"),
        ("c", "/blue", "blue", "cc0"),
        ("d", "/gone", "-", ""),
    ]
    table = pa.table(
        {
            "uid": [row[0] for row in rows], "url": [site + row[1] for row in rows], "text": [row[2] for row in rows],
            "page": [f"{site}/page"] * 4, "licence": [row[3] for row in rows],
        }
    )  # fmt: skip
    pq.write_table(table, folder / "links" / "links.parquet")
    for words in (
        ["data", "download", "links", "shards", "--size", "16", "--allow-private"],
        ["data", "build", "shards", "pairs"],
        ["curate", "exact_duplicates", "pairs", "unique"],
        ["data", "build", "unique", "final"],
    ):
        assert (
            main([str(folder / word) if word in ("links", "shards", "pairs", "unique", "final") else word for word in words]) == 0
        )
    yield folder
    server.shutdown()
    server.server_close()


def test_the_life_of_a_row_that_is_there(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "why", str(chain / "final"), "a", "--json"]) == 0
    events = json.loads(capsys.readouterr().out)["events"]
    assert [event["step"] for event in events] == [
        "data links", "text", "data download", "data build", "text", "exact_duplicates", "exact_duplicates", "data build", "text", "text",
    ]  # fmt: skip
    link, download = events[0], events[2]
    assert link["line"].endswith("licence cc-by")
    assert download["facts"]["final_url"].endswith("/red")
    assert "which led to" in download["line"]
    assert download["facts"]["end_time"] >= download["facts"]["start_time"] > 0
    assert next(event["facts"]["kept"] for event in events if event["step"] == "exact_duplicates") is True
    assert {event["facts"]["string"] for event in events[-2:]} == {
        "a red square",
        "red again",
    }  # texts after: those of the copy too


def test_texts_of_a_row_have_their_language(tmp_path: Path) -> None:
    texts = (Text("ein Hund", "de", "alt"), Text("a dog", "", "caption"))
    build(Pool.from_samples([Sample("a", ArrayImage(np.zeros((4, 4, 3), np.uint8)), texts)]), tmp_path / "built")
    lines = [event.line for event in row_history(tmp_path / "built", "a") if event.step == "text"]
    assert lines == ["text (alt, de): ein Hund", "text (caption): a dog"]


def test_languages_that_a_step_detected_are_on_the_card_before_and_after_a_build(tmp_path: Path) -> None:
    given = {"a": (Text("a red fox"), Text("ein Fuchs")), "b": (Text("un renard", "fr"),), "c": (Text("-"),)}
    picture = ArrayImage(np.zeros((4, 4, 3), np.uint8))
    pool = Pool.from_samples([Sample(uid, picture, texts) for uid, texts in given.items()])
    tags = pa.table({"uid": ["a", "b", "c"], "language": ["en", "de", ""]})  # as `laion` writes them, of the first text
    tagged = pool.with_table(tags)
    assert data_facts(pool).languages == {"": 3, "fr": 1}
    assert data_facts(tagged).languages == {"": 2, "en": 1, "fr": 1}  # its own tag goes first; a second text has none
    build(tagged, tmp_path / "built")
    facts = data_facts(open_built(tmp_path / "built"))
    assert facts.languages == {"": 2, "en": 1, "fr": 1}
    assert "| en | 1 |" in data_card(facts, [])


def test_the_life_of_rows_that_are_not(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dropped = [event for event in row_history(chain / "final", "b") if event.step == "exact_duplicates"]
    assert dropped[0].line == "dropped: same bytes as a"
    failed = row_history(chain / "final", "d")
    assert failed[-1].line.startswith("not downloaded from ")
    assert "http 404" in failed[-1].line
    assert main(["data", "why", str(chain / "final"), "nobody"]) == 1
    assert "has no row 'nobody'" in capsys.readouterr().err


def test_steps_outlive_their_sources(chain: Path, tmp_path: Path) -> None:
    copy = tmp_path / "final"
    shutil.copytree(chain / "final", copy)
    assert [step.step for step in lineage_of(copy)] == ["data download", "data build", "exact_duplicates", "data build"]
    step = lineage_of(copy)[2]
    assert step.counts == {"before": 3, "after": 2}
    assert step.version
    assert step.config_hash
    assert step.time.endswith("+00:00")
    before = (copy / "lineage.json").read_bytes()
    write_lineage(copy, lineage_of(copy)[3:], chain / "unique")
    assert (copy / "lineage.json").read_bytes() == before  # the same again is no new time
    (copy / "lineage.json").write_text('{"steps": [{"what": 1}]}')
    with pytest.raises(DataError, match=r"lineage\.json"):
        lineage_of(copy)


def test_cards_count_licences_and_name_steps(chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = data_facts(read(chain / "final"))
    assert facts.licences == {"cc-by": 1, "cc0": 1}
    assert facts.rows == 2
    card = data_card(facts, lineage_of(chain / "final"))
    assert "| cc-by | 1 |" in card
    assert "exact_duplicates" in card
    capsys.readouterr()
    assert main(["data", "card", str(chain / "final"), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("2 samples, 2 licences, ")
    plain = json.loads((tmp_path / "croissant.json").read_text())
    assert plain["license"] == ["cc-by", "cc0"]
    fields = {field["description"]: (field["dataType"], field.get("repeated", False)) for field in plain["recordSet"][0]["field"]}
    lists = {field.name for field in pq.read_schema(chain / "final" / "manifest.parquet") if pa.types.is_list(field.type)}
    assert {name for name, (_, repeated) in fields.items() if repeated} == lists
    assert fields["width"] == ("sc:Integer", False)
    columns = {field["source"]["extract"]["column"] for field in plain["recordSet"][0]["field"]}
    assert columns == set(pq.read_schema(chain / "final" / "manifest.parquet").names)
    assert (tmp_path / "README.md").read_text() == card
    one = made_now("data build", "x")
    assert croissant(facts, chain / "final", [one])["datePublished"] == one.time[:10]


def test_changes_of_a_folder_stand_behind_its_steps(chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, more = tmp_path / "final", tmp_path / "more"
    shutil.copytree(chain / "final", folder)
    more.mkdir()
    Image.new("RGB", (16, 16), (0, 200, 0)).save(more / "green.png")
    (more / "green.txt").write_text("a green square")
    assert main(["data", "build", str(more), str(tmp_path / "built")]) == 0
    before = [step.step for step in lineage_of(folder)]
    assert main(["data", "add", str(folder), str(tmp_path / "built")]) == 0
    for _ in range(2):  # the same again is written once
        assert main(["data", "split", str(folder), "--shares", "source=0.5,config=0.5"]) == 0
    assert main(["data", "takedown", str(folder), "c", "--reason", "asked for"]) == 0
    steps = lineage_of(folder)
    assert [step.step for step in steps] == [*before, "data build", "data add", "data split", "data takedown"]
    assert steps[-3].counts == {"added": 1, "samples": 3}
    assert sum(steps[-2].counts.values()) == 3
    assert steps[-1].config == {"reason": "asked for"}
    assert [event.step for event in row_history(folder, "a")][:3] == ["data links", "text", "data download"]
    capsys.readouterr()
    (uid,) = set(read(folder).uids) - {"a", "c"}
    assert {event.folder for event in row_history(folder, uid)} == {str(tmp_path / "built"), str(folder)}


def test_links_that_came_later_keep_their_own_source(chain: Path, tmp_path: Path) -> None:
    shards, later = tmp_path / "shards", tmp_path / "later.parquet"
    shutil.copytree(chain / "shards", shards)
    site = pq.read_table(chain / "links" / "links.parquet")["url"][0].as_py().rpartition("/")[0]
    pq.write_table(pa.table({"uid": ["e"], "url": [f"{site}/blue"], "text": ["blue again"]}), later)
    assert main(["data", "download", str(later), str(shards), "--size", "16", "--allow-private", "--add"]) == 0
    assert [step.source for step in lineage_of(shards)] == [str(chain / "links"), str(later)]
    assert row_history(shards, "a")[0].folder == str(chain / "links" / "links.parquet")
    assert row_history(shards, "e")[0].folder == str(later)


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        row_history(tmp_path / "nothing", "a")


def test_a_build_from_python_is_recorded_and_a_second_call_changes_nothing(tmp_path: Path) -> None:
    pool = Pool.from_samples([Sample("a", ArrayImage(np.zeros((8, 8, 3), np.uint8)))], name="made here")
    build(pool, tmp_path / "first")
    (step,) = lineage_of(tmp_path / "first")
    assert (step.step, step.source, step.fingerprint, step.counts) == ("data build", "", pool.fingerprint, {"samples": 1})
    before = (tmp_path / "first" / "lineage.json").read_bytes()
    build(pool, tmp_path / "first")
    assert (tmp_path / "first" / "lineage.json").read_bytes() == before
    build(open_built(tmp_path / "first"), tmp_path / "second", source=str(tmp_path / "first"))
    assert [step.source for step in lineage_of(tmp_path / "second")] == ["", str(tmp_path / "first")]


def test_a_row_of_a_table_with_pictures_is_no_link(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": ["a"], "text": ["a dog"], "image": [b"GIF89a"]}), tmp_path / "pool.parquet")
    row, text = row_history(tmp_path / "pool.parquet", "a")
    assert (row.step, row.line, row.facts) == ("read", "a row of this file", {"uid": "a", "text": "a dog"})
    assert text.line == "text: a dog"
