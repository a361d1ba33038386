"""Decoding of a tuned language model after training: greedy, with beams, or sampled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from diptych.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """Decoding of answers after training, in evaluations and in use; greedy by default.

    beams               of beam search; 1 for none
    length_penalty      a finished beam's log-probability is divided by its number of new tokens to this power
    decode_min_tokens   no end token before so many others
    decode_temperature  of sampled answers; 0 samples nothing
    decode_top_k        sampled tokens are among so many likeliest ones; 0 for all
    decode_seed         of sampled answers: a call with the same prompts samples the same answers
    """

    beams: int = 1
    length_penalty: float = 1.0
    decode_min_tokens: int = 0
    decode_temperature: float = 0.0
    decode_top_k: int = 0
    decode_seed: int = 0

    def __post_init__(self) -> None:
        if self.beams < 1 or min(self.decode_min_tokens, self.decode_top_k, self.decode_temperature) < 0:
            raise ConfigError(
                f"beams is {self.beams}, decode_min_tokens {self.decode_min_tokens}, decode_top_k {self.decode_top_k}, "
                f"decode_temperature {self.decode_temperature} (expected 1 or more, and 0 or more)"
            )
        if self.beams > 1 and self.decode_temperature:
            raise ConfigError(
                f"beams is {self.beams} and decode_temperature {self.decode_temperature} (expected beams or sampling: a temperature of 0)"
            )

    def options(self) -> dict[str, Any]:
        """As options of `generate` of transformers; all that would otherwise come from the model's own folder are set."""
        options: dict[str, Any] = {"do_sample": False, "num_beams": self.beams}
        if self.decode_min_tokens:
            options["min_new_tokens"] = self.decode_min_tokens
        if self.beams > 1:
            options |= {"length_penalty": self.length_penalty, "early_stopping": False}
        if self.decode_temperature:
            options |= {"do_sample": True, "temperature": self.decode_temperature, "top_k": self.decode_top_k, "top_p": 1.0}
        return options

    @contextlib.contextmanager
    def seeded(self, device: torch.device) -> Iterator[None]:
        """Random state of sampling on this device; torch's own is restored after it."""
        if not self.decode_temperature:
            yield
            return
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.decode_seed)
            yield
