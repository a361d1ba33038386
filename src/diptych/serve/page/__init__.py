"""The search page: markup, one style sheet and JavaScript modules, sent as they stand here; and the policy that lets a browser run
nothing else. There is no build step: edit a file, reload.
"""

from __future__ import annotations

import hashlib
import html
import json
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
PRIVATE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
START = "main.js"
"""The module that the page starts; it imports the others, which the browser loads in advance."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page with its headers. A browser caches it, and revalidates it each time."""

    content: bytes
    type: str

    @property
    def tag(self) -> str:
        """Its entity tag (RFC 9110): the hash of its content."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "ETag": self.tag, **PRIVATE}


def page(*, token: bool) -> PageFile:
    """The page `page.html`; only whether a token is needed is filled in, the rest it requests from the service."""
    modules = sorted(name for name in page_files() if name.endswith(".js") and name != START)
    preloads = "".join(f'<link rel="modulepreload" href="page/{name}">\n' for name in modules)
    text = _folder().joinpath("page.html").read_text(encoding="utf-8")
    text = text.replace("{{preloads}}\n", preloads).replace("{{facts}}", html.escape(json.dumps({"token": token})))
    return PageFile(text.encode(), TYPES[".html"])


def page_files() -> dict[str, PageFile]:
    """Style sheet and modules by name: all that `/page/NAME` gives out, so that no name can lead to another file."""
    files = {}
    for file in _folder().iterdir():
        _, dot, kind = file.name.rpartition(".")
        if dot + kind in (".css", ".js"):
            files[file.name] = PageFile(file.read_bytes(), TYPES[dot + kind])
    return files


def _folder() -> Traversable:
    return resources.files("diptych.serve.page")
