"""RealSyn: documents read, sentences found through clusters, clusters capped, texts traced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.curate.duplicates.cluster_tree import ClusterTree
from diptych.curate.duplicates.clusters import kmeans_centres, nearest_centres
from diptych.curate.duplicates.retrieval import cap_clusters, cap_for, hierarchical
from diptych.curate.engine.pool import curate
from diptych.curate.operators import realsyn
from diptych.curate.operators.realsyn import RealSyn
from diptych.curate.text.ngram import NGram
from diptych.curate.text.sentence_filters import SentenceRules, strip_addresses
from diptych.data.columns import read_table
from diptych.data.dataset import Pool
from diptych.data.text.captions.variants import SIMILARITY, VARIANTS


def unit(*shape: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def test_with_every_cluster_the_search_is_exact_and_with_few_nearly(parity: Any) -> None:
    query_ND, row_MD = unit(40, 8), unit(400, 8, seed=1)
    centre_KD = kmeans_centres(row_MD, 20, seed=0)
    label_M = nearest_centres(row_MD, centre_KD, 1)[:, 0]
    cosine_NM = query_ND @ row_MD.T
    exact_N3 = np.argsort(-cosine_NM, axis=1, kind="stable")[:, :3]
    place_N3, found_N3 = hierarchical(query_ND, row_MD, label_M, centre_KD, probes=20, top=3)
    pairs = [(place_N3, exact_N3), (found_N3, np.take_along_axis(cosine_NM, exact_N3, 1))]
    parity(
        "realsyn",
        "sentences found with as many probes as clusters, and cosines",
        "sorting all dot products",
        pairs,
        tolerance=1e-6,
    )
    few_N3, _ = hierarchical(query_ND, row_MD, label_M, centre_KD, probes=5, top=3)
    recall = np.mean([len(set(a) & set(b)) / 3 for a, b in zip(few_N3, exact_N3, strict=True)])
    assert 0.7 < recall < 1.0
    short, cosine = hierarchical(query_ND[:1], row_MD[:2], np.array([0, 1]), centre_KD[:2], probes=1, top=3)
    assert (short[0, 1:] == -1).all()
    assert np.isneginf(cosine[0, 1:]).all()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 10), st.integers(0, 3))
def test_a_cap_keeps_the_sum_of_minima(labels: list[int], cap: int, seed: int) -> None:
    label_N, names = np.array(labels), [f"n{n}" for n in range(len(labels))]
    stays_N = cap_clusters(label_N, cap, seed=seed, names=names)
    count_K = np.bincount(label_N)
    assert (np.bincount(label_N, weights=stays_N) == np.minimum(count_K, cap)).all()
    turned = cap_clusters(label_N[::-1], cap, seed=seed, names=names[::-1])
    assert (turned[::-1] == stays_N).all(), "the order of rows does not matter"
    target = max(1, len(labels) // 2)
    best = cap_for(label_N, target)
    assert np.minimum(count_K, best).sum() <= max(target, (count_K > 0).sum())
    assert best == count_K.max() or np.minimum(count_K, best + 1).sum() > target


def test_the_kept_count_is_the_published_sum(parity: Any) -> None:
    label_N = np.random.default_rng(0).zipf(1.5, 2000).clip(0, 50)
    kept = [
        (float(cap_clusters(label_N, cap, seed=0, names=[str(n) for n in range(2000)]).sum()), cap) for cap in (1, 20, 35, 180)
    ]
    pairs = [(found, float(np.minimum(np.bincount(label_N), cap).sum())) for found, cap in kept]
    parity("realsyn", "pairs that caps of 1, 20, 35 and 180 keep", "the sum over clusters of min(n, m)", pairs, tolerance=0.0)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("A dog runs.", ""),
        ("Too short", "length: 2 words (expected 3 to 81)"),
        ("w " * 82, "length: 82 words (expected 3 to 81)"),
        ("go go go go", "entropy: 0.00 (expected at least 0.3)"),
    ],
)
def test_rules_of_sentences(text: str, fault: str) -> None:
    assert SentenceRules().fault(text) == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("A black cat chases a bird.", ""),
        ("Home page of all.", "complexity: 0 (expected at least 1)"),
        ("The red bridge was there.", "action: no verb tells one"),
        ("The museum has three large floors.", "action: no verb tells one"),
    ],
)
def test_rules_that_read_what_a_sentence_says(text: str, fault: str) -> None:
    assert SentenceRules(complexity=1, action=True).fault(text) == fault
    assert SentenceRules().fault(text) == ""


def test_addresses_and_emoji_go() -> None:
    assert strip_addresses("Visit www.x.example/a?b=c 🐶 or mail me@x.example now ☀️!") == "Visit or mail now !"


def documents(root: Path) -> Path:
    """Two documents with three pictures, each described somewhere, and what documents must not do."""
    (root / "docs/pics").mkdir(parents=True)
    for name, colour in (("red", (250, 0, 0)), ("green", (0, 250, 0)), ("blue", (0, 0, 250))):
        Image.new("RGB", (120, 100), colour).save(root / f"docs/pics/{name}.png")
    Image.new("RGB", (400, 101), (250, 0, 0)).save(root / "docs/pics/wide.png")
    Image.new("RGB", (20, 20), (250, 0, 0)).save(root / "docs/pics/small.png")
    (root / "outside.png").write_bytes((root / "docs/pics/red.png").read_bytes())
    (root / "docs/a.html").write_text(
        "<html><head><title>No text</title></head><body><nav>Home page of ours</nav><p>The sea here is blue and wide. It is "
        "<b>cold</b> today.</p><img src='pics/red.png' alt='something'><script>var x = 'a red lie';</script><p>Meadows are green in "
        "spring.<p>Unclosed paragraphs are read, too<img src='../outside.png'><img src='https://x.example/a.png'>"
        "<img src='/etc/passwd'><img src='pics/%2e%2e/%2e%2e/outside.png'><img src='pics/none.png'><img src='data:image/png;base64,AAAA'>"
    )
    (root / "docs/b.md").write_text(
        "# A title that is text\n\nA **red** car stands there.\n\n![](pics/green.png)\n\n```\na code block of words\n```\n\n"
        'See [our page of things](https://x.example) now. ![blue](<pics/blue.png> "t") ![w](pics/wide.png) ![s](pics/small.png)\n'
    )
    (root / "docs/c.html").write_text("<p>A document without any picture at all.</p>")
    (root / "docs/d.html").write_bytes(b"<p>\xff\xfe</p>")
    return root / "docs"


def test_documents_are_read_in_order_and_climb_nowhere(tmp_path: Path) -> None:
    from diptych.data.read import read

    pool = read(documents(tmp_path))
    rows = [(s.extras["document"], s.extras["place"], s.texts[0].string if s.texts else "", s.image is not None) for s in pool]
    assert rows[:5] == [
        ("a.html", 0, "The sea here is blue and wide.", False),
        ("a.html", 1, "It is cold today.", False),
        ("a.html", 2, "something", True),
        ("a.html", 3, "Meadows are green in spring.", False),
        ("a.html", 4, "Unclosed paragraphs are read, too", False),
    ]
    assert [row[2:] for row in rows if row[0] == "b.md"] == [
        ("A title that is text", False),
        ("A red car stands there.", False),
        ("", True),
        ("See our page of things now.", False),
        ("blue", True),
        ("w", True),
        ("s", True),
    ]
    reasons = sorted(bad.reason.split(":")[0] for bad in pool.quarantine)
    assert reasons == [
        str(tmp_path / "docs/d.html"),
        "a picture by an absolute path",
        "a picture elsewhere, which is not fetched",
        "a picture elsewhere, which is not fetched",
        "a picture that climbs out of the folder",
        "a picture that climbs out of the folder",
        "a picture that does not exist",
        "has no picture; its sentences are read",
    ]


def test_folders_of_pictures_with_a_readme_stay_such(tmp_path: Path) -> None:
    from diptych.data.read import read

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "README.md").write_text("These are pictures of ours.")
    assert len(read(tmp_path)) == 1
    (tmp_path / "README.md").write_text("![a](a.png) These are pictures of ours.")
    assert len(read(tmp_path)) == 2


class Colours:
    """Embeds a picture by its mean colour and a text by the colours that it names."""

    fingerprint = "colours"

    def embed_images(self, images: Any, **_: Any) -> Any:
        from diptych.data.media.decode import decode

        return self._unit(np.stack([decode(image).reshape(-1, 3).mean(0) / 255 for image in images]))

    def embed_texts(self, texts: Any, **_: Any) -> Any:
        return self._unit(np.array([[float(name in text.lower()) for name in ("red", "green", "blue")] for text in texts]))

    def _unit(self, x: Any) -> Any:
        x = x + 0.01
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realsyn, "open_embedder", lambda address: Colours())


def test_from_documents_to_pairs_on_the_command_line(tmp_path: Path, colours: None, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = documents(tmp_path), tmp_path / "out"
    assert main(["curate", "realsyn", str(source), str(out), "--model", "colours", "--top", "2", "--probes", "9"]) == 0
    found = {row["uid"]: row[VARIANTS] for row in read_table(out, VARIANTS).table.to_pylist()}
    from diptych.data.curated import open_curated
    from diptych.data.read import read

    pool = open_curated(out, read)
    assert len(pool) == 3
    best = {sample.texts[-3].string for sample in pool}
    assert best == {"A red car stands there.", "Meadows are green in spring.", "The sea here is blue and wide."}
    before = {sample.uid: sample for sample in read(source)}
    for sample in pool:
        texts = found[sample.uid]
        assert [text["origin"] for text in texts] == ["caption", "caption", "synthetic"]
        assert all(before[text["source"]].texts[0].string for text in texts[:2])
        assert len(sample.extras[SIMILARITY]) == len(sample.texts)
        alt = next((text.string for text in before[sample.uid].texts), "")
        assert texts[2]["string"] == ". ".join(part for part in (alt, texts[0]["string"].rstrip(".")) if part) + (
            "." if False else ""
        )
    removed = {row["reason"].split(":")[0] for row in read_table(out, "removed").table.to_pylist()}
    assert removed == {"sentence", "aspect", "short_side"}
    facts = json.loads((out / "realsyn.json").read_text())
    assert facts["pictures"] == 3
    assert facts["writing"]["used"] == 3


def pool(count: int = 30) -> Pool:
    rng = np.random.default_rng(0)
    samples = []
    for n in range(count):
        pixels = np.broadcast_to(rng.integers(0, 255, 3).astype(np.uint8), (100, 100, 3))
        samples.append(Sample(f"p{n:02d}", ArrayImage(np.ascontiguousarray(pixels)), regions=(Region((0, 0, 9, 9), "patch"),)))
    names = ["red", "green", "blue", "red and green", "green and blue"]
    samples += [Sample(f"t{n}", None, (Text(f"Here is {name} paint", "en"),), licence="CC0") for n, name in enumerate(names)]
    samples.append(Sample("t9", None, (Text("here is RED paint", "en"),)))
    return Pool.from_samples(samples, name="paint")


def test_balance_tags_and_independence_of_order(tmp_path: Path, colours: None) -> None:
    data = pool()
    step = RealSyn(model="colours", balance_clusters=3, target=9)
    done = step(data)
    assert len(done.kept) <= 9
    assert sum(drop.reason.startswith("balance: ") for drop in done.dropped) == 30 - len(done.kept)
    assert {drop.reason for drop in done.dropped if drop.uid == "t9"} == {"same sentence: as t0"}
    texts = done.columns[VARIANTS].to_pylist()[0][VARIANTS]
    assert texts[0]["licence"] == "CC0"
    assert texts[-1]["string"].endswith(", with a patch"), "tags are merged in"
    turned = step(data.select(list(range(len(data) - 1, -1, -1))))
    assert turned.columns[VARIANTS].equals(done.columns[VARIANTS])
    assert turned.kept == done.kept
    curate(data, [RealSyn(model="colours", synthetic=False)], tmp_path)
    assert all(len(row[VARIANTS]) == 3 for row in read_table(tmp_path, VARIANTS).table.to_pylist())


def test_perplexity_keeps_what_reads_like_the_rest(colours: None) -> None:
    data = pool(2)
    odd = Sample("z", None, (Text("zyx wvu tsr qpo", "en"),))
    both = Pool.from_samples([*data, odd], name="odd")
    texts = [sample.texts[0].string for sample in both if sample.image is None]
    model = NGram.learned(texts, 3)
    usual, odd_one = max(model.perplexity(text) for text in texts[:-1]), model.perplexity(texts[-1])
    assert usual < odd_one
    found = RealSyn(model="colours", perplexity=(0.0, (usual + odd_one) / 2))(both)
    reason = {drop.uid: drop.reason for drop in found.dropped}
    assert reason["z"].startswith("perplexity: ")
    assert reason["t0"].startswith("sentence: ")


def test_sentences_that_say_the_same_count_once(colours: None) -> None:
    data = Pool.from_samples([*pool(2), Sample("t7", None, (Text("What a red thing this is", "en"),))], name="said twice")
    plain, once = (RealSyn(model="colours", synthetic=False, top=9, probes=9, alike=alike)(data) for alike in (0.0, 0.999))
    reason = {drop.uid: drop.reason for drop in once.dropped}
    assert reason["t7"] == "alike: cosine 1.000 with t0"
    assert {uid for uid, text in reason.items() if text.startswith("alike: ")} == {"t7"}
    counts = [json.loads(made.files["realsyn.json"])["sentences"] for made in (plain, once)]
    assert counts == [6, 5]
    assert all("t7" not in [text["source"] for text in row[VARIANTS]] for row in once.columns[VARIANTS].to_pylist())
    bounded = RealSyn(model="colours", synthetic=False, top=9, probes=9, alike=0.999, max_cluster_size=2)(data)
    assert (bounded.kept, bounded.dropped) == (once.kept, once.dropped)
    assert bounded.columns[VARIANTS].equals(once.columns[VARIANTS])
    with pytest.raises(ConfigError, match="sentence_clusters is 3 and max_cluster_size 2"):
        RealSyn(sentence_clusters=3, max_cluster_size=2)
    paper = RealSyn.paper()
    assert (paper.probes, paper.alike, paper.top) == (1, 0.95, 3), "the sentences of one cluster, by the figure"
    with pytest.raises(ConfigError, match="alike is 2"):
        RealSyn(alike=2)


def test_many_sentences_and_pictures_are_clustered_by_a_tree(colours: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above `tree_above`, where neither number nor size of clusters is given; the search of all clusters finds the same."""
    sizes: list[tuple[int, int]] = []
    fitted = ClusterTree.fitted.__func__  # type: ignore[attr-defined]

    def noted(cls: type[ClusterTree], vector_ND: Any, max_size: int, *, seed: int = 0) -> ClusterTree:
        sizes.append((len(vector_ND), max_size))
        return fitted(cls, vector_ND, max_size, seed=seed)  # type: ignore[no-any-return]

    monkeypatch.setattr(ClusterTree, "fitted", classmethod(noted))
    data = pool(6)
    options: dict[str, Any] = {"model": "colours", "synthetic": False, "top": 9, "probes": 9, "alike": 0.999, "cap": 2}
    below = RealSyn(**options, tree_above=6)(data)  # no more than six pictures and sentences
    assert not sizes
    above = RealSyn(**options, tree_above=1)(data)
    assert [size for _, size in sizes] == [500, 500, 40]
    assert above.columns[VARIANTS].num_rows
    assert {row["uid"]: row[VARIANTS] for row in below.columns[VARIANTS].to_pylist()}.items() >= {
        row["uid"]: row[VARIANTS] for row in above.columns[VARIANTS].to_pylist()
    }.items()
    sizes.clear()
    RealSyn(**options, tree_above=1, sentence_clusters=2, balance_clusters=2)(data)
    assert [size for _, size in sizes] == [500], "only --alike, which has no number of clusters"
    RealSyn(**options, tree_above=0)(data)
    assert len(sizes) == 1
    with pytest.raises(ConfigError, match="tree_above"):
        RealSyn(tree_above=-1)


def test_refused(colours: None) -> None:
    with pytest.raises(ConfigError, match="needs a model"):
        RealSyn()(pool(2))
    with pytest.raises(ConfigError, match="top 0"):
        RealSyn(top=0)
    with pytest.raises(ConfigError, match=r"words 5\.\.3"):
        RealSyn(min_words=5, max_words=3)
    only = Pool.from_samples([pool(2)[0]], name="only pictures")
    with pytest.raises(DataError, match="has 1 pictures and 0 sentences"):
        RealSyn(model="colours")(only)
