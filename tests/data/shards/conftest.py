"""Fixtures of the tests of built folders."""

from tests.helpers.killed import kill

__all__ = ["kill"]
