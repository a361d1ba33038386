"""Ontologies: reachability against networkx, OBO against obonet, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.data.ontologies.captions import NORMAL, HypernymCaptions
from diptych.data.ontologies.files import open_ontology, save_ontology
from diptych.data.ontologies.ontology import Concept, Ontology
from diptych.data.text.prompts.prompt_bank import PATHOLOGY, TemplateBank

OBO = r"""format-version: 1.2
ontology: made

[Typedef]
id: part_of
name: part of

[Term]
id: T:1
name: disease
def: "A \"condition\", of sorts." [made:up]

[Term]
id: T:2
name: cancer
synonym: "malignant\, tumour" EXACT [made:up]
synonym: "neoplasm" BROAD []
synonym: "cancer" EXACT []
is_a: T:1 ! disease

[Term]
id: T:3
name: organ disease {source="x"}
is_a: T:1

[Term]
id: T:4
name: breast cancer ! a comment
is_a: T:2 {source="x"} ! cancer
is_a: T:3
relationship: part_of T:2

[Term]
id: T:5
name: obsolete thing
is_obsolete: true
is_a: T:99
"""


def random_concepts(count: int, seed: int) -> list[Concept]:
    """A random directed acyclic graph, its concepts in an order that is not from the top down."""
    rng = np.random.default_rng(seed)
    place = rng.permutation(count)
    concepts = []
    for n in range(count):
        above = [m for m in range(n) if rng.random() < 2.5 / count]
        concepts.append(Concept(f"C{place[n]}", f"name {place[n]}", parents=tuple(f"C{place[m]}" for m in above)))
    return [concepts[k] for k in rng.permutation(count)]


@pytest.mark.parametrize("seed", range(4))
def test_reachability_equals_that_of_networkx(seed: int, parity: Any) -> None:
    concepts = random_concepts(60, seed)
    store = Ontology(concepts)
    graph = networkx.DiGraph([(parent, c.id) for c in concepts for parent in c.parents])
    graph.add_nodes_from(store)
    ours = [[store.related(a, b) for b in store] for a in store]
    theirs = [[networkx.has_path(graph, a, b) or networkx.has_path(graph, b, a) for b in store] for a in store]
    assert 0.02 < np.mean(theirs) < 0.9
    parity("keep", "which concept lies above which", "networkx.has_path", [(ours, theirs)], tolerance=0.0)
    for key in store:
        assert store.ancestors(key) == networkx.ancestors(graph, key)
        assert store.descendants(key) == networkx.descendants(graph, key)


def test_obo_is_read_as_obonet_reads_it(tmp_path: Path) -> None:
    obonet = pytest.importorskip("obonet", reason="needs the extra 'peers'")
    file = tmp_path / "made.obo"
    file.write_text(OBO)
    store, graph = open_ontology(file), obonet.read_obo(file)
    assert set(store) == set(graph)
    assert {(c.id, p) for c in store.values() for p in c.parents} == {(a, b) for a, b, k in graph.edges(keys=True) if k == "is_a"}
    assert store["T:2"].synonyms == ("malignant, tumour", "neoplasm")
    assert store["T:4"].names == ("breast cancer",)
    assert store["T:3"].name == "organ disease"
    assert store["T:1"].definitions == ('A "condition", of sorts.',)
    assert store.children["T:1"] == ("T:2", "T:3")
    assert store.roots == ("T:1",)
    assert store.by_name["neoplasm"] == ("T:2",)


def test_json_goes_there_and_back_and_reads_a_knowledge_graph(tmp_path: Path) -> None:
    file = tmp_path / "graph.json"
    file.write_text(
        '{"a": {"name": "A", "synonyms": ["a2", "A"], "definitions": {"DO": "It is A."}, "parent": [], "children": ["b"]},'
        ' "b": {"name": "B", "parent": ["a", "a", "gone"]}}'
    )
    store = open_ontology(file, missing="drop")
    assert store["b"].parents == ("a",)
    assert store["a"] == Concept("a", "A", ("a2",), ("It is A.",))
    save_ontology(store, tmp_path / "again.json")
    assert dict(open_ontology(tmp_path / "again.json")) == dict(store)
    with pytest.raises(DataError, match=r"parent 'gone' of concept 'b' \(B\) is not in the file.*missing='drop'"):
        open_ontology(file)


def test_a_deep_chain_needs_no_deep_stack() -> None:
    chain = [Concept(str(n), f"n{n}", parents=(str(n + 1),) if n < 3000 else ()) for n in range(3001)]
    assert len(Ontology(chain).ancestors("0")) == 3000


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        (
            [Concept("a", "A", parents=("b",)), Concept("b", "B", parents=("c",)), Concept("c", "C", parents=("a",))],
            "a -> b -> c -> a",
        ),
        ([Concept("a", "A", parents=("a",))], "'a' lies above itself: a -> a"),
        ([Concept("a", "A"), Concept("a", "B")], "concept 'a' comes twice"),
        ([Concept("a", "A", parents=("z",))], "parent 'z' of concept 'a'"),
    ],
)
def test_what_is_no_hierarchy_is_refused_in_one_line(concepts: list[Concept], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Ontology(concepts, name="made.obo")
    assert str(caught.value).startswith("made.obo")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.obo", "[Term]\nid: a\n", "row 1, field 'name': a term has no name"),
        ("x.obo", "[Term]\nid: a\nname: A\nsynonym: B EXACT []\n", "row 4, field 'synonym'"),
        ("x.obo", "[Term]\nid a\n", "row 2: the line 'id a' has no tag"),
        ("x.json", "[1]", "holds a list"),
        ("x.json", '{"a":\n 1 1}', "row 2: is not valid JSON"),
        ("x.json", '{"a": {"name": "A", "parent": "b"}}', "parent of concept 'a' is 'b'"),
        ("x.json", '{"a": {}}', "concept 'a' has no name"),
        ("x.owl", "", r"expected an .obo or .json file"),
    ],
)
def test_a_bad_file_names_its_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        open_ontology(tmp_path / name)


def test_unknown_concepts_are_related_to_nothing() -> None:
    store = Ontology([Concept("a", "A"), Concept("b", "B", parents=("a",))])
    assert store.related("a", "a")
    assert not store.related("unknown", "unknown")
    assert not store.related("a", "unknown")
    with pytest.raises(UnknownName):
        store.ancestors("c")


def test_chains_stop_where_they_are_told_to_and_draw_parents_and_synonyms() -> None:
    concepts = [
        Concept("top", "disease"), Concept("organ", "organ disease", parents=("top",)),
        Concept("c", "cancer", ("tumour",), parents=("top",)),
        Concept("d", "breast cancer", ("mamma carcinoma",), parents=("c", "organ")),
    ]  # fmt: skip
    store = Ontology(concepts)
    rng = np.random.default_rng(0)
    seen = {tuple(store.chain("d", rng, synonyms=True, stop=("top",))) for _ in range(200)}
    leaves, middles = ("breast cancer", "mamma carcinoma"), ("cancer", "tumour", "organ disease")
    assert seen == {(leaf, middle) for leaf in leaves for middle in middles}
    assert store.chain("d") == ["breast cancer", "cancer", "disease"]
    assert store.chain("top", stop=("top",)) == ["disease"]
    assert list(store.closed(["c"])) == ["top", "c"]
    vectors = {name: np.eye(2)[k % 2] for k, name in enumerate(("disease", "organ disease", "cancer", "tumour", "breast cancer"))}
    found = store.vectors(vectors)
    assert np.allclose(found[2], [0.5**0.5, 0.5**0.5])
    with pytest.raises(DataError, match="no name of concept 'd'"):
        store.vectors({name: vector for name, vector in vectors.items() if "breast" not in name})


def test_captions_take_half_their_names_from_the_whole_chain() -> None:
    store = Ontology([Concept("a", "cancer"), Concept("b", "carcinoma", parents=("a",))])
    captions = HypernymCaptions(store)
    rng = np.random.default_rng(1)
    drawn = [captions("b", rng) for _ in range(2000)]
    assert abs(np.mean([len(c.names) == 2 for c in drawn]) - 0.5) < 0.04
    assert {c.template for c in drawn} == set(PATHOLOGY.ids)
    for caption in drawn[:50]:
        name = "cancer carcinoma" if len(caption.names) == 2 else "carcinoma"
        assert caption.text == PATHOLOGY.templates[PATHOLOGY.ids.index(caption.template)].replace("{}", name)
    assert captions("normal", rng).names[0] == NORMAL[0]
    assert not captions.covers("unknown")
    with pytest.raises(UnknownName):
        captions("unknown", rng)


def test_a_split_bank_keeps_ids_and_shares_no_wording() -> None:
    assert len(PATHOLOGY) == 22
    for seed in range(5):
        train, test = PATHOLOGY.split(0.3, seed=seed)
        assert {*train.ids} | {*test.ids} == {*PATHOLOGY.ids}
        assert not {*train.ids} & {*test.ids}
        assert all(PATHOLOGY.templates[PATHOLOGY.ids.index(key)] == t for key, t in zip(test.ids, test.templates, strict=True))
    bank = TemplateBank(("A {}.", "a {}", "the {}"))
    assert {len(part) for part in bank.split(0.5, seed=1)} == {1, 2}, "two spellings of one wording stay together"
    for bad in ((), ("no place",), ("{} and {}",)):
        with pytest.raises(ConfigError):
            TemplateBank(bad)
