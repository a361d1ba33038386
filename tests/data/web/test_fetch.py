"""Fetching without a network: made-up packages beside the target stand for downloaded ones."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

import pytest
from PIL import Image

from diptych.core.errors import DataError, DiptychError, RunError, UnknownName
from diptych.core.image import BytesImage
from diptych.core.sample import Sample
from diptych.data.masks import decode
from diptych.data.web import fetch as module
from diptych.data.web.debian import files, resolve_links
from diptych.data.web.fetch import fetch, read_card, split_by, stamp_texts

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on this machine")

SVG = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><title>window</title><metadata><rdf:RDF><cc:Work>
 <dc:title>Two  frogs</dc:title><dc:description>Green ones.</dc:description>
 <dc:subject><rdf:Bag><rdf:li>frog</rdf:li><rdf:li>pond</rdf:li><rdf:li>frog</rdf:li></rdf:Bag></dc:subject>
 <dc:creator><cc:Agent><dc:title>Lumen</dc:title></cc:Agent></dc:creator>
 <dc:publisher><cc:Agent><dc:title>Somebody else</dc:title></cc:Agent></dc:publisher>
 </cc:Work></rdf:RDF></metadata><path d="M0 0"/></svg>"""


def png(side: int = 8, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def make_deb(folder: Path, package: str, tree: dict[str, bytes | str]) -> Path:
    root = folder / f"tree-{package}"
    for name, data in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    (root / "DEBIAN").mkdir(parents=True)
    control = f"Package: {package}\nVersion: 1.0-1\nArchitecture: all\nMaintainer: Nobody <a@b.c>\nDescription: made up\n"
    (root / "DEBIAN" / "control").write_text(control)
    deb = folder / f"{package}_1.0-1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(root), str(deb)], check=True, capture_output=True)
    shutil.rmtree(root)
    return deb


@needs_dpkg
def test_stamps_from_a_package(tmp_path: Path) -> None:
    base = module.STAMPS
    debs = tmp_path / "out-debs"
    debs.mkdir()
    make_deb(
        debs,
        "tuxpaint-stamps-default",
        {
            f"{base}/animals/frog.png": png(),
            f"{base}/animals/frog.svg": "<svg/>",  # the same picture again
            f"{base}/animals/frog.txt": "A frog.\nde.utf8=Ein Frosch.\npt_br.utf8=Um sapo.\nfr.utf8=\n",
            f"{base}/animals/frog_mirror.png": png(),
            f"{base}/food/egg.svg": "<svg/>",
            f"{base}/food/egg.txt": "An egg.\n",
            f"{base}/food/bad.png": b"\x89PNG broken",
            f"{base}/food/bad.txt": "Half a loaf.\n",
            f"{base}/animals/frog_desc.ogg": b"sound",
            "usr/share/elsewhere/cat.png": png(),
        },
    )
    pool = fetch("stamps", tmp_path / "out", keep_debs=True, progress=False)
    assert pool.uids == ("animals_frog",)
    sample = pool[0]
    assert [(t.language, t.string) for t in sample.texts] == [("en", "A frog."), ("de", "Ein Frosch."), ("pt-BR", "Um sapo.")]
    assert sample.group == "a frog."
    assert sample.licence == "GPL-2.0-only"
    assert sample.source == "debian:tuxpaint-stamps-default 1.0-1"
    assert sample.extras == {"category": "animals", "folder": "animals", "split": "train"}
    assert sample.image is not None
    assert sample.image.read() == png()
    reasons = {bad.uid: bad.reason for bad in pool.quarantine}
    assert reasons.keys() == {"animals_frog_mirror", "food_egg", "food_bad"}
    assert "no caption" in reasons["animals_frog_mirror"]
    assert "vector" in reasons["food_egg"]
    assert fetch("stamps", tmp_path / "out", progress=False).fingerprint == pool.fingerprint  # opened, not fetched again
    with pytest.raises(DataError, match="another folder"):
        fetch("clipart", tmp_path / "out", progress=False)


@needs_dpkg
def test_clipart_joins_pictures_with_the_metadata_of_their_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    debs = tmp_path / "out-debs"
    debs.mkdir()
    huge = png(64)
    make_deb(
        debs,
        "openclipart-png",
        {f"{module.PNGS}/animals/{name}.png": data for name, data in {"frogs": png(), "plain": png(), "alone": png()}.items()}
        | {f"{module.PNGS}/animals/huge.png": huge},
    )
    make_deb(
        debs,
        "openclipart-svg",
        {
            f"{module.SVGS}/animals/frogs.svg": SVG,
            f"{module.SVGS}/animals/huge.svg": SVG,
            f"{module.SVGS}/animals/plain.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>",
        },
    )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr("diptych.data.media.decode.MAX_PIXELS", 100)
    monkeypatch.setitem(__import__("diptych.data.media.decode", fromlist=["probe"]).probe.__kwdefaults__, "max_pixels", 100)
    pool = fetch("clipart", tmp_path / "out", keep_debs=True, progress=False)
    assert pool.uids == ("animals_frogs",)
    assert [(t.origin, t.string) for t in pool[0].texts] == [
        ("label", "Two frogs"),
        ("caption", "Green ones."),
        ("tags", "frog, pond"),
    ]
    assert pool[0].extras["author"] == "Lumen"
    reasons = {bad.uid: bad.reason for bad in pool.quarantine}
    assert reasons.keys() == {"animals_plain", "animals_alone", "animals_huge"}
    assert "pixels" in reasons["animals_huge"]  # too large: left out with a reason, nothing crashes


@needs_dpkg
def test_unsafe_members_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "fake.tar"
    with tarfile.open(raw, "w") as tar:
        for name in ("./data/ok.txt", "./data/../../etc/passwd", "/data/absolute.txt", "./other/no.txt", "./data"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"hi"))
        link = tarfile.TarInfo("./data/link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        link.name, link.linkname = "./data/near.txt", "./ok.txt"
        tar.addfile(link)
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: popen(["cat", str(raw)], **how))
    links: dict[PurePosixPath, PurePosixPath] = {}
    assert list(files(tmp_path / "x.deb", "data", links)) == [(PurePosixPath("ok.txt"), b"hi")]
    assert links == {PurePosixPath("link.txt"): PurePosixPath("/etc/passwd"), PurePosixPath("near.txt"): PurePosixPath("ok.txt")}


def test_links_are_followed_by_name_and_circles_lead_nowhere() -> None:
    link = {"b": "a", "c": "b", "d": "e", "e": "d", "f": "../../etc/passwd"}
    found = {PurePosixPath("a"): 1}
    resolve_links({PurePosixPath(name): PurePosixPath(target) for name, target in link.items()}, found)
    assert {str(path): value for path, value in found.items()} == {"a": 1, "b": 1, "c": 1}


@needs_dpkg
def test_a_damaged_package_is_named(tmp_path: Path) -> None:
    deb = make_deb(tmp_path, "tuxpaint-stamps-default", {f"{module.STAMPS}/a/b.png": png(400)})
    deb.write_bytes(deb.read_bytes()[:-40])
    with pytest.raises(DataError, match="tuxpaint-stamps-default"):
        list(files(deb, module.STAMPS))


def test_the_entity_bomb_is_refused_and_an_outer_doctype_is_not() -> None:
    bomb = '<!DOCTYPE svg [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>' + SVG.split("?>")[1]
    with pytest.raises(DataError, match="entity 'a'"):
        read_card(bomb.encode())
    with pytest.raises(DataError, match="entity 'a'"):
        read_card(bomb.encode("utf-16"))
    plain = '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.0//EN" "svg10.dtd">' + SVG.split("?>")[1]
    assert read_card(plain.encode()).title == "Two frogs"
    with pytest.raises(DataError, match="well-formed"):
        read_card(b"<svg>")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("A frog.\nde.utf8=Ein Frosch.", [("en", "A frog."), ("de", "Ein Frosch.")]),
        ("A frog.\nzh_TW.utf8=x=y\nsr@latin.utf8=zaba\nnonsense", [("en", "A frog."), ("zh-TW", "x=y"), ("sr-Latn", "zaba")]),
        ("\nde.utf8=Ein Frosch.", []),
        ("", []),
    ],
)
def test_stamp_texts(content: str, expected: list[tuple[str, str]]) -> None:
    assert [(t.language, t.string) for t in stamp_texts(content)] == expected


def test_errors_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="stamps"):
        fetch("stamp", tmp_path / "x")
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(RunError, match="Debian or Ubuntu"):
        fetch("stamps", tmp_path / "x", progress=False)
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    answers = {
        "E: Unable to locate package tuxpaint-stamps-default": "apt-get update",
        "W: something\nE: Failed to fetch http://a/b.deb  Could not resolve 'a'": "check the network",
    }
    for stderr, advice in answers.items():
        done = subprocess.CompletedProcess([], 100, "", stderr)
        monkeypatch.setattr(subprocess, "run", lambda *a, done=done, **k: done)
        with pytest.raises(DiptychError, match=advice) as caught:
            fetch("stamps", tmp_path / "x", progress=False)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


KGM = """<?xml version="1.0"?><!DOCTYPE kgeographyMap><map><mapFile>atlantis.png</mapFile><name>Atlantis</name>
<divisionsName>Provinces</divisionsName><author>Nobody</author>
<division><name>Sea</name><ignore>yes</ignore><color><red>0</red><green>0</green><blue>255</blue></color></division>
<division><name>North</name><capital>Polis</capital><flag>north.png</flag>
<color><red>255</red><green>0</green><blue>0</blue></color></division>
<division><name>Lost</name><color><red>1</red><green>2</green><blue>3</blue></color></division></map>"""


def atlas() -> bytes:
    image, buffer = Image.new("RGB", (12, 8), (0, 0, 255)), io.BytesIO()
    image.paste((255, 0, 0), (3, 2, 9, 5))
    image.save(buffer, "PNG")
    return buffer.getvalue()


@needs_dpkg
def test_maps_have_a_region_for_every_named_colour_that_they_show(tmp_path: Path) -> None:
    debs = tmp_path / "out-debs"
    debs.mkdir()
    tree: dict[str, bytes | str] = {
        "usr/share/kgeography/atlantis.kgm": KGM,
        "usr/share/kgeography/atlantis.png": atlas(),
        "usr/share/kgeography/flags/north.png": png(),
        "usr/share/kgeography/gone.kgm": KGM.replace("atlantis.png", "gone.png"),
        "usr/share/kgeography/bad.kgm": KGM.replace("<red>255", "<red>300"),
        "usr/share/kgeography/evil.kgm": KGM.replace("kgeographyMap>", 'kgeographyMap [<!ENTITY x "y">]>', 1),
    }
    make_deb(debs, "kgeography-data", tree)
    pool = fetch("geography", tmp_path / "out", keep_debs=True, progress=False)
    by_category = {sample.extras["category"]: sample for sample in pool}
    (region,) = by_category["map"].regions
    assert (region.label, region.attributes, region.box) == ("North", ("capital Polis",), (3.0, 2.0, 9.0, 5.0))
    assert decode(region.mask).sum() == 18
    assert by_category["map"].texts[0].string == "A map of Atlantis with its provinces."
    assert by_category["flag"].texts[0].string == "The flag of North."
    assert {sample.extras["split"] for sample in pool} <= {"train", "unseen_place"}
    reasons = {bad.uid: bad.reason for bad in pool.quarantine}
    assert reasons.keys() == {"gone", "bad", "evil"}
    assert "gone.png is not in the package" in reasons["gone"]
    assert "entity" in reasons["evil"]


def test_what_is_held_out_depends_on_names_and_takes_equal_pictures_along() -> None:
    units = [f"author {row % 40}" for row in range(400)] + [""] * 50
    images = [BytesImage(f"{row}".encode()) for row in range(400)] + [BytesImage(f"{row}".encode()) for row in range(50)]
    samples = [Sample(f"s{row}", image) for row, image in enumerate(images)]
    made = split_by(samples, units, "unseen_author")
    apart = {unit for unit, sample in zip(units, made, strict=True) if sample.extras["split"] == "unseen_author" and unit}
    seen = {unit for unit, sample in zip(units, made, strict=True) if sample.extras["split"] == "train" and unit}
    assert apart
    assert not apart & seen
    for row in range(50):
        assert made[400 + row].extras["split"] == made[row].extras["split"], "the same bytes lie on one side"
    again = split_by(samples[::-1], units[::-1], "unseen_author")
    assert [sample.extras["split"] for sample in again[::-1]] == [sample.extras["split"] for sample in made]
