"""Pool in, pool out: every step says which rows it dropped and why, and gives the same answer in any order of rows."""

from __future__ import annotations

from diptych.curate.registry import find

__all__ = ["find"]
