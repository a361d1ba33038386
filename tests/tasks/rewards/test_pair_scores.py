"""BLEURT, entailment and intents by small classifiers, against forward passes that are written out here."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_piece_files import write_sentence_pieces
from torch import Tensor

from diptych.core.errors import ConfigError, DataError, RunError
from diptych.models.policy.classifier_reward import ClassifierReward, IntentReward, last_turn
from diptych.models.policy.sequence_classifier import SequenceClassifier
from diptych.tasks._scoring.rewards.text_rewards import text_reward

WORDS = "no pleural effusion is there a heart of normal size small left".split(" ")  # noqa: SIM905
LABELS = ["contradiction", "neutral", "entailment"]


def write_tokenizer(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **marks
    )
    made.save_pretrained(folder)
    return made


SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


def write_classifier(folder: Path, labels: list[str]) -> Path:
    """A small BERT that classifies."""
    transformers = pytest.importorskip("transformers")
    write_tokenizer(folder)
    torch.manual_seed(0)
    named = {"id2label": dict(enumerate(labels)), "label2id": {name: number for number, name in enumerate(labels)}}
    config = transformers.BertConfig(
        vocab_size=4 + len(WORDS), max_position_embeddings=16, initializer_range=0.4, num_labels=len(labels), **named, **SHAPE
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def write_bleurt(folder: Path, *, narrow: int | None) -> Path:
    """A folder of the port's layout, with the names of its weights."""
    write_tokenizer(folder)
    torch.manual_seed(1)
    width, inner, input_width = SHAPE["hidden_size"], SHAPE["intermediate_size"], narrow or SHAPE["hidden_size"]
    sizes = {f"embeddings.{name}_embeddings.weight": (rows, input_width)
             for name, rows in (("word", 4 + len(WORDS)), ("position", 16), ("token_type", 2))}  # fmt: skip
    linear = {"pooler.dense": (width, width)}
    norms = {"embeddings.LayerNorm": input_width}
    for layer in range(SHAPE["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        linear |= {f"{at}.attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        linear |= {f"{at}.attention.output.dense": (width, width), f"{at}.intermediate.dense": (inner, width)}
        linear[f"{at}.output.dense"] = (width, inner)
        norms |= {f"{at}.attention.output.LayerNorm": width, f"{at}.output.LayerNorm": width}
    if narrow:
        linear["encoder.embedding_projection"] = (width, narrow)
    state = {f"bleurt.{name}": torch.randn(shape) * 0.5 for name, shape in sizes.items()}
    for name, (out, into) in (*linear.items(),):
        state |= {f"bleurt.{name}.weight": torch.randn(out, into) * 0.4, f"bleurt.{name}.bias": torch.randn(out) * 0.4}
    for name, size in norms.items():
        state |= {f"bleurt.{name}.weight": 1 + torch.randn(size) * 0.3, f"bleurt.{name}.bias": torch.randn(size) * 0.3}
    state |= {"classifier.weight": torch.randn(1, width), "classifier.bias": torch.randn(1)}
    save_file(state, folder / "model.safetensors")
    config = {"model_type": "bleurt", "architectures": ["BleurtForSequenceClassification"], "embedding_size": narrow}
    config |= {"vocab_size": 4 + len(WORDS), "max_position_embeddings": 16, "type_vocab_size": 2, "pad_token_id": 0, **SHAPE}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def bleurt_by_hand(folder: Path, reference: str, answer: str) -> float:
    """The forward pass of bleurt-pytorch for one pair, from its named weights."""
    state = {name.removeprefix("bleurt."): value.double() for name, value in load_file(folder / "model.safetensors").items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]
        )

    first, second = ([4 + WORDS.index(word) for word in text.split()] for text in (reference, answer))
    ids = torch.tensor([2, *first, 3, *second, 3])
    kinds = torch.tensor([0] * (len(first) + 2) + [1] * (len(second) + 1))
    x = state["embeddings.word_embeddings.weight"][ids] + state["embeddings.token_type_embeddings.weight"][kinds]
    x = norm("embeddings.LayerNorm", x + state["embeddings.position_embeddings.weight"][: len(ids)])
    if "encoder.embedding_projection.weight" in state:
        x = linear("encoder.embedding_projection", x)
    for layer in range(SHAPE["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            linear(f"{at}.attention.self.{name}", x).view(len(ids), 4, 4).transpose(0, 1) for name in ("query", "key", "value")
        )
        read = ((query @ key.transpose(1, 2)) / 2).softmax(-1) @ value
        x = norm(f"{at}.attention.output.LayerNorm", x + linear(f"{at}.attention.output.dense", read.transpose(0, 1).flatten(1)))
        inner = linear(f"{at}.intermediate.dense", x)
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = norm(f"{at}.output.LayerNorm", x + linear(f"{at}.output.dense", inner))
    return float(state["classifier.weight"][0] @ linear("pooler.dense", x[0]).tanh() + state["classifier.bias"][0])


@pytest.mark.parametrize("narrow", [None, 8])
def test_bleurt_of_the_ports_folder_is_its_forward_pass(tmp_path: Path, parity: Any, narrow: int | None) -> None:
    folder = write_bleurt(tmp_path, narrow=narrow)
    answers, references = (
        ["no effusion", "a small heart", "size"],
        [["no pleural effusion"], ["heart", "small left heart"], ["is"]],
    )
    scores = text_reward(f"bleurt:{folder}")([""] * 3, answers, references)
    expected = [max(bleurt_by_hand(folder, one, answer) for one in own) for answer, own in zip(answers, references, strict=True)]
    title = f"BLEURT of 3 answers, embeddings of {narrow or 'the full width'}"
    pair = (torch.tensor(scores, dtype=torch.float64).numpy(), torch.tensor(expected, dtype=torch.float64).numpy())
    parity("rl4lms", title, "bleurt-pytorch at 279ca1b, rewritten", [pair], tolerance=1e-5)
    assert abs(bleurt_by_hand(folder, "no effusion", "no pleural effusion") - expected[0]) > 1e-3, "the order of a pair matters"
    assert math.isfinite(text_reward(f"bleurt:{folder}")([""], ["heart " * 30], [["size " * 30]])[0]), (
        "more than it has positions"
    )


def test_bleurt_20_is_opened_by_its_pieces_alone(tmp_path: Path) -> None:
    folder = write_bleurt(tmp_path, narrow=8)
    pairs = (["no effusion", "a small  heart"], [["no pleural effusion"], ["heart"]])
    expected = text_reward(f"bleurt:{folder}")(["", ""], *pairs)
    pieces = [
        ("[PAD]", 3),
        ("[UNK]", 2),
        ("[CLS]", 3),
        ("[SEP]", 3),
        *((f"\N{LOWER ONE EIGHTH BLOCK}{word}", 1) for word in WORDS),
    ]
    for file in folder.glob("tokenizer*"):
        file.unlink()
    write_sentence_pieces(folder / "spm.model", [(piece, -1.0, kind) for piece, kind in pieces])
    opened_again = SequenceClassifier.open(folder)
    rows = opened_again.tokenizer(["no effusion"], ["heart"])
    assert rows["input_ids"] == [[2, 4, 6, 3, 4 + WORDS.index("heart"), 3]]
    assert rows["token_type_ids"] == [[0, 0, 0, 0, 1, 1]]
    scores = [float(opened_again.logits(own, [answer])[0, 0]) for answer, own in zip(*pairs, strict=True)]
    assert scores == pytest.approx(expected, abs=1e-6)
    write_sentence_pieces(folder / "spm.model", [("[CLS]", 0.0, 3), ("<unk>", 0.0, 2), ("no", -1.0, 1)])
    with pytest.raises(DataError, match=r"spm\.model: has no piece '\[SEP\]'"):
        SequenceClassifier.open(folder)
    (folder / "spm.model").unlink()
    with pytest.raises(DataError, match=r"no tokenizer\.json, vocab\.txt or spm\.model"):
        SequenceClassifier.open(folder)


def test_scores_are_those_of_float32_within_a_run_in_bf16(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, LABELS)
    reward = text_reward(f"entailment:{folder}")
    pair = ([""] * 2, ["heart", "no size"], [["no effusion"], ["left"]])
    expected = reward(*pair)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert reward(*pair) == expected


def test_entailment_is_the_probability_of_the_label_named_so(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, LABELS)
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    first, second = [4 + WORDS.index("no"), 4 + WORDS.index("effusion")], [4 + WORDS.index("heart")]
    with torch.no_grad():
        ids = torch.tensor([[2, *first, 3, *second, 3]])
        logits = model(ids, token_type_ids=torch.tensor([[0, 0, 0, 0, 1, 1]])).logits[0].double()
    powers = [math.exp(value) for value in logits.tolist()]
    for name, label in ((f"entailment:{folder}", 2), (f"entailment:{folder},label=0", 0)):
        alone = text_reward(name)([""], ["heart"], [["no effusion"]])
        assert alone == pytest.approx([powers[label] / sum(powers)], abs=1e-6)
        both = text_reward(name)(["", ""], ["heart", "size"], [["is", "no effusion"], ["left"]])
        assert both[0] >= alone[0] - 1e-6, "the best of its references"
        assert len(both) == 2
    with pytest.raises(ConfigError, match="row 0 has no reference"):
        text_reward(f"entailment:{folder}")([""], ["heart"], [[]])


def test_what_is_no_such_classifier_is_one_line(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_classifier(tmp_path / "nli", LABELS)
    unnamed = write_classifier(tmp_path / "unnamed", ["LABEL_0", "LABEL_1"])
    encoder = tmp_path / "encoder"
    write_tokenizer(encoder)
    transformers.BertModel(transformers.BertConfig(vocab_size=16, **SHAPE)).save_pretrained(encoder)
    cut = write_bleurt(tmp_path / "cut", narrow=8)
    state = load_file(cut / "model.safetensors")
    save_file({name: value for name, value in state.items() if "classifier" not in name}, cut / "model.safetensors")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text('{"model_type": "bleurt"}')
    nonsense = tmp_path / "nonsense"
    nonsense.mkdir()
    (nonsense / "config.json").write_text("[")
    for name, words in (
        ("bleurt", "expected bleurt:FOLDER"),
        ("entailment", "expected entailment:FOLDER"),
        (f"bleurt:{tmp_path / 'none'}", "not a folder of transformers"),
        (f"bleurt:{folder}", "a classifier with 3 outputs is no BLEURT"),
        (f"bleurt:{encoder}", "has no weights 'classifier"),
        (f"bleurt:{cut}", "has no weights 'classifier"),
        (f"bleurt:{empty}", "cannot be opened"),
        (f"bleurt:{nonsense}", "cannot be opened"),
        (f"entailment:{unnamed}", "labels are LABEL_0, LABEL_1.*label=NUMBER"),
        (f"entailment:{folder},label=7", "no option 'label=7'"),
        (f"entailment:{folder},name=2", "no option 'name=2'"),
    ):
        with pytest.raises((ConfigError, DataError), match=words) as raised:
            text_reward(name)
        assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="has no weights 'classifier"):
        ClassifierReward.open(f"{encoder}:1")


def test_an_intent_counts_where_the_likeliest_label_is_that_of_the_row(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, ["inform", "question", "directive", "commissive"])
    classifier = SequenceClassifier.open(folder)
    prompts = ["a heart <EOU>left size <EOU>", "is there <EOU>", ""]
    answers = ["small", "no", "effusion"]
    assert last_turn(prompts[0]) == "left size "
    read = ["left size small", "is there no", "effusion"]
    likeliest = [int(classifier.logits([text]).argmax()) for text in read]
    right = IntentReward(classifier, [label + 1 for label in likeliest])
    assert right(prompts, answers, [[]] * 3).tolist() == [1, 1, 1]
    wrong = IntentReward(classifier, [(label + 1) % 4 + 1 for label in likeliest])
    reward = text_reward("0.75*intent+0.25*length:1", intent=wrong)
    assert reward(prompts, answers, [[]] * 3) == [0.25, 0.25, 0.25]
    for intents, words in (([1, 0, 1], "row 1 has no intent"), ([1, 1, 5], "row 2 has intent 5.*1 to 4")):
        with pytest.raises(RunError, match=words):
            IntentReward(classifier, intents)(prompts, answers, [[]] * 3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the pretended device is built by g++, which is not there")
def test_scores_on_a_device_are_the_processors_at_two_waits(tmp_path: Path) -> None:
    (tmp_path / "bleurt").mkdir()
    write_classifier(tmp_path / "nli", LABELS)
    write_bleurt(tmp_path / "bleurt", narrow=8)
    script = Path(__file__).parents[2] / "helpers/pretended_rewards.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    read = json.loads(done.stdout.splitlines()[-1])
    assert read["faults"] == []
    expected = dict.fromkeys(read["cpu"], 2)
    assert read["waits"] == expected, "transformers looks at the mask of a part; the scores of all answers are copied at once"
    for name, scores in read["cpu"].items():
        assert read["cuda"][name] == pytest.approx(scores, abs=1e-5), name
