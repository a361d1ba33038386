"""A server of texts that can be told to behave badly (`text_server`), and small language models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from diptych.data.text.tokenize import Tokenizer

from ..helpers.killed import kill
from ..text_server import Server, said, server

__all__ = ["Server", "kill", "said", "server"]


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of two layers."""
    folder = tmp_path_factory.mktemp("gpt2")
    words = Tokenizer.train(["a red bus next to a tree", "write image captions differently, => a dog"], 300)
    words.save(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=words.vocab_size,
        n_positions=160,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=words.sot_id,
        eos_token_id=words.eot_id,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def seq2seq_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 of one layer."""
    folder = tmp_path_factory.mktemp("t5")
    words = Tokenizer.train(["a red bus next to a tree"], 300)
    words.save(folder)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=words.vocab_size,
        d_model=32,
        d_kv=16,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=words.pad_id,
        pad_token_id=words.pad_id,
        eos_token_id=words.eot_id,
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder
