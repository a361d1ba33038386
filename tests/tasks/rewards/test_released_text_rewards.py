"""PARENT and BERTScore against numbers of the released code, and tuples of scene graphs by hand.

The fixture holds random sentences about random tables with what totto_parent_eval.py of RL4LMs at 97df0bd gives for each, and token
embeddings with what greedy_cos_idf of bert_score at 19e7f55 gives for each pair.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.core.errors import ConfigError, DataError
from diptych.tasks._scoring.rewards.bert_score import BertScore, baseline_of, greedy_match
from diptych.tasks._scoring.rewards.parent import parent, prompt_table
from diptych.tasks._scoring.rewards.scene_tuples import scene_tuples, tuple_f1
from diptych.tasks._scoring.rewards.text_rewards import text_reward

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "released_text_rewards.json").read_text(encoding="utf-8"))
WORDS = "a red circle runs beside the small blue square and jumps over one two".split(" ")  # noqa: SIM905


def test_parent_is_that_of_the_released_evaluation(parity: Any) -> None:
    pairs = []
    for case in RELEASED["parent"]:
        table, highlighted, references = (
            [text.split() for text in case[name]] for name in ("table", "highlighted", "references")
        )
        ours = parent(case["answer"].split(), references, table, highlighted, table_weight=case["weight"])
        pairs += [(np.array(getattr(ours, name)), np.array(case[name])) for name in ("precision", "recall", "f")]
    parity("rl4lms", "PARENT of 24 sentences", "totto_parent_eval.py of RL4LMs at 97df0bd", pairs, tolerance=1e-12)


def test_parent_reads_the_table_from_the_prompt() -> None:
    pytest.importorskip("sacrebleu")
    cells = "<cell> 1965 <col_header> Born </col_header> </cell> <cell> Painter <row_header> Ann Lee </row_header> </cell>"
    prompt = f"<table> {cells} </table><page_title> Ann Lee </page_title> <section_title> Life </section_title> <table> {cells} </table>"
    table = prompt_table(prompt)
    assert table.highlighted == ("1965", "Painter", "Ann Lee", "Life")
    assert table.entries == (*table.highlighted, "Born", "Ann Lee")
    pairs = prompt_table("name|||Ann Lee\tborn|||1965\tempty||| ")
    assert pairs.entries == pairs.highlighted == ("Ann Lee", "1965")
    reward = text_reward("parent")
    answers, references = ["Ann Lee, a painter, was born in 1965.", "nothing at all", ""], [["Lee was born in 1965."]] * 3
    right, wrong, empty = reward([prompt] * 3, answers, references)
    words = [["1965"], ["painter"], ["ann", "lee"], ["life"], ["born"], ["ann", "lee"]]
    answer = ["ann", "lee", ",", "a", "painter", ",", "was", "born", "in", "1965", "."]
    assert right == pytest.approx(parent(answer, [["lee", "was", "born", "in", "1965", "."]], words, words[:4]).f)
    assert right > 0.3 > wrong == empty == 0
    with pytest.raises(DataError, match="a prompt holds no table: 'hello'"):
        reward(["hello"], ["x"], [["y"]])
    with pytest.raises(ConfigError, match="row 0 has no reference"):
        reward([prompt], ["x"], [[]])
    with pytest.raises(ConfigError, match="PARENT of 1 references, 0 entries"):
        parent(["a"], [["a"]], [])
    with pytest.raises(ConfigError, match="table_weight is 2"):
        parent(["a"], [["a"]], [["a"]], table_weight=2)


def test_greedy_matching_is_that_of_bert_score(parity: Any) -> None:
    pairs = []
    for case in RELEASED["match"]:
        names = ("answer", "reference", "answer_weights", "reference_weights")
        ours = greedy_match(*(torch.tensor(case[name], dtype=torch.float64) for name in names))
        pairs.append((np.array([ours.precision, ours.recall, ours.f]), np.array(case["scores"])))
    parity("rl4lms", "greedy matching of 8 pairs of embeddings", "greedy_cos_idf of bert_score at 19e7f55", pairs, tolerance=1e-6)


def write_encoder(folder: Path, *, layers: int = 3, positions: int = 16) -> Path:
    """A small BERT with a tokenizer of whole words."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **marks).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), max_position_embeddings=positions, initializer_range=0.3, **shape
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def by_hand(folder: Path, answer: str, reference: str, corpus: list[str], layer: int) -> float:
    """F with idf weights, by loops over tokens of one sentence at a time."""
    import transformers

    tokenizer, model = transformers.AutoTokenizer.from_pretrained(folder), transformers.AutoModel.from_pretrained(folder).eval()
    counts = Counter(token for text in corpus for token in set(tokenizer(text)["input_ids"]))

    def read(text: str) -> tuple[list[float], list[Any]]:
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0].double().numpy()
        return [math.log((len(corpus) + 1) / (counts[token] + 1)) for token in ids], [
            state / np.linalg.norm(state) for state in states
        ]

    (weight_A, state_A), (weight_R, state_R) = read(answer), read(reference)
    precision = sum(w * max(a @ r for r in state_R) for w, a in zip(weight_A, state_A, strict=True)) / sum(weight_A)
    recall = sum(w * max(a @ r for a in state_A) for w, r in zip(weight_R, state_R, strict=True)) / sum(weight_R)
    return float(2 * precision * recall / (precision + recall))


def test_bert_score_of_a_folder_weighs_rescales_and_takes_the_best_reference(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "bert")
    answers = ["a red circle", "the small blue square jumps", ""]
    references = [["a blue circle runs", "a red circle"], ["one two"], ["a red circle"]]
    corpus = [text for own in references for text in own]
    scores = text_reward(f"bert_score:{folder},layer=2,idf")([""] * 3, answers, references)
    assert scores[0] == pytest.approx(1.0)
    assert scores[1] == pytest.approx(by_hand(folder, answers[1], "one two", corpus, 2), abs=1e-5)
    assert scores[2] == 0
    plain = BertScore.open(str(folder))
    assert plain.layer == 3, "an encoder that is not published is read at its last layer"
    assert plain(answers[1:2], references[1:2])[0] != pytest.approx(scores[1], abs=1e-3)
    (tmp_path / "baseline.tsv").write_text("LAYER,P,R,F\n2,0.1,0.2,0.3\n3,0.4,0.5,0.6\n")
    rescaled = BertScore.open(f"{folder},layer=3,baseline={tmp_path / 'baseline.tsv'}").scores(answers, references)
    for row, expected in zip(rescaled, plain.scores(answers, references), strict=True):
        for one, other in zip(row, expected, strict=True):
            assert (one.precision, one.recall) == pytest.approx(((other.precision - 0.4) / 0.6, (other.recall - 0.5) / 0.5))
            assert one.f == pytest.approx((other.f - 0.6) / 0.4)
    assert math.isfinite(plain(["a red circle " * 20], [["one two"]])[0]), "more tokens than the encoder has positions"


def test_bert_score_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "bert")
    table = tmp_path / "baseline.tsv"
    table.write_text("LAYER,P,R,F\n2,0.1,0.2,1.0\n")
    for name, words in (
        ("bert_score", "expected bert_score:FOLDER"),
        (f"bert_score:{tmp_path / 'none'}", "not a folder of transformers"),
        (f"bert_score:{folder},layers=2", "no option 'layers'"),
        (f"bert_score:{folder},layer=two", "layer is 'two'"),
        (f"bert_score:{folder},layer=9", "layer 9 of an encoder with 3"),
        (f"bert_score:{folder},layer=1,baseline={table}", "has no layer 1.*one of"),
        (f"bert_score:{folder},layer=2,baseline={table}", "layer 2 has"),
        (f"bert_score:{folder},layer=2,baseline={tmp_path / 'none'}", "no table of baselines"),
    ):
        with pytest.raises((ConfigError, DataError), match=words):
            text_reward(name)
    table.write_text("layer,p\n1,2\n")
    with pytest.raises(DataError, match="expected a table with the header"):
        baseline_of(table, 1)


def test_tuples_of_scene_graphs_by_hand() -> None:
    assert scene_tuples("A young man is riding a brown horse.") == {
        ("man",), ("man", "young"), ("hors",), ("hors", "brown"), ("man", "ride", "hors"),
    }  # fmt: skip
    assert scene_tuples("") == frozenset()
    references = ["a brown horse", "a man is riding a horse"]  # together 4 tuples: horse, brown, man, ride
    assert tuple_f1("a man is riding a brown horse", references) == 1
    assert tuple_f1("two horses", references) == pytest.approx(2 * 1 / (1 + 4))
    assert tuple_f1("a small dog", references) == tuple_f1("", references) == 0
    both = text_reward("0.5*scene_tuples+0.5*cider")([""] * 2, ["two horses", "a dog"], [references, ["a dog"]])
    alone = text_reward("cider")([""] * 2, ["two horses", "a dog"], [references, ["a dog"]])
    assert both == pytest.approx([0.5 * 0.4 + 0.5 * alone[0], 0.5 + 0.5 * alone[1]])
