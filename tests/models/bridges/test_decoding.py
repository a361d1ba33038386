"""Decoding of a tuned language model: beams against all sequences there are, sampling, what a folder keeps."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from diptych.core.errors import ConfigError
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.policy.decoding import DecodingConfig
from diptych.models.policy.language_policy import answer_logits
from diptych.models.policy.prompt_rows import prompt_rows
from diptych.models.policy.text_generator import TextGenerator
from diptych.recipes._shared.text_policy.grue import TASKS
from diptych.recipes._shared.text_policy.supervised_text import SupervisedText
from diptych.recipes.alignment.rl4lms import RL4LMs
from diptych.tasks.generation.generated_text import TextGeneration
from diptych.worlds.scenes.world import scenes

WORDS = ["<pad>", "<end>", "a", "b", "c"]
GPT2 = {"model_type": "gpt2", "vocab_size": 5, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 1}
T5 = {"model_type": "t5", "vocab_size": 5, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
T5["decoder_start_token_id"] = 0
PROMPTS = ["a b c", "c", "b b"]
LENGTH = 4


def writer(config: dict[str, Any], **decoding: Any) -> TextGenerator:
    inner = RustTokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    torch.manual_seed(1)
    model = LanguageModel(config=config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2.0)  # a peaked distribution: beams and greedy answers part
    vocabulary = LanguageVocabulary(Tokenizer(inner, pad_id=0, prefix=(), suffix=(1,)))
    return TextGenerator(model, vocabulary, "toy", decoding=DecodingConfig(**decoding))


def best_of_all(made: TextGenerator, prompt: str, *, penalty: float, least: int) -> str:
    """The answer of the highest log-probability over its length to the power `penalty`, among all sequences of at most LENGTH tokens."""
    ids_1P, there_1P = prompt_rows([prompt], made.vocabulary, truncate="left")
    found = []
    for length in range(1, LENGTH + 1):
        rows = [
            row
            for row in itertools.product(range(5), repeat=length)
            if 1 not in row[:-1] and (row[-1] == 1 or length == LENGTH) and (1 not in row or row.index(1) >= least)
        ]
        if not rows:
            continue
        ids_NL = torch.tensor(rows)
        logit_NLV = answer_logits(made.model, ids_1P.expand(len(rows), -1), there_1P.expand(len(rows), -1), ids_NL)
        chances_NLV = logit_NLV.log_softmax(-1)
        score_N = chances_NLV.gather(-1, ids_NL[..., None])[..., 0].sum(1) / length**penalty
        found += [(float(score), made.vocabulary.decode(row).strip()) for score, row in zip(score_N, rows, strict=True)]
    return max(found)[1]


@pytest.mark.parametrize("config", [GPT2, T5], ids=["decoder", "encoder-decoder"])
@pytest.mark.parametrize(("penalty", "least"), [(1.0, 0), (0.0, 0), (0.6, 2)])
@torch.no_grad()
def test_many_beams_find_the_best_of_all_answers(config: dict[str, Any], penalty: float, least: int) -> None:
    made = writer(config, beams=400, length_penalty=penalty, decode_min_tokens=least)
    answers = made.generate([None] * 3, PROMPTS, max_tokens=LENGTH)
    assert answers == [best_of_all(made, prompt, penalty=penalty, least=least) for prompt in PROMPTS]


def test_sampling_is_repeatable_keeps_torch_s_state_and_its_least_length() -> None:
    made = writer(GPT2, decode_temperature=2.0, decode_min_tokens=3)
    before = torch.random.get_rng_state()
    first = made.generate([None] * 8, ["a"] * 8, max_tokens=LENGTH)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first == made.generate([None] * 8, ["a"] * 8, max_tokens=LENGTH)
    assert len(set(first)) > 1
    assert min(len(answer.split()) for answer in first) >= 3
    made.decoding = DecodingConfig(decode_temperature=2.0, decode_min_tokens=3, decode_seed=1)
    assert first != made.generate([None] * 8, ["a"] * 8, max_tokens=LENGTH)
    made.decoding = DecodingConfig(decode_temperature=2.0, decode_top_k=1)
    assert made.generate([None] * 3, PROMPTS, max_tokens=LENGTH) == writer(GPT2).generate([None] * 3, PROMPTS, max_tokens=LENGTH)


def test_a_saved_model_decodes_as_before(tmp_path: Path) -> None:
    made = writer(GPT2, beams=3, length_penalty=0.6)
    made.save(tmp_path / "model")
    assert TextGenerator.load(tmp_path / "model").decoding == made.decoding
    assert made.fingerprint != writer(GPT2).fingerprint


def test_the_task_may_ask_for_beams() -> None:
    data = scenes(2, seed=0, lengths=("short",), negatives=False)
    seen: list[dict[str, Any]] = []

    class Recorder:
        name = "recorder"

        def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64, **options: Any) -> list[str]:
            seen.append(options)
            return ["a"] * len(prompts)

    class Plain:
        name = "plain"

        def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
            return ["a"] * len(prompts)

    for beams in (0, 4):
        TextGeneration(beams=beams, length_penalty=0.6).predict(Recorder(), data)  # type: ignore[arg-type]
    assert seen == [{}, {"num_beams": 4, "do_sample": False, "length_penalty": 0.6}]
    with pytest.raises(ConfigError, match="beams is 4, and plain has no options of decoding"):
        TextGeneration(beams=4).predict(Plain(), data)  # type: ignore[arg-type]


def test_presets_decode_and_end_as_their_task_does() -> None:
    recipe = RL4LMs.iwslt2017()
    assert (recipe.decoding.beams, recipe.decoding.length_penalty) == (4, 0.6)
    assert "max_tokens=128" in recipe.measured_by
    assert {name for name, task in TASKS.items() if task.decoding.beams > 1} == {"totto", "iwslt2017", "narrative_qa"}
    assert SupervisedText.paper().decoding == DecodingConfig(beams=5, decode_min_tokens=4)


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"decode_temperature": -1.0}, {"beams": 2, "decode_temperature": 0.5}])
def test_decoding_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="beams is"):
        DecodingConfig(**wrong)
