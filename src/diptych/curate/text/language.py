"""Language identification of texts, with a confidence; offline. A worker of `engine.mapped`.

The model ships inside the package py3langid (97 languages, some 5 MB): naive Bayes over byte sequences. Short texts are hard for any
model: below a confidence of `floor` the answer is "", undetermined, as LAION-5B's third set (1.27 of 5.85 billion) was.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import pyarrow as pa

from diptych.core.errors import MissingExtra


@dataclass(frozen=True)
class LanguageIdentifier:
    """Language identifier: texts in; language code ("" undetermined) and confidence out."""

    kind: ClassVar[pa.DataType] = pa.struct([("language", pa.string()), ("confidence", pa.float32())])

    floor: float = 0.5

    def __call__(self, *columns: pa.Array) -> pa.Array:
        model = _model()
        rows = []
        for text in columns[0].to_pylist():
            language, confidence = model.classify(text) if text.strip() else ("", 0.0)
            sure = confidence >= self.floor
            rows.append({"language": language if sure else "", "confidence": float(confidence)})
        return pa.array(rows, self.kind)


def read_languages(texts: list[str], *, floor: float = 0.5) -> list[str]:
    """The language code of each text, "" if it is undetermined.

    >>> read_languages(["the quick brown fox jumps over the lazy dog and runs away"])
    ['en']
    """
    return [tag["language"] for tag in LanguageIdentifier(floor)(pa.array(texts, pa.string())).to_pylist()]


@lru_cache(maxsize=1)
def _model() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingExtra("py3langid", "curate", needed_for="telling languages apart") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
