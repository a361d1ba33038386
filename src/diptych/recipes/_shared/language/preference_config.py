"""Configurations of learning from preferences: the loss, the candidates, and how they are judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diptych.core.errors import ConfigError
from diptych.curate.preferences.yes_no import PROMPT
from diptych.objectives.preference.direct import FORMS, PreferenceForm


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """The loss of a pair.

    beta          how strongly leaving the reference costs
    form          "sigmoid" (DPO), "hinge" or "ipo"
    average       log-probabilities are means over tokens also where the form is not "ipo"
    chosen_weight  of the negative log-likelihood of the chosen answer, summed over its tokens; STIC's regulariser is 1/1024, RLAIF-V's
                  SFT term 0
    reference     "stored": log-probabilities of the reference are computed once, before a phase, and lie with its pairs; "model": a
                  frozen copy of the model is asked in every step
    """

    beta: float = 0.1
    form: PreferenceForm = "sigmoid"
    average: bool = False
    chosen_weight: float = 0.0
    reference: Literal["stored", "model"] = "stored"

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.chosen_weight < 0 or self.form not in FORMS:
            raise ConfigError(
                f"beta {self.beta:g}, chosen_weight {self.chosen_weight:g}, form {self.form!r} (expected above 0, 0 or more, and one of "
                f"{', '.join(FORMS)})"
            )


@dataclass(frozen=True, slots=True)
class CandidateOptions:
    """Sampling of a model's own answers.

    candidates    answers of an instruction, all by the same model, prompt and decoding
    temperature   of the draw; 0 for greedy decoding
    top_p, top_k  the likeliest tokens that are drawn from; top_k 50 is what transformers takes where nothing is said, as in the releases
    answer_tokens  of an answer at most
    instructions  of a round, drawn without replacement; 0: all
    at_once       instructions that are answered together; parts of a round that are kept when a run stops are so large
    """

    candidates: int = 10
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 50
    answer_tokens: int = 512
    instructions: int = 0
    at_once: int = 16

    def __post_init__(self) -> None:
        if min(self.candidates, self.answer_tokens, self.at_once) < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"candidates {self.candidates}, answer_tokens {self.answer_tokens}, at_once {self.at_once}, temperature "
                f"{self.temperature:g}, top_p {self.top_p:g} (expected 1 or more each, 0 or more, above 0 and at most 1)"
            )

    def sampling(self) -> dict[str, float | int | bool]:
        """Arguments of transformers' `generate`."""
        if not self.temperature:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """Statements of answers and the labels that judge them.

    labeler      address of the model that answers by yes or no; "": the model itself, as the round begins
    label_prompt  what it is asked, {question} in it replaced by a question without its mark
    splitter     "rules", or the address of a text backend, such as gguf:FILE, that is asked for facts and for questions
    most_statements  of an answer; 0: all
    prompt_words  words of a request to the splitter at most, released: 300; 0: all
    first_character  facts lose their first character, as released
    one_to_one   answers whose facts have not each a question of their own take no part, as released
    """

    labeler: str = ""
    label_prompt: str = PROMPT
    splitter: str = "rules"
    most_statements: int = 0
    prompt_words: int = 0
    first_character: bool = False
    one_to_one: bool = False

    def __post_init__(self) -> None:
        if "{question}" not in self.label_prompt:
            raise ConfigError(f"label_prompt is {self.label_prompt!r} (expected {{question}} in it)")
