"""A language model of transformers that reads embeddings: decoders (GPT, LLaMA, OPT, Gemma) and encoder-decoders (T5).

Letters: B batch, L positions, D width, A answer tokens of all rows, T tokens of an answer, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from torch import Tensor, nn

from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.data.text.prompts.layout import Layout, answer_places
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.adapters import insert_adapters, norm_gains, parameters_of
from diptych.models.bridges.calibration import decoder_layers, insert_calibrations
from diptych.models.bridges.key_value_cache import cache_arguments, cache_of
from diptych.models.bridges.visual_experts import ExpertStart, insert_visual_experts
from diptych.models.io.inference import evaluating
from diptych.models.towers.packaged.hf_text import silence_transformers


class LanguageVocabulary:
    """A tokenizer as a language model uses it: the special tokens that its own file puts before a text, the end token, padding. Of the
    marks that the file puts after a text none, unless what reads it is an encoder.

    start         whether a start mark precedes every row; None: where the tokenizer's own file puts one
    start_behind  it follows a picture that a row begins with, as LAVIS and transformers have it for BLIP-2 and its kind
    end_starts    the end mark is the start mark, if there is one
    closes        an encoder reads what precedes an answer: marks that the file puts after a text stand there, too
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        start: bool | None = None,
        start_behind: bool = False,
        end_starts: bool = False,
        closes: bool = False,
    ) -> None:
        self.tokenizer, self.start_behind, self.end_starts = tokenizer, start_behind, end_starts
        with_marks = tokenizer.inner.encode("a", add_special_tokens=True).ids
        plain = self.pieces("a")
        before = next((n for n in range(len(with_marks)) if with_marks[n : n + len(plain)] == plain), 0)
        own = tuple(with_marks[:before])
        if start and not (own or tokenizer.prefix):
            raise ConfigError("the tokenizer has no start mark (expected start None or False)")
        self.start_ids: tuple[int, ...] = own if start is None else (own or tokenizer.prefix) if start else ()
        self.start_ids = (self.end_id,) if self.start_ids and end_starts else self.start_ids
        self.close_ids: tuple[int, ...] = tuple(with_marks[before + len(plain) :]) if closes else ()

    @property
    def end_id(self) -> int:
        return self.tokenizer.eot_id

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_id

    @property
    def spaced(self) -> bool:
        """True if the vocabulary puts a space before every text, so that an answer that is encoded apart needs none."""
        alone = self.pieces("a")
        return self.pieces("b a")[-len(alone) :] == alone

    def pieces(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.inner.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text before the first end mark, without special tokens."""
        row = list(ids)
        row = row[: row.index(self.end_id)] if self.end_id in row else row
        text: str = self.tokenizer.inner.decode([int(i) for i in row], skip_special_tokens=True)
        return text.strip()


class LanguageModel(nn.Module):
    """Embeddings in, answers out. `config` is a configuration of transformers as a dict ("model_type" and the rest), fresh weights."""

    def __init__(self, *, config: dict[str, Any]) -> None:
        super().__init__()
        settings = transformers.AutoConfig.for_model(**config)
        kind = transformers.AutoModelForSeq2SeqLM if settings.is_encoder_decoder else transformers.AutoModelForCausalLM
        self._adopt(kind.from_config(settings))

    @classmethod
    def from_folder(cls, folder: str | Path, *, act: str = "") -> Self:
        """The model of a local folder that transformers saved (config.json and model.safetensors). No download.

        act  the activation of a T5's feed-forward maps in place of its own; other models have no such setting and keep theirs
        """
        if not Path(folder, "config.json").is_file():
            raise DataError("not a folder of transformers", file=Path(folder), expected="config.json and model.safetensors")
        settings = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
        kind = transformers.AutoModelForSeq2SeqLM if settings.is_encoder_decoder else transformers.AutoModelForCausalLM
        changed: dict[str, Any] = {}
        if act and hasattr(settings, "dense_act_fn"):
            settings.dense_act_fn = act
            changed["config"] = settings
        try:
            with silence_transformers():
                inner = kind.from_pretrained(str(folder), local_files_only=True, use_safetensors=True, **changed)
        except ValueError as error:
            raise DataError(
                f"'{settings.model_type}' writes no text", file=Path(folder), expected="a causal or sequence-to-sequence model"
            ) from error
        return cls.adopted(inner.float())

    @classmethod
    def adopted(cls, inner: Any) -> Self:
        """A model of transformers that is in memory, as it is."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._adopt(inner)
        return made

    def _adopt(self, inner: Any) -> None:
        self.inner = inner
        self.reads_and_writes = bool(inner.config.is_encoder_decoder)
        self.config: dict[str, Any] = inner.config.to_dict()
        self.config.pop("_name_or_path", None)
        self.width = int(inner.get_input_embeddings().weight.shape[1])
        taken = inspect.signature(inner.forward).parameters
        self._takes_positions, self._takes_columns = "position_ids" in taken, "logits_to_keep" in taken

    def adapt(self, *, ratio: int = 4, zero_start: bool = True) -> None:
        """Adds an adapter to every layer (`models.bridges.adapters`); only the adapters and some norm gains are trained."""
        self.requires_grad_(False)
        self.adapters = insert_adapters(self.inner, self.width, ratio=ratio, zero_start=zero_start)
        self.adapters.requires_grad_(True)
        if self.calibrated:
            self.calibrations.requires_grad_(True)
        for gain in norm_gains(self.inner).values():
            gain.requires_grad_(True)

    @property
    def ratio(self) -> int:
        """The width over that of an adapter, 0 without adapters."""
        adapters = getattr(self, "adapters", ())
        return int(self.width // adapters[0].down.out_features) if adapters else 0

    def calibrate(self, *, std: float = 0.0) -> None:
        """Adds a trained scale and shift of the image positions after every layer (`models.bridges.calibration`)."""
        self.calibrations = insert_calibrations(self.inner, self.width, std=std)

    @property
    def calibrated(self) -> bool:
        return hasattr(self, "calibrations")

    def add_visual_experts(self, *, start: ExpertStart = "copy") -> None:
        """Adds feed-forward experts for image tokens to every layer (`models.bridges.visual_experts`)."""
        self.router = insert_visual_experts(self.inner, start=start)

    @property
    def has_visual_experts(self) -> bool:
        return hasattr(self, "router")

    def adapted(self) -> nn.ModuleDict | None:
        """Trainable parameters added by `adapt` and `calibrate`, as a module sharing them; None before either call."""
        adapters = getattr(self, "adapters", None)
        trained = nn.ModuleDict() if adapters is None else parameters_of(adapters, norm_gains(self.inner))
        if self.calibrated:
            trained["calibrations"] = self.calibrations
        return trained if len(trained) else None

    @contextmanager
    def _reading(self, layout: Layout) -> Iterator[None]:
        """Context manager that passes the image positions of these rows to calibrations and visual experts."""
        calibrations: Any = getattr(self, "calibrations", ())
        if self.has_visual_experts:
            self.router.set(layout.slot_BL, layout.split)
        for calibration in calibrations:
            calibration.slot_BL = layout.slot_BL
        try:
            yield
        finally:
            for calibration in calibrations:
                calibration.slot_BL = None
            if self.has_visual_experts:
                self.router.set(None)

    @property
    def context_length(self) -> int:
        """Maximum context length in tokens; 0 where the model sets no limit."""
        text = self.config.get("text_config") or self.config
        return int(text.get("max_position_embeddings") or text.get("n_positions") or 0) if not self.reads_and_writes else 0

    @property
    def vocab_size(self) -> int:
        return int(self.inner.get_input_embeddings().weight.shape[0])

    def embed(self, id_BL: Tensor) -> Tensor:
        """Word embeddings [B, L, D] from the model's table, before any scaling that the model applies to them."""
        embedded: Tensor = self.inner.get_input_embeddings()(id_BL)
        return embedded

    def answers(self, embed_BLD: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """logit_AV, target_A, row_A: the logits that predict each token of each answer, with targets and rows.

        Logits are only computed in columns that hold an answer: with a vocabulary of 262,144 the last layer costs more than the rest.
        """
        return self._decoded(embed_BLD, layout) if self.reads_and_writes else self._continued(embed_BLD, layout)

    def _continued(self, embed_BLD: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        column_C, row_A, place_A = layout.places or answer_places(layout.answer_BL)
        given: dict[str, Any] = {"attention_mask": self.attention_mask(layout.mask_BL), "use_cache": False}
        if self._takes_positions:
            given["position_ids"] = layout.positions()
        with self._reading(layout):
            if self._takes_columns:
                logit_BCV = self.inner(inputs_embeds=embed_BLD, logits_to_keep=column_C, **given).logits
            else:
                logit_BCV = self.inner(inputs_embeds=embed_BLD, **given).logits[:, column_C]
        return logit_BCV[row_A, place_A], layout.id_BL[:, 1:][:, column_C][row_A, place_A], row_A

    def attention_mask(self, mask_BL: Tensor) -> Tensor:
        """`attention_mask` for transformers: the padding mask, from which transformers builds the attention mask after inspecting
        its values. On a GPU that would make the host wait, so the causal mask [B, 1, L, L] is passed instead, unless layers have
        different masks (sliding windows)."""
        config = self.inner.config.get_text_config()
        differ = getattr(config, "sliding_window", None) or getattr(config, "layer_types", None)
        if mask_BL.device.type == "cpu" or differ or getattr(self.inner.config, "_attn_implementation", "") != "sdpa":
            return mask_BL.long()
        length = mask_BL.shape[1]
        causal_LL = torch.ones(length, length, dtype=torch.bool, device=mask_BL.device).tril()
        itself_LL = torch.eye(length, dtype=torch.bool, device=mask_BL.device)  # padding sees itself, so that no row is empty
        return (mask_BL.bool()[:, None, None] & causal_LL) | itself_LL

    def _decoded(self, embed_BLD: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        count_B = layout.answer_BL.sum(1)
        place_T = torch.arange(int(count_B.max()), device=count_B.device)
        there_BT = place_T < count_B[:, None]
        start = self.inner.config.decoder_start_token_id
        label_BT = torch.full(there_BT.shape, int(start), dtype=torch.int64, device=count_B.device)
        label_BT[there_BT] = layout.id_BL[layout.answer_BL]
        given_BT = torch.cat([torch.full_like(label_BT[:, :1], int(start)), label_BT[:, :-1]], 1)
        encoder_mask_BL = layout.mask_BL & ~layout.answer_BL
        logit_BTV = self.inner(
            inputs_embeds=embed_BLD, attention_mask=encoder_mask_BL.long(), decoder_input_ids=given_BT, use_cache=False
        ).logits
        row_A, place_A = there_BT.nonzero(as_tuple=True)
        return logit_BTV[row_A, place_A], label_BT[row_A, place_A], row_A

    def extend(self, embed_BLD: Tensor, layout: Layout, cache: Any = None) -> tuple[Tensor, Any]:
        """Logits [B, L, V] of a segment after what the cache holds, and the cache with the segment: a dialogue turn by turn.

        layout  of this segment alone, its rows as long as each other: padding would stand between turns
        Raises ShapeError for a segment with padding.
        """
        if not bool(layout.mask_BL.all()):
            raise ShapeError("the rows of a segment differ in length (expected rows without padding)")
        past = 0 if cache is None else int(cache.get_seq_length())
        place_L = past + torch.arange(embed_BLD.shape[1], device=embed_BLD.device)
        given: dict[str, Any] = {"position_ids": place_L.expand(len(embed_BLD), -1)} if self._takes_positions else {}
        with self._reading(layout):
            answer = self.inner(inputs_embeds=embed_BLD, **cache_arguments(cache), **given)
        return answer.logits, cache_of(answer)

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return len(decoder_layers(self.inner))

    def states(self, embed_BLD: Tensor, layout: Layout) -> list[Tensor]:
        """Hidden states after every layer, [B, L, D] each; the last one is after the final norm.

        Raises ConfigError for an encoder-decoder.
        """
        states: list[Tensor] = []

        def keep(layer: nn.Module, given: Any, answer: Any) -> None:
            states.append(answer if isinstance(answer, Tensor) else answer[0])

        hooks = [layer.register_forward_hook(keep) for layer in decoder_layers(self.inner)]
        given: dict[str, Any] = {"attention_mask": layout.mask_BL.long(), "use_cache": False}
        if self._takes_positions:
            given["position_ids"] = layout.positions()
        try:
            with self._reading(layout):
                last_BLD: Tensor = self.inner.base_model(inputs_embeds=embed_BLD, **given).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return [*states[:-1], last_BLD]

    @torch.no_grad()
    def write(
        self,
        embed_BLD: Tensor,
        layout: Layout,
        vocabulary: LanguageVocabulary,
        *,
        max_tokens: int,
        ends: Sequence[int] = (),
        **options: Any,
    ) -> list[str]:
        """Generated text for each row; rows must be padded on the left.

        Greedy, unless `options` of transformers' `generate` say otherwise (num_beams, repetition_penalty, length_penalty,
        do_sample with torch's random state). Generation stops at the end token or at any of the token ids `ends`.
        """
        settings = {"do_sample": False, "num_beams": 1, **options}
        with evaluating(self), self._reading(layout):
            id_BT = self.inner.generate(
                inputs_embeds=embed_BLD,
                attention_mask=layout.mask_BL.long(),
                max_new_tokens=max_tokens,
                eos_token_id=[vocabulary.end_id, *ends],
                pad_token_id=vocabulary.pad_id,
                **settings,
            )
        skipped = 1 if self.reads_and_writes else 0  # the decoder's start token
        return [vocabulary.decode(row[skipped:]) for row in id_BT.tolist()]
