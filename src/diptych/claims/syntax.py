"""Normalised syntax, as `constants.py` asks for it: it also runs beside the sources of earlier commits, which have it here."""

from diptych.core.sources.syntax import ENTRY, FILE, strip_syntax, without_docstrings

__all__ = ["ENTRY", "FILE", "strip_syntax", "without_docstrings"]
