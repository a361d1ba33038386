"""FuseCap: every finding above the threshold is said, nothing else is, and where it stands is known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from diptych.cli import main
from diptych.core.errors import ConfigError, DataError, MissingExtra
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, SceneGraph
from diptych.curate.engine.pool import curate, plan
from diptych.curate.experts import experts
from diptych.curate.experts.experts import OCR, AttributeExpert
from diptych.curate.experts.findings import Finding, RecognizedText, top_findings, with_texts
from diptych.curate.operators import fusecap
from diptych.curate.operators.fusecap import FuseCap
from diptych.curate.text.ngram import words_of
from diptych.curate.text.plurals import mention, plural
from diptych.curate.writing.fusing import PLAIN_WORDS, finding_span, fuse_by_rules, fusion_prompt, missing_or_new
from diptych.data.columns import read_table
from diptych.data.curated import open_curated
from diptych.data.dataset import Pool
from diptych.data.read import read
from diptych.data.shards.build import build
from diptych.data.text.captions.variants import VARIANTS

from ..conftest import Server, said

LABELS, COLOURS = ["dog", "bus", "fire truck", "leaf", "glasses", "sign"], ["red", "small", "wooden"]
found_things = st.lists(
    st.builds(
        Finding,
        label=st.sampled_from(LABELS),
        attributes=st.lists(st.sampled_from(COLOURS), unique=True, max_size=2).map(tuple),
        text=st.sampled_from(["", "", "STOP", "50 % off"]),
        score=st.floats(0, 1),
    ),
    max_size=6,
)
captions = st.sampled_from(
    ["a dog on a road.", "two dogs and a leaf", "", "A red bus", "carpet with a design", "an old fire truck!"]
)


def test_of_a_hundred_random_captions_none_loses_or_gains_a_word(parity: Any) -> None:
    """Words of the fused text against a plain union of sets."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(100):
        picks = [
            Finding(LABELS[k], (COLOURS[c],), score=float(s))
            for k, c, s in zip(*rng.integers(0, 3, (2, 4)), rng.random(4), strict=True)
        ]
        chosen = top_findings(picks, least=0.3, most=10)
        wanted = {"a", "cat", "here"} | {word for f in chosen for word in words_of(f.phrase)}
        said_words = set(words_of(fuse_by_rules("a cat here", chosen))) - {",", "and", "with", "an", "a"} | {"a"}
        pairs.append((float(len(said_words ^ wanted)), 0.0))
    parity(
        "fusecap", "words lost or added by fusing, of 100 random lists", "the union of caption and findings", pairs, tolerance=0.0
    )


@given(captions, found_things, st.floats(0, 1))
def test_a_fused_text_says_every_finding_above_the_threshold_and_nothing_else(
    caption: str, things: list[Finding], least: float
) -> None:
    chosen = top_findings(things, least=least, most=10)
    text = fuse_by_rules(caption, chosen)
    words = words_of(text)
    assert [f.score for f in chosen] == sorted((f.score for f in chosen), reverse=True)
    assert all(f.score >= least for f in chosen)
    for finding in chosen:
        assert mention(words, finding.label) >= 0
        assert all(name in words for name in finding.attributes)
        assert finding.text.lower() in text.lower()
        start, stop = finding_span(text, finding)
        assert 0 <= start < stop <= len(text)
    allowed = {*words_of(caption), *PLAIN_WORDS, *(w for f in chosen for w in words_of(f.phrase))}
    assert set(words) - {"“", "”"} <= allowed | {","}
    assert missing_or_new(caption, chosen, text) == ""
    below = [
        f
        for f in things
        if f.score < least and not any(f.label == c.label for c in chosen) and mention(words_of(caption), f.label) < 0
    ]
    assert all(mention(words, f.label) < 0 for f in below)


def test_attributes_go_before_what_the_caption_names() -> None:
    things = [Finding("dog", ("brown",)), Finding("dog", ("black",)), Finding("sign", ("red",), "STOP"), Finding("road")]
    assert (
        fuse_by_rules("two dogs on a road", things)
        == "two brown dogs on a road, with a black dog and a red sign with the text “STOP”"
    )
    assert fuse_by_rules("", [Finding("apple"), Finding("", text="SALE")]) == "an apple and text “SALE”"
    assert fuse_by_rules("a carpet", [Finding("car")]) == "a carpet, with a car", "words, not letters"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a dog and a red bus", ""),
        ("two dogs beside red buses", "new: the word two"),
        ("a dog and a bus", "missing: red"),
        ("a red bus", ""),
        ("a dog", "missing: bus"),
        ("a happy dog and a red bus", "new: the word happy"),
    ],
)
def test_what_a_model_leaves_out_or_adds_is_found(text: str, fault: str) -> None:
    assert missing_or_new("a dog", [Finding("bus", ("red",))], text) == fault


def test_plurals() -> None:
    table = {"knife": "knives", "box": "boxes", "church": "churches", "baby": "babies", "human": "humans", "postman": "postmen"}
    assert {noun: plural(noun) for noun in table} == table
    assert mention(words_of("Three women"), "woman") == 1
    assert mention(words_of("a fire and a truck"), "fire truck") == -1


def test_read_text_belongs_to_the_smallest_box_around_its_middle() -> None:
    things = [Finding("wall", box=(0, 0, 100, 100)), Finding("sign", box=(10, 10, 40, 40)), Finding("cup", box=(60, 60, 80, 80))]
    texts = [
        RecognizedText("WORK", 0.9, (12, 30, 38, 38)),
        RecognizedText("ROAD", 0.8, (12, 12, 38, 20)),
        RecognizedText("out", 0.7, (200, 200, 210, 210)),
    ]
    found = with_texts(things, texts, by="ocr")
    assert [f.text for f in found] == ["", "ROAD WORK", "", "out"]
    assert (found[3].label, found[3].by, found[3].score) == ("", "ocr", 0.7)


def data(count: int = 6) -> Pool:
    samples = []
    for n in range(count):
        regions = (
            Region((2, 2, 20, 20), "dog", ("brown",), score=0.9),
            Region((30, 30, 60, 60), "bus", ("red",), score=0.4 + 0.1 * (n % 3)),
        )
        image = ArrayImage(np.full((64, 64, 3), n, np.uint8), f"i{n}")
        samples.append(Sample(f"s{n}", image, (Text("a dog outside", "en", "alt"),), regions=regions, licence="CC0"))
    return Pool.from_samples(samples, name="dogs")


def test_as_a_step_with_findings_spans_and_provenance(tmp_path: Path) -> None:
    done = curate(data(), [FuseCap(least=0.5)], tmp_path)
    texts = {row["uid"]: row[VARIANTS][0] for row in read_table(tmp_path, VARIANTS).table.to_pylist()}
    assert texts["s0"]["string"] == "a brown dog outside"
    assert texts["s1"]["string"] == "a brown dog outside, with a red bus"
    assert (texts["s1"]["licence"], texts["s1"]["style"], texts["s1"]["model"]) == ("CC0", "fused", "rules of fusion")
    found = {row["uid"]: row["findings"] for row in read_table(tmp_path, "findings").table.to_pylist()}
    for uid, rows in found.items():
        for row in rows:
            piece = texts[uid]["string"][row["start"] : row["stop"]] if row["start"] >= 0 else ""
            assert (piece == " ".join((*row["attributes"], row["label"]))) == (row["score"] >= 0.5)
    facts = json.loads((tmp_path / "fusecap.json").read_text())
    assert (facts["asked"], facts["used"], facts["findings"], facts["cut"]) == (6, 6, 12, 0)
    assert "0 of 6 fused captions are longer than 77 tokens" in "\n".join(done.lines())
    assert plan(data(), [FuseCap()])[0]["items"] == 6


def test_instead_of_the_caption(tmp_path: Path) -> None:
    source, out = tmp_path / "built", tmp_path / "out"
    build(data(2), source)
    assert main(["curate", "fusecap", str(source), str(out), "--instead"]) == 0
    assert {text.string for sample in open_curated(out, read) for text in sample.texts} == {
        "a brown dog outside",
        "a brown dog outside, with a red bus",
    }


def test_the_order_of_rows_and_their_company_do_not_matter(tmp_path: Path) -> None:
    pool = data()
    whole, turned, few = FuseCap()(pool), FuseCap()(pool.select([5, 3, 1, 0, 2, 4])), FuseCap()(pool.select([1]))
    assert whole.columns[VARIANTS].equals(turned.columns[VARIANTS])
    assert few.columns[VARIANTS].to_pylist() == whole.columns[VARIANTS].slice(1, 1).to_pylist()


def test_a_model_is_asked_and_what_it_invents_is_not_used(tmp_path: Path, server: Server) -> None:
    server.behave = lambda number, body: said("a brown dog and a red bus outside" if number % 2 else "a cat")
    curate(data(), [FuseCap(writer=f"chat+{server.address}#small", calls=1)], tmp_path)
    assert json.loads((tmp_path / "fusecap.json").read_text())["not_used"] == {"malformed": 6}, "a chat has messages"
    server.behave = lambda number, body: said("a brown dog and a red bus outside" if number % 2 else "a cat", chat=True)
    curate(data(), [FuseCap(writer=f"chat+{server.address}#other", calls=1, least=0.4)], tmp_path / "b")
    assert json.loads((tmp_path / "b/fusecap.json").read_text())["not_used"] == {"missing": 3}
    content = server.asked[-1]["messages"][0]["content"]
    assert content == fusion_prompt("a dog outside", [Finding("dog", ("brown",)), Finding("bus", ("red",))])


class Detects:
    """Knows two names, and answers with the same boxes for each image."""

    def detect(self, images: Any, *, objects: Any, relations: Any = (), **options: Any) -> list[SceneGraph]:
        regions = tuple(Region((0, 0, 32, 64), name, score=0.8) for name in objects if name in ("dog", "bus"))
        return [SceneGraph(regions, ()) for _ in images]


class Colours:
    """Embeds a picture by its mean colour, and "a red dog" as red."""

    fingerprint = "colours"

    def embed_images(self, images: Any, **_: Any) -> Any:
        mean_NC = np.stack([image.pixels_HWC.reshape(-1, 3).mean(0) for image in images]) + 1e-3
        return (mean_NC / np.linalg.norm(mean_NC, axis=1, keepdims=True)).astype(np.float32)

    def embed_texts(self, texts: Any, **_: Any) -> Any:
        return np.stack([[float(name in text) for name in ("red", "green", "blue")] for text in texts]).astype(np.float32)


def test_a_detector_and_attributes_by_an_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"detects": Detects(), "colours": Colours()}
    monkeypatch.setattr(experts, "open_address", models.__getitem__)
    monkeypatch.setattr(experts, "require", lambda *args, **kwargs: None)
    fusecap._EXPERTS.clear()
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :40] = (10, 200, 30)
    pool = Pool.from_samples([Sample("g", ArrayImage(pixels), (Text("a dog", "en", "alt"),))], name="green")
    step = FuseCap(detector="detects", objects=("dog", "cat"), embedder="colours", attributes=("red", "green", "blue"))
    found = step(pool)
    assert found.columns[VARIANTS].to_pylist()[0][VARIANTS][0]["string"] == "a green dog"
    unmatched = FuseCap(detector="detects", objects=("zebra",))
    with pytest.raises(DataError, match=r"no expert found anything in 'green'.*names of the detector's vocabulary"):
        unmatched(pool)
    fusecap._EXPERTS.clear()


def test_an_image_that_cannot_be_read_costs_its_row() -> None:
    broken = Sample("b", BytesImage(b"no picture", "b.png"), (Text("a dog", "en", "alt"),))
    fine = data(1)[0]
    step = FuseCap(embedder="x", attributes=("red", "blue"))
    fusecap._EXPERTS[step, "attributes"] = lambda image, things: [experts.decode(image), things][1]
    found = step(Pool.from_samples([fine, broken], name="x"))
    assert found.kept == ("s0",)
    assert found.dropped[0].reason.startswith("unreadable: ")
    fusecap._EXPERTS.clear()


def test_ocr_reads_what_is_written() -> None:
    pytest.importorskip("rapidocr")
    picture = Image.new("RGB", (320, 120), "white")
    ImageDraw.Draw(picture).text((20, 30), "SALE 50", fill="black", font_size=56)
    found = OCR()(ArrayImage(np.asarray(picture)))
    assert re.sub(r"\s", "", " ".join(text.string for text in found)).upper() == "SALE50"
    x0, y0, x1, y1 = found[0].box
    assert 0 <= x0 < 60 < 200 < x1 <= 320
    assert 0 <= y0 < 60 < y1 <= 120
    assert OCR()(ArrayImage(np.full((60, 60, 3), 200, np.uint8))) == []


def test_attribute_probabilities_are_a_softmax_of_cosines(monkeypatch: pytest.MonkeyPatch, parity: Any) -> None:
    import torch

    rng = np.random.default_rng(0)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (rng.normal(size=(1, 8)), rng.normal(size=(4, 8)))]

    class Fixed:
        def embed_images(self, images: Any) -> Any:
            return unit[0]

        def embed_texts(self, texts: Any) -> Any:
            assert texts == [f"a {name} dog" for name in "abcd"]
            return unit[1]

    monkeypatch.setattr(experts, "open_address", lambda address: Fixed())
    monkeypatch.setattr(experts, "require", lambda *args, **kwargs: None)
    chance = torch.softmax(torch.from_numpy(10 * unit[1] @ unit[0][0]), 0)
    ours = experts.name_probabilities(unit[1] @ unit[0][0], 10.0)
    parity("fusecap", "probabilities of attributes", "torch's softmax", [(torch.from_numpy(ours), chance)], tolerance=1e-12)
    image, thing = ArrayImage(np.zeros((8, 8, 3), np.uint8)), Finding("dog", box=(0, 0, 4, 4))
    for least in (0.0, float(chance.sort().values[-2]) - 1e-9, float(chance.max()) + 1e-9):
        found = AttributeExpert("m", tuple("abcd"), least=least, most=2, sharpness=10.0)(image, [thing])[0].attributes
        expected = [("abcd"[k]) for k in chance.argsort(descending=True)[:2].tolist() if chance[k] >= least]
        assert list(found) == expected


def test_refused() -> None:
    with pytest.raises(ConfigError, match="attributes need an embedder"):
        FuseCap(attributes=("red",))
    with pytest.raises(ConfigError, match="--objects needs a detector"):
        FuseCap(objects=("dog",))
    with pytest.raises(ConfigError, match="has no names to look for"):
        experts.ObjectExpert("x", ())
    with pytest.raises(ConfigError, match="leave no choice"):
        AttributeExpert("x", ("red",))
    with pytest.raises(ConfigError, match="least 2"):
        FuseCap(least=2)


def test_without_the_package_ocr_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(MissingExtra, match=r"diptych\[ocr\]"):
        _ = OCR().engine
