"""Links out of web archives: WAT and WARC, bases, broken records, a file that was cut; the cut into files does not matter."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

pytest.importorskip("warcio", reason="the extra curate is not installed")
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from diptych.cli import main
from diptych.core.errors import DataError
from diptych.data.columns import read_parquet
from diptych.data.quarantine import QuarantineEntry, read_quarantine
from diptych.data.read.links import pair_uid
from diptych.data.web.link_table import extract_links
from diptych.data.web.web_archive import links_of

PAGE = "https://site.example/pages/one.html"


def wat(links: list[dict], *, base: str = "", page: str = PAGE) -> bytes:
    head = {"Base": base} if base else {}
    html = {"Head": head, "Links": links}
    return json.dumps({"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": html}}}}).encode()


def write_archive(path: Path, records: list[tuple[str, str, bytes]], *, zipped: bool = True) -> Path:
    """Records of (kind, page, content); of a response the content is the HTML, as UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=zipped)
        for kind, page, content in records:
            if kind == "response":
                headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
                record = writer.create_warc_record(page, "response", payload=io.BytesIO(content), http_headers=headers)
            else:
                record = writer.create_warc_record(page, kind, payload=io.BytesIO(content), warc_content_type="application/json")
            writer.write_record(record)
    return path


def found(path: Path) -> tuple[list[tuple[str, str]], list[QuarantineEntry]]:
    bad: list[QuarantineEntry] = []
    return [(link.url, link.text) for link in links_of(path, bad)], bad


def test_images_with_a_text_of_a_wat_file(tmp_path: Path) -> None:
    links = [
        {"path": "IMG@/src", "url": "cat.jpg", "alt": "a  cat\n"},
        {"path": "IMG@/src", "url": "/dog.png", "alt": ""},
        {"path": "IMG@/src", "url": "dog.png"},
        {"path": "A@/href", "url": "x.html", "alt": "no image"},
        {"path": "IMG@/src", "url": "data:image/png;base64,xx", "alt": "inline"},
        {"path": "IMG@/src", "url": "//cdn.example/b.jpg", "alt": "a bus"},
        {"path": "IMG@/src", "url": "http://[broken", "alt": "no address"},
    ]
    path = write_archive(
        tmp_path / "a.wat.gz", [("metadata", PAGE, wat(links)), ("metadata", PAGE, wat(links[:1], base="/img/"))]
    )
    assert found(path) == (
        [
            ("https://site.example/pages/cat.jpg", "a cat"),
            ("https://cdn.example/b.jpg", "a bus"),
            ("https://site.example/img/cat.jpg", "a cat"),
        ],
        [],
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_images_with_a_text_of_a_page(tmp_path: Path, zipped: bool) -> None:
    html = '<head><base href="https://other.example/b/"></head><IMG SRC=x.jpg ALT="a caf\u00e9 &amp; bar"><img src="y.jpg"><img alt="z">'
    path = write_archive(tmp_path / "a.warc", [("response", PAGE, html.encode())], zipped=zipped)
    assert found(path) == ([("https://other.example/b/x.jpg", "a caf\u00e9 & bar")], [])


def test_a_broken_record_costs_itself(tmp_path: Path) -> None:
    good = wat([{"path": "IMG@/src", "url": "cat.jpg", "alt": "a cat"}])
    records = [
        ("metadata", PAGE, b'{"Envelope": '),
        ("metadata", PAGE, b'{"a": "caf\xe9"}'),
        ("response", PAGE, b"<img src=a alt=caf\xe9>"),
    ]
    path = write_archive(tmp_path / "a.warc.gz", [*records, ("metadata", PAGE, good)])
    links, bad = found(path)
    assert links == [("https://site.example/pages/cat.jpg", "a cat")]
    assert [one.reason.split(":")[0] for one in bad] == [
        "is not valid JSON",
        "is not UTF-8 at byte 10 of the record",
        "is not utf-8 at byte 18 of the page",
    ]
    assert [one.file.partition("#")[2] for one in bad] == ["1", "2", "3"]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_in_the_middle_keeps_what_stands_before(tmp_path: Path, zipped: bool) -> None:
    links = [[{"path": "IMG@/src", "url": f"{n}.jpg", "alt": f"text {n} " + "x" * 400}] for n in range(4)]
    whole = write_archive(tmp_path / "a.wat", [("metadata", PAGE, wat(one)) for one in links], zipped=zipped).read_bytes()
    ends = whole.rfind(b"\x1f\x8b") if zipped else whole.rfind(b"WARC/1.0")
    cut = tmp_path / "cut.wat"
    assert found(tmp_path / "a.wat")[1] == []
    for size in range(ends + 1, len(whole), 7):  # in the headers, in the content, in the end of the last record
        cut.write_bytes(whole[:size])
        urls, bad = found(cut)
        assert [url.rpartition("/")[2] for url, _ in urls[:3]] == ["0.jpg", "1.jpg", "2.jpg"]
        assert len(bad) == 1, size
        assert "\n" not in bad[0].reason
        assert "is truncated" in bad[0].reason or "is broken after" in bad[0].reason


def test_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(b"not an archive at all")
    links, bad = found(path)
    assert not links
    assert len(bad) == 1
    (tmp_path / "b.warc.gz").write_bytes(b"")
    assert found(tmp_path / "b.warc.gz")[1][0].reason == "is empty"
    with pytest.raises(DataError, match=r"contains no web archive \(expected files that end in .warc"):
        extract_links(tmp_path / "none", tmp_path / "out")


def test_one_table_whatever_the_files(tmp_path: Path) -> None:
    pages = [
        ("metadata", f"https://s.example/{n}/", wat([{"path": "IMG@/src", "url": f"/{n % 3}.jpg", "alt": "a text"}]))
        for n in range(6)
    ]
    for name, cuts in (("one", [pages]), ("three", [pages[4:], pages[:2], pages[2:4]])):
        for number, records in enumerate(cuts):
            write_archive(tmp_path / name / f"{number}.wat.gz", records)
        report = extract_links(tmp_path / name, tmp_path / f"out_{name}")
        assert (report.pairs, report.links) == (6, 3)
    one = (tmp_path / "out_one" / "links.parquet").read_bytes()
    assert one == (tmp_path / "out_three" / "links.parquet").read_bytes()
    table = read_parquet(tmp_path / "out_one" / "links.parquet").to_pylist()
    assert table[0]["uid"] == pair_uid(table[0]["url"], "a text")
    assert {row["page"] for row in table} == {"https://s.example/0/", "https://s.example/1/", "https://s.example/2/"}


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        write_archive(
            tmp_path / "in" / f"{n}.wat", [("metadata", PAGE, wat([{"path": "IMG@/src", "url": f"{n}.jpg", "alt": "x"}]))]
        )
    import diptych.data.web.link_table as module

    real, seen = module.links_of, []

    def killed(path: Path, bad: list[QuarantineEntry]):
        seen.append(path.name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(path, bad)

    monkeypatch.setattr(module, "links_of", killed)
    with pytest.raises(KeyboardInterrupt):
        extract_links(tmp_path / "in", tmp_path / "out")
    report = extract_links(tmp_path / "in", tmp_path / "out")
    assert seen == ["0.wat", "1.wat", "2.wat", "2.wat"]
    assert (report.kept, report.links) == (2, 3)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_archive(
        tmp_path / "in" / "a.wat.gz", [("metadata", PAGE, wat([{"path": "IMG@/src", "url": "cat.jpg", "alt": "a cat"}]))]
    )
    (tmp_path / "in" / "b.wat").write_bytes(b"WARC/1.0\r\nbroken")
    assert main(["data", "links", str(tmp_path / "in"), str(tmp_path / "out"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["files"], facts["links"], facts["left_out"]) == (2, 1, 1)
    assert len(read_quarantine(tmp_path / "out")) == 1
    assert main(["data", "links", str(tmp_path / "nothing"), str(tmp_path / "out2")]) == 1
    assert "contains no web archive" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "kept"),
    [
        ("robots", "NoAI", False),
        ("Robots", "nofollow, noimageindex", False),
        ("diptych", "noimageai", False),
        ("googlebot", "noai", True),
        ("robots", "nofollow, noarchive", True),
        ("description", "noai", True),
    ],
)
def test_pages_that_opt_out_give_nothing(tmp_path: Path, name: str, content: str, kept: bool) -> None:
    html = f'<head><META Name="{name}" content="{content}"></head><img src="x.jpg" alt="a cat">'
    links, bad = found(write_archive(tmp_path / "a.warc", [("response", PAGE, html.encode())]))
    assert len(links) == kept
    assert [one.stage for one in bad] == ([] if kept else ["opt-out"])
    plain = json.loads(wat([{"path": "IMG@/src", "url": "x.jpg", "alt": "a cat"}]))
    head = plain["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"]["Head"]
    head["Metas"] = [{"name": name, "content": content}, 7]
    links, bad = found(write_archive(tmp_path / "a.wat", [("metadata", PAGE, json.dumps(plain).encode())]))
    assert len(links) == kept


def test_the_licence_of_a_page_goes_with_its_images(tmp_path: Path) -> None:
    html = b'<a rel="nofollow License" href="/by/4.0">x</a><a rel=license href="http://later.example">y</a><img src="x.jpg" alt="cat">'
    pages = [
        ("response", PAGE, html),
        ("response", PAGE + "2", b'<img src="y.jpg" alt="dog"><link rel="license" href="javascript:x">'),
    ]
    extract_links(write_archive(tmp_path / "a.warc", pages), tmp_path / "out")
    rows = read_parquet(tmp_path / "out" / "links.parquet").to_pylist()
    assert {row["text"]: row["licence"] for row in rows} == {"cat": "https://site.example/by/4.0", "dog": ""}
    links = [{"path": "IMG@/src", "url": "x.jpg", "alt": "cat"}, {"path": "A@/href", "url": "/cc", "rel": "license"}]
    path = write_archive(tmp_path / "b.wat", [("metadata", PAGE, wat(links))])
    assert [link.licence for link in links_of(path, [])] == ["https://site.example/cc"]


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_blocks_of_the_merged_table_do_not_matter(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.data.web.link_table.BLOCK", block)
    monkeypatch.setattr("diptych.data.web.link_table.MERGED", block)
    naive: dict[str, tuple[str, str]] = {}
    for number in range(3):
        pages = []
        for at in range(4):
            page = f"http://site.example/{number}{at}.html"
            rel = f'<a rel="license" href="http://licence.example/{at}">x</a>' if at % 2 else ""
            images = "".join(f'<img src="/{image}.jpg" alt="picture {image}">' for image in range(at, at + 5))
            pages.append(("response", page, f"<html><body>{rel}{images}</body></html>".encode()))
            for image in range(at, at + 5):
                uid = pair_uid(f"http://site.example/{image}.jpg", f"picture {image}")
                seen = (page, f"http://licence.example/{at}" if at % 2 else "")
                naive[uid] = min(naive.get(uid, seen), seen)
        write_archive(tmp_path / "in" / f"{number}.warc", pages)
    report = extract_links(tmp_path / "in", tmp_path / "out")
    rows = read_parquet(tmp_path / "out" / "links.parquet").to_pylist()
    assert [(row["uid"], (row["page"], row["licence"])) for row in rows] == sorted(naive.items())
    assert (report.pairs, report.links) == (60, 8)
