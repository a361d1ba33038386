"""Vocabularies that write spaces as LLaMA's do, for tests of rows."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.language_model import LanguageVocabulary

TEXTS = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the user's questions. USER: ASSISTANT:",
    "What is it? Is it red? And small?",
    "a cat",
    "A dog (brown) on a sofa! It looks at us.",
    "no yes, small",
]


def llama_tokenizer(kind: str) -> tokenizers.Tokenizer:
    """Spaces as LLaMA's vocabulary wrote them at first ("legacy"), or as it does since ("first")."""
    inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    if kind == "legacy":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        inner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    alphabet = [*sorted(set("".join(TEXTS)) - {" "}), "▁", "\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=90, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(TEXTS * 3, trainer)
    inner.decoder = decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return inner


def vocabulary(kind: str) -> LanguageVocabulary:
    return LanguageVocabulary(Tokenizer(llama_tokenizer(kind), pad_id=0, prefix=(1,), suffix=(2,)))
