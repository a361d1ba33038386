"""Sequence classifier of texts or of pairs of texts, from a local folder of transformers, BLEURT's PyTorch port among them.

That port (bleurt-pytorch at 279ca1b) has a model type which transformers does not know. Its layers are BERT's, or RemBERT's where the
embeddings are narrower than the layers, so that its weights are read under their names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from safetensors.torch import load_file
from tokenizers import processors
from torch import Tensor

from diptych.core.errors import DataError
from diptych.data.text.tokens.sentence_pieces import from_sentence_pieces
from diptych.models.io.device import batched, choose_device, place
from diptych.models.towers.packaged.hf_text import silence_transformers

BATCH = 32
SPECIAL = ("[CLS]", "[SEP]")
"""Pieces of BLEURT-20's spm.model that stand around texts."""
EXPECTED = "config.json and model.safetensors of a sequence classifier, and a tokenizer"


class SequenceClassifier:
    """Logits of texts, or of pairs of texts.

    A text that is too long is truncated at its `side`, the longer one of a pair first.

    device  of the model, by the rule of `models.io.device`; "auto" in a run is the run's
    """

    def __init__(self, model: Any, tokenizer: Any, *, side: str = "right", device: str = "auto") -> None:
        self.device = choose_device(device)
        self.model, self.tokenizer = place(model.eval(), self.device), tokenizer
        tokenizer.truncation_side = side
        self.length = min(int(tokenizer.model_max_length), positions_of(model.config))

    @classmethod
    def open(cls, address: str | Path, *, side: str = "right", device: str = "auto") -> Self:
        """Opens a folder. Raises DataError for one that holds something else, such as an encoder without the layer that classifies."""
        folder = Path(address).expanduser()
        file = folder / "config.json"
        if not file.is_file():
            raise DataError("not a folder of transformers", file=folder, expected=EXPECTED)
        try:
            with silence_transformers():
                config = json.loads(file.read_text(encoding="utf-8"))
                if config.get("model_type") == "bleurt":
                    model, missing = _bleurt(folder, config)
                    tokenizer = _bleurt_tokenizer(folder)
                else:
                    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
                        str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
                    )
                    missing = sorted(info["missing_keys"])
                    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"cannot be opened: {line}", file=folder, expected=EXPECTED) from error
        if missing:
            raise DataError(f"has no weights '{missing[0]}'", file=folder, expected=EXPECTED)
        return cls(model.float(), tokenizer, side=side, device=device)

    @property
    def labels(self) -> dict[int, str]:
        """Names of the labels."""
        return {int(number): str(name) for number, name in self.model.config.id2label.items()}

    @torch.no_grad()
    def logits(self, texts: Sequence[str], seconds: Sequence[str] | None = None) -> Tensor:
        """Logits [N, labels] of N texts, or of pairs with the `seconds`, on the model's device; in float32 also within a run in bf16."""

        def of_part(part: Sequence[tuple[str, ...]]) -> Tensor:
            sides = [list(side) for side in zip(*part, strict=True)]
            rows = self.tokenizer(*sides, return_tensors="pt", truncation=True, padding=True, max_length=self.length)
            with torch.autocast(self.device.type, enabled=False):
                logits: Tensor = self.model(
                    **{name: value.to(self.device, non_blocking=True) for name, value in rows.items()}
                ).logits
            return logits

        texts_N = list(zip(texts, *([] if seconds is None else [seconds]), strict=True))
        parts = batched(texts_N, BATCH, self.device, of_part)
        return torch.cat(parts) if parts else torch.zeros(0, int(self.model.config.num_labels), device=self.device)


def positions_of(config: Any) -> int:
    """Tokens that an encoder reads; those of RoBERTa's kind count positions from behind the padding token's number."""
    behind = int(config.pad_token_id or 0) + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return int(getattr(config, "max_position_embeddings", None) or 10**6) - behind


def _bleurt(folder: Path, config: dict[str, Any]) -> tuple[Any, list[str]]:
    """The model of a folder of the port, and the names of its weights that the folder lacks."""
    narrow = config.get("embedding_size")
    given = {key: value for key, value in config.items() if key not in ("model_type", "architectures", "embedding_size")}
    given["num_labels"] = 1
    given.setdefault("layer_norm_eps", 1e-12)
    made: Any
    if narrow is None:
        made = transformers.BertForSequenceClassification(transformers.BertConfig(**given))
        renamed = {"bleurt.": "bert."}
    else:
        defaults = {"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
        others = {"intermediate_size": 3072, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
        shape = {**defaults, **others, **given, "input_embedding_size": narrow}
        made = transformers.RemBertForSequenceClassification(transformers.RemBertConfig(**shape))
        renamed = {"bleurt.encoder.embedding_projection.": "rembert.encoder.embedding_hidden_mapping_in.", "bleurt.": "rembert."}
    state = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        old = next((old for old in renamed if name.startswith(old)), "")
        state[renamed.get(old, "") + name.removeprefix(old)] = weight
    missing = made.load_state_dict(state, strict=False).missing_keys
    return made, sorted(name for name in missing if "position_ids" not in name)


def _bleurt_tokenizer(folder: Path) -> Any:
    """Pieces of tokenizer.json, else BERT's of vocab.txt, else SentencePiece's of spm.model, as BLEURT-20 has them. The classes that the
    port's folders name are the port's own."""
    kind: Any = transformers.PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else transformers.BertTokenizer
    if not ((folder / "tokenizer.json").is_file() or (folder / "vocab.txt").is_file()):
        if not (folder / "spm.model").is_file():
            raise ValueError("there is no tokenizer.json, vocab.txt or spm.model")
        return _from_pieces(folder / "spm.model")
    return kind.from_pretrained(str(folder), local_files_only=True)


def _from_pieces(file: Path) -> Any:
    """Tokenizer of BLEURT-20: "[CLS] reference [SEP] answer [SEP]", case and accents kept. Padding, which is masked, is piece 0."""
    inner = from_sentence_pieces(file)
    start, end = (inner.token_to_id(piece) for piece in SPECIAL)
    if start is None or end is None:
        raise DataError(f"has no piece {SPECIAL[start is not None]!r}", file=file, expected="the spm.model of a BLEURT-20")
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(zip(SPECIAL, (start, end), strict=True))
    )
    names: dict[str, Any] = {"cls_token": SPECIAL[0], "sep_token": SPECIAL[1], "pad_token": inner.id_to_token(0)}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, model_input_names=inputs, **names)
