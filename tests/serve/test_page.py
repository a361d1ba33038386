"""The page is one file that runs nothing but its own and asks nobody else."""

from __future__ import annotations

import base64
import hashlib
import re

import httpx

from diptych.serve import create_app
from diptych.serve.page import page

from .conftest import Running, Stub, listening


def test_the_page_is_self_contained_and_its_policy_allows_its_own_parts_only(service: Running) -> None:
    answer = service.http.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    text = answer.text
    assert "{{" not in text
    outside = re.findall(r"https?://[^\s'\"<)]+", text)
    assert set(outside) == {"http://www.w3.org/2000/svg"}  # the name of SVG, which nobody fetches
    assert not re.search(r"(src|href|action)=[\"']?//", text)
    assert "innerHTML" not in text
    assert 'name="viewport"' in text
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    for tag in ("script", "style"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode() in policy
    markup = re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"\s(on[a-z]+|style)=", markup)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_nothing_of_the_service_stands_in_the_page() -> None:
    model = Stub()
    model.name = '"><script>alert(1)</script>'
    with listening(create_app(model, token="t0ps3cret")) as address:
        text = httpx.get(address).text
        assert "alert(1)" not in text
        assert "t0ps3cret" not in text
        assert page(token=True) == text
        assert page(token=False) != text
