"""Texts to ids: CLIP's own vocabulary, any `tokenizers` file, or one learned from the data.

Every kind is the same object, and gives the same kind of row: `sot` (where the vocabulary has one), the tokens, `eot`, padding up
to a fixed length. A text that does not fit is cut before `eot`, and counted.

Importing this module sets TOKENIZERS_PARALLELISM to "false" where it is unset: the library's threads do not survive the fork of
loader workers. Letters: B texts, L tokens.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers  # after the setting above
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from diptych.core.disk.files import write_atomic, write_json
from diptych.core.errors import ConfigError, DataError
from diptych.data.text.tokens.cleaners import CLEANERS, Clean, cleaned_positions

Side = Literal["right", "left"]

SPECIAL = ("<pad>", "<sot>", "<eot>", "<unk>")
"""The first ids of a learned vocabulary."""
CLIP_PATTERN = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CLIP_MERGES = 49152 - 256 - 2
SIDE_FILES = ("tokenizer_config.json", "special_tokens_map.json")
"""Where transformers keeps the names of the special tokens, beside tokenizer.json."""
STARTS = ("bos_token", "cls_token")
ENDS = ("eos_token", "sep_token")
KNOWN_STARTS = ("<sot>", "<start_of_text>", "<|startoftext|>", "[CLS]", "<s>", "<bos>")
KNOWN_ENDS = ("<eot>", "<end_of_text>", "<|endoftext|>", "[SEP]", "</s>", "<eos>")
KNOWN_PADS = ("<pad>", "[PAD]", "<|pad|>")


@dataclass(frozen=True, slots=True)
class BatchEncoding:
    """ids_BL int64 and mask_BL bool (False on padding); how many texts were cut."""

    ids_BL: npt.NDArray[np.int64]
    mask_BL: npt.NDArray[np.bool_]
    truncated: int


class Tokenizer:
    """Strings to rows of ids. Can be pickled; the same object works in forked workers.

    >>> words = Tokenizer.train(["a red bus", "a red tree", "a bus"], 300)
    >>> row = words.encode(["a red bus"], 8)
    >>> row.ids_BL[0, [0, row.mask_BL.sum() - 1]].tolist(), row.truncated
    ([1, 2], 0)
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        *,
        pad_id: int,
        prefix: Sequence[int],
        suffix: Sequence[int],
        clean: Clean = "none",
        literal: bool = False,
        side: Side = "right",
        bare: bool = False,
    ) -> None:
        """`prefix` and `suffix` go around every text: usually `sot` and `eot`. `clean` "clip" repairs text as CLIP does. With
        `literal`, a text that spells a special token ("<eot>") is ordinary text and does not become that token. `side` is where padding
        stands. A `bare` tokenizer puts no mark after a text (TIPS)."""
        if not suffix:
            expected = "one in tokenizer_config.json, as eos_token or sep_token"
            raise ConfigError(f"the tokenizer has no end-of-text token (expected {expected})")
        # In tokenizers 0.22 a change of a shared vocabulary fails while another thread encodes with it.
        if inner.truncation is not None:
            inner.no_truncation()
        if inner.padding is not None:
            inner.no_padding()
        if inner.encode_special_tokens != literal:
            inner.encode_special_tokens = literal
        self.inner, self.pad_id, self.prefix, self.suffix = inner, pad_id, tuple(prefix), tuple(suffix)
        self.clean, self.literal, self.side, self.bare = clean, literal, side, bare

    def __getstate__(self) -> str:
        return self.to_json()

    def __setstate__(self, state: str) -> None:
        self.__dict__.update(Tokenizer.from_spec(state).__dict__)

    # ------------------------------------------------------------ use

    def encode(self, texts: Sequence[str], length: int, *, keep: Literal["first", "last"] = "first") -> BatchEncoding:
        """Rows of exactly `length` ids. The end mark is always there, also after a text that was cut, of which the `keep` tokens stay."""
        suffix = () if self.bare else self.suffix
        room = length - len(self.prefix) - len(suffix)
        if room < 1:
            least = len(self.prefix) + len(self.suffix) + 1
            raise ConfigError(f"text length {length} leaves no room for a token (expected at least {least})")
        clean = CLEANERS.get(self.clean)
        given = [clean(text) for text in texts] if clean else list(texts)
        ids_BL = np.full((len(given), length), self.pad_id, np.int64)
        mask_BL = np.zeros((len(given), length), np.bool_)
        truncated = 0
        for row, encoding in enumerate(self.inner.encode_batch_fast(given, add_special_tokens=False)):
            ids = encoding.ids
            truncated += len(ids) > room
            whole = (*self.prefix, *(ids[:room] if keep == "first" else ids[-room:]), *suffix)
            columns = slice(len(whole)) if self.side == "right" else slice(length - len(whole), None)
            ids_BL[row, columns] = whole
            mask_BL[row, columns] = True
        return BatchEncoding(ids_BL, mask_BL, truncated)

    def word_places(self, text: str, length: int) -> list[tuple[str, list[int]]]:
        """Words of a text, split at spaces, with the token positions of each in its row of `encode`; [] for one that was cut.

        >>> Tokenizer.from_spec("clip").word_places("a tyrannosaurus", 8)
        [('a', [1]), ('tyrannosaurus', [2, 3, 4])]
        """
        words = list(re.finditer(r"\S+", self.cleaned(text)))
        positions = self.span_places(text, [word.span() for word in words], length)
        return [(word[0], here) for word, here in zip(words, positions, strict=True)]

    def span_places(self, text: str, spans: Sequence[tuple[int, int]], length: int) -> list[list[int]]:
        """Token positions of each span of characters in its row of `encode`; tokens that are cut off are left out.

        spans  begin and end in `cleaned(text)`, the text as this vocabulary reads it

        >>> Tokenizer.from_spec("clip").span_places("a red tyrannosaurus", [(2, 5), (6, 19)], 8)
        [[2], [3, 4, 5]]
        """
        room = length - len(self.prefix) - (0 if self.bare else len(self.suffix))
        text = self.cleaned(text)
        offsets = self.inner.encode(text, add_special_tokens=False).offsets[:room]
        first = len(self.prefix) + (room - len(offsets) if self.side == "left" else 0)
        positions = []
        for begin, end in spans:
            here = [position for position, (start, stop) in enumerate(offsets) if start < end and stop > begin]
            positions.append([first + position for position in here if text[slice(*offsets[position])].strip()])
        return positions

    def count(self, text: str) -> int:
        """Tokens of a text, marks not counted.

        >>> Tokenizer.from_spec("clip").count("a tyrannosaurus")
        4
        """
        clean = CLEANERS.get(self.clean)
        return len(self.inner.encode(clean(text) if clean else text, add_special_tokens=False).ids)

    def offsets(self, text: str, length: int) -> npt.NDArray[np.int64]:
        """offset_L2: the characters [start, stop) of `text`, as given, that each place of its row of `encode` stands for, without blanks
        around them; (0, 0) at marks, padding and tokens of nothing but blanks.

        Raises DataError if the tokenizer's cleaning changes more than case, blanks and punctuation (mojibake, HTML entities): then no
        offset would be exact.

        >>> Tokenizer.from_spec("clip").offsets("A  red bus", 6).tolist()
        [[0, 0], [0, 1], [3, 6], [7, 10], [0, 0], [0, 0]]
        """
        room = length - len(self.prefix) - (0 if self.bare else len(self.suffix))
        read = self.cleaned(text)
        source_positions = cleaned_positions(text, read)
        offset_L2 = np.zeros((length, 2), np.int64)
        encoded_offsets = self.inner.encode(read, add_special_tokens=False).offsets[:room]
        first = len(self.prefix) + (room - len(encoded_offsets) if self.side == "left" else 0)
        for row, (start, stop) in enumerate(encoded_offsets):
            inked = [source_positions[position] for position in range(start, stop) if not read[position].isspace()]
            if inked:
                offset_L2[first + row] = inked[0], inked[-1] + 1
        return offset_L2

    def cleaned(self, text: str) -> str:
        """The text after what this vocabulary does to it first (`Clean`)."""
        clean = CLEANERS.get(self.clean)
        return clean(text) if clean else text

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens; spaces may differ from the original."""
        text: str = self.inner.decode([int(i) for i in ids if int(i) != self.pad_id], skip_special_tokens=True)
        return text.strip()

    @cached_property
    def vocab_size(self) -> int:
        """Rows that an embedding table needs."""
        return 1 + max(self.inner.get_vocab(with_added_tokens=True).values())

    @property
    def sot_id(self) -> int:
        """The id before every text, or -1 when this vocabulary has none."""
        return self.prefix[0] if self.prefix else -1

    @property
    def eot_id(self) -> int:
        return self.suffix[-1]

    # ------------------------------------------------------------ made from

    @classmethod
    def from_spec(cls, spec: str) -> Self:
        """ "clip", the JSON that `to_json` gave, or the path of a tokenizer.json or of the folder that holds it.

        All tokenizers of "clip" share one `inner`: add tokens to a copy, `from_spec(words.to_json())`.
        """
        if spec == "clip":
            return cls(_clip(), pad_id=0, prefix=(49406,), suffix=(49407,), clean="clip")
        if spec.lstrip().startswith("{"):
            return cls.from_json(spec, "the given JSON", {})
        path = Path(spec)
        return cls.load(path.parent if path.name == "tokenizer.json" else path)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Byte pairs of these texts, after NFKC and lower-casing. Any string can be encoded: single bytes are always there.

        The order of the texts does not matter. The vocabulary may stay smaller than asked when the texts hold too few pairs.
        """
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if vocab_size < len(SPECIAL) + len(alphabet):
            raise ConfigError(
                f"vocab_size is {vocab_size} (expected at least {len(SPECIAL) + len(alphabet)}: bytes and special tokens)"
            )
        corpus = sorted(texts)
        if not any(text.strip() for text in corpus):
            raise DataError("no text to learn a vocabulary from", field="texts", expected="at least one text")
        inner = tokenizers.Tokenizer(models.BPE())
        inner.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip()]
        )
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        inner.decoder = decoders.ByteLevel()
        inner.train_from_iterator(
            corpus,
            trainers.BpeTrainer(
                vocab_size=vocab_size,
                min_frequency=2,
                special_tokens=list(SPECIAL),
                initial_alphabet=alphabet,
                show_progress=False,
            ),
        )
        inner.post_processor = _marks(inner, "<sot>", "<eot>")
        return cls(inner, pad_id=0, prefix=(1,), suffix=(2,), literal=True)

    # ------------------------------------------------------------ kept

    def to_json(self) -> str:
        """Everything, as one line: the tokenizers file plus a section of ours. `from_spec` reads it."""
        plain = json.loads(self.inner.to_str())
        plain["diptych"] = self._own()
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))

    def save(self, folder: Path) -> None:
        """tokenizer.json, which `tokenizers` and transformers read, and tokenizer_config.json with the special tokens."""
        name = self.inner.id_to_token
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": name(self.pad_id),
            "eos_token": name(self.eot_id),
            "diptych": self._own(),
        }
        if self.prefix:
            config["bos_token"] = name(self.prefix[0])
        write_atomic(Path(folder, "tokenizer.json"), self.inner.to_str())
        write_json(Path(folder, "tokenizer_config.json"), config)

    def _own(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("pad_id", "prefix", "suffix", "clean", "literal")}
        changed = {"side": self.side} if self.side != "right" else {}
        return {**own, **changed, **({"bare": True} if self.bare else {})}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a folder that `save` wrote, or any with a tokenizer.json (transformers' fast tokenizers)."""
        path = Path(folder, "tokenizer.json")
        if not path.is_file():
            raise ConfigError(f"{folder}: no tokenizer.json (expected 'clip', 'data', or the path of a tokenizer.json)")
        config: dict[str, Any] = {}
        for name in reversed(SIDE_FILES):
            side = Path(folder, name)
            if side.is_file():
                config.update(_json(side.read_text(encoding="utf-8"), str(side)))
        return cls.from_json(path.read_text(encoding="utf-8"), str(path), config)

    @classmethod
    def from_json(cls, text: str, where: str, config: dict[str, Any]) -> Self:
        """From the text of a tokenizers file that came from `where`, and the names of its special tokens as transformers keeps them."""
        plain = _json(text, where)
        own = plain.pop("diptych", None) or config.get("diptych")
        try:
            inner = tokenizers.Tokenizer.from_str(json.dumps(plain))
        except Exception as error:  # the library raises plain Exception
            raise ConfigError(f"{where}: not a tokenizers file: {error}") from error
        if own:
            return cls(inner, **own)
        prefix, suffix = _around(inner, config)
        pad_id = _pad(inner, config)
        return cls(inner, pad_id=pad_id, prefix=prefix, suffix=suffix)


def _marks(inner: tokenizers.Tokenizer, start: str, end: str) -> Any:
    """Post-processor that adds start and end marks in other readers of the file; `encode` adds its own, to cut before the end."""
    ids = [(name, inner.token_to_id(name)) for name in (start, end)]
    return processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ids)


# ---------------------------------------------------------------- other people's files


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON: {error}") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}: a {type(plain).__name__} (expected a JSON object)")
    return plain


def _around(inner: tokenizers.Tokenizer, config: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The ids that go before and after a text: from the file's own post-processor, else from the named special tokens."""
    with_marks = inner.encode("a", add_special_tokens=True).ids
    without = inner.encode("a", add_special_tokens=False).ids
    extra = len(with_marks) - len(without)
    for before in range(extra + 1):
        if extra and with_marks[before : before + len(without)] == without:
            prefix, suffix = with_marks[:before], with_marks[before + len(without) :]
            if suffix:
                return prefix, suffix
            return prefix, _special_id(inner, config, ENDS, KNOWN_ENDS)
    return _special_id(inner, config, STARTS, KNOWN_STARTS), _special_id(inner, config, ENDS, KNOWN_ENDS)


def _pad(inner: tokenizers.Tokenizer, config: dict[str, Any]) -> int:
    if inner.padding:
        return int(inner.padding["pad_id"])
    return (_special_id(inner, config, ("pad_token",), KNOWN_PADS) or [0])[0]


def _special_id(inner: tokenizers.Tokenizer, config: dict[str, Any], keys: Sequence[str], defaults: Sequence[str]) -> list[int]:
    """The id of the token that the config names under one of the keys, else of the first known spelling; empty without either."""
    values = [config.get(key) for key in keys]
    names = [value["content"] if isinstance(value, dict) else value for value in values if value]
    for name in (*names, *defaults):
        token_id = inner.token_to_id(name)
        if token_id is not None:
            return [int(token_id)]
    return []


# ---------------------------------------------------------------- CLIP's vocabulary


@lru_cache(maxsize=1)
def _clip_json() -> str:
    """CLIP's byte pairs as a tokenizers file, from the vocabulary that open_clip ships; open_clip itself is not imported.

    Ids equal open_clip's but for rare marks and lately added letters (U+0345, U+12550), which its regular-expression engine and
    this one class differently.
    """
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("CLIP's vocabulary comes with the package open_clip_torch, which is not installed")
    path = Path(next(iter(spec.submodule_search_locations)), "bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = [(left, right) for left, right in (line.split() for line in lines[1 : CLIP_MERGES + 1])]
    letters = _byte_letters()
    pieces = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges)]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, "<start_of_text>", "<end_of_text>"])}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="</w>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(CLIP_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    inner.add_special_tokens(["<start_of_text>", "<end_of_text>"])
    inner.post_processor = _marks(inner, "<start_of_text>", "<end_of_text>")
    text: str = inner.to_str()
    return text


@lru_cache(maxsize=1)
def _clip() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(_clip_json())


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte, in the order of the vocabulary: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
