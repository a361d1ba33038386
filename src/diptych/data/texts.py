"""Texts of a pool: strings with their languages and origins, several per sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.errors import DataError
from diptych.core.sample import ORIGINS, Origin, Text
from diptych.data.ragged import Ragged, one_chunk

Ints = npt.NDArray[np.int64]


class Texts:
    """Texts of every row. `of(row)` runs for every batch, so languages and origins are stored as small integers."""

    __slots__ = ("_languages", "_languages_R", "_origins_R", "_strings", "ragged")

    def __init__(self, ragged: Ragged) -> None:
        """`ragged.table` has the columns string, language and origin, without gaps in `string`."""
        self.ragged = ragged
        table = ragged.table
        self._strings = one_chunk(table["string"])
        if self._strings.null_count:
            raise DataError(f"{self._strings.null_count} texts are null", field="string", expected="a string in every row")
        languages = one_chunk(table["language"]).fill_null("").dictionary_encode()
        self._languages: tuple[str, ...] = tuple(languages.dictionary.to_pylist())
        self._languages_R = languages.indices.to_numpy(zero_copy_only=False)
        origins = one_chunk(table["origin"])
        code = pc.index_in(origins, value_set=pa.array(ORIGINS, origins.type))
        if code.null_count:
            wrong = origins.filter(pc.is_null(code))[0].as_py()
            raise DataError(f"unknown origin {wrong!r}", field="origin", expected=" | ".join(ORIGINS))
        self._origins_R = code.to_numpy(zero_copy_only=False).astype(np.uint8)

    @classmethod
    def coded(
        cls,
        start_N1: Any,
        strings: pa.Array,
        languages: tuple[str, ...],
        languages_R: npt.NDArray[Any],
        origins_R: npt.NDArray[Any],
    ) -> Texts:
        """Texts whose languages and origins are numbers already, such as those of a memory-mapped file. Nothing is copied."""
        made = cls.__new__(cls)
        made._strings, made._languages, made._languages_R, made._origins_R = strings, languages, languages_R, origins_R
        words = [pa.array(languages or ("",), pa.string()), pa.array(ORIGINS, pa.string())]
        codes = [
            pa.DictionaryArray.from_arrays(pa.array(number_R), names, safe=False)
            for number_R, names in zip((languages_R, origins_R), words, strict=True)
        ]
        made.ragged = Ragged(start_N1, pa.table([strings, *codes], ["string", "language", "origin"]))
        return made

    @classmethod
    def from_lists(cls, texts: Iterable[Sequence[Text]]) -> Texts:
        start, strings, languages, origins = [0], [], [], []
        for row in texts:
            for text in row:
                strings.append(text.string)
                languages.append(text.language)
                origins.append(text.origin)
            start.append(len(strings))
        try:
            utf8 = pa.array(strings, pa.large_string())
        except UnicodeEncodeError as error:
            raise DataError(f"text {error.object!r} holds half a surrogate pair", field="texts", expected="characters") from error
        arrays = [utf8, pa.array(languages, pa.string()), pa.array(origins, pa.string())]
        return cls(Ragged(np.array(start, np.int64), pa.table(arrays, ["string", "language", "origin"])))

    @classmethod
    def by_uid(cls, table: pa.Table, uids: pa.Array) -> Texts:
        return cls(Ragged.by_uid(text_table(table), uids))

    def of(self, row: int) -> tuple[Text, ...]:
        return tuple(Text(*fields) for fields in self.fields_of(row))

    def fields_of(self, row: int) -> list[tuple[str, str, Origin]]:
        """String, language and origin of each text of a row; several times as fast as the texts themselves."""
        start, stop = self.ragged.start_N1[row : row + 2].tolist()
        languages = [self._languages[code] for code in self._languages_R[start:stop].tolist()]
        origins = [ORIGINS[code] for code in self._origins_R[start:stop].tolist()]
        return list(zip(self._strings[start:stop].to_pylist(), languages, origins, strict=True))

    def counts(self) -> Ints:
        return np.diff(self.ragged.start_N1)


def text_table(table: pa.Table) -> pa.Table:
    """A uid-keyed table of texts with every column there: language "" and origin "caption" unless given."""
    filled = {"language": "", "origin": "caption"}
    columns = {"uid": table["uid"].cast(pa.string()), "string": table["string"].cast(pa.large_string())}
    for name, default in filled.items():
        if name in table.column_names:
            columns[name] = table[name].cast(pa.string()).fill_null(default)
        else:
            columns[name] = pa.array([default] * len(table), pa.string())
    return pa.table(columns)
