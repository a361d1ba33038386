"""Rewards of text against nltk, rouge-score, sacrebleu and definitions written again; naturalness against naive counts."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core import registry
from diptych.core.entries import Registry
from diptych.core.errors import ConfigError, DataError, RunError, UnknownName
from diptych.core.randomness import keyed_rng
from diptych.tasks._scoring.captions.metrics import words_of
from diptych.tasks._scoring.captions.stemming import stem
from diptych.tasks._scoring.rewards.meteor import meteor
from diptych.tasks._scoring.rewards.naturalness import mean_segmental_ratio, naturalness, repetition
from diptych.tasks._scoring.rewards.reward import checked_rewards
from diptych.tasks._scoring.rewards.text_rewards import commongen_penalty, increasing_numbers, text_reward
from diptych.tasks.generation.generated_text import TextGeneration
from diptych.worlds.scenes.world import scenes

WORDS = "a red circle runs running beside the small blue square squares and jumps over one two".split(" ")  # noqa: SIM905


def strings(count: int, seed: str) -> list[str]:
    rng = keyed_rng("rewards", seed)
    return [" ".join(rng.choice(WORDS, size=int(rng.integers(1, 12)))) for _ in range(count)]


def test_meteor_is_that_of_nltk_without_synonyms(parity: Any) -> None:
    scorer = pytest.importorskip("nltk.translate.meteor_score")

    class NoSynonyms:
        def synsets(self, word: str) -> list[Any]:
            return []

    class Stemmer:
        def stem(self, word: str) -> str:
            return stem(word)

    pairs = []
    for answer, first, second in zip(strings(50, "a"), strings(50, "b"), strings(50, "c"), strict=True):
        words = [text.split() for text in (answer, first, second)]
        theirs = scorer.meteor_score(words[1:], words[0], stemmer=Stemmer(), wordnet=NoSynonyms())
        pairs.append((np.array(meteor(words[0], words[1:])), np.array(theirs)))
    parity("rl4lms", "METEOR of 50 texts", "meteor_score of nltk without WordNet", pairs, tolerance=1e-12)
    assert meteor([], [["a"]]) == 0.0


def write_wordnet(folder: Path) -> None:
    """A WordNet 3.0 database of two nouns, one synset: auto and car."""
    licence = "  1 WordNet 3.0 Copyright 2006 by Princeton University.  \n"
    at = f"{len(licence):08d}"
    texts = {f"{kind}.{name}": licence for kind in ("data", "index") for name in ("adj", "adv", "noun", "verb")}
    texts["data.noun"] += f"{at} 06 n 02 car 0 auto 0 000 | a machine  \n"
    texts["index.noun"] += f"auto n 1 0 1 0 {at}  \ncar n 1 0 1 0 {at}  \n"
    texts |= {f"{name}.exc": "" for name in ("adj", "adv", "noun", "verb")} | {"index.sense": "", "cntlist.rev": ""}
    texts["lexnames"] = "".join(f"{number:02d}\tname.{number}\t1\n" for number in range(45))
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text)


def test_the_released_meteor_takes_synonyms_from_a_given_wordnet(tmp_path: Path) -> None:
    """By hand: "car" and "cars" mean "auto", punctuation is a word, one chunk of n matches scores 1 - 0.5 / n^3. NLTK compares stems with
    lemmas, so that "automobile" would not match."""
    pytest.importorskip("nltk")
    write_wordnet(tmp_path / "nltk_data" / "corpora" / "wordnet")
    reward = text_reward(f"meteor:{tmp_path / 'nltk_data'}")
    answers = ["The car runs .", "the cars run", "the car"]
    scores = reward([""] * 3, answers, [["the auto runs."], ["a dog", "the auto ran"], ["a truck"]])
    assert scores[0] == pytest.approx(1 - 0.5 / 4**3)
    assert scores[1] == pytest.approx((1 - 0.5 / 2**3) * (2 / 3))
    assert scores[2] == 0
    assert text_reward("meteor")([""], answers[:1], [["the auto runs."]])[0] < 0.75
    (tmp_path / "damaged" / "corpora" / "wordnet").mkdir(parents=True)
    for folder, words in (
        ("damaged", "corpora/wordnet is damaged: .*lexnames"),
        ("nowhere", "nowhere has no folder corpora/wordnet"),
    ):
        with pytest.raises(ConfigError, match=words):
            text_reward(f"meteor:{tmp_path / folder}")


def test_overlap_rewards_are_those_of_the_libraries(parity: Any) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    rouge = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    answers, references = strings(50, "a"), [list(pair) for pair in zip(strings(50, "b"), strings(50, "c"), strict=True)]
    prompts = [""] * 50
    rows = list(zip(answers, references, strict=True))
    theirs = {
        "rouge1": [rouge.score(own[0], answer)["rouge1"].fmeasure for answer, own in rows],
        "rougeL:best": [max(rouge.score(one, answer)["rougeL"].fmeasure for one in own) for answer, own in rows],
        "chrf": [sacrebleu.sentence_chrf(answer, own).score / 100 for answer, own in rows],
        "ter": [1 - sacrebleu.sentence_ter(answer, own).score / 100 for answer, own in rows],
        "sacrebleu": [sacrebleu.corpus_bleu([answer], [[one] for one in own]).score / 100 for answer, own in rows],
    }
    for name, scores in theirs.items():
        library = "rouge-score" if name.startswith("rouge") else "sacrebleu"
        pairs = [(np.asarray(text_reward(name)(prompts, answers, references)), np.asarray(scores))]
        parity("rl4lms", f"reward {name} of 50 texts", library, pairs, tolerance=1e-12)
    for name in (*theirs, "meteor", "bleu", "rouge_l_max", "cider", "rouge_combined"):
        empty = text_reward(name)(["", ""], ["", "a small red circle"], [["a red circle"], ["a small red circle"]])
        assert empty[0] == pytest.approx(0, abs=1e-9), name
        assert empty[1] > 0.2, name


def test_rewards_of_rules() -> None:
    assert increasing_numbers("1 2 3 2 x", 20) == pytest.approx(0.3)
    assert increasing_numbers("1 2 3 4 5 6 7 8 9 10 11 12", 20) == pytest.approx(1.0)
    assert increasing_numbers("a 3 b 4 4 5", 4) == pytest.approx(2 / 6)
    assert increasing_numbers("none nan 3", 20) == pytest.approx(0.1)
    assert increasing_numbers("no number", 20) == 0.0
    prompt = "generate a sentence with: dog run park."
    assert commongen_penalty(prompt, "A dog run park.") == -1.0
    assert commongen_penalty(prompt, "I generate dogs") == -1.0
    assert commongen_penalty(prompt, "the dog runs in a park") == 0.0
    assert text_reward("dates+length:10")(["", ""], ["on 2021-03-04 it rained", "no date"], [[], []]) == [1.4, 0.2]
    assert text_reward("-repetition")([""], ["a b a b a b"], [[]]) == [pytest.approx(-0.6)]
    with pytest.raises(UnknownName, match="unknown reward 'meteo'; did you mean 'meteor'"):
        text_reward("meteo")
    with pytest.raises(ConfigError, match="row 1 has no reference"):
        text_reward("meteor")(["", ""], ["a", "b"], [["a"], []])
    with pytest.raises(ConfigError, match="expected a number"):
        text_reward("length:many")


PY_ROUGE = [
    ("a small red circle runs", "a red circle", 0.7903129226148963),
    ("He doesn't like the running dogs.", "The dogs run; he does not like them!", 0.33248709862740594),
    ("one " * 120, "one " * 110, 1.0),
    ("generously relational cats", "generous relation cat", 1.0),
    ("cannot do it", "can not do it", 0.628184042286484),
    ("a-b co-operate 3.5", "a b cooperate 3 5", 0.7673570889966181),
    ("two words", "none here", 0.0),
]
"""Answer, reference, and F of ROUGE-L by py-rouge 1.1 with the settings of RL4LMs' task narrative_qa."""
NMT_BLEU = [
    ("the cat sat on the mat", ["the cat sat on a mat", "a cat sat on the big red mat today"], 0.7598356856515925),
    ("a b c d e", ["a b c d e f g", "a b c d e f"], 0.8187307530779819),
    ("A dog.", ["A dog."], 0.0),
    ("the cat sat down here", ["The cat sat down here", "x"], 0.668740304976422),
]
"""Answer, references, and BLEU of `compute_bleu` of TensorFlow's nmt, which the metric "bleu" of datasets 2.5.1 is, on `split()` words."""


def test_rouge_and_bleu_are_those_that_the_release_is_rewarded_by(parity: Any) -> None:
    pytest.importorskip("rouge_score")
    found = [text_reward("rouge_l_max")([""], [answer], [[reference]])[0] for answer, reference, _ in PY_ROUGE]
    pairs = [(np.array(found), np.array([score for *_, score in PY_ROUGE]))]
    parity("rl4lms", "reward rouge_l_max of seven texts", "py-rouge 1.1, weight_factor 1.2", pairs, tolerance=1e-12)
    found = [text_reward("bleu")([""], [answer], [references])[0] for answer, references, _ in NMT_BLEU]
    pairs = [(np.array(found), np.array([score for *_, score in NMT_BLEU]))]
    parity("rl4lms", "reward bleu of four texts", "compute_bleu of TensorFlow's nmt", pairs, tolerance=1e-12)


def test_rewards_are_weighted_and_a_classifier_is_one_of_them() -> None:
    def likes(prompts: Any, answers: Any, references: Any) -> list[float]:
        return [float("good" in answer) for answer in answers]

    reward = text_reward("0.75*classifier+0.25*length:2", classifier=likes)
    assert reward(["", ""], ["good day", "bad"], [[], []]) == [1.0, 0.125]
    assert text_reward("-0.5*length:1")([""], ["a b"], [[]]) == [-1.0]
    with pytest.raises(UnknownName, match="unknown reward 'classifier'"):
        text_reward("classifier")
    with pytest.raises(ConfigError, match="expected a number"):
        text_reward("half*length:1")


def test_naturalness_is_what_its_names_say() -> None:
    texts = [text.split() for text in strings(30, "n")]
    metrics = naturalness(texts, window=50)
    words = [word for text in texts for word in text]
    assert metrics["length"] == pytest.approx(len(words) / 30)
    segments = [len(set(words[at : at + 50])) / 50 for at in range(0, len(words) // 50 * 50, 50)]
    assert metrics["msttr"] == pytest.approx(sum(segments) / len(segments))
    assert mean_segmental_ratio([["a"] * 9], 10) is None
    pairs = [pair for text in texts for pair in pairwise(text)]
    assert metrics["distinct-2"] == pytest.approx(len(set(pairs)) / len(pairs))
    assert metrics["unique-2"] == sum(pairs.count(pair) == 1 for pair in set(pairs))
    shares = [pairs.count(pair) / len(pairs) for pair in set(pairs)]
    assert metrics["entropy-2"] == pytest.approx(-sum(share * math.log2(share) for share in shares))
    firsts = {word: words.count(word) / len(words) for word in set(words)}
    conditional = -sum(pairs.count(p) / len(pairs) * math.log2(pairs.count(p) / len(pairs) / firsts[p[0]]) for p in set(pairs))
    assert metrics["conditional_entropy-2"] == pytest.approx(conditional)
    assert repetition(["a", "b", "a", "b"]) == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="all 2 answers are empty"):
        naturalness([[], []])


class Parrot:
    """Answers each prompt with its first words."""

    name = "parrot"

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        return [" ".join(prompt.split()[:3]) for prompt in prompts]


def test_generated_text_scores_answers_by_rewards_and_naturalness() -> None:
    data = scenes(12, seed=0, lengths=("short",), negatives=False)
    task = TextGeneration(rewards=("meteor", "rougeL"), draws=20, window=10)
    records = task.predict(Parrot(), data)  # type: ignore[arg-type]
    result = task.score(records)
    references = records.column("references").to_pylist()
    by_hand = [
        meteor(words_of(answer), [words_of(one) for one in own])
        for answer, own in zip(records.column("answer").to_pylist(), references, strict=True)
    ]
    assert result.metrics["reward"].value == pytest.approx(float(np.mean(by_hand)))
    assert result.metrics["naturalness/length"].value <= 3
    assert "naturalness/perplexity" not in result.metrics


@pytest.mark.parametrize(
    ("scores", "line"),
    [
        ([1.0, math.nan], r"reward 'own' of the answer 'two' to 'q' is nan \(expected a finite number\)"),
        ([math.inf, 1.0], r"reward 'own' of an empty answer to 'p' is inf"),
        ([None, 1.0], r"reward 'own' of an empty answer to 'p' is nan"),
        (None, r"reward 'own' gave \[\] scores for 2 answers"),
        ([1.0], r"reward 'own' gave \[1\] scores for 2 answers"),
        (["high", "low"], r"reward 'own' raised ValueError on 2 answers"),
    ],
)
def test_a_reward_of_a_package_is_checked(scores: Any, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards.py").write_text(
        f"from math import inf, nan\n\ndef own(prompts, answers, references):\n    return {scores!r}\n"
    )
    (tmp_path / "own_rewards-1.dist-info").mkdir()
    (tmp_path / "own_rewards-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: own-rewards\nVersion: 1\n")
    points = "[diptych.rewards]\nown = own_rewards:own\ngone = own_rewards:gone\n"
    (tmp_path / "own_rewards-1.dist-info" / "entry_points.txt").write_text(points, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)
    monkeypatch.setattr(registry, "REWARDS", Registry("reward", "diptych.rewards", registry.REWARDS.own))
    with pytest.raises(RunError, match=f"^{line}"):
        checked_rewards("own", text_reward("own"), ["p", "q"], ["", "two"], [[], []])
    with pytest.raises(ConfigError, match="'gone' of the package 'own-rewards' cannot be imported"):
        text_reward("gone")
    with pytest.raises(UnknownName, match="did you mean 'own'"):
        text_reward("owm")
    with pytest.raises(ConfigError, match="nothing behind the colon"):
        text_reward("own:3")
