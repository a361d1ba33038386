"""Import closures, as `constants.py` asks for them: it also runs beside the sources of earlier commits, which have them here."""

from diptych.core.sources.closure import SOURCES, closure, closure_hash, module_file

__all__ = ["SOURCES", "closure", "closure_hash", "module_file"]
