"""The search page: one file without outside parts, and the policy that lets a browser run nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib import resources

HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin"}


def page(*, token: bool) -> str:
    """`page.html`. What the service has, the page asks it; only whether a token is needed stands in the page."""
    source = (resources.files("diptych.serve") / "page.html").read_text(encoding="utf-8")
    return source.replace("{{facts}}", html.escape(json.dumps({"token": token})))


def policy(source: str) -> str:
    """A Content-Security-Policy that names the page's own script and style by hash."""
    names = {
        tag: " ".join(f"'sha256-{_hash(text)}'" for text in re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL))
        for tag in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {names['script']}; style-src {names['style']}; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
