"""A server that can be told to behave badly."""

from ...text_server import server

__all__ = ["server"]
